"""MA-LMM: what reaches the language model, by which reader, and what learns from it."""

import pytest
import torch
from tiny_ma_lmm import SMALL, build_tiny, features_of, training_batch

from vlmcourse import systems
from vlmcourse.backbones.foundations import load_image_text_qformer, load_vision_encoder
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.errors import UserError
from vlmcourse.parts.memory_qformer import step
from vlmcourse.parts.waves import waves
from vlmcourse.systems.batch import stack_media
from vlmcourse.systems.ma_lmm import MaLmm
from vlmcourse.systems.ma_lmm_config import MaLmmConfig
from vlmcourse.systems.processor import Clip
from vlmcourse.systems.stages import set_trainable

torch.set_num_threads(1)

PAIRS = [("what happens first ?", "red circle jumps"), ("how many things are there ?", "3")]


def instructed(model, features, clip, questions):
    media, _ = model.question_media(model.remember(features, clip), questions)
    return media


def read(model, media):
    return model.read_frames(
        media.features, media.frame_mask, media.extras["instruction"],
        media.extras["instruction_mask"],
    )  # fmt: skip


@pytest.mark.parametrize("visual", [0, 2, None])
@pytest.mark.parametrize("queries", [0, 2])
def test_the_memory_reader_is_one_step_a_frame(visual, queries):
    model = build_tiny(visual_memory=visual, query_memory=queries)
    media = instructed(model, *features_of(model, 5), ["what is shown ?"])
    frames, state = model.placed(media.features), None
    for frame in frames.unbind(1):
        out, state = step(
            model.qformer, frame, state, text_ids=media.extras["instruction"],
            text_mask=media.extras["instruction_mask"], visual_capacity=visual,
            query_capacity=queries,
        )  # fmt: skip
    torch.testing.assert_close(read(model, media), out.tokens)


def test_frames_are_normalised_and_placed_and_late_ones_have_the_last_place():
    model = build_tiny()
    features, _ = features_of(model, 9)
    placed = model.placed(features[None])
    normed = torch.nn.functional.layer_norm(
        features, (16,), model.vision_norm.weight, model.vision_norm.bias
    )
    rows = model.frame_positions.weight[[0, 1, 2, 3, 4, 5, 5, 5, 5]]
    torch.testing.assert_close(placed[0], normed + rows[:, None])
    torch.testing.assert_close(model.placed(features[None, 4:], first=4), placed[:, 4:])
    none = build_tiny(frame_position="none")
    torch.testing.assert_close(none.placed(features[None])[0], normed)


def test_positions_begin_as_zeros_or_as_waves():
    llama = build_llama(LlamaSizes(168, 32, 48, 1, 4))
    assert not MaLmm(MaLmmConfig(**SMALL), llama, None, None).frame_positions.weight.any()
    model = systems.build("ma_lmm", "world", position_start="waves", max_frames=512)
    assert model.frame_positions.weight.equal(waves(torch.arange(512), 512, 96))
    table = waves(torch.arange(50), 50, 15)
    assert table.shape == (50, 15)
    torch.testing.assert_close(table[:, 0], torch.arange(50.0).sin())  # a radian a frame
    torch.testing.assert_close(table[:, 7], (torch.arange(50.0) / 50).sin())
    near = torch.cdist(table, table)
    assert (near.argsort(1)[:, 1] - torch.arange(50)).abs().max() == 1  # a neighbour is nearest


def test_readers_that_look_once():
    features, clip = features_of(build_tiny(), 5)
    words = None
    for reader in ("average", "all", "one_frame"):
        model = build_tiny(reader=reader)
        media = instructed(model, features, clip, ["what is shown ?"])
        placed = model.placed(media.features)
        looked = {"average": placed.mean(1), "all": placed.flatten(1, 2), "one_frame": placed[:, 4]}
        words = {"text_ids": media.extras["instruction"],
                 "text_mask": media.extras["instruction_mask"]}  # fmt: skip
        wanted = model.qformer(looked[reader], **words).tokens
        torch.testing.assert_close(read(model, media), wanted)
    model = build_tiny(reader="frames")  # no positions, all frames' tokens
    media = instructed(model, features, clip, ["what is shown ?"])
    each = [
        model.qformer(frame, **words).tokens for frame in model.placed(media.features).unbind(1)
    ]
    torch.testing.assert_close(read(model, media), torch.cat(each, 1))
    tokens, mask = model.connect(media.features, media.frame_mask, media.times_s, **media.extras)
    assert tokens.shape == (1, 15, 32)
    assert mask.all()


@pytest.mark.parametrize("reader", ["memory", "average", "all", "one_frame", "frames"])
def test_a_batch_is_its_videos_one_by_one_whatever_their_lengths(reader):
    model = build_tiny(reader=reader)
    videos = [features_of(model, count, seed) for seed, count in enumerate((5, 2, 7))]
    asked = [["what is shown ?", "when does red circle jump ?"], ["what happens ?"],
             ["where is red circle ?"] * 2]  # fmt: skip
    groups = [instructed(model, *video, some) for video, some in zip(videos, asked, strict=True)]
    media = stack_media(groups)
    tokens, mask = model.connect(media.features, media.frame_mask, media.times_s, **media.extras)
    alone = []
    for (features, clip), some in zip(videos, asked, strict=True):
        for question in some:
            one = instructed(model, features, clip, [question])
            alone.append(model.connect(one.features, one.frame_mask, one.times_s, **one.extras)[0])
    for row, wanted in enumerate(alone):
        torch.testing.assert_close(tokens[row][mask[row]], wanted[0])


def test_the_question_reaches_the_frames():
    model = build_tiny()
    media = instructed(model, *features_of(model, 4), [question for question, _ in PAIRS])
    one, other = model.connect(
        media.features, media.frame_mask, media.times_s, **media.extras
    )[0]  # fmt: skip
    assert (one - other).abs().max() > 0.1


@pytest.mark.parametrize(
    ("position", "rows"), [("official", [4]), ("all", [0, 1, 2, 3, 4]), ("none", [])]
)
def test_which_positions_learn(position, rows):
    model = build_tiny(frame_position=position)
    set_trainable(model, ["frame_positions.*", "qformer.*"])
    model(training_batch(model, [features_of(model, 5)], [PAIRS])).loss.backward()
    grad = model.frame_positions.weight.grad
    touched = [] if grad is None else grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert touched == rows


def test_every_setting_of_the_memory_gives_another_video():
    features, clip = features_of(build_tiny(), 8)
    found = []
    for settings in ({}, {"merging": "mean"}, {"merging": "fifo"}, {"merging": "none"},
                     {"visual_memory": 0}, {"query_memory": 0}, {"visual_memory": 3}):  # fmt: skip
        model = build_tiny(**settings)
        found.append(read(model, instructed(model, features, clip, ["what is shown ?"])))
    for index, one in enumerate(found):
        for other in found[:index]:
            assert (one - other).abs().max() > 1e-3


def test_settings_that_mean_nothing_are_refused():
    wrong = {"reader": "bank", "merging": "sum", "frame_position": "yes", "layout": "llama2",
             "prompt": "Question:", "visual_memory": -1}  # fmt: skip
    for name, value in wrong.items():
        with pytest.raises(UserError, match=name):
            build_tiny(**{name: value})


def test_answers_are_one_row_a_question_and_beams_are_given_in_order():
    model = build_tiny()
    watched = model.remember(*features_of(model, 4))
    questions = [question for question, _ in PAIRS]
    together = model.answer(watched, questions, max_new_tokens=4)
    assert together == [model.answer(watched, [q], max_new_tokens=4)[0] for q in questions]
    told = {"max_new_tokens": 4, "num_beams": 3}
    best = model.answer(watched, questions, **told)
    all_beams = model.answer(watched, questions, **told, num_return_sequences=3)
    assert len(all_beams) == 6
    assert all_beams[::3] == best
    with pytest.raises(ValueError, match="more answers are wanted than beams"):
        model.answer(watched, questions, num_return_sequences=2)


def test_the_small_world_begins_with_what_the_image_qformer_knows():
    model = systems.build("ma_lmm", "world")
    image, encoder = load_image_text_qformer().qformer, load_vision_encoder()
    pixels = encoder.preprocess(torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8))
    with torch.no_grad():
        seen = model.placed(model.encode_frames(pixels)[:, None])[:, 0]
        torch.testing.assert_close(seen, encoder(pixels))
        wanted = image(encoder(pixels)).tokens
    mask = torch.ones(2, 1, dtype=torch.bool)
    features = model.encode_frames(pixels)[:, None]
    with torch.no_grad():
        torch.testing.assert_close(model.read_frames(features, mask), wanted)
    words = model.processor.instructions.words
    table = model.qformer.word_embeddings.weight
    assert len(table) == len(words)
    assert table[words.index("jump")].equal(table[words.index("jumps")])
    assert not table[words.index("when")].equal(table[words.index("what")])
    ids, mask = model.processor.instruct(["When does the red circle jump?"])
    told = [words[i] for i in ids[0][mask[0]]]
    assert told == ["[CLS]", "when", "does", "red", "circle", "jump", "<end>"]


def test_the_published_size_on_meta():
    model = systems.build("ma_lmm", "paper", "meta")
    assert model.config.qformer_vocabulary == 30523
    assert model.language_model.get_input_embeddings().weight.shape == (32001, 4096)
    assert len(model.vision_encoder.blocks) == 39
    assert not any("ln_vision" in name for name, _ in model.named_parameters())
    trained = set_trainable(model, model.stages("paper")[0].trains)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert round(sum(sizes[name] for name in trained) / 1e6) == 189
    assert {name.split(".")[0] for name in trained} == {
        *("vision_norm", "frame_positions", "qformer", "projector"),
    }
    assert model.answer_settings["num_beams"] == 5
    assert model.answer_settings["max_new_tokens"] == 19


def test_overfits_one_batch_that_only_the_videos_tell_apart():
    model = build_tiny()
    set_trainable(model, [*model.stages("world")[1].trains, "language_model.*"])
    videos = [features_of(model, 5, seed) for seed in (0, 1)]
    question, *answers = "what happens first ?", "red circle jumps", "blue star glows"
    batch = training_batch(model, videos, [[(question, answer)] for answer in answers])
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        result = model(batch)
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    assert float(result.loss.detach()) < 0.1
    said = [model.answer(model.remember(*v), [question], max_new_tokens=8)[0] for v in videos]
    assert said == answers


def test_a_video_takes_as_many_places_as_queries_however_long_it_is():
    for reader, places in (("memory", 3), ("all", 3), ("frames", 12)):
        expand = build_tiny(reader=reader).processor.expand
        assert expand("video", Clip(torch.arange(4.0)))[0].count == places
