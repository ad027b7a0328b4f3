"""Chat-UniVi: pictures and videos of all lengths in one batch, several media, noise, sizes."""

from dataclasses import replace

import pytest
import torch
from sounding_clips import write_file
from tiny_chat_univi import (
    TINY,
    build_tiny,
    media_of,
    random_clip,
    training_batch,
    vicuna_processor,
)
from torch.testing import assert_close

from vlmcourse.conversation import PICTURE, Conversation, Turn, ask
from vlmcourse.parts.cluster_rules import seeded_noise
from vlmcourse.parts.image_merging import image_tokens
from vlmcourse.row_packing import pack
from vlmcourse.systems import build
from vlmcourse.systems.batch import collate, stack_media
from vlmcourse.systems.stages import set_trainable
from vlmcourse.training.feature_cache import cache_features

PAIRS = [
    ("what colour is circle ?", "red"),
    ("what happens first ?", "blue star jumps"),
    ("how many things are there ?", "3"),
    ("where is moon ?", "top left"),
]
LENGTHS = (1, 8, 2, 5)
VARIANTS = [
    *({}, {"merging": "grid"}, {"merging": "random"}, {"temporal": "contiguous"}),
    *({"clustering": "official"}, {"spatial_rates": (5,)}, {"words": "vicuna"}),
]


@pytest.fixture(params=VARIANTS, ids=lambda x: "-".join(map(str, x.values())) or "world")
def model(request):
    return build_tiny(**request.param)


def clips_of(lengths=LENGTHS):
    return [random_clip(length, seed=i) for i, length in enumerate(lengths)]


def talks():
    return [ask(*pair) for pair in PAIRS]


# ---------------------------------------------------------------- media in batches


def test_a_batch_of_pictures_and_videos_is_as_its_rows_one_by_one(model):
    clips = clips_of()
    together = model(training_batch(model, clips, talks()))
    for row, (clip, talk) in enumerate(zip(clips, talks())):
        alone = model(training_batch(model, [clip], [talk]))
        assert_close(together.token_loss[together.rows == row], alone.token_loss)


def test_a_medium_gets_as_many_tokens_as_its_row_has_places(model):
    for length in (1, 2, 3, 4, 7, 8):
        clip = random_clip(length)
        media = media_of(model, clip)
        features = model._features(media, model.encode_frames)
        _, mask = model.connect(features, media.frame_mask, media.times_s)
        assert int(mask.sum()) == mask.shape[1] == model.processor.tokens_of(clip)


def features_of(model, clip):
    media = media_of(model, clip)
    return model._features(media, model.encode_frames), media


def test_one_picture_is_what_the_picture_branch_gives_and_two_frames_are_two_pictures():
    model = build_tiny()
    features, media = features_of(model, random_clip(2))
    found, _ = model.connect(features, media.frame_mask, media.times_s)
    each = model.projector(image_tokens(features[0], *TINY.values()))  # [2, 12, E]
    assert_close(found[0], each.flatten(0, 1))
    alone, _ = model.connect(features[:, :1], media.frame_mask[:, :1], media.times_s)
    assert_close(alone[0], each[0])


def test_three_frames_are_a_video_whose_events_stand_in_the_order_of_their_first_frames():
    model = build_tiny()
    features, _ = features_of(model, random_clip(1))
    other, _ = features_of(model, random_clip(1, seed=1))
    film = torch.stack([features[0, 0], other[0, 0], features[0, 0], other[0, 0]])[None]
    merged = model.merge(film, torch.ones(1, 4, dtype=torch.bool))
    assert merged.events.ids.tolist() == [[0, 1, 0, 1]]
    turned = model.merge(film[:, [1, 0, 3, 2]], torch.ones(1, 4, dtype=torch.bool))
    assert_close(turned.tokens, merged.tokens.unflatten(1, (2, -1)).flip(1).flatten(1, 2))
    together = model.merge(film[:, [0, 2, 1, 3]], torch.ones(1, 4, dtype=torch.bool))
    assert_close(together.tokens, merged.tokens)  # the order inside an event is lost


class Rounded(torch.nn.Module):
    """A frozen encoder whose features fit half precision, as a cache keeps them."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        self.hidden_size, self.num_patches = encoder.hidden_size, encoder.num_patches
        self.preprocess = encoder.preprocess
        self.requires_grad_(False)

    def forward(self, pixels):
        return (self.encoder(pixels) * 16).round() / 16


def test_features_from_a_cache_give_what_the_film_itself_gives(tmp_path):
    model = build_tiny()
    model.vision_encoder = Rounded(model.vision_encoder).eval()
    files = [write_file(tmp_path / f"{n}.mp4", frames=n, fps=1) for n in (1, 5, 8)]
    cache = cache_features(model, "chat_univi", files, tmp_path / "cache", progress=False)
    for file, talk in zip(files, talks()):
        clip, streams = cache.load(file)
        row = model.processor.row(talk, clip)
        pad = model.processor.tokenizer.pad_id
        cached = model(collate([row], pad, model.media(streams, clip)[0]))
        whole = model(training_batch(model, [model.processor.read(file)], [talk]))
        assert_close(cached.token_loss, whole.token_loss, atol=1e-5, rtol=1e-5)


def test_settings_of_the_merging_leave_a_cache_as_it_is(tmp_path):
    file = write_file(tmp_path / "a.mp4", frames=8, fps=1)
    for settings in ({}, {"spatial_rates": (5, 3)}, {"temporal_rate": 3}, {"merging": "grid"}):
        other = build_tiny(**settings)
        cache = cache_features(other, "chat_univi", [file], tmp_path / "cache", progress=False)
        assert cache.computed == (0 if settings else 1)
    fewer = build_tiny(num_frames=4)
    assert cache_features(fewer, "x", [file], tmp_path / "cache", progress=False).computed == 1


# ---------------------------------------------------------------- several media, texts, questions


@pytest.mark.parametrize("words", ["world", "vicuna"])
def test_several_media_take_their_own_places_wherever_they_stand(words):
    model = build_tiny(words)
    turns = ("<image> what ? <video> and this ?", "a", "<image> and the last ?", "b")
    roles = ("user", "assistant") * 2
    talk = Conversation(tuple(Turn(role, text) for role, text in zip(roles, turns)))
    first, film, last = clips_of((1, 6, 1))
    batch = training_batch(model, [replace(first, others=(film, last))], [talk])
    assert batch.pictures.rows.tolist() == [0, 0, 0]
    expected = torch.cat([tokens_of(model, clip) for clip in (first, film, last)])
    places = batch.kinds[0] == PICTURE
    embedded = model.embed(batch)[0]
    assert_close(embedded[places], expected)
    assert_close(embedded[~places], model.embed_text(batch.ids)[0][~places])
    spans = places.int().diff(prepend=torch.zeros(1, dtype=torch.int))
    assert int((spans == 1).sum()) == (2 if words == "world" else 3)


def tokens_of(model, clip):
    features, media = features_of(model, clip)
    tokens, mask = model.connect(features, media.frame_mask, media.times_s)
    return tokens[mask]


def test_texts_stand_between_pictures_in_a_batch(model):
    clips, pad = clips_of((1, 8)), model.processor.tokenizer.pad_id
    text = model.processor.text_row(ask(*PAIRS[2], marker=""))
    rows = [model.processor.row(talk, clip) for talk, clip in zip(talks(), clips)]
    media = stack_media([media_of(model, clip) for clip in clips], [0, 2])
    result = model(collate([rows[0], text, rows[1]], pad, media))
    alone = model(collate([text], pad))
    assert_close(result.token_loss[result.rows == 1], alone.token_loss)


def test_questions_share_a_video_in_a_packed_row():
    model, clip = build_tiny(), random_clip(8)
    rows = [model.processor.row(talk, clip) for talk in talks()]
    pad = model.processor.tokenizer.pad_id
    packed = model(collate([pack(rows)], pad, media_of(model, clip)))
    for number, row in enumerate(rows, start=1):
        alone = model(collate([row], pad, media_of(model, clip)))
        assert_close(packed.token_loss[packed.segments == number], alone.token_loss)


def test_from_files_to_answers(tmp_path):
    from PIL import Image

    model = build_tiny("vicuna", prompt="simple")
    Image.new("RGB", (30, 20), (200, 30, 30)).save(tmp_path / "a.png")
    film = write_file(tmp_path / "b.mp4", frames=24, fps=4)
    watched = model.watch([tmp_path / "a.png", film])
    assert [clip.num_frames for clip in watched.clip.all] == [1, 6]
    questions = ["what is this?", "where?"]
    answers = model.answer(watched, questions, max_new_tokens=4)
    assert answers == [model.answer(watched, [q], max_new_tokens=4)[0] for q in questions]


def test_an_answer_ends_where_the_prompt_says():
    for prompt, answer in (("v1", "a bike.###Human: and"), ("simple", "a bike.")):
        processor = vicuna_processor(prompt=prompt)
        processor.tokenizer.decode = lambda ids: " a bike.###Human: and"
        assert processor.answer_text([1]) == answer
        assert bool(processor.stop_sequences) == bool(processor.stop_texts) == (prompt != "v1")


# ---------------------------------------------------------------- noise


def official(**settings):
    """A model and a film of 20 frames, each as unlike the others: with two events the official rule
    takes one neighbour, so that noise alone decides."""
    model = build_tiny(clustering="official", temporal_rate=2, **settings)
    features = torch.eye(20)[None, :, None].repeat(1, 1, 64, 5)[..., :96]  # [1, 20, 64, 96]
    return model, features, torch.ones(1, 20, dtype=torch.bool)


def test_the_exact_rule_is_the_same_every_time_and_the_official_one_is_not():
    model, features, mask = official(noise_seed=None)
    torch.manual_seed(0)
    seen = {tuple(model.merge(features, mask).events.ids[0].tolist()) for _ in range(8)}
    assert len(seen) > 1
    exact = build_tiny(temporal_rate=2)
    seen = {tuple(exact.merge(features, mask).events.ids[0].tolist()) for _ in range(4)}
    assert len(seen) == 1


def test_a_seed_makes_the_official_rule_repeat_itself_in_answers_but_not_in_training():
    model, features, mask = official(noise_seed=3)
    first = model.merge(features, mask)
    assert torch.equal(first.events.ids, model.merge(features, mask).events.ids)
    told = model.merge(features, mask, [seeded_noise(3)])
    assert torch.equal(first.events.ids, told.events.ids)
    model.train()
    torch.manual_seed(0)
    seen = {tuple(model.merge(features, mask).events.ids[0].tolist()) for _ in range(8)}
    assert len(seen) > 1


# ---------------------------------------------------------------- learning, sizes


def test_overfits_one_batch():
    model = build_tiny()
    set_trainable(model, ("projector.*", "language_model.*"))
    batch = training_batch(model, clips_of(), talks())
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    first = model(batch).loss.item()
    for _ in range(40):
        optimiser.zero_grad()
        result = model(batch)
        result.loss.backward()
        optimiser.step()
    assert result.loss.item() < 0.05 < first
    assert result.correct.all()


@pytest.mark.parametrize(
    ("options", "projector", "language", "vision"),
    [
        ({}, 1024 * 4096 + 4096, 6_738_415_616, 303_179_776),
        ({"size": "13B"}, 1024 * 5120 + 5120, 13_015_864_320, 303_179_776),
        ({"image_size": 336}, 1024 * 4096 + 4096, 6_738_415_616, 303_507_456),
    ],
)
def test_paper_sizes_on_the_meta_device(options, projector, language, vision):
    model = build("chat_univi", "paper", "meta", **options)
    assert all(p.is_meta for p in model.parameters())
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    assert counts == {"projector": projector, "language_model": language, "vision_encoder": vision}
    assert model.language_model.config.rms_norm_eps == 1e-5
    assert model.answer_settings == {"temperature": 0.2, "max_new_tokens": 1024}
    for stage in model.stages("paper"):
        assert set_trainable(model, stage.trains)


def test_importing_the_system_does_not_import_transformers():
    import subprocess
    import sys

    code = "import sys, vlmcourse.systems.chat_univi; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
