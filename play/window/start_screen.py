"""The start screen: worlds and their prompts as thumbnails to choose from.

In: folders of worlds and their prompt files. Out: a call with the choice. Loads no world itself.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pygame
from PIL import Image, ImageOps

from genie.errors import UserError
from play.window import paint
from play.window.gamepad import Gamepads
from play.window.paint import ACTIVE, BACKGROUND, BAR, BRIGHT, CHIP, MUTED
from play.window.window import Window

TILE, GAP, MARGIN, HEADER, TOP, FOOTER = 128, 16, 28, 40, 108, 34
HINT = (
    "click a picture, or arrows and Enter    drop an image, a video or a GIF to play it    Esc quit"
)


class Gallery:
    """Shows the available worlds and prompts.

    Args:
        window: where it is shown.
        shelves: prompt files of each world's folder; at least one world.
        choose: called with the world and the prompt to play.
    """

    title = "worlds"

    def __init__(
        self,
        window: Window,
        shelves: Mapping[Path, Sequence[Path]],
        choose: Callable[[Path, Path], None],
    ) -> None:
        self._window, self._choose = window, choose
        self._worlds = list(shelves)
        self._tiles = [(world, prompt) for world, prompts in shelves.items() for prompt in prompts]
        self._thumbnails = {prompt: _thumbnail(prompt) for _, prompt in self._tiles}
        self._pads = Gamepads()
        self._current, self._scroll = 0, 0
        self._is_opening = False
        self._areas: list[pygame.Rect] = []

    def handle(self, event: pygame.event.Event) -> None:
        """Choose with mouse, keys or gamepad; a dropped file is played in the current world."""
        if event.type == pygame.MOUSEBUTTONDOWN and event.button == 1:
            for number, area in enumerate(self._areas):
                if area.collidepoint(event.pos):
                    self._open(number)
                    return
        elif event.type == pygame.MOUSEWHEEL:
            self._scroll = max(0, self._scroll - event.y * 40)
        elif event.type == pygame.DROPFILE:
            self._play(self._world(), Path(event.file))
        elif event.type == pygame.KEYDOWN:
            self._press(event.key)
        for change in self._pads.changes(event):
            moves = {"left": pygame.K_LEFT, "right": pygame.K_RIGHT, "down": pygame.K_DOWN}
            if change.is_down and isinstance(change.key, str):
                is_button = event.type == pygame.JOYBUTTONDOWN
                key = pygame.K_RETURN if is_button else moves.get(change.key, pygame.K_UP)
                self._press(key)

    def wait(self) -> float:
        """Nothing is ever due."""
        return 1.0

    def act(self) -> None:
        """Nothing changes without an event."""

    def rest(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to save."""

    def draw(self, surface: pygame.Surface) -> None:
        """Draw the thumbnails in rows, a section for each world."""
        width, height = surface.get_size()
        surface.fill(BACKGROUND)
        self._lay_out(width)
        self._keep_in_view(height)
        for (world, prompt), area in zip(self._tiles, self._areas, strict=True):
            shown = area.move(0, -self._scroll)
            is_current = (world, prompt) == self._tiles[self._current]
            if is_current:
                pygame.draw.rect(surface, ACTIVE, shown.inflate(8, 8), border_radius=6)
            surface.blit(self._thumbnails[prompt], shown)
        for world, row in self._headers:
            label = paint.text(world.name, BRIGHT, paint.MEDIUM + 4)
            surface.blit(label, (MARGIN, row - self._scroll))
        surface.fill(BACKGROUND, (0, 0, width, TOP - HEADER + 6))
        title = paint.text("Genie", BRIGHT, paint.LARGE)
        surface.blit(title, (MARGIN, 16))
        words = "opening ..." if self._is_opening else "Where do you want to play?"
        surface.blit(paint.text(words, MUTED), (MARGIN + title.get_width() + 18, 26))
        surface.fill(BAR, (0, height - FOOTER, width, FOOTER))
        footer = paint.text(self._window.notice or HINT, MUTED, paint.SMALL)
        surface.blit(footer, (14, height - FOOTER + 10))
        self._areas = [area.move(0, -self._scroll) for area in self._areas]

    def _press(self, key: int) -> None:
        moves = {
            pygame.K_LEFT: -1,
            pygame.K_RIGHT: 1,
            pygame.K_UP: -self._columns,
            pygame.K_DOWN: self._columns,
        }
        if key == pygame.K_ESCAPE:
            self._window.back()
        elif key in (pygame.K_RETURN, pygame.K_KP_ENTER, pygame.K_SPACE):
            self._open(self._current)
        elif key in moves and self._tiles:
            self._current = min(max(self._current + moves[key], 0), len(self._tiles) - 1)

    def _world(self) -> Path:
        return self._tiles[self._current][0] if self._tiles else self._worlds[0]

    def _open(self, number: int) -> None:
        if self._tiles:
            self._current = number
            self._play(*self._tiles[number])

    def _play(self, world: Path, prompt: Path) -> None:
        self._is_opening = True
        self._window.refresh()
        began = time.perf_counter()
        try:
            self._choose(world, prompt)
        except UserError as error:
            self._window.say(f"{error}")
            print(f"error: {error}")
        finally:
            self._is_opening = False
        # Clicks and keys from before the world was loaded are not meant for it.
        if time.perf_counter() - began > 0.2:
            pygame.event.clear((pygame.MOUSEBUTTONDOWN, pygame.KEYDOWN))

    def _lay_out(self, width: int) -> None:
        self._columns = max(1, (width - 2 * MARGIN + GAP) // (TILE + GAP))
        self._areas, self._headers = [], []
        row, column, before = TOP - HEADER, 0, None
        for world, _ in self._tiles:
            if world != before:
                row += TILE + GAP + 8 if before else 0
                self._headers.append((world, row + 8))
                row, column, before = row + HEADER, 0, world
            elif column == self._columns:
                row, column = row + TILE + GAP, 0
            self._areas.append(pygame.Rect(MARGIN + column * (TILE + GAP), row, TILE, TILE))
            column += 1

    def _keep_in_view(self, height: int) -> None:
        if not self._areas:
            return
        lowest = max(self._areas[-1].bottom + MARGIN - (height - FOOTER), 0)
        current = self._areas[self._current]
        if self._followed != self._current:
            self._followed = self._current
            self._scroll = max(self._scroll, current.bottom + GAP - (height - FOOTER))
            self._scroll = min(self._scroll, max(current.top - TOP, 0))
        self._scroll = min(self._scroll, lowest)

    _columns = 1
    _followed = 0
    _headers: Sequence[tuple[Path, int]] = ()


def _thumbnail(path: Path) -> pygame.Surface:
    """A square thumbnail; for a file that is no image, a plain tile with its name."""
    try:
        with Image.open(path) as image:
            is_small = max(image.size) < TILE
            how = Image.Resampling.NEAREST if is_small else Image.Resampling.HAMMING
            square = ImageOps.fit(image.convert("RGB"), (TILE, TILE), method=how)
    except Exception:  # a broken file makes Pillow raise nearly anything
        tile = pygame.Surface((TILE, TILE))
        tile.fill(CHIP)
        label = paint.text(paint.shortened(path.name, TILE - 16), BRIGHT, paint.SMALL)
        tile.blit(label, label.get_rect(center=(TILE // 2, TILE // 2)))
        return tile
    return pygame.image.frombuffer(square.tobytes(), square.size, "RGB").convert()
