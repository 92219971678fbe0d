"""Long rollouts: a world runs by itself for up to 1,000 frames, and is compared with real frames.

In: a world and held-out videos. Out: figures by the number of generated frames: how much frames
still look like the game's and, while the true video lasts, how close they are to it. Actions are
inferred from the true video and, after its end, from true videos drawn at random. Random actions
would not do: nobody plays like that, so the frames would differ from real ones for that reason
alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from genie.data.clips import Clips, FrameStore
from genie.frames import to_float
from genie.session import Sessions
from genie.world import World
from train.measure import metrics
from train.measure.figures import Likeness, likeness
from train.measure.patches import KnownPatches
from train.measure.rollouts import HISTORY, find_videos, infer, reconstruct

LONG_STEPS = (10, 50, 100, 300, 1000)
NUM_FILMS = 32
WINDOW = 10  # frames up to a step from which its figures are computed
NUM_REAL = 500  # pairs of real frames that clips are compared with
NUM_DRAWS = 8  # draws of real clips, whose figures show what real clips reach and how they vary
LEAST = 1e-6  # smallest divisor
CONTEXT = 8  # true frames given to the tokenizer, which decodes the last of them as in a clip


Windows = dict[int, UInt8[Tensor, "b s 3 h w"]]


@dataclass(frozen=True)
class LongRun:
    """Rollouts from real frames."""

    truths: list[UInt8[Tensor, "t 3 h w"]]
    """The true video of each, from its prompt to the end of the scene."""
    windows: Windows
    """By step, the last `WINDOW` frames up to it."""
    videos: Int[np.ndarray, " b"]
    """The number of the video in which each starts."""


@dataclass(frozen=True, kw_only=True)
class Looks:
    """How much frames look like the game's."""

    sharpness: float
    """Relative to that of real frames; likewise the next two."""
    contrast: float
    motion: float
    colour: float
    """How far the mean colour is off, 0..255."""


@dataclass(frozen=True, kw_only=True)
class LongStep(Looks):
    """Rollouts after so many frames; compared with the true videos that last as long, if any."""

    num_true: int
    """Number of true videos that last as long."""
    generated: Likeness | None = None
    copy_last_frame: Likeness | None = None
    tokenizer: Likeness | None = None


@dataclass(frozen=True, kw_only=True)
class NeverSeen:
    """Percent of patches unlike any in real frames, see `train.measure.patches`."""

    real: float
    """Of real clips: the mean over `NUM_DRAWS` draws."""
    real_range: tuple[float, float]
    """The smallest and the largest of these draws."""
    tokenizer: float
    """Of real clips, encoded and decoded."""
    steps: dict[int, float]
    """Of rollouts, by the number of frames since the prompt."""


@dataclass(frozen=True, kw_only=True)
class LongFigures:
    """Figures of long rollouts and, for comparison, of real clips from different scenes."""

    real: Looks
    """Of real clips: means over `NUM_DRAWS` draws."""
    tokenizer: Looks
    """Of real clips, encoded and decoded."""
    steps: dict[int, LongStep]
    """By the number of frames since the prompt."""
    never_seen: NeverSeen | None
    """None if there are too few videos."""
    by_prior: "ByPrior | None" = None
    """None if the world has no action prior."""


@dataclass(frozen=True, kw_only=True)
class ByPrior:
    """Rollouts in which the action prior chooses every action, so that the world plays itself.

    The actions of a true video soon do not fit the frames of a rollout, which has other walls: they
    fall through its floors and jump in mid-air.
    """

    steps: dict[int, Looks]
    """By the number of frames since the prompt."""
    never_seen: dict[int, float]
    """Percent of patches; empty if there are too few videos."""


def long_figures(
    world: World, store: FrameStore, run: LongRun, seed: int, by_prior: Windows | None = None
) -> LongFigures:
    """Measure the rollouts of `run_on` and of `play_on`, and real clips of the same store."""
    ruler = Ruler.of(store, seed)
    num_clips, num_frames = next(iter(run.windows.values())).shape[:2]
    draws = [_draw_real(store, num_clips, num_frames, [seed, n]) for n in range(NUM_DRAWS)]
    clips, videos = draws[0]
    rendered = reconstruct(world, clips)
    never_seen = None
    if ruler.known:
        shares = [ruler.known.never_seen(*draw, seed) for draw in draws]
        never_seen = NeverSeen(
            real=sum(shares) / NUM_DRAWS,
            real_range=(min(shares), max(shares)),
            tokenizer=ruler.known.never_seen(rendered, videos, seed),
            steps={
                step: ruler.known.never_seen(window, run.videos, seed)
                for step, window in run.windows.items()
            },
        )
    return LongFigures(
        real=_mean([ruler.looks(clips) for clips, _ in draws]),
        tokenizer=ruler.looks(rendered),
        steps={
            step: _long_step(world, run, step, ruler.looks(window))
            for step, window in run.windows.items()
        },
        never_seen=never_seen,
        by_prior=_by_prior(ruler, by_prior, run.videos, seed) if by_prior else None,
    )


def _by_prior(
    ruler: "Ruler", windows: Windows, videos: Int[np.ndarray, " b"], seed: int
) -> ByPrior:
    known, shares = ruler.known, {}
    if known:
        shares = {step: known.never_seen(at, videos, seed) for step, at in windows.items()}
    looks = {step: ruler.looks(window) for step, window in windows.items()}
    return ByPrior(steps=looks, never_seen=shares)


def run_on(
    world: World, store: FrameStore, scenes: np.ndarray, steps: Sequence[int], seed: int
) -> LongRun:
    """Roll out from the beginning of held-out scenes.

    Args:
        scenes: numbers of the scenes.
        steps: numbers of frames after which the rollouts are measured; they end at the largest.
    """
    clips = [store.read(*store.scene_starts[scene : scene + 2].tolist()) for scene in scenes]
    skipped = [min(HISTORY, len(clip) - 1) for clip in clips]
    truths = [clip[skip:] for clip, skip in zip(clips, skipped, strict=True)]
    inferred = [
        infer(world, clip[None])[0, skip:] for clip, skip in zip(clips, skipped, strict=True)
    ]
    actions = _extend(inferred, max(steps), seed)
    running = _start(world, [truth[0] for truth in truths], seed)
    windows = _windows(lambda now: running.step(actions[:, now - 1]), steps)
    return LongRun(truths, windows, find_videos(store, store.scene_starts[scenes]))


def play_on(
    world: World, store: FrameStore, scenes: np.ndarray, steps: Sequence[int], seed: int
) -> Windows:
    """Rollouts from the prompts of `run_on`, in which the world's prior chooses the actions."""
    bounds = (store.scene_starts[scene : scene + 2].tolist() for scene in scenes)
    rows = [start + min(HISTORY, end - start - 1) for start, end in bounds]
    running = _start(world, [store.read(row, row + 1)[0] for row in rows], seed)
    indifferent = np.ones((len(rows), world.num_actions))
    return _windows(lambda _: running.step(running.choose(indifferent)), steps)


def _start(world: World, prompts: Sequence[UInt8[Tensor, "3 h w"]], seed: int) -> Sessions:
    seeds = [seed + 2**32 * number for number in range(len(prompts))]
    return world.start_many(torch.stack(list(prompts))[:, None], seeds=seeds)


def _windows(
    generate: Callable[[int], UInt8[np.ndarray, "b 3 h w"]], steps: Sequence[int]
) -> Windows:
    """Generate frames from number 1 to the last step, and return those that are measured."""
    frames: dict[int, list[Tensor]] = {step: [] for step in steps}
    for now in tqdm(range(1, max(steps) + 1), desc="long rollouts", leave=False, disable=None):
        frame = torch.from_numpy(generate(now))
        for step in steps:
            if step - WINDOW < now <= step:
                frames[step].append(frame)
    return {step: torch.stack(window, dim=1) for step, window in frames.items()}


def steps_to_look_at(num_steps: int) -> list[int]:
    """Return those of `LONG_STEPS` that rollouts of `num_steps` frames reach."""
    return [step for step in LONG_STEPS if step <= num_steps]


def longest_scenes(store: FrameStore) -> np.ndarray:
    """The numbers of the `NUM_FILMS` longest scenes, in the order of the store."""
    lengths = np.diff(store.scene_starts)
    return np.sort(np.argsort(-lengths, kind="stable")[:NUM_FILMS])


def scenes_of(rows: np.ndarray, store: FrameStore) -> np.ndarray:
    """The numbers of the scenes that contain these rows."""
    return np.searchsorted(store.scene_starts, rows, side="right") - 1


def _extend(inferred: list[Int[Tensor, " _"]], num_steps: int, seed: int) -> Int[Tensor, "b s"]:
    """Each video's actions, followed by those of videos drawn at random, to `num_steps` in all.

    Each rollout has its own random generator, so that its actions do not depend on `num_steps`.
    """
    rows = []
    for number, own in enumerate(inferred):
        rng, pieces = np.random.default_rng([seed, number]), [own]
        while sum(map(len, pieces)) < num_steps:
            pieces.append(inferred[rng.integers(len(inferred))])
        rows.append(torch.cat(pieces)[:num_steps])
    return torch.stack(rows)


@dataclass(frozen=True)
class Statistics:
    """Appearance of frames, averaged over clips; colours 0..1."""

    sharpness: float
    contrast: float
    motion: float
    colour: Float[Tensor, "3"]

    @classmethod
    def of(cls, clips: UInt8[Tensor, "b s 3 h w"]) -> "Statistics":
        """Measure clips."""
        frames = to_float(clips)
        return cls(
            sharpness=metrics.sharpness(frames).mean().item(),
            contrast=frames.std(dim=(-2, -1)).mean().item(),
            motion=(frames[:, 1:] - frames[:, :-1]).abs().mean().item(),
            colour=frames.mean(dim=(0, 1, 3, 4)),
        )


@dataclass(frozen=True)
class Ruler:
    """Statistics and patches of real frames, with which clips are compared."""

    real: Statistics
    known: KnownPatches | None

    @classmethod
    def of(cls, store: FrameStore, seed: int) -> "Ruler":
        """Measure real frames drawn from all videos."""
        rows = Clips(store, 2).rows
        count = min(NUM_REAL, len(rows))
        chosen = np.random.default_rng(seed).choice(rows, count, replace=False)
        pairs = _read(store, np.sort(chosen), 2)
        return cls(Statistics.of(pairs), KnownPatches.of(store, seed))

    def looks(self, clips: UInt8[Tensor, "b s 3 h w"]) -> Looks:
        """Compare clips with real frames."""
        found, real = Statistics.of(clips), self.real
        return Looks(
            sharpness=found.sharpness / max(real.sharpness, LEAST),
            contrast=found.contrast / max(real.contrast, LEAST),
            motion=found.motion / max(real.motion, LEAST),
            colour=255 * (found.colour - real.colour).abs().mean().item(),
        )


def _draw_real(
    store: FrameStore, num_clips: int, num_frames: int, seed: list[int]
) -> tuple[UInt8[Tensor, "b s 3 h w"], Int[np.ndarray, " b"]]:
    """Real clips from different scenes, as the rollouts are, and the numbers of their videos."""
    rng, rows = np.random.default_rng(seed), Clips(store, num_frames).rows
    shuffled = rng.permutation(rows)
    _, first = np.unique(scenes_of(shuffled, store), return_index=True)
    chosen = np.sort(shuffled[rng.permutation(first)[:num_clips]])
    return _read(store, chosen, num_frames), find_videos(store, chosen)


def _mean(draws: list[Looks]) -> Looks:
    names = [field.name for field in fields(Looks)]
    return Looks(**{name: sum(getattr(of, name) for of in draws) / len(draws) for name in names})


def _read(store: FrameStore, rows: np.ndarray, num_frames: int) -> UInt8[Tensor, "b s 3 h w"]:
    return torch.stack([store.read(row, row + num_frames) for row in rows.tolist()])


def _long_step(world: World, run: LongRun, step: int, looks: Looks) -> LongStep:
    """Add PSNR and SSIM of the rollouts whose true video lasts beyond this step."""
    lasting = [n for n, truth in enumerate(run.truths) if len(truth) > step]
    if not lasting:
        return LongStep(**asdict(looks), num_true=0)
    truth = torch.stack([run.truths[n][step] for n in lasting])
    before = torch.stack([run.truths[n][step + 1 - CONTEXT : step + 1] for n in lasting])
    return LongStep(
        **asdict(looks),
        num_true=len(lasting),
        generated=likeness(run.windows[step][lasting, -1], truth),
        copy_last_frame=likeness(torch.stack([run.truths[n][0] for n in lasting]), truth),
        tokenizer=likeness(reconstruct(world, before)[:, -1], truth),
    )
