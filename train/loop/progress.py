"""How much of a run is done: counted in steps, or by the clock if it must end in a given time.

In: a step's number. Out: the share of the run before it, which sets the learning rate. Knows
nothing of nets.

Counted in steps, a run is the same however long it takes. By the clock, no step has to be timed
beforehand, and a slow machine only takes fewer of them.
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
        """Share of the run, 0..1, before step number `step` (0-based)."""
        return step / self.num_steps

    def is_over(self, step: int) -> bool:
        """Whether the run ends after so many steps."""
        return step >= self.num_steps

    def saves(self, step: int) -> bool:
        """Whether a state is due after so many steps."""
        return step % self.save_every == 0


class ByClock:
    """A run of so many seconds, in which only the lifetime of its processes counts."""

    def __init__(self, seconds: float, passed_s: float = 0.0) -> None:
        """Args: passed_s: seconds that earlier processes have used."""
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
        """See `BySteps`; side effect: the next state is due a minute later."""
        due = self.passed_s - self._saved_at >= SAVE_EVERY_S
        if due:
            self._saved_at = self.passed_s
        return due


Progress = BySteps | ByClock


def process_age_s() -> float:
    """Seconds since this process was started, its imports included."""
    return max(0.0, time.time() - psutil.Process().create_time())
