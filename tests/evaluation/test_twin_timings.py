"""Ours beside transformers': the same tensors, the same answers, pairs in turns, honest numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vlmcourse import cli
from vlmcourse.errors import UserError
from vlmcourse.evaluation import qwen2_vl_twin as twin
from vlmcourse.evaluation import twin_timings as timings
from vlmcourse.records import read_record

MICRO = replace(
    twin.TINY,
    vision=replace(twin.TINY.vision, depth=2, width=32, heads=2, patch_size=4),
    language=replace(
        twin.TINY.language, vocab_size=64, hidden_size=64, intermediate_size=96, num_layers=2,
        num_heads=2, num_key_value_heads=1,
    ),
    pictures=((1, 4, 4), (1, 8, 4), (1, 4, 10), (1, 6, 6)),
    film=(2, 4, 6),
    words=6,
    new_tokens=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def pair():
    theirs = twin.build_theirs(MICRO, "cpu")
    for parameter in theirs.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0, 0.2)  # clear winners among the logits
    return twin.build_ours(MICRO, theirs), theirs


def test_nothing_is_copied(pair):
    ours, theirs = pair
    addresses = {tensor.data_ptr() for tensor in theirs.state_dict().values()}
    assert {parameter.data_ptr() for parameter in ours.parameters()} <= addresses
    table = ours.language_model.get_input_embeddings().weight
    assert ours.language_model.get_output_embeddings().weight is table


@pytest.mark.parametrize("name", list(timings.workloads(MICRO)))
def test_both_see_and_say_the_same(pair, name):
    ours, theirs = pair
    rows = twin.make_rows(MICRO, timings.workloads(MICRO)[name], "cpu")
    if len(rows.grids):
        found, wanted = twin.our_features(ours, rows), twin.their_features(theirs, rows)
        assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        wanted = theirs(**rows.theirs).logits
    there = rows.ours.attention
    assert_close(ours.logits(rows.ours)[there], wanted[there], atol=1e-3, rtol=1e-3)
    said = twin.our_tokens(ours, rows, 5)
    assert said.shape == (len(rows.ours.ids), 5)
    assert torch.equal(said, twin.their_tokens(theirs, rows, 5))


def test_rows_hold_all_media_in_order():
    rows = twin.make_rows(MICRO, [[(1, 4, 4), (2, 4, 6)], [], [(2, 4, 6)]], "cpu")
    assert rows.grids.tolist() == [[1, 4, 4], [2, 4, 6], [2, 4, 6]]
    assert rows.ours.pictures.rows.tolist() == [0, 0, 2]
    assert rows.ours.pictures.frame_mask.sum(1).tolist() == [4, 12, 12]
    assert (rows.theirs["input_ids"] == twin.VIDEO).sum(1).tolist() == [12, 0, 12]
    assert rows.ours.attention[:, -1].all()
    assert not rows.ours.attention[1, 0]
    assert len(rows.patches) == 16 + 48 + 48


def test_published_sizes_keep_both_rules_for_positions_equal():
    sizes = twin.twin_sizes("2B")
    assert sizes.vision.depth == 32
    assert sizes.language.hidden_size == 1536
    for one in (sizes, *twin.SIZES.values()):
        t, h, w = one.film
        assert t <= max(h, w) // one.vision.merge
        assert 2 * sum(one.section) == one.language.hidden_size // one.language.num_heads
    with pytest.raises(UserError, match=r"unknown size '3B'\. Known: tiny, small, 2B"):
        twin.twin_sizes("3B")


def test_works_take_turns_and_the_first_calls_do_not_count():
    clock, log = [0.0], []

    def work(name, seconds):
        def run():
            log.append(name)
            clock[0] += seconds if len(log) > 2 * timings.WARM_UP else 100

        return run

    seconds = timings.timed_pairs(work("a", 1), work("b", 3), 3, "cpu", lambda: clock[0])
    assert seconds.tolist() == [[1, 3]] * 3
    assert "".join(log[2 * timings.WARM_UP :]) == "abbaab"


def test_numbers_are_medians_of_pairs():
    seconds = np.array([[1.0, 2.0], [1.0, 3.0], [2.0, 3.0], [4.0, 4.0], [1.0, 50.0]])
    found = timings.pair_metrics(seconds)
    assert found["ours"] == {"n": 5, "mean": 1000, "low": 1000, "high": 2000, "unit": "ms"}
    assert found["transformers"]["mean"] == 3000
    assert found["speed_up"]["mean"] == 2.0
    assert found["speed_up"]["low"] == 1.0


def ratio(low, high):
    return {"n": 3, "mean": (low + high) / 2, "low": low, "high": high, "unit": "x"}


def test_slower_is_negative_and_named():
    fast, slow, same = ratio(1.1, 1.4), ratio(0.6, 0.9), ratio(0.9, 1.2)
    status, note = timings.judged({"a/tower/speed_up": fast, "b/answer/speed_up": same})
    assert status == "ok"
    assert note.startswith("Faster than transformers: a tower. Slower: nothing. No difference")
    status, note = timings.judged({"a/tower/speed_up": fast, "mixed/answer/speed_up": slow})
    assert status == "negative"
    assert "Slower: mixed answer." in note
    apart = {"a/tower/speed_up": fast, "a/answer/agreement": {"mean": 0.5}}
    assert timings.judged(apart) == (
        "negative",
        "Faster than transformers: a tower. Slower: nothing. No difference shown: nothing. They do "
        "not agree in a answer.",
    )
    assert timings.judged(apart, exact=False)[0] == "ok"


def test_one_command_one_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(twin.SIZES, "tiny", MICRO)
    path = tmp_path / "timings-qwen2_vl-tiny.json"
    command = ["timings", "--what", "qwen2_vl", "--device", "cpu", "--repeats", "3"]
    assert cli.main([*command, "--record", str(path)]) == 0
    record = read_record(path)
    assert record["settings"]["clock"] == "processor time"
    assert record["settings"]["workloads"]["film"] == [[[2, 4, 6]]]
    metrics = record["metrics"]
    for name in ("mixed/tower", "mixed/first_token", "mixed/answer", "text/answer"):
        assert metrics[f"{name}/agreement"]["mean"] == 1.0
        assert metrics[f"{name}/speed_up"]["n"] == 3
    assert "text/tower/ours" not in metrics
    assert "| mixed, tower |" in capsys.readouterr().out
    assert cli.main([*command[:-1], "1"]) == 2
    assert "--repeats must be at least 2" in capsys.readouterr().err
