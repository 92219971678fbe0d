"""Ctrl-C and SIGTERM as requests: the process ends after the current step is done and saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Stopper:
    """Remembers that this process was asked to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Inside the `with` block, a signal is only noted; a second Ctrl-C interrupts at once."""
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
        """End the process as the signal would have done.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: 143, after SIGTERM.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)

    def _note(self, number: int, _frame: object) -> None:
        # Only a second Ctrl-C interrupts: a pipeline may send SIGTERM after the terminal's Ctrl-C.
        if self.signal == number == signal.SIGINT:
            self.leave()
        self.signal = self.signal or number
