"""Chat: a file and a question in, an answer out as it grows; what cannot be used is one line."""

import io

import numpy as np
import pytest
import torch
from tiny_trained import learn_by_heart, write_foundations, write_real_clip, write_stage

from vlmcourse import cli
from vlmcourse.chat import Chat, unknown_words
from vlmcourse.chat_files import official_files
from vlmcourse.chat_media import looks_like_the_world
from vlmcourse.errors import UserError
from vlmcourse.trained import load_trained_system, weights_folder
from vlmcourse.world.dataset import make_split
from vlmcourse.world.story import sample_story

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Two clips, and the folders of a tiny run that knows both by heart."""
    root = tmp_path_factory.mktemp("chat")
    split = make_split(root, "val", count=2, workers=1, progress=False)
    foundations = write_foundations(root / "foundations")
    model = learn_by_heart(foundations, split.clips, split.questions)
    return split, foundations, write_stage(root / "run", model)


@pytest.fixture
def ask(tiny):
    """Run the command in this process: `ask(question, ...)` -> exit code."""
    split, foundations, run = tiny
    weights = ["--weights", str(run), "--foundations", str(foundations), "--device", "cpu"]

    def run_chat(*words, clip=split.clips[0]):
        return cli.main(["chat", *weights, str(clip), *words])

    return run_chat


@pytest.fixture
def real_clip(tmp_path):
    return write_real_clip(tmp_path / "real.mp4")


def test_a_question_is_answered_on_standard_output(tiny, ask, capsys):
    split, foundations, run = tiny
    question = split.questions[0][0]
    assert ask(question.text) == 0
    out, err = capsys.readouterr()
    model = load_trained_system("video_chatgpt", run, foundations=foundations).model
    (expected,) = model.answer(model.watch(split.clips[0]), [question.text])
    assert out == expected + "\n"
    assert out.strip(), "an answer is there"
    assert err == "", "a clip of the world and known words need no note"


def test_the_answer_is_shown_while_it_grows(tiny):
    split, foundations, run = tiny
    model = load_trained_system("video_chatgpt", run, foundations=foundations).model
    watched = model.watch(split.clips[0])
    long = next(q for q in split.questions[0] if q.kind == "first")
    parts = []
    answer = Chat(model, watched, max_new_tokens=6).ask(long.text, parts.append)
    assert "".join(parts).strip() == answer
    assert len(parts) == len(answer.split()) > 1, "one stretch a word"


def test_words_that_the_model_does_not_know_are_named(ask, capsys):
    assert ask("What colour is the zebra near a circle, zebra?") == 0
    err = capsys.readouterr().err
    assert err == "note: words this small model does not know: zebra, near\n"


def test_a_real_clip_is_answered_with_a_note(ask, real_clip, capsys):
    assert ask("what happens first?", clip=real_clip) == 0
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    assert "has only ever seen the procedural world" in err


@pytest.mark.parametrize("size", [(64, 64), (96, 54), (320, 180)])
def test_the_world_is_told_from_other_pictures(size):
    from vlmcourse.world.render import render_frames

    width, height = size
    for seed in range(12):
        frames = render_frames(sample_story(seed), fps=1, width=width, height=height)
        assert looks_like_the_world(frames), seed
    rng = np.random.default_rng(0)
    assert not looks_like_the_world(rng.integers(0, 256, (8, height, width, 3), dtype=np.uint8))
    assert not looks_like_the_world(np.full((8, height, width, 3), 128, dtype=np.uint8))
    moving = rng.integers(0, 47, (8, 1, 1, 3), dtype=np.uint8).repeat(height, 1).repeat(width, 2)
    assert not looks_like_the_world(moving), "dark, but it does not stand still"


def typed(monkeypatch, text):
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_without_a_question_lines_are_asked_and_remembered(tiny, ask, monkeypatch, capsys):
    split, foundations, run = tiny
    first, second = (q.text for q in split.questions[0][:2])
    typed(monkeypatch, f"{first}\n\n  {second}  \n")
    assert ask() == 0
    model = load_trained_system("video_chatgpt", run, foundations=foundations).model
    talk = Chat(model, model.watch(split.clips[0]), max_new_tokens=48)
    said = [talk.ask(first), talk.ask(second)]
    assert capsys.readouterr().out.splitlines() == said
    assert [turn.role for turn in talk.history] == ["user", "assistant"] * 2
    assert talk.history[0].text == f"<video>\n{first}"
    assert talk.history[2].text == second


def test_earlier_turns_are_read(tiny):
    """The second answer is that of a prompt that holds the first round."""
    split, foundations, run = tiny
    model = load_trained_system("video_chatgpt", run, foundations=foundations).model
    watched = model.watch(split.clips[0])
    talk = Chat(model, watched)
    talk.ask("how many things are there ?")
    rows = []
    row = model.processor.question_row
    model.processor.question_row = lambda *args: rows.append(row(*args)) or rows[-1]
    talk.ask("what happens first ?")
    text = model.processor.tokenizer.inner.decode(rows[0].ids)
    assert text.count("<vid_start>") == 1
    assert text.index("how many things") < text.index(talk.history[1].text + " </s>")
    assert text.index("</s>") < text.index("USER: what happens first")
    assert text.endswith(" ASSISTANT:")


@pytest.mark.parametrize("end", ["/quit\nwhat happens last ?\n", ""])
def test_quit_and_the_end_of_input_end_it(ask, monkeypatch, capsys, end):
    typed(monkeypatch, "what happens first ?\n" + end)
    assert ask() == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_forget_starts_anew_and_a_bad_line_is_no_end(ask, monkeypatch, capsys):
    question = "what happens first ?"
    typed(monkeypatch, f"{question}\nwhat is <video> ?\n/forget\n{question}\n")
    assert ask() == 0
    out, err = capsys.readouterr()
    first, again = out.splitlines()
    assert first == again
    assert err == "error: <video> has a meaning of its own and may not stand in a question\n"


def bad_files(tmp_path):
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.touch()
    text.write_text("<html>not found</html>")
    return {
        "missing": (tmp_path / "gone.mp4", "no such file"),
        "folder": (tmp_path, "this is a folder"),
        "empty": (empty, "the file is empty"),
        "text": (text, "holds text, not a recording"),
    }


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text"])
def test_a_bad_file_is_one_line_and_code_2(ask, tmp_path, capsys, kind):
    path, complaint = bad_files(tmp_path)[kind]
    assert ask("what happens first ?", clip=path) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"error: {path}: {complaint}")


def test_a_cut_off_file_is_one_line_and_code_2(tiny, ask, tmp_path, capsys):
    content = tiny[0].clips[0].read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(content[: len(content) * 2 // 3])
    assert ask("what happens first ?", clip=path) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: ")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["  "], "the question is empty"),
        (["what ?", "--device", "tpu"], "unknown device 'tpu'"),
        (["what ?", "--system", "nothing"], "unknown system 'nothing'"),
        (["what ?", "--weights", "gone"], "gone: no such file or folder"),
    ],
)
def test_bad_options_are_one_line_and_code_2(ask, capsys, words, complaint):
    assert ask(*words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert complaint in err


@pytest.mark.parametrize("option", ["--max-new-tokens=0", "--temperature=-1", "--temperature=nan"])
def test_settings_out_of_range_are_refused(ask, capsys, option):
    with pytest.raises(SystemExit) as stop:
        ask("what ?", option)
    assert stop.value.code == 2
    assert "argument" in capsys.readouterr().err


def test_the_longest_answer_is_kept(ask, capsys):
    assert ask("what happens first ?", "--max-new-tokens", "1") == 0
    assert len(capsys.readouterr().out.split()) <= 1


def test_sampling_is_possible(ask, capsys):
    said = set()
    for seed in range(4):
        torch.manual_seed(seed)
        assert ask("what happens last ?", "--temperature", "5") == 0
        said.add(capsys.readouterr().out)
    assert len(said) > 1


def test_a_picture_asks_a_silent_system_too(ask, tmp_path, capsys):
    from PIL import Image

    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "dark.png")
    assert ask("what happens first ?", clip=tmp_path / "dark.png") == 0
    assert capsys.readouterr().err == ""
    assert ask("what happens first ?", "--no-picture") == 2
    assert "this system does not listen" in capsys.readouterr().err


# ---- weights of a run


def test_the_last_stage_of_a_run_is_taken(tiny, tmp_path):
    _, foundations, run = tiny
    model = load_trained_system("video_chatgpt", run, foundations=foundations).model
    write_stage(tmp_path, model, name="zz_alignment")
    write_stage(tmp_path, model, name="instruction_tuning", before="hash-zz_alignment-0")
    last = tmp_path / "instruction_tuning"
    assert weights_folder("video_chatgpt", tmp_path) == last
    assert weights_folder("video_chatgpt", last / "weights.safetensors") == last
    assert weights_folder("video_chatgpt", tmp_path / "zz_alignment").name == "zz_alignment"
    write_stage(tmp_path, model, name="another_end")
    with pytest.raises(UserError, match=r"another_end, instruction_tuning"):
        weights_folder("video_chatgpt", tmp_path)
    with pytest.raises(UserError, match="no finished stage"):
        weights_folder("video_chatgpt", foundations)


# ---- official weights


@pytest.fixture
def official(tmp_path, monkeypatch):
    """A tiny Video-ChatGPT as official files -> their folder, and the same model by hand."""
    from pathlib import Path

    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel, LlamaConfig, LlamaForCausalLM

    from vlmcourse.backbones.clip import ClipConfig, ClipEncoder
    from vlmcourse.backbones.language_model import LlamaSizes, build_llama
    from vlmcourse.backbones.tokenizers import SentencePieceTokenizer
    from vlmcourse.checkpoints import video_chatgpt as checkpoint
    from vlmcourse.systems.video_chatgpt import VideoChatGPT, VideoChatGPTConfig

    source = Path(__file__).parent / "reference" / "video_chatgpt" / "tiny_tokenizer.model"
    base_rows = len(SentencePieceTokenizer(source)) + 3  # LLaVA's own tokens
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=base_rows, **sizes, num_attention_heads=4))
    vision = {**sizes, "num_hidden_layers": 3, "num_attention_heads": 4}
    clip = CLIPModel(
        CLIPConfig(
            vision_config={**vision, "image_size": 28, "patch_size": 14},
            text_config={**vision, "vocab_size": 50},
            projection_dim=16,
        )
    )
    projector = {
        "model.mm_projector.weight": torch.randn(32, 32),
        "model.mm_projector.bias": torch.randn(32),
    }
    for parameter in llama.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.3)

    folder = tmp_path / "official"
    (folder / checkpoint.BASE).mkdir(parents=True)
    (folder / checkpoint.CLIP).mkdir()
    (folder / checkpoint.BASE / "tokenizer.model").write_bytes(source.read_bytes())
    old = {key: torch.zeros_like(value) for key, value in projector.items()}
    torch.save({**llama.state_dict(), **old}, folder / checkpoint.BASE / "pytorch_model.bin")
    table = torch.cat([llama.model.embed_tokens.weight.data, 0.3 * torch.randn(3, 32)])
    released = {**projector, "model.embed_tokens.weight": table}
    torch.save(released, folder / checkpoint.RELEASED)
    save_file(clip.state_dict(), folder / checkpoint.CLIP / "model.safetensors")

    config = VideoChatGPTConfig(num_frames=6, num_temporal=6, base_vocabulary=base_rows)
    shape = LlamaSizes(base_rows + 3, 32, 48, 2, 4)
    encoder = ClipConfig(32, 48, 3, 4, image_size=28, patch_size=14)

    def build_tiny(device="meta", settings=None):
        with torch.device(device):
            return VideoChatGPT(config, build_llama(shape), ClipEncoder(encoder), None).eval()

    monkeypatch.setattr(checkpoint, "build_paper", build_tiny)
    by_hand = build_tiny("cpu")
    language_model = by_hand.language_model
    head = llama.lm_head.weight.data
    language_model.model.load_state_dict({**llama.model.state_dict(), "embed_tokens.weight": table})
    language_model.lm_head.weight.data = torch.cat([head, head.mean(0).expand(3, -1)])
    by_hand.vision_encoder.model.load_state_dict(clip.vision_model.state_dict())
    by_hand.projector.weight.data = projector["model.mm_projector.weight"]
    by_hand.projector.bias.data = projector["model.mm_projector.bias"]
    by_hand.token_rows.read_from(table)
    tokenizer = SentencePieceTokenizer(source)
    tokenizer.add_tokens(["<im_patch>", "<im_start>", "<im_end>"])
    from vlmcourse.systems.video_chatgpt import VideoChatGPTProcessor

    by_hand.processor = VideoChatGPTProcessor(tokenizer, config, by_hand.vision_encoder.num_patches)
    return folder, by_hand


def test_official_files_answer(official, real_clip, capsys):
    """Downloaded files -> answer, and it is the answer of the same weights put together by hand."""
    folder, by_hand = official
    options = ["--preset", "paper", "--weights", str(folder), "--device", "cpu"]
    words = ["What is shown?", "--temperature", "0", "--max-new-tokens", "12"]
    assert cli.main(["chat", *options, str(real_clip), *words]) == 0
    out, err = capsys.readouterr()
    watched = by_hand.watch(real_clip)
    (expected,) = by_hand.answer(watched, ["What is shown?"], max_new_tokens=12)
    assert out.strip() == expected
    assert expected
    assert err == "", "the notes on the small world are not for this model"


@pytest.mark.parametrize(
    "lost", ["video_chatgpt-7B.bin", "clip-vit-large-patch14", "LLaVA-Lightning-7B-v1-1"]
)
def test_official_files_that_are_missing_are_listed(official, real_clip, capsys, lost):
    folder, _ = official
    (folder / lost).rename(folder / "elsewhere")
    assert (
        cli.main(["chat", "--preset", "paper", "--weights", str(folder), str(real_clip), "?"]) == 2
    )
    err = capsys.readouterr().err
    assert err.startswith(f"error: {folder}: lacks {lost} (")
    assert err.count("\n") == 1
    assert ("tokenizer.model" in err) == lost.startswith("LLaVA")


def test_official_files_have_the_names_that_the_checkpoint_reads():
    from vlmcourse.checkpoints import video_chatgpt as checkpoint

    names = set(official_files("video_chatgpt"))
    base = {checkpoint.BASE, f"{checkpoint.BASE}/tokenizer.model"}
    assert names == base | {checkpoint.RELEASED, checkpoint.CLIP}
    with pytest.raises(UserError, match="known: video_chatgpt, video_llama"):
        official_files("other")


def test_the_paper_preset_needs_a_folder(real_clip, tmp_path, capsys):
    assert cli.main(["chat", "--preset", "paper", str(real_clip), "?"]) == 2
    assert "needs --weights DIR" in capsys.readouterr().err
    gone = str(tmp_path / "gone")
    assert cli.main(["chat", "--preset", "paper", "--weights", gone, str(real_clip), "?"]) == 2
    assert f"{gone}: no such folder" in capsys.readouterr().err


def test_unknown_words_need_an_unknown_token(tiny):
    _, foundations, run = tiny
    model = load_trained_system("video_chatgpt", run, foundations=foundations).model
    assert unknown_words(model, "is there a red circle?") == []
    assert unknown_words(model, "Is there an ox?") == ["ox"]
    model.processor = replace_tokenizer(model.processor)
    assert unknown_words(model, "Is there an ox?") == []


def replace_tokenizer(processor):
    class WithoutUnknown:
        def token_id(self, token):
            raise KeyError(token)

    processor.tokenizer = WithoutUnknown()
    return processor
