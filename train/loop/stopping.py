"""Ctrl-C and a TERM as wishes: the step at work is finished and saved before the process ends."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Stopper:
    """Remembers that somebody wants this process to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within it a signal is only noted; a second Ctrl-C breaks off at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return
        before = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def leave(self) -> None:
        """End as the signal would have ended it.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: 143, after a TERM.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)

    def _note(self, number: int, _frame: object) -> None:
        # A pipeline ends its stages by a TERM, also where a terminal has told them before.
        if self.signal == number == signal.SIGINT:
            self.leave()
        self.signal = self.signal or number
