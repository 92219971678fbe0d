"""Text, arrows, colours and frames: the drawing that all screens of the window share.

In: texts and frames. Out: pygame surfaces. Knows no keys and no games.
"""

from functools import lru_cache

import numpy as np
import pygame

Colour = tuple[int, int, int]

BACKGROUND = (15, 17, 22)
BAR = (23, 26, 33)
CHIP = (37, 42, 53)
ACTIVE = (122, 184, 255)
WARM = (255, 176, 92)
BRIGHT = (224, 229, 238)
MUTED = (128, 137, 154)

LARGE, MEDIUM, SMALL = 40, 22, 18
"""Font heights, in pixels."""
ARROW_SIDE = 13
SHARPNESS = 4
"""Factor by which text and arrows are drawn larger, and then reduced to smooth their edges."""
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
"""Counterclockwise rotation of an arrow that points right, in degrees."""


@lru_cache(maxsize=512)
def text(words: str, colour: Colour, height: int = MEDIUM) -> pygame.Surface:
    """Render text large and reduce it: pygame spaces small letters by whole pixels, unevenly."""
    large = _font(SHARPNESS * height).render(words, True, colour)
    return pygame.transform.smoothscale(
        large, (large.get_width() // SHARPNESS, large.get_height() // SHARPNESS)
    )


@lru_cache(maxsize=64)
def arrow(turn: int, colour: Colour) -> pygame.Surface:
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


def picture(screen: pygame.Surface, frame: np.ndarray, area: pygame.Rect) -> pygame.Rect:
    """Draw a uint8 (h, w, 3) frame in the middle of an area; return where it was drawn.

    It is enlarged by the largest integer factor that fits, and cropped if even factor 1 does not.
    """
    height, width = frame.shape[:2]
    scale = max(1, min(area.width // width, area.height // height))
    surface = pygame.image.frombuffer(frame.tobytes(), (width, height), "RGB")
    surface = pygame.transform.scale(surface, (width * scale, height * scale))
    place = surface.get_rect(center=area.center)
    previous = screen.get_clip()
    screen.set_clip(area)
    screen.blit(surface, place)
    screen.set_clip(previous)
    return place


def shortened(words: str, width: int, height: int = SMALL) -> str:
    """The longest beginning of a text that fits into `width` pixels."""
    while words and text(words, MUTED, height).get_width() > width:
        words = words[:-1]
    return words


@lru_cache(maxsize=8)
def _font(height: int) -> pygame.font.Font:
    return pygame.font.Font(None, height)


def forget() -> None:
    """Clear the caches: fonts are invalid once pygame has been closed."""
    for cached in (text, arrow, _font):
        cached.cache_clear()
