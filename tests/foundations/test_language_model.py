"""The small language model: its tokenizer, its rows, its first layers, its recipe."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from vlmcourse.errors import UserError
from vlmcourse.foundations.gates import exact_answers
from vlmcourse.foundations.language import (
    LanguageSize,
    TextWorld,
    build_language_model,
    continue_from,
    packed_logits,
)
from vlmcourse.foundations.text_rows import (
    FORMS,
    IGNORED,
    PAD_ID,
    WORD_ID,
    collate,
    description,
    ids,
    make_batch,
    make_row,
)
from vlmcourse.foundations.tokenizer import build_tokenizer
from vlmcourse.parts.packing import PREFIX
from vlmcourse.world.language import balanced_questions, storyboard
from vlmcourse.world.story import SOUNDS, Sound, sample_story

SMALL = LanguageSize(hidden_size=32, num_layers=2, num_heads=4, mlp_size=48)


@pytest.fixture(scope="module")
def small_model():
    torch.manual_seed(0)
    return build_language_model(SMALL).eval()


def test_tokenizer_reads_a_natural_question_as_the_terse_one():
    tokenizer = build_tokenizer()
    natural = tokenizer("What colour is the circle?", add_special_tokens=False).input_ids
    assert natural == ids("what colour is circle ?")
    assert tokenizer("zebra", add_special_tokens=False).input_ids == [WORD_ID["<unk>"]]


def test_chat_template_writes_the_trained_form():
    tokenizer = build_tokenizer()
    chat = [
        {"role": "user", "content": "what glows ?"},
        {"role": "assistant", "content": "red circle"},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert text == "<s> USER: what glows ? ASSISTANT: red circle </s>"
    prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == "<s> USER: what glows ? ASSISTANT:"
    assert tokenizer.decode(ids("red circle")) == "red circle"


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_is_made_from_its_seed_alone(form):
    one, two, other = make_batch(4, form), make_batch(4, form), make_batch(5, form)
    assert torch.equal(one.bags, two.bags)
    assert torch.equal(one.labels, two.labels)
    assert one.bags.shape != other.bags.shape or not torch.equal(one.bags, other.bags)


def test_labels_are_the_next_words_of_answers():
    story = sample_story(1)
    questions = balanced_questions([story], 0)[0]
    rng = torch.Generator()
    batch = collate([make_row(story, questions, "events", 0, rng, text_weight=0.1)])
    for number, q in enumerate(questions, start=1):
        here = batch.segments[0] == number
        labels = batch.labels[0][here]
        trained = [int(t) for t in labels[labels != IGNORED]]
        assert trained == [*ids(q.answer), WORD_ID["</s>"]]
    prefix = batch.segments[0] == PREFIX
    assert torch.equal(batch.labels[0][prefix][:-1], batch.bags[0, :, 0][prefix][1:])


def test_fused_rows_say_the_same_as_the_storyboard():
    story = sample_story(2)
    bags, fused = description(story, "fused", 0, np.random.default_rng(0))
    words = {i for bag in bags for i in bag}
    assert words - {WORD_ID["said"]} <= set(ids(storyboard(story)))
    assert {i for i in ids(storyboard(story)) if i != WORD_ID[","]} <= words | {WORD_ID["."]}
    assert any(fused)


def _sound_slots(bags):
    """Positions of the fused sounds, each as `(position, kind, second or None)`."""
    kinds, numbers = ({WORD_ID[w]: w for w in words} for words in (SOUNDS, map(str, range(64))))
    found = []
    for position, bag in enumerate(bags):
        kind = [kinds[i] for i in bag if i in kinds]
        if kind:
            second = [int(numbers[i]) for i in bag if i in numbers]
            found.append((position, *kind, *(second or [None])))
    return found


def test_timed_sounds_stand_at_their_second_or_in_front_of_everything():
    """As the branches of a system that hears stand: sound before the pictures or among them."""
    story = replace(sample_story(2), sounds=(Sound(2, "drum"), Sound(5, "bell")))
    placed = []
    for seed in range(60):
        bags, fused = description(story, "fused_timed", 10, np.random.default_rng(seed))
        slots = _sound_slots(bags)
        assert [slot[1:] for slot in slots] == [("drum", 12), ("bell", 15)]
        assert all(fused[position] for position, *_ in slots)
        first = [position for position, *_ in slots] == [0, 1]
        placed.append(first)
        if not first:
            seconds = [
                {int(w) for w in map(_word, bag) if w.isdigit()} for bag in bags[: slots[1][0]]
            ]
            assert not any(16 in told for told in seconds)
            assert any(14 in told for told in seconds)
    assert 0.15 < np.mean(placed) < 0.45


def _word(index):
    return next(word for word, i in WORD_ID.items() if i == index)


def test_sounds_without_time_inside_stand_at_their_second_only():
    story = replace(sample_story(2), sounds=(Sound(2, "drum"),))
    for seed in range(30):
        bags, _ = description(story, "fused", 0, np.random.default_rng(seed))
        position, kind, second = _sound_slots(bags)[0]
        assert (kind, second) == ("drum", None)
        headers = [i for i, bag in enumerate(bags) if bag == [WORD_ID[":"]]]
        assert headers[2] < position < headers[3]


def test_what_is_heard_is_asked_and_captioned():
    kinds, texts = set(), []
    for seed in range(6):
        batch = make_batch(seed, "fused_timed", rows=4, questions_per_row=40, captions=1.0)
        kinds |= {kind for row in batch.kinds for kind in row}
        texts += [" ".join(_word(int(i)) for i in row[:, 0]) for row in batch.bags]
    assert {"seen_heard", "during", "sound_before", "sound_when", "caption"} <= kinds
    captions = [t.split("what is heard ASSISTANT: ")[1] for t in texts if "what is heard" in t]
    assert captions
    for told in captions:
        words = told.split(" </s>")[0].split(" ")
        assert words == ["nothing"] or (words[0] in SOUNDS and words[1] == "at")


def test_first_layer_starts_looking_back(small_model):
    """Head h of the untrained first layer attends h + 1 positions back most of all."""
    from vlmcourse.foundations.language import embed_bags

    small_model.set_attn_implementation("eager")
    batch = make_batch(0, "events", rows=2)
    length = 60
    embeds = embed_bags(small_model, batch.bags[:, :length])
    with torch.no_grad():
        out = small_model(inputs_embeds=embeds, output_attentions=True)
    small_model.set_attn_implementation("sdpa")
    attention = out.attentions[0].mean(0)  # [H, L, L]
    for head in range(SMALL.num_heads):
        distances = [length - 1 - int(attention[head, -1].argmax())]
        assert distances == [head + 1]


def test_packed_questions_give_the_numbers_of_separate_rows(small_model):
    story = sample_story(3)
    questions = balanced_questions([story], 0)[0][:4]
    packed = collate([make_row(story, questions, "events", 0, None, 0.1)])
    with torch.no_grad():
        together = packed_logits(small_model, packed)[0]
        for number, question in enumerate(questions, start=1):
            alone = collate([make_row(story, [question], "events", 0, None, 0.1)])
            logits = packed_logits(small_model, alone)[0]
            here, there = packed.segments[0] == number, alone.segments[0] == 1
            torch.testing.assert_close(together[here], logits[there], atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing(small_model):
    rows = [
        make_row(s, balanced_questions([s], 0)[0][:3], "events", 0, None, 0.1)
        for s in (sample_story(3), sample_story(8))
    ]
    short = min(range(2), key=lambda i: len(rows[i].labels))
    with torch.no_grad():
        together = packed_logits(small_model, collate(rows))[short]
        alone = packed_logits(small_model, collate([rows[short]]))[0]
    torch.testing.assert_close(together[: len(alone)], alone, atol=1e-5, rtol=1e-5)


def test_exact_answers_agree_with_generation(small_model):
    """Teacher forcing calls an answer exact if and only if greedy generation gives it."""
    from vlmcourse.foundations.language import embed_bags

    model = build_language_model(SMALL)
    story = sample_story(5)
    questions = balanced_questions([story], 0)[0]
    batch = collate([make_row(story, questions, "events", 0, None, 0.0)])
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):  # half-way to knowing this row by heart
        logits = packed_logits(model, batch)
        kept = batch.labels != IGNORED
        loss = torch.nn.functional.cross_entropy(logits[kept], batch.labels[kept])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        claimed = exact_answers(model, batch)
        right = sum(sum(answers) for answers in claimed.values())
        if right > len(questions) // 3:
            break
    assert 0 < right < len(questions)
    model.eval()
    for question in questions:
        row = collate([make_row(story, [question], "events", 0, None, 0.0)])
        stop = int((row.bags[0, :, 0] == WORD_ID["ASSISTANT:"]).nonzero()[-1]) + 1
        prompt = embed_bags(model, row.bags[:, :stop])
        with torch.no_grad():
            made = model.generate(
                inputs_embeds=prompt,
                attention_mask=torch.ones(1, stop, dtype=torch.long),
                max_new_tokens=16,
                do_sample=False,
                pad_token_id=PAD_ID,
            )[0].tolist()
        wanted = [*ids(question.answer), WORD_ID["</s>"]]
        assert (made[: len(wanted)] == wanted) == claimed[question.kind][0]


def test_mixture_decides_the_form():
    data = TextWorld(first_steps=3, first_mixture=(1, 0, 0, 0), mixture=(0, 0, 0, 1), rows=2)
    assert not any(bool(data.batch(step).fused.any()) for step in range(3))
    assert all(bool(data.batch(step).fused.any()) for step in range(3, 6))


def test_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    from vlmcourse.foundations.language import LanguageFoundation
    from vlmcourse.foundations.training import train_foundation

    tiny = (
        "--model.init_args.size.hidden_size=32",
        "--model.init_args.size.num_layers=2",
        "--model.init_args.size.mlp_size=48",
        "--data.init_args.rows=2",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.max_steps=6",
    )

    def train(folder):
        return train_foundation("language_model", folder, tiny, save_every=2)

    whole, whole_losses = train(tmp_path / "whole")
    step = LanguageFoundation.training_step

    def killed_in_the_fourth_step(self, batch, index):
        if self.trainer.global_step == 3:
            raise KeyError("killed")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageFoundation, "training_step", killed_in_the_fourth_step)
        with pytest.raises(KeyError):
            train(tmp_path / "killed")
    resumed, losses = train(tmp_path / "killed")
    assert losses[-3:] == whole_losses[-3:]
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_model_of_fewer_words_is_continued(tmp_path):
    size = LanguageSize(hidden_size=32, num_layers=2, mlp_size=48)
    earlier = build_language_model(size)
    earlier.resize_token_embeddings(len(WORD_ID) - 3, mean_resizing=False)
    earlier.save_pretrained(tmp_path)
    tokenizer = json.loads(build_tokenizer().backend_tokenizer.to_str())
    newest = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)[-3:]
    for word in newest:
        del tokenizer["model"]["vocab"][word]
    build_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    grown = build_language_model(size)
    before = grown.get_input_embeddings().weight[-3:].clone()
    continue_from(grown, tmp_path)
    table = grown.get_input_embeddings().weight
    assert torch.equal(table[:-3], earlier.get_input_embeddings().weight)
    assert torch.equal(table[-3:], before)
    assert torch.equal(grown.lm_head.weight[:-3], earlier.lm_head.weight)
    with pytest.raises(UserError, match="there"):
        continue_from(build_language_model(LanguageSize(hidden_size=64, num_layers=2)), tmp_path)
