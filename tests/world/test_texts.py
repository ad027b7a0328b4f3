"""Language data: descriptions as the language model knows them, answers exact, nobody's clips."""

import json
import re
from collections import Counter, defaultdict

import pytest

from vlmcourse.errors import UserError
from vlmcourse.training.sources import Source
from vlmcourse.world import language, texts
from vlmcourse.world.dataset import load_split, verify_split
from vlmcourse.world.pictures import PictureSettings
from vlmcourse.world.splits import SPLITS, sample_stories, scene_split
from vlmcourse.world.story import is_held_out
from vlmcourse.world.texts import (
    TextSettings,
    load_texts,
    make_texts,
    sample_tellings,
    text_entries,
)
from vlmcourse.world.words import vocabulary

TELLINGS = {split: sample_tellings(split, 200) for split in SPLITS}
ENTRIES = {split: list(text_entries(split, told)) for split, told in TELLINGS.items()}


def by_description(split):
    """Return the entries of each description of a split, in order."""
    groups = defaultdict(list)
    for entry in ENTRIES[split]:
        groups[entry["id"].rsplit("_", 1)[0]].append(entry)
    return [groups[f"{split}_{index:05d}"] for index in range(len(TELLINGS[split]))]


# ---------------------------------------------------------------- which stories


def test_no_clip_and_no_other_split_has_such_a_seed():
    seeds = {split: {t.story.seed for t in told} for split, told in TELLINGS.items()}
    clips = {s.seed for split in SPLITS for s in sample_stories(split, 100)}
    clips |= {s.seed for split in SPLITS for s in PictureSettings().sample(split, 100)}
    assert len(set.union(clips, *seeds.values())) == len(clips) + 3 * 200
    for split, told in TELLINGS.items():
        assert all(scene_split(t.story) == split for t in told)


def test_held_out_combinations_are_in_every_test_story_and_nowhere_else():
    for split, told in TELLINGS.items():
        for story in (t.story for t in told):
            done = [(story.things[e.thing], e.action) for e in story.events]
            assert any(is_held_out(t.colour, t.shape, a) for t, a in done) == (split == "test")


def test_forms_lengths_and_clocks_are_mixed_as_the_language_model_met_them():
    told = sample_tellings("train", 1000)
    forms = Counter(t.form for t in told)
    assert set(forms) == {"events", "storyboard"}
    assert min(forms.values()) > 450
    assert 0.15 < sum(t.story.duration_s == 16 for t in told) / 1000 < 0.25
    assert {t.story.duration_s for t in told} == {8, 16}
    assert 0.25 < sum(t.offset_s > 0 for t in told) / 1000 < 0.35
    assert max(t.offset_s + t.story.duration_s for t in told) == 63
    for t in told:
        if t.form == "storyboard" and t.story.duration_s == 16:
            assert len(t.story.things) == 2


# ---------------------------------------------------------------- what is told and asked


def test_entries_have_the_form_of_language_data():
    for index, (entries, told) in enumerate(zip(by_description("val"), TELLINGS["val"])):
        starts = ("scene : ",) if told.form == "events" else (f"{told.offset_s} : ",)
        for number, entry in enumerate(entries):
            keys = ["id", "conversations", "family", "kind", "evidence"]
            assert list(entry) == keys
            assert entry["id"] == f"val_{index:05d}_{number:02d}"
            assert entry["evidence"] == "text"
            assert [t["from"] for t in entry["conversations"]] == ["system", "human", "gpt"]
            assert entry["conversations"][0]["value"] == told.text
            assert told.text.startswith(starts)
            assert language.KIND_FAMILY[entry["kind"]] == entry["family"]


def test_answers_follow_from_the_story_and_its_clock():
    late = 0
    for entries, told in zip(by_description("test"), TELLINGS["test"], strict=True):
        possible = {q.text: q.answer for q in language.all_questions(told.story, told.offset_s)}
        for entry in entries:
            _, asked, answered = (turn["value"] for turn in entry["conversations"])
            assert possible[asked] == answered
            if told.offset_s and (match := re.fullmatch(r"what happens at (\d+) \?", asked)):
                assert told.offset_s <= int(match[1]) < told.offset_s + told.story.duration_s
                late += 1
    assert late > 10


def test_times_in_an_event_list_are_the_answers():
    """Read from the description alone, as the language model has to."""
    read = 0
    for entries, told in zip(by_description("train"), TELLINGS["train"], strict=True):
        for entry in entries:
            text, asked, answered = (turn["value"] for turn in entry["conversations"])
            if told.form == "events" and entry["kind"] == "when":
                name, base = re.fullmatch(r"when does (\w+ \w+) (\w+) \?", asked).groups()
                action = {b: a for a, b in language.BASE_FORM.items()}[base]
                assert re.search(rf"at (\d+) {name} {action}\b", text)[1] == answered
                read += 1
    assert read > 20


def test_words_are_those_the_language_model_knows():
    known = set(vocabulary())
    for entries in ENTRIES.values():
        for entry in entries:
            assert set(" ".join(t["value"] for t in entry["conversations"]).split()) <= known


def test_about_twelve_questions_of_all_kinds_none_of_them_twice():
    for split in SPLITS:
        counts = [len(entries) for entries in by_description(split)]
        assert max(counts) == 12
        assert sum(counts) > 11.5 * len(counts)
        for entries in by_description(split):
            assert len({e["kind"] for e in entries}) == len(entries)
        kinds = Counter(entry["kind"] for entry in ENTRIES[split])
        assert set(language.KINDS) - {"recall"} <= set(kinds)


def test_best_blind_guess_stays_at_chance():
    told = sample_tellings("train", 1000)
    answers = defaultdict(Counter)
    for entry in text_entries("train", told):
        answers[entry["kind"]][entry["conversations"][2]["value"]] += 1
    for kind, counted in answers.items():
        if sum(counted.values()) < 50:
            continue  # recall is rare: only long stories whose first event is early
        share = max(counted.values()) / sum(counted.values())
        assert share <= 1.25 / len(counted) + 0.03, f"{kind}: best blind guess {share:.2f}"


# ---------------------------------------------------------------- what is on disk


def test_a_file_is_whole_repeatable_and_reused(tmp_path):
    made = make_texts(tmp_path / "a", "val", 30)
    assert made.entries == [e for e in ENTRIES["val"] if int(e["id"].split("_")[1]) < 30]
    assert verify_split(made.path.parent) == {}
    assert make_texts(tmp_path / "b", "val", 30).data_checksum == made.data_checksum
    before = made.path.stat().st_mtime_ns
    assert make_texts(tmp_path / "a", "val", 30).data_checksum == made.data_checksum
    assert made.path.stat().st_mtime_ns == before
    assert made.manifest["seeds"][0] == TELLINGS["val"][0].story.seed
    more = make_texts(tmp_path / "a", "val", 40)
    assert more.manifest["count"] == len({e["id"].rsplit("_", 1)[0] for e in more.entries}) == 40
    assert more.entries[: len(made.entries)] == made.entries
    with pytest.raises(UserError, match="count 40 -> 30"):
        make_texts(tmp_path / "a", "val", 30)


def test_other_settings_are_refused_by_name_and_remade_with_force(tmp_path):
    make_texts(tmp_path, "val", 5)
    few = TextSettings(questions=4, late_share=0.0)
    with pytest.raises(UserError, match=r"late_share 0\.3 -> 0\.0; questions 12 -> 4.*--force"):
        make_texts(tmp_path, "val", 5, few)
    made = make_texts(tmp_path, "val", 5, few, force=True)
    assert max(Counter(e["id"].rsplit("_", 1)[0] for e in made.entries).values()) == 4


def test_damage_is_named_and_mended(tmp_path):
    made = make_texts(tmp_path, "val", 5)
    made.path.write_text("[]")
    assert verify_split(made.path.parent) == {"texts.json": "changed"}
    with pytest.raises(UserError, match=r"texts\.json: missing or damaged"):
        load_texts(made.path.parent)
    assert make_texts(tmp_path, "val", 5).data_checksum == made.data_checksum


def test_a_run_that_is_killed_between_file_and_manifest_starts_over(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(texts, "write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            make_texts(tmp_path, "val", 5)
    with pytest.raises(UserError, match="no such file"):
        load_texts(tmp_path / "val")
    assert verify_split(make_texts(tmp_path, "val", 5).path.parent) == {}


def test_other_words_make_the_file_anew(tmp_path, monkeypatch):
    made = make_texts(tmp_path, "val", 5)
    monkeypatch.setitem(texts.FORMS, "events", lambda story, offset_s: "scene : .")
    monkeypatch.setitem(texts.FORMS, "storyboard", lambda story, offset_s: "scene : .")
    assert make_texts(tmp_path, "val", 5).data_checksum != made.data_checksum


def test_a_split_of_texts_is_no_split_of_clips(tmp_path):
    made = make_texts(tmp_path, "val", 2)
    with pytest.raises(UserError, match="holds no clips: text"):
        load_split(made.path.parent)


def test_training_reads_it_as_language_data(tmp_path):
    made = make_texts(tmp_path, "val", 5)
    source = Source(made.path, form="text")
    assert source.checksum() == made.data_checksum
    samples = source.samples()
    assert len(samples) == len(made.entries) == len(json.loads(made.path.read_text()))
    for sample, entry in zip(samples, made.entries, strict=True):
        assert sample.description == entry["conversations"][0]["value"]
        assert sample.plain_turns[1] == ("assistant", entry["conversations"][2]["value"])


@pytest.mark.parametrize(("split", "count"), [("dev", 5), ("train", 0)])
def test_wrong_wishes_are_named(tmp_path, split, count):
    with pytest.raises(UserError, match=r"dev|count"):
        make_texts(tmp_path, split, count)
    assert not list(tmp_path.rglob("*.json"))


def test_a_description_needs_questions():
    with pytest.raises(UserError, match="questions must be at least 1"):
        TextSettings(questions=0)
