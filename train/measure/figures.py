"""Figures of rollouts, latent actions, scroll and latency, as dicts ready for JSON.

In: a world, its rollouts and the true frames. Out: PSNR in dB, scrolls in pixels, times in ms.
Source: Genie (Bruce et al. 2024, arXiv:2402.15391), section 4, for delta-t PSNR.
Does not judge, and does not know the true actions.
"""

import time
from dataclasses import asdict

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from genie.frames import to_float, to_pictures
from genie.metrics import code_use, decibels, squared_error
from genie.playable import Playable
from genie.world import World
from train.measure import metrics
from train.measure.effects import HELD_STEPS, effects, hold_actions, scrolls
from train.measure.rollouts import reconstruct, roll

DELTA_STEPS = range(1, 11)
FIRST_FRAMES = 10
NUM_DRAWS = 3  # of random actions
LATENCY_STEPS = 60
CONFIDENCE = 1.96  # standard errors on either side of a mean, for 95 %


def likeness(
    frames: UInt8[Tensor, "b 3 h w"], target: UInt8[Tensor, "b 3 h w"]
) -> dict[str, float]:
    """Return mean PSNR, pooled PSNR (both dB) and mean SSIM of frames."""
    errors, similarities = [], []
    for part, wanted in zip(frames.split(256), target.split(256), strict=True):
        pair = to_float(part), to_float(wanted)
        errors.append(squared_error(*pair))
        similarities.append(metrics.ssim(*pair))
    error = torch.cat(errors)
    return {
        "psnr": decibels(error).mean().item(),
        "psnr_pooled": decibels(error.mean()).item(),
        "ssim": torch.cat(similarities).mean().item(),
    }


def rollout_figures(
    generated: UInt8[Tensor, "b s 3 h w"],
    future: UInt8[Tensor, "b s 3 h w"],
    prompts: UInt8[Tensor, "b 3 h w"],
    rendered: UInt8[Tensor, "b s 3 h w"],
    videos: Int[np.ndarray, " b"],
) -> dict[str, dict]:
    """Return, by step, how like the truth the rollout is, beside its two yardsticks.

    The floor is to copy the prompt frame, the ceiling what the tokenizer keeps of the true frame.

    Args:
        videos: the number of the video that each clip is from.
    """
    steps = {}
    for step, truth in enumerate(future.unbind(1), start=1):
        frames = generated[:, step - 1]
        gains = metrics.delta_psnr(*map(to_float, (truth, frames, prompts)))
        steps[str(step)] = {
            "generated": likeness(frames, truth),
            "copy_last_frame": likeness(prompts, truth),
            "tokenizer": likeness(rendered[:, step - 1], truth),
            "gain_over_copy": _mean_with_error(gains, videos),
        }
    return steps


def first_frames(steps: dict[str, dict]) -> dict[str, float]:
    """Mean PSNR in dB over the first frames, as others state their rollouts."""
    chosen = [step for step in steps if int(step) <= FIRST_FRAMES]
    names = ("generated", "copy_last_frame", "tokenizer")
    means = {name: sum(steps[s][name]["psnr"] for s in chosen) / len(chosen) for name in names}
    return {"num_frames": len(chosen), **means}


def delta_psnr_figures(
    world: World,
    generated: UInt8[Tensor, "b s 3 h w"],
    future: UInt8[Tensor, "b s 3 h w"],
    prompts: UInt8[Tensor, "b 3 h w"],
    videos: Int[np.ndarray, " b"],
    seed: int,
) -> dict[str, dict[str, float]]:
    """Return delta-t PSNR in dB by t: inferred actions against uniformly random ones.

    Each clip's figure is its mean over `NUM_DRAWS` draws; error and interval are over `videos`,
    the number of the video that each clip is from.
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
        truth, led = (to_float(frames[:, step - 1]) for frames in (future, generated))
        gains = [metrics.delta_psnr(truth, led, to_float(draw[:, step - 1])) for draw in drawn]
        figures[str(step)] = _mean_with_error(torch.stack(gains).mean(dim=0), videos)
    return figures


def _mean_with_error(values: Float[Tensor, " b"], videos: np.ndarray) -> dict[str, float]:
    """The mean over clips, its standard error and an interval of 95 %.

    Clips of one video are alike, or even overlap, so that only videos count as independent
    (Liang & Zeger 1986, Longitudinal data analysis using generalized linear models). With few
    videos the interval is too narrow; of one there is none.
    """
    mean = values.mean().item()
    off = np.bincount(videos, weights=(values - mean).double().numpy())
    count = len(np.unique(videos))
    error = (count / (count - 1) * (off**2).sum()) ** 0.5 / len(values) if count > 1 else None
    reach = CONFIDENCE * (error or 0)
    return {"mean": mean, "standard_error": error, "interval": [mean - reach, mean + reach]}


def latent_action_figures(
    clips: UInt8[Tensor, "b t 3 h w"], actions: Int[Tensor, "b t-1"], num_actions: int
) -> dict:
    """Return how much of the alphabet true transitions use, and what their actions tell of them.

    `eta_squared`: share of the variance of the view's true motion from frame to frame that the
    inferred action explains. It needs no dynamics, so that latent action models can be compared
    before one is trained on them.
    """
    motion = rearrange(scrolls(clips[:, None]).double(), "b 1 s xy -> xy (b s)")
    across, up_down = (metrics.eta_squared(values, actions.flatten()) for values in motion)
    return {
        "eta_squared": {"across": across, "up_down": up_down},
        "num_actions": num_actions,
        "num_transitions": actions.numel(),
        **{name: use.item() for name, use in code_use(actions, num_actions).items()},
        "histogram": torch.bincount(actions.flatten(), minlength=num_actions).tolist(),
    }


def scroll_figures(world: World, prompts: UInt8[Tensor, "p 3 h w"], seed: int) -> dict:
    """Hold each latent action from each prompt and return how the view moves in all.

    `eta_squared`: share of the scroll's variance that the action explains, across and up/down.
    `actions`: see `effects.Effect`; `agreement` is the mean of theirs: how far an action does the
    same from prompt to prompt.
    """
    films = hold_actions(world, prompts, HELD_STEPS, seed)
    films[:, :, 0] = reconstruct(world, prompts[:, None])  # as the player sees the prompt
    shifts = scrolls(films)
    total = rearrange(shifts.sum(dim=2).double(), "p a xy -> xy (p a)")
    action = repeat(torch.arange(world.num_actions), "a -> (p a)", p=len(prompts))
    across, up_down = (metrics.eta_squared(values, action) for values in total)
    measured = effects(shifts)
    return {
        "num_prompts": len(prompts),
        "num_steps": HELD_STEPS,
        "eta_squared": {"across": across, "up_down": up_down},
        "agreement": sum(effect.agreement for effect in measured) / len(measured),
        "actions": [asdict(effect) for effect in measured],
    }


def latency_figures(world: Playable, prompt: UInt8[Tensor, "3 h w"], seed: int) -> dict:
    """Time one session's steps from action to frame, decode included, in ms, and count passes."""
    session = world.start(to_pictures(prompt)[None], seed=seed)
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
        "mean_ms": sum(times[num_warm_up:]) / LATENCY_STEPS,
        "passes": session.num_passes / session.num_steps,
        "num_steps": LATENCY_STEPS,
        "computed_by": world.what_computes,
    }
