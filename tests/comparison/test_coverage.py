"""What every system was asked, and what none of them was."""

import dataclasses

from vlmcourse.comparison import coverage
from vlmcourse.comparison.coverage import ASKED, FROZEN, NO_RECORD, found


def row_of(comparison, key):
    return next(row for row in comparison.rows if row.system.key == key)


def asked(metric, record=""):
    return next(one for one in ASKED if (one.metric, one.record) == (metric, record))


def test_frozen_language_models_lose_nothing_and_trained_ones_are_measured(comparison):
    kept = asked("retention/events/all")
    for key in ("video_llama", "video_chatgpt", "ma_lmm"):
        assert found(row_of(comparison, key), kept) == FROZEN
    for key in ("minigpt4_video", "cogvlm2_video", "qwen2_vl", "chat_univi"):
        assert found(row_of(comparison, key), kept)["high"] <= 0.01


def test_deaf_systems_are_asked_about_sound_too(comparison):
    for row in comparison.rows:
        share = found(row, asked("sound"))["mean"]
        assert (share > 0.8) == (row.system.key == "video_llama")


def test_a_record_that_is_missing_or_failed_is_said(comparison, records):
    row, detail = row_of(comparison, "chat_univi"), asked("detail", "{key}-pictures")
    assert found(row, detail)["mean"] > 0
    name = "chat_univi-pictures"
    lost = {key: one for key, one in records.items() if key != name}
    assert found(dataclasses.replace(row, records=lost), detail) == NO_RECORD
    failed = {**records, name: {**records[name], "status": "failed"}}
    assert found(dataclasses.replace(row, records=failed), detail) == NO_RECORD


def test_tables_have_a_cell_for_every_system(comparison):
    for table in (coverage.abilities_table(comparison), coverage.lengths_table(comparison)):
        lines = table.splitlines()
        assert {line.count("|") for line in lines} == {len(comparison.rows) + 2}
    claims = coverage.abilities_table(comparison)
    assert claims.count("✓ claimed") == sum(len(row.system.abilities) for row in comparison.rows)
    assert "−43.5 points" in claims


def test_lengths_come_from_the_sweep_first_then_from_elsewhere(comparison, records):
    system = row_of(comparison, "qwen2_vl").system
    alone = {key: one for key, one in records.items() if key != coverage.LENGTH_SWEEP}
    here = coverage.length_shares(system, 8, alone)["order"]
    assert here == records["qwen2_vl-mrope-8"]["metrics"]["system/order"]
    without = {key: one for key, one in alone.items() if key != "qwen2_vl-mrope-8"}
    assert coverage.length_shares(system, 8, without)["order"]["mean"] == here["mean"], "its probes"
    assert coverage.length_shares(system, 512, without) is None
    told = {"n": 60, "mean": 0.25, "low": 0.2, "high": 0.3, "unit": "share"}
    metrics = {"system_qwen2_vl-seconds_512/action": told}
    swept = coverage.length_shares(system, 512, {**alone, "length": {"metrics": metrics}})
    assert swept == {"appearance": None, "action": told, "order": None}
    row = dataclasses.replace(
        row_of(comparison, "qwen2_vl"), records={**alone, "length": {"metrics": metrics}}
    )
    assert coverage._length(row, 512) == "— / 25 / — (60)"


def test_gaps_are_those_of_the_tables(comparison):
    gaps = coverage.missing(comparison)
    both = coverage.abilities_table(comparison) + coverage.lengths_table(comparison)
    assert len(gaps) == both.count(NO_RECORD)
