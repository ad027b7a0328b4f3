"""Chat-UniVi's whole path beside transformers' CLIP and Llama, with merging in loops between."""

import math

import pytest
import torch
from tiny_chat_univi import build_tiny, media_of, random_clip
from torch.testing import assert_close

from vlmcourse.conversation import IGNORED, PICTURE, ask
from vlmcourse.systems.batch import collate


def merged(tokens, clusters, k):
    """Density peaks in loops: tokens `[N, D]` to `[clusters, D]`, best centre first, and who went
    where. Of two tokens that are each other's nearest, the first counts as the denser."""
    count, width = tokens.shape
    apart = [[float((a - b).double().norm()) / math.sqrt(width) for b in tokens] for a in tokens]
    density = [math.exp(-sum(d * d for d in sorted(row)[:k]) / k) for row in apart]
    score = []
    for i in range(count):
        denser = [j for j in range(count) if (density[j], -j) > (density[i], -i)]
        nearer = [apart[i][j] for j in denser]
        furthest = max(max(row) for row in apart)
        score.append(density[i] * (min(nearer) if nearer else furthest))
    centres = sorted(range(count), key=lambda i: -score[i])[:clusters]
    home = [min(range(clusters), key=lambda c: apart[centres[c]][i]) for i in range(count)]
    for number, centre in enumerate(centres):
        home[centre] = number
    groups = [[tokens[i] for i in range(count) if home[i] == c] for c in range(clusters)]
    return torch.stack([sum(group) / (len(group) + 1e-6) for group in groups]), home


def picture_scales(patches, config):
    found = [patches]
    for clusters, k in zip(config.spatial_rates, config.spatial_ks):
        found.append(merged(found[-1], clusters, k)[0])
    return found[1:]


def merged_by_hand(frames, config):
    """Features `[T, P, D]` to tokens `[N, D]`."""
    scales = [picture_scales(frame, config) for frame in frames]
    if len(frames) < 3:
        return torch.cat([tokens for own in scales for tokens in own])
    number = math.ceil(len(frames) * config.temporal_rate)
    _, home = merged(frames.mean(1), number, min(config.temporal_k, len(frames)))
    result = []
    for event in sorted(set(home), key=home.index):
        members = [own for own, place in zip(scales, home) if place == event]
        for stage, (clusters, k) in enumerate(zip(config.spatial_rates, config.spatial_ks)):
            result.append(merged(torch.cat([own[stage] for own in members]), clusters, k)[0])
    return torch.cat(result)


@pytest.mark.parametrize("frames", [1, 2, 3, 8])
def test_loss_and_logits_are_those_of_transformers_around_merging_in_loops(frames):
    model = build_tiny("vicuna", seed=1, temporal_k=3)
    clip = random_clip(frames, seed=frames, side=8)
    row = model.processor.row(ask("what is this?", "a red bike."), clip)
    batch = collate([row], model.processor.tokenizer.pad_id, media_of(model, clip))
    with torch.no_grad():
        pixels = model.vision_encoder.preprocess(clip.frames)
        seen = model.vision_encoder.model(pixels, output_hidden_states=True)
        patches = seen.hidden_states[-2][:, 1:]
        tokens = model.projector(merged_by_hand(patches, model.config))
        words = model.language_model.get_input_embeddings()(torch.tensor(row.ids))
        start = row.kinds.index(PICTURE)
        behind = start + row.kinds.count(PICTURE)
        assert behind - start == len(tokens)
        whole = torch.cat([words[:start], tokens, words[behind:]])[None]
        theirs = model.language_model(inputs_embeds=whole, labels=torch.tensor([row.labels]))
        ours = model(batch)
        assert_close(model.logits(batch), theirs.logits, atol=2e-4, rtol=1e-4)
    assert_close(ours.loss, theirs.loss, atol=1e-4, rtol=1e-4)
    assert ours.num_targets == sum(label != IGNORED for label in row.labels) > 3
