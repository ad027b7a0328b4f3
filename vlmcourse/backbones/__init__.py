"""Frozen picture encoders, the language model and its tokenizers."""
