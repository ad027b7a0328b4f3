"""Qwen2-VL: media of any size in one batch, positions, several media, answers, sizes."""

from dataclasses import replace

import pytest
import torch
from tiny_cogvlm2 import build_tiny as build_other
from tiny_qwen2_vl import build_tiny, media_of, random_clip, training_batch
from torch.testing import assert_close

from vlmcourse.conversation import PICTURE, Conversation, ConversationError, Turn, ask
from vlmcourse.errors import UserError
from vlmcourse.row_packing import pack
from vlmcourse.systems import build
from vlmcourse.systems.batch import collate, stack_media
from vlmcourse.systems.processor import Given
from vlmcourse.systems.qwen2_vl import portions, section_of
from vlmcourse.systems.stages import set_trainable

PAIRS = [
    ("what colour is circle ?", "red"),
    ("what happens first ?", "blue star jumps"),
    ("how many things are there ?", "3"),
    ("where is moon ?", "top left"),
]
QUESTIONS = [question for question, _ in PAIRS]
SHAPES = [(1, 8, 40), (5, 16, 8), (4, 24, 16), (1, 40, 8)]
"""Frames, rows and columns: a panorama, an odd number of frames, a film, a column."""
VARIANTS = [
    *({}, {"positions": "sequential"}, {"positions": "time_embedding"}),
    *({"words": "qwen"}, {"words": "qwen", "add_vision_id": True}),
]


def made(settings):
    """A model; times tell something where they are learnt."""
    model = build_tiny(**settings)
    if settings.get("positions") == "time_embedding":
        torch.nn.init.normal_(model.time_embedding.weight)
    return model


@pytest.fixture(
    params=VARIANTS, ids=lambda settings: "-".join(map(str, settings.values())) or "mrope"
)
def model(request):
    return made(request.param)


def clips_of(shapes):
    return [random_clip(*shape, seed=i) for i, shape in enumerate(shapes)]


# ---------------------------------------------------------------- media in batches


def test_a_batch_of_all_shapes_is_as_its_rows_one_by_one(model):
    clips = clips_of(SHAPES)
    together = model(training_batch(model, clips, PAIRS))
    for row, (clip, pair) in enumerate(zip(clips, PAIRS)):
        alone = model(training_batch(model, [clip], [pair]))
        assert_close(together.token_loss[together.rows == row], alone.token_loss)


def test_the_vision_tower_sees_a_batch_without_padding():
    model, seen = build_tiny(), []
    model.vision_encoder.register_forward_pre_hook(lambda _, args: seen.append(args))
    clips = clips_of(SHAPES)
    model(training_batch(model, clips, PAIRS))
    ((patches, grids),) = seen
    assert grids.tolist() == [[1, 2, 10], [3, 4, 2], [2, 6, 4], [1, 10, 2]]
    assert len(patches) == 20 + 24 + 48 + 20


def test_each_medium_costs_its_area_and_two_frames_cost_one_picture(model):
    for shape, places in zip(SHAPES, (5, 6, 12, 5)):
        row = model.processor.row(ask(*PAIRS[0]), random_clip(*shape))
        assert row.kinds.count(PICTURE) == places


def test_frames_give_what_their_features_give(model):
    clips = clips_of(SHAPES)
    batch = training_batch(model, clips, PAIRS)
    features = stack_media([model.remember(model.streams(c), c).pictures for c in clips])
    assert features.features.shape == (4, 12, 4, 16)
    assert_close(model(replace(batch, pictures=features)).token_loss, model(batch).token_loss)
    half = replace(features, features=features.features.half())
    assert_close(model(replace(batch, pictures=half)).loss, model(batch).loss, atol=0.02, rtol=0.02)


def test_packed_questions_are_as_separate_rows(model):
    clip = random_clip(4, 16, 24)
    rows = [model.processor.row(ask(*pair), clip) for pair in PAIRS]
    pad = model.processor.tokenizer.pad_id
    packed = model(collate([pack(rows)], pad, media_of(model, clip)))
    for number, row in enumerate(rows, start=1):
        alone = model(collate([row], pad, media_of(model, clip)))
        assert_close(packed.token_loss[packed.segments == number], alone.token_loss)


def test_texts_pictures_and_films_stand_beside_each_other_packed_or_not(model):
    picture, film = clips_of(SHAPES[:2])
    processor, pad = model.processor, model.processor.tokenizer.pad_id
    rows = [
        pack([processor.row(ask(*pair), film) for pair in PAIRS[:2]]),
        processor.text_row(ask(*PAIRS[2]), "scene : red moon top left ."),
        processor.row(ask(*PAIRS[3]), picture),
    ]
    media = [media_of(model, clip) for clip in (film, picture)]
    together = model(collate(rows, pad, stack_media(media, [0, 2])))
    for number, (row, medium) in enumerate(zip(rows, (media[0], None, media[1]))):
        alone = model(collate([row], pad, medium))
        assert_close(together.token_loss[together.rows == number], alone.token_loss)


def test_the_order_of_frames_matters_and_their_rate_does_not(model):
    clip = random_clip(6)
    turned = replace(clip, frames=clip.frames.flip(0))
    slow = replace(clip, times_s=clip.times_s * 3)
    losses = [model(training_batch(model, [c], PAIRS[:1])).loss for c in (clip, turned, slow)]
    assert not torch.allclose(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


def test_long_media_go_through_the_tower_in_portions():
    model = build_tiny()
    grids = torch.tensor([[3, 4, 2], [1, 2, 6], [2, 4, 4]])
    patches = torch.randn(24 + 12 + 32, 96)
    parts = list(portions(patches, grids, most=20))
    assert [len(part) for part, _ in parts] == [24, 28, 16]
    with torch.no_grad():
        whole = model.vision_encoder(patches, grids)
        assert_close(torch.cat([model.vision_encoder(*part) for part in parts]), whole)
    assert [part[1].tolist() for part in portions(patches, grids)] == [grids.tolist()]


# ---------------------------------------------------------------- positions


def test_positions_count_time_rows_and_columns():
    clip = random_clip(4, 8, 16)  # two steps of time, one row, two columns
    batch = training_batch(build_tiny(), [clip], PAIRS[:1])
    three = build_tiny().language_inputs(batch)["position_ids"]
    assert three[:, 0, :6].tolist() == [[0, 1, 1, 2, 2, 3], [0, 1, 1, 1, 1, 3], [0, 1, 2, 1, 2, 3]]
    for how in ("sequential", "time_embedding"):
        one = build_tiny(positions=how).language_inputs(batch)["position_ids"]
        assert one[0].tolist() == list(range(batch.ids.shape[1]))


def test_positions_reach_the_model():
    batch = training_batch(build_tiny(), [random_clip(4)], PAIRS[:1])
    losses = [build_tiny(positions=how)(batch).loss for how in ("mrope", "sequential")]
    assert not torch.allclose(*losses)


def test_learnt_times_are_added_to_all_tokens_of_their_step():
    plain, timed = build_tiny(positions="sequential"), build_tiny(positions="time_embedding")
    torch.nn.init.zeros_(timed.time_embedding.weight)
    weights = timed.state_dict()
    weights |= plain.state_dict()
    timed.load_state_dict(weights)
    clips = [random_clip(10, 8, 16), random_clip()]  # five steps, of which four have their own row
    batch = training_batch(plain, clips, PAIRS[:2])
    assert torch.equal(timed(batch).loss, plain(batch).loss)
    with torch.no_grad():
        timed.time_embedding.weight.copy_(torch.arange(4.0)[:, None].expand(-1, 32))
    added = (timed.embed(batch) - plain.embed(batch))[..., 0]
    assert_close(added[0, :13].round(), torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 0, 0.0]))
    assert not added[1].any()


def test_sections_follow_the_published_ones():
    assert section_of(128) == (16, 24, 24)
    assert section_of(32) == (4, 6, 6)


# ---------------------------------------------------------------- several media


def several(*shapes):
    """One conversation about several media."""
    first, *others = clips_of(shapes)
    return replace(first, others=tuple(others))


TALK = Conversation(
    (
        Turn("user", "<image>\n<video>\nwhat is shown ?"),
        Turn("assistant", "red moon"),
        Turn("user", "<image> is it there ?"),
        Turn("assistant", "no"),
    )
)


def test_markers_take_media_in_order(model):
    clip = several((1, 8, 24), (4, 8, 16), (1, 24, 8))
    row = model.processor.row(TALK, clip)
    media = media_of(model, clip)
    assert row.kinds.count(PICTURE) == 3 + 4 + 3
    assert media.extras["grid"].tolist() == [[1, 2, 6], [2, 2, 4], [1, 6, 2]]
    assert media.frame_mask.sum(1).tolist() == [3, 4, 3]
    batch = collate([row], model.processor.tokenizer.pad_id, media)
    embedded = model.embed(batch)[0][torch.tensor(row.kinds) == PICTURE]
    alone = [training_batch(model, [replace(c, others=())], PAIRS[:1]) for c in clip.all]
    assert_close(embedded, torch.cat([model.embed(b)[b.kinds == PICTURE] for b in alone]))


def test_conversations_about_several_media_share_a_batch_with_others(model):
    many = several((1, 8, 24), (4, 8, 16), (1, 24, 8))
    single = random_clip(5, 16, 8)
    processor, pad = model.processor, model.processor.tokenizer.pad_id
    rows = [processor.row(TALK, many), processor.row(ask(*PAIRS[1]), single)]
    media = [media_of(model, clip) for clip in (many, single)]
    together = model(collate(rows, pad, stack_media(media, [0, 0, 0, 1])))
    for number, (row, one) in enumerate(zip(rows, media)):
        alone = model(collate([row], pad, one))
        assert_close(together.token_loss[together.rows == number], alone.token_loss)


def test_two_pictures_are_not_their_exchange(model):
    clip = several((1, 8, 8), (1, 8, 8))
    turned = replace(clip.others[0], others=(replace(clip, others=()),))
    talk = Conversation((Turn("user", "<image><image> which is red ?"), Turn("assistant", "both")))
    pad = model.processor.tokenizer.pad_id
    losses = [
        model(collate([model.processor.row(talk, c)], pad, media_of(model, c))).loss
        for c in (clip, turned)
    ]
    assert not torch.allclose(*losses)


def test_markers_that_do_not_count_the_media_are_refused():
    processor, clip = build_tiny().processor, several((1, 8, 8), (1, 8, 8))
    for text in ("<image> what ?", "<image><image><image> what ?"):
        with pytest.raises(ConversationError, match=r"2 pictures and videos for . markers"):
            processor.row(Conversation((Turn("user", text),)), clip)


def test_a_system_that_takes_one_file_says_so(tmp_path):
    other = build_other()
    with pytest.raises(UserError, match="takes one file at a time, not 2"):
        other.watch([tmp_path / "a.png", tmp_path / "b.png"])
    clip = replace(random_clip(), others=(random_clip(),))
    with pytest.raises(
        ConversationError, match="2 pictures and videos for a system that takes one"
    ):
        other.processor.row(ask("what ?"), clip)
    with pytest.raises(UserError, match="no file to watch"):
        build_tiny().watch([])


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("shapes", [[(4, 8, 16)], [(1, 8, 24), (4, 8, 16), (1, 16, 8)]])
def test_answers_agree_with_and_without_a_shared_prefix_and_one_by_one(model, shapes):
    clip = several(*shapes)
    watched = model.remember(model.streams(clip), clip)
    settings = {"max_new_tokens": 6}
    together = model.answer(watched, QUESTIONS, **settings)
    apart = model.answer(watched, QUESTIONS, share_prefix=False, **settings)
    alone = [model.answer(watched, [question], **settings)[0] for question in QUESTIONS]
    assert together == apart == alone


def test_beams_keep_their_positions(model):
    clip = several((4, 8, 16), (1, 8, 24))
    watched = model.remember(model.streams(clip), clip)
    settings = {"max_new_tokens": 4, "num_beams": 3}
    together = model.answer(watched, QUESTIONS, **settings)
    apart = model.answer(watched, QUESTIONS, share_prefix=False, **settings)
    assert together == apart
    assert together[:1] == model.answer(watched, QUESTIONS[:1], **settings)


@pytest.mark.parametrize("settings", [{}, {"positions": "time_embedding"}, {"words": "qwen"}])
def test_an_answer_is_what_whole_passes_give_token_by_token(settings):
    model, clip = made(settings), several((1, 8, 24), (6, 8, 16))
    watched = model.remember(model.streams(clip), clip)
    answer = model.answer(watched, QUESTIONS[:1], max_new_tokens=5)[0]
    row = model.processor.question_row(QUESTIONS[0], clip)
    start = len(row)
    for _ in range(5):
        batch = collate([row], model.processor.tokenizer.pad_id, watched.pictures)
        best = int(model.logits(batch)[0, -1].argmax())
        row = type(row)([*row.ids, best], [*row.labels, best], [*row.kinds, 0])
    ids, tokenizer = row.ids[start:], model.processor.tokenizer
    stops = {
        tokenizer.token_id(tokenizer.eos_token),
        *(x for (x,) in model.processor.stop_sequences),
    }
    ends = [i for i, token in enumerate(ids) if token in stops]
    assert answer == model.processor.answer_text(ids[: ends[0]] if ends else ids)


def test_a_conversation_goes_on_and_brings_what_is_not_there_yet(model):
    clip = several((1, 8, 24), (4, 8, 16))
    watched = model.remember(model.streams(clip), clip)
    turn = model.processor.next_turn(QUESTIONS[0], clip)
    assert turn.text == f"<video>\n<video>\n{QUESTIONS[0]}"
    history = (Turn("user", f"<image>\n{QUESTIONS[0]}"), Turn("assistant", "red"))
    assert model.processor.next_turn("where ?", clip, history).text == "<video>\nwhere ?"
    later = [model.answer(watched, [q], history, max_new_tokens=3)[0] for q in QUESTIONS]
    assert later == model.answer(watched, QUESTIONS, history, max_new_tokens=3)


def test_a_question_without_pictures_is_answered(model):
    clip = random_clip(2).given_as(Given(None, None))
    row = model.processor.row(Conversation((Turn("user", "<video>\nwhere ?"),)), clip)
    assert not any(row.kinds)
    assert model.answer(model.remember({}, clip), QUESTIONS[:2], max_new_tokens=2)


# ---------------------------------------------------------------- learning and sizes


@pytest.mark.parametrize("settings", VARIANTS[:4])
def test_it_overfits_one_batch(settings):
    model = build_tiny(**settings)
    set_trainable(model, ["*"])
    batch = training_batch(model, clips_of(SHAPES), PAIRS)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.005)
    first = model(batch).loss.item()
    for _ in range(60):
        optimiser.zero_grad()
        result = model(batch)
        result.loss.backward()
        optimiser.step()
    assert result.loss.item() < 0.1 < first
    assert result.correct.all()


SIZES = {"2B": 2_208_985_600, "7B": 8_291_375_616, "72B": 73_405_560_320}
TOWERS = {"2B": 665_271_296, "7B": 675_759_104}


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes_on_the_meta_device(size):
    model = build("qwen2_vl", "paper", "meta", size=size)
    assert all(p.is_meta for p in model.parameters())
    assert sum(p.numel() for p in model.parameters()) == SIZES[size]
    tower = [p.numel() for part in (model.vision_encoder, model.merger) for p in part.parameters()]
    assert sum(tower) == TOWERS.get(size, sum(tower))
    tables = (model.language_model.get_input_embeddings(), model.language_model.lm_head)
    assert (tables[0].weight is tables[1].weight) == (size == "2B")
    assert model.answer_settings == {"temperature": 0.0, "max_new_tokens": 128}
    with torch.device("meta"):
        merged = model.merger(torch.empty(64, 4, 1280))
    assert merged.shape == (64, tables[0].weight.shape[1])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"positions": "learnt"}, "positions is 'learnt', not one of mrope, sequential"),
        ({"resize": "crop"}, "resize is 'crop', not one of dynamic, square"),
        ({"size": "3B"}, "size is '3B', not one of 2B, 7B, 72B"),
        ({"fps": 0.0}, "fps must be above 0"),
        ({"max_pixels": 10}, "max_pixels is below min_pixels"),
        ({"pixels": 10}, "unknown option pixels"),
        ({"patch_size": 16}, "patch_size is 16, but the vision tower was made for 8"),
        ({"temporal": 1}, "temporal is 1, but the vision tower was made for 2"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        build("qwen2_vl", "world", **options)
