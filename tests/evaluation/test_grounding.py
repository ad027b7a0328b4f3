"""Temporal grounding: spans by hand, strict numbers, baselines that do not look, one command."""

import itertools

import numpy as np
import pytest

from vlmcourse import cli
from vlmcourse.evaluation import grounding
from vlmcourse.evaluation.grounding_command import ask_spans, judged, span_split
from vlmcourse.records import read_record
from vlmcourse.world.dataset import load_split
from vlmcourse.world.story import Event, Story, Thing, sample_story

NAN = float("nan")


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ((2, 4), (2, 4), 1.0),
        ((2, 4), (3, 5), 1 / 3),
        ((0, 1), (4, 6), 0.0),
        ((0, 2), (2, 4), 0.0),
        ((1, 2), (0, 4), 0.25),
        ((0, 8), (3, 4), 1 / 8),
        ((3, 3), (2, 4), 0.0),
        ((3, 3), (3, 3), 0.0),
        ((2, 4.5), (2.5, 4.5), 0.8),
        ((NAN, NAN), (2, 4), 0.0),
        ((2, NAN), (2, 4), 0.0),
    ],
)
def test_iou_by_hand(a, b, iou):
    assert grounding.temporal_iou(np.array(a), np.array(b)) == pytest.approx(iou)
    assert grounding.temporal_iou(np.array(b), np.array(a)) == pytest.approx(iou)


def test_iou_of_many_is_that_of_each():
    rng = np.random.default_rng(0)
    a, b = (np.sort(rng.uniform(0, 8, (40, 2)), -1) for _ in range(2))
    ticks = np.linspace(0, 8, 16001)
    inside = [(ticks[:, None] >= x[:, 0]) & (ticks[:, None] < x[:, 1]) for x in (a, b)]
    counted = (inside[0] & inside[1]).sum(0) / (inside[0] | inside[1]).sum(0)
    assert grounding.temporal_iou(a, b) == pytest.approx(counted, abs=5e-3)
    assert grounding.temporal_iou(a[:, None], b[None]).shape == (40, 40)


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), (" 12 ", 12), ("3.5", 3.5), ("3 . 5", 3.5), ("0", 0)],
)
def test_numbers(text, value):
    assert grounding.number(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "red circle", "3 s", "at 3", "3 4", "three", "-1", "3 .", ". 5", "1e3", "nan", "3  .  5"],
)
def test_what_is_no_number(text):
    assert np.isnan(grounding.number(text))


def test_a_span_needs_both_numbers():
    found = grounding.spans(["3", "yes", "2", "1"], ["2", "1", "", "0"])
    assert found[0].tolist() == [3, 5]
    assert np.isnan(found[1:3]).any(-1).all()
    measured = grounding.span_measures(found[None], np.array([[3, 5], [0, 1], [2, 3], [1, 2]]))
    assert measured["parsed"].tolist() == [[1, 0, 0, 1]]
    assert measured["recall_0.3"].tolist() == [[1, 0, 0, 0]]
    assert measured["mean_iou"].tolist() == [[1, 0, 0, 0]]
    assert measured["when_right"].tolist() == [[1, 0, 1, 1]]
    assert measured["how_long_right"].tolist() == [[1, 0, 0, 0]]


def test_recall_counts_a_threshold_that_is_just_reached():
    iou = grounding.temporal_iou(np.array([[0, 1.0]]), np.array([[0, 2.0]]))
    found = grounding.measures(iou)
    assert {name: one.tolist() for name, one in found.items()} == {
        "recall_0.3": [1], "recall_0.5": [1], "recall_0.7": [0], "mean_iou": [0.5]
    }  # fmt: skip


def test_every_event_is_asked_for_but_slides():
    things = (Thing("red", "circle", "big", 0, 0), Thing("blue", "star", "small", 2, 2))
    events = (
        Event(0, 2, 0, "glows"),
        Event(3, 1, 1, "slides", "left"),
        Event(5, 3, 0, "tilts"),
    )
    story = Story(0, 8, things, events)
    assert grounding.true_spans([story]).tolist() == [[0, 2], [5, 8]]
    texts = [[q.text for q in pair] for pair in grounding.asked_spans(story)]
    assert texts[1] == ["when does red circle tilt ?", "how long does red circle tilt ?"]
    stories = [sample_story(seed) for seed in range(60)]
    wanted = [(e.start_s, e.end_s) for s in stories for e in s.events if e.action != "slides"]
    assert sorted(map(tuple, grounding.true_spans(stories))) == sorted(wanted)


def test_the_best_constant_is_the_best_of_all():
    rng = np.random.default_rng(3)
    start = rng.integers(0, 6, 50)
    fitted = np.stack([start, start + rng.integers(1, 3, 50)], -1).astype(float)
    best = grounding.best_constants(fitted)
    reached = {n: m.mean() for n, m in grounding.constant_measures(best, fitted).items()}
    for span in itertools.combinations(range(9), 2):
        found = grounding.measures(grounding.temporal_iou(np.array(span, float), fitted))
        assert all(reached[name] >= one.mean() - 1e-12 for name, one in found.items())


def test_guessing_is_the_mean_over_all_spans():
    truth = np.array([[0.0, 2.0], [1.0, 2.0]])
    found = grounding.random_measures(truth, [3, 4], [1, 2])
    spans = [[(0, 1), (1, 2), (2, 3), (0, 2), (1, 3)]]
    spans += [[(0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (1, 3), (2, 4)]]
    for event, every in enumerate(spans):
        iou = grounding.temporal_iou(np.array(every, float), truth[event])
        assert found["mean_iou"][0, event] == pytest.approx(iou.mean())
        assert found["recall_0.5"][0, event] == pytest.approx((iou >= 0.5).mean())


def test_metrics_and_status():
    truth = np.array([[0, 2], [3, 4], [1, 3], [5, 6.0]])
    clip_of = np.array([0, 0, 1, 2])
    perfect = grounding.span_measures(np.stack([truth, truth]), truth)
    missed = grounding.span_measures(np.full((1, 4, 2), NAN), truth)
    found = grounding.grounding_metrics({"system": perfect, "blind": missed}, truth, clip_of)
    assert found["system/mean_iou"]["mean"] == 1.0
    assert found["system/mean_iou"]["n"] == 8
    assert found["blind/parsed"]["mean"] == 0.0
    assert found["system/length_2/recall_0.7"]["n"] == 4
    assert found["gain_over_blind/recall_0.5"]["mean"] == 1.0
    assert judged(found, ["blind"])[0] == "ok"
    level = grounding.grounding_metrics({"system": perfect, "blind": perfect}, truth, clip_of)
    status, note = judged(level, ["blind"])
    assert status == "negative"
    assert "Not above: blind (mean_iou, recall_0.5)" in note


def test_the_command_writes_a_record_of_spans(world, runs, foundations, tmp_path, capsys):
    path = tmp_path / "spans.json"
    command = [
        *("evaluate", "--grounding", "--system", "video_chatgpt", "--runs", *map(str, runs[:2])),
        *("--data", str(world), "--cache", str(tmp_path / "cache"), "--device", "cpu"),
        *("--foundations", str(foundations), "--record", str(path)),
    ]
    assert cli.main([*command, "--controls", "blind", "shuffled"]) == 0
    record = read_record(path)
    metrics, settings = record["metrics"], record["settings"]
    events = len(grounding.true_spans(load_split(world / "test").stories))
    assert settings["events"] == events
    assert settings["conditions"] == [
        "system", "blind", "no_video", "shuffled", "constant", "random"
    ]  # fmt: skip
    assert metrics["system/mean_iou"]["n"] == 2 * events
    assert metrics["blind/mean_iou"]["n"] == metrics["random/mean_iou"]["n"] == events
    assert 0 < metrics["random/recall_0.5"]["mean"] < metrics["random/recall_0.3"]["mean"] < 1
    assert set(settings["constant"]) == {*grounding.RECALLS, "mean_iou"}
    assert "system/order" not in metrics
    assert "A look only" in record["note"]
    assert "| constant |" in capsys.readouterr().out
    assert cli.main([*command, "--split", str(world / "nowhere")]) == 2


def test_spans_are_said_by_real_decoding(world, runs, foundations, tmp_path):
    from vlmcourse.evaluation.asked import load_probes
    from vlmcourse.trained import load_trained_system

    model = load_trained_system("video_chatgpt", runs[0], foundations=foundations).model
    split = span_split(load_split(world / "test"))
    asked = load_probes(split, model, "video_chatgpt", tmp_path, 3, progress=False)
    found = ask_spans(model, asked)
    assert len(found.said) == len(found.truth) == len(found.clip_of) == found.predicted.shape[0]
    one_by_one = []
    for questions, clip, streams in zip(asked.asked, asked.clips, asked.streams):
        watched = model.remember(streams, clip)
        one_by_one += [
            model.answer(watched, [q.text], share_prefix=False, max_new_tokens=8)[0]
            for q in questions
        ]
    assert [text for pair in found.said for text in pair] == one_by_one
    told = ask_spans(model, asked, "text_events")
    assert len(told.said) == len(found.said)
