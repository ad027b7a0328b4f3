"""CogVLM2: what trains, experts, positions, packed and padded rows, answers."""

from dataclasses import replace

import pytest
import torch
from tiny_cogvlm2 import build_tiny, random_clip, training_batch
from torch.testing import assert_close

from vlmcourse.conversation import Conversation, Turn, ask
from vlmcourse.errors import UserError
from vlmcourse.row_packing import pack
from vlmcourse.systems import build
from vlmcourse.systems.batch import collate
from vlmcourse.systems.cogvlm2_stages import CONNECTOR, ENCODER, EXPERTS, WORLD_STAGES
from vlmcourse.systems.processor import Given
from vlmcourse.systems.stages import set_trainable

PAIRS = [("what colour is circle ?", "red"), ("what happens first ?", "blue star jumps")]
QUESTIONS = [
    "where is moon ?",
    "what happens at 1 ?",
    "is there red star ?",
    "describe in detail ?",
]
VARIANTS = [
    *({}, {"experts": True}, {"time_text": "seconds"}, {"time_text": "none"}),
    *({"template": "base", "experts": True}, {"positions": "sequential"}),
]


@pytest.fixture(
    params=VARIANTS, ids=lambda settings: "-".join(map(str, settings.values())) or "released"
)
def model(request):
    return build_tiny(**request.param)


# ---------------------------------------------------------------- stages


def moved_by(model, stage, batch):
    """Names of the tensors, buffers too, that one step of a stage changes."""
    set_trainable(model, stage.trains)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(batch).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    return {n for n, value in model.state_dict().items() if not value.equal(before[n])}


BEHIND_ALL = ("vision_expert_mlp", "vision_expert_dense")
"""Experts of the last layer that work on what leaves a picture's places, which nothing reads."""


RECIPES = [(system, recipe) for system, recipes in WORLD_STAGES.items() for recipe in recipes]


@pytest.mark.parametrize(("system", "recipe"), RECIPES)
def test_one_step_moves_exactly_what_each_stage_names(system, recipe):
    for stage in WORLD_STAGES[system][recipe]:
        model = build_tiny(experts=recipe == "experts")
        parts = {"conv", "adapter", "boi", "eoi"}
        if stage.name != "pretrain_1":
            parts |= {"vision_encoder"} | ({"language_model"} if recipe != "experts" else set())
        named = {
            name
            for name, _ in model.named_parameters()
            if name.split(".")[0] in parts
            or (recipe == "experts" and stage.name == "pretrain_2" and "vision_expert" in name)
        }
        assert set(set_trainable(model, stage.trains)) == named
        idle = {n for n in named if "layers.1." in n and any(part in n for part in BEHIND_ALL)}
        batch = training_batch(model, [random_clip(), random_clip(2)], PAIRS)
        assert moved_by(model, stage, batch) == named - idle
        assert bool(idle) == any("vision_expert" in name for name in named)


def test_language_weights_of_the_experts_recipe_never_move():
    patterns = {pattern for stage in WORLD_STAGES["cogvlm2"]["experts"] for pattern in stage.trains}
    assert patterns == {*CONNECTOR, *EXPERTS, *ENCODER}
    model = build_tiny(experts=True)
    trained = set_trainable(model, sorted(patterns))
    assert any("expert" in name for name in trained)
    assert not [n for n in trained if n.startswith("language_model") and "vision_expert" not in n]


@pytest.mark.parametrize("settings", [{}, {"experts": True}])
def test_it_overfits_one_batch(settings):
    model = build_tiny(**settings)
    set_trainable(model, ["*"])
    batch = training_batch(model, [random_clip(), random_clip(2)], PAIRS)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.005)
    first = model(batch).loss.item()
    for _ in range(60):
        optimiser.zero_grad()
        result = model(batch)
        result.loss.backward()
        optimiser.step()
    assert result.loss.item() < 0.1 < first
    assert result.correct.all()


def test_the_encoder_learns_through_pixels_and_is_left_alone_when_frozen():
    model = build_tiny()
    batch = training_batch(model, [random_clip(), random_clip(2)], PAIRS)
    for patterns, learns in ((CONNECTOR, False), (CONNECTOR + ENCODER, True)):
        set_trainable(model, patterns)
        model.zero_grad()
        model(batch).loss.backward()
        gradients = [p.grad for p in model.vision_encoder.parameters()]
        assert all((g is not None) == learns for g in gradients)


# ---------------------------------------------------------------- rows in batches


def test_a_batch_is_as_its_rows_one_by_one(model):
    clips = [random_clip(3), random_clip(5), random_clip(1)]
    pairs = [*PAIRS, ("how many things are there ?", "3")]
    together = model(training_batch(model, clips, pairs))
    for row, (clip, pair) in enumerate(zip(clips, pairs)):
        alone = model(training_batch(model, [clip], [pair]))
        assert_close(together.token_loss[together.rows == row], alone.token_loss)


def test_packed_questions_are_as_separate_rows(model):
    clip = random_clip(3)
    media = model.media(model.stream_inputs(clip), clip, encoded=False)[0]
    rows = [model.processor.row(ask(*pair), clip) for pair in PAIRS]
    pad = model.processor.tokenizer.pad_id
    packed = model(collate([pack(rows)], pad, media))
    for number, row in enumerate(rows, start=1):
        alone = model(collate([row], pad, media))
        assert_close(packed.token_loss[packed.segments == number], alone.token_loss)


def test_rows_without_pictures_work_alone_packed_and_beside_others(model):
    processor, pad = model.processor, model.processor.tokenizer.pad_id
    rows = [
        processor.text_row(ask(question, answer), "at 1 red star jumps for 2 .")
        for question, answer in PAIRS
    ]
    alone = [model(collate([row], pad)).token_loss for row in rows]
    assert_close(model(collate(rows, pad)).token_loss, torch.cat(alone))
    assert_close(model(collate([pack(rows)], pad)).token_loss, torch.cat(alone))
    clip = random_clip()
    seen = processor.row(ask(*PAIRS[1]), clip)
    media = replace(
        model.media(model.stream_inputs(clip), clip, encoded=False)[0], rows=torch.tensor([1])
    )
    beside = model(collate([rows[0], seen], pad, media))
    assert_close(beside.token_loss[beside.rows == 0], alone[0])


def test_experts_leave_text_as_it_was_and_begin_as_copies():
    plain, copied = build_tiny(), build_tiny(experts=True)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if name in plain.state_dict():
                parameter.copy_(plain.state_dict()[name])
        for layer in copied.language_model.model.layers:
            layer.copy_language()
    batch = training_batch(plain, [random_clip(), random_clip(2)], PAIRS)
    assert_close(copied(batch).loss, plain(batch).loss)
    pad = plain.processor.tokenizer.pad_id
    text = collate([plain.processor.text_row(ask(*PAIRS[0]), "at 1 red star jumps .")], pad)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if "vision_expert" in name:
                parameter.add_(0.5)
    assert torch.equal(copied(text).loss, plain(text).loss)
    assert not torch.allclose(copied(batch).loss, plain(batch).loss)


# ---------------------------------------------------------------- positions and time


def test_tokens_inside_a_frame_share_a_position():
    clip = random_clip(2)
    shared, own = build_tiny(), build_tiny(positions="sequential")
    batch = training_batch(shared, [clip], PAIRS[:1])
    positions = [m.language_inputs(batch)["position_ids"][0].tolist() for m in (shared, own)]
    # begin; boi, four shared, eoi, counter; the same; then the question
    assert positions[0][:17] == [0, 1, 2, 2, 2, 2, 3, 4, 5, 6, 6, 6, 6, 7, 8, 9, 10]
    assert positions[1] == list(range(batch.ids.shape[1]))


def test_frames_without_text_between_are_one_run():
    model = build_tiny(time_text="none", experts=True)
    inputs = model.language_inputs(training_batch(model, [random_clip(2)], PAIRS[:1]))
    assert inputs["position_ids"][0, :14].tolist() == [0, 1, *[2] * 10, 3, 4]
    assert inputs["expert_mask"][0, :14].tolist() == [False, *[True] * 11, False, False]
    told = build_tiny(experts=True)
    inputs = told.language_inputs(training_batch(told, [random_clip(2)], PAIRS[:1]))
    assert inputs["expert_mask"][0, 5:9].tolist() == [True, False, False, True]


def test_frames_are_seen_in_order_even_where_no_position_tells_it():
    """Causality alone orders the frames of one run."""
    model = build_tiny(time_text="none")
    clip = random_clip(3)
    turned = replace(clip, frames=clip.frames.flip(0))
    losses = [model(training_batch(model, [c], PAIRS[:1])).loss for c in (clip, turned)]
    assert not torch.allclose(*losses)


def test_positions_reach_the_model():
    clip = random_clip(3)
    batch = training_batch(build_tiny(), [clip], PAIRS[:1])
    losses = [build_tiny(positions=how)(batch).loss for how in ("shared", "sequential")]
    assert not torch.allclose(*losses)


# ---------------------------------------------------------------- answers


def test_answers_agree_with_and_without_a_shared_prefix_and_one_by_one(model):
    watched = model.remember(model.streams(clip := random_clip(4)), clip)
    settings = {"max_new_tokens": 6}
    together = model.answer(watched, QUESTIONS, **settings)
    apart = model.answer(watched, QUESTIONS, share_prefix=False, **settings)
    alone = [model.answer(watched, [question], **settings)[0] for question in QUESTIONS]
    assert together == apart == alone
    assert len(set(together)) > 1


@pytest.mark.parametrize("settings", [{}, {"experts": True}])
def test_an_answer_is_what_whole_passes_give_token_by_token(settings):
    model = build_tiny(**settings)
    clip = random_clip(2)
    watched = model.remember(model.streams(clip), clip)
    answer = model.answer(watched, QUESTIONS[:1], max_new_tokens=5)[0]
    row = model.processor.question_row(QUESTIONS[0], clip)
    for _ in range(5):
        batch = collate([row], model.processor.tokenizer.pad_id, watched.pictures)
        best = int(model.logits(batch)[0, -1].argmax())
        row = type(row)([*row.ids, best], [*row.labels, best], [*row.kinds, 0])
    ids = row.ids[-5:]
    end = model.processor.tokenizer.token_id("</s>")
    ids = ids[: ids.index(end)] if end in ids else ids
    assert answer == model.processor.answer_text(ids)


def test_a_conversation_goes_on():
    model = build_tiny(experts=True)
    watched = model.remember(model.streams(clip := random_clip(2)), clip)
    first = model.processor.question_turn(QUESTIONS[0])
    history = (first, Turn("assistant", "top left"))
    later = [model.answer(watched, [q], history, max_new_tokens=3)[0] for q in QUESTIONS]
    assert later == model.answer(watched, QUESTIONS, history, max_new_tokens=3)


def test_a_question_without_pictures_is_answered():
    model = build_tiny(experts=True)
    clip = replace(random_clip(2), given=Given(None, None))
    row = model.processor.row(Conversation((Turn("user", "<video>\nwhere ?"),)), clip)
    assert not any(row.kinds)
    watched = model.remember({}, clip)
    assert model.answer(watched, QUESTIONS[:2], max_new_tokens=2)


# ---------------------------------------------------------------- sizes and options


def test_paper_sizes_on_the_meta_device():
    sizes = {}
    for system in ("cogvlm2", "cogvlm2_video"):
        model = build(system, "paper", "meta")
        assert all(p.is_meta for p in model.parameters())
        sizes[system] = sum(p.numel() for p in model.parameters())
        assert model.answer_settings == {"temperature": 0.0, "max_new_tokens": 2048}
        side = model.config.image_size
        with torch.device("meta"):
            features = torch.empty(1, 1, (side // 14) ** 2, 1792)
            tokens, mask = model.connect(features, torch.ones(1, 1).bool(), torch.zeros(1, 1))
        assert tokens.shape == (1, model.config.tokens_per_frame, 4096)
        assert mask.shape == tokens.shape[:2]
    assert sizes == {"cogvlm2": 19_503_105_280, "cogvlm2_video": 12_507_530_496}


def test_picture_sizes_of_the_world_share_their_weights():
    worlds = [build("cogvlm2", "world", image_size=size) for size in (32, 64, 96)]
    shapes = [{n: v.shape for n, v in world.state_dict().items()} for world in worlds]
    assert shapes[0] == shapes[1] == shapes[2]
    clip = random_clip(1, size=50)
    for world, count in zip(worlds, (4, 16, 36)):
        watched = world.remember(world.streams(clip), clip)
        assert watched.pictures.features.shape == (1, 1, 4 * count, 96)
        row = world.processor.question_row("where ?", clip)
        assert sum(row.kinds) == world.config.tokens_per_frame == count + 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"time_text": "clock"}, "time_text is 'clock', not one of counter, seconds, none"),
        ({"positions": "none"}, "positions is 'none', not one of shared, sequential"),
        ({"image_size": 50}, "image_size is 50, not a multiple of 16"),
        ({"num_frames": 0}, "num_frames must be at least 1"),
        ({"expert": True}, "unknown option expert"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        build("cogvlm2_video", "world", **options)
