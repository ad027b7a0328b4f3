"""Pictures of sound on its way to tokens, and of the space that it shares with pictures."""

import matplotlib as mpl
import numpy as np
import pytest

from vlmcourse.figures import png_bytes
from vlmcourse.figures.embeddings import embedding_map, found_by, plane_of, retrieval_matrix
from vlmcourse.figures.sound_path import sound_path

RNG = np.random.default_rng(0)
SPANS = np.array([[0.75 * i, 0.75 * i + 2] for i in range(8)])


def texts(figure):
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(mpl.text.Text) if t.get_text()]


def path(**changes):
    given = {
        "samples": RNG.normal(0, 0.1, 8 * 4000),
        "sample_rate": 4000,
        "spans_s": SPANS,
        "mels": RNG.normal(0, 1, (8, 128, 204)),
        "norms": {"sound": np.full(8, 20.0), "pictures": np.ones(8)},
        "tokens": RNG.normal(0, 1, (8, 128)),
        "heard": [(3, 4, "bell")],
        "title": "path",
    }
    return sound_path(**(given | changes))


def test_every_clip_is_a_bar_on_the_clock_and_a_spectrogram():
    figure = path()
    wave, clips, *mels = figure.axes
    bars = [patch for patch in clips.patches if isinstance(patch, mpl.patches.FancyBboxPatch)]
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars] == [
        pytest.approx(tuple(span)) for span in SPANS
    ]
    assert wave.get_xlim() == clips.get_xlim() == (0, 8.0)
    assert (
        sum(bool(axis.images) and axis.images[0].get_array().shape == (128, 204) for axis in mels)
        == 8
    )
    assert len({axis.images[0].get_clim() for axis in mels[:8]}) == 1, "one scale for all"
    assert {"path", " bell", "in no clip", "8 clips", "pictures"} <= set(texts(figure))
    assert len(png_bytes(figure)) < 60_000


def test_what_no_clip_reaches_is_hatched():
    hatched = [patch for patch in path().axes[1].patches if patch.get_hatch()]
    assert [patch.get_x() for patch in hatched] == [pytest.approx(7.25)]
    whole = path(spans_s=SPANS * 8 / 7.25)
    assert "in no clip" not in texts(whole)


def test_lengths_are_the_bars_under_their_names():
    axis = next(a for a in path().axes if a.get_ylabel() == "length of embedding")
    assert sorted({bar.get_height() for bar in axis.patches}) == [1.0, 20.0]
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["sound", "pictures"]


def test_stereo_is_averaged_and_missing_spectrograms_refused():
    path(samples=RNG.normal(0, 0.1, (2, 8000)), spans_s=SPANS[:1], mels=np.zeros((1, 128, 204)))
    with pytest.raises(ValueError, match="8 clips but 3 spectrograms"):
        path(mels=np.zeros((3, 128, 204)))


# ---- one space


def one_space(kinds=6, of_each=10, gap=0.6):
    centres, apart = RNG.normal(0, 1, (kinds, 32)), RNG.normal(0, gap, 32)
    names = [f"kind {i}" for i in range(kinds) for _ in range(of_each)]
    sounds = centres.repeat(of_each, 0) + RNG.normal(0, 0.3, (len(names), 32)) + apart
    pictures = centres.repeat(of_each, 0) + RNG.normal(0, 0.3, (len(names), 32)) - apart
    return sounds, pictures, names


def test_the_plane_keeps_the_widest_spread_and_is_repeatable():
    vectors = np.zeros((40, 5))
    vectors[:, 0], vectors[:, 3] = 1, np.linspace(-0.2, 0.2, 40)
    points = plane_of(vectors * RNG.uniform(1, 9, (40, 1)))
    assert np.ptp(points[:, 0]) > 0.3 > 10 * np.ptp(points[:, 1])
    assert np.allclose(plane_of(vectors), plane_of(vectors))


@pytest.mark.parametrize("close_gap", [False, True])
def test_a_map_marks_sounds_and_pictures_of_each_kind(close_gap):
    sounds, pictures, names = one_space()
    figure = embedding_map(sounds, pictures, names, names, close_gap, title="map")
    drawn = [len(group.get_offsets()) for group in figure.axes[0].collections]
    assert sum(drawn) == len(sounds) + len(pictures)
    assert {"map", "sound", "picture", "kind 0", "kind 5"} <= set(texts(figure))
    assert len(png_bytes(figure)) < 60_000
    with pytest.raises(ValueError, match="name of its kind"):
        embedding_map(sounds, pictures, names[1:], names)


def test_the_gap_between_the_modalities_can_be_taken_away():
    sounds, pictures, names = one_space(gap=1.5)

    def distance(close):
        groups = embedding_map(sounds, pictures, names, names, close).axes[0].collections
        centres = [np.asarray(g.get_offsets()).mean(0) for g in groups if len(g.get_offsets())]
        return np.mean([np.linalg.norm(a - b) for a, b in zip(centres[::2], centres[1::2])])

    assert distance(True) < 0.3 * distance(False)


def test_a_matrix_is_sorted_by_kind_and_tells_what_finds_what():
    sounds, pictures, names = one_space(3, 4, gap=0.0)
    mixed = RNG.permutation(len(names))
    similarity = sounds[mixed] @ pictures.T
    figure = retrieval_matrix(similarity, [names[i] for i in mixed], names, title="find")
    shown = figure.axes[0].images[0].get_array()
    order = sorted(
        range(12), key=lambda i: list(dict.fromkeys(names[j] for j in mixed)).index(names[i])
    )
    columns = [names[i] for i in order]
    assert np.mean([columns[j] for j in shown.argmax(1)] == np.array(columns)) == 1.0
    said = next(text for text in texts(figure) if text.startswith("nearest"))
    assert said == "nearest is of its kind: picture for a sound 100 %, sound for a picture 100 %"
    assert len(png_bytes(figure)) < 60_000
    with pytest.raises(ValueError, match="need a matrix of that shape"):
        retrieval_matrix(similarity[:5], names, names)


def test_what_is_found_is_counted_by_rows():
    similarity = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]])
    assert found_by(similarity, ["a", "b", "b"], ["a", "b"]) == pytest.approx(2 / 3)
