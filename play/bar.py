"""The strip below the picture: what is being done, how fast, and which keys there are.

In: an action and texts. Out: pixels on a pygame surface. Deliberately reads no keys.
"""

import pygame

from play.keymap import KeyMap, Press

Colour = tuple[int, int, int]

BACKGROUND = (15, 17, 22)
BAR = (23, 26, 33)
CHIP = (37, 42, 53)
ACTIVE = (122, 184, 255)
BRIGHT = (224, 229, 238)
MUTED = (128, 137, 154)

MIN_WIDTH = 384
BAR_HEIGHT = 104
MARGIN = 14
CHIP_HEIGHT = 32
CHIP_WIDTH = 72
CHIP_GAP = 6
ARROW_SIDE = 13
SHARPNESS = 4
"""How much larger letters and arrows are drawn before they are reduced to the screen."""
TURNS = {
    "right": 0,
    "right_up": 45,
    "up": 90,
    "left_up": 135,
    "left": 180,
    "left_down": 225,
    "down": 270,
    "right_down": 315,
}
"""Degrees by which an arrow that points right is turned, counterclockwise."""


class Bar:
    """Draws the strip.

    Args:
        keymap: the keys that it shows.
    """

    def __init__(self, keymap: KeyMap) -> None:
        self._keymap = keymap
        self._font = pygame.font.Font(None, SHARPNESS * 22)
        self._small = pygame.font.Font(None, SHARPNESS * 18)

    def draw(
        self,
        screen: pygame.Surface,
        *,
        top: int,
        press: Press | None,
        state: str,
        figures: str,
        footer: str,
    ) -> None:
        """Draw the bar over the whole width of `screen` from `top` down.

        Args:
            screen: what to draw on.
            top: first row of the bar, in pixels.
            press: what is being done; None shows `state` instead.
            state: why nothing is being done.
            figures: rate and latency.
            footer: help or a notice.
        """
        width = screen.get_width()
        screen.fill(BAR, (0, top, width, BAR_HEIGHT))
        row = top + MARGIN
        words = [(state, MUTED)]
        if press:
            words = [(f"action {press.action}", BRIGHT), (_spoken(press.key), ACTIVE)]
        left = MARGIN
        for text, colour in words:
            left = screen.blit(_write(self._font, text, colour), (left, row)).right + CHIP_GAP + 4
        rate = _write(self._font, figures, MUTED)
        screen.blit(rate, (width - MARGIN - rate.get_width(), row))
        self._draw_chips(screen, row + 24, press.action if press else None)
        screen.blit(_write(self._small, footer, MUTED), (MARGIN, row + 68))

    def _draw_chips(self, screen: pygame.Surface, top: int, active: int | None) -> None:
        num_chips = self._keymap.num_digits
        room = screen.get_width() - 2 * MARGIN + CHIP_GAP
        step = min(CHIP_WIDTH + CHIP_GAP, max(room // num_chips, CHIP_GAP + 1))
        for action in range(num_chips):
            area = pygame.Rect(MARGIN + action * step, top, step - CHIP_GAP, CHIP_HEIGHT)
            is_active = action == active
            pygame.draw.rect(screen, ACTIVE if is_active else CHIP, area, border_radius=6)
            self._fill_chip(screen, area, action, BACKGROUND if is_active else BRIGHT)

    def _fill_chip(
        self, screen: pygame.Surface, area: pygame.Rect, action: int, colour: Colour
    ) -> None:
        """The digit and, where there is room, the arrows that do the same."""
        parts = [_write(self._font, str(action + 1), colour)]
        names = [name for name in self._keymap.names_of(action) if name in TURNS]
        parts += [_arrow(TURNS[name], colour) for name in names[:2]]
        while len(parts) > 1 and sum(part.get_width() + 5 for part in parts) > area.width:
            parts.pop()
        left = area.centerx - (sum(part.get_width() + 5 for part in parts) - 5) // 2
        for part in parts:
            screen.blit(part, part.get_rect(midleft=(left, area.centery)))
            left += part.get_width() + 5


def _spoken(key: str) -> str:
    if key == "none":
        return "no key"
    return f"key {key}" if key.isdecimal() else key.replace("_", " + ")


def _write(font: pygame.font.Font, text: str, colour: Colour) -> pygame.Surface:
    """Text reduced from a large size: pygame spaces small letters by whole pixels, unevenly."""
    large = font.render(text, True, colour)
    width, height = large.get_size()
    return pygame.transform.smoothscale(large, (width // SHARPNESS, height // SHARPNESS))


def _arrow(turn: int, colour: Colour) -> pygame.Surface:
    """An arrow with smooth edges, which pygame's own polygons lack."""
    side = SHARPNESS * ARROW_SIDE
    large = pygame.Surface((side, side), pygame.SRCALPHA)
    # Transparent in the same colour, so that the smoothed edges do not darken.
    large.fill((*colour, 0))
    middle, head, half = side // 2, side * 5 // 11, side // 11
    pygame.draw.rect(large, colour, (0, middle - half, side - head, 2 * half))
    tip = [(side - head, middle - head), (side - 1, middle), (side - head, middle + head)]
    pygame.draw.polygon(large, colour, tip)
    turned = pygame.transform.rotate(large, turn)
    corner = ((turned.get_width() - side) // 2, (turned.get_height() - side) // 2)
    centred = turned.subsurface((*corner, side, side))
    return pygame.transform.smoothscale(centred, (ARROW_SIDE, ARROW_SIDE))
