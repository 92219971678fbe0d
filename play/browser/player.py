"""One person's play in a page: commands in, frames, files and notices out.

Each player has a history of its own. Commands wait in a short queue for the player's clock, which
alone touches the playthrough; all models run on one thread, player after player, so that everybody
gets the same share. Knows no HTTP.
"""

import asyncio
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from genie import video
from genie.errors import UserError
from play.browser import wire
from play.browser.wire import Command
from play.game import Settings
from play.keymap import HeldKeys, Press
from play.worlds import Opening

MAX_FRAMES = 900
"""Newest frames that a file holds: a minute at 15 fps."""
REACH = 320
"""Frames that one can go back."""
MAX_WAITING = 64
"""Commands that may wait."""
MAX_UNSEEN = 8
"""Frames on their way to a page before its world waits for it."""
MOST_STEPS, HOTTEST = 16, 5.0
FILE_SIDE = 256
NUM_RECENT = 16


GONE, POLICY, TRY_LATER, IDLE = 1001, 1008, 1013, 4001
"""Codes with which a WebSocket is closed."""


class Closed(Exception):
    """The page has gone or is sent away. Args: code of the WebSocket, reason for people."""


class Line(Protocol):
    """The way to one page."""

    async def send_json(self, message: dict[str, Any]) -> None:
        """Send a message; raises `Closed` if the page has gone."""

    async def send_bytes(self, content: bytes) -> None:
        """Send a frame or a file; raises `Closed` if the page has gone."""


@dataclass(frozen=True)
class Workers:
    """Threads that all players share."""

    models: ThreadPoolExecutor
    """One thread: all that runs a world."""
    files: ThreadPoolExecutor
    """Decodes pictures and encodes films."""

    async def run(self, work: Callable[[], Any]) -> Any:
        """Do something on the models' thread."""
        return await asyncio.get_running_loop().run_in_executor(self.models, work)

    async def aside(self, work: Callable[[], Any]) -> Any:
        """Do something beside the worlds."""
        return await asyncio.get_running_loop().run_in_executor(self.files, work)


class Player:
    """Plays openings one after the other until the page goes.

    Args:
        line: to the page.
        workers: see there.
        prompts: openings to choose from by number; at least one.
        open_picture: opens the world with a picture's bytes.
        idle_seconds: after how long without a command the player is sent away.
    """

    def __init__(
        self,
        line: Line,
        workers: Workers,
        prompts: list[Opening],
        open_picture: Callable[[bytes], Opening],
        idle_seconds: float,
    ) -> None:
        self._line, self._workers = line, workers
        self._prompts, self._open_picture = prompts, open_picture
        self._idle_seconds = idle_seconds
        self._waiting: deque[Command | bytes] = deque()
        self._wake = asyncio.Event()
        self._keys, self._held = HeldKeys(), frozenset[str]()
        self._saving: asyncio.Future[None] | None = None
        self._at = self._obeyed_at = 0.0  # the page's clock of the newest keys, and of a frame's
        self._is_paused = self._rewinds = False
        self._seen = self._sent = 0
        self._active_at = time.monotonic()
        self._verbs: dict[str, Callable[..., Awaitable[None]]] = {
            "restart": self._restart,
            "reseed": self._reseed,
            "pause": self._pause,
            "step": self._single_step,
            "rewind": self._rewind,
            "bookmark": self._set_bookmark,
            "back": self._go_back,
            "tune": self._tune,
            "prompt": self._choose_prompt,
            "save": self._save,
        }

    def take(self, message: Command | bytes) -> None:
        """Note what a page sends. What holds keys or counts frames is done at once.

        Raises:
            Closed: if more waits than any person could ask for.
        """
        if isinstance(message, Command) and message.verb == "seen":
            self._seen = min(max(message.values["frame"], self._seen), self._sent)
            self._wake.set()
            return
        self._active_at = time.monotonic()
        if isinstance(message, Command) and message.verb == "keys":
            self._hold(message.values["held"])
            self._at = message.values["at"]
        elif len(self._waiting) >= MAX_WAITING:
            raise Closed(POLICY, "too many commands at once")
        else:
            self._waiting.append(message)
        self._wake.set()

    async def play(self) -> None:
        """Play until cancelled.

        Raises:
            Closed: if nobody seems to be there any more.
        """
        try:
            await self._open(self._prompts[0])
            while True:
                await self._sleep()
                while self._waiting:
                    await self._obey(self._waiting.popleft())
                if time.monotonic() - self._active_at > self._idle_seconds:
                    raise Closed(IDLE, "nobody seems to be here")
                if not self._is_stepping():
                    await self._come_to_rest()
                elif time.perf_counter() >= self._due:
                    await self._tick()
        finally:
            if self._saving:
                self._saving.cancel()

    async def _sleep(self) -> None:
        """Until the next step is due, or something comes that may make it due."""
        can_step = self._is_stepping() and self._sent - self._seen < MAX_UNSEEN
        seconds = self._due - time.perf_counter() if can_step else 1.0
        # Not wait_for: in Python 3.11 it swallows a cancellation that comes with a wake-up.
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0.001)):
                await self._wake.wait()
        self._wake.clear()

    def _is_stepping(self) -> bool:
        asks = bool(self._keys) or self._opening.legend_keymap.choose(()) is not None
        return self._rewinds or (asks and not self._is_paused)

    def _hold(self, keys: list[str]) -> None:
        """Press and release what has changed."""
        for key in keys:
            if key not in self._held:
                self._keys.press(key)
        for key in self._held.difference(keys):
            self._keys.release(key)
        self._held = frozenset(keys)

    async def _obey(self, message: Command | bytes) -> None:
        try:
            if isinstance(message, bytes):
                await self._open(await self._workers.aside(lambda: self._open_picture(message)))
            else:
                await self._verbs[message.verb](**message.values)
        except UserError as error:
            await self._say(str(error))

    # Time.

    async def _open(self, opening: Opening) -> None:
        self._opening = opening
        self._seed, self._settings = opening.seed, opening.settings
        await self._begin()

    async def _begin(self) -> None:
        opening, seed, settings = self._opening, self._seed, self._settings
        self._playthrough = await self._workers.run(
            lambda: opening.playthrough(seed, settings, max_frames=MAX_FRAMES, reach=REACH)
        )
        self._bookmark, self._action = None, None
        self._stepped_at: deque[float] = deque(maxlen=NUM_RECENT)
        self._due = time.perf_counter()
        await self._show()
        await self._tell()

    async def _tick(self) -> None:
        if self._sent - self._seen >= MAX_UNSEEN:
            return
        played = self._playthrough
        now, self._obeyed_at = time.perf_counter(), self._at
        if self._rewinds:
            self._action = None
            self._due = now + 1 / self._opening.fps
            if played.rewind():
                await self._show()
            return
        held = self._keys.take()
        press = None if self._is_paused else self._opening.legend_keymap.choose(held)
        if press is None:
            return
        # A step that came late moves the clock: catching up would play in bursts.
        late = now - self._due > 1 / self._opening.fps
        self._due = (now if late or self._action is None else self._due) + 1 / self._opening.fps
        self._action = press.action
        self._stepped_at.append(now)
        await self._workers.run(lambda: played.step(press.action))
        await self._show()
        await self._workers.run(played.prepare)

    async def _come_to_rest(self) -> None:
        """The page shows no action any more."""
        self._stepped_at.clear()
        if self._action is not None:
            self._action, self._obeyed_at = None, self._at
            await self._show()

    async def _show(self) -> None:
        played = self._playthrough
        self._sent += 1
        await self._line.send_bytes(
            wire.frame(played.frame, action=self._action, number=self._sent, at=self._obeyed_at)
        )
        if self._sent % NUM_RECENT == 0:
            await self._tell()

    async def _tell(self) -> None:
        played, times = self._playthrough, self._stepped_at
        latencies = list(played.latencies_ms)[-NUM_RECENT:]
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
        await self._line.send_json(
            {
                "is": "state",
                "position": played.position,
                "seed": self._seed,
                "steps": played.settings.maskgit_steps,
                "temperature": played.settings.temperature,
                "paused": self._is_paused,
                "fps": rate,
                "model_ms": sum(latencies) / len(latencies) if latencies else 0.0,
            }
        )

    async def _say(self, text: str) -> None:
        await self._line.send_json({"is": "notice", "text": text})

    # Commands.

    async def _restart(self) -> None:
        self._settings = self._playthrough.settings
        await self._begin()

    async def _reseed(self) -> None:
        self._seed = (self._seed + 1) % 2**63
        await self._restart()

    async def _pause(self) -> None:
        self._is_paused = not self._is_paused
        self._action = None
        await self._tell()

    async def _single_step(self) -> None:
        self._is_paused = True
        press = self._opening.legend_keymap.choose(self._keys.take()) or Press(0, "1")
        self._action = press.action
        await self._workers.run(lambda: self._playthrough.step(press.action))
        await self._show()
        await self._tell()

    async def _rewind(self, on: bool) -> None:
        self._rewinds = on
        self._due = time.perf_counter()
        await self._tell()

    async def _set_bookmark(self) -> None:
        self._bookmark = await self._workers.run(self._playthrough.bookmark)
        await self._say(f"bookmark at frame {self._playthrough.position}")

    async def _go_back(self) -> None:
        if self._bookmark is None:
            raise UserError("no bookmark since the last restart")
        await self._workers.run(lambda: self._playthrough.go_to(self._bookmark))
        self._action = None
        await self._show()
        await self._tell()

    async def _tune(self, steps: int, temperature: float) -> None:
        if not (1 <= steps <= MOST_STEPS and 0 <= temperature <= HOTTEST):
            raise UserError(f"give 1 to {MOST_STEPS} passes and a temperature of 0 to {HOTTEST:g}")
        settings = Settings(steps, temperature)
        await self._workers.run(lambda: self._playthrough.tune(settings))
        await self._tell()

    async def _choose_prompt(self, number: int) -> None:
        if not 0 <= number < len(self._prompts):
            raise UserError(f"there is no prompt {number}")
        await self._open(self._prompts[number])

    async def _save(self, **values: str) -> None:
        kind = values["as"]
        if self._saving and not self._saving.done():
            raise UserError("one file after the other: the last one is still being made")
        if not self._playthrough.actions:
            raise UserError("nothing was played yet")
        frames, fps = self._playthrough.frames, self._opening.fps
        recording = self._opening.recording(self._playthrough, self._seed)
        scale = max(1, FILE_SIDE // max(frames[0].shape[:2]))

        def write() -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"genie.{kind}"
                if kind == "json":
                    recording.save(path)
                else:
                    video.write(path, frames, fps=fps, scale=scale)
                return path.read_bytes()

        self._saving = asyncio.ensure_future(self._send_file(kind, write))

    async def _send_file(self, kind: str, write: Callable[[], bytes]) -> None:
        """Beside the play, which goes on."""
        try:
            content = await self._workers.aside(write)
            await self._line.send_bytes(wire.file(f"genie.{kind}", content))
        except UserError as error:
            await self._say(f"not saved: {error}")
        except Closed:
            pass  # the page has gone, and `play` learns it too
