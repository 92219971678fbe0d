"""How a command ends: with one line if the user has to do something."""

import contextlib
import signal
import sys
from collections.abc import Iterator

from genie.errors import UserError


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn a `UserError` into one line and exit code 2; Ctrl-C exits with 130, SIGTERM with 143."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped; repeat the command to go on", file=sys.stderr)
        raise SystemExit(130) from None
    else:
        # Its threads may outlive the interpreter, so that a finished run would end with a crash.
        distributed = sys.modules.get("torch.distributed")  # None in commands without torch
        if distributed and distributed.is_initialized():
            distributed.destroy_process_group()
