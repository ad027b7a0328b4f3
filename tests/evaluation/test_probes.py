"""Probes: teacher forcing decides what generation says, and every control lacks what it should."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from vlmcourse.conversation import TEXT
from vlmcourse.errors import UserError
from vlmcourse.evaluation import probes
from vlmcourse.evaluation.conditions import TRAINED, chosen_conditions
from vlmcourse.evaluation.rows import rows_without_media
from vlmcourse.systems.batch import collate
from vlmcourse.systems.processor import Clip, Given
from vlmcourse.trained import load_trained_system
from vlmcourse.world.dataset import load_split
from vlmcourse.world.language import Question, event_list, storyboard


@pytest.fixture(scope="module")
def model(runs, foundations):
    return load_trained_system("video_chatgpt", runs[0], foundations=foundations).model


@pytest.fixture(scope="module")
def asked(world, model, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    split = load_split(world / "test")
    return probes.load_probes(split, model, "video_chatgpt", cache, progress=False)


def question(kind, answer):
    return Question(f"{kind} ?", answer, kind, "appearance")


def words(model, row):
    return model.processor.tokenizer.inner.decode(row.ids)


def heard(model, text):
    """A text as the tokenizer leaves it (it may drop words)."""
    tokenizer = model.processor.tokenizer
    return tokenizer.decode(tokenizer.encode(text)[0])


def test_teacher_forcing_says_what_generation_says(model, asked):
    """Every question of every clip: exact by teacher forcing if and only if generated so."""
    said = probes.generated_answers(model, asked)
    truly = [a == q.answer for x, y in zip(said, asked.asked) for a, q in zip(x, y, strict=True)]
    rows = probes.video_rows(model, asked, asked.clips)
    decided = probes.exact_answers(model, rows, asked.clips, asked.streams)
    assert decided.tolist() == truly
    assert 0.2 < np.mean(truly) < 0.9, "the sample holds both right and wrong answers"


def test_only_the_whole_answer_counts(model, asked):
    """What is said is right; its beginning alone, and more than it, are wrong."""
    said = probes.generated_answers(model, asked)
    clip, number = next((c, n) for c, x in enumerate(said) for n, a in enumerate(x) if " " in a)
    text, answer = asked.asked[clip][number].text, said[clip][number]
    tries = [answer, answer.split()[0], f"{answer} {answer.split()[0]}"]
    questions = [Question(text, truth, "first", "order") for truth in tries]
    clips, streams = [asked.clips[clip]], [asked.streams[clip]]
    one = probes.Probes(["x"], [asked.stories[clip]], [questions], clips, streams)
    decided = probes.exact_answers(model, probes.video_rows(model, one, clips), clips, streams)
    assert decided.tolist() == [True, False, False]


def test_rows_of_different_lengths_are_judged_by_their_own_questions(model, asked):
    rows = probes.video_rows(model, asked, asked.clips)
    together = probes.exact_answers(model, rows, asked.clips, asked.streams)
    one_by_one = [
        probes.exact_answers(model, [row], [clip], [features])
        for row, clip, features in zip(rows, asked.clips, asked.streams)
    ]
    assert together.tolist() == np.concatenate(one_by_one).tolist()
    assert len(together) == len(asked.questions) == len(asked.clip_of)


def test_blind_rows_hold_nothing_of_the_clip(model, asked):
    for row, questions in zip(rows_without_media(model, asked, "blind"), asked.asked):
        assert set(row.kinds) == {TEXT}
        first = questions[0]
        text = words(model, row)
        assert text.startswith("<s> USER: ")
        assert f"USER: {heard(model, first.text)} ASSISTANT: {first.answer} </s>" in text
        assert "<vid" not in text


def test_without_video_only_its_marks_are_left(model, asked):
    text = words(model, rows_without_media(model, asked, "no_video")[0])
    assert text.startswith("<s> <vid_start> <vid_end> USER: ")
    assert "<vid_patch>" not in text


@pytest.mark.parametrize(
    ("condition", "tell"),
    [("text_events", event_list), ("told_storyboard", storyboard), ("text_storyboard", storyboard)],
)
def test_told_rows_hold_the_truth_once(model, asked, condition, tell):
    row, story = rows_without_media(model, asked, condition)[0], asked.stories[0]
    told = heard(model, tell(story))
    assert words(model, row).startswith(f"<s> {told} USER: ")
    assert words(model, row).count(told) == 1
    assert max(row.segments) == len(asked.asked[0])


def test_text_rows_packed_or_not_give_the_same_loss(model, asked):
    few = probes.Probes(
        asked.ids[:1], asked.stories[:1], [asked.asked[0][:4]], asked.clips[:1], asked.streams[:1]
    )
    packed = rows_without_media(model, few, "text_events")
    apart = []
    for q in few.asked[0]:
        alone = probes.Probes(few.ids, few.stories, [[q]], few.clips, few.streams)
        apart += rows_without_media(model, alone, "text_events")
    with torch.no_grad():
        one = model(collate(packed, 0)).token_loss
        each = torch.cat([model(collate([row], 0)).token_loss for row in apart])
    assert_close(one, each, atol=1e-4, rtol=1e-4)


def test_what_the_controls_show(asked):
    true = [one["pictures"] for one in asked.streams]
    for shown, frames in zip(probes.shown(asked, "one_frame")[1], true):
        middle = frames[len(frames) // 2]
        assert all(torch.equal(frame, middle) for frame in shown["pictures"])
        assert shown["pictures"].shape == frames.shape
    for seed in range(5):
        for shown, frames in zip(probes.shown(asked, "shuffled", seed)[1], true):
            found = shown["pictures"]
            assert not torch.equal(found, frames)
            assert sorted(found.sum((1, 2)).tolist()) == sorted(frames.sum((1, 2)).tolist())
    clips, streams = probes.shown(asked, "other_clip")
    assert all(a is not b for a, b in zip(streams, asked.streams))
    assert all(a is not b for a, b in zip(clips, asked.clips))
    assert {id(one) for one in streams} == {id(one) for one in asked.streams}
    with pytest.raises(ValueError, match="shows no frames"):
        probes.shown(asked, "blind")


def test_features_of_pictures_may_stand_without_a_name(model, asked):
    """As a notebook makes them: tensors instead of streams by name."""
    bare = [one["pictures"] for one in asked.streams]
    again = probes.Probes(asked.ids, asked.stories, asked.asked, asked.clips, bare)
    assert all(a.keys() == b.keys() for a, b in zip(again.streams, asked.streams))
    rows = probes.video_rows(model, asked, asked.clips)
    named = probes.exact_answers(model, rows, asked.clips, asked.streams)
    assert probes.exact_answers(model, rows, asked.clips, bare).tolist() == named.tolist()


def test_a_stream_that_there_is_not_is_refused(world, model, tmp_path):
    split = load_split(world / "test")
    ask = (split, model, "video_chatgpt", tmp_path, 1, False, Given(None, "sounds"))
    with pytest.raises(UserError, match="no stream 'sounds' here; it has pictures"):
        probes.load_probes(*ask)


def test_orders_are_wrong_and_repeatable():
    orders = [probes.wrong_order(2, [seed, 0]).tolist() for seed in range(20)]
    assert orders == [[1, 0]] * 20
    assert probes.wrong_order(1, [0]).tolist() == [0]
    assert torch.equal(probes.wrong_order(8, [3, 4]), probes.wrong_order(8, [3, 4]))


def test_the_commonest_answer_is_fitted_on_one_set_and_judged_on_another():
    fitted = [question("a", x) for x in ("yes", "no", "no")] + [question("b", "2")]
    asked = [question("a", "no"), question("a", "yes"), question("b", "3"), question("c", "x")]
    assert probes.constant_answers(fitted, asked).tolist() == [True, False, False, False]
    ties = [question("a", "b"), question("a", "a")]
    assert probes.constant_answers(ties, ties).tolist() == [False, True], (
        "the first in the alphabet"
    )


def test_no_constant_answer_beats_the_best_constant(asked):
    from vlmcourse.world.language import blind_best

    right = probes.constant_answers(asked.questions, asked.questions)
    for kind, best in blind_best(asked.questions).items():
        chosen = np.array([q.kind == kind for q in asked.questions])
        assert right[chosen].mean() == pytest.approx(best)


def test_conditions_that_no_trained_weight_touches_are_asked_once(runs, foundations, asked):
    models = [
        load_trained_system("video_chatgpt", run, foundations=foundations).model for run in runs
    ]
    conditions = chosen_conditions(None, asked.given)
    found = probes.ask_all(models, asked, conditions, asked.questions, permutations=2).right
    assert {name: len(right) for name, right in found.items()} == {
        name: 3 if name in TRAINED else 1 for name in conditions
    }
    assert all(right.shape[1] == len(asked.questions) for right in found.values())
    assert set(np.unique(found["shuffled"])) <= {0.0, 0.5, 1.0}
    again = probes.Asker(asked).ask(models[2], "blind")
    assert again.tolist() == found["blind"][0].tolist(), "trained weights play no part in it"


def test_features_that_count_tokens_are_shuffled_by_pairs_of_frames():
    grid, tokens = torch.tensor([3, 4, 2]), torch.arange(6.0).view(6, 1, 1)
    clip = Clip(torch.arange(6.0), duration_s=3.0, grid=grid)
    one = probes.Probes(["a"], [None], [[]], [clip], [tokens])
    moved = probes.shown(one, "shuffled", seed=1)[1][0]["pictures"].flatten().tolist()
    pairs = [moved[:2], moved[2:4], moved[4:]]
    assert sorted(pairs) == [[0, 1], [2, 3], [4, 5]]
    assert pairs != sorted(pairs)
    still = probes.shown(one, "one_frame")[1][0]["pictures"].flatten().tolist()
    assert still == [2, 3] * 3


def test_long_rows_go_in_smaller_batches():
    cut = list(probes.batches([300] * 20))
    assert cut == [(0, 16), (16, 20)]
    assert list(probes.batches([300, 2048, 2048, 2048, 2048, 2048, 100])) == [(0, 4), (4, 7)]
    assert list(probes.batches([9000, 9000])) == [(0, 1), (1, 2)]
    assert list(probes.batches([])) == []
