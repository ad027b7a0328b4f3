"""What the record of a stage tells: how well it learnt, how fast, and from how much."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from vlmcourse.intervals import metric
from vlmcourse.training.callbacks import COLUMNS, History
from vlmcourse.training.data import VideoInstructionData

MIB = 2**20


def stage_metrics(
    history: History,
    gflop: Sequence[float],
    data: VideoInstructionData,
    model: nn.Module,
    kept: Mapping[str, Tensor],
) -> dict[str, dict]:
    """The last tenth of the steps, the last validation, speeds, and what equal compute is judged
    by: positions of the language model, frames and patches that were looked at, arithmetic,
    parameters.

    Args:
        gflop: of a step, forward and backward, as often as it was counted (`Arithmetic`).
        model: after `set_trainable`.
        kept: the tensors that the stage hands over.
    """
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in history.rows]
    last = rows[-max(len(rows) // 10, 1) :]
    steps, seconds = len(rows), rows[-1]["seconds"]
    sizes = {True: 0, False: 0}
    for parameter in model.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    found = {
        "loss": metric([row["loss"] for row in last], "nats"),
        "answer_tokens_right": metric([row["answer_accuracy"] for row in last], "share"),
        "steps": metric([steps]),
        "train_seconds": metric([seconds], "s"),
        "steps_per_s": metric([steps / seconds], "1/s"),
        "samples_per_s": metric([sum(row["conversations"] for row in rows) / seconds], "1/s"),
        "unreadable_videos": metric([len(data.unreadable)]),
        **{
            name: metric([int(sum(row[name] for row in rows))])
            for name in ("positions", "frames", "patches")
        },
        "parameters_trained": metric([sizes[True]]),
        "parameters_frozen": metric([sizes[False]]),
        "weights_mib": metric([sum(value.nbytes for value in kept.values()) / MIB], "MiB"),
    }
    if gflop:
        found["gflop_per_step"] = metric(gflop, "GFLOP")
    if data.given.sounds is not None:
        found["videos_without_sound"] = metric([len(data.lacking)])
    if history.val_rows:
        _, loss, right, _ = history.val_rows[-1]
        found["val_loss"] = metric([loss], "nats")
        found["val_answer_tokens_right"] = metric([right], "share")
    return found
