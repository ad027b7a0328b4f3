"""Timings: everything is really done, what is warm-up does not count, ways of answering agree."""

import pytest

from vlmcourse.evaluation import timings
from vlmcourse.evaluation.timings import Answering, Sizes
from vlmcourse.record_form import validate_metric
from vlmcourse.records import Run, read_record
from vlmcourse.trained import load_trained_system
from vlmcourse.training.settings import stage_files
from vlmcourse.world.dataset import load_split

EXPECTED = {
    "clips_rendered_per_s/1_worker",
    "frames_decoded_per_s/decord",
    "frames_decoded_per_s/pyav",
    "clips_cached_per_s",
    "training_steps_per_s",
    "training_questions_per_s",
    "answers_per_s/recomputed",
    "answers_per_s/cached",
    "answers_per_s/together",
    "speed_up/cached",
    "speed_up/together",
    "answers_agree",
}


@pytest.fixture(scope="module")
def model(runs, foundations):
    return load_trained_system("video_chatgpt", runs[0], foundations=foundations).model


def test_one_record_of_everything(model, foundations, tmp_path, monkeypatch):
    monkeypatch.setattr(timings, "cores", lambda: 1)  # worker processes take seconds to start
    sizes = Sizes(clips=3, repeats=2, steps=2, asked_clips=2, questions=2)
    path, config = tmp_path / "timings.json", stage_files("video_chatgpt", "world")[-1]
    with Run(path, "vlmcourse timings", {}) as run:
        run.metrics, run.data_checksum = timings.measure(
            model,
            "video_chatgpt",
            config,
            sizes,
            "cpu",
            lambda text: None,
            model__weights=str(foundations),
        )
    made = read_record(path)["metrics"]
    assert set(made) >= EXPECTED
    for name, value in made.items():
        validate_metric(name, value, pytest.fail)
        assert value["mean"] > 0
    assert made["clips_rendered_per_s/1_worker"]["n"] == 2
    assert made["training_steps_per_s"]["n"] == 2
    assert made["answers_agree"]["mean"] == 1.0
    questions_a_step = (
        made["training_questions_per_s"]["mean"] / made["training_steps_per_s"]["mean"]
    )
    assert questions_a_step > 20, "several questions of a clip share a row"
    lines = timings.timings_table(read_record(path)).splitlines()
    assert len(lines) == 2 + len(made)


def test_the_first_call_does_not_count(monkeypatch):
    clock, waits = [0.0], iter([5.0, 1.0, 2.0])
    monkeypatch.setattr(timings.time, "perf_counter", lambda: clock[0])

    def work():
        clock[0] += next(waits)

    assert timings._timed(work, 2) == [1.0, 2.0]


def test_speed_ups_are_paired_by_clip():
    found = Answering([4.0, 9.0], [2.0, 3.0], [1.0, 1.0], [4, 9], [1.0, 0.5])
    made = timings.answering_metrics(found)
    assert made["speed_up/cached"]["mean"] == pytest.approx(2.5)
    assert made["speed_up/together"]["mean"] == pytest.approx(6.5)
    assert made["answers_per_s/recomputed"]["mean"] == pytest.approx(1.0)
    assert made["answers_per_s/cached"]["mean"] == pytest.approx(2.5)
    assert made["answers_agree"]["mean"] == 0.75


def test_features_are_computed_once_unless_asked_again(model, world):
    split, watched = load_split(world / "test"), []
    watch = model.watch
    try:
        model.watch = lambda video: watched.append(video) or watch(video)
        questions = [[q.text for q in asked[:3]] for asked in split.questions[:2]]
        timings.answering(model, split.clips[:2], questions)
    finally:
        del model.watch
    warm_up = [split.clips[0]] * 5
    assert sorted(watched) == sorted([*warm_up, *split.clips[:1] * 5, *split.clips[1:2] * 5])
