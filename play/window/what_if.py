"""The what-if screen: the next second under each action, side by side, to choose from.

In: a `Player`. Out: the same player, advanced to the chosen future. One panel for each action.
"""

import time

import pygame

from play.player import Player
from play.window import paint
from play.window.paint import BACKGROUND, BAR, BRIGHT, MUTED
from play.window.window import Window

LABEL, FOOTER = 26, 34


class WhatIfScreen:
    """The grid of futures.

    Args:
        window: where it is shown.
        player: the player whose futures are shown.
    """

    title = "what if"

    def __init__(self, window: Window, player: Player) -> None:
        self._window, self._keymap = window, player.keymap
        self._what_if = player.what_if()
        self._areas: list[pygame.Rect] = []

    def handle(self, event: pygame.event.Event) -> None:
        """A click or a digit chooses a future; Tab and Esc go back."""
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
        """Seconds until the next frames."""
        return self._what_if.wait(time.perf_counter())

    def act(self) -> None:
        """Show the next frame of each future."""
        self._what_if.tick(time.perf_counter())

    def draw(self, surface: pygame.Surface) -> None:
        """Draw a panel for each action."""
        surface.fill(BACKGROUND)
        width, height = surface.get_size()
        count = self._keymap.num_actions
        pictures = self._what_if.pictures
        frame_height, frame_width = pictures.shape[1:3]
        self._areas = _panels(count, (width, height - FOOTER), (frame_width, frame_height))
        for action, area in enumerate(self._areas):
            inner = pygame.Rect(area.left, area.top, area.width, area.height - LABEL)
            place = paint.picture(surface, pictures[action], inner)
            words = f"{action + 1}  {self._keymap.name_of(action)}"
            label = paint.text(paint.shortened(words, area.width, paint.MEDIUM), BRIGHT)
            surface.blit(label, label.get_rect(midtop=(place.centerx, place.bottom + 5)))
        surface.fill(BAR, (0, height - FOOTER, width, FOOTER))
        hint = paint.text("click a future, or press its digit, to go there    Tab back", MUTED)
        surface.blit(hint, (14, height - FOOTER + 9))

    def rest(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to save."""

    def _go(self, action: int) -> None:
        self._what_if.go(action)
        self._window.back()


def _panels(count: int, room: tuple[int, int], frame: tuple[int, int]) -> list[pygame.Rect]:
    """Areas for `count` panels, in the grid that shows the frames largest."""

    def fit(columns: int) -> tuple[int, int, int]:
        """Rank a grid: by integer scale, then by few empty cells, then by few rows."""
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
