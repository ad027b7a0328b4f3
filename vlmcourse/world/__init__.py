"""The procedural video world: real mp4 files whose content is known exactly.

`story.py` decides what happens, `render.py` how it looks and sounds, `language.py` what is said and
asked about it, `dataset.py` writes splits to disk.
"""
