"""What if: the next second under each action, side by side; one of them can be gone to.

In: a `Playthrough`. Out: the same, some steps further on. Each panel holds one action; all of them
come from one forward pass a frame and are shown as they come.
"""

import time
from collections.abc import Iterator

import numpy as np
import pygame

from play.keymap import KeyMap
from play.timeline import Playthrough
from play.window import paint
from play.window.paint import BACKGROUND, BAR, BRIGHT, MUTED
from play.window.window import Window

SECONDS = 1.0
LABEL, FOOTER = 26, 34


class Foresight:
    """The grid of futures.

    Args:
        window: where it is shown.
        playthrough: whose futures they are.
        keymap: names and digits of the actions.
        fps: frames per second.
    """

    title = "what if"

    def __init__(
        self, window: Window, playthrough: Playthrough, keymap: KeyMap, fps: float
    ) -> None:
        self._window, self._playthrough, self._keymap = window, playthrough, keymap
        self._fps, self._count = fps, max(1, round(SECONDS * fps))
        self._coming: Iterator[np.ndarray] = playthrough.futures()
        self._films = [np.stack([playthrough.frame] * keymap.num_actions)]
        self._shown, self._due = 0, time.perf_counter()
        self._areas: list[pygame.Rect] = []

    def handle(self, event: pygame.event.Event) -> None:
        """A click or a digit goes there; Tab and Esc go back."""
        if event.type == pygame.MOUSEBUTTONDOWN and event.button == 1:
            for action, area in enumerate(self._areas):
                if area.collidepoint(event.pos):
                    self._go(action)
        elif event.type == pygame.KEYDOWN:
            if event.key in (pygame.K_TAB, pygame.K_ESCAPE):
                self._window.back()
            elif pygame.K_1 <= event.key <= pygame.K_9:
                action = event.key - pygame.K_1
                if action < self._keymap.num_digits:
                    self._go(action)

    def wait(self) -> float:
        """Until the next picture."""
        return self._due - time.perf_counter()

    def act(self) -> None:
        """Show the next picture of each future; make it if it is not there yet."""
        if time.perf_counter() < self._due:
            return
        self._due = time.perf_counter() + 1 / self._fps
        if len(self._films) <= self._count:
            self._films.append(next(self._coming))
            self._shown = len(self._films) - 1
        else:
            self._shown = (self._shown + 1) % len(self._films)

    def draw(self, surface: pygame.Surface) -> None:
        """A panel for each action."""
        surface.fill(BACKGROUND)
        width, height = surface.get_size()
        count = self._keymap.num_actions
        frame_height, frame_width = self._films[0].shape[1:3]
        self._areas = _panels(count, (width, height - FOOTER), (frame_width, frame_height))
        for action, area in enumerate(self._areas):
            inner = pygame.Rect(area.left, area.top, area.width, area.height - LABEL)
            place = paint.picture(surface, self._films[self._shown][action], inner)
            words = f"{action + 1}  {self._keymap.name_of(action)}"
            label = paint.text(paint.shortened(words, area.width, paint.MEDIUM), BRIGHT)
            surface.blit(label, label.get_rect(midtop=(place.centerx, place.bottom + 5)))
        surface.fill(BAR, (0, height - FOOTER, width, FOOTER))
        hint = paint.text("click a future, or press its digit, to go there    Tab back", MUTED)
        surface.blit(hint, (14, height - FOOTER + 9))

    def rest(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to keep."""

    def _go(self, action: int) -> None:
        for _ in range(self._count):
            self._playthrough.step(action)
        self._window.back()
        self._window.say(f"{self._count} frames on, {self._keymap.name_of(action)}")


def _panels(count: int, room: tuple[int, int], frame: tuple[int, int]) -> list[pygame.Rect]:
    """Areas for `count` panels, in the arrangement that shows the frames largest."""

    def fit(columns: int) -> tuple[int, int, int]:
        """Whole-number scale, how few places stay empty, and how few rows there are."""
        rows = -(-count // columns)
        across = room[0] // columns // frame[0]
        return min(across, (room[1] // rows - LABEL) // frame[1]), count - rows * columns, -rows

    columns = max(range(1, count + 1), key=fit)
    rows = -(-count // columns)
    width, height = room[0] // columns, room[1] // rows
    return [
        pygame.Rect(number % columns * width, number // columns * height, width, height)
        for number in range(count)
    ]
