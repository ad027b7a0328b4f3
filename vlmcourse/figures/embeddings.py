"""One space for sound and pictures: a map of it, and how well one finds the other."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from vlmcourse.figures.style import INK, PALETTE, SOFT, fit_png, house, new_figure

MAP_PNG_BYTES = 40_000


def plane_of(vectors: np.ndarray) -> np.ndarray:
    """The plane in which vectors of length one spread most (two principal axes).

    Args:
        vectors: float [N, D], N > 1.

    Returns:
        float [N, 2]; the signs are chosen so that the same vectors give the same picture.
    """
    unit = _unit(vectors)
    axes = np.linalg.svd(unit - unit.mean(0), full_matrices=False)[2][:2]  # [2, D]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    return (unit - unit.mean(0)) @ (axes * signs[:, None]).T


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


@house
def embedding_map(
    sounds: np.ndarray,
    pictures: np.ndarray,
    sound_kinds: Sequence[str],
    picture_kinds: Sequence[str],
    close_gap: bool = False,
    title: str | None = None,
) -> Figure:
    """Embeddings of sounds (discs) and of pictures (squares) in one plane, coloured by kind.

    Args:
        sounds: float [N, D], of any length: only directions are drawn.
        pictures: float [M, D].
        sound_kinds, picture_kinds: [N] and [M] names; what belongs together has the same name.
        close_gap: take each modality's mean away first, which often sets them apart.
        title: above the map.

    Raises:
        ValueError: another number of names than of embeddings.
    """
    if len(sounds) != len(sound_kinds) or len(pictures) != len(picture_kinds):
        raise ValueError("every embedding needs the name of its kind")
    both = [_unit(one) for one in (sounds, pictures)]
    if close_gap:
        both = [one - one.mean(0) for one in both]
    points = plane_of(np.concatenate(both))
    kinds = list(dict.fromkeys([*sound_kinds, *picture_kinds]))
    names = np.array([*sound_kinds, *picture_kinds])
    of_sound = np.arange(len(points)) < len(sounds)
    figure = new_figure(7.4, 4.4)
    axis = figure.subplots()
    for kind, colour in zip(kinds, list(PALETTE.values()) * len(kinds)):
        for chosen, marker, size in ((of_sound, "o", 22), (~of_sound, "s", 20)):
            x, y = points[chosen & (names == kind)].T
            look = {"marker": marker, "s": size, "alpha": 0.75, "linewidths": 0.6}
            face = colour if marker == "o" else "none"
            axis.scatter(x, y, facecolors=face, edgecolors=colour, **look)
        axis.scatter([], [], marker="o", color=colour, label=kind)
    for marker, face, label in (("o", SOFT, "sound"), ("s", "none", "picture")):
        axis.scatter([], [], marker=marker, facecolors=face, edgecolors=SOFT, label=label)
    axis.set(xticks=[], yticks=[], title=title or "")
    axis.spines[:].set(visible=True, color="#d1d5db")
    axis.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside right upper", handletextpad=0.3)
    return fit_png(figure, MAP_PNG_BYTES)


def found_by(similarity: np.ndarray, kinds: Sequence[str], other_kinds: Sequence[str]) -> float:
    """Share of rows whose likeliest column is of the same kind.

    Args:
        similarity: float [N, M].
        kinds, other_kinds: [N] and [M] names of rows and of columns.
    """
    best = np.asarray(similarity).argmax(1)
    return float(np.mean(np.asarray(other_kinds)[best] == np.asarray(kinds)))


@house
def retrieval_matrix(
    similarity: np.ndarray,
    sound_kinds: Sequence[str],
    picture_kinds: Sequence[str],
    title: str | None = None,
) -> Figure:
    """How alike every sound and every picture are, by kind, and how often each finds its own.

    Args:
        similarity: float [N, M], sounds down and pictures across.
        sound_kinds, picture_kinds: [N] and [M] names of what is heard and of what is seen.
        title: above the picture.

    Raises:
        ValueError: names that do not fit the matrix.
    """
    similarity = np.asarray(similarity, np.float64)
    if similarity.shape != (len(sound_kinds), len(picture_kinds)):
        raise ValueError(
            f"{len(sound_kinds)} sounds and {len(picture_kinds)} pictures need a matrix of that "
            f"shape, not {similarity.shape}"
        )
    order = list(dict.fromkeys([*sound_kinds, *picture_kinds]))
    down, across = (
        np.array(sorted(range(len(kinds)), key=lambda i: order.index(kinds[i])))
        for kinds in (list(sound_kinds), list(picture_kinds))
    )
    figure = new_figure(5.9, 4.6)
    axis = figure.subplots()
    shown = similarity[np.ix_(down, across)]
    image = axis.imshow(shown, aspect="auto", cmap="viridis", interpolation="nearest")
    for kinds, turned, set_ticks, line in (
        ([sound_kinds[i] for i in down], 0, axis.set_yticks, axis.axhline),
        ([picture_kinds[i] for i in across], 30, axis.set_xticks, axis.axvline),
    ):
        starts = [i for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1]]
        middles = [(a + b - 1) / 2 for a, b in zip(starts, [*starts[1:], len(kinds)])]
        turn = {"rotation": turned, "ha": "right", "rotation_mode": "anchor"} if turned else {}
        set_ticks(middles, [kinds[i] for i in starts], **turn)
        for start in starts[1:]:
            line(start - 0.5, color="white", linewidth=0.8)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set(xlabel="pictures", ylabel="sounds", title=title or "")
    figure.colorbar(image, ax=axis, pad=0.015, aspect=24, label="cosine")
    by_sound = found_by(similarity, sound_kinds, picture_kinds)
    by_picture = found_by(similarity.T, picture_kinds, sound_kinds)
    told = f"nearest is of its kind: picture for a sound {100 * by_sound:.0f} %, "
    told += f"sound for a picture {100 * by_picture:.0f} %"
    figure.supxlabel(told, fontsize=9, color=INK)
    return fit_png(figure, MAP_PNG_BYTES)
