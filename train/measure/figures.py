"""Figures of rollouts, latent actions, held actions and latency.

In: a world, its rollouts and the true frames. Out: dataclasses of numbers: PSNR in dB, scrolls in
pixels, times in ms.
Source: Genie (Bruce et al. 2024, arXiv:2402.15391), section 4, for delta-t PSNR.
Does not judge, and does not know the true actions.
"""

import time
from dataclasses import dataclass

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
from train.measure.effects import HELD_STEPS, Effect, effects, hold_actions, scrolls
from train.measure.rollouts import reconstruct, roll

DELTA_STEPS = range(1, 11)
FIRST_FRAMES = 10
NUM_DRAWS = 3  # draws of random actions for each clip
LATENCY_STEPS = 60
CONFIDENCE = 1.96  # half the width of a 95 % interval, in standard errors


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How close frames are to the true ones."""

    psnr: float
    """dB: the mean over frames of each frame's PSNR, where an identical frame counts 60 dB."""
    psnr_pooled: float
    """dB: the PSNR of the mean squared error over all frames."""
    ssim: float
    """Mean over frames, -1..1."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over clips and its uncertainty."""

    mean: float
    standard_error: float | None
    """None if all clips are of one video."""
    interval: tuple[float, float]
    """95 % confidence interval of the mean."""


@dataclass(frozen=True, kw_only=True)
class RolloutStep:
    """Rollouts a given number of frames after the prompt, with a floor and a ceiling for them."""

    generated: Likeness
    copy_last_frame: Likeness
    """The floor: the prompt frame, unchanged."""
    tokenizer: Likeness
    """The ceiling: the true frame, encoded and decoded."""
    gain_over_copy: Estimate
    """dB."""


@dataclass(frozen=True, kw_only=True)
class FirstFrames:
    """Mean PSNR in dB over the first frames, as others report their rollouts."""

    num_frames: int
    generated: float
    copy_last_frame: float
    tokenizer: float


@dataclass(frozen=True, kw_only=True)
class EtaSquared:
    """Share of the variance of the view's motion that the latent action explains, 0..1."""

    across: float
    up_down: float


@dataclass(frozen=True, kw_only=True)
class ActionUse:
    """Which actions the latent action model infers from true transitions."""

    eta_squared: EtaSquared
    """Of the true motion from frame to frame. Latent action models can be compared by it before any
    dynamics is trained."""
    num_actions: int
    num_transitions: int
    usage: float
    """Share of the actions that occur."""
    perplexity: float
    """Effective number of actions in use; `num_actions` if all are equally frequent."""
    histogram: list[int]
    """Number of transitions with each action."""


@dataclass(frozen=True, kw_only=True)
class HeldActions:
    """How far the view moves in total while each latent action is held."""

    num_prompts: int
    num_steps: int
    eta_squared: EtaSquared
    """Of the total motion."""
    agreement: float
    """Mean of `Effect.agreement` over the actions: how consistently an action has the same effect
    from prompt to prompt."""
    actions: list[Effect]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Time of one session's steps from action to picture, in ms."""

    p50_ms: float
    p95_ms: float
    mean_ms: float
    passes: float
    """MaskGIT passes per frame, on average."""
    num_steps: int
    computed_by: str
    """Device and engine."""


def likeness(frames: UInt8[Tensor, "b 3 h w"], target: UInt8[Tensor, "b 3 h w"]) -> Likeness:
    """Compare frames with the true ones."""
    errors, similarities = [], []
    for part, wanted in zip(frames.split(256), target.split(256), strict=True):
        pair = to_float(part), to_float(wanted)
        errors.append(squared_error(*pair))
        similarities.append(metrics.ssim(*pair))
    error = torch.cat(errors)
    return Likeness(
        psnr=decibels(error).mean().item(),
        psnr_pooled=decibels(error.mean()).item(),
        ssim=torch.cat(similarities).mean().item(),
    )


def rollout_figures(
    generated: UInt8[Tensor, "b s 3 h w"],
    future: UInt8[Tensor, "b s 3 h w"],
    prompts: UInt8[Tensor, "b 3 h w"],
    rendered: UInt8[Tensor, "b s 3 h w"],
    videos: Int[np.ndarray, " b"],
) -> dict[int, RolloutStep]:
    """Compare rollouts with the truth, by the number of frames since the prompt.

    Args:
        rendered: the true frames, encoded and decoded by the tokenizer.
        videos: the number of the video that each clip is from.
    """
    steps = {}
    for step, truth in enumerate(future.unbind(1), start=1):
        frames = generated[:, step - 1]
        gains = metrics.delta_psnr(*map(to_float, (truth, frames, prompts)))
        steps[step] = RolloutStep(
            generated=likeness(frames, truth),
            copy_last_frame=likeness(prompts, truth),
            tokenizer=likeness(rendered[:, step - 1], truth),
            gain_over_copy=estimate(gains, videos),
        )
    return steps


def first_frames(steps: dict[int, RolloutStep]) -> FirstFrames:
    """Average over the first `FIRST_FRAMES` frames of rollouts, or all if they are shorter."""
    chosen = [at for step, at in steps.items() if step <= FIRST_FRAMES]
    return FirstFrames(
        num_frames=len(chosen),
        generated=sum(at.generated.psnr for at in chosen) / len(chosen),
        copy_last_frame=sum(at.copy_last_frame.psnr for at in chosen) / len(chosen),
        tokenizer=sum(at.tokenizer.psnr for at in chosen) / len(chosen),
    )


def delta_psnr_figures(
    world: World,
    generated: UInt8[Tensor, "b s 3 h w"],
    future: UInt8[Tensor, "b s 3 h w"],
    prompts: UInt8[Tensor, "b 3 h w"],
    videos: Int[np.ndarray, " b"],
    seed: int,
) -> dict[int, Estimate]:
    """Return delta-t PSNR in dB by t: inferred actions against uniformly random ones.

    Each clip's figure is its mean over `NUM_DRAWS` draws.

    Args:
        videos: the number of the video that each clip is from.
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
        truth, inferred = (to_float(frames[:, step - 1]) for frames in (future, generated))
        gains = [metrics.delta_psnr(truth, inferred, to_float(draw[:, step - 1])) for draw in drawn]
        figures[step] = estimate(torch.stack(gains).mean(dim=0), videos)
    return figures


def estimate(values: Float[Tensor, " b"], videos: Int[np.ndarray, " b"]) -> Estimate:
    """Average over clips.

    Clips of one video resemble one another or even overlap, so that only videos count as
    independent (Liang & Zeger 1986, Longitudinal data analysis using generalized linear models).
    With few videos the interval is too narrow; with one video it has no width.
    """
    mean = values.mean().item()
    residuals = np.bincount(videos, weights=(values - mean).double().numpy())
    count = len(np.unique(videos))
    error = (count / (count - 1) * (residuals**2).sum()) ** 0.5 / len(values) if count > 1 else None
    margin = CONFIDENCE * (error or 0)
    return Estimate(mean=mean, standard_error=error, interval=(mean - margin, mean + margin))


def latent_action_figures(
    clips: UInt8[Tensor, "b t 3 h w"], actions: Int[Tensor, "b t-1"], num_actions: int
) -> ActionUse:
    """Return how many of the actions occur, and how much they say about the view's motion."""
    motion = rearrange(scrolls(clips[:, None]).double(), "b 1 s xy -> xy (b s)")
    return ActionUse(
        eta_squared=_eta_squared(motion, actions.flatten()),
        num_actions=num_actions,
        num_transitions=actions.numel(),
        **{name: use.item() for name, use in code_use(actions, num_actions).items()},
        histogram=torch.bincount(actions.flatten(), minlength=num_actions).tolist(),
    )


def held_action_figures(world: World, prompts: UInt8[Tensor, "p 3 h w"], seed: int) -> HeldActions:
    """Hold each latent action from each prompt and return how the view moves."""
    clips = hold_actions(world, prompts, HELD_STEPS, seed)
    clips[:, :, 0] = reconstruct(world, prompts[:, None])  # as the player sees the prompt
    shifts = scrolls(clips)
    total = rearrange(shifts.sum(dim=2).double(), "p a xy -> xy (p a)")
    action = repeat(torch.arange(world.num_actions), "a -> (p a)", p=len(prompts))
    measured = effects(shifts)
    return HeldActions(
        num_prompts=len(prompts),
        num_steps=HELD_STEPS,
        eta_squared=_eta_squared(total, action),
        agreement=sum(effect.agreement for effect in measured) / len(measured),
        actions=measured,
    )


def _eta_squared(motion: Float[Tensor, "2 n"], actions: Int[Tensor, " n"]) -> EtaSquared:
    across, up_down = (metrics.eta_squared(values, actions) for values in motion)
    return EtaSquared(across=across, up_down=up_down)


def latency_figures(world: Playable, prompt: UInt8[Tensor, "3 h w"], seed: int) -> Latency:
    """Time one session's steps from action to picture, decoding included, and count its passes."""
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
    return Latency(
        p50_ms=p50,
        p95_ms=p95,
        mean_ms=sum(times[num_warm_up:]) / LATENCY_STEPS,
        passes=session.num_passes / session.num_steps,
        num_steps=LATENCY_STEPS,
        computed_by=world.what_computes,
    )
