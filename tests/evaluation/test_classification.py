"""Exact-match classification: scores, missing videos, the command."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from sounding_clips import write_file
from tiny_ma_lmm import build_tiny

from vlmcourse import cli
from vlmcourse.errors import UserError
from vlmcourse.evaluation import classification
from vlmcourse.evaluation.classification import predict, read_predictions, score
from vlmcourse.training.labelled_sets import LabelledClip, LabelledSet, read_labelled

torch.set_num_threads(1)

SAMPLES = Path(__file__).parents[1] / "malmm"
LVU = SAMPLES / "lvu" / "test.json"


def labels_of(form="lvu/scene"):
    return {clip.id: clip.answer for clip in read_labelled(LVU, form).clips}


def test_the_sample_predictions_score_as_expected():
    found = score(read_predictions(SAMPLES / "predictions_cls.json"), labels_of())
    expected = json.loads((SAMPLES / "predictions_cls_expected.json").read_text(encoding="utf-8"))
    assert found.percent() == {name: pytest.approx(expected[name]) for name in ("top1", "top5")}
    assert found.top1 == [True, False, False]
    assert found.missing == ["demoLVU0002_40", "demoLVU0002_60"]


def test_matches_are_exact():
    labels = {"a": "office", "b": "boy"}
    said = [{"image_id": "a", "caption": [" office ", "x"]},
            {"image_id": "b", "caption": ["boy runs", "Boy"]}]  # fmt: skip
    assert score(said, labels).top1 == [True, False]
    assert score(said, labels).top5 == [True, False]
    assert score(said, labels, first_word=True).top1 == [True, True]
    six = [{"image_id": "a", "caption": ["1", "2", "3", "4", "5", "office"]}]
    assert score(six, labels).top5 == [False]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([{"image_id": "z", "caption": ["x"]}], r"prediction 0 \(z\): is of no sample"),
        ([{"image_id": "a", "caption": ["x"]}] * 2, r"prediction 1 \(a\): stands twice"),
        ([{"image_id": "a", "caption": []}], r"\(a\): empty"),
        ([{"image_id": "a"}], "prediction 0: no image_id with a caption"),
        ([], "no predictions"),
    ],
)
def test_what_cannot_be_scored_is_told(said, reason):
    with pytest.raises(UserError, match=reason):
        score(said, {"a": "x"})


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A film, a folder of pictures, and a file that is no film."""
    folder = tmp_path_factory.mktemp("videos")
    write_file(folder / "demoLVU0002.mp4", 12)
    (folder / "demoLVU0003").mkdir()
    for number in range(4):
        path = folder / "demoLVU0003" / f"frame{number:06d}.jpg"
        Image.new("RGB", (64, 64), (60 * number, 0, 0)).save(path)
    (folder / "broken.mp4").write_bytes(b"no film")
    return folder


def a_set(*names):
    clips = [LabelledClip(name, name, "what is shown ?", "red circle") for name in names]
    return LabelledSet("breakfast", clips, {})


def test_a_model_is_asked_about_all_that_is_there(videos):
    model = build_tiny(image_size=64)
    asked = a_set("demoLVU0002", "gone", "broken", "demoLVU0003")
    told = {"max_new_tokens": 3}
    predictions, lost = predict(model, asked, videos, progress=False, **told)
    assert [one["image_id"] for one in predictions] == ["demoLVU0002", "demoLVU0003"]
    assert lost.keys() == {"gone", "broken"}
    assert lost["gone"] == "not there"
    watched = model.watch(videos / "demoLVU0003")
    beams = {"num_beams": 5, "num_return_sequences": 5}
    wanted = model.answer(watched, ["what is shown ?"], **beams, **told)
    assert predictions[1]["caption"] == wanted
    assert len(wanted) == 5
    with pytest.raises(UserError, match=r"none of 2 videos can be used: gone \(not there\); brok"):
        predict(model, a_set("gone", "broken"), videos, progress=False)


def test_windows_are_samples_of_their_own(videos):
    model = build_tiny(image_size=64)
    labelled = read_labelled(LVU, "lvu/scene")
    predictions, lost = predict(model, labelled, videos, progress=False)
    assert lost == {}
    assert [one["image_id"] for one in predictions] == list(labels_of())
    assert all(len(one["caption"]) == 5 for one in predictions)


def test_the_command_scores_a_file(tmp_path, capsys):
    record = tmp_path / "scene.json"
    done = cli.main(
        ["classify", "--form", "lvu/scene", "--annotation", str(LVU), "--score",
         str(SAMPLES / "predictions_cls.json"), "--record", str(record)]
    )  # fmt: skip
    assert done == 0
    out = capsys.readouterr().out
    assert "top 1 33.3 %, top 5 100.0 % of 3 samples; 2 without a prediction" in out
    found = json.loads(record.read_text(encoding="utf-8"))
    assert found["metrics"]["top1"]["mean"] == pytest.approx(1 / 3, abs=1e-5)
    assert found["settings"] == {
        "form": "lvu/scene", "annotation": found["settings"]["annotation"], "samples": 5,
        "left_out": 2,
    }  # fmt: skip


def test_the_command_asks_a_model_and_lists_what_is_missing(videos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(classification, "_opened", lambda args: build_tiny(image_size=64))
    path, record = tmp_path / "set.json", tmp_path / "record.json"
    entries = {"demoLVU0002": {"class_name": "tea"}, "gone": {"class_name": "milk"}}
    path.write_text(json.dumps(entries), encoding="utf-8")
    words = ["classify", "--form", "breakfast", "--annotation", str(path), "--videos", str(videos)]
    assert cli.main([*words, "--record", str(record)]) == 0
    out = capsys.readouterr().out
    assert "1 videos of 1 samples could not be used:\n  gone: not there" in out
    assert "% of 1 samples; 1 without a prediction" in out
    assert len(read_predictions(record.with_suffix(".predictions.json"))) == 1
    assert json.loads(record.read_text("utf-8"))["settings"]["missing_videos"] == {
        "gone": "not there"
    }
    with pytest.raises(UserError, match="either --videos DIR"):
        classification.main(["--form", "breakfast", "--annotation", str(path)])
    with pytest.raises(UserError, match="nothing here scores captions"):
        classification.main(
            ["--form", "captions", "--score", "x.json", "--annotation",
             str(SAMPLES / "msrvtt" / "cap_val.json")]
        )  # fmt: skip
