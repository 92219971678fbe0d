"""Finds worlds and prompts on disk, and opens a world with a prompt.

In: folders, image and video files. Out: an `Opening`, which is all that a view needs.
Loads torch, if at all, only when a world is opened, so that the start screen appears at once.
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
"""Number of a video's frames that a world is given as prompt."""
MAX_CLIP = 300
"""Largest number of a video's frames that are shown beside the world."""


class Clip(NamedTuple):
    """The real continuation of a video whose beginning is the prompt."""

    frames: tuple[np.ndarray, ...]
    """uint8 (h, w, 3); the first one is the last prompt frame."""
    actions: tuple[int, ...]
    """Latent actions that the world infers between these frames, one fewer."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A world and a prompt, ready to play."""

    title: str
    """Title of the window."""
    start: StartGame
    """Starts the game, any number of times."""
    keymap: KeyMap
    """Key bindings of the legend, with the user's own added."""
    legend_keymap: KeyMap
    """Key bindings of the legend alone."""
    fps: float
    """Steps per second while a key is held."""
    seed: int
    """Seed of the first start."""
    settings: Settings
    """Sampling settings of the first start."""
    world: str
    """Name of the world, for recordings."""
    fingerprint: str
    """Fingerprint of the world."""
    prompt: np.ndarray
    """Prompt frames, uint8 (t, h, w, 3)."""
    engine: EngineName = "torch"
    """What computes the frames, for recordings."""
    what_runs: str = ""
    """One line for the user: the world, what computes it, and the passes per frame."""
    clip: Clip | None = None
    """The real video to show beside the world."""
    beside: "Opening | None" = None
    """If the prompt is a video: the opening at the video's beginning, with a `clip`."""

    def playthrough(self, seed: int, settings: Settings, **limits: Any) -> Playthrough:
        """Start to play. Args: limits: `max_frames` and `reach` of `Playthrough`."""
        return Playthrough(self.start(seed, settings), settings, **limits)

    def recording(self, playthrough: Playthrough, seed: int) -> Recording:
        """Return the recording of a playthrough. Args: seed: the one it was started with."""
        return Recording(
            world=self.world,
            fingerprint=self.fingerprint,
            engine=self.engine,
            prompt=self.prompt,
            seed=seed,
            settings=changes([step.settings for step in playthrough.steps]),
            fps=self.fps,
            actions=playthrough.actions,
            digests=playthrough.digests,
        )


class Library:
    """Opens worlds, each loaded once.

    Args:
        seed: seed of every opening.
        maskgit_steps: maximum number of passes per frame; None takes each world's own.
        temperature: sampling temperature; None takes each world's own.
        engine: what computes frames; None lets `open_world` choose.
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
        """Return the world in a folder.

        Raises:
            UserError: if the folder is not a world.
        """
        if folder not in self._worlds:
            self._worlds[folder] = open_world(folder, self._engine)
        return self._worlds[folder]

    def open(self, folder: Path, prompt: Path) -> Opening:
        """Open a world with an image, or with a video to continue from its last frames.

        Raises:
            UserError: if either cannot be read.
        """
        size = self.world(folder).size
        if not is_film(prompt):
            return self.open_frames(folder, video.read_image(prompt, size)[None])
        first, last = _both_ends(video.stream(prompt, size))
        beside = None
        if len(first) > 1:
            num_seen = min(HISTORY, len(first) // 2)
            beside = self.open_frames(folder, np.stack(first[:num_seen]), film=np.stack(first))
        return self.open_frames(folder, np.stack(last), beside=beside)

    def open_frames(
        self,
        folder: Path,
        prompt: np.ndarray,
        *,
        film: np.ndarray | None = None,
        beside: Opening | None = None,
    ) -> Opening:
        """Open a world with prompt frames in memory, uint8 (t, h, w, 3) of the world's size.

        Args:
            film: the video to show beside, uint8 (t, h, w, 3); it begins with the prompt.
            beside: see `Opening`.
        """
        world = self.world(folder)
        own = world.sampling
        legend = KeyMap.load(folder, world.num_actions, has_prior=world.has_prior)
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
    """Prompt files in a world's own folder, followed by those for any world."""
    folders = (world / "prompts", shipped("examples/prompts"))
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in PICTURES or is_film(path)
    ]


def all_worlds() -> list[Path]:
    """Folders of the worlds in ./checkpoints and, unless the name is there too, of shipped ones."""
    folders = [*worlds_in(Path("checkpoints")), *worlds_in(shipped("checkpoints"))]
    return list({folder.name: folder for folder in reversed(folders)}.values())[::-1]


def first_prompt(world: Path) -> Path:
    """Return the prompt that a world starts from by default.

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
    """The first and the last frames of a video; of a long one, the middle is not stored."""
    first: list[np.ndarray] = []
    last: deque[np.ndarray] = deque(maxlen=HISTORY)
    for frame in frames:
        if len(first) < HISTORY + MAX_CLIP:
            first.append(frame)
        last.append(frame)
    return first, last
