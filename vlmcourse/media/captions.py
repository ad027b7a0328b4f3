"""Captions of web data sets, simplified before they become training text."""

import re


def clean_caption(text: str, max_words: int = 50) -> str:
    """Simplify a web caption or question: lower case, fewer signs, at most `max_words` words.

    The signs . ! " ( ) * # : ; ~ become blanks, runs of white space one blank; "?" and "," stay.

    Official: DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/processors/blip_processors.py (WebVid
    captions); MiniGPT-4's image captions and MA-LMM's questions go through the same.
    """
    spaced = re.sub(r'[.!"()*#:;~]', " ", text.lower())
    words = re.sub(r"\s{2,}", " ", spaced).rstrip("\n").strip(" ").split(" ")
    return " ".join(words[:max_words])
