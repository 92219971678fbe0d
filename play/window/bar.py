"""The bar below the picture: the current action, the frame rate, and the keys of all actions.

In: an action and texts. Out: pixels on a pygame surface. Reads no keys.
"""

import pygame

from genie.legend import ARROWS
from play.game import Press
from play.keymap import KeyMap
from play.window import paint
from play.window.paint import ACTIVE, BACKGROUND, BAR, BRIGHT, CHIP, MUTED, TURNS, WARM, Colour

MIN_WIDTH = 640
BAR_HEIGHT = 146
MARGIN = 14
CHIP_HEIGHT = 32
CHIP_WIDTH = 110
CHIP_GAP = 6


class Bar:
    """Draws the bar, and finds the action chip at a point.

    Args:
        keymap: the keys to show.
    """

    def __init__(self, keymap: KeyMap) -> None:
        self._keymap = keymap
        self._chips: list[pygame.Rect] = []

    def action_at(self, place: tuple[int, int]) -> int | None:
        """The action whose chip was last drawn at a point (x, y) of the screen, if any."""
        return next((a for a, area in enumerate(self._chips) if area.collidepoint(place)), None)

    def draw(
        self,
        screen: pygame.Surface,
        *,
        top: int,
        press: Press | None,
        state: str,
        figures: str,
        settings: str,
        footer: str,
        choosing: int | None = None,
    ) -> None:
        """Draw the bar over the whole width of `screen` from `top` down.

        Args:
            screen: what to draw on.
            top: first row of the bar, in pixels.
            press: action being played; None shows `state` instead.
            state: why no action is being played.
            figures: rate and latency.
            settings: sampling settings and position in the playthrough.
            footer: help or a notice.
            choosing: action that is waiting for a new key.
        """
        width = screen.get_width()
        screen.fill(BAR, (0, top, width, BAR_HEIGHT))
        row = top + MARGIN
        labels = [(state, MUTED)]
        if press:
            labels = [(self._keymap.name_of(press.action), BRIGHT), (spoken(press.key), ACTIVE)]
        left = MARGIN
        for words, colour in labels:
            place = screen.blit(paint.text(words, colour), (left, row))
            left = place.right + CHIP_GAP + 4
        rate = paint.text(figures, MUTED)
        screen.blit(rate, (width - MARGIN - rate.get_width(), row))
        self._draw_chips(screen, row + 24, press.action if press else None, choosing)
        screen.blit(paint.text(settings, MUTED, paint.SMALL), (MARGIN, row + 86))
        screen.blit(paint.text(footer, MUTED, paint.SMALL), (MARGIN, row + 108))

    def _draw_chips(
        self, screen: pygame.Surface, top: int, active: int | None, choosing: int | None
    ) -> None:
        num_chips = self._keymap.num_digits
        room = screen.get_width() - 2 * MARGIN + CHIP_GAP
        step = min(CHIP_WIDTH + CHIP_GAP, max(room // num_chips, CHIP_GAP + 1))
        self._chips = [
            pygame.Rect(MARGIN + action * step, top, step - CHIP_GAP, CHIP_HEIGHT)
            for action in range(num_chips)
        ]
        for action, area in enumerate(self._chips):
            fill = {active: ACTIVE, choosing: WARM}.get(action, CHIP)
            pygame.draw.rect(screen, fill, area, border_radius=6)
            self._fill_chip(screen, area, action, BRIGHT if fill == CHIP else BACKGROUND)
            name = paint.shortened(self._keymap.name_of(action), area.width)
            label = paint.text(name, BRIGHT if action == active else MUTED, paint.SMALL)
            screen.blit(label, label.get_rect(midtop=(area.centerx, area.bottom + 5)))

    def _fill_chip(
        self, screen: pygame.Surface, area: pygame.Rect, action: int, colour: Colour
    ) -> None:
        """Draw the digit and, where there is room, the other keys of the same action."""
        names = self._keymap.names_of(action)
        arrows = [paint.arrow(TURNS[name], colour) for name in names if name in TURNS]
        letters = [
            paint.text(name.upper() if len(name) == 1 else name, colour)
            for name in names
            if name not in TURNS and name != "none"
        ]
        parts = [paint.text(str(action + 1), colour), *arrows[:2], *letters[:2]]
        while len(parts) > 1 and sum(part.get_width() + 6 for part in parts) > area.width:
            parts.pop()
        left = area.centerx - (sum(part.get_width() + 6 for part in parts) - 6) // 2
        for part in parts:
            screen.blit(part, part.get_rect(midleft=(left, area.centery)))
            left += part.get_width() + 6


def spoken(key: str) -> str:
    """A key's name for the user, such as "key Z" or "arrow left + arrow up"."""
    if key == "none":
        return "no key"
    if len(key) == 1:
        return f"key {key.upper()}"
    return " + ".join(f"arrow {part}" if part in ARROWS else part for part in key.split("_"))
