"""What there is to play: worlds and prompts on disk, and how one of them is started.

In: folders and picture files. Out: an `Opening`, which is all that a screen needs to know.
Loads torch only when a world is opened, so that a start screen shows at once.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genie import video
from genie.decoding import is_film
from genie.errors import UserError
from genie.places import shipped, worlds_in
from genie.playable import Playable, open_world
from genie.session import EngineName
from play import bindings
from play.game import Settings, StartGame
from play.keymap import KeyMap
from play.recording import Recording, changes
from play.timeline import Playthrough

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
HISTORY = 8
"""Frames of a video that a world has seen before it goes on by itself."""
MAX_CLIP = 300
"""Frames of a video that are shown beside the world."""


class Clip(NamedTuple):
    """How a video really went on, from the frame on that a world was started with."""

    frames: tuple[np.ndarray, ...]
    """uint8 (h, w, 3); the first is the one that the world starts from."""
    actions: tuple[int, ...]
    """Latent actions that the world reads out of it, one fewer."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A world and a prompt, ready to be started."""

    title: str
    """For people."""
    start: StartGame
    """Starts the game, any number of times."""
    keymap: KeyMap
    """What the keys stand for, with those that the person bound."""
    legend_keymap: KeyMap
    """The same without them."""
    fps: float
    """Steps per second while a key is held."""
    seed: int
    """The one to begin with."""
    settings: Settings
    """Those to begin with."""
    world: str
    """Name of the world, for recordings."""
    fingerprint: str
    """Of the world."""
    prompt: np.ndarray
    """uint8 (t, h, w, 3)."""
    engine: EngineName = "torch"
    """What computes its frames, for recordings."""
    what_runs: str = ""
    """One line about model and machine."""
    clip: Clip | None = None
    """What to show beside the world."""
    beside: "Opening | None" = None
    """Where the prompt is a video: the same from its beginning, with a `clip`."""

    def playthrough(self, seed: int, settings: Settings, **limits: Any) -> Playthrough:
        """Start it. Args: limits: of `Playthrough`."""
        return Playthrough(self.start(seed, settings), settings, **limits)

    def recording(self, playthrough: Playthrough, seed: int) -> Recording:
        """Of what was played. Args: seed: that it was started with."""
        return Recording(
            world=self.world,
            fingerprint=self.fingerprint,
            engine=self.engine,
            prompt=self.prompt,
            seed=seed,
            settings=changes(playthrough.used_settings),
            fps=self.fps,
            actions=playthrough.actions,
            digests=playthrough.digests,
        )


class Library:
    """Opens worlds, each loaded once.

    Args:
        seed: of every opening.
        maskgit_steps: passes over a frame at most; None takes each world's own.
        temperature: of the token draws; None takes each world's own.
        engine: what computes frames; None takes the quicker one.
        fps: steps per second; None takes each world's own.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        maskgit_steps: int | None = None,
        temperature: float | None = None,
        fps: float | None = None,
        engine: EngineName | None = None,
    ) -> None:
        self._engine = engine
        self._seed, self._steps, self._temperature = seed, maskgit_steps, temperature
        self._fps = fps
        self._worlds: dict[Path, Playable] = {}

    def world(self, folder: Path) -> Playable:
        """The world of a folder.

        Raises:
            UserError: if it is none.
        """
        if folder not in self._worlds:
            self._worlds[folder] = open_world(folder, self._engine)
        return self._worlds[folder]

    def open(self, folder: Path, prompt: Path) -> Opening:
        """Open a world with a picture, or a video whose last frames it continues.

        Raises:
            UserError: if either cannot be read.
        """
        size = self.world(folder).size
        if not is_film(prompt):
            return self.open_frames(folder, video.read_image(prompt, size)[None])
        first, last = _both_ends(video.stream(prompt, size))
        beside = None
        if len(first) > 1:
            seen = min(HISTORY, len(first) // 2)
            beside = self.open_frames(folder, np.stack(first[:seen]), film=np.stack(first))
        return self.open_frames(folder, np.stack(last), beside=beside)

    def open_frames(
        self,
        folder: Path,
        prompt: np.ndarray,
        *,
        film: np.ndarray | None = None,
        beside: Opening | None = None,
    ) -> Opening:
        """Open a world with frames that are there already, uint8 (t, h, w, 3) of its size.

        Args:
            film: the whole video, of which the prompt is the beginning, to be shown beside.
            beside: see `Opening`.
        """
        world = self.world(folder)
        own, legend = world.sampling, KeyMap.load(folder, world.num_actions)
        settings = Settings(
            own.maskgit_steps if self._steps is None else self._steps,
            own.temperature if self._temperature is None else self._temperature,
        )
        return Opening(
            title=world.name,
            start=_starter(world, prompt),
            keymap=bindings.with_own_keys(legend, world.fingerprint),
            legend_keymap=legend,
            fps=self._fps or world.fps,
            seed=self._seed,
            settings=settings,
            world=world.name,
            fingerprint=world.fingerprint,
            prompt=prompt,
            what_runs=f"{world.name} on {world.what_computes}, {settings.passes} a frame",
            engine=world.engine_name,
            clip=None if film is None else _clip(world, film, len(prompt)),
            beside=beside,
        )


def prompts_for(world: Path) -> list[Path]:
    """Prompt files of a world's own folder, and then those that are for any world."""
    folders = (world / "prompts", shipped("examples/prompts"))
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in PICTURES or is_film(path)
    ]


def all_worlds() -> list[Path]:
    """Folders of the worlds here, and of those that came with the program, by name."""
    folders = [*worlds_in(Path("checkpoints")), *worlds_in(shipped("checkpoints"))]
    return list({folder.name: folder for folder in reversed(folders)}.values())[::-1]


def first_prompt(world: Path) -> Path:
    """What a world starts with if nothing is said.

    Raises:
        UserError: if there is none.
    """
    prompts = prompts_for(world)
    if not prompts:
        raise UserError(f"no prompt in {world / 'prompts'}: give --prompt image.png")
    return prompts[0]


def _starter(world: Playable, prompt: np.ndarray) -> StartGame:
    return lambda seed, settings: world.start(prompt, seed=seed, **settings._asdict())


def _clip(world: Playable, film: np.ndarray, num_seen: int) -> Clip:
    actions = [int(action) for action in world.infer(film)]
    return Clip(tuple(film[num_seen - 1 :]), tuple(actions[num_seen - 1 :]))


def _both_ends(frames: Iterator[np.ndarray]) -> tuple[list[np.ndarray], Sequence[np.ndarray]]:
    """The first frames of a video and its last ones, however long it is."""
    first: list[np.ndarray] = []
    last: deque[np.ndarray] = deque(maxlen=HISTORY)
    for frame in frames:
        if len(first) < HISTORY + MAX_CLIP:
            first.append(frame)
        last.append(frame)
    return first, last
