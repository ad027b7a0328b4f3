"""The small language model: a plain Llama, trained to answer questions about described clips.

It is trained once on text, then frozen; a video system's connector later has to speak to it in
embeddings. Fused rows (foundations/text_rows.py) prepare it for positions that say several things.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from vlmcourse.backbones.language_model import load_language_model
from vlmcourse.backbones.tokenizers import load_tokenizer
from vlmcourse.errors import UserError
from vlmcourse.foundations.steps import step_loader
from vlmcourse.foundations.text_rows import (
    BOS_ID,
    EOS_ID,
    FORMS,
    IGNORED,
    PAD_ID,
    WORD_ID,
    TextBatch,
    make_batch,
)
from vlmcourse.foundations.two_optimisers import rate_factor, step_both, two_optimisers
from vlmcourse.parts.packing import packed_mask, packed_positions


@dataclass(frozen=True)
class LanguageSize:
    """Sizes of the small language model (0.8 million parameters)."""

    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    mlp_size: int = 320
    rope_theta: float = 10000.0
    embedding_std: float = 0.08


def build_language_model(size: LanguageSize | None = None) -> LlamaForCausalLM:
    """Build the model with random weights and first layers that look a few words back.

    A small Llama does not bind "red" to "circle" by itself in a short budget. So the heads of the
    first layer start out looking 1, 2, 3, ... positions back (through attention biases on the
    rotary pairs), and keys start equal to queries, so that equal
    words find each other.
    """
    size = size or LanguageSize()
    config = LlamaConfig(
        vocab_size=len(WORD_ID),
        hidden_size=size.hidden_size,
        intermediate_size=size.mlp_size,
        num_hidden_layers=size.num_layers,
        num_attention_heads=size.num_heads,
        num_key_value_heads=size.num_heads,
        max_position_embeddings=4096,
        attention_bias=True,
        tie_word_embeddings=False,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": size.rope_theta},
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    model = LlamaForCausalLM(config)
    nn.init.normal_(model.model.embed_tokens.weight, std=size.embedding_std)
    for layer in model.model.layers:
        attention = layer.self_attn
        attention.k_proj.weight.data.copy_(attention.q_proj.weight.data)
    look_back(model.model.layers[0].self_attn, size, size.num_heads, strength=4.0)
    look_back(model.model.layers[1].self_attn, size, size.num_heads, strength=3.0)
    return model


def look_back(attention: nn.Module, size: LanguageSize, heads: int, strength: float) -> None:
    """Set query and key biases so that head h < `heads` first attends h + 1 positions back."""
    width = size.hidden_size // size.num_heads
    pairs = width // 2
    query = torch.zeros(size.num_heads, width)
    key = torch.zeros(size.num_heads, width)
    for head in range(heads):
        for pair in range(pairs):
            angle = (head + 1) * size.rope_theta ** (-pair / pairs)
            # Llama pairs dimension i with i + width / 2; this turns the query by -(head + 1) steps.
            query[head, pair] = strength * math.cos(angle)
            query[head, pair + pairs] = -strength * math.sin(angle)
            key[head, pair] = strength
    attention.q_proj.bias.data.copy_(query.flatten())
    attention.k_proj.bias.data.copy_(key.flatten())


def continue_from(model: LlamaForCausalLM, folder: Path) -> None:
    """Take over the weights of an earlier, smaller-worded model; words it lacks start at random.

    Args:
        model: as built, for all words of today; the earlier words stand first among them.
        folder: a language model as `vlmcourse foundations` exports it.

    Raises:
        UserError: the folder holds no such model, or one of other words.
    """
    earlier = load_language_model(folder)
    words = load_tokenizer(folder)
    known = list(WORD_ID)[: len(words)]
    if [words.token_id(word) for word in known] != list(range(len(words))):
        raise UserError(f"{folder}: its words are not the first of today's")
    grown = model.state_dict()
    for name, tensor in earlier.state_dict().items():
        if tensor.shape[1:] != grown[name].shape[1:] or len(tensor) > len(grown[name]):
            raise UserError(f"{folder}: {name} is {tuple(tensor.shape)} there")
        grown[name][: len(tensor)] = tensor


def embed_bags(model: LlamaForCausalLM, bags: Tensor) -> Tensor:
    """Add up the embeddings of every bag: `[B, L, W]` ids -> `[B, L, E]`."""
    vectors = model.get_input_embeddings()(bags)  # [B, L, W, E]
    return (vectors * (bags != PAD_ID).unsqueeze(-1)).sum(2)


def packed_logits(
    model: LlamaForCausalLM, batch: TextBatch, noise: float = 0.0, noise_seed: int = 0
) -> Tensor:
    """Run packed rows through the model: `[B, L, V]` logits.

    Args:
        noise: standard deviation of what is added to fused positions, in units of the embedding's
            own.
    """
    embeds = embed_bags(model, batch.bags)
    if noise > 0:
        spread = noise * model.get_input_embeddings().weight.detach().std()
        generator = torch.Generator().manual_seed(noise_seed)
        drawn = torch.randn(embeds.shape, generator=generator).to(embeds)
        embeds = embeds + spread * drawn * batch.fused.unsqueeze(-1)
    return model(
        inputs_embeds=embeds,
        attention_mask=packed_mask(batch.segments),
        position_ids=packed_positions(batch.segments),
        use_cache=False,
    ).logits


class LanguageFoundation(L.LightningModule):
    """Training of the small language model; loss on answers, a little on descriptions.

    The matrices of the layers train with Muon, everything else with AdamW. The learning rate is
    constant, then falls to a tenth linearly. `continues` names the folder of an earlier model to
    start from (`continue_from`).
    """

    def __init__(
        self,
        size: LanguageSize | None = None,
        muon_rate: float = 0.007,
        adam_rate: float = 2e-3,
        warmup_steps: int = 40,
        falls_from: float = 0.5,
        weight_decay: float = 0.01,
        noise: float = 0.5,
        continues: Path | None = None,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.model = build_language_model(size)
        if continues is not None:
            continue_from(self.model, continues)

    def training_step(self, batch: TextBatch, step: int) -> None:
        logits = packed_logits(
            self.model, batch, self.hparams.noise, noise_seed=self.trainer.global_step
        )
        kept = batch.labels != IGNORED
        losses = nn.functional.cross_entropy(logits[kept], batch.labels[kept], reduction="none")
        weights = batch.weights[kept]
        loss = (losses * weights).sum() / weights.sum()
        h, trainer = self.hparams, self.trainer
        factor = rate_factor(trainer.global_step, trainer.max_steps, h.warmup_steps, h.falls_from)
        step_both(self, loss, (h.muon_rate, h.adam_rate), factor)
        answers = weights == 1.0
        right = (logits[kept].argmax(-1) == batch.labels[kept])[answers].float().mean()
        self.log_dict({"loss": loss.detach(), "answer_words_right": right}, prog_bar=True)

    def configure_optimizers(self):
        h = self.hparams
        return two_optimisers(self, h.muon_rate, h.adam_rate, h.weight_decay)


class TextWorld(L.LightningDataModule):
    """An endless stream of text batches; `mixture` gives the shares of `FORMS`, first other
    shares.
    """

    def __init__(
        self,
        seed: int = 1,
        rows: int = 12,
        questions_per_row: int = 12,
        lessons: tuple[tuple[str, ...], ...] = (),
        lesson_steps: int = 150,
        first_steps: int = 900,
        first_mixture: tuple[float, float, float, float] = (0.6, 0.0, 0.0, 0.4),
        mixture: tuple[float, float, float, float] = (0.2, 0.3, 0.2, 0.3),
        text_weight: float = 0.1,
    ):
        super().__init__()
        self.save_hyperparameters()

    def batch(self, step: int) -> TextBatch:
        """Make the batch of one step."""
        h = self.hparams
        seed = h.seed * 10_000_019 + step
        lesson = step // h.lesson_steps
        focus = tuple(h.lessons[lesson]) if lesson < len(h.lessons) else ()
        shares = h.first_mixture if step < h.first_steps else h.mixture
        form = str(np.random.default_rng(seed).choice(FORMS, p=shares))
        return make_batch(
            seed,
            form,
            rows=h.rows,
            questions_per_row=h.questions_per_row,
            text_weight=h.text_weight,
            focus=focus,
        )

    def train_dataloader(self) -> DataLoader:
        return step_loader(self.batch, self.trainer)
