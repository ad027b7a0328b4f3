"""The one kind of error that reading a media file may raise: it names the file and the reason."""

from pathlib import Path

from vlmcourse.errors import UserError


class MediaError(UserError):
    """A file cannot be used; `str(error)` is "PATH: reason", the reason written for its owner.

    Attributes:
        path: the file as it was given (None when the error was rebuilt from its message alone).
        reason: what is wrong with it and, where that helps, what to do.
    """

    def __init__(self, path: str | Path, reason: str | None = None) -> None:
        # One argument only: torch's DataLoader rebuilds a worker's exception from its message.
        self.path = None if reason is None else Path(path)
        self.reason = str(path) if reason is None else reason
        super().__init__(str(path) if reason is None else f"{path}: {reason}")

    def __reduce__(self) -> tuple:
        """Cross a process border with path and reason intact."""
        if self.path is None:
            return type(self), (self.reason,)
        return type(self), (self.path, self.reason)


class VideoError(MediaError):
    """The pictures of a file cannot be read."""


class AudioError(MediaError):
    """The sound of a file cannot be read."""


class SubtitleError(MediaError):
    """A subtitle file cannot be read or contradicts itself."""
