"""Worlds as environments of Gymnasium: one, or many side by side in one forward pass.

    import genie.env
    env = gymnasium.make("GenieWorld-v0", world="coinrun")
    envs = gymnasium.make_vec("GenieWorld-v0", num_envs=64, world="coinrun")

In: a world, pictures to start from, and latent actions. Out: uint8 pictures. A world knows neither
rewards nor ends: a `Judge` may tell them from the pictures, else every reward is 0 and an episode
ends after `max_episode_steps`.
Importing this file registers the environment, as Gymnasium's environments do.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float, Int, UInt8

from genie import video
from genie.errors import UserError
from genie.places import find_world
from genie.playable import open_world
from genie.session import EngineName, Sessions, as_pictures

MAX_EPISODE_STEPS = 300

Pictures = UInt8[np.ndarray, "b h w 3"]
Judge = Callable[
    [Pictures, Int[np.ndarray, " b"], Pictures],
    tuple[Float[np.ndarray, " b"], Bool[np.ndarray, " b"]],
]
"""Pictures before, actions and pictures after to rewards and whether episodes have ended."""


class GenieEnv(gymnasium.Env[np.ndarray, np.integer]):
    """One world.

    Observations are pictures, uint8 (h, w, 3); actions are the world's latent actions, from 0 on.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012, as Gymnasium has it

    def __init__(
        self,
        world: str | Path = "coinrun",
        *,
        prompts: Sequence[str | Path] | None = None,
        judge: Judge | None = None,
        engine: EngineName | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Open a world.

        Args:
            world: a folder, or a name that `places.find_world` knows.
            prompts: pictures, one of which each episode starts from; None takes the world's own.
            judge: tells rewards and ends; called with batches of one.
            engine: what computes frames; None takes the quicker one.
            render_mode: "rgb_array" lets `render` give the observation.

        Raises:
            UserError: if there is no such world or prompt.
        """
        self._start = _Start(world, prompts, engine)
        self._judge, self.render_mode = judge, render_mode
        self.metadata = self.metadata | {"render_fps": self._start.fps}
        self.observation_space = self._start.observation_space
        self.action_space = self._start.action_space
        self._running: Sessions | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode. Prompt and sampler's noise depend on the seed."""
        super().reset(seed=seed)
        self._running = self._start.sessions([self.np_random])
        return self.render(), {}

    def step(
        self, action: int | np.integer
    ) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a latent action.

        Raises:
            UserError: if there is no such action, or no episode.
        """
        running = self._playing()
        actions, before = np.array([action]), running.frames
        running.step(actions)
        rewards, ends = _judge(self._judge, before, actions, running.frames)
        return self.render(), float(rewards[0]), bool(ends[0]), False, {}

    def render(self) -> np.ndarray:
        """The present picture, uint8 (h, w, 3)."""
        return as_pictures(self._playing().frames)[0]

    def _playing(self) -> Sessions:
        if self._running is None:
            raise UserError("no episode has begun: call reset first")
        return self._running


class GenieVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Many worlds in one forward pass. Row i plays what `GenieEnv` with seed + i plays.

    A row whose episode has ended starts anew in the next step, whose action for it does not count,
    or at once, see `autoreset_mode`.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        world: str | Path = "coinrun",
        *,
        prompts: Sequence[str | Path] | None = None,
        judge: Judge | None = None,
        engine: EngineName | None = None,
        max_episode_steps: int = MAX_EPISODE_STEPS,
        autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        """Open a world; the other arguments are those of `GenieEnv`.

        Args:
            num_envs: worlds side by side.
            max_episode_steps: after so many an episode is cut off.
            autoreset_mode: with SAME_STEP a row whose episode has ended shows the next one at once,
                and the last picture is in the infos, as `final_obs`.

        Raises:
            UserError: if there is no such world, prompt or mode, or a number is below 1.
        """
        if num_envs < 1 or max_episode_steps < 1:
            raise UserError(
                f"num_envs is {num_envs} and max_episode_steps {max_episode_steps}: use 1 or more"
            )
        if autoreset_mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
            raise UserError(
                f"autoreset_mode is {autoreset_mode}: use AutoresetMode.NEXT_STEP or SAME_STEP"
            )
        self.num_envs, self.max_episode_steps = num_envs, max_episode_steps
        self._at_once = autoreset_mode is AutoresetMode.SAME_STEP
        self._start = _Start(world, prompts, engine)
        self._judge, self.render_mode = judge, render_mode
        rate = {"render_fps": self._start.fps, "autoreset_mode": autoreset_mode}
        self.metadata = self.metadata | rate
        self.single_observation_space = self._start.observation_space
        self.single_action_space = self._start.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators: list[np.random.Generator] = []

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start all episodes anew.

        Args:
            seed: of row 0, row i taking `seed` + i; or one for each row. None goes on with the
                generators that there are.
        """
        if seed is not None or not self._generators:
            self._generators = [np_random(row_seed)[0] for row_seed in self._seeds(seed)]
        self._running = self._start.sessions(self._generators)
        self._ages = np.zeros(self.num_envs, dtype=np.int64)
        self._over = np.zeros(self.num_envs, dtype=bool)
        return as_pictures(self._running.frames), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take a latent action in every world.

        Raises:
            UserError: if there is no such action, or no episode.
        """
        if not self._generators:
            raise UserError("no episode has begun: call reset first")
        starting, actions = self._over, np.asarray(actions)
        before = self._running.frames
        self._running.step(np.where(starting, 0, actions))
        self._restart(starting)
        rewards, ends = _judge(self._judge, before, actions, self._running.frames)
        rewards, ends = np.where(starting, 0.0, rewards), ends & ~starting
        self._ages = np.where(starting, 0, self._ages + 1)
        truncated = self._ages >= self.max_episode_steps
        over, infos = ends | truncated, {}
        if self._at_once:
            last = as_pictures(self._running.frames)
            for row in np.flatnonzero(over).tolist():
                infos = self._add_info(infos, {"final_obs": last[row]}, row)
            self._restart(over)
            self._ages[over] = 0
        else:
            self._over = over
        return as_pictures(self._running.frames), rewards, ends, truncated, infos

    def render(self) -> tuple[np.ndarray, ...]:
        """The present picture of each world, uint8 (h, w, 3)."""
        return tuple(as_pictures(self._running.frames))

    def _restart(self, rows: Bool[np.ndarray, " b"]) -> None:
        for row in np.flatnonzero(rows).tolist():
            prompt, seed = self._start.draw(self._generators[row])
            self._running.reset(row, prompt, seed=seed)

    def _seeds(self, seed: int | list[int | None] | None) -> list[int | None]:
        if isinstance(seed, list):
            if len(seed) != self.num_envs:
                raise UserError(f"{len(seed)} seeds for {self.num_envs} worlds: give as many")
            return seed
        return [None if seed is None else seed + row for row in range(self.num_envs)]


class _Start:
    """A world, and the pictures that its episodes start from."""

    def __init__(
        self,
        world: str | Path,
        prompts: Sequence[str | Path] | None,
        engine: EngineName | None,
    ) -> None:
        folder = find_world(world)
        self._world = open_world(folder, engine)
        paths = sorted((folder / "prompts").glob("*")) if prompts is None else prompts
        if not paths:
            lacking = (
                f"{folder} has no prompts of its own" if prompts is None else "prompts is empty"
            )
            raise UserError(f"{lacking}: name pictures in prompts=[...]")
        pictures = [video.read_image(path, self._world.size) for path in paths]
        self._prompts = np.stack(pictures).transpose(0, 3, 1, 2)[:, None]  # n 1 c h w
        self.fps = self._world.fps
        self.observation_space = spaces.Box(0, 255, (*self._world.size, 3), np.uint8)
        self.action_space = spaces.Discrete(self._world.num_actions)

    def draw(self, generator: np.random.Generator) -> tuple[UInt8[np.ndarray, "1 3 h w"], int]:
        """A prompt and a seed of the sampler's noise."""
        number = generator.integers(len(self._prompts))
        return self._prompts[number], int(generator.integers(2**63))

    def sessions(self, generators: Sequence[np.random.Generator]) -> Sessions:
        """Worlds that start side by side."""
        prompts, seeds = zip(*(self.draw(generator) for generator in generators), strict=True)
        return self._world.start_many(np.stack(prompts), seeds=seeds)


def _judge(
    judge: Judge | None,
    before: UInt8[np.ndarray, "b 3 h w"],
    actions: Int[np.ndarray, " b"],
    after: UInt8[np.ndarray, "b 3 h w"],
) -> tuple[Float[np.ndarray, " b"], Bool[np.ndarray, " b"]]:
    if judge is None:
        return np.zeros(len(actions)), np.zeros(len(actions), dtype=bool)
    rewards, ends = judge(as_pictures(before), actions, as_pictures(after))
    return np.asarray(rewards, dtype=np.float64), np.asarray(ends, dtype=bool)


gymnasium.register(
    "GenieWorld-v0",
    entry_point="genie.env:GenieEnv",
    vector_entry_point="genie.env:GenieVectorEnv",
    max_episode_steps=MAX_EPISODE_STEPS,
)
