"""Where a model runs."""

from vlmcourse.errors import UserError


def chosen_device(device: str) -> str:
    """Return "cpu" or "cuda" for a wish that may be "auto".

    Raises:
        UserError: unknown, or not to be had.
    """
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {device!r}; known: auto, cpu, cuda")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("no GPU that torch can use: say --device cpu")
    return device
