"""Jobs for SLURM, as far as they can be looked at without one."""

import os

import pytest

from vlmcourse.errors import UserError
from vlmcourse.sweep.cluster import ClusterHands, Resources

SBATCH = (
    '#!/bin/sh\nfor word; do cp "$word" {kept} 2>/dev/null; done\necho Submitted batch job 12\n'
)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Programs by the names of SLURM's; gives the file in which the job that was handed in lies."""
    kept = tmp_path / "handed_in.sh"
    programs = {"sbatch": SBATCH.format(kept=kept), "srun": "", "sacct": "", "scancel": ""}
    for name, text in programs.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text or "#!/bin/sh\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return kept


def test_cells_that_begin_together_are_one_array(slurm, tmp_path):
    resources = Resources("short", 30, 5.5, 0, {"slurm_account": "vision"})
    hands = ClusterHands("slurm", tmp_path / "jobs", 2, resources)
    log = tmp_path / "cell.log"
    jobs = hands.start([(["true"], log), (["true"], log), (["true"], log)])
    assert [job.job.job_id for job in jobs] == ["12_0", "12_1", "12_2"]
    lines = slurm.read_text().splitlines()
    options = {x.removeprefix("#SBATCH --") for x in lines if x.startswith("#SBATCH --")}
    assert {
        *("partition=short", "array=0-2%2", "time=30", "cpus-per-task=1", "mem=6GB"),
        "account=vision",
    } <= options
    assert jobs[0].minutes() == 0, "it waits for a machine"
    log.write_text("begun")
    jobs[0].minutes()
    assert jobs[0].minutes() > 0


def test_without_slurm_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="--cluster slurm: "):
        ClusterHands("slurm", tmp_path / "jobs", None, Resources())


def test_an_option_that_slurm_does_not_know_is_one_line(slurm, tmp_path):
    with pytest.raises(UserError, match="acount"):
        ClusterHands("slurm", tmp_path / "jobs", None, Resources(more={"slurm_acount": "x"}))
