"""Errors that are the user's to mend: a bad file, a wrong setting, a missing download."""


class UserError(Exception):
    """Something the user gave cannot be used; ``str(error)`` says what and why in one line.

    The command line shows it as ``error: ...`` and ends with exit code 2, without a traceback.
    Every other exception is a fault of the program and keeps its traceback.
    """
