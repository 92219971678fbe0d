"""A world and held-out videos in, figures and pictures out.

    python -m train.evaluate WORLD DATA --true-actions data/coinrun/true_actions.npz --out report

Every figure comes from videos that training never saw. Rollouts run free from one prompt frame:
the true video lends them its latent actions, which the latent action model infers, and nothing
else. Writes `metrics.json`, `actions.png`, `actions.gif` and `rollouts.png`; the same seed gives
the same figures again, but for the latency.
Source: Genie (Bruce et al. 2024, arXiv:2402.15391), section 4, for delta-t PSNR.
Does not judge: the reader compares the figures with the baselines beside them.
"""

import io
import json
import os
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from einops import rearrange, repeat
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from genie import metrics, video
from genie.data import Clips, FrameStore
from genie.errors import UserError
from genie.world import World
from train.stage import one_line_errors

HISTORY = 3  # true frames before the prompt; only the latent action model sees them
BATCH = 32
PRINTED_STEPS = (1, 4, 8, 15)
DELTA_STEPS = (1, 2, 4, 8)
NUM_DRAWS = 3  # of random actions
NUM_HELD_PROMPTS = 32
HELD_STEPS = 8
MOVED = 3  # pixels in all over HELD_STEPS frames from which on a view counts as moved
MAX_PROBE_CLIPS = 2048
LATENCY_STEPS = 60
NUM_DRAWN_PROMPTS = 3
NUM_DRAWN_CLIPS = 8
# What numpy and json raise for files that are missing, cut off or something else altogether.
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


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure a world on held-out videos; write figures and pictures."""

    world: tyro.conf.Positional[Path]
    """Checkpoint folder of the world."""
    data: tyro.conf.Positional[Path]
    """Folder made by train.prepare; only its held-out videos are read."""
    true_actions: Path | None = None
    """true_actions.npz of the recording, with recording.json beside it; adds NMI and probe."""
    num_clips: int = 256
    """Held-out clips to roll out (fewer if there are fewer)."""
    horizon: int = 15
    """Frames to generate from each prompt frame."""
    seed: int = 0
    """Draws clips, random actions and the sampler's noise."""
    out: Path = Path("report")
    """Folder for metrics.json and the pictures; made if need be."""


def main(config: EvaluateConfig) -> None:
    """Evaluate, write everything to `config.out` and print a table.

    Raises:
        UserError: if a file or a flag does not fit, or `config.out` cannot be written.
    """
    check_writable(config.out)
    world = World.from_pretrained(config.world)
    store = FrameStore.open(config.data, "heldout")
    figures = evaluate(
        world,
        store,
        config.true_actions,
        num_clips=config.num_clips,
        horizon=config.horizon,
        seed=config.seed,
    )
    write(config.out / "metrics.json", json.dumps(figures, indent=2).encode() + b"\n")
    draw_pictures(world, store, config.out, horizon=config.horizon, seed=config.seed)
    print(table(figures))
    print(f"written to {config.out}: metrics.json, actions.png, actions.gif, rollouts.png")


@torch.no_grad()
def evaluate(
    world: World,
    store: FrameStore,
    true_actions: Path | None = None,
    *,
    num_clips: int = 256,
    horizon: int = 15,
    seed: int = 0,
) -> dict:
    """Measure `world` on the videos of `store` and return every figure, ready for JSON.

    PSNR in dB, latencies in ms, scrolls in pixels (dx > 0: the view moves right, dy > 0: up).
    `psnr` is the mean over frames of each frame's PSNR, where an identical frame counts 60 dB;
    `psnr_pooled` is the PSNR of the mean squared error over the same frames.

    Args:
        world: in evaluation mode.
        store: held-out videos.
        true_actions: npz file with the buttons that were pressed; None leaves NMI and probe out.
        num_clips: clips to roll out; fewer are taken if there are fewer.
        horizon: frames to generate from each prompt frame.
        seed: draws clips, random actions and the sampler's noise.

    Raises:
        UserError: if sizes do not fit, the videos are too short, or `true_actions` is not theirs.
    """
    check_sizes(world, store)
    clips = draw_clips(store, num_clips, horizon, seed)
    # The one part that can still fail comes before the minutes of rollouts.
    truth = TrueActions.open(true_actions) if true_actions else None
    agreement = true_action_figures(world, store, truth, horizon, seed) if truth else None
    rendered = reconstruct(world, clips)
    actions = infer(world, clips)
    prompts, future = clips[:, HISTORY], clips[:, HISTORY + 1 :]
    generated = roll(world, prompts, actions[:, HISTORY:], seed, "rollout")
    return {
        "world": world.name,
        "num_clips": len(clips),
        "num_videos": len(store.video_names),
        "horizon": horizon,
        "seed": seed,
        "tokenizer": likeness(rendered.flatten(0, 1), clips.flatten(0, 1)),
        "rollout": rollout_figures(generated, future, prompts, rendered[:, HISTORY + 1 :]),
        "delta_psnr": delta_psnr_figures(world, generated, future, prompts, seed),
        "latent_action": usage_figures(actions, world.num_actions),
        "true_actions": agreement,
        "scroll": scroll_figures(world, prompts[:NUM_HELD_PROMPTS], seed),
        "latency": latency_figures(world, prompts[0], seed),
    }


def check_sizes(world: World, store: FrameStore) -> None:
    """Refuse frames that the world was not made for.

    Raises:
        UserError: if the sizes differ.
    """
    if tuple(world.size) != tuple(store.size):
        wanted, got = ("x".join(map(str, size)) for size in (world.size, store.size))
        raise UserError(
            f"the world wants frames of {wanted} but the data has {got}: "
            "prepare the videos again at the world's size"
        )


def draw_clips(
    store: FrameStore, num_clips: int, horizon: int, seed: int
) -> UInt8[Tensor, "b t 3 h w"]:
    """Draw clips of `HISTORY` frames, the prompt and `horizon` frames more.

    They do not overlap, unless there would be too few of them then.

    Raises:
        UserError: if no video is long enough.
    """
    if num_clips < 1 or horizon < 1:
        raise UserError(f"num_clips is {num_clips} and horizon {horizon}: give 1 or more of each")
    num_frames = HISTORY + 1 + horizon
    longest = int(np.diff(store.video_starts).max(initial=0))
    if longest < num_frames:
        raise UserError(
            f"the longest held-out video has {longest} frames but {num_frames} are wanted: "
            "give longer videos or a smaller --horizon"
        )
    clips = Clips(store, num_frames, stride=num_frames)
    if len(clips) < num_clips:
        clips = Clips(store, num_frames)
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(seed))
    return torch.stack([clips[i] for i in order[:num_clips].tolist()])


def reconstruct(world: World, clips: UInt8[Tensor, "b t 3 h w"]) -> UInt8[Tensor, "b t 3 h w"]:
    """Return what is left of `clips` after the tokenizer, each clip encoded as a whole."""
    return torch.cat(
        [
            video.to_uint8(world.tokenizer.decode(world.tokenizer.encode(frames))).cpu()
            for frames in _as_floats(world, clips, "tokenizer")
        ]
    )


def infer(world: World, clips: UInt8[Tensor, "b t 3 h w"]) -> Int[Tensor, "b t-1"]:
    """Return the latent actions of every transition."""
    batches = _as_floats(world, clips, "latent actions")
    return torch.cat([world.latent_action.infer(frames).cpu() for frames in batches])


def _as_floats(world: World, clips: Tensor, doing: str) -> Iterator[Tensor]:
    for batch in tqdm(clips.split(BATCH), desc=doing, leave=False):
        yield video.to_float(batch.to(world.device))


def roll(
    world: World,
    prompts: UInt8[Tensor, "b 3 h w"],
    actions: Int[Tensor, "b s"],
    seed: int,
    doing: str,
) -> UInt8[Tensor, "b s 3 h w"]:
    """Generate frames from one prompt frame each, led by `actions`, nothing else being given."""
    pairs = list(zip(prompts.split(BATCH), actions.split(BATCH), strict=True))
    return torch.cat(
        [
            world.rollout(prompt[:, None], led_by, seed=seed + number).cpu()
            for number, (prompt, led_by) in enumerate(tqdm(pairs, desc=doing, leave=False))
        ]
    )


def likeness(
    frames: UInt8[Tensor, "b 3 h w"], target: UInt8[Tensor, "b 3 h w"]
) -> dict[str, float]:
    """Return mean PSNR, pooled PSNR (both dB) and mean SSIM of frames."""
    errors, similarities = [], []
    for part, wanted in zip(frames.split(256), target.split(256), strict=True):
        pair = video.to_float(part), video.to_float(wanted)
        errors.append(metrics.squared_error(*pair))
        similarities.append(metrics.ssim(*pair))
    error = torch.cat(errors)
    return {
        "psnr": metrics.decibels(error).mean().item(),
        "psnr_pooled": metrics.decibels(error.mean()).item(),
        "ssim": torch.cat(similarities).mean().item(),
    }


def rollout_figures(
    generated: UInt8[Tensor, "b s 3 h w"],
    future: UInt8[Tensor, "b s 3 h w"],
    prompts: UInt8[Tensor, "b 3 h w"],
    rendered: UInt8[Tensor, "b s 3 h w"],
) -> dict[str, dict]:
    """Return, by step, how like the truth the rollout is, beside its two yardsticks.

    The floor is to copy the prompt frame, the ceiling what the tokenizer keeps of the true frame.
    """
    steps = {}
    for step, truth in enumerate(future.unbind(1), start=1):
        frames = generated[:, step - 1]
        gains = metrics.delta_psnr(*map(video.to_float, (truth, frames, prompts)))
        steps[str(step)] = {
            "generated": likeness(frames, truth),
            "copy_last_frame": likeness(prompts, truth),
            "tokenizer": likeness(rendered[:, step - 1], truth),
            "gain_over_copy": _mean_with_error(gains),
        }
    return steps


def delta_psnr_figures(
    world: World,
    generated: UInt8[Tensor, "b s 3 h w"],
    future: UInt8[Tensor, "b s 3 h w"],
    prompts: UInt8[Tensor, "b 3 h w"],
    seed: int,
) -> dict[str, dict[str, float]]:
    """Return delta-t PSNR in dB by t: inferred actions against uniformly random ones.

    Each clip's figure is its mean over `NUM_DRAWS` draws; the standard error is over clips.
    """
    num_clips, num_steps = len(prompts), min(max(DELTA_STEPS), future.shape[1])
    generator = torch.Generator().manual_seed(seed)
    size = (NUM_DRAWS * num_clips, num_steps)
    actions = torch.randint(world.num_actions, size, generator=generator)
    many_prompts = repeat(prompts, "b c h w -> (d b) c h w", d=NUM_DRAWS)
    drawn = roll(world, many_prompts, actions, seed, "random actions")
    drawn = rearrange(drawn, "(d b) s c h w -> d b s c h w", d=NUM_DRAWS)
    figures = {}
    for step in (step for step in DELTA_STEPS if step <= num_steps):
        truth, led = (video.to_float(frames[:, step - 1]) for frames in (future, generated))
        gains = [
            metrics.delta_psnr(truth, led, video.to_float(draw[:, step - 1])) for draw in drawn
        ]
        figures[str(step)] = _mean_with_error(torch.stack(gains).mean(dim=0))
    return figures


def _mean_with_error(values: Float[Tensor, " b"]) -> dict[str, float]:
    error = values.std().item() / len(values) ** 0.5 if len(values) > 1 else None
    return {"mean": values.mean().item(), "standard_error": error}


def usage_figures(actions: Int[Tensor, "b t"], num_actions: int) -> dict:
    """Return how much of the alphabet of latent actions the held-out transitions use."""
    return {
        "num_actions": num_actions,
        "num_transitions": actions.numel(),
        **metrics.code_use(actions, num_actions),
        "histogram": torch.bincount(actions.flatten(), minlength=num_actions).tolist(),
    }


def scroll_figures(world: World, prompts: UInt8[Tensor, "p 3 h w"], seed: int) -> dict:
    """Hold each latent action from each prompt and return how the view moves in all.

    `eta_squared`: share of the scroll's variance that the action explains, across and up/down.
    Shares of prompts by action: `right`, `left` by where the view ends up, `up` by its highest
    point (a jump that has landed is still a jump), `still` if none of these and not down.
    """
    films = held_films(world, prompts, HELD_STEPS, seed)
    films[:, :, 0] = reconstruct(world, prompts[:, None])  # as the player sees the prompt
    shifts = _scrolls(films)
    total = rearrange(shifts.sum(dim=2), "p a xy -> xy (p a)")
    action = repeat(torch.arange(world.num_actions), "a -> (p a)", p=len(prompts))
    across, up_down = (metrics.eta_squared(values, action) for values in total)
    return {
        "num_prompts": len(prompts),
        "num_steps": HELD_STEPS,
        "eta_squared": {"across": across, "up_down": up_down},
        "actions": [_movement(of_action) for of_action in shifts.unbind(1)],
    }


def _scrolls(films: UInt8[Tensor, "p a t 3 h w"]) -> Float[Tensor, "p a t-1 2"]:
    shifts = [
        metrics.scroll(video.to_float(film[:-1]), video.to_float(film[1:]))
        for film in films.flatten(0, 1)
    ]
    return rearrange(shifts, "(p a) s xy -> p a s xy", p=len(films)).double()


def _movement(shifts: Float[Tensor, "p s 2"]) -> dict[str, float]:
    dx, dy = shifts.sum(dim=1).unbind(1)
    highest = shifts[..., 1].cumsum(dim=1).amax(dim=1)
    right, left, up = dx >= MOVED, dx <= -MOVED, highest >= MOVED
    still = ~(right | left | up | (dy <= -MOVED))
    shares = {"right": right, "left": left, "up": up, "still": still}
    medians = {"median_dx": dx.quantile(0.5).item(), "median_dy": dy.quantile(0.5).item()}
    return medians | {name: share.double().mean().item() for name, share in shares.items()}


def latency_figures(world: World, prompt: UInt8[Tensor, "3 h w"], seed: int) -> dict:
    """Time one session's steps from action to frame, decode included, in ms."""
    session = world.start(prompt, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    num_warm_up = 5
    size = (num_warm_up + LATENCY_STEPS,)
    times = []
    for action in torch.randint(world.num_actions, size, generator=generator).tolist():
        started = time.perf_counter()
        session.step(action)
        times.append(1000 * (time.perf_counter() - started))
    p50, p95 = np.percentile(times[num_warm_up:], [50, 95]).tolist()
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "num_steps": LATENCY_STEPS,
        "num_threads": torch.get_num_threads(),
        "device": str(world.device),
    }


@dataclass(frozen=True)
class TrueActions:
    """The buttons that were pressed in each recorded video."""

    by_video: dict[str, np.ndarray]
    """Name of the video to ids; action t leads from frame t to frame t+1."""
    names: list[str]
    """Buttons of each id, joined by "+"."""

    @classmethod
    def open(cls, path: Path) -> "TrueActions":
        """Read the npz file and the recording.json beside it.

        Raises:
            UserError: if either is missing or is not what `examples/record_game.py` writes.
        """
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
        return cls(by_video, names)

    def of(self, name: str, num_frames: int) -> np.ndarray:
        """Return the ids of a video's transitions.

        Raises:
            UserError: if the recording has no such video, or one of another length.
        """
        actions = self.by_video.get(name, np.empty(0))
        if len(actions) != num_frames - 1 or actions.max(initial=0) >= len(self.names):
            raise UserError(
                f"the true actions do not fit {name} with its {num_frames} frames: "
                "give the true_actions.npz of the recording that the data was prepared from"
            )
        return actions

    def merges(self) -> dict[str, Int[Tensor, " i"]]:
        """Return labellings of the ids: all of them, and merged to what moves the view."""
        pressed = [name.split("+") for name in self.names]
        across = ["left" if "LEFT" in b else "right" if "RIGHT" in b else "none" for b in pressed]
        upward = ["up" if "UP" in b else "not" for b in pressed]
        moves = [" ".join(pair) for pair in zip(across, upward, strict=True)]
        kinds = {"all": self.names, "horizontal": across, "vertical": upward, "moves": moves}
        return {
            kind: torch.from_numpy(np.unique(labels, return_inverse=True)[1])
            for kind, labels in kinds.items()
        }


def true_action_figures(
    world: World, store: FrameStore, truth: TrueActions, horizon: int, seed: int
) -> dict[str, dict]:
    """Return NMI and balanced probe accuracy of the latent against the true actions.

    The probe is a table from latent to true action, a majority vote over one half of the videos;
    it is scored on the other half. `weighted_vote`: the same, each true action having the same
    weight in the vote as it has in the score.
    """
    latent, true, video_ids = label_transitions(world, store, truth, horizon, seed)
    order = torch.randperm(len(store.video_names), generator=torch.Generator().manual_seed(seed))
    voting = torch.isin(video_ids, order[::2])
    if voting.all() or not voting.any():
        raise UserError("the probe needs held-out clips of two videos: give more held-out videos")
    figures = {}
    for kind, merged in truth.merges().items():
        classes = merged[true]
        counts = metrics.cross_table(
            latent[voting], classes[voting], world.num_actions, len(merged)
        )
        scored = latent[~voting], classes[~voting]
        figures[kind] = {
            "num_transitions": len(latent),
            "nmi": metrics.normalized_mutual_information(latent, classes),
            "balanced_accuracy": _probe(metrics.vote(counts), *scored),
            "balanced_accuracy_weighted_vote": _probe(metrics.vote(counts, weighted=True), *scored),
            "chance": 1 / len(scored[1].unique()),
        }
    return figures


def _probe(table: Int[Tensor, " a"], latent: Int[Tensor, " n"], true: Int[Tensor, " n"]) -> float:
    return metrics.balanced_accuracy(table[latent], true)


def label_transitions(
    world: World, store: FrameStore, truth: TrueActions, horizon: int, seed: int
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Return latent action, true action and video of as many held-out transitions as practical.

    The first `HISTORY` transitions of each window only give the latent action model its history;
    the windows overlap by as much.
    """
    clips = Clips(store, HISTORY + 1 + horizon, stride=horizon)
    order = torch.randperm(len(clips), generator=torch.Generator().manual_seed(seed))
    chosen = order[:MAX_PROBE_CLIPS].tolist()
    rows = np.array([clips.row(i) for i in chosen])
    video_ids = np.searchsorted(store.video_starts, rows, side="right") - 1
    lengths = np.diff(store.video_starts).tolist()
    pressed = list(map(truth.of, store.video_names, lengths))
    firsts = rows - store.video_starts[video_ids] + HISTORY
    true = [
        pressed[video_id][first : first + horizon]
        for video_id, first in zip(video_ids, firsts, strict=True)
    ]
    batches = DataLoader(Subset(clips, chosen), batch_size=BATCH)
    latent = [
        world.latent_action.infer(video.to_float(frames.to(world.device))).cpu()[:, HISTORY:]
        for frames in tqdm(batches, desc="true actions", leave=False)
    ]
    return (
        torch.cat(latent).flatten(),
        torch.from_numpy(np.concatenate(true)).long(),
        torch.from_numpy(video_ids).repeat_interleave(horizon),
    )


@torch.no_grad()
def draw_pictures(
    world: World, store: FrameStore, folder: Path, *, horizon: int = 15, seed: int = 0
) -> None:
    """Write `actions.png`, `actions.gif` and `rollouts.png` to `folder`.

    The prompts are the first that the seed draws, not picked.

    Raises:
        UserError: if the videos are too short or a file cannot be written.
    """
    clips = draw_clips(store, NUM_DRAWN_CLIPS, horizon, seed)
    times = ["prompt", *(str(step) for step in range(1, horizon + 1))]
    films = held_films(world, clips[:NUM_DRAWN_PROMPTS, HISTORY], horizon, seed)
    starts = [f"start {number}" for number in range(1, len(films) + 1)]
    actions = [f"action {action}" for action in range(world.num_actions)]
    rows = [f"{start}\n{action}" for start in starts for action in actions]
    write(folder / "actions.png", _png(contact_sheet(films.flatten(0, 1), rows, times)))
    moments = [contact_sheet(moment, starts, actions) for moment in films.unbind(2)]
    video.write(folder / "actions.gif", moments, fps=world.fps)

    real = clips[:, HISTORY:]
    generated = roll(world, real[:, 0], infer(world, clips)[:, HISTORY:], seed, "pictures")
    pairs = torch.stack([real, torch.cat([real[:, :1], generated], dim=1)], dim=1)
    rows = [
        f"clip {clip}\n{what}" for clip in range(1, len(clips) + 1) for what in ("real", "world")
    ]
    write(folder / "rollouts.png", _png(contact_sheet(pairs.flatten(0, 1), rows, times)))


def held_films(
    world: World, prompts: UInt8[Tensor, "p 3 h w"], num_steps: int, seed: int
) -> UInt8[Tensor, "p a t 3 h w"]:
    """Return, from every prompt, the prompt and `num_steps` frames under each held action."""
    num_actions = world.num_actions
    many_prompts = repeat(prompts, "p c h w -> (p a) c h w", a=num_actions)
    held = repeat(torch.arange(num_actions), "a -> (p a) s", p=len(prompts), s=num_steps)
    frames = roll(world, many_prompts, held, seed, "held actions")
    films = torch.cat([many_prompts[:, None], frames], dim=1)
    return rearrange(films, "(p a) t c h w -> p a t c h w", a=num_actions)


def contact_sheet(
    pictures: UInt8[Tensor, "r c 3 h w"], row_names: list[str], column_names: list[str]
) -> np.ndarray:
    """Lay out pictures in named rows and columns, twice as large: uint8 (height, width, 3)."""
    margin, line, height, width = 60, 16, *(2 * (side + 2) for side in pictures.shape[-2:])
    tiles = F.pad(pictures, (1, 1, 1, 1), value=255)
    board = (
        rearrange(tiles, "r c k h w -> (r h) (c w) k").numpy().repeat(2, axis=0).repeat(2, axis=1)
    )
    sheet = Image.new("RGB", (margin + board.shape[1], line + board.shape[0]), "white")
    sheet.paste(Image.fromarray(board), (margin, line))
    pen = ImageDraw.Draw(sheet)
    for row, name in enumerate(row_names):
        pen.text((4, line + row * height + 4), name, fill="black")
    for column, name in enumerate(column_names):
        pen.text((margin + column * width + 4, 2), name, fill="black")
    return np.asarray(sheet)


def _png(sheet: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(sheet).save(content, format="png")
    return content.getvalue()


def table(figures: dict) -> str:
    """Return the figures that matter most as text of a few lines."""
    latent, latency = figures["latent_action"], figures["latency"]
    lines = [
        f"{figures['world']}: {figures['num_clips']} held-out clips of {figures['num_videos']} "
        f"videos, seed {figures['seed']}",
        *_rollout_lines(figures),
        f"latent actions: {latent['usage']:.0%} in use, perplexity {latent['perplexity']:.2f} "
        f"of {latent['num_actions']}",
        *_true_action_lines(figures["true_actions"] or {}),
        *_scroll_lines(figures["scroll"]),
        f"latency of a frame: p50 {latency['p50_ms']:.1f} ms, p95 {latency['p95_ms']:.1f} ms "
        f"({latency['device']}, {latency['num_threads']} threads)",
    ]
    return "\n".join(lines)


def _rollout_lines(figures: dict) -> Iterator[str]:
    whole = figures["tokenizer"]
    yield f"tokenizer: {whole['psnr']:.2f} dB, SSIM {whole['ssim']:.3f}"
    steps = [str(step) for step in PRINTED_STEPS if str(step) in figures["rollout"]]
    yield _row("from one prompt frame", [f"t={step}" for step in steps])
    at = [figures["rollout"][step] for step in steps]
    for name in ("generated", "copy_last_frame", "tokenizer"):
        label = f"PSNR {name.replace('_', ' ')}"
        yield _row(label, [f"{step[name]['psnr']:.2f}" for step in at])
    yield _row("  generated over copy", [f"{step['gain_over_copy']['mean']:.2f}" for step in at])
    yield _row("  the same, pooled", [f"{_pooled_gain(step):.2f}" for step in at])
    yield _row("SSIM generated", [f"{step['generated']['ssim']:.3f}" for step in at])
    deltas = [figures["delta_psnr"].get(step) for step in steps]
    yield _row("delta PSNR", [f"{delta['mean']:.2f}" if delta else "" for delta in deltas])


def _pooled_gain(step: dict) -> float:
    return step["generated"]["psnr_pooled"] - step["copy_last_frame"]["psnr_pooled"]


def _true_action_lines(figures: dict) -> Iterator[str]:
    if figures:
        yield _row("true actions", ["NMI", "probe", "weighted", "chance"])
    names = ("nmi", "balanced_accuracy", "balanced_accuracy_weighted_vote", "chance")
    for kind, agreement in figures.items():
        yield _row(f"  {kind}", [f"{agreement[name]:.3f}" for name in names])


def _scroll_lines(figures: dict) -> Iterator[str]:
    across, up_down = figures["eta_squared"]["across"], figures["eta_squared"]["up_down"]
    yield (
        f"scroll over {figures['num_steps']} frames from {figures['num_prompts']} prompts: "
        f"eta squared {across:.2f} across, {up_down:.2f} up/down"
    )
    yield _row("held action", ["dx", "dy", "right", "left", "up", "still"])
    for action, movement in enumerate(figures["actions"]):
        medians = [f"{movement[name]:.1f}" for name in ("median_dx", "median_dy")]
        shares = [f"{movement[name]:.0%}" for name in ("right", "left", "up", "still")]
        yield _row(f"  {action}", medians + shares)


def _row(name: str, cells: list[str]) -> str:
    return f"{name:<24}" + "".join(f"{cell:>9}" for cell in cells)


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written or made, before any work is done for it.

    Raises:
        UserError: if so.
    """
    place = folder.absolute()
    existing = next(place for place in (place, *place.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"nothing can be written to {folder}: choose another folder by --out")


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; its folder is made if need be.

    Raises:
        UserError: if the place cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(EvaluateConfig))
