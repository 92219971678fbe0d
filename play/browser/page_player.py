"""One page's view of a `Player`: commands in, frames, files and notices out.

Commands wait in a short queue; they and the steps are carried out one after the other. All models
run on one thread, one player after the other, so that every player gets the same share.
Knows no HTTP.
"""

import asyncio
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from genie import video
from genie.errors import UserError
from play.browser import wire
from play.browser.wire import Command
from play.player import IDLE_SECONDS, NUM_RECENT, Player, WhatIf
from play.worlds import Opening

MAX_FRAMES = 900
"""Number of newest frames in a saved file: a minute at 15 fps."""
REACH = 320
"""Number of frames that can be rewound."""
MAX_WAITING = 64
"""Maximum number of waiting commands."""
MAX_UNSEEN = 8
"""Frames that the page has not confirmed, from which on the world waits for it."""
FILE_SIDE = 256

GONE, POLICY, TRY_LATER, IDLE = 1001, 1008, 1013, 4001
"""Close codes of the WebSocket."""


class Closed(Exception):
    """The page is gone or is disconnected. Args: close code of the WebSocket, reason as text."""


class Line(Protocol):
    """The connection to one page."""

    async def send_json(self, message: dict[str, Any]) -> None:
        """Send a message; raises `Closed` if the page is gone."""

    async def send_bytes(self, content: bytes) -> None:
        """Send a frame or a file; raises `Closed` if the page is gone."""


@dataclass(frozen=True)
class Workers:
    """Threads that all players share."""

    models: ThreadPoolExecutor
    """One thread, on which all worlds run."""
    files: ThreadPoolExecutor
    """Threads that decode uploads and encode files."""

    async def run(self, work: Callable[[], Any]) -> Any:
        """Run `work` on the models' thread and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self.models, work)

    async def aside(self, work: Callable[[], Any]) -> Any:
        """Run `work` on a file thread and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self.files, work)


class PagePlayer:
    """Plays openings one after the other until the page is closed.

    Args:
        line: connection to the page.
        workers: threads to run on.
        prompts: openings to choose from by number; at least one.
        open_file: opens the world with the bytes of an image or a video.
        idle_seconds: time without a command after which the page is disconnected.
    """

    def __init__(
        self,
        line: Line,
        workers: Workers,
        prompts: list[Opening],
        open_file: Callable[[bytes], Opening],
        idle_seconds: float,
    ) -> None:
        self._line, self._workers = line, workers
        self._prompts, self._open_file = prompts, open_file
        self._idle_seconds = idle_seconds
        self._waiting: deque[Command | bytes] = deque()
        self._pressed: deque[Command] = deque()
        self._held = frozenset[str]()
        self._notices: deque[str] = deque()
        self._wake = asyncio.Event()
        self._saving: asyncio.Future[None] | None = None
        # Page times, in ms: of the newest keys, and of the keys that the newest frame answers.
        self._keys_at = self._answered_at = 0.0
        self._seen = self._sent = 0
        self._what_if: WhatIf | None = None
        self._active_at = time.monotonic()

    def take(self, message: Command | bytes) -> None:
        """Queue a message from the page.

        Raises:
            Closed: if `MAX_WAITING` are waiting already.
        """
        self._wake.set()
        if isinstance(message, Command) and message.verb == "seen":
            self._seen = min(max(message.values["frame"], self._seen), self._sent)
            return
        self._active_at = time.monotonic()
        is_keys = isinstance(message, Command) and message.verb == "keys"
        queue: deque[Any] = self._pressed if is_keys else self._waiting
        if len(queue) >= MAX_WAITING:
            raise Closed(POLICY, "too many commands at once")
        queue.append(message)

    async def play(self) -> None:
        """Play until cancelled.

        Raises:
            Closed: if the page is gone, or has sent no command for `idle_seconds`.
        """
        try:
            await self._open(self._prompts[0])
            while True:
                await self._sleep()
                self._hold_keys()
                while self._waiting:
                    await self._execute(self._waiting.popleft())
                if time.monotonic() - self._active_at > self._idle_seconds:
                    raise Closed(IDLE, "nobody seems to be here")
                if self._wait() <= 0:
                    await (self._look_ahead(self._what_if) if self._what_if else self._tick())
        finally:
            if self._saving:
                self._saving.cancel()

    def _wait(self) -> float:
        """Seconds until something is due."""
        if self._what_if:
            wait = IDLE_SECONDS if self._what_if.is_complete else self._what_if.wait(_now())
        else:
            wait = self._player.wait(_now())
        return wait if self._sent - self._seen < MAX_UNSEEN else IDLE_SECONDS

    async def _sleep(self) -> None:
        """Sleep until the next step is due, or a message comes that may make it due."""
        # Not wait_for: in Python 3.11 it swallows a cancellation that comes with a wake-up.
        with suppress(TimeoutError):
            async with asyncio.timeout(max(self._wait(), 0.001)):
                await self._wake.wait()
        self._wake.clear()

    def _hold_keys(self) -> None:
        """Press and release the keys that have changed."""
        while self._pressed:
            values = self._pressed.popleft().values
            for key in values["held"]:
                if key not in self._held:
                    self._player.hold(key, key)
            for key in self._held.difference(values["held"]):
                self._player.release(key)
            self._held, self._keys_at = frozenset(values["held"]), values["at"]

    async def _execute(self, message: Command | bytes) -> None:
        try:
            if isinstance(message, bytes):
                await self._open(await self._workers.aside(lambda: self._open_file(message)))
            elif message.verb == "prompt":
                await self._choose_prompt(**message.values)
            elif message.verb == "save":
                await self._save(**message.values)
            else:
                await self._workers.run(lambda: self._do(message.verb, message.values))
                await self._show()
                await self._send_state()
        except UserError as error:
            self._notices.append(str(error))
        while self._notices:
            await self._line.send_json({"is": "notice", "text": self._notices.popleft()})

    def _do(self, verb: str, values: Mapping[str, Any]) -> None:
        """Carry out a command that needs only the player. Runs on the models' thread."""
        player, what_if = self._player, self._what_if
        if verb == "rewind":  # a page that loses the focus ends it, even during what-if
            player.rewind(now=_now(), **values)
            return
        self._what_if = player.what_if() if verb == "what_if" else None
        if verb == "go" and what_if:
            what_if.go(**values)
        elif verb in VERBS:
            VERBS[verb](player, **values)

    # Time.

    async def _open(self, opening: Opening) -> None:
        self._player = await self._workers.run(
            lambda: Player(opening, max_frames=MAX_FRAMES, reach=REACH, say=self._notices.append)
        )
        self._what_if = None
        for key in self._held:
            self._player.hold(key, key)
        await self._show()
        await self._send_state()

    async def _tick(self) -> None:
        player, at, before = self._player, self._keys_at, self._player.press
        has_moved = await self._workers.run(lambda: player.tick(_now()))
        if has_moved or player.press != before:
            self._answered_at = at
            await self._show()
            await self._workers.run(player.rest)

    async def _look_ahead(self, what_if: WhatIf) -> None:
        """Send the next frame of every future; the page shows them in a loop."""
        await self._workers.run(lambda: what_if.tick(_now()))
        await self._line.send_bytes(wire.futures(what_if.pictures))

    async def _show(self) -> None:
        player = self._player
        self._sent += 1
        action = None if player.press is None else player.press.action
        if player.real is not None:
            await self._line.send_bytes(wire.beside(player.real))
        await self._line.send_bytes(
            wire.frame(
                player.playthrough.frame, action=action, number=self._sent, at=self._answered_at
            )
        )
        if self._sent % NUM_RECENT == 0:
            await self._send_state()

    async def _send_state(self) -> None:
        player, settings = self._player, self._player.playthrough.settings
        await self._line.send_json(
            {
                "is": "state",
                "position": player.playthrough.position,
                "seed": player.seed,
                "steps": settings.maskgit_steps,
                "temperature": settings.temperature,
                "paused": player.is_paused,
                "foresees": self._what_if is not None,
                "has_video": player.has_video,
                "is_beside": player.real is not None,
                "fps": player.rate,
                "model_ms": player.latency_ms,
            }
        )

    async def _choose_prompt(self, number: int) -> None:
        if not 0 <= number < len(self._prompts):
            raise UserError(f"prompt {number} does not exist: use 0..{len(self._prompts) - 1}")
        await self._open(self._prompts[number])

    async def _save(self, **values: str) -> None:
        kind = values["as"]
        if self._saving and not self._saving.done():
            raise UserError("the last file is still being written: try again when it is ready")
        recording = self._player.recording()
        frames, fps = self._player.playthrough.frames, self._player.opening.fps
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
        """Write and send a file, while the play continues."""
        try:
            content = await self._workers.aside(write)
            await self._line.send_bytes(wire.file(f"genie.{kind}", content))
        except UserError as error:
            await self._line.send_json({"is": "notice", "text": f"not saved: {error}"})
        except Closed:
            pass  # the page is gone, and `play` ends for the same reason


VERBS: dict[str, Callable[..., None]] = {
    "restart": Player.restart,
    "reseed": Player.reseed,
    "pause": Player.pause,
    "step": Player.single_step,
    "bookmark": Player.set_bookmark,
    "back": Player.go_to_bookmark,
    "tune": Player.tune,
    "beside": Player.toggle_beside,
}
"""Methods of the player, by the page's name for the command."""


def _now() -> float:
    return time.perf_counter()
