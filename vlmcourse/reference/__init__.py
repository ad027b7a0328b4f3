"""Fidelity: numbers of the original public code against ours.

`python -m vlmcourse.reference [FOLDER ...]` walks folders of reference cases and prints one row per
output. A unit is a JSON description, with or without a safetensors file of the same stem; see
`runner.py`.
"""
