"""Figures: each draws what it was given, fits under 60 kB, and refuses what it cannot show."""

import base64
import io

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from vlmcourse import figures
from vlmcourse.figures import PALETTE, diagrams, png_bytes, style

LIMIT = 60_000


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def made_up_clip(count=8, height=64, width=64):
    """Dark noisy frames with a red square that slides."""
    frames = noise(count, height, width, 3) // 20 + 15
    for t in range(count):
        frames[t, 10 : 10 + height // 4, 3 * t : 3 * t + width // 4] = (220, 40, 40)
    return frames


def texts(figure):
    """Every text a figure shows."""
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(mpl.text.Text) if t.get_text()]


def picture(figure):
    return np.asarray(Image.open(io.BytesIO(png_bytes(figure))).convert("RGB"))


# ---- style


def test_the_palette_is_told_apart_by_colour_blind_readers():
    """Simulate red blindness and green blindness (Viénot's matrices): every pair stays apart."""
    protan = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    deutan = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    colours = np.array([mpl.colors.to_rgb(c) for c in list(PALETTE.values())[:6]])
    for matrix in (np.eye(3), protan, deutan):
        seen = (colours**2.2 @ matrix.T).clip(0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        assert apart[~np.eye(6, dtype=bool)].min() > 0.12


def test_small_pictures_keep_all_colours_and_resolution():
    figure = figures.film_strip(made_up_clip(2))
    assert figure.colours is None
    assert figure.dpi == style.DPI


def test_large_pictures_lose_colours_then_resolution():
    figure = figures.new_figure(3, 3)
    figure.subplots().imshow(made_up_clip(1, 200, 200)[0])
    whole = len(png_bytes(figure))
    assert len(png_bytes(figures.fit_png(figure, int(whole * 0.8)))) <= whole * 0.8
    assert figure.colours in style.PALETTES
    assert figure.dpi == style.DPI
    figure.colours = min(style.PALETTES)
    fewest = len(png_bytes(figure))
    assert len(png_bytes(figures.fit_png(figure, int(fewest * 0.7)))) <= fewest * 0.7
    assert figure.dpi < style.DPI


def test_what_cannot_fit_is_refused():
    figure = figures.new_figure(9, 9)
    figure.subplots().imshow(noise(400, 400, 3))
    with pytest.raises(ValueError, match="show fewer frames"):
        figures.fit_png(figure)


def test_figures_do_not_pile_up_in_pyplot():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figures.family_tree()
    assert plt.get_fignums() == before


def test_a_callers_own_settings_survive():
    before = dict(mpl.rcParams)
    figures.loss_curves({"a": [3.0, 2.0, 1.0]})
    assert dict(mpl.rcParams) == before


def test_a_notebook_shows_a_figure_once():
    source = "from vlmcourse import figures\nfigures.use_house_style()\nfigures.family_tree()"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3").execute()
    shown = [out["data"] for out in notebook.cells[0].outputs if "image/png" in out.get("data", {})]
    assert len(shown) == 1
    png = base64.b64decode(shown[0]["image/png"])
    assert png == png_bytes(figures.family_tree())


# ---- files


def test_film_strip_shows_frames_times_and_captions():
    frames = made_up_clip(4)
    figure = figures.film_strip(frames, [0, 0.5, 1, 1.5], ["", "slides right", "", ""], title="T")
    shown = texts(figure)
    assert "T" in shown
    assert "0.0 s" in shown
    assert any("0.5 s\nslides" in text for text in shown)
    drawn = [image.get_array() for image in figure.findobj(mpl.image.AxesImage)]
    assert len(drawn) == 4
    assert all((a == b).all() for a, b in zip(drawn, frames))
    assert len(png_bytes(figure)) < LIMIT


@pytest.mark.parametrize("shape", [(1, 64, 64), (16, 64, 64), (8, 90, 160), (10, 160, 90)])
def test_film_strips_of_any_shape_fit(shape):
    figure = figures.film_strip(made_up_clip(*shape), np.arange(shape[0]))
    assert len(png_bytes(figure)) < LIMIT
    assert picture(figure).shape[1] > picture(figure).shape[0] or shape[0] == 1


@pytest.mark.parametrize(
    ("frames", "times", "complaint"),
    [
        (made_up_clip(3), [0, 1], "3 frames but 2 times_s"),
        (made_up_clip(3) / 255, None, "uint8"),
        (made_up_clip(3)[0], None, r"uint8 \(64, 64, 3\)"),
        (made_up_clip(3)[:0], None, "uint8"),
    ],
)
def test_film_strip_refuses(frames, times, complaint):
    with pytest.raises(ValueError, match=complaint):
        figures.film_strip(frames, times)


@pytest.mark.parametrize("channels", [None, 2])
def test_waveform_spans_the_signal(channels):
    samples = np.sin(np.arange(32000) / 5).astype(np.float32) * 0.5
    if channels:
        samples = np.stack([samples] * channels)
    figure = figures.waveform(samples, 16000, [(1.0, "bell")], title="Sound")
    (axis,) = figure.axes
    assert axis.get_xlim() == (0, 2.0)
    assert 0.5 < axis.get_ylim()[1] < 0.7
    assert " bell" in texts(figure)
    assert len(png_bytes(figure)) < LIMIT


def test_waveform_of_silence_and_of_a_few_samples():
    for count in (1, 5, 4000):
        figures.waveform(np.zeros(count, dtype=np.float32), 16000)


def test_spectrogram_axes_are_seconds_and_hertz():
    hertz = np.geomspace(50, 7600, 40)
    figure = figures.spectrogram(noise(40, 300) / 255, 0.01, hertz, [(1.0, "bell")])
    axis = figure.axes[0]
    assert axis.get_xlim() == (0, 3.0)
    assert "1k" in texts(figure)
    place = dict(zip([t.get_text() for t in axis.get_yticklabels()], axis.get_yticks()))["1k"]
    assert hertz[int(place)] <= 1000 <= hertz[int(place) + 1]
    assert len(png_bytes(figure)) < LIMIT
    with pytest.raises(ValueError, match="40 bands but 3 frequencies"):
        figures.spectrogram(np.zeros((40, 3)), 0.01, [1, 2, 3])
    with pytest.raises(ValueError, match=r"\[M, T\]"):
        figures.spectrogram(np.zeros(40), 0.01)


def test_heat_lies_on_the_right_frame_and_place():
    frames = np.zeros((3, 64, 64, 3), dtype=np.uint8)
    maps = np.zeros((3, 8, 8))
    maps[1, 0, 7] = 1.0
    figure = figures.heat_over_frames(frames, maps, [0, 1, 2], title="Attention", label="weight")
    overlays = [a.findobj(mpl.image.AxesImage)[1] for a in figure.axes[:3]]
    assert [o.get_array().max() for o in overlays] == [0, 1, 0]
    assert len({o.get_clim() for o in overlays}) == 1, "one colour scale for all frames"
    assert overlays[0].get_extent() == [-0.5, 63.5, 63.5, -0.5]
    seen = overlays[1].get_alpha()
    assert seen[0, 7] == pytest.approx(0.8), "strong weights cover the frame"
    assert seen[0, 6] == pytest.approx(0.15), "weak ones let it show"
    assert len(png_bytes(figure)) < LIMIT
    figures.heat_over_frames(frames, np.ones((3, 8, 8)))
    with pytest.raises(ValueError, match="3 frames need maps"):
        figures.heat_over_frames(frames, maps[:2])


# ---- results


def test_loss_curves_smooth_and_compare():
    raw = np.array([4.0, 2.0, 2.0, 2.0])
    figure = figures.loss_curves({"mine": (np.array([0, 10, 20, 30]), raw)}, floor=(1.0, "blind"))
    lines = figure.axes[0].get_lines()
    assert (lines[0].get_ydata() == raw).all()
    assert (lines[1].get_xdata() == [0, 10, 20, 30]).all()
    smoothed = lines[1].get_ydata()
    assert smoothed[0] == pytest.approx(4.0)
    assert (np.diff(smoothed) < 0).all()
    assert {"mine", "blind", "step"} <= set(texts(figure))
    assert len(png_bytes(figure)) < LIMIT


def test_curves_come_from_lightnings_csv(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss,val/loss\n0,9,2.5,\n0,19,,1.5\n0,29,2.0,\n")
    steps, losses = figures.read_curve(path, "train/loss")
    assert steps.tolist() == [9, 29]
    assert losses.tolist() == [2.5, 2.0]
    with pytest.raises(KeyError, match="it has epoch, step, train/loss, val/loss"):
        figures.read_curve(path, "loss")


def test_accuracy_bars_show_means_intervals_and_chance():
    table = {
        "ours": {"colour": {"mean": 0.9, "low": 0.85, "high": 0.93}, "when": 0.4},
        "blind": {"colour": {"mean": 0.2, "low": None, "high": None}},
    }
    figure = figures.accuracy_bars(table, {"colour": 1 / 6, "when": 0.125}, title="T")
    axis = figure.axes[0]
    heights = [bar.get_height() for bar in axis.patches]
    assert heights[:3] == pytest.approx([90, 40, 20])
    assert np.isnan(heights[3])
    (segment,) = axis.collections[0].get_segments()
    assert sorted(segment[:, 1]) == pytest.approx([85, 93])
    dashed = [line for line in axis.get_lines() if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == pytest.approx([100 / 6, 12.5])
    assert {"ours", "blind", "blind guess", "colour", "when"} <= set(texts(figure))
    with pytest.raises(ValueError, match="at least one"):
        figures.accuracy_bars({})


def test_many_families_and_systems_fit():
    families = [f"family_{i}" for i in range(14)]
    table = {f"system {i}": dict.fromkeys(families, 0.1 * i) for i in range(6)}
    assert len(png_bytes(figures.accuracy_bars(table))) < LIMIT


@pytest.mark.parametrize("families", [3, 14])
def test_title_and_legend_of_bars_never_meet(families):
    table = {
        f"a system's name {i}": dict.fromkeys(map(str, range(families)), 0.5) for i in range(4)
    }
    figure = figures.accuracy_bars(table, title="Exact answers, 95 % intervals, three seeds")
    figure.canvas.draw()
    (legend,) = figure.legends
    assert legend.get_window_extent().width <= figure.bbox.width
    titles = [t for t in figure.findobj(mpl.text.Text) if t.get_text().startswith("Exact")]
    assert len(titles) == 1
    assert not titles[0].get_window_extent().overlaps(legend.get_window_extent())


def made_up_stages():
    falling = np.linspace(3, 1, 60)
    return {
        "1: captions": {"pictures": falling, "sound": (np.arange(0, 120, 2), falling / 2)},
        "2: questions": {"sound": falling[:20]},
    }


def test_stages_stand_side_by_side_on_one_scale():
    figure = figures.training_curves_by_stage(
        made_up_stages(), {"2: questions": (0.9, "blind")}, smoothing=0, title="T"
    )
    first, second = figure.axes
    assert first.get_ylim() == second.get_ylim()
    steps, losses = first.get_lines()[1].get_data()
    assert (steps[-1], losses[-1]) == (118, 0.5)
    assert first.get_position().width > second.get_position().width
    line = next(one for one in second.get_lines() if len(one.get_xdata()) == 20)
    assert line.get_color() == first.get_lines()[1].get_color(), "a label keeps its colour"
    assert {"1: captions", "2: questions", "pictures", "sound", "blind", "T"} <= set(texts(figure))
    assert len(png_bytes(figure)) < LIMIT
    with pytest.raises(ValueError, match="at least one curve"):
        figures.training_curves_by_stage({"1": {}})


def test_variants_have_a_panel_a_family_and_a_bar_each():
    table = {
        f"{n} queries": {"order": {"mean": n / 40, "low": n / 50, "high": n / 35}, "when": 0.4}
        for n in (4, 8, 16, 32)
    }
    figure = figures.accuracy_by_variant(table, chance={"order": 0.25}, title="T")
    order, when = figure.axes
    assert [bar.get_width() for bar in order.patches] == pytest.approx([10, 20, 40, 80])
    tops = [bar.get_y() for bar in order.patches]
    assert tops == sorted(tops, reverse=True), "the first variant stands on top"
    segments = order.collections[0].get_segments()
    assert sorted(segments[3][:, 0]) == pytest.approx([64, 3200 / 35])
    assert [t.get_text() for t in order.get_yticklabels()] == list(table)
    dashed = [line for line in order.get_lines() if line.get_linestyle() == "--"]
    assert dashed[0].get_xdata()[0] == 25
    assert not [line for line in when.get_lines() if line.get_linestyle() == "--"]
    assert len(png_bytes(figure)) < LIMIT
    with pytest.raises(ValueError, match="at least one variant"):
        figures.accuracy_by_variant({})


# ---- diagrams


def test_token_strip_shows_every_run_and_the_total():
    runs = [("special", "<s>", 1), ("picture", "frames", 356), ("answer", "red circle", 4)]
    figure = figures.token_strip(runs, title="Layout")
    shown = texts(figure)
    assert {"<s>", "frames", "356", "red circle", "361 tokens", "answer (trained)"} <= set(shown)
    assert "sound" not in shown, "the legend names only what is there"
    assert len(png_bytes(figure)) < LIMIT
    with pytest.raises(ValueError, match="unknown kind smell"):
        figures.token_strip([("smell", "x", 1)])


def test_long_strips_break_into_lines():
    one = figures.token_strip([("text", "word", 1)] * 3)
    many = figures.token_strip([("text", "word", 1)] * 40)
    assert many.get_size_inches()[1] > one.get_size_inches()[1] + 1
    (axis,) = many.axes
    boxes = [p.get_bbox() for p in axis.patches]
    assert all(b.x1 <= axis.get_xlim()[1] for b in boxes)


def test_the_family_tree_names_all_seven_with_known_parents():
    names = {m.name for m in diagrams.SYSTEMS}
    assert len(names) == 7
    known = {m.name for m in diagrams.ANCESTORS}
    for member in diagrams.SYSTEMS:
        assert set(member.parents) <= known
        parents = [a for a in diagrams.ANCESTORS if a.name in member.parents]
        assert all(parent.month <= member.month for parent in parents)
        assert member.idea
        assert member.colour in diagrams.BRIDGES
    shown = texts(figures.family_tree())
    assert names | known <= set(shown)
    assert "06/2023" in shown
    assert len(png_bytes(figures.family_tree())) < LIMIT
