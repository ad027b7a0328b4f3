import os
from pathlib import Path

import pytest
import torch
from described_rows import described
from torch.testing import assert_close

from vlmcourse.backbones.clip import ClipConfig, ClipEncoder
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.backbones.tokenizers import SentencePieceTokenizer
from vlmcourse.conversation import ask
from vlmcourse.errors import UserError
from vlmcourse.systems import build
from vlmcourse.systems.batch import Media, collate, stack_media, video_features
from vlmcourse.systems.processor import Clip
from vlmcourse.systems.stages import set_trainable
from vlmcourse.systems.video_chatgpt import (
    VideoChatGPT,
    VideoChatGPTConfig,
    VideoChatGPTProcessor,
)

HERE = Path(__file__).parent
MODEL = HERE.parent / "reference" / "video_chatgpt" / "tiny_tokenizer.model"
PAIRS = [("where ?", "left"), ("what happens at first ?", "red")]


def training_batch(model):
    rows = [model.processor.row(ask(q, a), Clip(torch.arange(8.0))) for q, a in PAIRS]
    media = stack_media([video_features(torch.randn(8, 64, 96)) for _ in rows])
    return collate(rows, model.processor.tokenizer.pad_id, media)


@pytest.mark.parametrize("stage", [0, 1])
def test_one_step_moves_exactly_what_the_stage_names(tiny_video_chatgpt, stage):
    model = tiny_video_chatgpt()
    trains = model.stages("world")[stage].trains
    set_trainable(model, trains)
    before = {name: p.detach().clone() for name, p in model.state_dict().items()}
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1
    )
    model.train()
    model(training_batch(model)).loss.backward()
    optimiser.step()
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    expected = {"projector.weight", "projector.bias"}
    assert moved == (expected if stage == 0 else expected | {"token_rows.weight"})


def test_overfits_one_batch(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    set_trainable(model, model.stages("world")[1].trains)
    batch = training_batch(model)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    first = model(batch).loss.item()
    for _ in range(120):
        optimiser.zero_grad()
        result = model(batch)
        result.loss.backward()
        optimiser.step()
    assert result.loss.item() < 0.05 < first
    assert result.correct.all()


def test_token_count_and_padding_follow_the_settings(tiny_video_chatgpt):
    model = tiny_video_chatgpt(num_temporal=10, spatial_grid=4)
    assert model.processor.num_tokens(3) == 10 + 16
    assert model.processor.num_tokens(12) == 12 + 16
    features = torch.randn(1, 3, 64, 96)
    tokens, mask = model.connect(features, torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3))
    assert tokens.shape == (1, 26, 32)
    assert mask.all()
    assert_close(tokens[0, 3:10], model.projector.bias.expand(7, -1))


def test_pooled_files_replace_features(tiny_video_chatgpt):
    from vlmcourse.parts.pooling import spatio_temporal_pooling

    model = tiny_video_chatgpt()
    features = torch.randn(1, 8, 64, 96)
    frame_mask, times = torch.ones(1, 8, dtype=torch.bool), torch.zeros(1, 8)
    row = model.processor.row(ask(*PAIRS[0]), Clip(torch.arange(8.0)))
    pooled, _ = spatio_temporal_pooling(features, num_temporal=8)
    pad = model.processor.tokenizer.pad_id
    cached = model(collate([row], pad, Media(frame_mask, times, features=features)))
    ready = model(collate([row], pad, Media(frame_mask, times, extras={"pooled": pooled.half()})))
    assert_close(ready.loss, cached.loss, atol=1e-2, rtol=1e-3)


def test_marks_train_as_rows_and_start_as_the_mean_row(tiny_video_chatgpt):
    model = tiny_video_chatgpt()
    table = model.language_model.get_input_embeddings().weight
    assert_close(model.token_rows.weight[0], table[:-2].mean(0))
    ids = torch.tensor([model.config.token_ids])
    embedded = model.embed_text(ids)[0]
    assert torch.equal(embedded[1:], model.token_rows.weight)
    assert torch.equal(embedded[0], table[-3])


def test_paper_size_on_the_meta_device():
    model = build("video_chatgpt", "paper", "meta")
    assert all(p.is_meta for p in model.parameters())
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    assert counts["projector"] == 1024 * 4096 + 4096
    assert counts["token_rows"] == 2 * 4096
    assert counts["language_model"] == 6_738_415_616 + 2 * 6 * 4096  # LLaMA-7B and six new rows
    assert counts["vision_encoder"] == 303_179_776
    assert model.config.token_ids == (32003, 32004, 32005)
    for preset in ("paper", "world"):
        for stage in model.stages(preset):
            assert set_trainable(model, stage.trains)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 4_206_592


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="unknown system"):
        build("video_chatgtp")
    with pytest.raises(UserError, match="unknown preset"):
        build("video_chatgpt", "huge")


def test_missing_foundations_are_named(tmp_path):
    with pytest.raises(UserError, match=r"language_model|vision_encoder"):
        build("video_chatgpt", "world", foundations=tmp_path)


def official_processor(style="slow"):
    tokenizer = SentencePieceTokenizer(MODEL, style)
    settings = VideoChatGPTConfig(num_frames=4, num_temporal=4, base_vocabulary=len(tokenizer))
    return VideoChatGPTProcessor(tokenizer, settings, num_patches=4)


def snapshot_cases():
    slow, fast = official_processor("slow"), official_processor("fast")
    clip = Clip(torch.arange(3.0))
    question, answer = "what is the man doing?", "he is riding a red bike."
    marker_last = type(ask("?"))(tuple(ask(question + "\n<video>", answer, marker="").turns))
    yield "training_video_first", slow.row(ask(question, answer), clip), slow.tokenizer.token
    yield "training_video_last", slow.row(marker_last, clip), slow.tokenizer.token
    yield "inference_slow_tokenizer", slow.question_row(question, clip), slow.tokenizer.token
    yield "inference_fast_tokenizer", fast.question_row(question, clip), fast.tokenizer.token


def check_snapshot(name, text):
    path = HERE / "snapshots" / f"video_chatgpt_{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("case", list(snapshot_cases()), ids=lambda case: case[0])
def test_layout_snapshot(case):
    name, row, name_of = case
    check_snapshot(name, described(row, name_of))


def test_layout_snapshot_of_the_world(tiny_video_chatgpt):
    processor = tiny_video_chatgpt(spatial_grid=4).processor
    row = processor.row(ask("what colour is the circle ?", "red"), Clip(torch.arange(8.0)))
    names = processor.tokenizer.inner.convert_ids_to_tokens
    check_snapshot("world", described(row, names))


def test_from_a_file_to_an_answer(tmp_path):
    import av
    import numpy as np

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for index in range(7):
            image = np.full((32, 48, 3), 30 * index, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    torch.manual_seed(0)
    processor = official_processor()
    encoder = ClipEncoder(ClipConfig(16, 32, 3, 4, image_size=8, patch_size=4))
    llama = build_llama(LlamaSizes(len(processor.tokenizer), 16, 24, 2, 4))
    model = VideoChatGPT(processor.config, llama, encoder, processor).eval()
    watched = model.watch(path)
    assert watched.clip.num_frames == 4
    assert watched.clip.times_s.tolist() == pytest.approx([0.2, 0.4, 0.6, 1.0])
    assert watched.pictures.features.shape == (1, 4, 4, 16)
    answers = model.answer(watched, ["who?", "what is the man doing?"], max_new_tokens=5)
    assert len(answers) == 2
    assert answers == [
        model.answer(watched, [q], max_new_tokens=5)[0] for q in ("who?", "what is the man doing?")
    ]


def test_world_preset_from_a_folder_of_foundations(tmp_path, word_tokenizer):
    from safetensors.torch import save_file

    from vlmcourse.backbones.world_vision import WorldVisionEncoder

    encoder = WorldVisionEncoder()
    save_file(encoder.state_dict(), tmp_path / "vision_encoder.safetensors")
    llama = build_llama(LlamaSizes(len(word_tokenizer), 32, 48, 2, 4))
    llama.save_pretrained(tmp_path / "language_model")
    word_tokenizer.inner.save_pretrained(tmp_path / "language_model")
    model = build("video_chatgpt", "world", foundations=tmp_path)
    assert model.config.token_ids[0] == len(word_tokenizer)
    assert torch.equal(model.vision_encoder.position, encoder.position)
    table = model.language_model.get_input_embeddings().weight
    assert torch.equal(table[:-3], llama.get_input_embeddings().weight)
    watched = model.remember(torch.randn(8, 64, 96), Clip(torch.arange(8.0)))
    assert isinstance(model.answer(watched, ["where ?"], max_new_tokens=2)[0], str)


def test_importing_a_system_does_not_import_transformers():
    import subprocess
    import sys

    code = "import sys, vlmcourse.systems.video_chatgpt; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
