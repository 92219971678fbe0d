"""The screen that a world is played on: keys in, pictures out, in real time.

In: an `Opening` and key events. Out: a `Playthrough`, drawn beside the bar that shows the actions,
and files. Knows neither worlds nor prompts, only how to start one and to start it again.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pygame

from genie.errors import UserError
from genie.legend import FREE_KEYS
from play import bindings, overlay
from play.game import Settings
from play.keymap import HeldKeys, Press
from play.recording import Recording
from play.timeline import Bookmark, free_name
from play.window import paint
from play.window.bar import BAR_HEIGHT, Bar, spoken
from play.window.gamepad import Gamepads
from play.window.paint import BACKGROUND, BRIGHT, MUTED
from play.window.what_if import Foresight
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
    ("1-9, arrows, WASD", "act; hold to repeat, two arrows are a chord"),
    ("click an action", "then press a key: it is bound, for good"),
    ("Delete", "back to the legend's keys"),
    ("P  .", "pause; one single step"),
    ("Backspace", "hold to rewind"),
    ("R  Shift+R", "restart; restart with another seed"),
    ("F5  F9", "set a bookmark; come back to it"),
    ("Tab", "what if: the next second under each action; click one to go there"),
    ("-  +", "temperature"),
    ("[  ]", "most passes over a frame"),
    ("V", "beside the real video, from its beginning (video prompts)"),
    ("G", "save the last two minutes as a GIF"),
    ("M", "start and stop a film (MP4)"),
    ("O", "save a recording, for --replay"),
    ("drop a file", "an image, a video or a GIF is the next prompt"),
    ("gamepad", "cross or stick, A B X Y, shoulder rewinds"),
    ("H  Esc", "this help; back"),
)

MAX_FRAMES = 1800
"""Newest frames that a saved GIF holds: two minutes at 15 fps."""
REACH = 400
"""Frames that one can go back."""
NUM_RECENT = 16
"""Steps that the shown fps and latency are taken over."""
TEMPERATURE_STEP, MOST_STEPS = 0.1, 64


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where a play is saved to; numbered where the file is there already."""

    picture: Path
    """The GIF of G, or what the ending says."""
    scale: int
    """Enlargement in files."""
    show_keys: bool = False
    """Write the keys on the pictures."""


class Playing:
    """Plays one opening.

    Args:
        window: where it is shown.
        opening: what to play.
        files: where to save.
        drop: opens a file that is dropped on the window.
        script: a recording to play first, before the player takes over.
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
        self._window, self._given, self._files = window, opening, files
        self._drop = drop
        self._keymap, self._keys = opening.keymap, HeldKeys()
        self._bar, self._pads = Bar(opening.keymap), Gamepads()
        self._is_paused = self._shows_help = self._rewinds = False
        self._choosing: int | None = None
        self._bookmark: Bookmark | None = None
        self._film_from: int | None = None
        self._script = script
        self.changed_frame: int | None = None
        """Number of the first frame that was not the script's, once there is one."""
        self.script_ended = False
        """Whether all of the script was played."""
        self.seed, self.title = opening.seed, opening.title
        self._commands = {
            pygame.K_r: self._restart_by_key,
            pygame.K_p: self._pause,
            pygame.K_PERIOD: self._single_step,
            pygame.K_g: self._save_picture,
            pygame.K_m: self._film,
            pygame.K_o: self._save_recording,
            pygame.K_v: self._toggle_beside,
            pygame.K_h: self._toggle_help,
            pygame.K_F1: self._toggle_help,
            pygame.K_F5: self._set_bookmark,
            pygame.K_F9: self._go_to_bookmark,
            pygame.K_TAB: self._foresee,
            pygame.K_MINUS: lambda: self._tune(0, -TEMPERATURE_STEP),
            pygame.K_KP_MINUS: lambda: self._tune(0, -TEMPERATURE_STEP),
            pygame.K_EQUALS: lambda: self._tune(0, TEMPERATURE_STEP),
            pygame.K_PLUS: lambda: self._tune(0, TEMPERATURE_STEP),
            pygame.K_KP_PLUS: lambda: self._tune(0, TEMPERATURE_STEP),
            pygame.K_LEFTBRACKET: lambda: self._tune(-1, 0),
            pygame.K_RIGHTBRACKET: lambda: self._tune(1, 0),
            pygame.K_ESCAPE: self._leave,
        }
        self._start(opening, opening.settings)
        if script:
            self._compare()

    # What the window asks for.

    def handle(self, event: pygame.event.Event) -> None:
        """Keys, clicks, dropped files and gamepads."""
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
            else:
                (self._keys.press if change.is_down else self._keys.release)(("pad", change.key))

    def wait(self) -> float:
        """Until the next step; nothing is due in a world that waits."""
        is_busy = self._press or self._rewinds or (self._script and not self._is_paused)
        return self._next_step_at - time.perf_counter() if is_busy else 1.0

    def act(self) -> None:
        """One tick of the world's clock, if it is time."""
        self._has_stepped = False
        if time.perf_counter() >= self._next_step_at:
            self._has_stepped = self._tick()

    def rest(self) -> None:
        """A key that is held will most likely be held on: its next picture is then ready."""
        if self._has_stepped and self._press:
            self.playthrough.prepare(self._press.action)

    def close(self) -> None:
        """A film that runs is saved."""
        self._end_film()

    def draw(self, surface: pygame.Surface) -> None:
        """The picture, crisp, and the bar."""
        width, height = surface.get_size()
        surface.fill(BACKGROUND)
        room = pygame.Rect(0, 0, width, max(height - BAR_HEIGHT, 0))
        if self._opening.clip:
            self._draw_beside(surface, room)
        else:
            paint.picture(surface, self.playthrough.frame, room)
        if self._shows_help:
            _draw_help(surface, room)
        self._bar.draw(
            surface,
            top=room.bottom,
            press=self._press,
            state=self._state(),
            figures=self._figures(),
            settings=self._told_settings(),
            footer=self._window.notice or HINT,
            choosing=self._choosing,
        )

    # Keys.

    def _press_key(self, key: int) -> None:
        if self._choosing is not None:
            self._bind(key)
        elif key == pygame.K_BACKSPACE:
            self._rewinds = True
            self._stop_script()
            self._next_step_at = time.perf_counter()
        elif key == pygame.K_DELETE:
            self._forget_keys()
        elif key in self._commands:
            self._commands[key]()
        elif key in KEY_NAMES:
            self._stop_script()
            self._keys.press(key)

    def _release_key(self, key: int) -> None:
        if key == pygame.K_BACKSPACE:
            self._rewinds = False
        self._keys.release(key)

    def _let_go(self) -> None:
        """The window is told of no key that is released while another one has the keyboard."""
        self._keys, self._rewinds = HeldKeys(), False
        self._pads.let_go()

    def _held(self) -> list[str]:
        keys = self._keys.take()
        return [KEY_NAMES[key] if isinstance(key, int) else key[1] for key in keys]

    def _choose_action(self, action: int | None) -> None:
        self._choosing = action
        if action is not None:
            name = self._keymap.name_of(action)
            self._window.say(f"press the key for “{name}” (Esc: leave it)")

    def _bind(self, key: int) -> None:
        action, self._choosing = self._choosing, None
        name = KEY_NAMES.get(key, pygame.key.name(key))
        if key == pygame.K_ESCAPE:
            return
        if key in self._commands or name not in FREE_KEYS:
            self._window.say(f"{spoken(name)} is taken: choose an arrow or another letter")
            return
        self._keymap = self._keymap.rebound(name, action)
        self._bar = Bar(self._keymap)
        try:
            bindings.remember(name, action, self._opening.fingerprint)
            self._window.say(f"{spoken(name)} is now “{self._keymap.name_of(action)}”")
        except UserError as error:
            self._window.say(str(error))

    def _forget_keys(self) -> None:
        try:
            bindings.forget(self._opening.fingerprint)
        except UserError as error:
            self._window.say(str(error))
            return
        self._keymap = self._opening.legend_keymap
        self._bar = Bar(self._keymap)
        self._window.say("the legend's keys are back")

    # Time.

    def _start(self, opening: Opening, settings: Settings) -> None:
        self._opening = opening
        self.playthrough = opening.playthrough(
            self.seed, settings, max_frames=MAX_FRAMES, reach=REACH
        )
        self._press: Press | None = None
        self._bookmark = None
        self._has_stepped = False
        self._next_step_at = time.perf_counter()
        self._stepped_at: deque[float] = deque(maxlen=NUM_RECENT)

    def _tick(self) -> bool:
        """One tick of the world's clock; False if the world only waits."""
        if self._rewinds:
            self._press = None
            self._stepped_at.clear()
            self._next_step_at = time.perf_counter() + 1 / self._opening.fps
            if not self.playthrough.rewind():
                self._window.say("no further back")
            return False
        was_waiting = self._press is None
        held = self._held()
        self._press = None
        if not (self._is_paused or self._shows_help):
            self._press = self._scripted() if self._script else self._keymap.choose(held)
        if self._press is None:
            self._stepped_at.clear()
            return False
        now = time.perf_counter()
        self._stepped_at.append(now)
        due = now if was_waiting else self._next_step_at
        # A step that came late moves the clock: catching up would play in bursts.
        self._next_step_at = max(due + 1 / self._opening.fps, now)
        self.playthrough.step(self._press.action)
        if self._script:
            self._compare()
        return True

    def _single_step(self) -> None:
        self._stop_script()
        self._is_paused = True
        press = self._keymap.choose(self._held()) or Press(0, "1")
        self.playthrough.step(press.action)
        self._window.say(f"one step: {self._keymap.name_of(press.action)}")

    def _pause(self) -> None:
        self._is_paused = not self._is_paused

    def _restart_by_key(self) -> None:
        self._stop_script()
        if pygame.key.get_mods() & pygame.KMOD_SHIFT:
            self.seed = (self.seed + 1) % 2**63
        self._end_film()
        self._start(self._opening, self.playthrough.settings)
        self._window.say(f"restarted, seed {self.seed}")

    def _set_bookmark(self) -> None:
        self._bookmark = self.playthrough.bookmark()
        self._window.say(f"bookmark at frame {self.playthrough.position}: F9 comes back")

    def _go_to_bookmark(self) -> None:
        if self._bookmark is None:
            self._window.say("no bookmark since the last restart: F5 sets one")
            return
        self._stop_script()
        self._end_film()
        self.playthrough.go_to(self._bookmark)
        self._window.say(f"back at frame {self.playthrough.position}")

    def _foresee(self) -> None:
        self._let_go()
        self._stop_script()
        self._window.show(
            Foresight(self._window, self.playthrough, self._keymap, self._opening.fps)
        )

    def _tune(self, steps: int, temperature: float) -> None:
        self._stop_script()
        before = self.playthrough.settings
        self.playthrough.tune(
            Settings(
                min(max(before.maskgit_steps + steps, 1), MOST_STEPS),
                max(round(before.temperature + temperature, 2), 0.0),
            )
        )

    def _toggle_beside(self) -> None:
        self._stop_script()
        other = self._given if self._opening is self._given.beside else self._given.beside
        if other is None:
            self._window.say("nothing to show beside: start from a video (--prompt film.mp4)")
            return
        self._end_film()
        self._start(other, self.playthrough.settings)

    # A script that is played first.

    def _scripted(self) -> Press:
        number = self.playthrough.position
        settings = self._script.settings_of(number)
        if settings != self.playthrough.settings:
            self.playthrough.tune(settings)
        action = self._script.actions[number]
        keys = [key for key in self._keymap.names_of(action) if key != "none"]
        return Press(action, next(iter(keys), str(action + 1)))

    def _compare(self) -> None:
        number = self.playthrough.position
        is_same = self.playthrough.digests[number] == self._script.digests[number]
        if not is_same and self.changed_frame is None:
            self.changed_frame = number
            self._window.say(f"frame {number} is not the recorded one")
        if number == len(self._script.actions):
            self.script_ended = True
            same = "every frame is the recorded one" if self.changed_frame is None else "it differs"
            self._window.say(f"the recording ends; {same}. You play on.")
            self._script = None

    def _stop_script(self) -> None:
        if self._script:
            self._script = None
            self._window.say(f"you play on from frame {self.playthrough.position}")

    # Files.

    def _save_picture(self) -> None:
        frames, actions = self.playthrough.frames, self.playthrough.actions
        self._save(self._files.picture, frames, actions)

    def _film(self) -> None:
        if self._film_from is None:
            self._film_from = self.playthrough.position
            self._window.say("filming: M ends it")
            return
        self._end_film()

    def _end_film(self) -> None:
        """Save the film that runs, if one does and it has a frame."""
        if self._film_from is None:
            return
        frames, actions = self.playthrough.frames, self.playthrough.actions
        count = self.playthrough.position - self._film_from
        self._film_from = None
        if count > 0:
            self._save(self._files.picture.with_suffix(".mp4"), frames[-count - 1 :], actions)
        else:
            self._window.say("the film has no frame: it is not saved")

    def _save(self, path: Path, frames: Sequence[np.ndarray], actions: Sequence[int]) -> None:
        keymap, files, fps = self._keymap, self._files, self._opening.fps

        def write() -> str:
            # Whoever made the game has loaded torch long since; a window alone opens without it.
            from genie import video

            # Named only now, by the one writer thread, so that two quick saves get two names.
            free, scale = free_name(path), files.scale
            pictures = frames
            if files.show_keys:
                scale = overlay.readable_scale(frames[0].shape[:2], files.scale)
                pictures, scale = overlay.captioned(frames, actions, keymap, scale), 1
            video.write(free, pictures, fps=fps, scale=scale)
            return f"saved {len(frames)} frames to {free}"

        self._window.save(write)
        self._window.say(f"saving {len(frames)} frames ...")

    def _save_recording(self) -> None:
        if not self.playthrough.actions:
            self._window.say("nothing was played yet")
            return
        recording = self.recording()
        path = self._files.picture.with_suffix(".json")

        def write() -> str:
            free = free_name(path)
            recording.save(free)
            return f"recorded {len(recording.actions)} actions in {free}"

        self._window.save(write)

    def recording(self) -> Recording:
        """Of what is on the screen, since the last restart; there must be an action."""
        return self._opening.recording(self.playthrough, self.seed)

    def _leave(self) -> None:
        if self._shows_help:
            self._shows_help = False
        else:
            self._window.back()

    def _toggle_help(self) -> None:
        self._shows_help = not self._shows_help

    # Drawing.

    def _draw_beside(self, surface: pygame.Surface, room: pygame.Rect) -> None:
        clip, position = self._opening.clip, self.playthrough.position
        left, right = room.copy(), room.copy()
        left.width = right.width = room.width // 2
        right.left = left.right
        paint.picture(surface, self.playthrough.frame, left)
        number = min(position, len(clip.frames) - 1)
        place = paint.picture(surface, clip.frames[number], right)
        words = "the real video has ended"
        if position < len(clip.actions):
            words = f"real video, then “{self._keymap.name_of(clip.actions[position])}”"
        label = paint.text(words, BRIGHT, paint.SMALL)
        area = label.get_rect(midbottom=(place.centerx, room.bottom - 6))
        pygame.draw.rect(surface, BACKGROUND, area.inflate(16, 10), border_radius=6)
        surface.blit(label, area)

    def _state(self) -> str:
        if self._rewinds:
            return "rewinding"
        if self._is_paused or self._shows_help:
            return "paused"
        return "waiting for a key"

    def _told_settings(self) -> str:
        played, settings = self.playthrough, self.playthrough.settings
        told = [
            f"frame {played.position}",
            f"seed {self.seed}",
            f"temperature {settings.temperature:g}",
            settings.passes,
        ]
        if self._script:
            told.insert(0, "replay")
        if self._film_from is not None:
            told.insert(0, f"film: {played.position - self._film_from} frames")
        return "    ".join(told)

    def _figures(self) -> str:
        latencies_ms = list(self.playthrough.latencies_ms)[-NUM_RECENT:]
        if not latencies_ms:
            return ""
        latency = f"{sum(latencies_ms) / len(latencies_ms):.0f} ms"
        if len(self._stepped_at) < 2:
            return latency
        seconds = self._stepped_at[-1] - self._stepped_at[0]
        return f"{(len(self._stepped_at) - 1) / seconds:.0f} fps    {latency}"


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
