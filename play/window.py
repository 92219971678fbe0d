"""A game in a pygame window: keys in, pictures out, in real time.

The picture is enlarged by whole numbers only, so that pixels stay crisp; a bar below it shows
the actions. Deliberately knows nothing of worlds and prompts: it is handed a way to start a game.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pygame

from genie.errors import UserError
from play.bar import BACKGROUND, BAR_HEIGHT, MIN_WIDTH, Bar
from play.game import StartGame
from play.keymap import HeldKeys, KeyMap, Press
from play.recorder import Recorder, free_name

KEY_NAMES = {
    pygame.K_LEFT: "left",
    pygame.K_a: "left",
    pygame.K_RIGHT: "right",
    pygame.K_d: "right",
    pygame.K_UP: "up",
    pygame.K_w: "up",
    pygame.K_DOWN: "down",
    pygame.K_s: "down",
    **{getattr(pygame, f"K_{digit}"): str(digit) for digit in range(1, 10)},
    **{getattr(pygame, f"K_KP{digit}"): str(digit) for digit in range(1, 10)},
}
HINT = "R restart    P pause    G save GIF    Esc quit"

SHOWN_EVENTS = (
    pygame.QUIT,
    pygame.KEYDOWN,
    pygame.KEYUP,
    pygame.VIDEORESIZE,
    pygame.VIDEOEXPOSE,
)

MAX_FRAMES = 1800
"""Newest frames that a saved GIF holds: two minutes at 15 fps."""
IDLE_SECONDS = 0.05
"""How often an idle window looks whether a file is finished or a notice has expired."""
NOTICE_SECONDS = 3.0
NUM_RECENT = 16
"""Steps that the shown fps and latency are taken over."""


def open_display() -> bool:
    """Open the video driver; False if there is no screen to open a window on.

    Side effect: on Linux, tells SDL which drivers to try.
    """
    if sys.platform == "linux" and not os.environ.get("SDL_VIDEODRIVER"):
        # Left alone, SDL falls back to an invisible "offscreen" driver and reports success.
        variables = {"x11": "DISPLAY", "wayland": "WAYLAND_DISPLAY"}
        drivers = [driver for driver, name in variables.items() if os.environ.get(name)]
        if not drivers:
            return False
        os.environ["SDL_VIDEODRIVER"] = ",".join(drivers)
    try:
        pygame.display.init()
    except pygame.error:
        return False
    return True


class Window:
    """Plays one game until it is closed. Needs `open_display` to have said True.

    Args:
        start: starts the game, and starts it again on R.
        keymap: what the keys stand for.
        title: of the window.
        fps: steps per second while a key is held.
        scale: enlargement that the window opens with.
        export: where G saves to; numbered if the file is there already.
        export_scale: enlargement of saved files.
    """

    def __init__(
        self,
        start: StartGame,
        keymap: KeyMap,
        *,
        title: str,
        fps: float,
        scale: int,
        export: Path,
        export_scale: int,
    ) -> None:
        self._start_game = start
        self._keymap = keymap
        self._fps = fps
        self._export = export
        self._export_scale = export_scale
        self._keys = HeldKeys()
        self._saves: list[Future[str]] = []
        self._notice = ""
        self._notice_ends = 0.0
        self._is_open = True
        self._is_paused = False
        self._restart()
        height, width = self.recorder.game.frame.shape[:2]
        pygame.font.init()
        self._bar = Bar(keymap)
        pygame.display.set_caption(f"{title} - Genie")
        size = (max(width * scale, MIN_WIDTH), height * scale + BAR_HEIGHT)
        pygame.display.set_mode(size, pygame.RESIZABLE)
        # A moving mouse would otherwise wake the window a thousand times a second.
        pygame.event.set_blocked(None)
        pygame.event.set_allowed(SHOWN_EVENTS)

    def run(self) -> None:
        """Show the window until Esc or its close button; returns once every file is written.

        Raises:
            UserError: if a file that was still being written at the end could not be.
        """
        with ThreadPoolExecutor(max_workers=1) as self._writer:
            try:
                self._draw()
                while self._is_open:
                    self._tick()
            finally:
                pygame.display.quit()
        for save in self._saves:
            print(save.result())

    def _tick(self) -> None:
        self._handle_events()
        has_stepped = time.perf_counter() >= self._next_step_at and self._step()
        self._collect_saves()
        self._draw()
        if has_stepped:
            # A key that is held will most likely be held on: its next picture is then ready.
            self.recorder.game.prepare(self._press.action)

    def _handle_events(self) -> None:
        """Wait until the next step is due, or for an event, which may make it due."""
        seconds = self._next_step_at - time.perf_counter() if self._press else IDLE_SECONDS
        first = pygame.event.wait(max(1, round(seconds * 1000)))
        for event in (first, *pygame.event.get()):
            if event.type == pygame.QUIT:
                self._is_open = False
            elif event.type == pygame.KEYUP:
                self._keys.release(event.key)
            elif event.type == pygame.KEYDOWN:
                self._press_key(event.key)

    def _press_key(self, key: int) -> None:
        if key in KEY_NAMES:
            self._keys.press(key)
        elif key == pygame.K_ESCAPE:
            self._is_open = False
        elif key == pygame.K_r:
            self._restart()
            self._say("restarted")
        elif key == pygame.K_p:
            self._is_paused = not self._is_paused
        elif key == pygame.K_g:
            self._save()

    def _restart(self) -> None:
        self.recorder = Recorder(self._start_game(), max_frames=MAX_FRAMES)
        self._press: Press | None = None
        self._next_step_at = time.perf_counter()
        self._stepped_at: deque[float] = deque(maxlen=NUM_RECENT)

    def _step(self) -> bool:
        """One tick of the world's clock; False if the world only waits."""
        was_waiting = self._press is None
        held = [KEY_NAMES[key] for key in self._keys.take()]
        self._press = None if self._is_paused else self._keymap.choose(held)
        if self._press is None:
            self._stepped_at.clear()
            return False
        now = time.perf_counter()
        self._stepped_at.append(now)
        due = now if was_waiting else self._next_step_at
        # A step that came late moves the clock: catching up would play in bursts.
        self._next_step_at = max(due + 1 / self._fps, now)
        self.recorder.step(self._press.action)
        return True

    def _save(self) -> None:
        frames = list(self.recorder.frames)
        self._saves.append(self._writer.submit(self._write, frames))
        self._say(f"saving {len(frames)} frames ...")

    def _write(self, frames: Sequence[np.ndarray]) -> str:
        # Whoever made the game has loaded torch long since; a window alone opens without it.
        from genie import video

        # Named only now, by the one writer thread, so that two quick saves get two names.
        path = free_name(self._export)
        video.write(path, frames, fps=self._fps, scale=self._export_scale)
        return f"saved {len(frames)} frames to {path}"

    def _collect_saves(self) -> None:
        while self._saves and self._saves[0].done():
            try:
                notice = self._saves.pop(0).result()
            except UserError as error:
                notice = f"not saved: {error}"
            self._say(notice)
            print(notice)

    def _say(self, notice: str) -> None:
        self._notice = notice
        self._notice_ends = time.perf_counter() + NOTICE_SECONDS

    def _draw(self) -> None:
        screen = pygame.display.get_surface()
        width, height = screen.get_size()
        screen.fill(BACKGROUND)
        picture_height = max(height - BAR_HEIGHT, 0)
        draw_picture(screen, self.recorder.frames[-1], (width, picture_height))
        has_notice = time.perf_counter() < self._notice_ends
        self._bar.draw(
            screen,
            top=picture_height,
            press=self._press,
            state="paused" if self._is_paused else "waiting for a key",
            figures=self._figures(),
            footer=self._notice if has_notice else HINT,
        )
        pygame.display.flip()

    def _figures(self) -> str:
        latencies_ms = list(self.recorder.latencies_ms)[-NUM_RECENT:]
        if not latencies_ms:
            return ""
        latency = f"{sum(latencies_ms) / len(latencies_ms):.0f} ms"
        if len(self._stepped_at) < 2:
            return latency
        seconds = self._stepped_at[-1] - self._stepped_at[0]
        return f"{(len(self._stepped_at) - 1) / seconds:.0f} fps    {latency}"


def draw_picture(screen: pygame.Surface, frame: np.ndarray, room: tuple[int, int]) -> None:
    """Draw a frame in the middle of the top left `room` (width, height) of `screen`.

    Enlarged by the largest whole number that fits, and cropped where not even 1 does.
    """
    height, width = frame.shape[:2]
    scale = max(1, min(room[0] // width, room[1] // height))
    picture = pygame.image.frombuffer(frame.tobytes(), (width, height), "RGB")
    picture = pygame.transform.scale(picture, (width * scale, height * scale))
    corner = ((room[0] - width * scale) // 2, (room[1] - height * scale) // 2)
    screen.blit(picture, corner)
