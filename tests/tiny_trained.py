"""Tiny frozen parts and a tiny run of Video-ChatGPT on disk, for tests of what uses such runs."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from vlmcourse import systems
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.backbones.world_vision import WorldVisionEncoder
from vlmcourse.conversation import ask
from vlmcourse.foundations.tokenizer import build_tokenizer
from vlmcourse.row_packing import pack
from vlmcourse.systems.batch import collate, stack_media, video_features
from vlmcourse.training.weights import StageFile, save_stage

TRAINS = ("projector.*", "token_rows.weight")


def write_foundations(folder: Path) -> Path:
    """Frozen parts with random weights, a language model of width 32, and the world's tokenizer."""
    torch.manual_seed(5)
    tokenizer = build_tokenizer()
    sizes = LlamaSizes(len(tokenizer), 32, 64, num_layers=2, num_heads=2)
    language_model = build_llama(sizes)
    for parameter in language_model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2)  # large enough to learn within a few steps
    language_model.save_pretrained(folder / "language_model")
    tokenizer.save_pretrained(folder / "language_model")
    save_file(WorldVisionEncoder().state_dict(), folder / "vision_encoder.safetensors")
    return folder


def learn_by_heart(foundations: Path, clips, questions, steps: int = 45):
    """Train connector and language model on the questions of a few clips, and return the model.

    The language model goes back into `foundations`, as if it had been frozen so.
    """
    model = systems.build("video_chatgpt", "world", foundations=foundations)
    rows, media = [], []
    with torch.no_grad():
        for path, asked in zip(clips, questions, strict=True):
            clip = model.processor.read(path)
            features = model.encode_frames(model.vision_encoder.preprocess(clip.frames))
            media.append(video_features(features, clip.times_s))
            rows.append(pack([model.processor.row(ask(q.text, q.answer), clip) for q in asked]))
    batch = collate(rows, model.processor.tokenizer.pad_id, stack_media(media))
    trained = [*model.projector.parameters(), *model.language_model.parameters()]
    optimiser = torch.optim.AdamW(trained, lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        model(batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
    language_model = model.language_model
    language_model.resize_token_embeddings(len(build_tokenizer()))
    language_model.save_pretrained(foundations / "language_model")
    return model


def write_stage(folder: Path, model, seed: int = 0, name="instruction_tuning", before=None) -> Path:
    """Save what trains as a finished stage in `folder/name`, its projector changed by the seed."""
    torch.manual_seed(seed)
    parameters = dict(model.named_parameters())
    tensors = {
        key: value.detach() + 0.01 * seed * torch.randn_like(value)
        for key, value in parameters.items()
        if key.startswith(("projector.", "token_rows."))
    }
    shapes = {key: list(value.shape) for key, value in tensors.items()}
    settings = {"model": {"seed": seed}, "init_from": before}
    about = StageFile(name, TRAINS, shapes, f"hash-{name}-{seed}", "train", settings, {})
    save_stage(folder / name, tensors, about)
    return folder


def write_real_clip(path: Path) -> Path:
    """A silent clip that is not of the world: a bright gradient that moves."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for t in range(6):
            ramp = np.add.outer(np.arange(48), np.arange(64) + 9 * t) * 2 % 256
            frame = np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    return path
