"""Compare a world before and after further training: what it learnt and what it forgot.

    python -m train.compare --before checkpoints/coinrun --after checkpoints/my-world --data DATA

Both worlds are measured on held-out videos of the new game and, with --replay, of the old one.
Prints a table and writes `comparison.json`. Does not judge.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from genie.data.clips import FrameStore
from genie.files import check_folder, write_whole
from genie.world import World
from train.errors import one_line_errors
from train.measure.evaluation import draw_choice, evaluate
from train.measure.rollouts import check_sizes

STEP = 4  # frames after the prompt, as in the paper


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Measure two worlds on the same held-out videos."""

    before: Path
    """Checkpoint folder of the world that further training started from."""
    after: Path
    """Checkpoint folder of the world that resulted."""
    data: str
    """Prepared folder of the new game."""
    replay: str | None = None
    """Prepared folder of the old game."""
    num_clips: int = 64
    """Held-out clips of each game."""
    seed: int = 0
    """Draws clips, random actions and the sampler's noise."""
    out: Path = Path("report")
    """Folder for comparison.json; created if necessary."""


def main(config: CompareConfig) -> dict[str, dict[str, dict[str, float]]]:
    """Measure, print and write; return the figures by game and world.

    Raises:
        UserError: if a world or folder does not fit.
    """
    check_folder(config.out).mkdir(parents=True, exist_ok=True)
    games = {"new game": config.data} | ({"old game": config.replay} if config.replay else {})
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for game, folder in games.items():
        store = FrameStore.open(folder, "heldout")
        figures[game] = {
            name: _figures(World.from_pretrained(path), store, config)
            for name, path in (("before", config.before), ("after", config.after))
        }
    write_whole(config.out / "comparison.json", json.dumps(figures, indent=1) + "\n")
    print(table(figures))
    return figures


def _figures(world: World, store: FrameStore, config: CompareConfig) -> dict[str, float]:
    check_sizes(world, store)
    found = evaluate(world, draw_choice(store, config.num_clips, horizon=8, seed=config.seed))
    rollout = found.rollout[STEP]
    return {
        "tokenizer": found.tokenizer.psnr,
        "rollout": rollout.generated.psnr,
        "copying": rollout.copy_last_frame.psnr,
        "delta PSNR": found.delta_psnr[STEP].mean,
        "eta squared": found.held_actions.eta_squared.across,
        "perplexity": found.latent_action.perplexity,
    }


def table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """Format the figures; rollout, copying and delta PSNR are in dB, after `STEP` frames."""
    columns = list(next(iter(next(iter(figures.values())).values())))
    lines = [f"{'':18}" + "".join(f"{column:>13}" for column in columns)]
    for game, worlds in figures.items():
        for name, row in worlds.items():
            numbers = "".join(f"{row[column]:13.2f}" for column in columns)
            lines.append(f"{game + ' ' + name:18}{numbers}")
    return "\n".join(lines)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(CompareConfig, description=__doc__))
