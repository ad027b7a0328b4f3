"""A tiny untrained Whisper in a folder, as transformers stores the released ones."""

from pathlib import Path

LANGUAGES = ("en", "de")
MARKS = ("startoftranscript", *LANGUAGES, "translate", "transcribe", "startoflm", "startofprev")
MARKS = ("endoftext", *MARKS, "nospeech", "notimestamps")


def write_tiny_whisper(folder: Path, multilingual: bool = True, seed: int = 0) -> Path:
    """Write config, generation config, processor (letters as tokens) and weights."""
    import torch
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    tokenizer = WhisperTokenizer(
        vocab={letter: i for i, letter in enumerate(byte_letters())}, merges=[]
    )
    marks = [f"<|{name}|>" for name in MARKS]
    tokenizer.add_special_tokens({"additional_special_tokens": marks[1:]})
    tokenizer.add_tokens([f"<|{i * 0.02:.2f}|>" for i in range(1501)])
    ids = dict(zip(MARKS, tokenizer.convert_tokens_to_ids(marks)))
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=16,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_target_positions=32,
        init_std=0.5,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **{f"{name}_token_id": ids["endoftext"] for name in ("bos", "eos", "pad")},
        decoder_start_token_id=ids["startoftranscript"],
    )
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(config)
    languages = {f"<|{name}|>": ids[name] for name in LANGUAGES}
    many = {
        "lang_to_id": languages,
        "task_to_id": {name: ids[name] for name in ("translate", "transcribe")},
    }
    model.generation_config = GenerationConfig(
        **{f"{name}_token_id": ids["endoftext"] for name in ("bos", "eos", "pad")},
        decoder_start_token_id=ids["startoftranscript"],
        no_timestamps_token_id=ids["notimestamps"],
        prev_sot_token_id=ids["startofprev"],
        is_multilingual=multilingual,
        max_initial_timestamp_index=50,
        max_length=24,
        **(many if multilingual else {}),
    )
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=16), tokenizer).save_pretrained(folder)
    return folder


def byte_letters() -> list[str]:
    """A visible letter for each of 256 bytes, as byte-level tokenizers name them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(others))]
