"""One person's play: keys and verbs in, pictures in time out; the window and the page are views.

In: an `Opening`, names of keys that are held, verbs, and what time it is. Out: a `Playthrough` that
goes on by the world's clock. Knows neither pygame nor sockets, draws nothing and writes no films.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator

import numpy as np

from genie.errors import UserError
from play import bindings
from play.game import Settings
from play.keymap import HeldKeys, Press
from play.recording import Recording
from play.timeline import Bookmark
from play.worlds import Opening

MOST_STEPS, HOTTEST = 64, 5.0
"""Passes over a frame, and temperature, that a view may offer."""
NUM_RECENT = 16
"""Steps that rate and latency are taken over."""
IDLE_SECONDS = 1.0
"""How long a view may sleep while nothing is due."""
SECONDS_AHEAD = 1.0
"""How far `WhatIf` looks."""


class Player:
    """Plays one opening.

    Args:
        opening: what to play.
        max_frames: newest frames that are remembered.
        reach: frames that one can go back.
        say: takes notices for the person, a line each.
        script: a recording to play first, before the person takes over.
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
        self._given, self._say = opening, say
        self._limits = {"max_frames": max_frames, "reach": reach}
        self._keys = HeldKeys()
        self.keymap, self.seed = opening.keymap, opening.seed
        self.is_paused = self.rewinds = False
        self.script = script
        """What of a recording is still to be played, if anything is."""
        self.changed_frame: int | None = None
        """Number of the first frame that was not the script's, once there is one."""
        self.script_ended = False
        """Whether all of the script was played."""
        self._start(opening, opening.settings)
        self._compare()

    # The clock.

    def wait(self, now: float) -> float:
        """Seconds until `tick` has something to do, if no key comes."""
        is_busy = self.press or self.rewinds or (self._is_asked and not self.is_paused)
        return self._due - now if is_busy else IDLE_SECONDS

    def tick(self, now: float) -> bool:
        """Go on if it is time; True if another picture is shown.

        Args:
            now: seconds of a clock that never goes back.
        """
        self._has_stepped = False
        if now < self._due:
            return False
        if self.rewinds:
            return self._go_back_one(now)
        was_waiting, self.press = self.press is None, self._wanted()
        if self.press is None:
            self._stepped_at.clear()
            return False
        self._stepped_at.append(now)
        due = now if was_waiting else self._due
        # A step that came late moves the clock: catching up would play in bursts.
        self._due = max(due + 1 / self.opening.fps, now)
        self.playthrough.step(self.press.action)
        self._has_stepped = True
        self._compare()
        return True

    def rest(self) -> None:
        """After a step is shown: a key that is held will most likely be held on.

        Its next picture is then ready.
        """
        if self._has_stepped and self.press:
            self.playthrough.prepare(self.press.action)
        self._has_stepped = False

    @property
    def latency_ms(self) -> float:
        """Mean of how long the last steps took, 0 before the first."""
        recent = list(self.playthrough.latencies_ms)[-NUM_RECENT:]
        return sum(recent) / len(recent) if recent else 0.0

    @property
    def rate(self) -> float:
        """Steps a second while a key is held, 0 where none is."""
        if len(self._stepped_at) < 2:
            return 0.0
        return (len(self._stepped_at) - 1) / (self._stepped_at[-1] - self._stepped_at[0])

    # Keys.

    def hold(self, source: Hashable, name: str) -> None:
        """A key went down. Args: source: what `release` names; name: as in `keymap`."""
        self._stop_script()
        self._keys.press(source, name)

    def release(self, source: Hashable) -> None:
        """It went up."""
        self._keys.release(source)

    def let_go(self) -> None:
        """Nothing is held any more."""
        self._keys, self.rewinds = HeldKeys(), False

    def bind(self, name: str, action: int) -> None:
        """Give an action one more key, and remember that for this world.

        Raises:
            UserError: if the key cannot be bound, or not be remembered; then it is bound for now.
        """
        self.keymap = self.keymap.rebound(name, action)
        bindings.remember(name, action, self.opening.fingerprint)

    def forget_keys(self) -> None:
        """Return to the legend's keys.

        Raises:
            UserError: if those that are remembered cannot be removed.
        """
        bindings.forget(self.opening.fingerprint)
        self.keymap = self.opening.legend_keymap
        self._say("the legend's keys are back")

    # Verbs.

    def restart(self) -> None:
        """Begin again, from the same seed."""
        self._stop_script()
        self._start(self.opening, self.playthrough.settings)
        self._say(f"restarted, seed {self.seed}")

    def reseed(self) -> None:
        """Begin again, from another seed."""
        self.seed = (self.seed + 1) % 2**63
        self.restart()

    def pause(self) -> None:
        """Stop the clock, or let it go on."""
        self.is_paused, self.press = not self.is_paused, None

    def single_step(self) -> None:
        """One step under the keys that are held, else under action 0; then it is paused."""
        self._stop_script()
        self.is_paused = True
        self.press = self.keymap.choose(self._keys.take()) or Press(0, "1")
        self.playthrough.step(self.press.action)
        self._say(f"one step: {self.keymap.name_of(self.press.action)}")

    def rewind(self, on: bool, now: float) -> None:
        """Go back in time, frame by frame, while it is on."""
        if on and not self.rewinds:
            self._stop_script()
            self._due = now
        self.rewinds = on

    @property
    def has_bookmark(self) -> bool:
        """Whether there is one to come back to."""
        return self._bookmark is not None

    def set_bookmark(self) -> None:
        """Remember this moment until the next restart."""
        self._bookmark = self.playthrough.bookmark()
        self._say(f"bookmark at frame {self.playthrough.position}")

    def go_to_bookmark(self) -> None:
        """Come back to it.

        Raises:
            UserError: if there is none.
        """
        if self._bookmark is None:
            raise UserError("no bookmark since the last restart")
        self._stop_script()
        self.playthrough.go_to(self._bookmark)
        self.press = None
        self._say(f"back at frame {self.playthrough.position}")

    def tune(self, steps: int, temperature: float) -> None:
        """Draw frames otherwise from the next step on.

        Raises:
            UserError: if a number is out of range; then all stays as it is.
        """
        if not (1 <= steps <= MOST_STEPS and 0 <= temperature <= HOTTEST):
            raise UserError(f"give 1 to {MOST_STEPS} passes and a temperature of 0 to {HOTTEST:g}")
        self._stop_script()
        self.playthrough.tune(Settings(steps, temperature))

    @property
    def has_video(self) -> bool:
        """Whether there is a real video to show beside."""
        return self._given.beside is not None

    def toggle_beside(self) -> None:
        """Begin where the video begins, which is then shown beside; or again where it ends.

        Raises:
            UserError: if the prompt is no video.
        """
        if self._given.beside is None:
            raise UserError("nothing to show beside: start from a video (--prompt film.mp4)")
        self._stop_script()
        is_beside = self.opening is self._given.beside
        other = self._given if is_beside else self._given.beside
        self._start(other, self.playthrough.settings)

    def what_if(self) -> "WhatIf":
        """The next second under each action; until one is gone to, this play stands still."""
        self.let_go()
        self._stop_script()
        self.press = None
        return WhatIf(self)

    def recording(self) -> Recording:
        """Of what is shown, since the last restart.

        Raises:
            UserError: if nothing was played.
        """
        if not self.playthrough.actions:
            raise UserError("nothing was played yet")
        return self.opening.recording(self.playthrough, self.seed)

    @property
    def real(self) -> np.ndarray | None:
        """The frame of the real video beside what is shown, its last one after its end."""
        clip = self.opening.clip
        return clip.frames[min(self.playthrough.position, len(clip.frames) - 1)] if clip else None

    @property
    def real_action(self) -> int | None:
        """What the world reads out of the real video's next transition; None after its end."""
        clip, position = self.opening.clip, self.playthrough.position
        return clip.actions[position] if clip and position < len(clip.actions) else None

    def _start(self, opening: Opening, settings: Settings) -> None:
        self.opening = opening
        self.playthrough = opening.playthrough(self.seed, settings, **self._limits)
        self.press: Press | None = None
        """What is being done."""
        self._bookmark: Bookmark | None = None
        self._has_stepped = False
        self._due = 0.0
        self._stepped_at: deque[float] = deque(maxlen=NUM_RECENT)

    @property
    def _is_asked(self) -> bool:
        """Whether anything asks for a step: a key may mean nothing, and no key may mean one."""
        return bool(self.script) or self.keymap.choose(self._keys.names) is not None

    def _wanted(self) -> Press | None:
        """What the keys that are down ask for, or the script."""
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

    # A script that is played first.

    def _scripted(self, script: Recording) -> Press:
        number = self.playthrough.position
        settings = script.settings_of(number)
        if settings != self.playthrough.settings:
            self.playthrough.tune(settings)
        action = script.actions[number]
        keys = [key for key in self.keymap.names_of(action) if key != "none"]
        return Press(action, next(iter(keys), str(action + 1)))

    def _compare(self) -> None:
        """Hold what is shown against the script, where there is one."""
        if not self.script:
            return
        number = self.playthrough.position
        is_same = self.playthrough.digests[number] == self.script.digests[number]
        if not is_same and self.changed_frame is None:
            self.changed_frame = number
            self._say(f"frame {number} is not the recorded one")
        if number == len(self.script.actions):
            self.script_ended = True
            same = "every frame is the recorded one" if self.changed_frame is None else "it differs"
            self._say(f"the recording ends; {same}. You play on.")
            self.script = None

    def _stop_script(self) -> None:
        if self.script:
            self.script = None
            self._say(f"you play on from frame {self.playthrough.position}")


class WhatIf:
    """The next second of a play under each action, made frame by frame and then shown over again.

    Args:
        player: whose futures they are.
    """

    def __init__(self, player: Player) -> None:
        self._player, self._fps = player, player.opening.fps
        self._coming: Iterator[np.ndarray] = player.playthrough.futures()
        num_actions = player.keymap.num_actions
        self._films = [np.stack([player.playthrough.frame] * num_actions)]
        self._shown, self._due = 0, 0.0
        self.num_frames = max(1, round(SECONDS_AHEAD * self._fps))

    @property
    def pictures(self) -> np.ndarray:
        """What is shown now, uint8 (actions, h, w, 3)."""
        return self._films[self._shown]

    @property
    def is_complete(self) -> bool:
        """Whether every frame has been made."""
        return len(self._films) > self.num_frames

    def wait(self, now: float) -> float:
        """Seconds until the next picture."""
        return self._due - now

    def tick(self, now: float) -> None:
        """Show the next picture of each future if it is time; make it if it is not there yet."""
        if now < self._due:
            return
        self._due = now + 1 / self._fps
        if self.is_complete:
            self._shown = (self._shown + 1) % len(self._films)
        else:
            self._films.append(next(self._coming))
            self._shown = len(self._films) - 1

    def go(self, action: int) -> None:
        """Go to the end of one of the futures.

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
