"""The connector study: exactly N tokens each, equal terms for all, and what each loses of time."""

import fnmatch

import pytest
import torch
from sounding_clips import write_file
from tiny_connectors import TALKS, build_tiny, connected, film, training_batch
from torch.testing import assert_close

from vlmcourse.backbones.foundations import load_image_qformer
from vlmcourse.conversation import PICTURE
from vlmcourse.errors import UserError
from vlmcourse.parts.qformer import QFormer
from vlmcourse.systems import build
from vlmcourse.systems.connectors import begin_pretrained, size_of, spread
from vlmcourse.systems.connectors_config import (
    BUDGETS,
    SOURCES,
    WAYS,
    ConnectorsConfig,
    qformer_config,
    spending,
    spending_table,
)
from vlmcourse.systems.connectors_stages import WORLD_STAGES
from vlmcourse.systems.connectors_ways import MODULES, build_way, middle_patches
from vlmcourse.systems.stages import set_trainable
from vlmcourse.training.feature_cache import cache_features
from vlmcourse.training.settings import StageSettings, stage_files

IMPOSSIBLE = {
    "pooling": {128: "72 in all", 256: "72 in all"},
    "merge4": dict.fromkeys((16, 64, 256), "four become one, .* give 8, 32, 128"),
    "gated_adapter": dict.fromkeys((16, 64, 256), "four become one, .* give 8, 32, 128"),
}
SPENT = [(c, n) for c in WAYS for n in BUDGETS if n not in IMPOSSIBLE.get(c, {})]


@pytest.fixture(scope="module", params=WAYS)
def model(request):
    return build_tiny(connector=request.param, tokens=8)


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize(("connector", "tokens"), SPENT)
def test_a_film_becomes_exactly_as_many_tokens_as_were_asked_for(connector, tokens):
    way = build_way(ConnectorsConfig(connector, tokens), 64, 96)
    found, mask = way(torch.stack([film(seed=1), film(seed=2)]), torch.zeros(2, 8))
    assert found.shape == (2, tokens, way.width)
    assert mask.shape == (2, tokens)
    assert bool(mask.all())
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("connector", IMPOSSIBLE)
def test_what_cannot_be_spent_is_refused_with_the_reason(connector):
    for tokens, reason in IMPOSSIBLE[connector].items():
        with pytest.raises(
            UserError, match=f"{connector} cannot spend {tokens} tokens: .*{reason}"
        ):
            ConnectorsConfig(connector, tokens)
        assert isinstance(spending_table()[connector][tokens], str)


def test_the_table_says_how_every_token_is_spent():
    table = spending_table()
    assert set(table) == set(MODULES) == set(SOURCES)
    for connector, tokens in SPENT:
        spent = table[connector][tokens]
        counted = {
            "projection": lambda s: s["frames"] * s["patches_of_each"],
            "pooling": lambda s: s["temporal"] + s["spatial"],
            "clustering": lambda s: s["events"] * sum(s["tokens_of_each"]),
            "merge4": lambda s: 512 // 4 ** s["rounds"],
            "gated_adapter": lambda s: 512 // 4 ** s["rounds"],
        }.get(connector, lambda s: s["queries"])
        assert counted(spent) == tokens


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"connector": "poling"}, "connector is 'poling', not one of projection, pooling"),
        ({"connector": "projection", "tokens": 12}, "equally many patches of each of 8 frames"),
        ({"connector": "projection", "tokens": 1024}, "equally many patches"),
        ({"connector": "clustering", "tokens": 24}, "4 events of 2, 4, 8, 16, 32, 64 tokens"),
        ({"connector": "qformer", "tokens": 0}, "a query at least"),
        ({"start": "pretrained"}, "start=pretrained is for qformer and memory_bank: pooling"),
        ({"time": "hours"}, "time is 'hours'"),
        ({"parameters": "many"}, "parameters is 'many'"),
        ({"num_frames": 0}, "at least 1"),
    ],
)
def test_bad_settings_are_refused(settings, reason):
    with pytest.raises(UserError, match=reason):
        ConnectorsConfig(**settings)


def test_projection_keeps_the_middles_of_an_even_grid():
    assert middle_patches(64, 64).tolist() == list(range(64))
    assert middle_patches(64, 1).tolist() == [27]  # of the four in the middle the first
    assert middle_patches(64, 4).tolist() == [9, 13, 41, 45]


# ---------------------------------------------------------------- batches


def test_a_batch_of_films_of_several_lengths_is_as_its_rows_one_by_one(model):
    films = [film(length, seed) for seed, length in enumerate((8, 1, 5, 8))]
    together = model(training_batch(model, films))
    for row, (one, talk) in enumerate(zip(films, TALKS)):
        alone = model(training_batch(model, [one], [talk]))
        assert_close(together.token_loss[together.rows == row], alone.token_loss)


def test_a_row_has_a_place_for_every_token():
    for tokens in (8, 32):
        model = build_tiny(connector="pooling", tokens=tokens)
        batch = training_batch(model, [film(8), film(3)])
        assert (batch.kinds == PICTURE).sum(1).tolist() == [tokens, tokens]


def test_short_films_are_repeated_and_full_ones_stay_as_they_are():
    frames = torch.arange(8.0)[None, :, None, None].expand(2, 8, 1, 1)
    mask = torch.arange(8) < torch.tensor([[8], [3]])
    found, times = spread(frames, mask, torch.arange(8.0).expand(2, 8), 8)
    assert found[0, :, 0, 0].tolist() == list(range(8))
    assert found[1, :, 0, 0].tolist() == times[1].tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    with pytest.raises(ValueError, match="without frames"):
        spread(frames, mask & False, times, 8)


# ---------------------------------------------------------------- equal terms


@pytest.mark.parametrize(("connector", "tokens"), SPENT)
def test_all_train_as_many_parameters_as_a_q_former(connector, tokens):
    rival = build_tiny(connector="qformer", tokens=tokens)
    found = build_tiny(connector=connector, tokens=tokens)
    wanted = size_of(rival.connector)
    assert abs(size_of(found.connector) - wanted) < 0.001 * wanted


@pytest.mark.parametrize(
    ("connector", "tokens", "wanted"),
    [
        *((c, 8, 8 * 96 + 97 * 32) for c in ("projection", "pooling", "clustering")),
        ("merge4", 128, 8 * 96 + 385 * 32),
        ("merge4", 8, 8 * 96 + 2 * 385 * 96 + 385 * 32),
    ],
)
def test_without_making_up_each_has_what_its_paper_has(connector, tokens, wanted):
    model = build_tiny(connector=connector, tokens=tokens, parameters="own")
    assert size_of(model.connector) == wanted


def test_one_step_moves_all_of_the_connector_and_nothing_else(model):
    model = build_tiny(connector=model.config.connector, tokens=8)
    named = set(set_trainable(model, WORLD_STAGES[-1].trains))
    assert named == set(fnmatch.filter([n for n, _ in model.named_parameters()], "connector.*"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model(training_batch(model, [film(8, s) for s in range(4)])).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    moved = {n for n, value in model.state_dict().items() if not value.equal(before[n])}
    still = {name for name in named if name.endswith("key.bias")}  # a softmax does not see these
    assert named - still <= moved <= named


def test_all_settings_share_one_feature_cache(tmp_path):
    file = write_file(tmp_path / "a.mp4", frames=8, fps=1)
    for number, settings in enumerate(
        [
            *({"connector": c, "tokens": 8} for c in WAYS),
            *({"tokens": 64}, {"time": "none"}, {"parameters": "own"}),
            {"connector": "qformer", "start": "pretrained"},
        ]
    ):
        cache = cache_features(build_tiny(**settings), "connectors", [file], tmp_path / "cache")
        assert cache.computed == (1 if number == 0 else 0)
    fewer = build_tiny(num_frames=4)
    assert cache_features(fewer, "connectors", [file], tmp_path / "cache").computed == 1


def test_every_film_gives_the_same_number_of_frames(tmp_path):
    processor = build_tiny().processor
    for frames in (3, 8, 40):
        clip = processor.read(write_file(tmp_path / f"{frames}.mp4", frames=frames, fps=4))
        assert clip.num_frames == 8
        assert clip.times_s.tolist() == sorted(clip.times_s.tolist())


# ---------------------------------------------------------------- time

ORDER = torch.tensor([2, 0, 1, 3, 7, 5, 6, 4])


def test_only_what_keeps_time_by_itself_notices_the_order_of_frames():
    """Without a word on time: queries and means over time see a set of frames; the rest sees a
    row."""
    for connector, tokens in [(c, 8) for c in WAYS] + [("pooling", 16)]:
        model = build_tiny(connector=connector, tokens=tokens, time="none")
        one = film()
        plain, turned = connected(model, one, one[ORDER])
        if connector == "qformer":
            assert_close(plain, turned)
        elif connector == "pooling":
            places = tokens // 2
            assert_close(plain[-places:], turned[-places:])
            moments = plain[:places][ORDER] if tokens == 16 else None
            if moments is not None:  # one a frame: they change places with the frames
                assert_close(moments, turned[:places])
            assert not torch.allclose(plain[:places], turned[:places])
        elif connector in ("projection", "merge4", "gated_adapter"):
            assert_close(plain[ORDER], turned)  # one token a frame
        else:
            assert not torch.allclose(plain, turned)


@pytest.mark.parametrize("time", ["frames", "seconds"])
def test_told_the_time_every_connector_notices_the_order(model, time):
    told = build_tiny(connector=model.config.connector, tokens=8, time=time)
    one = film()
    plain, turned = connected(told, one, one[ORDER])
    away = torch.cdist(turned, plain).amin(1)  # to the most alike token, wherever it stands
    assert float(away.detach().max()) > 5e-5  # a new Q-Former looks everywhere alike


def test_numbers_of_frames_and_seconds_begin_alike_and_mean_different_things():
    one, late = film(), torch.arange(8.0) + 4
    models = {time: build_tiny(connector="projection", time=time) for time in ("frames", "seconds")}
    for name, value in models["frames"].connector.state_dict().items():
        if name != "time.weight":
            models["seconds"].connector.state_dict()[name].copy_(value)
    frames, seconds = (connected(models[time], one) for time in ("frames", "seconds"))
    assert_close(frames, seconds)
    assert_close(connected(models["frames"], one, times_s=late), frames)
    assert not torch.allclose(connected(models["seconds"], one, times_s=late), seconds)


# ---------------------------------------------------------------- pretrained start


@pytest.mark.parametrize("tokens", [8, 16, 40])
def test_a_pretrained_start_is_the_image_q_former_with_other_queries(tokens):
    torch.manual_seed(0)
    image, new = load_image_qformer(), QFormer(qformer_config(tokens))
    begin_pretrained(new, image)
    for name, value in image.state_dict().items():
        if name != "queries":
            assert torch.equal(new.state_dict()[name], value)
    kept = min(tokens, 16)
    assert torch.equal(new.queries[:, :kept], image.queries[:, :kept])
    assert len(new.queries[0].unique(dim=0)) == tokens  # copies could never part
    if tokens == 16:
        one = film()[None, 0]
        assert_close(new(one).tokens, image(one).tokens)


def test_a_pretrained_start_is_built_on_request():
    known = load_image_qformer().state_dict()["layers.0.self_attention.query.weight"]
    for start in ("fresh", "pretrained"):
        model = build("connectors", connector="memory_bank", tokens=16, start=start)
        weight = model.connector.way.qformer.layers[0].self_attention.query.weight
        assert torch.equal(weight, known) is (start == "pretrained")


# ---------------------------------------------------------------- learning


def test_every_connector_learns_four_answers_by_heart(model):
    model = build_tiny(connector=model.config.connector, tokens=8)
    set_trainable(model, WORLD_STAGES[-1].trains)
    batch = training_batch(model, [film(8, seed) for seed in range(4)])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=4e-3)
    first = found = model(batch)
    for _ in range(200):
        if bool(found.correct.all()):
            break
        optimiser.zero_grad()
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        found = model(batch)
    assert bool(found.correct.all())
    assert not bool(first.correct.all())
    assert float(found.loss.detach()) < 0.3 * float(first.loss.detach())


# ---------------------------------------------------------------- stages and registration


def test_the_stage_files_say_what_the_system_says():
    files = stage_files("connectors", "world")
    assert len(files) == len(WORLD_STAGES)
    for path, stage in zip(files, WORLD_STAGES, strict=True):
        settings = StageSettings([f"--config={path}"]).config.model
        assert vars(settings.stage) == vars(stage)
        assert settings.options is None


def test_there_is_one_size():
    with pytest.raises(UserError, match="preset world alone"):
        build("connectors", preset="paper")
    with pytest.raises(UserError, match="preset world alone"):
        build_tiny().stages("paper")


def test_spending_follows_the_size_of_the_film():
    assert spending("merge4", 16, frames=4) == {"frames": 4, "rounds": 2, "tokens_of_each": 4}
    assert spending("pooling", 8, frames=4) == {"temporal": 4, "spatial": 4}
    with pytest.raises(UserError, match="events"):
        spending("clustering", 3, frames=2)
