"""The ways in agree: pyproject.toml, constraints.txt, environment.yml, Makefile, .ci/run."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
REFUSED = ("torchvision", "torchaudio")


def plain(name: str) -> str:
    """A package's name as indexes compare it: lower case, dashes."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, list[Requirement]]:
    """Every constraint line by package name (one name may have several lines, by marker)."""
    found: dict[str, list[Requirement]] = {}
    for line in text.splitlines():
        line = line.split("#")[0].strip()
        if line:
            requirement = Requirement(line)
            found.setdefault(plain(requirement.name), []).append(requirement)
    return found


def requirements() -> list[Requirement]:
    project = PYPROJECT["project"]
    return [
        Requirement(r) for r in project["dependencies"] + project["optional-dependencies"]["dev"]
    ]


def exact(requirement: Requirement) -> Version:
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_requirement_is_pinned_within_its_range(requirement):
    lines = pins(CONSTRAINTS).get(plain(requirement.name), [])
    assert lines, f"constraints.txt lacks {requirement.name}: run `make lock`"
    for line in lines:
        assert requirement.specifier.contains(exact(line)), f"{line} is outside {requirement}"


def test_constraints_are_exact_and_public():
    for name, lines in pins(CONSTRAINTS).items():
        for line in lines:
            if name in REFUSED:
                continue
            assert exact(line).local is None, f"{line}: a local build exists on no public index"
            assert line.url is None
    assert "://" not in CONSTRAINTS
    assert "find-links" not in CONSTRAINTS


def test_torchvision_and_torchaudio_are_refused():
    found = pins(CONSTRAINTS)
    for name in REFUSED:
        (line,) = found[name]
        assert str(line.specifier) == "<0"
    heading = CONSTRAINTS.index("# Refused:")
    assert all(CONSTRAINTS.index(f"{name}<0") > heading for name in REFUSED)
    assert {plain(r.name) for r in requirements()}.isdisjoint(REFUSED)


def test_decord_comes_once_on_every_platform():
    lines = [r for r in requirements() if r.name in ("decord", "decord2")]
    for system, machine, name in [
        ("linux", "x86_64", "decord"),
        ("win32", "AMD64", "decord"),
        ("linux", "aarch64", "decord2"),
        ("darwin", "arm64", "decord2"),
    ]:
        env = default_environment() | {"sys_platform": system, "platform_machine": machine}
        assert [r.name for r in lines if r.marker.evaluate(env)] == [name]


def test_environment_yml_is_thin_and_agrees():
    env = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = env["dependencies"]
    assert pip == {"pip": ["-c constraints.txt", "-e .[dev]"]}
    assert conda[1:] == ["pip", "ffmpeg"]
    name, version = conda[0].split("=")
    assert name == "python"
    lowest = PYPROJECT["project"]["requires-python"]
    assert lowest == f">={version}"
    assert f"--python-version {version}" in (ROOT / "Makefile").read_text()
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + version.replace(".", "")


def test_no_package_host_is_named_at_the_doors():
    for name in ("pyproject.toml", "environment.yml", "Makefile", ".ci/run", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text()
        assert not re.search(r"index-url|find-links|extra-index", text), name


def test_ci_runs_the_tests_and_is_executable():
    script = ROOT / ".ci" / "run"
    assert "make test" in script.read_text()
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_pre_commit_runs_the_projects_own_tools():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert [repo["repo"] for repo in config["repos"]] == ["local"], "no hook is fetched"
    entries = " ".join(hook["entry"] for hook in hooks)
    for tool in ("ruff check", "ruff format", "vlmcourse.notebooks normalise"):
        assert tool in entries
    assert {hook["language"] for hook in hooks} == {"system"}


def make(*words: str) -> str:
    """What make prints, free of the flags of a make that may be running the tests."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *words]
    done = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_make_knows_its_targets():
    targets = re.findall(r"^  make (\w+)", make("help"), re.MULTILINE)
    assert {"help", "course", "test", "lab", "lock", "clean"} <= set(targets)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "vlmcourse course"),
        (
            ["CHAPTERS=03 04", "DEVICE=cpu", "SCALE=0.5"],
            'vlmcourse course --chapters "03 04" --device "cpu" --scale "0.5"',
        ),
    ],
)
def test_make_course_passes_its_options(given, expected):
    assert make("-n", "course", *given).split("/")[-1].split() == expected.split()


def test_the_licence_is_apache_in_full():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PYPROJECT["project"]["license"] == "Apache-2.0"
