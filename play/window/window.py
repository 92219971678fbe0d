"""The window: one loop that passes events to the top screen, lets it act, and draws it.

In: screens. Out: a pygame window, and the files that screens save. Knows no games.
"""

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import pygame

from genie.errors import UserError
from play.window import gamepad, paint

EVENTS = (
    pygame.QUIT,
    pygame.KEYDOWN,
    pygame.KEYUP,
    pygame.MOUSEBUTTONDOWN,
    pygame.MOUSEWHEEL,
    pygame.DROPFILE,
    pygame.VIDEORESIZE,
    pygame.VIDEOEXPOSE,
    pygame.WINDOWFOCUSLOST,
    *gamepad.EVENTS,
)
IDLE_SECONDS = 0.05
"""Interval at which an idle window checks for finished files and expired notices."""
NOTICE_SECONDS = 3.0


class Screen(Protocol):
    """One full-window view, such as the start screen."""

    title: str

    def handle(self, event: pygame.event.Event) -> None:
        """Handle an event."""

    def wait(self) -> float:
        """Seconds until `act` has something to do, if no event comes."""

    def act(self) -> None:
        """Do what is due."""

    def draw(self, surface: pygame.Surface) -> None:
        """Draw everything."""

    def rest(self) -> None:
        """Use the idle time after drawing."""

    def close(self) -> None:
        """Called when the screen is left for good."""


def open_display() -> bool:
    """Open the video driver; return False if there is no display to open a window on.

    Side effect: sets SDL's environment variables, on Linux the one for the drivers to try.
    """
    if sys.platform == "linux" and not os.environ.get("SDL_VIDEODRIVER"):
        # Left alone, SDL falls back to an invisible "offscreen" driver and reports success.
        variables = {"x11": "DISPLAY", "wayland": "WAYLAND_DISPLAY"}
        drivers = [driver for driver, name in variables.items() if os.environ.get(name)]
        if not drivers:
            return False
        os.environ["SDL_VIDEODRIVER"] = ",".join(drivers)
    # Gamepads keep working while the window does not have the focus.
    os.environ.setdefault("SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS", "1")
    try:
        pygame.display.init()
    except pygame.error:
        return False
    return True


class Window:
    """Shows a stack of screens until it is closed. `open_display` must have returned True.

    Args:
        size: width and height to open with, in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._screens: list[Screen] = []
        self._saves: list[Future[str]] = []
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._notice = ""
        self._notice_ends = 0.0
        self._is_open = True
        self._pads: list[pygame.joystick.JoystickType] = []
        pygame.font.init()
        pygame.joystick.init()
        pygame.display.set_mode(size, pygame.RESIZABLE)
        # A moving mouse would otherwise wake the window a thousand times a second.
        pygame.event.set_blocked(None)
        pygame.event.set_allowed(EVENTS)

    @property
    def notice(self) -> str:
        """The notice to show now; "" for none."""
        return self._notice if time.perf_counter() < self._notice_ends else ""

    def show(self, screen: Screen) -> None:
        """Put a screen on top."""
        self._screens.append(screen)
        pygame.display.set_caption(f"{screen.title} - Genie")

    def back(self) -> None:
        """Leave the screen on top; the last one closes the window."""
        self._screens.pop().close()
        if self._screens:
            pygame.display.set_caption(f"{self._screens[-1].title} - Genie")
        else:
            self._is_open = False

    def say(self, notice: str) -> None:
        """Show a notice for a few seconds."""
        self._notice = notice
        self._notice_ends = time.perf_counter() + NOTICE_SECONDS

    def save(self, write: Callable[[], str]) -> None:
        """Write a file on a background thread, one file after the other.

        Args:
            write: writes it and returns a notice; raises UserError if it cannot be written.
        """
        self._saves.append(self._writer.submit(write))

    def refresh(self) -> None:
        """Draw immediately, for example before something slow."""
        self._screens[-1].draw(pygame.display.get_surface())
        pygame.display.flip()

    def run(self) -> None:
        """Show the window until it is closed; returns once every file is written.

        Raises:
            UserError: if a file that was still being written at the end could not be.
        """
        with self._writer:
            try:
                self.refresh()
                while self._is_open:
                    self.tick()
            finally:
                for screen in reversed(self._screens):
                    screen.close()
                pygame.joystick.quit()
                pygame.display.quit()
                paint.forget()
        for save in self._saves:
            print(save.result())

    def tick(self) -> None:
        """Wait for an event or until something is due, act on it, draw, and use the time left."""
        top = self._screens[-1]
        first = pygame.event.wait(max(1, round(min(top.wait(), IDLE_SECONDS) * 1000)))
        for event in (first, *pygame.event.get()):
            if event.type == pygame.QUIT:
                self._is_open = False
            elif event.type == pygame.JOYDEVICEADDED:
                # pygame reports a gamepad's events only while its Joystick object exists.
                self._pads.append(pygame.joystick.Joystick(event.device_index))
            elif event.type != pygame.NOEVENT and self._screens:
                self._screens[-1].handle(event)
        self._collect_saves()
        if not (self._is_open and self._screens):
            return
        top = self._screens[-1]
        top.act()
        if self._screens:
            self.refresh()
            self._screens[-1].rest()

    def _collect_saves(self) -> None:
        while self._saves and self._saves[0].done():
            try:
                notice = self._saves.pop(0).result()
            except UserError as error:
                notice = f"not saved: {error}"
            self.say(notice)
            print(notice)
