"""One page with the results of an evaluation: figures, curves and pictures in a single file.

In: the figures by game, and the folder of the pictures. Out: HTML that needs no other file.
Measures nothing.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from train.measure.evaluation import Figures
from train.measure.table import YARDSTICKS, game_table, table

PICTURES = {
    "actions.gif": "Every action held, from three prompts",
    "rollouts.png": "Held-out clips and what the world makes of their first frame",
    "best.png": "The clips on which it gains most over copying",
    "worst.png": "The clips on which it gains least",
    "actions.png": "Every action held, frame by frame",
    "long.png": "Running on by itself",
}
WIDTH, HEIGHT, MARGIN = 460, 240, 42
COLOURS = ("#0b6e99", "#d9730d", "#448361", "#9065b0")

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Chart:
    """Curves over the number of frames since the prompt."""

    title: str
    curves: Mapping[str, Points]

    def svg(self) -> str:
        """Draw the curves with their axes and names."""
        xs = sorted({x for points in self.curves.values() for x, _ in points})
        ys = [y for points in self.curves.values() for _, y in points]
        low, high = min(*ys, 0.0), max(*ys, 0.0) or 1.0
        # Steps are spaced evenly: on a linear axis up to 1,000, the smaller ones would coincide.
        place = {
            x: MARGIN + (WIDTH - 2 * MARGIN) * n / max(1, len(xs) - 1) for n, x in enumerate(xs)
        }

        def level(y: float) -> float:
            return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (y - low) / (high - low)

        ticks = [low + (high - low) * n / 4 for n in range(5)]
        lines = [
            f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{level(y):.1f}" y2="{level(y):.1f}" '
            f'stroke="#ddd"/><text x="{MARGIN - 5}" y="{level(y) + 4:.1f}" text-anchor="end">'
            f"{y:.3g}</text>"
            for y in ticks
        ]
        lines += [
            f'<text x="{place[x]:.1f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{x:g}</text>'
            for x in xs
        ]
        for number, (name, points) in enumerate(self.curves.items()):
            colour = COLOURS[number % len(COLOURS)]
            path = " ".join(f"{place[x]:.1f},{level(y):.1f}" for x, y in points)
            lines.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
            lines.append(
                f'<text x="{MARGIN + 110 * number}" y="{MARGIN - 24}" fill="{colour}">{name}</text>'
            )
        return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}">{"".join(lines)}</svg>'


def charts(figures: Figures) -> list[Chart]:
    """The charts of an evaluation's figures."""
    likeness: dict[str, Points] = {
        name.replace("_", " "): [(t, getattr(at, name).psnr) for t, at in figures.rollout.items()]
        for name in YARDSTICKS
    }
    delta = [(t, at.mean) for t, at in figures.delta_psnr.items()]
    found = [
        Chart("PSNR by frames since the prompt, dB", likeness),
        Chart("delta PSNR, dB", {"delta PSNR": delta}),
    ]
    if figures.long:
        steps = figures.long.steps
        curves = {
            name: [(t, getattr(at, name)) for t, at in steps.items()]
            for name in ("sharpness", "contrast", "motion")
        }
        found.append(Chart("Running on: shares of real frames'", curves))
    if figures.long and figures.long.never_seen:
        of = figures.long.never_seen
        shares = {
            "generated": list(of.steps.items()),
            "tokenizer": [(t, of.tokenizer) for t in of.steps],
            "real": [(t, of.real) for t in of.steps],
        }
        found.append(Chart("Running on: patches never seen in the game, %", shares))
    return found


TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ world }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 980px; margin: 2em auto; padding: 0 1em;
       color: #222 }
pre { font: 13px/1.35 ui-monospace, monospace; background: #f6f6f4; padding: 1em; overflow-x: auto }
figure { margin: 1.5em 0 } img { max-width: 100%; image-rendering: pixelated }
.charts { display: flex; flex-wrap: wrap; gap: 1em } svg text { font-size: 11px }
</style>
<h1>{{ world }}</h1>
{% if summary %}<pre>{{ summary }}</pre>{% endif %}
{% if comparison %}<h2>Compared with {{ other }}</h2><pre>{{ comparison }}</pre>{% endif %}
{% for part in parts %}
{% if part.game %}<h2>{{ part.game }}</h2>{% endif %}
<p>{{ part.figures.clips.num_clips }} held-out clips of {{ part.figures.num_videos }} videos, seed
{{ part.figures.clips.seed }}, each rolled out free-running from one prompt frame.</p>
<pre>{{ part.table }}</pre>
<div class="charts">{% for chart in part.charts %}
<figure><figcaption>{{ chart.title }}</figcaption>{{ chart.svg() | safe }}</figure>
{% endfor %}</div>
{% for picture in part.pictures %}<figure><figcaption>{{ picture.title }}</figcaption>
<img alt="{{ picture.title }}" src="data:image/{{ picture.kind }};base64,{{ picture.data }}">
</figure>
{% endfor %}{% endfor %}</html>
"""


def page(
    world: str, games: Mapping[str, Figures], folder: Path, other: str = "", comparison: str = ""
) -> str:
    """The report as HTML.

    Args:
        games: figures by game.
        folder: of the pictures, with a subfolder for each game that has a name.
        other: the name of the world that this one is compared with.
        comparison: the main figures of both as text, see `table.comparison`.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    return environment.from_string(TEMPLATE).render(
        world=world,
        summary=table(world, games) if len(games) > 1 else "",
        comparison=comparison,
        other=other,
        parts=[
            {
                "game": game,
                "figures": figures,
                "table": game_table(world, figures),
                "charts": charts(figures),
                "pictures": _pictures(folder / game),
            }
            for game, figures in games.items()
        ],
    )


def _pictures(folder: Path) -> list[dict[str, str]]:
    found = [
        (folder / name, title) for name, title in PICTURES.items() if (folder / name).is_file()
    ]
    return [
        {
            "title": title,
            "kind": path.suffix[1:],
            "data": base64.b64encode(path.read_bytes()).decode(),
        }
        for path, title in found
    ]
