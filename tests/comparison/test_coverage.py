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


def test_eight_seconds_are_what_everybody_was_asked(comparison, records):
    for row in comparison.rows:
        assert coverage.length_record(row.system, 8, records)["id"] == row.system.world.probes
    assert coverage.length_record(row_of(comparison, "ma_lmm").system, 32, records) is not None


def test_gaps_are_those_of_the_tables(comparison):
    gaps = coverage.missing(comparison)
    both = coverage.abilities_table(comparison) + coverage.lengths_table(comparison)
    assert len(gaps) == both.count(NO_RECORD)
