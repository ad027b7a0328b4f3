"""Costs of films by length: what is watched is told, and by whom; what is missing is said."""

import pytest
from tiny_trained import learn_by_heart, write_stage

from vlmcourse import cli, trained
from vlmcourse.errors import UserError
from vlmcourse.evaluation import length_cost
from vlmcourse.evaluation.cost import tokens_of
from vlmcourse.evaluation.length_cost import COSTS, Watching, films_of
from vlmcourse.record_form import validate_metric
from vlmcourse.records import read_record
from vlmcourse.world.dataset import SplitSettings, load_split, make_split
from vlmcourse.world.story import StorySettings


@pytest.fixture(scope="module")
def lengths(world, tmp_path_factory):
    """Two lengths of films; the longer ones have twice as many seconds."""
    root = tmp_path_factory.mktemp("longer")
    settings = SplitSettings(story=StorySettings.of_length(16))
    make_split(root, "test", count=3, settings=settings, workers=1, progress=False)
    return {16: root, 8: world}


@pytest.fixture
def shipped(tmp_path, monkeypatch, world, foundations):
    """A folder in the place of the shipped weights, with one system."""
    split = load_split(world / "test")
    model = learn_by_heart(foundations, split.clips[:1], split.questions[:1])
    write_stage(tmp_path / "video_chatgpt", model, 0)
    monkeypatch.setattr(trained, "SHIPPED", tmp_path)


def test_every_film_but_the_first_counts(shipped, lengths, foundations):
    films, checksums = films_of(lengths, 2)
    assert [len(some) for some in films.values()] == [3, 3]
    assert len(set(checksums)) == 2
    found, weights = length_cost.watch(Watching("video_chatgpt", films, foundations=foundations))
    assert list(found) == [8, 16], "shorter films first: memory that was taken stays taken"
    assert weights
    metrics = length_cost.length_metrics("video_chatgpt", found)
    assert {name.split("/")[2] for name in metrics} == set(COSTS) - {"peak_gpu_mib"}
    for name, value in metrics.items():
        validate_metric(name, value, pytest.fail)
        assert value["n"] == (1 if "peak" in name else 2)
    for seconds in (8, 16):
        assert metrics[f"video_chatgpt/{seconds}/frames"]["mean"] == 8
        assert metrics[f"video_chatgpt/{seconds}/tokens"]["mean"] == 74, "72 places and two marks"
        assert metrics[f"video_chatgpt/{seconds}/watch_s"]["mean"] > 0


def test_tokens_are_counted_without_the_question(shipped, world, foundations):
    from vlmcourse.conversation import ask
    from vlmcourse.evaluation.rows import marker

    model = trained.load_trained_system("video_chatgpt", foundations=foundations).model
    clip = model.processor.read(load_split(world / "test").clips[0])
    short, long = "what ?", "what happens first , and what happens last ?"
    counts = [tokens_of(model.processor, ask(q, "", marker(clip)), clip) for q in (short, long)]
    assert counts == [(72, 74), (72, 74)]


def test_films_that_are_not_there_are_named_with_the_command(tmp_path, world):
    with pytest.raises(UserError, match="--duration 64 --root"):
        films_of({64: tmp_path / "none"}, 1)
    with pytest.raises(UserError, match="8 films, 9 are needed"):
        films_of({8: world}, 8)


def test_the_command_leaves_a_record_of_all_systems(tmp_path, monkeypatch, lengths, capsys):
    values = {"frames": [8.0], "tokens": [74.0], "watch_s": [0.5], "answer_s": [0.25]}

    def measured(tasks, report):
        metrics, weights = {}, {}
        for task in tasks:
            report(task.system)
            found = {seconds: {**values, "peak_mib": [3.5]} for seconds in sorted(task.films)}
            metrics |= length_cost.length_metrics(task.system, found)
            weights[task.system] = "abc"
        return metrics, weights

    monkeypatch.setattr(length_cost, "measure", measured)
    monkeypatch.setattr(length_cost, "LENGTHS", lengths)
    monkeypatch.setattr(length_cost, "FILMS", 2)
    path = tmp_path / "lengths.json"
    command = ["timings", "--what", "lengths", "--device", "cpu", "--record", str(path)]
    assert cli.main(command) == 0
    record = read_record(path)
    assert set(record["settings"]["weights"]) == set(length_cost.SYSTEMS)
    assert record["settings"]["films"] == {"16": 2, "8": 2}
    assert record["metrics"]["ma_lmm/16/answer_s"]["mean"] == 0.25
    table = length_cost.lengths_table(record).splitlines()
    assert table[0] == "| system, film | frames | tokens | watch s | answer s | peak mib |"
    assert len(table) == 2 + 2 * len(length_cost.SYSTEMS)
