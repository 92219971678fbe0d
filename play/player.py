"""One user's play without a display; the window and the web page are views of it.

In: an `Opening`, names of held keys, commands, and the current time. Out: a `Playthrough` that
advances by the world's clock. Knows neither pygame nor sockets; draws and writes nothing.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator

import numpy as np

from genie.errors import UserError
from play import bindings
from play.game import Press, Settings, exactly
from play.keymap import HeldKeys
from play.recording import Recording
from play.timeline import Bookmark
from play.worlds import Opening

MOST_STEPS, HOTTEST = 64, 5.0
"""Highest number of MaskGIT passes and highest temperature that can be set while playing."""
NUM_RECENT = 16
"""Number of newest steps over which rate and latency are averaged."""
IDLE_SECONDS = 1.0
"""Longest time that a view sleeps while nothing is due."""
SECONDS_AHEAD = 1.0
"""Length of each future in `WhatIf`."""


class Player:
    """Plays one opening.

    Args:
        opening: what to play.
        max_frames: number of newest frames to store.
        reach: number of frames that can be rewound.
        say: called with each notice for the user, one line of text.
        script: a recording to replay before the user takes over.
    """

    def __init__(
        self,
        opening: Opening,
        *,
        max_frames: int,
        reach: int,
        say: Callable[[str], None],
        script: Recording | None = None,
    ) -> None:
        self._first_opening, self._say = opening, say
        self._limits = {"max_frames": max_frames, "reach": reach}
        self._keys = HeldKeys()
        self.keymap, self.seed = opening.keymap, opening.seed
        self.is_paused = self.rewinds = False
        self.script = script
        """The recording that is being replayed; None once the user plays."""
        self.changed_frame: int | None = None
        """Number of the first frame that differed from the script's; None if there was none."""
        self.script_ended = False
        """True if the script was replayed to its end."""
        self._start(opening, opening.settings)
        self._compare()

    # The clock.

    def wait(self, now: float) -> float:
        """Seconds until `tick` has something to do, if no key is pressed."""
        is_busy = self.press or self.rewinds or (self._wants_step and not self.is_paused)
        return self._due - now if is_busy else IDLE_SECONDS

    def tick(self, now: float) -> bool:
        """Take or rewind one step if it is due; return True if the shown frame changed.

        Args:
            now: seconds of a monotonic clock.
        """
        self._has_stepped = False
        if now < self._due:
            return False
        if self.rewinds:
            return self._go_back_one(now)
        was_waiting, self.press = self.press is None, self._next_press()
        if self.press is None:
            self._stepped_at.clear()
            return False
        self._stepped_at.append(now)
        due = now if was_waiting else self._due
        # A late step delays all later ones: catching up would play in bursts.
        self._due = max(due + 1 / self.opening.fps, now)
        self.playthrough.follow(self.press)
        self._has_stepped = True
        self._compare()
        return True

    def rest(self) -> None:
        """Call after a step is drawn: generates the next frame in case the key stays held."""
        if self._has_stepped and self.press:
            self.playthrough.prepare(self.press)
        self._has_stepped = False

    @property
    def latency_ms(self) -> float:
        """Mean duration of the newest `NUM_RECENT` steps, 0 before the first."""
        recent = list(self.playthrough.latencies_ms)[-NUM_RECENT:]
        return sum(recent) / len(recent) if recent else 0.0

    @property
    def rate(self) -> float:
        """Steps per second while a key is held, else 0."""
        if len(self._stepped_at) < 2:
            return 0.0
        return (len(self._stepped_at) - 1) / (self._stepped_at[-1] - self._stepped_at[0])

    # Keys.

    def hold(self, source: Hashable, name: str) -> None:
        """Record that a key went down. Args: source: as in `HeldKeys`; name: as in `keymap`."""
        self._stop_script()
        self._keys.press(source, name)

    def release(self, source: Hashable) -> None:
        """Record that a key went up."""
        self._keys.release(source)

    def let_go(self) -> None:
        """Release all keys and stop rewinding."""
        self._keys, self.rewinds = HeldKeys(), False

    def bind(self, name: str, action: int) -> None:
        """Bind one more key to an action, and store that for this world.

        Raises:
            UserError: if the key cannot be bound, or cannot be stored; then it is bound until the
                program ends.
        """
        self.keymap = self.keymap.rebound(name, action)
        bindings.remember(name, action, self.opening.fingerprint)

    def forget_keys(self) -> None:
        """Remove the user's bindings, so that the legend's apply.

        Raises:
            UserError: if the stored bindings cannot be removed.
        """
        bindings.forget(self.opening.fingerprint)
        self.keymap = self.opening.legend_keymap
        self._say("the legend's keys are back")

    # Commands.

    def restart(self) -> None:
        """Restart the opening with the same seed."""
        self._stop_script()
        self._start(self.opening, self.playthrough.settings)
        self._say(f"restarted, seed {self.seed}")

    def reseed(self) -> None:
        """Restart the opening with the next seed."""
        self.seed = (self.seed + 1) % 2**63
        self.restart()

    def pause(self) -> None:
        """Stop the clock, or resume it if it is stopped."""
        self.is_paused, self.press = not self.is_paused, None

    def single_step(self) -> None:
        """Pause, and take one step with the action of the held keys, else with action 0."""
        self._stop_script()
        self.is_paused = True
        self.press = self.keymap.choose(self._keys.take()) or exactly(0)
        self.playthrough.follow(self.press)
        self._say(f"one step: {self.keymap.name_of(self.playthrough.steps[-1].action)}")

    def rewind(self, on: bool, now: float) -> None:
        """Start or stop going back, one frame per tick of the world's clock."""
        if on and not self.rewinds:
            self._stop_script()
            self._due = now
        self.rewinds = on

    @property
    def has_bookmark(self) -> bool:
        """True if a bookmark is set."""
        return self._bookmark is not None

    def set_bookmark(self) -> None:
        """Set the bookmark to the shown frame; it is lost at the next restart."""
        self._bookmark = self.playthrough.bookmark()
        self._say(f"bookmark at frame {self.playthrough.position}")

    def go_to_bookmark(self) -> None:
        """Return to the bookmark.

        Raises:
            UserError: if none is set.
        """
        if self._bookmark is None:
            raise UserError("no bookmark since the last restart")
        self._stop_script()
        self.playthrough.go_to(self._bookmark)
        self.press = None
        self._say(f"back at frame {self.playthrough.position}")

    def tune(self, steps: int, temperature: float) -> None:
        """Change the sampling settings from the next step on.

        Raises:
            UserError: if a value is out of range; then both settings stay as they are.
        """
        if not (1 <= steps <= MOST_STEPS and 0 <= temperature <= HOTTEST):
            raise UserError(f"give 1 to {MOST_STEPS} passes and a temperature of 0 to {HOTTEST:g}")
        self._stop_script()
        self.playthrough.tune(Settings(steps, temperature))

    @property
    def has_video(self) -> bool:
        """True if the prompt is a video that can be shown beside the world."""
        return self._first_opening.beside is not None

    def toggle_beside(self) -> None:
        """Restart at the video's beginning with the video beside; or at its end without it.

        Raises:
            UserError: if the prompt is not a video of at least two frames.
        """
        if self._first_opening.beside is None:
            raise UserError("no video to show beside: start from a video (--prompt video.mp4)")
        self._stop_script()
        is_beside = self.opening is self._first_opening.beside
        other = self._first_opening if is_beside else self._first_opening.beside
        self._start(other, self.playthrough.settings)

    def what_if(self) -> "WhatIf":
        """Release all keys and return the next second under each action; takes no step itself."""
        self.let_go()
        self._stop_script()
        self.press = None
        return WhatIf(self)

    def recording(self) -> Recording:
        """Return a recording from the last restart up to the shown frame.

        Raises:
            UserError: if nothing was played.
        """
        if not self.playthrough.actions:
            raise UserError("nothing was played yet")
        return self.opening.recording(self.playthrough, self.seed)

    @property
    def real(self) -> np.ndarray | None:
        """Frame of the real video at this position, then its last one; None if none is shown."""
        clip = self.opening.clip
        return clip.frames[min(self.playthrough.position, len(clip.frames) - 1)] if clip else None

    @property
    def real_action(self) -> int | None:
        """Latent action inferred from the real video's next transition; None after its end."""
        clip, position = self.opening.clip, self.playthrough.position
        return clip.actions[position] if clip and position < len(clip.actions) else None

    def _start(self, opening: Opening, settings: Settings) -> None:
        self.opening = opening
        self.playthrough = opening.playthrough(self.seed, settings, **self._limits)
        self.press: Press | None = None
        """What is being played; None while the world waits."""
        self._bookmark: Bookmark | None = None
        self._has_stepped = False
        self._due = 0.0
        self._stepped_at: deque[float] = deque(maxlen=NUM_RECENT)

    @property
    def _wants_step(self) -> bool:
        """True if a step is wanted: a held key may be unbound, and "no key" may be an action."""
        return bool(self.script) or self.keymap.choose(self._keys.names) is not None

    def _next_press(self) -> Press | None:
        """That of the script or of the held keys; None if paused or if none is wanted."""
        held = self._keys.take()
        if self.is_paused:
            return None
        return self._scripted(self.script) if self.script else self.keymap.choose(held)

    def _go_back_one(self, now: float) -> bool:
        self.press = None
        self._stepped_at.clear()
        self._due = now + 1 / self.opening.fps
        if not self.playthrough.rewind():
            self._say("no further back")
            return False
        return True

    # A recording that is replayed first.

    def _scripted(self, script: Recording) -> Press:
        number = self.playthrough.position
        settings = script.settings_of(number)
        if settings != self.playthrough.settings:
            self.playthrough.tune(settings)
        action = script.actions[number]
        keys = [key for key in self.keymap.names_of(action) if key != "none"]
        return Press(action, next(iter(keys), str(action + 1)))

    def _compare(self) -> None:
        """Compare the shown frame with the script's, if a script is being replayed."""
        if not self.script:
            return
        number = self.playthrough.position
        is_same = self.playthrough.shown_digest == self.script.digests[number]
        if not is_same and self.changed_frame is None:
            self.changed_frame = number
            self._say(f"frame {number} is not the recorded one")
        if number == len(self.script.actions):
            self.script_ended = True
            differs = self.changed_frame is not None
            what = "some frames differ from it" if differs else "every frame is the recorded one"
            self._say(f"end of the recording: {what}. Now you play.")
            self.script = None

    def _stop_script(self) -> None:
        if self.script:
            self.script = None
            self._say(f"you play on from frame {self.playthrough.position}")


class WhatIf:
    """The next second under each action, generated frame by frame and then shown in a loop.

    Args:
        player: the player whose futures are shown.
    """

    def __init__(self, player: Player) -> None:
        self._player, self._fps = player, player.opening.fps
        self._futures: Iterator[np.ndarray] = player.playthrough.futures()
        num_actions = player.keymap.num_actions
        self._moments = [np.stack([player.playthrough.frame] * num_actions)]
        self._shown, self._due = 0, 0.0
        self.num_frames = max(1, round(SECONDS_AHEAD * self._fps))

    @property
    def pictures(self) -> np.ndarray:
        """The frames shown now, one per action, uint8 (num_actions, h, w, 3)."""
        return self._moments[self._shown]

    @property
    def is_complete(self) -> bool:
        """True once every frame has been generated."""
        return len(self._moments) > self.num_frames

    def wait(self, now: float) -> float:
        """Seconds until the next frames are due."""
        return self._due - now

    def tick(self, now: float) -> None:
        """If it is due, show the next frame of each future, which the first round generates."""
        if now < self._due:
            return
        self._due = now + 1 / self._fps
        if self.is_complete:
            self._shown = (self._shown + 1) % len(self._moments)
        else:
            self._moments.append(next(self._futures))
            self._shown = len(self._moments) - 1

    def go(self, action: int) -> None:
        """Advance the player to the end of one future.

        Raises:
            UserError: if there is no such action.
        """
        player = self._player
        if not 0 <= action < player.keymap.num_actions:
            raise UserError(
                f"action {action} does not exist: use 0..{player.keymap.num_actions - 1}"
            )
        for _ in range(self.num_frames):
            player.playthrough.step(action)
        player._say(f"{self.num_frames} frames on, {player.keymap.name_of(action)}")
