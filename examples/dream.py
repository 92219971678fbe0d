"""Learn to play inside a world, from a few labelled episodes of the real game: `examples/dream.py`.

In: a world and its real game. Out: a table, and the same as `dream.json`.

    python examples/dream.py --world checkpoints/coinrun --game coinrun --plain --out runs/dream

Some episodes of the real game, played at random, tell which pictures end an episode or pay, and
which buttons a latent action stands for. Nothing else of the real game is seen: the player learns
by PPO in the world. Beside it: random buttons, and PPO in the real game on as many of its frames as
the labelled episodes have.

Source: World Models (Ha & Schmidhuber 2018, arXiv:1803.10122), section 4. Differs: PPO instead of
an evolution strategy, and pictures instead of codes.
"""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from acting import Actor, Shares
from arena import Arena
from gymnasium.vector import AutoresetMode
from judging import Episodes, LearntJudge, collect
from latents import latent_actions
from learning import learn, save
from mapping import Dictionary
from options import check_out, check_ranges
from outcome import Score, Way, table
from players import Player, random_player
from sight import SIZE
from trained import load

import genie.env
from genie import video
from genie.errors import UserError
from genie.files import write_whole, writing
from genie.world import World
from train.errors import one_line_errors

NUM_GAMES = 16
PROMPTS = 64
LONGEST_DREAM = 100
SOON = 40  # transitions
SCORED_GAMES, EPISODES_EACH = 64, 2
HOLD = (1, 6)  # frames for which a button is held at random


@dataclass(frozen=True, kw_only=True)
class DreamConfig:
    """Train a player inside a world, and score it in the real game."""

    world: Path
    """Checkpoint folder of the world."""
    game: str
    """The real game, as in examples/record_game.py; likewise the next three."""
    distribution: Literal["easy", "hard"] = "easy"
    """Procgen's difficulty."""
    plain: bool = False
    """Without Procgen's backgrounds and with a single theme."""
    frame_skip: int = 2
    """Game steps per frame of the world."""
    episodes: int = 160
    """Labelled episodes, played at random; rounded up to a multiple of 16."""
    decisions: int = 12_000
    """Decisions to learn from in the world."""
    judge_steps: int = 600
    """Training steps of the net that tells ends and rewards."""
    seeds: int = 5
    """Repetitions: each draws episodes, first weights, decisions and levels anew."""
    out: Path = Path("runs/dream")
    """Folder for the results; created if necessary."""


class DreamGames:
    """A world's environment as `Games`, to learn in."""

    steps_per_second = 15.0

    def __init__(self, envs: genie.env.GenieVectorEnv, num_actions: int, seed: int) -> None:
        """Args: envs: restarting rows at once. seed: draws prompts and the sampler's noise."""
        self._envs = envs
        self.combos: list[tuple[str, ...]] = [(f"ACTION{n}",) for n in range(num_actions)]
        self.levels = [0] * envs.num_envs
        self.rewards = np.zeros(envs.num_envs)
        # Row i has the seed + i, so that seeds that follow each other would share rows.
        self.pictures = list(envs.reset(seed=seed * envs.num_envs)[0])

    def advance(self, actions: np.ndarray, frame_skip: int) -> np.ndarray:
        """See `Games`; a world has one frame per decision."""
        pictures, self.rewards, ends, truncated, _ = self._envs.step(actions)
        self.pictures = list(pictures)
        return ends | truncated

    def close(self) -> None:
        """See `Games`."""
        self._envs.close()


def main(config: DreamConfig) -> None:
    """Print and write what each way earns.

    Raises:
        UserError: a value is out of range, or a file or the game does not fit.
    """
    check(config)
    arena = Arena(
        game=config.game,
        distribution=config.distribution,
        plain=config.plain,
        frame_skip=config.frame_skip,
    )
    world = World.from_pretrained(config.world)
    if world.size != SIZE:
        raise UserError(f"{config.world} has frames of {world.size}: give a world of {SIZE}")
    repetitions = [repeat(config, arena, world, seed) for seed in range(config.seeds)]
    scores = {way: Score.of([own[way] for own in repetitions]) for way in repetitions[0]}
    content = {
        "game": asdict(arena),
        "options": {name: str(value) for name, value in asdict(config).items()},
        "episodes scored": SCORED_GAMES * EPISODES_EACH,
        "ways": [{"way": name, **asdict(score)} for (name, _), score in scores.items()],
    }
    with writing(config.out):
        write_whole(config.out / "dream.json", json.dumps(content, indent=1) + "\n")
    print(table(scores))


def check(config: DreamConfig) -> None:
    """Reject invalid options before anything is done."""
    ranges = {"episodes": NUM_GAMES, "decisions": 1, "judge_steps": 1, "seeds": 2}
    check_ranges(config, {name: (least, None) for name, least in ranges.items()})
    check_out(config.out, "dream.json")


def repeat(config: DreamConfig, arena: Arena, world: World, seed: int) -> dict[Way, float]:
    """What each way earns on average, for one seed."""
    folder, told = config.out / f"seed-{seed}", f", {seed + 1} of {config.seeds}"
    with arena.open(1, seed) as games:
        num_buttons = len(games.combos)
    hand = random_player(num_buttons, NUM_GAMES, seed, HOLD)
    labelled = collect(arena, hand, NUM_GAMES, -(-config.episodes // NUM_GAMES), seed)
    judge = LearntJudge(labelled, steps=config.judge_steps, seed=seed)
    frames = labelled.pictures
    starts = labelled.starts.tolist()
    latents = latent_actions(world, lambda first, end: frames[first:end], starts).numpy()
    known = latents >= 0
    sizes = world.num_actions, num_buttons
    dictionary = Dictionary(latents[known], labelled.buttons[known], sizes)

    def score(player: Player) -> float:
        with arena.open(SCORED_GAMES, seed) as games:
            return float(arena.returns(games, player, EPISODES_EACH).mean())

    dreamt, real, place = folder / "dreamt.zip", folder / "real.zip", f"a dream of {arena.game}"
    dream = make_dream(config, world.num_actions, labelled, judge, folder, seed)
    with contextlib.closing(dream):
        save(learn(dream, 1, config.decisions, seed, f"in the dream{told}"), dreamt, place)
    with arena.open(NUM_GAMES, seed, levels=(0, 100_000)) as games:
        num_decisions, name = len(labelled.ends), f"in the game{told}"
        save(learn(games, arena.frame_skip, num_decisions, seed, name), real, arena.game)
    own = np.random.default_rng(seed)

    def play(shares: Shares, mapping: Dictionary | None = None) -> float:
        return score(Actor(shares, SCORED_GAMES, own, mapping))

    return {
        ("random", None): score(random_player(num_buttons, SCORED_GAMES, seed)),
        ("real game", None): play(load(real, arena.game, num_buttons)),
        ("dream", None): play(load(dreamt, place, world.num_actions), dictionary),
    }


def make_dream(
    config: DreamConfig,
    num_actions: int,
    labelled: Episodes,
    judge: LearntJudge,
    folder: Path,
    seed: int,
) -> DreamGames:
    """Worlds side by side that start from pictures of the labelled episodes."""
    rows = draw_starts(labelled, np.random.default_rng(seed))
    prompts = [folder / "prompts" / f"{number}.png" for number in range(PROMPTS)]
    with writing(folder):
        prompts[0].parent.mkdir(parents=True, exist_ok=True)
    for path, row in zip(prompts, rows, strict=True):
        video.write_image(path, labelled.pictures[row].permute(1, 2, 0).numpy())
    envs = genie.env.GenieVectorEnv(
        NUM_GAMES,
        config.world,
        prompts=prompts,
        judge=judge,
        max_episode_steps=LONGEST_DREAM,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    return DreamGames(envs, num_actions, seed)


def draw_starts(labelled: Episodes, generator: np.random.Generator) -> np.ndarray:
    """Rows that dreams start from, int64 (`PROMPTS`): half anywhere, half soon before a payment.

    A world remembers no level, so that from other places it rarely comes to what pays.
    """
    anywhere = generator.choice(len(labelled.ends), PROMPTS)
    paying = np.flatnonzero(labelled.rewards > 0)
    if not len(paying):
        return anywhere
    starts = labelled.starts
    first = starts[np.searchsorted(starts, paying, side="right") - 1]
    number = generator.choice(len(paying), PROMPTS // 2)
    early = paying[number] - generator.integers(0, SOON, PROMPTS // 2)
    return np.concatenate([anywhere[PROMPTS // 2 :], np.maximum(early, first[number])])


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(DreamConfig, description=__doc__))
