"""What every system inherits, on a random miniature of Video-ChatGPT."""

import pytest
import torch
from torch.testing import assert_close

from vlmcourse.conversation import ask
from vlmcourse.row_packing import pack
from vlmcourse.systems.batch import Media, collate, stack_media, video_features
from vlmcourse.systems.processor import Clip
from vlmcourse.systems.splice import SpliceError
from vlmcourse.systems.stages import set_trainable

QUESTIONS = ("what colour is the circle ?", "where ?", "what happens at first ?", "is the square ?")


def clip_of(num_frames):
    return Clip(torch.arange(float(num_frames)))


def rows_for(model, num_frames, pairs):
    return [model.processor.row(ask(q, a), clip_of(num_frames)) for q, a in pairs]


def batch_of(model, rows, features):
    media = stack_media([video_features(f) for f in features])
    return collate(rows, model.processor.tokenizer.pad_id, media)


def test_loss_is_the_mean_over_tokens_of_the_full_logits(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    rows = rows_for(model, 8, [("where ?", "left"), ("when ?", "one two three")])
    batch = batch_of(model, rows, [torch.randn(8, 64, 96)] * 2)
    result = model(batch)
    logits = model.logits(batch)[:, :-1]
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=-100
    )
    assert_close(result.loss, expected)
    assert result.num_targets == 2 + 4
    assert result.rows.tolist() == [0, 0, 1, 1, 1, 1]


def test_packed_questions_have_the_loss_of_separate_rows(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    pairs = [("where ?", "left"), ("when ?", "one two three"), ("what happens at first ?", "red")]
    features = [torch.randn(8, 64, 96), torch.randn(5, 64, 96)]
    rows = [rows_for(model, 8, pairs), rows_for(model, 5, pairs[:2])]
    separate = model(batch_of(model, rows[0] + rows[1], [features[0]] * 3 + [features[1]] * 2))
    packed = model(batch_of(model, [pack(r) for r in rows], features))
    assert_close(packed.token_loss, separate.token_loss, atol=1e-5, rtol=1e-5)
    assert_close(packed.loss, separate.loss)
    assert packed.rows.tolist() == [0] * 8 + [1] * 6
    assert packed.segments.tolist() == [1, 1, 2, 2, 2, 2, 3, 3, 1, 1, 2, 2, 2, 2]
    model.language_model.set_attn_implementation("eager")
    eager = model(batch_of(model, [pack(r) for r in rows], features))
    assert_close(eager.token_loss, separate.token_loss, atol=1e-5, rtol=1e-5)


def test_neighbours_and_padding_do_not_change_a_rows_loss(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    rows = rows_for(model, 8, [("where ?", "left"), ("what happens at first ?", "one two three")])
    features = [torch.randn(8, 64, 96), torch.randn(8, 64, 96)]
    both = model(batch_of(model, rows, features))
    for row in (0, 1):
        alone = model(batch_of(model, rows[row : row + 1], features[row : row + 1]))
        assert_close(alone.token_loss, both.token_loss[both.rows == row], atol=1e-5, rtol=1e-5)


def test_a_batch_that_trains_nothing_has_loss_zero_and_zero_gradients(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    set_trainable(model, ("projector.*",))
    row = model.processor.question_row("where ?", clip_of(8))
    result = model(batch_of(model, [row], [torch.randn(8, 64, 96)]))
    assert result.num_targets == 0
    assert result.loss.item() == 0
    result.loss.backward()
    assert not model.projector.weight.grad.any()


def test_frames_and_cached_features_give_the_same_loss(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    pixels = torch.rand(2, 8, 3, 64, 64)
    frame_mask = torch.arange(8)[None] < torch.tensor([8, 5])[:, None]
    rows = [rows_for(model, t, [("where ?", "left")])[0] for t in (8, 5)]
    pad = model.processor.tokenizer.pad_id
    fresh = Media(frame_mask, torch.zeros(2, 8), inputs=pixels)
    loss = model(collate(rows, pad, fresh)).loss
    cached = [video_features(model.encode_frames(p[m])) for p, m in zip(pixels, frame_mask)]
    assert_close(model(collate(rows, pad, stack_media(cached))).loss, loss)


def test_text_only_rows_stand_beside_rows_with_a_video(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    text = model.processor.row(ask("where ?", "left", marker=""), clip_of(8))
    seen = rows_for(model, 8, [("when ?", "one")])[0]
    media = stack_media([video_features(torch.randn(8, 64, 96))], rows=[1])
    pad = model.processor.tokenizer.pad_id
    both = model(collate([text, seen], pad, media))
    alone = model(collate([text], pad))
    assert_close(both.token_loss[both.rows == 0], alone.token_loss, atol=1e-5, rtol=1e-5)
    with pytest.raises(SpliceError, match="brings none"):
        model(collate([seen], pad))


def test_wrong_number_of_video_tokens_is_named(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    row = rows_for(model, 8, [("where ?", "left")])[0]
    with pytest.raises(SpliceError, match="row 0 has 72 places for media, but its media have 73"):
        model(batch_of(model, [row], [torch.randn(9, 64, 96)]))


def test_one_by_one_batch_and_shared_prefix_give_the_same_answers(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    watched = model.remember(torch.randn(8, 64, 96), clip_of(8))
    settings = {"max_new_tokens": 10}
    alone = [model.answer(watched, [q], **settings)[0] for q in QUESTIONS]
    assert len(set(alone)) > 1
    assert model.answer(watched, QUESTIONS, **settings) == alone
    assert model.answer(watched, QUESTIONS, share_prefix=False, **settings) == alone
    beams = {"num_beams": 3, **settings}
    assert model.answer(watched, QUESTIONS, **beams) == model.answer(
        watched, QUESTIONS, share_prefix=False, **beams
    )


def slow_answer(model, question, features, steps):
    """The likeliest tokens one by one, each from a fresh forward over the whole row."""
    row, found = model.processor.question_row(question, clip_of(8)), []
    tokenizer = model.processor.tokenizer
    while len(found) < steps and tokenizer.token_id("</s>") not in found:
        grown = type(row)(row.ids + found, row.labels + found, row.kinds + [0] * len(found))
        with torch.no_grad():
            logits = model.logits(batch_of(model, [grown], [features]))
        found.append(int(logits[0, -1].argmax()))
    return tokenizer.decode(found).strip()


def test_greedy_answers_follow_the_training_forward(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    features = torch.randn(8, 64, 96)
    answers = model.answer(model.remember(features, clip_of(8)), QUESTIONS, max_new_tokens=6)
    assert answers == [slow_answer(model, q, features, 6) for q in QUESTIONS]


def test_the_stream_adds_up_to_the_answer(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    watched = model.remember(torch.randn(8, 64, 96), clip_of(8))
    shown = []
    text = model.answer(watched, ["where ?"], streamer=shown.append, max_new_tokens=8)[0]
    assert "".join(shown) == text
    assert len(shown) > 1
    with pytest.raises(ValueError, match="one row"):
        model.answer(watched, QUESTIONS, streamer=shown.append)


def test_generation_refuses_rows_that_end_apart(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    rows = [model.processor.question_row(q, clip_of(8)) for q in QUESTIONS]
    with pytest.raises(ValueError, match="left"):
        model.generate(batch_of(model, rows, [torch.randn(8, 64, 96)] * 4))


def test_earlier_turns_come_first(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    processor = model.processor
    first = processor.question_turn("where ?")
    history = (first, type(first)("assistant", "left"))
    text = processor.tokenizer.inner.decode(
        processor.question_row("when ?", clip_of(8), history).ids
    )
    assert text.endswith("USER: where ? ASSISTANT: left </s> USER: when ? ASSISTANT:")
    assert text.count("<vid_start>") == 1


def test_frozen_parts_stay_in_eval_mode(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    set_trainable(model, ("projector.*",))
    model.train()
    assert model.projector.training
    assert not model.vision_encoder.training
    assert not any(m.training for m in model.vision_encoder.modules())
    set_trainable(model, ("projector.*", "vision_encoder.*"))
    assert model.train().vision_encoder.training


def test_a_system_may_give_its_own_positions(tiny_video_chatgpt):
    """All picture places share one position, as in CogVLM2; training and answering agree on it."""
    model = tiny_video_chatgpt()
    plain = type(model).language_inputs

    def shared_positions(batch):
        inputs = plain(model, batch)
        steps = batch.attention.clone()
        steps[:, 1:] &= ~((batch.kinds[:, 1:] != 0) & (batch.kinds[:, :-1] != 0))
        return inputs | {"position_ids": (steps.long().cumsum(1) - 1).clamp(min=0)}

    features = torch.randn(8, 64, 96)
    watched = model.remember(features, clip_of(8))
    before = model.answer(watched, QUESTIONS, max_new_tokens=8)
    model.language_inputs = shared_positions
    answers = model.answer(watched, QUESTIONS, max_new_tokens=8)
    assert answers != before
    assert answers == [slow_answer(model, q, features, 8) for q in QUESTIONS]
