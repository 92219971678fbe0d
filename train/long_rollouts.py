"""A world that runs on and on, a thousand frames by itself, beside real frames.

In: a world and held-out videos. Out: figures by how many frames it has run: how far the pictures
still look like the game's, and, while the true video lasts, how far they are like it.
Actions are those that the latent action model reads from the true video; where that has ended,
those of other true videos, one after the other: keys that somebody playing pressed, or else the
views would differ from real ones for that alone.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from genie import metrics, video
from genie.data import Clips, FrameStore
from genie.world import World
from train.features import features_of
from train.figures import likeness
from train.rollouts import HISTORY, infer, reconstruct

LONG_STEPS = (10, 50, 100, 300, 1000)
NUM_FILMS = 32
WINDOW = 10  # frames up to a step that its figures are taken over
NUM_REAL = 500  # pairs of real frames to hold films beside
NUM_DRAWS = 8  # sets of real stretches that show how near real films are to them
CONTEXT = 8  # true frames before one, for the tokenizer to keep it as it does in a clip


@dataclass(frozen=True)
class LongRun:
    """Films that run on from real frames."""

    truths: list[UInt8[Tensor, "t 3 h w"]]
    """The true video of each from its prompt on, as long as it lasts."""
    windows: dict[int, UInt8[Tensor, "b w 3 h w"]]
    """By step the last frames up to it."""


def long_figures(world: World, store: FrameStore, run: LongRun, seed: int) -> dict[str, dict]:
    """Figures by step, and under "real" those of real stretches beside real frames of other scenes.

    `sharpness`, `contrast` and `motion` are shares of the real frames', 1 being as sharp; `colour`
    is how far the mean colour is off, 0..255; `frechet` is the distance of the features of a small
    network (`train.features`; neither FID nor FVD), to be held beside that of as many real frames,
    of which `frechet_range` has the least and the greatest of `NUM_DRAWS` draws and the rest are
    means. `generated`, `copy_last_frame` and `tokenizer` are there while true videos last, for
    `num_true` of them.
    """
    films = next(iter(run.windows.values()))
    some, others = _two_halves(store, films.shape[1], seed)
    real = _yardstick(_draw_real(store, some, NUM_REAL, 2, seed))
    figures: dict[str, dict] = {"real": _looks_of_real(store, others, films.shape[:2], real, seed)}
    for step, window in run.windows.items():
        figures[str(step)] = _looks(window, real) | _likeness_to_truth(world, run, step)
    return figures


def run_on(
    world: World, store: FrameStore, scenes: np.ndarray, num_steps: int, seed: int
) -> LongRun:
    """Roll out from the beginning of held-out scenes, of which the numbers are given.

    Args:
        num_steps: to run on for; the last of `LONG_STEPS` within it is the last frame.
    """
    clips = [store.read(*store.scene_starts[scene : scene + 2].tolist()) for scene in scenes]
    skipped = [min(HISTORY, len(clip) - 1) for clip in clips]
    truths = [clip[skip:] for clip, skip in zip(clips, skipped, strict=True)]
    inferred = [
        infer(world, clip[None])[0, skip:] for clip, skip in zip(clips, skipped, strict=True)
    ]
    steps = [step for step in LONG_STEPS if step <= num_steps]
    actions = _go_on(inferred, max(steps), seed)
    prompts = torch.stack([truth[:1] for truth in truths])
    running = world.start_many(prompts, seeds=[seed + 2**32 * n for n in range(len(prompts))])
    films: dict[int, list[Tensor]] = {step: [] for step in steps}
    for now in tqdm(range(1, max(steps) + 1), desc="long rollouts", leave=False, disable=None):
        frame = running.step(actions[:, now - 1]).cpu()
        for step in steps:
            if step - WINDOW < now <= step:
                films[step].append(frame)
    return LongRun(truths, {step: torch.stack(film, dim=1) for step, film in films.items()})


def longest_scenes(store: FrameStore) -> np.ndarray:
    """The numbers of the longest scenes, in the order of the store."""
    lengths = np.diff(store.scene_starts)
    return np.sort(np.argsort(-lengths, kind="stable")[:NUM_FILMS])


def scenes_of(rows: np.ndarray, store: FrameStore) -> np.ndarray:
    """The numbers of the scenes that these rows are in."""
    return np.searchsorted(store.scene_starts, rows, side="right") - 1


def _go_on(inferred: list[Int[Tensor, " _"]], num_steps: int, seed: int) -> Int[Tensor, "b s"]:
    """Each video's actions, then those of videos drawn at random.

    A film's draws are its own, so that its actions do not depend on how long the films run on.
    """
    rows = []
    for number, own in enumerate(inferred):
        rng, pieces = np.random.default_rng([seed, number]), [own]
        while sum(map(len, pieces)) < num_steps:
            pieces.append(inferred[rng.integers(len(inferred))])
        rows.append(torch.cat(pieces)[:num_steps])
    return torch.stack(rows)


def _two_halves(store: FrameStore, num_frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of scenes: real films must not be among the frames that they are held beside."""
    long_enough = np.unique(scenes_of(Clips(store, num_frames).rows, store))
    numbers = np.random.default_rng(seed).permutation(long_enough)
    middle = max(1, len(numbers) // 2)
    return numbers[:middle], numbers[middle:] if len(numbers) > 1 else numbers


def _draw_real(
    store: FrameStore, scenes: np.ndarray, count: int, num_frames: int, seed: int
) -> UInt8[Tensor, "b w 3 h w"]:
    """Stretches of neighbouring real frames, anywhere in these scenes."""
    rows = Clips(store, num_frames).rows
    rows = rows[np.isin(scenes_of(rows, store), scenes)]
    chosen = np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False)
    return _read(store, np.sort(chosen), num_frames)


def _looks_of_real(
    store: FrameStore,
    scenes: np.ndarray,
    size: tuple[int, int],
    real: tuple[dict, Tensor],
    seed: int,
) -> dict[str, float | list[float]]:
    """Figures of real stretches, each of another scene as films are, means over several draws."""
    num_films, num_frames = size
    rows = Clips(store, num_frames).rows
    places = scenes_of(rows, store)
    found = []
    for draw in range(NUM_DRAWS):
        rng = np.random.default_rng([seed, draw])
        shuffled = rng.permutation(np.flatnonzero(np.isin(places, scenes)))
        _, first = np.unique(places[shuffled], return_index=True)
        chosen = rows[shuffled[rng.permutation(first)[:num_films]]]
        found.append(_looks(_read(store, np.sort(chosen), num_frames), real))
    distances = [looks["frechet"] for looks in found]
    means = {name: sum(looks[name] for looks in found) / NUM_DRAWS for name in found[0]}
    return means | {"frechet_range": [min(distances), max(distances)]}


def _read(store: FrameStore, rows: np.ndarray, num_frames: int) -> UInt8[Tensor, "b w 3 h w"]:
    return torch.stack([store.read(row, row + num_frames) for row in rows.tolist()])


def _looks(films: UInt8[Tensor, "b w 3 h w"], real: tuple[dict, Tensor]) -> dict[str, float]:
    """Figures of films beside the `_yardstick` of real ones."""
    found, features = _yardstick(films)
    wanted, real_features = real
    shares = {
        name: found[name] / max(wanted[name], 1e-6) for name in ("sharpness", "contrast", "motion")
    }
    colour = 255 * (found["colour"] - wanted["colour"]).abs().mean().item()
    frechet = metrics.frechet_distance(features, real_features)
    return {**shares, "colour": colour, "frechet": frechet}


def _yardstick(clips: UInt8[Tensor, "b w 3 h w"]) -> tuple[dict, Float[Tensor, "n f"]]:
    """Statistics of the pixels, and features of every frame."""
    return _statistics(video.to_float(clips)), features_of(clips.flatten(0, 1))


def _statistics(clips: Float[Tensor, "b w 3 h w"]) -> dict:
    return {
        "sharpness": metrics.sharpness(clips).mean().item(),
        "contrast": clips.std(dim=(-2, -1)).mean().item(),
        "motion": (clips[:, 1:] - clips[:, :-1]).abs().mean().item(),
        "colour": clips.mean(dim=(0, 1, 3, 4)),
    }


def _likeness_to_truth(world: World, run: LongRun, step: int) -> dict:
    """PSNR and SSIM of the films whose true video has got to this step."""
    lasting = [n for n, truth in enumerate(run.truths) if len(truth) > step]
    if not lasting:
        return {"num_true": 0}
    truth = torch.stack([run.truths[n][step] for n in lasting])
    before = torch.stack([run.truths[n][step + 1 - CONTEXT : step + 1] for n in lasting])
    return {
        "num_true": len(lasting),
        "generated": likeness(run.windows[step][lasting, -1], truth),
        "copy_last_frame": likeness(torch.stack([run.truths[n][0] for n in lasting]), truth),
        "tokenizer": likeness(reconstruct(world, before)[:, -1], truth),
    }
