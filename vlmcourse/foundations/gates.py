"""The gates a foundation has to pass before it is frozen and shipped."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from vlmcourse.foundations.language import packed_logits
from vlmcourse.foundations.text_rows import IGNORED, TextBatch, make_batch
from vlmcourse.foundations.vision import FrameLabels, sample_frame


def exact_answers(model, batch: TextBatch) -> dict[str, list[bool]]:
    """Say for every question, by kind, whether greedy decoding gives exactly the answer.

    Teacher forcing decides this exactly: the greedy answer equals the true one if and only if every
    word of it (and the end token) is the likeliest after the true words before it.
    """
    with torch.no_grad():
        logits = packed_logits(model, batch)
    wrong = (logits.argmax(-1) != batch.labels) & (batch.labels != IGNORED)
    result = defaultdict(list)
    for row, kinds in enumerate(batch.kinds):
        for number, kind in enumerate(kinds, start=1):
            here = batch.segments[row] == number
            result[kind].append(not bool((wrong[row] & here).any()))
    return result


def language_gates(
    model, form: str, batches: int = 40, seed: int = 900_000_000
) -> dict[str, list[bool]]:
    """Ask about held-out scenes described in one form; `{kind: [right, ...]}`."""
    result = defaultdict(list)
    for index in range(batches):
        batch = make_batch(
            seed + index,
            form,
            questions_per_row=24,
            offset_share=0.0,
            captions=0.0,
            held_out="require",
        )
        for kind, right in exact_answers(model, batch).items():
            result[kind] += right
    return result


PROBED = ("colour", "shape", "state", "size", "place", "digit")


def vision_gates(
    encoder, train_frames: int = 2000, test_frames: int = 800, seed: int = 800_000_000
) -> dict[str, list[bool]]:
    """Read words off single patch tokens with a linear (ridge) probe, on held-out scenes.

    The token under a thing's centre is mapped linearly to one-hot words; the probe is fitted on
    scenes like the training ones and tested on scenes with held-out combinations of colour, shape
    and action.

    Returns:
        `{word slot: [right, ...]}`; "state" is the visible action or `still`.
    """
    fitted = _probe_data(encoder, train_frames, seed, "exclude")
    tested = _probe_data(encoder, test_frames, seed + train_frames, "require")
    return read_words(fitted, tested)


Tokens = dict[str, tuple[torch.Tensor, list[str]]]
"""By word slot: tokens `[N, D]`, and the word that each has to say."""


def read_words(fitted: Tokens, tested: Tokens) -> dict[str, list[bool]]:
    """Fit a linear map from tokens to one-hot words, and say which words it reads off others."""
    result = {}
    for slot in PROBED:
        x, words = fitted[slot]
        classes = sorted(set(words))
        targets = torch.eye(len(classes))[[classes.index(w) for w in words]]
        mean, scale = x.mean(0), x.std(0) + 1e-6
        weights = ridge((x - mean) / scale, targets)
        x_test, words_test = tested[slot]
        inputs = torch.cat([(x_test - mean) / scale, torch.ones(len(x_test), 1)], 1)
        guesses = (inputs @ weights).argmax(1).tolist()
        result[slot] = [classes[g] == w for g, w in zip(guesses, words_test, strict=True)]
    return result


def ridge(x, targets, penalty: float = 1.0):
    """Fit `[N, D]` to `[N, C]` by least squares -> weights `[D + 1, C]`, the last row for a 1."""
    x = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    gram = x.T @ x + penalty * torch.eye(x.shape[1], dtype=torch.float64)
    return torch.linalg.solve(gram, x.T @ targets.double()).float()


def _probe_data(encoder, frames: int, seed: int, held_out: str):
    pictures, labels = [], []
    for index in range(frames):
        picture, found = sample_frame(np.random.default_rng(seed + index), held_out)
        pictures.append(picture)
        labels.append(found)
    encoder.eval()
    with torch.no_grad():
        features = torch.cat(
            [
                encoder(encoder.preprocess(torch.from_numpy(np.stack(pictures[i : i + 100]))))
                for i in range(0, frames, 100)
            ]
        )  # [F, P, D]
    side = int(features.shape[1] ** 0.5)
    return probe_tokens(features.unflatten(1, (side, side)), labels)


def probe_tokens(grids: Sequence[torch.Tensor], labels: Sequence[list[FrameLabels]]) -> Tokens:
    """Collect the token under each thing's centre with its words.

    Args:
        grids: of every frame its tokens `[rows, columns, D]`.
        labels: of every frame what stands where.
    """
    data = {slot: ([], []) for slot in PROBED}
    for grid, found in zip(grids, labels, strict=True):
        rows, columns = grid.shape[:2]
        for label in found:
            token = grid[
                min(int(label.y * rows), rows - 1), min(int(label.x * columns), columns - 1)
            ]
            words = {**label.words, "place": f"{label.words['row']} {label.words['column']}"}
            for slot in PROBED:
                if slot in words and not (slot == "place" and "digit" in words):
                    data[slot][0].append(token)
                    data[slot][1].append(words[slot])
    return {slot: (torch.stack(x), words) for slot, (x, words) in data.items()}
