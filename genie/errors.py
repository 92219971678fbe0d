"""The one exception that is a user's business."""


class UserError(ValueError):
    """Raised for anything that a user, a file or a flag can cause.

    The message is one line that says what was got, what is wanted and what to do. Command lines
    print it and exit with code 2; every other exception is a bug of ours and keeps its traceback.
    """


class BrokenOff(UserError):
    """Raised where a video breaks off; what came of it before is good."""


def in_one_line(error: Exception) -> str:
    """What a library says, without the path, which is named already."""
    told = getattr(error, "strerror", None) or str(error)
    return " ".join(told.split()) or type(error).__name__
