"""How well latent actions agree with the buttons that were really pressed.

In: the true_actions.npz and recording.json of `examples/record_game.py`, a world and held-out
videos. Out: mutual information and the balanced accuracy of a probe.
The only file of `train/` that reads true actions. Generates no frames.
"""

import json
import zipfile
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from sklearn.metrics import (
    adjusted_mutual_info_score,
    normalized_mutual_info_score,
    recall_score,
)
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from genie.data.clips import Clips, FrameStore
from genie.errors import UserError
from genie.frames import to_float
from genie.world import World
from train.measure.rollouts import BATCH, HISTORY, find_videos

FILE_NAME = "true_actions.npz"
MAX_PROBE_CLIPS = 2048
# What numpy and json raise for files that are missing, truncated or of another kind.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class TrueActions:
    """The buttons that were pressed in each recorded video."""

    by_video: dict[str, np.ndarray]
    """Ids by the name of the video; action t leads from frame t to frame t+1."""
    names: list[str]
    """Buttons of each id, joined by "+"."""

    @classmethod
    def open(cls, path: Path) -> "TrueActions":
        """Read a recording: the npz file and the recording.json beside it.

        Args:
            path: of the npz file, or of a folder that contains recordings; videos are then named
                as in the data that train.prepare makes of that folder.

        Raises:
            UserError: if a file is missing or was not written by `examples/record_game.py`.
        """
        if not path.is_dir():
            return cls(*_read(path))
        files = sorted(path.rglob(FILE_NAME))
        if not files:
            raise UserError(
                f"{path} holds no {FILE_NAME}: give a folder of examples/record_game.py"
            )
        recordings = {file.relative_to(path).parent: _read(file) for file in files}
        names = list(dict.fromkeys(name for _, own in recordings.values() for name in own))
        by_video = {}
        for folder, (actions, own) in recordings.items():
            # An id without a name maps to one without a name, which `of` refuses.
            ids = np.array([*(names.index(name) for name in own), len(names)])
            for video_name, taken in actions.items():
                by_video[str(folder / video_name)] = ids[taken.clip(max=len(own))]
        return cls(by_video, names)

    def of(self, name: str, numbers: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
        """Return for each frame the id that led to the next frame; -1 if the data lacks the next.

        Args:
            name: of the video.
            numbers: the frames' numbers in the recorded video, in ascending order.

        Raises:
            UserError: if the recording has no such video, or a shorter one.
        """
        actions = self.by_video.get(name, np.empty(0))
        if len(actions) < int(numbers[-1]) or actions.max(initial=0) >= len(self.names):
            raise UserError(
                f"the true actions do not fit {name} with its {int(numbers[-1]) + 1} frames: "
                "give the true_actions.npz of the recording that the data was prepared from"
            )
        found = torch.full((len(numbers),), -1)
        follows = numbers[1:] == numbers[:-1] + 1
        found[:-1][follows] = torch.from_numpy(actions).long()[numbers[:-1][follows]]
        return found

    def of_store(self, store: FrameStore) -> Int[Tensor, " rows"]:
        """Return the result of `of` for every row of a store.

        Raises:
            UserError: see `of`.
        """
        edges, numbers = pairwise(store.video_starts.tolist()), store.numbers()
        return torch.cat(
            [
                self.of(name, numbers[start:stop])
                for name, (start, stop) in zip(store.video_names, edges, strict=True)
            ]
        )

    def merges(self) -> dict[str, Int[Tensor, " i"]]:
        """Return labellings of the ids: all distinct, or merged by how they move the view."""
        pressed = [name.split("+") for name in self.names]
        across = ["left" if "LEFT" in b else "right" if "RIGHT" in b else "none" for b in pressed]
        upward = ["up" if "UP" in b else "not" for b in pressed]
        moves = [" ".join(pair) for pair in zip(across, upward, strict=True)]
        kinds = {"all": self.names, "horizontal": across, "vertical": upward, "moves": moves}
        return {
            kind: torch.from_numpy(np.unique(labels, return_inverse=True)[1])
            for kind, labels in kinds.items()
        }


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well latent actions agree with the true ones.

    The probe predicts the true action that is most frequent for the latent action in one half of
    the videos; it is scored on the other half.
    """

    num_transitions: int
    nmi: float
    """Normalised mutual information, 0..1."""
    ami: float
    """The same, adjusted for chance: 0 by chance, 1 at best."""
    balanced_accuracy: float
    """Of the probe, 0..1."""
    balanced_accuracy_weighted_vote: float
    """The same with equal weights of all true actions in the vote, as in the score."""
    chance: float
    """Balanced accuracy of guessing."""


def true_action_figures(
    world: World, store: FrameStore, truth: TrueActions, horizon: int, seed: int
) -> dict[str, Agreement]:
    """Compare latent with true actions, for each labelling of `TrueActions.merges`.

    Raises:
        UserError: if there are clips of one video only.
    """
    latent, true, video_ids = label_transitions(world, store, truth, horizon, seed)
    order = torch.randperm(len(store.video_names), generator=torch.Generator().manual_seed(seed))
    voting = torch.isin(video_ids, order[::2])
    if voting.all() or not voting.any():
        raise UserError("the probe needs held-out clips of two videos: give more held-out videos")
    figures = {}
    for kind, merged in truth.merges().items():
        classes = merged[true]
        counts = cross_table(latent[voting], classes[voting], world.num_actions, len(merged))
        scored = latent[~voting], classes[~voting]
        figures[kind] = Agreement(
            num_transitions=len(latent),
            nmi=float(normalized_mutual_info_score(classes, latent)),
            ami=float(adjusted_mutual_info_score(classes, latent)),
            balanced_accuracy=_probe(vote(counts), *scored),
            balanced_accuracy_weighted_vote=_probe(vote(counts, weighted=True), *scored),
            chance=1 / len(scored[1].unique()),
        )
    return figures


def _read(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read one recording: its ids by video, and the ids' names."""
    recording = path.with_name("recording.json")
    try:
        with np.load(path) as arrays:
            by_video = {name: arrays[name] for name in arrays.files}
        names = [str(name) for name in json.loads(recording.read_text())["true_actions"]]
    except UNREADABLE as error:
        raise UserError(
            f"cannot read the true actions from {path} and {recording} ({error!r}): "
            "give the true_actions.npz of examples/record_game.py in its own folder"
        ) from error
    return by_video, names


@dataclass(frozen=True)
class Meeting:
    """Which buttons were pressed in the held-out transitions with one latent action."""

    share: dict[str, float]
    """Share of this action's transitions with LEFT, RIGHT and UP pressed."""
    everywhere: dict[str, float]
    """The same for all transitions: what chance would give."""
    num_transitions: int
    """Number of transitions with this action."""

    def __str__(self) -> str:
        """Such as "LEFT 71% (all 36%), ..."."""
        if not self.num_transitions:
            return "never met"
        pairs = [f"{b} {self.share[b]:.0%} (all {self.everywhere[b]:.0%})" for b in self.share]
        return ", ".join(pairs) + f", n = {self.num_transitions}"


def meetings(
    world: World, store: FrameStore, truth: TrueActions, horizon: int, seed: int = 0
) -> dict[int, Meeting]:
    """Return for each latent action the buttons pressed in the transitions that it labels."""
    latent, true, _ = label_transitions(world, store, truth, horizon, seed)
    pressed = {
        button: torch.tensor([button in name.split("+") for name in truth.names])[true]
        for button in ("LEFT", "RIGHT", "UP")
    }
    everywhere = {button: held.double().mean().item() for button, held in pressed.items()}
    found = {}
    for action in range(world.num_actions):
        here = latent == action
        share = {b: held[here].double().mean().item() for b, held in pressed.items()}
        found[action] = Meeting(share, everywhere, int(here.sum()))
    return found


def _probe(table: Int[Tensor, " a"], latent: Int[Tensor, " n"], true: Int[Tensor, " n"]) -> float:
    """Balanced accuracy: mean share recognised of each true action that occurs, 0..1."""
    score = recall_score(true, table[latent], labels=true.unique(), average="macro")
    return float(score)


def cross_table(
    a: Int[Tensor, " n"], b: Int[Tensor, " n"], num_a: int = 0, num_b: int = 0
) -> Int[Tensor, "i j"]:
    """Count each pair of labels; `num_a` and `num_b`: least number of rows and columns."""
    num_a, num_b = max(num_a, int(a.max()) + 1), max(num_b, int(b.max()) + 1)
    counts = torch.bincount(a.long() * num_b + b.long(), minlength=num_a * num_b)
    return counts.reshape(num_a, num_b)


def vote(table: Int[Tensor, "a c"], weighted: bool = False) -> Int[Tensor, " a"]:
    """The most frequent true action for each latent action, from the counts of `cross_table`.

    `weighted`: every true action has the same total weight, so that a frequent one does not win
    every latent action. Ties, and latent actions never seen, go to the most frequent one overall.
    """
    frequency = table.sum(dim=0).double()
    shares = table / frequency.clamp(min=1) if weighted else table.double()
    return (shares + 1e-9 * frequency / frequency.sum()).argmax(dim=1)


def label_transitions(
    world: World, store: FrameStore, truth: TrueActions, horizon: int, seed: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Return latent action, true action and video of transitions in up to `MAX_PROBE_CLIPS` clips.

    The first `HISTORY` transitions of each clip are only history for the latent action model;
    neighbouring clips overlap by as many.
    """
    clips = Clips(store, HISTORY + 1 + horizon, stride=horizon)
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(seed))
    chosen = order[:MAX_PROBE_CLIPS].tolist()
    rows = np.array([clips.row(i) for i in chosen])
    video_ids = find_videos(store, rows)
    pressed = truth.of_store(store)
    true = pressed[torch.from_numpy(rows)[:, None] + HISTORY + torch.arange(horizon)].flatten()
    batches = DataLoader(Subset(clips, chosen), batch_size=BATCH)
    latent = [
        world.latent_action.infer(to_float(frames.to(world.device))).cpu()[:, HISTORY:]
        for frames in tqdm(batches, desc="true actions", leave=False, disable=None)
    ]
    is_known = true >= 0
    return (
        torch.cat(latent).flatten()[is_known],
        true[is_known],
        torch.from_numpy(video_ids).repeat_interleave(horizon)[is_known],
    )
