"""Real games behind one interface: Procgen's sixteen and every Gymnasium environment with buttons.

In: numbers of button combinations. Out: pictures, and which games were restarted. Writes no files
(see `episodes.py`) and chooses no buttons (see `players.py`).
Source: Procgen (Cobbe et al. 2020, arXiv:1912.01588); Atari through the Arcade Learning Environment
(Bellemare et al. 2013, arXiv:1207.4708); each Atari picture is the maximum of two frames, since
sprites flicker (Mnih et al. 2015).
"""

import contextlib
import importlib
import io
import itertools
from collections.abc import Iterator
from typing import Any, Literal, Protocol

import numpy as np
from buttons import buttons_of
from screens import Screen

from genie.errors import UserError

PROCGEN = (
    "bigfish",
    "bossfight",
    "caveflyer",
    "chaser",
    "climber",
    "coinrun",
    "dodgeball",
    "fruitbot",
    "heist",
    "jumper",
    "leaper",
    "maze",
    "miner",
    "ninja",
    "plunder",
    "starpilot",
)
PROCGEN_RATE, ATARI_RATE, USUAL_RATE = 30.0, 60.0, 30.0  # game steps per second
LONGEST_EPISODE_S = 600.0  # for environments without a limit, which may never end by themselves
PROCGEN_THREADS = 4  # Procgen's own default; several processes use no threads


class Games(Protocol):
    """Several games of one kind side by side, each on a level that is a number."""

    @property
    def combos(self) -> list[tuple[str, ...]]:
        """Names of the buttons that each action presses."""

    @property
    def levels(self) -> list[int]:
        """The level that each game is on."""

    @property
    def pictures(self) -> list[np.ndarray]:
        """What each game shows now, uint8 (h, w, 3); valid until the next `advance`."""

    @property
    def rewards(self) -> np.ndarray:
        """What each game paid in the last `advance`, up to a restart, float64 (n)."""

    @property
    def steps_per_second(self) -> float:
        """Game steps per second at the speed at which people play it."""

    def advance(self, actions: np.ndarray, frame_skip: int) -> np.ndarray:
        """Hold `actions` for `frame_skip` game steps; return which games were restarted (bool)."""

    def close(self) -> None:
        """End all games."""


def is_procgen(name: str) -> bool:
    """Whether a game is one of Procgen's; others are looked up in Gymnasium."""
    return name in PROCGEN


def open_games(
    name: str,
    *,
    num_envs: int,
    first_level: int,
    num_levels: int,
    seed: int,
    distribution: Literal["easy", "hard"] = "easy",
    plain: bool = False,
    process: int = 0,
    num_processes: int = 1,
) -> Games:
    """Start games on levels from `first_level` on; `distribution` and `plain` are for Procgen only.

    Args:
        process: which of `num_processes` these games run in. Procgen draws levels at random, so
            `seed` must differ between processes; Gymnasium's levels are divided among them.

    Raises:
        UserError: if there is no such game, a package is missing, or the game has no buttons.
    """
    if not is_procgen(name):
        own = itertools.count(process, num_processes)
        levels = (first_level + number % num_levels for number in own)
        return GymnasiumGames(name, num_envs, levels)
    return ProcgenGames(
        num=num_envs,
        env_name=name,
        start_level=first_level,
        num_levels=num_levels,
        rand_seed=seed,
        distribution_mode=distribution,
        use_backgrounds=not plain,
        restrict_themes=plain,
        num_threads=PROCGEN_THREADS if num_processes == 1 else 0,
    )


class ProcgenGames:
    """One of the sixteen games of Procgen; levels are Procgen's level seeds."""

    steps_per_second = PROCGEN_RATE

    def __init__(self, **options) -> None:
        """Args: options: those of `ProcgenGym3Env`."""
        self._env = _import("procgen", "make procgen").ProcgenGym3Env(**options)
        self.combos = list(self._env.combos)
        self.pictures = self._observe()[1]
        self.rewards = np.zeros(self._env.num)

    @property
    def levels(self) -> list[int]:
        """See `Games`."""
        return [int(info["level_seed"]) for info in self._env.get_info()]

    def advance(self, actions: np.ndarray, frame_skip: int) -> np.ndarray:
        """See `Games`."""
        ended = np.zeros(len(actions), dtype=bool)
        self.rewards = np.zeros(len(actions))
        for _ in range(frame_skip):
            self._env.act(actions)
            paid, self.pictures, started = self._observe()
            self.rewards += np.where(ended, 0, paid)
            ended |= started
        return ended

    def close(self) -> None:
        """See `Games`."""
        self._env.close()

    def _observe(self) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """Return rewards, the pictures, newly copied, and which games have just been started."""
        rewards, observation, started = self._env.observe()
        return rewards, list(observation["rgb"]), started


class GymnasiumGames:
    """A Gymnasium environment by its id; a level is the seed of an episode."""

    def __init__(self, name: str, num_envs: int, levels: Iterator[int]) -> None:
        """Args: levels: played in this order; an endless iterator."""
        self._name, is_atari = name, name.startswith("ALE/")
        gymnasium = _import("gymnasium", "make atari")
        if is_atari:
            atari = _import("ale_py", "make atari")
            atari.ALEInterface.setLoggerMode(atari.LoggerMode.Error)
            gymnasium.register_envs(atari)
        options = {"render_mode": "rgb_array"}
        if is_atari:  # the recorder repeats actions itself; no action is replaced at random
            options = {"frameskip": 1, "repeat_action_probability": 0.0}
        try:
            made = [gymnasium.make(name, **options) for _ in range(num_envs)]
        except (gymnasium.error.Error, ImportError, TypeError) as error:
            why = " ".join(str(error).split())
            raise UserError(
                f"no game is called {name!r} ({why}): give one of Procgen's ({', '.join(PROCGEN)}) "
                "or a Gymnasium id such as ALE/Breakout-v5; an id of another package begins with "
                "the package's name, such as minigrid:MiniGrid-Empty-8x8-v0"
            ) from error
        except Exception as error:  # whatever an environment raises
            raise _broke_down(name, error) from error
        self._envs = [env.unwrapped for env in made]
        self.steps_per_second = ATARI_RATE if is_atari else _rate(self._envs[0])
        # The limit is applied by a wrapper, which is not used; Atari's assumes another frame skip.
        declared = made[0].spec.max_episode_steps if not is_atari else None
        self._limit = declared or round(LONGEST_EPISODE_S * self.steps_per_second)
        self._upcoming = levels
        self._ages, self.levels = [0] * num_envs, [0] * num_envs
        self.rewards = np.zeros(num_envs)
        self.pictures = [np.empty(0, np.uint8)] * num_envs
        self._screens = [Screen(env, name) for env in self._envs]
        self._blends = is_atari
        with self._errors_in_one_line():
            self._buttons = buttons_of(self._envs[0], name)
            for index in range(num_envs):
                self._start(index)
        self.combos = self._buttons.combos

    def advance(self, actions: np.ndarray, frame_skip: int) -> np.ndarray:
        """See `Games`."""
        with self._errors_in_one_line():
            return self._advance(actions, frame_skip)

    @contextlib.contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        """Report an exception of the environment as a `UserError` of one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # whatever an environment raises
            raise _broke_down(self._name, error) from error

    def _advance(self, actions: np.ndarray, frame_skip: int) -> np.ndarray:
        ended = np.zeros(len(actions), dtype=bool)
        self.rewards = np.zeros(len(actions))
        for index, env in enumerate(self._envs):
            for step in range(frame_skip):
                action = self._buttons.actions[actions[index]]
                observation, reward, terminated, truncated, _ = env.step(action)
                self.rewards[index] += 0 if ended[index] else reward
                self._ages[index] += 1
                if terminated or truncated or self._ages[index] == self._limit:
                    self._start(index)
                    ended[index] = True
                elif step == frame_skip - 1:
                    self._show(index, observation, blend=step > 0)
                elif step == frame_skip - 2 and self._blends:
                    self._show(index, observation, blend=False)
        return ended

    def close(self) -> None:
        """See `Games`."""
        for env in self._envs:
            env.close()

    def _start(self, index: int) -> None:
        level = next(self._upcoming)
        self._screens[index].restart()
        observation, _ = self._envs[index].reset(seed=level)
        self.levels[index], self._ages[index] = level, 0
        self._show(index, observation, blend=False)

    def _show(self, index: int, observation: Any, blend: bool) -> None:
        picture = self._screens[index].picture(observation)
        if blend and self._blends:
            picture = np.maximum(picture, self.pictures[index])
        self.pictures[index] = picture


def _broke_down(name: str, error: Exception) -> UserError:
    why = " ".join(f"{type(error).__name__}: {error}".split())
    return UserError(f"{name} broke down ({why}): fix it, or choose another game")


def _rate(env) -> float:
    """Steps per second that an environment declares, else `USUAL_RATE`."""
    try:
        rate = float(env.metadata.get("render_fps") or 0)
    except (TypeError, ValueError):
        return USUAL_RATE
    return rate if 0 < rate < float("inf") else USUAL_RATE


def _import(package: str, command: str):
    # At every import, Gym prints that it is no longer maintained.
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            return importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise UserError(
                f"the games need the package {error.name!r}; install it with: {command}"
            ) from error
