"""Real games behind one interface: Procgen's sixteen and every Gymnasium environment with buttons.

In: button numbers. Out: pictures, and which episodes have ended. Writes no files and chooses no
buttons: that is `record_game.py`.
Source: Procgen (Cobbe et al. 2020, arXiv:1912.01588); Atari through the Arcade Learning Environment
(Bellemare et al. 2013, arXiv:1207.4708), whose pictures are the maximum of two frames, since its
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
PROCGEN_RATE, ATARI_RATE, USUAL_RATE = 30.0, 60.0, 30.0  # game steps a second
LONGEST_EPISODE_S = 600.0  # of an environment without a limit, which may never end by itself
PROCGEN_THREADS = 4  # Procgen's own default; none where there is a process for every core


class Games(Protocol):
    """Several games of one kind side by side, each on a level that is a number."""

    @property
    def combos(self) -> list[tuple[str, ...]]:
        """Buttons of every action that can be taken."""

    @property
    def levels(self) -> list[int]:
        """The level that each game is on."""

    @property
    def pictures(self) -> list[np.ndarray]:
        """What each game shows now, uint8 (h, w, 3); good until the games advance."""

    @property
    def steps_per_second(self) -> float:
        """How many game steps are a second of the game where a person plays it."""

    def advance(self, actions: np.ndarray, frame_skip: int) -> np.ndarray:
        """Hold `actions` for some game steps; gives which games were started anew meanwhile."""

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
    """Start games. Levels go from `first_level`; `distribution` and `plain` are Procgen's alone.

    Args:
        process: which of `num_processes` these games are played in. Procgen draws levels, so that
            the seed tells processes apart; Gymnasium's levels are dealt out among them.

    Raises:
        UserError: if there is no such game, a package is missing, or the game has no buttons.
    """
    if not is_procgen(name):
        dealt = itertools.count(process, num_processes)
        levels = (first_level + number % num_levels for number in dealt)
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
    """One of the sixteen games of Procgen; a level is Procgen's own."""

    steps_per_second = PROCGEN_RATE

    def __init__(self, **options) -> None:
        """Args: options: of `ProcgenGym3Env`."""
        self._env = _import("procgen", "make procgen").ProcgenGym3Env(**options)
        self.combos = list(self._env.combos)
        self.pictures = self._observe()[0]

    @property
    def levels(self) -> list[int]:
        """See `Games`."""
        return [int(info["level_seed"]) for info in self._env.get_info()]

    def advance(self, actions: np.ndarray, frame_skip: int) -> np.ndarray:
        """See `Games`."""
        ended = np.zeros(len(actions), dtype=bool)
        for _ in range(frame_skip):
            self._env.act(actions)
            self.pictures, started = self._observe()
            ended |= started
        return ended

    def close(self) -> None:
        """See `Games`."""
        self._env.close()

    def _observe(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Pictures, and which games have just been started; each call copies them all."""
        _, observation, started = self._env.observe()
        return list(observation["rgb"]), started


class GymnasiumGames:
    """A Gymnasium environment by its id; a level is the seed of an episode."""

    def __init__(self, name: str, num_envs: int, levels: Iterator[int]) -> None:
        """Args: levels: played in this order; they must not end."""
        self._name, is_atari = name, name.startswith("ALE/")
        gymnasium = _import("gymnasium", "make atari")
        if is_atari:
            atari = _import("ale_py", "make atari")
            atari.ALEInterface.setLoggerMode(atari.LoggerMode.Error)
            gymnasium.register_envs(atari)
        options = {"render_mode": "rgb_array"}
        if is_atari:  # the recorder repeats actions itself, and a button does what it says
            options = {"frameskip": 1, "repeat_action_probability": 0.0}
        try:
            made = [gymnasium.make(name, **options) for _ in range(num_envs)]
        except (gymnasium.error.Error, ImportError, TypeError) as error:
            why = " ".join(str(error).split())
            raise UserError(
                f"no game is called {name!r} ({why}): give one of Procgen's ({', '.join(PROCGEN)}) "
                "or a Gymnasium id such as ALE/Breakout-v5; one of another package begins with "
                "its name, such as minigrid:MiniGrid-Empty-8x8-v0"
            ) from error
        except Exception as error:  # whatever an environment raises
            raise _broke_down(name, error) from error
        self._envs = [env.unwrapped for env in made]
        self.steps_per_second = ATARI_RATE if is_atari else _rate(self._envs[0])
        # A limit belongs to a wrapper, and Atari's counts frames of another length.
        told = made[0].spec.max_episode_steps if not is_atari else None
        self._limit = told or round(LONGEST_EPISODE_S * self.steps_per_second)
        self._upcoming = levels
        self._ages, self.levels = [0] * num_envs, [0] * num_envs
        self.pictures = [np.empty(0, np.uint8)] * num_envs
        self._screens = [Screen(env, name) for env in self._envs]
        self._blends = is_atari
        with self._told():
            self._buttons = buttons_of(self._envs[0], name)
            for index in range(num_envs):
                self._start(index)
        self.combos = self._buttons.combos

    def advance(self, actions: np.ndarray, frame_skip: int) -> np.ndarray:
        """See `Games`."""
        with self._told():
            return self._advance(actions, frame_skip)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """An environment that breaks down is told in one line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # whatever an environment raises
            raise _broke_down(self._name, error) from error

    def _advance(self, actions: np.ndarray, frame_skip: int) -> np.ndarray:
        ended = np.zeros(len(actions), dtype=bool)
        for index, env in enumerate(self._envs):
            for step in range(frame_skip):
                action = self._buttons.actions[actions[index]]
                observation, _, terminated, truncated, _ = env.step(action)
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
    return UserError(f"{name} broke down ({why}): mend it, or choose another game")


def _rate(env) -> float:
    """Steps a second; an environment need not tell."""
    try:
        told = float(env.metadata.get("render_fps") or 0)
    except (TypeError, ValueError):
        return USUAL_RATE
    return told if 0 < told < float("inf") else USUAL_RATE


def _import(package: str, command: str):
    # Gym greets every import with a notice that it is no longer maintained.
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            return importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise UserError(
                f"the games need the package {error.name!r}; install it with: {command}"
            ) from error
