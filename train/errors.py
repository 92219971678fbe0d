"""How a command ends: in one line where a user has to do something."""

import contextlib
import signal
import sys
from collections.abc import Iterator

from genie.errors import UserError


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """A user's mistake becomes one line and exit code 2; Ctrl-C exits with 130, a TERM with 143."""
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
        # Its threads else outlive the interpreter now and then, and a finished run ends as a crash.
        distributed = sys.modules.get("torch.distributed")  # not loaded by what needs no torch
        if distributed and distributed.is_initialized():
            distributed.destroy_process_group()
