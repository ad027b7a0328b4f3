"""The picture of the README: one clip of the small world and what the trained system says of it.

python -m vlmcourse.figures.overview
"""

import io
import sys
import tempfile
from pathlib import Path

from vlmcourse.errors import UserError

OUT = Path(__file__).resolve().parents[2] / "data" / "figures" / "overview.png"
SEED = 20
KINDS = ("colour", "where", "count", "exists", "which", "direction", "when", "first")


def main(argv: list[str] | None = None) -> int:
    """Draw the picture into `data/figures/overview.png`, or the path given."""
    out = Path(argv[0]) if argv else OUT
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(overview())
    return 0


def overview(seed: int = SEED) -> bytes:
    """Draw a test clip with its sound and lines, and answers of the shipped Video-ChatGPT.

    Args:
        seed: of the story, drawn by the rules of the test split.

    Returns:
        PNG.
    """
    import matplotlib.image
    import matplotlib.pyplot as plt

    from vlmcourse.figures.style import INK, PALETTE, new_figure, png_bytes
    from vlmcourse.trained import load_trained_system
    from vlmcourse.world.files import write_clip
    from vlmcourse.world.language import balanced_questions
    from vlmcourse.world.story import StorySettings, sample_story

    full = StorySettings(
        things=(3, 4), events=(3, 3), sounds=(2, 2), lines=(1, 1), held_out="require"
    )
    story = sample_story(seed, full)
    asked = {q.kind: q for q in balanced_questions([story], seed)[0]}
    questions = [asked[kind] for kind in KINDS if kind in asked]
    model = load_trained_system("video_chatgpt").model
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(story, folder, "clip")
        answers = model.answer(model.watch(clip.video), [q.text for q in questions])
    sheet = matplotlib.image.imread(io.BytesIO(_sheet(story)))
    tall, text = 9.3 * sheet.shape[0] / sheet.shape[1], 0.24 * (len(questions) + 1)
    figure = new_figure(9.3, tall + text)
    top, low = figure.subplots(2, 1, height_ratios=[tall, text])
    top.imshow(sheet)
    for axis in (top, low):
        axis.axis("off")
    low.set(xlim=(0, 1), ylim=(len(questions), -1))
    for x, head in ((0.02, "asked"), (0.55, "answered"), (0.8, "true")):
        low.text(x, -0.5, head, color=INK, weight="bold", va="center", fontsize=9)
    for y, (q, said) in enumerate(zip(questions, answers, strict=True), start=0):
        colour = PALETTE["green" if said == q.answer else "red"]
        low.text(0.02, y + 0.4, q.text, va="center", fontsize=9)
        low.text(0.55, y + 0.4, said, color=colour, va="center", fontsize=9)
        low.text(0.8, y + 0.4, q.answer, va="center", fontsize=9)
    made = png_bytes(figure)
    plt.close(figure)
    return made


def _sheet(story) -> bytes:
    from vlmcourse.figures.style import png_bytes
    from vlmcourse.figures.timelines import clip_sheet
    from vlmcourse.world.language import event_words
    from vlmcourse.world.render import render_frame
    from vlmcourse.world.sound import render_sound

    frames = [render_frame(story, s + 0.5, 160, 160) for s in range(story.duration_s)]
    lanes = {
        "happens": [(e.start_s, e.end_s, event_words(story, e)) for e in story.events],
        "heard": [(s.start_s, s.start_s + 1, s.kind) for s in story.sounds],
        "said": [(x.start_s, x.start_s + 2, story.line_text(x)) for x in story.lines],
    }
    return png_bytes(clip_sheet(frames, story.duration_s, render_sound(story), lanes))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
