"""The small world's frozen foundations: a vision encoder and a language model, trained once."""
