"""A world and held-out videos in, figures and pictures out.

    python -m train.evaluate WORLD DATA --true-actions data/coinrun/true_actions.npz --out report

All figures come from videos that training never saw, see `train.measure.evaluation`. Writes
`metrics.json`, pictures, and `report.html`, which contains all of them.
Does not rate the world: it shows baselines to compare the figures with.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from genie.data.clips import FrameStore
from genie.errors import UserError
from genie.files import check_folder
from genie.places import find_world
from genie.playable import open_world
from genie.world import World
from train.errors import one_line_errors
from train.measure.evaluation import ClipChoice, Facts, Figures, draw_choice, evaluate
from train.measure.long_rollouts import LONG_STEPS, scenes_of
from train.measure.networks import Supplied
from train.measure.pictures import write
from train.measure.report import page
from train.measure.rollouts import check_sizes
from train.measure.table import comparison, main_figures, table
from train.measure.true_actions import TrueActions
from train.protocol import find_sets, place

FORMAT_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure a world on held-out videos; write figures and pictures."""

    world: tyro.conf.Positional[Path]
    """Checkpoint folder of the world."""
    data: tyro.conf.Positional[Path]
    """Folder made by train.prepare; only its held-out videos are read."""
    true_actions: Path | None = None
    """true_actions.npz of the recording, or a folder with one recording per game; adds NMI and
    probe."""
    num_clips: int = 256
    """Held-out clips to roll out (fewer if there are fewer)."""
    horizon: int = 15
    """Frames to generate from each prompt frame."""
    long_steps: int = 1000
    """Length of the long rollouts in frames, up to 1,000; they are measured after 10, 50, 100, 300
    and 1,000 frames. Below 10: none."""
    protocol: Path | None = None
    """File of train.protocol that names the clips; its clips, horizon and seed replace num_clips,
    horizon and seed."""
    against: Path | None = None
    """metrics.json of another world on the same clips, to compare with."""
    lpips_network: Path | None = None
    """TorchScript file of LPIPS: maps two batches of frames in -1..1 to one distance per pair."""
    fvd_network: Path | None = None
    """TorchScript file of I3D, such as i3d_torchscript.pt."""
    fid_network: Path | None = None
    """TorchScript file of Inception, such as inception-2015-12-05.pt."""
    seed: int = 0
    """Draws clips, random actions and the sampler's noise."""
    out: Path = Path("report")
    """Folder for report.html, metrics.json and the pictures; created if necessary."""


@dataclass(frozen=True)
class OtherWorld:
    """What is compared of another world's metrics.json."""

    path: Path
    world: str
    main: dict[str, float]
    """See `table.main_figures`."""
    clips: dict[str, Facts]
    """By game."""

    @classmethod
    def read(cls, path: Path) -> "OtherWorld":
        """Read metrics.json.

        Raises:
            UserError: if the file is missing or is not of this version.
        """
        try:
            figures = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(
                f"cannot read {path} ({error}): give the metrics.json of a report"
            ) from error
        try:
            if figures["version"] != FORMAT_VERSION:
                raise ValueError(figures["version"])
            clips = {game: Facts(**of["clips"]) for game, of in _by_game(figures).items()}
            main = {name: float(figure) for name, figure in figures["main"].items()}
            return cls(path, str(figures["world"]), main, clips)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} has no figures of this version: run train.evaluate again and give its "
                "metrics.json"
            ) from error

    def check_same_clips(self, choices: Mapping[str, ClipChoice]) -> None:
        """Refuse to compare figures of different clips.

        Raises:
            UserError: naming what differs.
        """
        if choices.keys() != self.clips.keys():
            here, there = (", ".join(games) or "none by name" for games in (choices, self.clips))
            raise UserError(
                f"{self.path} was measured on other games ({there}) than these ({here}): "
                "evaluate both worlds with the same data"
            )
        for game, choice in choices.items():
            here, there = asdict(choice.facts), asdict(self.clips[game])
            for name in here:
                if here[name] != there[name]:
                    raise UserError(
                        f"{self.path} was measured on other clips ({name}: {there[name]} there, "
                        f"{here[name]} here): evaluate both worlds with the same data and options"
                    )


def main(config: EvaluateConfig) -> None:
    """Evaluate, write everything to `config.out` and print a table.

    Raises:
        UserError: if a file or a flag does not fit, or `config.out` cannot be written.
    """
    if config.long_steps > LONG_STEPS[-1]:
        raise UserError(f"--long-steps is {config.long_steps}: give {LONG_STEPS[-1]} or fewer")
    check_folder(config.out)
    other = OtherWorld.read(config.against) if config.against else None
    world = World.from_pretrained(config.world)
    store = FrameStore.open(config.data, "heldout")
    check_sizes(world, store)
    choices = choose_clips(config, store)
    if other:
        other.check_same_clips(choices)
    truth = TrueActions.open(config.true_actions) if config.true_actions else None
    supplied = Supplied.open(config.lpips_network, config.fvd_network, config.fid_network)
    if truth:  # refuse files that do not fit before the minutes of rollouts
        for choice in choices.values():
            truth.of_store(choice.store)
    games = {
        game: evaluate(
            world,
            choice,
            truth,
            supplied=supplied,
            long_steps=config.long_steps,
            pictures=config.out / game,
            player=open_world(find_world(config.world)),
        )
        for game, choice in tqdm(
            choices.items(), "games", leave=False, disable=len(choices) == 1 or None
        )
    }
    compared = "\n".join(_compare(world.name, games, other)) if other else ""
    html = page(world.name, games, config.out, other.world if other else "", compared)
    figures = json.dumps(to_json(world.name, games), indent=2) + "\n"
    write(config.out / "metrics.json", figures.encode())
    write(config.out / "report.html", html.encode())
    print(*filter(None, (table(world.name, games), compared)), sep="\n")
    print(f"written to {config.out}: report.html, metrics.json and pictures")


def choose_clips(config: EvaluateConfig, store: FrameStore) -> dict[str, ClipChoice]:
    """Choose the clips of each game: those of the protocol, or those that the seed draws.

    Raises:
        UserError: if the protocol does not fit these videos, or they are too short.
    """
    if not config.protocol:
        return {
            game: draw_choice(part, config.num_clips, config.horizon, config.seed)
            for game, part in store.by_game().items()
        }
    protocol, sets = find_sets(config.protocol, store)
    choices = {}
    for clips, part in sets:
        rows, long = place(clips, part)
        scenes = scenes_of(long, part)
        choices[clips.game] = ClipChoice(part, rows, scenes, clips.horizon, protocol.seed)
    return choices


def to_json(world: str, games: Mapping[str, Figures]) -> dict:
    """The content of metrics.json: the figures, by game if games have names, and the main ones."""
    by_game = {game: asdict(figures) for game, figures in games.items()}
    figures = by_game[""] if by_game.keys() == {""} else {"games": by_game}
    return {"version": FORMAT_VERSION, "world": world, "main": main_figures(games)} | figures


def _by_game(figures: dict) -> dict[str, dict]:
    return figures.get("games") or {"": figures}


def _compare(world: str, games: Mapping[str, Figures], other: OtherWorld) -> Iterator[str]:
    return comparison(world, main_figures(games), other.world, other.main)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(EvaluateConfig))
