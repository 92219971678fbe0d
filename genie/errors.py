"""Errors that a user, a file or a flag can cause."""


class UserError(ValueError):
    """Raised for anything that a user, a file or a flag can cause.

    The message is one line that says what was given, what is needed and what to do. Command lines
    print it and exit with code 2; every other exception is a bug of ours and keeps its traceback.
    """


class BrokenOff(UserError):
    """Raised where a video is damaged or ends early; the frames before that are good."""


WITHOUT_TORCH = (
    "needs PyTorch, which is not installed: make install, or pip install '.[train]' in a clone"
)
"""What is wrong and the mend; the subject goes before it."""


def in_one_line(error: Exception) -> str:
    """A library's message on one line; the system's without the path, which the caller names."""
    message = getattr(error, "strerror", None) or str(error)
    return " ".join(message.split()) or type(error).__name__
