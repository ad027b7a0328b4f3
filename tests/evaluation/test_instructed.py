"""Systems that look at a video with the question in mind: a row a question, trained and asked."""

import numpy as np
import pytest
import torch
from tiny_ma_lmm import build_tiny

from vlmcourse.evaluation import probes
from vlmcourse.evaluation.conditions import chosen_conditions
from vlmcourse.systems.batch import collate, stack_media
from vlmcourse.systems.stages import set_trainable
from vlmcourse.training.data import VideoInstructionData
from vlmcourse.training.sources import Source
from vlmcourse.world.dataset import load_split

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def prepared(world, cache, together, batch_size=10):
    model = build_tiny(image_size=64)
    set_trainable(model, model.stages("world")[1].trains)
    source = Source(world / "train" / "conversations.json", evidence=("picture", "motion"))
    data = VideoInstructionData([source], questions_per_video=together, cache=cache)
    data.prepare(model, "ma_lmm", batch_size, 0, progress=False)
    return data


@pytest.fixture(scope="module")
def learnt(world, cache):
    """A model that knows some answers of the test clips, and the questions."""
    model = build_tiny(image_size=64)
    asked = probes.load_probes(load_split(world / "test"), model, "ma_lmm", cache, progress=False)
    set_trainable(model, ["qformer.*", "projector.*", "language_model.*"])
    rows = probes.question_rows(model, asked, asked.clips)
    parts = []
    for i in range(3):
        media = model.question_media(
            model.remember(asked.streams[i], asked.clips[i]), [q.text for q in asked.asked[i]]
        )[0]
        parts.append(media)
    batch = collate([r for some in rows[:3] for r in some], 3, stack_media(parts))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=0.01)
    for _ in range(25):
        optimiser.zero_grad()
        model(batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
    return model.eval(), asked


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("together", [1, 4])
def test_every_question_has_a_row_and_brings_its_words(world, cache, together):
    data = prepared(world, cache, together)
    model, batch = data.model, data.batch(0)
    assert batch.segments is None
    assert len(batch.pictures) == len(batch.ids)
    assert batch.pictures.rows is None
    told = model.processor.instructions.words
    tokenizer = model.processor.tokenizer
    for row in range(len(batch.ids)):
        ids, mask = (batch.pictures.extras[n][row] for n in ("instruction", "instruction_mask"))
        words = [told[i] for i in ids[mask]]
        asked = tokenizer.decode(batch.ids[row][batch.labels[row] == -100])
        assert words[1:-1] == [w for w in asked.split() if w in told]
    first = batch.pictures.extras["new_video"].tolist()
    assert (sum(first) == len(first)) is (together == 1)
    for row in range(1, len(first)):
        same = batch.pictures.features[row].equal(batch.pictures.features[row - 1])
        assert same or first[row]  # a video may by chance come twice in a row


def test_questions_together_are_questions_apart(world, cache):
    data = prepared(world, cache, 4)
    batch = data.batch(1)
    together = data.model(batch)
    apart = batch.pictures.extras | {"new_video": torch.ones(len(batch.ids), dtype=torch.bool)}
    batch.pictures.extras.update(apart)
    torch.testing.assert_close(together.token_loss, data.model(batch).token_loss)


def test_validation_reads_every_question_once(world, cache):
    model = build_tiny(image_size=64)
    set_trainable(model, model.stages("world")[1].trains)
    source = Source(world / "train" / "conversations.json", evidence=("picture",))
    data = VideoInstructionData([source], [source], questions_per_video=8, cache=cache)
    data.prepare(model, "ma_lmm", 20, 0, progress=False)
    assert sum(len(batch.ids) for batch in data.val_batches()) == len(source.samples())


# ---------------------------------------------------------------- evaluation


def test_teacher_forcing_says_what_generation_says(learnt):
    model, asked = learnt
    said = probes.generated_answers(model, asked)
    truly = [a == q.answer for x, y in zip(said, asked.asked) for a, q in zip(x, y, strict=True)]
    rows = probes.question_rows(model, asked, asked.clips)
    decided = probes.exact_answers_apart(model, rows, asked.asked, asked.clips, asked.streams)
    assert decided.tolist() == truly
    assert 0.1 < np.mean(truly) < 0.9, "the sample holds both right and wrong answers"


def test_answers_do_not_depend_on_the_batches(learnt, monkeypatch):
    model, asked = learnt
    rows = probes.question_rows(model, asked, asked.clips)
    told = (model, rows, asked.asked, asked.clips, asked.streams)
    once = probes.exact_answers_apart(*told)
    monkeypatch.setattr(probes, "ROWS_AT_ONCE", 3)
    assert probes.exact_answers_apart(*told).tolist() == once.tolist()


def test_every_condition_is_asked(learnt):
    model, asked = learnt
    conditions = chosen_conditions(None, asked.given)
    answers = probes.ask_all([model], asked, conditions, asked.questions, permutations=2)
    count = len(asked.questions)
    assert {right.shape for right in answers.right.values()} == {(1, count)}
    right = {name: values.mean() for name, values in answers.right.items()}
    assert right["system"] > right["other_clip"]
    alone = probes.ask_all([model], asked, ["blind", "no_video"]).right
    for name in ("blind", "no_video"):  # as for every other system: text alone, packed
        assert answers.right[name].tolist() == alone[name].tolist()
    opposite = answers.opposite["system"]
    assert not bool(((opposite > 0) & (answers.right["system"] > 0)).any())
