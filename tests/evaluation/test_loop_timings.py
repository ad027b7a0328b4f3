"""Ours beside plain loops: the same numbers, honest ratios, a record."""

import pytest
import torch

from vlmcourse import cli
from vlmcourse.errors import UserError
from vlmcourse.evaluation import loop_timings as timings
from vlmcourse.evaluation import plain_memory as plain
from vlmcourse.evaluation.loop_timings import Work
from vlmcourse.parts.memory_bank import RULES
from vlmcourse.parts.qformer import QFormerConfig
from vlmcourse.records import read_record

MICRO = plain.BankSizes(3, 5, 2, 3, 6, 4, QFormerConfig(8, 2, 2, 8, 6, 2, 2, vocab_size=9))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(plain.SIZES, "tiny", MICRO)


def test_every_work_is_the_same_in_both_ways():
    works = plain.works("tiny", "cpu")
    assert list(works) == [
        *("visual_bank", "query_bank", "visual_bank_one_by_one", "qformer_one_by_one")
    ]
    for work in works.values():
        for ours, loops in zip(work.ours(), work.loops(), strict=True):
            torch.testing.assert_close(ours, loops, atol=1e-5, rtol=1e-5)
    assert works["visual_bank"].ours()[0].shape == (3, 2, 3, 6)
    assert works["query_bank"].ours()[0].shape == (3, 2, 2 + 4, 8)


@pytest.mark.parametrize("rule", RULES[:3])
def test_loops_count_every_frame_or_the_last_ones(rule):
    bank = plain.loop_bank(torch.randn(2, 5, 3, 4), 2, rule)
    assert bank.entries.shape == (2, 2, 3, 4)
    assert bank.sizes.sum(1).eq(2 if rule == "fifo" else 5).all()


def test_both_modules_are_there_with_an_aim_for_what_they_time():
    for what in timings.MODULES:
        module = timings.import_module(timings.MODULES[what])
        assert {"tiny", "paper"} <= module.SIZES.keys()
        assert all(aim > 1 for aim in module.AIM.values())
    assert plain.AIM.keys() <= plain.works("tiny", "cpu").keys()


def test_a_record_is_written_and_shown(tmp_path, capsys):
    path = tmp_path / "record.json"
    words = ["timings", "--what", "memory_bank", "--quick", "--device", "cpu"]
    assert cli.main([*words, "--record", str(path)]) == 0
    record = read_record(path)
    assert record["metrics"]["visual_bank/agreement"]["mean"] == 1
    assert record["metrics"]["query_bank/speed_up"]["unit"] == "x"
    assert record["settings"]["aim"] == plain.AIM
    shown = capsys.readouterr()
    assert "| visual bank |" in shown.out + shown.err
    assert "aim 2x" in record["note"]
    with pytest.raises(UserError, match="--size of memory_bank is one of tiny, paper, not 'huge'"):
        timings.measure("memory_bank", "huge", "cpu", 2, 1, str)


def metrics(low, agreement=1.0):
    ratio = {"n": 3, "mean": 3.0, "low": low, "high": 4.0, "unit": "x"}
    same = {"n": 9, "mean": agreement, "low": None, "high": None, "unit": "share"}
    return {"bank/agreement": same, "bank/speed_up": ratio}


def test_a_missed_aim_and_other_numbers_are_negative_results():
    assert timings.judged(metrics(2.5), {"bank": 2.0}) == ("ok", "bank 3x, aim 2x.")
    status, note = timings.judged(metrics(1.5), {"bank": 2.0})
    assert status == "negative"
    assert "Not reached: bank" in note
    status, note = timings.judged(metrics(2.5, 0.9), {"bank": 2.0})
    assert status == "negative"
    assert "do not agree in bank" in note


def test_agreement_is_a_share_of_all_numbers():
    one = torch.zeros(4)
    other = torch.tensor([0.0, 0.0, 0.0, 1.0])
    share = timings._agreement(Work(lambda: (one, one), lambda: (one, other)))
    assert (share["mean"], share["n"]) == (0.875, 8)
