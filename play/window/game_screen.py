"""The screen for playing a world: the frames of a `Player` above the bar with its actions.

In: pygame's events. Out: keys and commands for the player; GIFs, videos and recordings.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pygame

from genie import video
from genie.errors import UserError
from genie.legend import FREE_KEYS
from play import overlay
from play.player import HOTTEST, MOST_STEPS, Player
from play.recording import Recording
from play.timeline import free_name
from play.window import paint
from play.window.bar import BAR_HEIGHT, Bar, spoken
from play.window.gamepad import Gamepads
from play.window.paint import BACKGROUND, BRIGHT, MUTED
from play.window.what_if import WhatIfScreen
from play.window.window import Window
from play.worlds import Opening

KEY_NAMES = {
    pygame.K_LEFT: "left",
    pygame.K_RIGHT: "right",
    pygame.K_UP: "up",
    pygame.K_DOWN: "down",
    pygame.K_SPACE: "space",
    **{getattr(pygame, f"K_{letter}"): letter for letter in "abcdefghijklmnopqrstuvwxyz"},
    **{getattr(pygame, f"K_{digit}"): str(digit) for digit in range(1, 10)},
    **{getattr(pygame, f"K_KP{digit}"): str(digit) for digit in range(1, 10)},
}
HINT = "H help    R restart    P pause    Backspace rewind    Tab what if    G save GIF    Esc back"
HELP = (
    ("1-9, arrows, WASD", "play an action; hold to repeat, two arrows are a chord"),
    ("click an action", "then press a key to bind it permanently"),
    ("Delete", "remove your bindings, restore the legend's keys"),
    ("P  .", "pause; single step"),
    ("Backspace", "hold to rewind"),
    ("R  Shift+R", "restart; restart with another seed"),
    ("F5  F9", "set a bookmark; return to it"),
    ("Tab", "what if: the next second under each action; click one to go there"),
    ("-  +", "temperature"),
    ("[  ]", "maximum number of passes per frame"),
    ("V", "show the real video beside, from its beginning (video prompts)"),
    ("G", "save the last two minutes as a GIF"),
    ("M", "start and stop capturing a video (MP4)"),
    ("O", "save a recording for --replay"),
    ("drop a file", "start from an image, a video or a GIF"),
    ("gamepad", "D-pad or stick, A B X Y; shoulder button rewinds"),
    ("H  Esc", "this help; back"),
)

MAX_FRAMES = 1800
"""Number of newest frames in a saved GIF: two minutes at 15 fps."""
REACH = 400
"""Number of frames that can be rewound."""
TEMPERATURE_STEP = 0.1


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where to save; if a file exists already, a number is added to the name."""

    picture: Path
    """File that G saves: GIF, MP4 or PNG strip, by its extension."""
    scale: int
    """Integer factor by which pictures in files are enlarged."""
    show_keys: bool = False
    """Draw the pressed keys onto the pictures."""


class GameScreen:
    """Plays one opening.

    Args:
        window: where it is shown.
        opening: what to play.
        files: where to save.
        drop: called with each file that is dropped on the window.
        script: a recording to replay before the user takes over.
    """

    def __init__(
        self,
        window: Window,
        opening: Opening,
        files: Files,
        *,
        drop: Callable[[Path], None],
        script: Recording | None = None,
    ) -> None:
        self._window, self._files, self._drop = window, files, drop
        self.title = opening.title
        limits = {"max_frames": MAX_FRAMES, "reach": REACH}
        self.player = Player(opening, **limits, say=window.say, script=script)
        self._bar, self._pads = Bar(self.player.keymap), Gamepads()
        self._shows_help = False
        self._choosing: int | None = None
        self._capture_from: int | None = None  # position at which the captured video begins
        self._commands = {
            pygame.K_r: self._restart,
            pygame.K_p: self.player.pause,
            pygame.K_PERIOD: self.player.single_step,
            pygame.K_g: self._save_picture,
            pygame.K_m: self._toggle_capture,
            pygame.K_o: self._save_recording,
            pygame.K_v: self._toggle_beside,
            pygame.K_h: self._toggle_help,
            pygame.K_F1: self._toggle_help,
            pygame.K_F5: self.player.set_bookmark,
            pygame.K_F9: self._go_to_bookmark,
            pygame.K_TAB: self._show_what_if,
            pygame.K_BACKSPACE: lambda: self.player.rewind(True, time.perf_counter()),
            pygame.K_DELETE: self._forget_keys,
            pygame.K_MINUS: lambda: self._tune(0, -TEMPERATURE_STEP),
            pygame.K_KP_MINUS: lambda: self._tune(0, -TEMPERATURE_STEP),
            pygame.K_EQUALS: lambda: self._tune(0, TEMPERATURE_STEP),
            pygame.K_PLUS: lambda: self._tune(0, TEMPERATURE_STEP),
            pygame.K_KP_PLUS: lambda: self._tune(0, TEMPERATURE_STEP),
            pygame.K_LEFTBRACKET: lambda: self._tune(-1, 0),
            pygame.K_RIGHTBRACKET: lambda: self._tune(1, 0),
            pygame.K_ESCAPE: self._leave,
        }

    # The interface `Screen`.

    def handle(self, event: pygame.event.Event) -> None:
        """Handle keys, clicks, dropped files and gamepads."""
        if event.type == pygame.KEYDOWN:
            self._press_key(event.key)
        elif event.type == pygame.KEYUP:
            self._release_key(event.key)
        elif event.type == pygame.WINDOWFOCUSLOST:
            self._let_go()
        elif event.type == pygame.MOUSEBUTTONDOWN and event.button == 1:
            self._choose_action(self._bar.action_at(event.pos))
        elif event.type == pygame.DROPFILE:
            self._drop(Path(event.file))
        for change in self._pads.changes(event):
            if isinstance(change.key, int):
                (self._press_key if change.is_down else self._release_key)(change.key)
            elif change.is_down:
                self.player.hold(("pad", change.key), change.key)
            else:
                self.player.release(("pad", change.key))

    def wait(self) -> float:
        """Seconds until the next step is due."""
        return 1.0 if self._shows_help else self.player.wait(time.perf_counter())

    def act(self) -> None:
        """Step the world if a step is due."""
        if not self._shows_help:
            self.player.tick(time.perf_counter())

    def rest(self) -> None:
        """Generate the most likely next frame in advance."""
        self.player.rest()

    def close(self) -> None:
        """Save the video that is being captured, if any."""
        self._end_capture()

    def draw(self, surface: pygame.Surface) -> None:
        """Draw the frame and the bar."""
        width, height = surface.get_size()
        surface.fill(BACKGROUND)
        room = pygame.Rect(0, 0, width, max(height - BAR_HEIGHT, 0))
        if self.player.real is not None:
            self._draw_beside(surface, room, self.player.real)
        else:
            paint.picture(surface, self.player.playthrough.frame, room)
        if self._shows_help:
            _draw_help(surface, room)
        self._bar.draw(
            surface,
            top=room.bottom,
            press=None if self._shows_help else self.player.press,
            state=self._state(),
            figures=self._figures(),
            settings=self._settings_text(),
            footer=self._window.notice or HINT,
            choosing=self._choosing,
        )

    # Keys.

    def _press_key(self, key: int) -> None:
        if self._choosing is not None:
            self._bind(key, self._choosing)
        elif key in self._commands:
            try:
                self._commands[key]()
            except UserError as error:
                self._window.say(str(error))
        elif key in KEY_NAMES:
            self.player.hold(key, KEY_NAMES[key])

    def _release_key(self, key: int) -> None:
        if key == pygame.K_BACKSPACE:
            self.player.rewind(False, time.perf_counter())
        self.player.release(key)

    def _let_go(self) -> None:
        """Release all keys: without the focus, the window does not see them being released."""
        self.player.let_go()
        self._pads.let_go()

    def _choose_action(self, action: int | None) -> None:
        self._choosing = action
        if action is not None:
            name = self.player.keymap.name_of(action)
            self._window.say(f"press the key for “{name}” (Esc: cancel)")

    def _bind(self, key: int, action: int) -> None:
        self._choosing = None
        name = KEY_NAMES.get(key, pygame.key.name(key))
        if key == pygame.K_ESCAPE:
            return
        if key in self._commands or name not in FREE_KEYS:
            self._window.say(f"{spoken(name)} is taken: choose an arrow or another letter")
            return
        try:
            self.player.bind(name, action)
            self._window.say(f"{spoken(name)} is now “{self.player.keymap.name_of(action)}”")
        except UserError as error:
            self._window.say(str(error))
        self._bar = Bar(self.player.keymap)

    def _forget_keys(self) -> None:
        self.player.forget_keys()
        self._bar = Bar(self.player.keymap)

    # Commands that need more than the player's own method.

    def _restart(self) -> None:
        self._end_capture()
        is_shifted = pygame.key.get_mods() & pygame.KMOD_SHIFT
        self.player.reseed() if is_shifted else self.player.restart()

    def _go_to_bookmark(self) -> None:
        if self.player.has_bookmark:
            self._end_capture()
        self.player.go_to_bookmark()

    def _toggle_beside(self) -> None:
        if self.player.has_video:
            self._end_capture()
        self.player.toggle_beside()

    def _show_what_if(self) -> None:
        self._let_go()
        self._window.show(WhatIfScreen(self._window, self.player))

    def _tune(self, steps: int, temperature: float) -> None:
        before = self.player.playthrough.settings
        self.player.tune(
            min(max(before.maskgit_steps + steps, 1), MOST_STEPS),
            min(max(round(before.temperature + temperature, 2), 0.0), HOTTEST),
        )

    def _leave(self) -> None:
        if self._shows_help:
            self._shows_help = False
        else:
            self._window.back()

    def _toggle_help(self) -> None:
        self._shows_help = not self._shows_help

    # Files.

    def _save_picture(self) -> None:
        played = self.player.playthrough
        self._save(self._files.picture, played.frames)

    def _toggle_capture(self) -> None:
        if self._capture_from is None:
            self._capture_from = self.player.playthrough.position
            self._window.say("capturing a video: press M to stop")
            return
        self._end_capture()

    def _end_capture(self) -> None:
        """Save the video that is being captured, if there is one and it has a frame."""
        if self._capture_from is None:
            return
        played = self.player.playthrough
        count = played.position - self._capture_from
        self._capture_from = None
        if count > 0:
            path = self._files.picture.with_suffix(".mp4")
            self._save(path, played.frames[-count - 1 :])
        else:
            self._window.say("the video has no frame: it is not saved")

    def _save(self, path: Path, frames: Sequence[np.ndarray]) -> None:
        """Save the newest frames of the playthrough."""
        keymap, files, fps = self.player.keymap, self._files, self.player.opening.fps
        steps = self.player.playthrough.steps

        def write() -> str:
            # The name is chosen here, on the single writer thread, so that two quick saves differ.
            free, scale = free_name(path), files.scale
            pictures = frames
            if files.show_keys:
                scale = overlay.readable_scale(frames[0].shape[:2], files.scale)
                pictures, scale = overlay.captioned(frames, steps, keymap, scale), 1
            video.write(free, pictures, fps=fps, scale=scale)
            return f"saved {len(frames)} frames to {free}"

        self._window.save(write)
        self._window.say(f"saving {len(frames)} frames ...")

    def _save_recording(self) -> None:
        recording = self.player.recording()
        path = self._files.picture.with_suffix(".json")

        def write() -> str:
            free = free_name(path)
            recording.save(free)
            return f"recorded {len(recording.actions)} actions in {free}"

        self._window.save(write)

    # Drawing.

    def _draw_beside(self, surface: pygame.Surface, room: pygame.Rect, real: np.ndarray) -> None:
        left, right = room.copy(), room.copy()
        left.width = right.width = room.width // 2
        right.left = left.right
        paint.picture(surface, self.player.playthrough.frame, left)
        place = paint.picture(surface, real, right)
        words, action = "the real video has ended", self.player.real_action
        if action is not None:
            words = f"real video, next action “{self.player.keymap.name_of(action)}”"
        label = paint.text(words, BRIGHT, paint.SMALL)
        area = label.get_rect(midbottom=(place.centerx, room.bottom - 6))
        pygame.draw.rect(surface, BACKGROUND, area.inflate(16, 10), border_radius=6)
        surface.blit(label, area)

    def _state(self) -> str:
        if self.player.rewinds:
            return "rewinding"
        if self.player.is_paused or self._shows_help:
            return "paused"
        return "waiting for a key"

    def _settings_text(self) -> str:
        played, settings = self.player.playthrough, self.player.playthrough.settings
        parts = [
            f"frame {played.position}",
            f"seed {self.player.seed}",
            f"temperature {settings.temperature:g}",
            settings.passes,
        ]
        if self.player.script:
            parts.insert(0, "replay")
        if self._capture_from is not None:
            parts.insert(0, f"capture: {played.position - self._capture_from} frames")
        return "    ".join(parts)

    def _figures(self) -> str:
        player = self.player
        latency = f"{player.latency_ms:.0f} ms" if player.playthrough.latencies_ms else ""
        return f"{player.rate:.0f} fps    {latency}" if player.rate else latency


def _draw_help(surface: pygame.Surface, room: pygame.Rect) -> None:
    shade = pygame.Surface(room.size, pygame.SRCALPHA)
    shade.fill((*BACKGROUND, 225))
    surface.blit(shade, room)
    line = min(26, max(room.height // (len(HELP) + 1), 14))
    top = room.centery - line * len(HELP) // 2
    for number, (keys, meaning) in enumerate(HELP):
        row = top + number * line
        surface.blit(paint.text(keys, BRIGHT, paint.SMALL + 2), (room.left + 24, row))
        surface.blit(paint.text(meaning, MUTED, paint.SMALL + 2), (room.left + 180, row))
