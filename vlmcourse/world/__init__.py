"""The procedural video world: real mp4 files whose content is known exactly.

`story.py` decides what happens, `render.py` how it looks and sounds, `language.py` what is said and
asked about it, `dataset.py` writes splits of clips to disk: films (`films.py`) or single pictures
(`pictures.py`). `texts.py` writes descriptions and questions without media.
"""
