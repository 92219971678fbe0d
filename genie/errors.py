"""The one exception that is a user's business."""


class UserError(ValueError):
    """Raised for anything that a user, a file or a flag can cause.

    The message is one line that says what was got, what is wanted and what to do. Command lines
    print it and exit with code 2; every other exception is a bug of ours and keeps its traceback.
    """


class BrokenOff(UserError):
    """Raised where a video breaks off; what came of it before is good."""
