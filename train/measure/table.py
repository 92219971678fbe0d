"""The main figures of an evaluation, as a few lines of text.

In: figures by game. Out: lines to print, and the main figures by name, by which worlds are
compared. Measures nothing.
"""

from collections.abc import Callable, Iterator, Mapping

from train.measure.evaluation import Figures
from train.measure.figures import HeldActions, RolloutStep
from train.measure.long_rollouts import ByPrior, LongFigures, LongStep, NeverSeen
from train.measure.true_actions import Agreement

PRINTED_STEPS = (1, 4, 8, 15)
YARDSTICKS = ("generated", "copy_last_frame", "tokenizer")

Read = Callable[[Figures], float | None]


def _rollout(step: int, read: Callable[[RolloutStep], float]) -> Read:
    return lambda of: read(of.rollout[step]) if step in of.rollout else None


def _long(step: int, read: Callable[[LongStep], float]) -> Read:
    return lambda of: read(of.long.steps[step]) if of.long and step in of.long.steps else None


LOOKS = ("sharpness", "contrast", "motion")


def _never_seen(read: Callable[[NeverSeen], float | None]) -> Read:
    return lambda of: read(of.long.never_seen) if of.long and of.long.never_seen else None


def _moves(read: Callable[[Agreement], float]) -> Read:
    return lambda of: read(of.true_actions["moves"]) if of.true_actions else None


MAIN_FIGURES: dict[str, Read] = {
    "tokenizer, dB": lambda of: of.tokenizer.psnr,
    "rollout t=1..10, dB": lambda of: of.first_frames.generated,
    "copying t=1..10, dB": lambda of: of.first_frames.copy_last_frame,
    **{
        f"rollout t={step}, dB": _rollout(step, lambda at: at.generated.psnr)
        for step in PRINTED_STEPS
    },
    "over copy t=4, dB": _rollout(4, lambda at: at.gain_over_copy.mean),
    "over copy t=15, dB": _rollout(15, lambda at: at.gain_over_copy.mean),
    "delta PSNR t=4, dB": lambda of: of.delta_psnr[4].mean if 4 in of.delta_psnr else None,
    "perplexity": lambda of: of.latent_action.perplexity,
    "AMI of moves": _moves(lambda moves: moves.ami),
    "probe of moves": _moves(lambda moves: moves.balanced_accuracy),
    "eta squared across": lambda of: of.held_actions.eta_squared.across,
    "actions agree": lambda of: of.held_actions.agreement,
    "eta squared up/down": lambda of: of.held_actions.eta_squared.up_down,
    "sharpness t=10": _long(10, lambda at: at.sharpness),
    "sharpness t=1000": _long(1000, lambda at: at.sharpness),
    "never seen, real, %": _never_seen(lambda shares: shares.real),
    "never seen t=50, %": _never_seen(lambda shares: shares.steps.get(50)),
    "never seen t=1000, %": _never_seen(lambda shares: shares.steps.get(1000)),
    "LPIPS t=4": lambda of: at.generated if (at := (of.networks.lpips or {}).get(4)) else None,
    "FID": lambda of: of.networks.fid,
    "FVD": lambda of: of.networks.fvd,
    "passes a frame": lambda of: of.latency.passes,
    "latency p50, ms": lambda of: of.latency.p50_ms,
}


def main_figures(games: Mapping[str, Figures]) -> dict[str, float]:
    """The main figures by name, each averaged over the games that have it."""
    means = {}
    for name, read in MAIN_FIGURES.items():
        values = [value for figures in games.values() if (value := read(figures)) is not None]
        if values:
            means[name] = sum(values) / len(values)
    return means


def table(world: str, games: Mapping[str, Figures]) -> str:
    """Figures as text: one game in full, or the main figures of several games, a column each."""
    if len(games) == 1:
        return game_table(world, *games.values())
    columns = {name: main_figures({name: figures}) for name, figures in games.items()}
    columns["mean"] = main_figures(games)
    widths = [max(9, len(name) + 2) for name in columns]
    clips = sorted({str(figures.clips.num_clips) for figures in games.values()})
    lines = [
        f"{world}: {' or '.join(clips)} held-out clips of each game",
        f"{'':<24}" + "".join(f"{n:>{w}}" for n, w in zip(columns, widths, strict=True)),
    ]
    for name in columns["mean"]:
        cells = [f"{column[name]:.2f}" if name in column else "" for column in columns.values()]
        lines.append(
            f"{name:<24}" + "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))
        )
    return "\n".join(lines)


def game_table(world: str, figures: Figures) -> str:
    """The figures of one game as text."""
    actions, latency = figures.latent_action, figures.latency
    lines = [
        f"{world}: {figures.clips.num_clips} held-out clips of {figures.num_videos} videos, "
        f"seed {figures.clips.seed}",
        *_rollout_lines(figures),
        f"latent actions: {actions.usage:.0%} in use, perplexity {actions.perplexity:.2f} "
        f"of {actions.num_actions}",
        "eta squared of the true motion from frame to frame: "
        f"{actions.eta_squared.across:.2f} across, {actions.eta_squared.up_down:.2f} up/down",
        *_true_action_lines(figures.true_actions or {}),
        *_held_action_lines(figures.held_actions),
        *(_long_lines(figures.long) if figures.long else ()),
        f"latency of a frame: p50 {latency.p50_ms:.1f} ms, p95 {latency.p95_ms:.1f} ms, "
        f"{latency.passes:.1f} passes ({latency.computed_by})",
    ]
    return "\n".join(lines)


def _rollout_lines(figures: Figures) -> Iterator[str]:
    networks = figures.networks
    yield f"tokenizer: {figures.tokenizer.psnr:.2f} dB, SSIM {figures.tokenizer.ssim:.3f}"
    steps = [step for step in PRINTED_STEPS if step in figures.rollout]
    yield _row("from one prompt frame", [f"t={step}" for step in steps])
    at = [figures.rollout[step] for step in steps]
    for name in YARDSTICKS:
        yield _row(f"PSNR {_spaced(name)}", [f"{getattr(step, name).psnr:.2f}" for step in at])
    first = figures.first_frames
    yield (
        f"mean of the first {first.num_frames}: generated {first.generated:.2f}, "
        f"copy {first.copy_last_frame:.2f}, tokenizer {first.tokenizer:.2f}"
    )
    yield _row("  generated over copy", [f"{step.gain_over_copy.mean:.2f}" for step in at])
    yield _row("  the same, pooled", [f"{_pooled_gain(step):.2f}" for step in at])
    yield _row("SSIM generated", [f"{step.generated.ssim:.3f}" for step in at])
    if networks.lpips:
        lpips = [networks.lpips[step] for step in steps]
        yield _row("LPIPS generated", [f"{at.generated:.3f}" for at in lpips])
        yield _row("LPIPS copy last frame", [f"{at.copy_last_frame:.3f}" for at in lpips])
    for name, distance in (("FID", networks.fid), ("FVD", networks.fvd)):
        if distance is not None:
            yield f"{name}: {distance:.1f}"
    deltas = [figures.delta_psnr.get(step) for step in steps]
    yield _row("delta PSNR", [f"{delta.mean:.2f}" if delta else "" for delta in deltas])
    reach = [delta and (delta.interval[1] - delta.interval[0]) / 2 for delta in deltas]
    yield _row("  give or take (95 %)", ["" if x is None else f"{x:.2f}" for x in reach])


def _pooled_gain(step: RolloutStep) -> float:
    return step.generated.psnr_pooled - step.copy_last_frame.psnr_pooled


def _true_action_lines(agreements: Mapping[str, Agreement]) -> Iterator[str]:
    if agreements:
        yield _row("true actions", ["NMI", "AMI", "probe", "weighted", "chance"])
    for kind, of in agreements.items():
        probes = (of.balanced_accuracy, of.balanced_accuracy_weighted_vote, of.chance)
        yield _row(f"  {kind}", [f"{figure:.3f}" for figure in (of.nmi, of.ami, *probes)])


def _held_action_lines(held: HeldActions) -> Iterator[str]:
    yield (
        f"scroll over {held.num_steps} frames from {held.num_prompts} prompts: "
        f"eta squared {held.eta_squared.across:.2f} across, {held.eta_squared.up_down:.2f} up/down"
    )
    yield _row("held action", ["agrees", "dx", "dy", "right", "left", "up", "still"])
    for action, effect in enumerate(held.actions):
        medians = [f"{median:.1f}" for median in (effect.median_dx, effect.median_dy)]
        shares = (effect.right, effect.left, effect.up, effect.still)
        cells = [f"{effect.agreement:.0%}", *medians, *(f"{share:.0%}" for share in shares)]
        yield _row(f"  {action} {effect.name}", cells)


def _long_lines(long: LongFigures) -> Iterator[str]:
    shown = [long.real, long.tokenizer, *long.steps.values()]
    yield _row("running on by itself", ["real", "tokens", *(f"t={step}" for step in long.steps)])
    if long.never_seen:
        shares = (long.never_seen.real, long.never_seen.tokenizer, *long.never_seen.steps.values())
        low, high = long.never_seen.real_range
        yield _row("  patches never seen", [f"{share:.1f}%" for share in shares])
        yield f"    (real films: {low:.1f} to {high:.1f} %)"
    for name in LOOKS:
        yield _row(f"  {name}", [f"{getattr(at, name):.2f}" for at in shown])
    yield _row("  colour off by", [f"{at.colour:.1f}" for at in shown])
    for name in YARDSTICKS:
        found = [getattr(at, name) for at in long.steps.values()]
        cells = [f"{likeness.psnr:.2f}" if likeness else "" for likeness in found]
        yield _row(f"  PSNR {_spaced(name)}", ["", "", *cells])
    yield _row("  true videos so long", ["", "", *(str(at.num_true) for at in long.steps.values())])
    if long.by_prior:
        yield from _by_prior_lines(long.by_prior)


def _by_prior_lines(of: ByPrior) -> Iterator[str]:
    yield _row("led by its prior", ["", "", *(f"t={step}" for step in of.steps)])
    if of.never_seen:
        shares = (f"{share:.1f}%" for share in of.never_seen.values())
        yield _row("  patches never seen", ["", "", *shares])
    for name in LOOKS:
        cells = (f"{getattr(at, name):.2f}" for at in of.steps.values())
        yield _row(f"  {name}", ["", "", *cells])


def comparison(
    world: str, figures: Mapping[str, float], other: str, others: Mapping[str, float]
) -> Iterator[str]:
    """Yield lines that compare the main figures that both worlds have.

    The caller must ensure that both were measured on the same clips.
    """
    yield _row("", [world[-9:], other[-9:], "gain"])
    for name in (name for name in figures if name in others):
        pair = figures[name], others[name]
        yield _row(name, [*(f"{x:.2f}" for x in pair), f"{pair[0] - pair[1]:+.2f}"])


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _row(name: str, cells: list[str]) -> str:
    return f"{name:<24}" + "".join(f"{cell:>9}" for cell in cells)
