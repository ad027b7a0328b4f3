"""Language data: read, told as a description, packed, mixed with videos."""

import json

import pytest
import torch

from vlmcourse.conversation import PICTURE, TEXT, ask
from vlmcourse.errors import UserError
from vlmcourse.systems.stages import set_trainable
from vlmcourse.training.data import VideoInstructionData
from vlmcourse.training.instruction_data import InstructionDataError
from vlmcourse.training.runner import run_stage
from vlmcourse.training.sources import Source

SCENES = ("scene : big red circle top left .", "scene : small blue star top middle .")
ASKED = (("what colour is circle ?", "red"), ("where is circle ?", "top left"), ("how many ?", "1"))


def talk(*turns, **more):
    return {"conversations": [{"from": who, "value": text} for who, text in turns], **more}


@pytest.fixture
def write(tmp_path):
    def write(entries, name="texts.json"):
        path = tmp_path / name
        path.write_text(json.dumps(entries), encoding="utf-8")
        return path

    return write


@pytest.fixture
def texts(write):
    """A file of two descriptions with three questions each, and of a talk about nothing."""
    entries = [
        talk(("system", scene), ("human", q), ("gpt", a), id=q, family="f", kind=q.split()[0])
        for q, a in ASKED
        for scene in SCENES
    ]
    entries.append(
        talk(("human", "is this text ?"), ("gpt", "yes"), ("human", "so ?"), ("gpt", "no"))
    )
    return write(entries)


@pytest.fixture
def prepared(build_tiny, tmp_path):
    model = build_tiny().eval()
    set_trainable(model, ("projector.*", "language_model.*"))

    def make(*sources, batch_size=6, **settings):
        settings = {"questions_per_video": 3, "cache": tmp_path / "cache", **settings}
        data = VideoInstructionData(list(sources), **settings)
        data.prepare(model, "tiny", batch_size, 0, progress=False)
        return data

    return make


def epoch(data):
    """Everything as one batch."""
    part = data.parts[0]
    return data._batch(part, 0, 0, part.order.units_per_epoch)


def test_a_system_text_is_the_description(texts):
    samples = Source(texts, form="text").samples()
    assert len(samples) == 7
    first, *_, last = samples
    assert (first.video, first.medium, first.description) == (None, "text", SCENES[0])
    assert first.turns == (("user", ASKED[0][0]), ("assistant", "red"))
    assert (last.description, len(last.turns), last.plain_turns) == ("", 4, last.turns)
    assert len({sample.shared for sample in samples}) == 3
    assert len(Source(texts, form="text", limit=1).samples()) == 3


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (talk(("human", "Q"), ("gpt", "A"), video="a.mp4"), "'video' has no place"),
        (talk(("human", "Q"), ("gpt", "A"), image="a.png"), "'image' has no place"),
        (talk(("human", "<image>\nQ"), ("gpt", "A")), "<image> stands in a text"),
        (talk(("human", "hear <audio>"), ("gpt", "A")), "<audio> stands in a text"),
        (
            talk(("system", " "), ("human", "Q"), ("gpt", "A")),
            "'value' of the system text is empty",
        ),
        (talk(("system", "S")), "'conversations' is no list of turns"),
        (talk(("human", "Q"), ("system", "S")), "turn 1 is from 'system'"),
        (talk(("human", "Q")), "do not take turns"),
        ("hello", "a text instead of an object"),
        ({}, "'conversations' is no list of turns"),
    ],
)
def test_a_bad_text_is_named(write, entry, reason):
    path = write([talk(("human", "Q"), ("gpt", "A")), entry])
    with pytest.raises(InstructionDataError, match=r"1 of 2 entries are malformed \(entry 1:") as e:
        Source(path, form="text").samples()
    assert reason in str(e.value)


def test_texts_have_no_videos(texts):
    with pytest.raises(UserError, match="form 'text' has no videos"):
        Source(texts, form="text", videos=texts.parent).samples()


def test_a_description_stands_where_the_video_would(prepared, texts):
    """Words and labels of a row are those of a video's, with the text in the places' place."""
    data = prepared(Source(texts, form="text", limit=1), questions_per_video=1, batch_size=3)
    processor = data.model.processor
    for sample in data.parts[0].samples:
        row = data.row(sample, None)
        whole = [processor.tokenizer.inner.decode([i]) for i in row.ids]
        question, answer = (text.removesuffix(" ?") for _, text in sample.turns)
        assert " ".join(whole) == f"<s> {SCENES[0]} USER: {question} ASSISTANT: {answer} </s>"
        assert row.num_trained == len(answer.split()) + 1
    row = processor.text_row(ask("where ?", "here", marker=""))
    assert processor.tokenizer.inner.decode(row.ids).startswith("<s> USER: where ASSISTANT:")


def test_packed_texts_have_the_loss_of_single_ones(prepared, texts):
    packed = prepared(Source(texts, form="text"))
    single = prepared(Source(texts, form="text"), questions_per_video=1)
    whole, apart = epoch(packed), epoch(single)
    assert (whole.ids.shape[0], apart.ids.shape[0]) == (3, 7)
    assert whole.pictures is whole.sounds is None
    assert (whole.kinds == TEXT).all()
    with torch.no_grad():
        a, b = packed.model(whole), single.model(apart)
    assert a.num_targets == b.num_targets > 10
    torch.testing.assert_close(a.loss, b.loss, atol=1e-5, rtol=1e-5)
    assert packed.cache is None  # no file was looked at
    assert packed.unreadable == {}


def test_a_text_batch_of_a_mixture_has_no_media(prepared, texts, world):
    data = prepared(Source(texts, form="text", weight=1), Source(world / "captions.json", weight=1))
    kinds = {batch.pictures is None for batch in (data.batch(i) for i in range(12))}
    assert kinds == {True, False}
    for batch in (data.batch(i) for i in range(12)):
        assert (batch.pictures is None) == bool((batch.kinds == TEXT).all())
        assert data.model(batch).loss.requires_grad
    assert all(video.is_file() for video in data.cache.keys)


def test_texts_and_videos_may_share_a_batch(prepared, texts, world):
    """Without weights; the loss is that of the rows alone."""
    sources = Source(texts, form="text"), Source(world / "captions.json", limit=2)
    data = prepared(*sources)
    batch = epoch(data)
    with_media = (batch.kinds == PICTURE).any(1)
    assert with_media.sum() == len(batch.pictures) == 4
    assert batch.pictures.rows.tolist() == with_media.nonzero()[:, 0].tolist()
    alone = [prepared(source) for source in sources]
    with torch.no_grad():
        one, *others = (x.model(epoch(x)) for x in (data, *alone))
    assert one.num_targets == sum(x.num_targets for x in others)
    total = sum(x.token_loss.sum() for x in others)
    torch.testing.assert_close(one.token_loss.sum(), total, atol=1e-4, rtol=1e-5)


def test_texts_validate_too(prepared, texts, world):
    data = prepared(Source(world / "captions.json"), val=[Source(texts, form="text")], val_videos=2)
    rows = sum(batch.ids.shape[0] for batch in data.val_batches())
    assert rows == 2


def test_a_stage_learns_from_texts_and_moves_only_the_language_model(
    stage_file, tmp_path, texts, world, catch
):
    config = stage_file(
        trains=["projector.*", "language_model.*"],
        steps=3,
        warmup_ratio=0.0,
        data={"train": [{"json": str(texts), "form": "text"}]},
    )
    done = run_stage(config, tmp_path / "out", callbacks=[catch], progress=False, device="cpu")
    moved = {k for k in catch.before if not torch.equal(catch.before[k], catch.after[k])}
    assert moved
    assert all(name.startswith("language_model.") for name in moved)
    assert done.metrics["unreadable_videos"]["mean"] == 0


def test_a_stage_that_can_learn_nothing_from_texts_says_so(stage_file, tmp_path, texts):
    config = stage_file(data={"train": [{"json": str(texts), "form": "text"}]})
    with pytest.raises(
        UserError, match=r"'alignment': nothing that trains .* takes part in a batch"
    ):
        run_stage(config, tmp_path / "out", progress=False, device="cpu")


# ---------------------------------------------------------------- kinds and families


def test_kinds_and_families_choose_samples(world, texts):
    source = Source(world / "conversations.json", kinds=("when", "how_long"))
    assert {sample.kind for sample in source.samples()} == {"when", "how_long"}
    both = Source(world / "conversations.json", kinds=("when", "at"), families=("when",))
    assert {(s.kind, s.family) for s in both.samples()} == {("when", "when"), ("at", "when")}
    picked = Source(world / "conversations.json", families=("when",), evidence=("picture",))
    with pytest.raises(UserError, match=r"is left \(evidence picture; family when\)"):
        picked.samples()
    with pytest.raises(UserError, match="kind smell or taste"):
        Source(world / "conversations.json", kinds=("smell", "taste")).samples()
    assert len(Source(texts, form="text", kinds=("where",)).samples()) == 3  # one tells no kind
