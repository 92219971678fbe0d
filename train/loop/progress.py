"""How far a run has come: by its steps, or by the clock where it has to be over in time.

In: a step's number. Out: the share of the run that is behind it, from which the learning rate
follows. Knows no nets.

By steps, a run is the same however long it takes. By the clock no step has to be timed beforehand,
and a slow machine only makes fewer of them.
"""

import time
from dataclasses import dataclass

import psutil

SAVE_EVERY_S = 60.0


@dataclass(frozen=True)
class BySteps:
    """A run of a known number of steps."""

    num_steps: int
    save_every: int

    def share(self, step: int) -> float:
        """Of the run, 0..1, before step number `step` (0-based)."""
        return step / self.num_steps

    def is_over(self, step: int) -> bool:
        """Whether there is nothing left to do after so many steps."""
        return step >= self.num_steps

    def saves(self, step: int) -> bool:
        """Whether a state is due after so many steps."""
        return step % self.save_every == 0


class ByClock:
    """A run of so many seconds, counted while a process works on it, from its very start."""

    def __init__(self, seconds: float, passed_s: float = 0.0) -> None:
        """Args: passed_s: what earlier processes have used of them."""
        self.seconds = seconds
        self._began = time.monotonic() - process_age_s() - passed_s
        self._saved_at = self.passed_s

    @property
    def passed_s(self) -> float:
        """Seconds used so far, by this process and those before it."""
        return time.monotonic() - self._began

    def share(self, step: int) -> float:
        """See `BySteps`."""
        return min(1.0, self.passed_s / self.seconds)

    def is_over(self, step: int) -> bool:
        """See `BySteps`."""
        return self.passed_s >= self.seconds

    def saves(self, step: int) -> bool:
        """See `BySteps`; side effect: the next one is due a minute later."""
        due = self.passed_s - self._saved_at >= SAVE_EVERY_S
        if due:
            self._saved_at = self.passed_s
        return due


Progress = BySteps | ByClock


def process_age_s() -> float:
    """Seconds since this process was started, its imports included."""
    return max(0.0, time.time() - psutil.Process().create_time())
