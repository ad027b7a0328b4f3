"""Answers on disk: every bit comes back, statistics need nothing else, files are small."""

import json

import numpy as np
import pytest

from vlmcourse.evaluation.answer_bits import (
    AnswerFile,
    AnswersError,
    load_answers,
    question_set,
    same_questions,
    save_answers,
    stacked,
)
from vlmcourse.evaluation.scoring import groups, hallucination_groups, second_groups
from vlmcourse.world.language import KIND_FAMILY, Question

KINDS = ("colour", "where", "exists", "when", "first", "heard")


def asked_of(clips, rng):
    """Some questions about every clip: kinds in the order of the world, answers yes and no."""
    return [
        [
            Question(f"{kind} {clip} ?", ("yes", "no")[rng.integers(2)], kind, KIND_FAMILY[kind])
            for kind in KINDS
            if rng.random() < 0.8 or kind == "where"
        ]
        for clip in range(clips)
    ]


@pytest.fixture
def asked():
    return asked_of(30, np.random.default_rng(3))


def made(asked, runs=2, seed=0, tries=3):
    """An AnswerFile as `evaluate` makes it."""
    rng = np.random.default_rng(seed)
    questions = [q for some in asked for q in some]
    count = len(questions)
    shapes = {"shape/wide": rng.random(count) < 0.3}
    seconds = np.where([q.kind == "when" for q in questions], rng.integers(0, 8, count), -1)
    right = {
        "system": (rng.random((runs, count)) < 0.6) * 1.0,
        "best_constant": (rng.random((1, count)) < 0.3) * 1.0,
        "shuffled": rng.integers(0, tries + 1, (runs, count)) / tries,
    }
    turned = np.any([*hallucination_groups(questions).values()], axis=0)
    opposite = {name: np.rint(1 - said) * turned for name, said in right.items()}
    opposite["shuffled"] = rng.integers(0, tries + 1, (runs, count)) / tries * turned
    about = question_set([f"clip{i}" for i in range(len(asked))], asked, shapes, seconds)
    told = {"system": "video_chatgpt", "options": {"tokens": 8}, "asked": "not kept"}
    return AnswerFile(about, right, opposite, tuple(range(runs)), "abc", told)


def test_every_answer_comes_back(asked, tmp_path):
    before = made(asked)
    after = load_answers(save_answers(tmp_path / "a.json", before, tries=3))
    for table in ("right", "opposite"):
        old, new = getattr(before, table), getattr(after, table)
        assert list(old) == list(new)
        for name in old:
            np.testing.assert_allclose(new[name], old[name], atol=1e-12)
    assert (after.seeds, after.data_checksum) == ((0, 1), "abc")
    assert after.settings == {"system": "video_chatgpt", "options": {"tokens": 8}}
    assert after.questions.checksum == before.questions.checksum


def test_groups_of_questions_need_nothing_but_the_file(asked, tmp_path):
    """The same sets as from the questions themselves, which the file does not hold."""
    before = made(asked)
    after = load_answers(save_answers(tmp_path / "a.json", before, tries=3)).questions
    questions = [q for some in asked for q in some]
    wanted = groups(questions) | hallucination_groups(questions)
    wanted |= second_groups(questions, before.questions.seconds)
    wanted["shape/wide"] = before.questions.extra["shape/wide"]
    assert {name for name, some in after.sets.items() if some.any()} == {
        name for name, some in wanted.items() if some.any()
    }
    for name, chosen in wanted.items():
        np.testing.assert_array_equal(after.sets[name], chosen, err_msg=name)
    np.testing.assert_array_equal(
        after.clip_of, np.repeat(np.arange(30), [len(some) for some in asked])
    )


def test_false_answers_are_told_by_the_opposite(asked, tmp_path):
    file = load_answers(save_answers(tmp_path / "a.json", made(asked), tries=3))
    said, chosen = file.values("hallucination/false_yes")
    assert set(file.questions.kind[chosen]) == {"exists"}
    np.testing.assert_array_equal(said, file.opposite["system"])
    np.testing.assert_array_equal(file.values("order")[0], file.right["system"])


def test_a_run_on_the_world_test_split_stays_below_ten_kilobytes(tmp_path):
    """320 clips, 6100 questions, the system and what most sweeps hold it against."""
    rng = np.random.default_rng(0)
    kinds = list(KIND_FAMILY)
    asked = [
        [Question("", "", kind, KIND_FAMILY[kind]) for kind in kinds if rng.random() < 0.74]
        for _ in range(320)
    ]
    about = question_set([str(i) for i in range(320)], asked)
    count, levels = len(about.kind), dict(zip(kinds, rng.beta(1, 1, len(kinds))))
    level = np.array([levels[kind] for kind in about.kind])
    names = ("system", "no_video", "one_frame", "best_constant", "blind")
    right = {name: (rng.random((1, count)) < level) * 1.0 for name in names}
    right["shuffled"] = rng.binomial(3, level, (1, count)) / 3
    assert count > 6000
    path = save_answers(tmp_path / "a.json", AnswerFile(about, right, {}, (0,)), tries=3)
    assert path.stat().st_size < 10_000


def test_other_questions_are_not_paired(asked, tmp_path):
    a = load_answers(save_answers(tmp_path / "a.json", made(asked), tries=3))
    asked[4][0] = Question(asked[4][0].text, "another", asked[4][0].kind, asked[4][0].family)
    b = load_answers(save_answers(tmp_path / "b.json", made(asked), tries=3))
    with pytest.raises(AnswersError, match=r"b\.json: other questions .* than .*a\.json"):
        same_questions([a, b])
    assert same_questions([a, a]) is a.questions


def test_files_of_single_runs_become_one(asked):
    files = [made(asked, runs=1, seed=seed) for seed in range(3)]
    files = [AnswerFile(x.questions, x.right, x.opposite, (s,)) for s, x in enumerate(files)]
    whole = stacked(files)
    assert whole.seeds == (0, 1, 2)
    assert {len(rows) for rows in whole.right.values()} == {3}
    np.testing.assert_array_equal(whole.right["system"][2], files[2].right["system"][0])
    two = made(asked, runs=2)
    assert len(stacked([two]).right["best_constant"]) == 2, "one row for each run"
    with pytest.raises(AnswersError, match="a seed stands there twice"):
        stacked([files[0], files[0]])


def test_what_is_not_there_is_named(asked, tmp_path):
    file = load_answers(save_answers(tmp_path / "a.json", made(asked), tries=3))
    with pytest.raises(AnswersError, match=r"a\.json: condition 'blind' was not asked; asked: sys"):
        file.values("all", "blind")
    with pytest.raises(AnswersError, match="no questions of group 'recall'; asked: all"):
        file.values("recall")


def test_shares_that_are_no_counts_are_refused(asked, tmp_path):
    with pytest.raises(AnswersError, match="'shuffled': shares that are no counts of 2 tries"):
        save_answers(tmp_path / "a.json", made(asked, tries=3), tries=2)
    assert not (tmp_path / "a.json").exists()


def change(path, *keys, value):
    content = json.loads(path.read_text())
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("keys", "value", "complaint"),
    [
        (("form",), 2, "no file of answers of form 1"),
        (("questions", "count"), 7, "damaged answers"),
        (("questions", "kind_of_each"), "???", "damaged answers"),
        (("right", "system", "runs"), ["eJwDAAAAAAE="], "damaged answers"),
        (("right",), None, "damaged answers"),
    ],
)
def test_damage_is_one_clear_error(asked, tmp_path, keys, value, complaint):
    path = save_answers(tmp_path / "a.json", made(asked), tries=3)
    change(path, *keys, value=value)
    with pytest.raises(AnswersError, match=rf"a\.json: {complaint}"):
        load_answers(path)


def test_half_a_file_and_none_are_errors_too(asked, tmp_path):
    path = save_answers(tmp_path / "a.json", made(asked), tries=3)
    path.write_text(path.read_text()[:200])
    with pytest.raises(AnswersError, match=r"a\.json: cannot be read as answers"):
        load_answers(path)
    with pytest.raises(AnswersError, match=r"b\.json: no such file of answers"):
        load_answers(tmp_path / "b.json")
