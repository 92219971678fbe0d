"""The figures that matter most, as text of a few lines.

In: the dict that `train.evaluate` writes to metrics.json. Out: lines to print.
Knows no world: what it prints is in the dict.
"""

from collections.abc import Iterator, Sequence

PRINTED_STEPS = (1, 4, 8, 15)
MAIN_FIGURES = {
    "tokenizer, dB": ("tokenizer", "psnr"),
    "rollout t=1..10, dB": ("first_frames", "generated"),
    "copying t=1..10, dB": ("first_frames", "copy_last_frame"),
    **{
        f"rollout t={step}, dB": ("rollout", str(step), "generated", "psnr")
        for step in PRINTED_STEPS
    },
    **{
        f"over copy t={step}, dB": ("rollout", str(step), "gain_over_copy", "mean")
        for step in (4, 15)
    },
    "delta PSNR t=4, dB": ("delta_psnr", "4", "mean"),
    "perplexity": ("latent_action", "perplexity"),
    "AMI of moves": ("true_actions", "moves", "ami"),
    "probe of moves": ("true_actions", "moves", "balanced_accuracy"),
    "eta squared across": ("scroll", "eta_squared", "across"),
    "actions agree": ("scroll", "agreement"),
    "eta squared up/down": ("scroll", "eta_squared", "up_down"),
    "sharpness t=10": ("long", "10", "sharpness"),
    "sharpness t=1000": ("long", "1000", "sharpness"),
    "never seen, real, %": ("long", "real", "never_seen"),
    "never seen t=50, %": ("long", "50", "never_seen"),
    "never seen t=1000, %": ("long", "1000", "never_seen"),
    "LPIPS t=4": ("lpips", "4", "generated"),
    "FID": ("fid",),
    "FVD": ("fvd",),
    "passes a frame": ("latency", "passes"),
    "latency p50, ms": ("latency", "p50_ms"),
}


def by_game(figures: dict) -> dict[str, dict]:
    """The figures of each game; those of the game "" where there is one without a name."""
    return figures.get("games") or {"": figures}


def main_figures(figures: dict) -> dict[str, float]:
    """The figures that matter most by name, each the mean over the games that have it."""
    games, means = by_game(figures).values(), {}
    for name, path in MAIN_FIGURES.items():
        values = [value for game in games if (value := _at(game, path)) is not None]
        if values:
            means[name] = sum(values) / len(values)
    return means


def table(figures: dict) -> str:
    """Return the figures that matter most as text: of several games, in a column each."""
    return game_table(figures) if "games" not in figures else _games_table(figures)


def _games_table(figures: dict) -> str:
    games = by_game(figures)
    columns = {name: main_figures(game) for name, game in games.items()}
    columns["mean"] = main_figures(figures)
    widths = [max(9, len(name) + 2) for name in columns]
    clips = {game["num_clips"] for game in games.values()}
    lines = [
        f"{figures['world']}: {' or '.join(map(str, sorted(clips)))} held-out clips of each game",
        f"{'':<24}" + "".join(f"{n:>{w}}" for n, w in zip(columns, widths, strict=True)),
    ]
    for name in columns["mean"]:
        cells = [f"{column[name]:.2f}" if name in column else "" for column in columns.values()]
        lines.append(
            f"{name:<24}" + "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))
        )
    return "\n".join(lines)


def game_table(figures: dict) -> str:
    """The same of one game, with more of them."""
    latent, latency = figures["latent_action"], figures["latency"]
    told = latent["eta_squared"]
    lines = [
        f"{figures['world']}: {figures['num_clips']} held-out clips of {figures['num_videos']} "
        f"videos, seed {figures['seed']}",
        *_rollout_lines(figures),
        f"latent actions: {latent['usage']:.0%} in use, perplexity {latent['perplexity']:.2f} "
        f"of {latent['num_actions']}",
        f"true motion from frame to frame that they tell: eta squared {told['across']:.2f} across, "
        f"{told['up_down']:.2f} up/down",
        *_true_action_lines(figures["true_actions"] or {}),
        *_scroll_lines(figures["scroll"]),
        *_long_lines(figures["long"]),
        f"latency of a frame: p50 {latency['p50_ms']:.1f} ms, p95 {latency['p95_ms']:.1f} ms, "
        f"{latency['passes']:.1f} passes ({latency['computed_by']})",
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
    first = figures["first_frames"]
    yield (
        f"mean of the first {first['num_frames']}: generated {first['generated']:.2f}, "
        f"copy {first['copy_last_frame']:.2f}, tokenizer {first['tokenizer']:.2f}"
    )
    yield _row("  generated over copy", [f"{step['gain_over_copy']['mean']:.2f}" for step in at])
    yield _row("  the same, pooled", [f"{_pooled_gain(step):.2f}" for step in at])
    yield _row("SSIM generated", [f"{step['generated']['ssim']:.3f}" for step in at])
    if "lpips" in figures:
        for name in ("generated", "copy_last_frame"):
            cells = [f"{figures['lpips'][step][name]:.3f}" for step in steps]
            yield _row(f"LPIPS {name.replace('_', ' ')}", cells)
    yield from (
        f"{name.upper()}: {figures[name]:.1f}" for name in ("fid", "fvd") if name in figures
    )
    deltas = [figures["delta_psnr"].get(step) for step in steps]
    yield _row("delta PSNR", [f"{delta['mean']:.2f}" if delta else "" for delta in deltas])
    reach = [delta and (delta["interval"][1] - delta["interval"][0]) / 2 for delta in deltas]
    yield _row("  give or take (95 %)", ["" if x is None else f"{x:.2f}" for x in reach])


def _pooled_gain(step: dict) -> float:
    return step["generated"]["psnr_pooled"] - step["copy_last_frame"]["psnr_pooled"]


def _true_action_lines(figures: dict) -> Iterator[str]:
    if figures:
        yield _row("true actions", ["NMI", "AMI", "probe", "weighted", "chance"])
    names = ("nmi", "ami", "balanced_accuracy", "balanced_accuracy_weighted_vote", "chance")
    for kind, agreement in figures.items():
        yield _row(f"  {kind}", [f"{agreement[name]:.3f}" for name in names])


def _scroll_lines(figures: dict) -> Iterator[str]:
    across, up_down = figures["eta_squared"]["across"], figures["eta_squared"]["up_down"]
    yield (
        f"scroll over {figures['num_steps']} frames from {figures['num_prompts']} prompts: "
        f"eta squared {across:.2f} across, {up_down:.2f} up/down"
    )
    yield _row("held action", ["agrees", "dx", "dy", "right", "left", "up", "still"])
    for action, movement in enumerate(figures["actions"]):
        medians = [f"{movement[name]:.1f}" for name in ("median_dx", "median_dy")]
        shares = [f"{movement[name]:.0%}" for name in ("right", "left", "up", "still")]
        agrees = f"{movement['agreement']:.0%}"
        yield _row(f"  {action} {movement['name']}", [agrees, *medians, *shares])


def _long_lines(figures: dict) -> Iterator[str]:
    steps = [step for step in figures if step.isdigit()]
    if not steps:
        return
    shown = [figures[name] for name in ("real", "tokenizer", *steps)]
    yield _row("running on by itself", ["real", "tokens", *(f"t={step}" for step in steps)])
    if "never_seen" in shown[0]:
        yield _row("  patches never seen", [f"{at['never_seen']:.1f}%" for at in shown])
        low, high = figures["real"]["never_seen_range"]
        yield f"    (real films: {low:.1f} to {high:.1f} %)"
    for name in ("sharpness", "contrast", "motion"):
        yield _row(f"  {name}", [f"{at[name]:.2f}" for at in shown])
    yield _row("  colour off by", [f"{at['colour']:.1f}" for at in shown])
    for name in ("generated", "copy_last_frame", "tokenizer"):
        psnr = [f"{figures[s][name]['psnr']:.2f}" if name in figures[s] else "" for s in steps]
        yield _row(f"  PSNR {name.replace('_', ' ')}", ["", "", *psnr])
    true = (str(figures[step]["num_true"]) for step in steps)
    yield _row("  true videos so long", ["", "", *true])


def compare(figures: dict, other: dict) -> Iterator[str]:
    """Yield the main figures of two worlds beside each other, as lines of text, means over games.

    Only where both have one; whoever compares sees to it that the clips are the same.
    """
    yield _row("", [figures["world"][-9:], other["world"][-9:], "gain"])
    ours, theirs = main_figures(figures), main_figures(other)
    for name in (name for name in ours if name in theirs):
        pair = ours[name], theirs[name]
        yield _row(name, [*(f"{x:.2f}" for x in pair), f"{pair[0] - pair[1]:+.2f}"])


def _at(figures: dict | None, path: Sequence[str]) -> float | None:
    for key in path:
        figures = (figures or {}).get(key)
    return figures


def _row(name: str, cells: list[str]) -> str:
    return f"{name:<24}" + "".join(f"{cell:>9}" for cell in cells)
