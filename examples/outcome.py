"""What ways to learn earn, by the number of labels: as a table and as a plot.

In: the mean return of each way for each seed. Out: text and a figure. Writes no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

Way = tuple[str, int | None]
"""A way to learn, and the number of labels that it was given, if it is given any."""


@dataclass(frozen=True)
class Score:
    """A mean over seeds, or over tries."""

    mean: float
    margin: float
    """Half of the 95 % interval of the mean, by Student's t over seeds."""

    @classmethod
    def of(cls, means: Sequence[float]) -> "Score":
        """Args: means: of each seed, or try."""
        spread = stats.sem(means) * stats.t.ppf(0.975, len(means) - 1) if len(means) > 1 else np.nan
        return cls(float(np.mean(means)), float(spread))

    def __str__(self) -> str:
        return f"{self.mean:.2f} +- {self.margin:.2f}"


def table(scores: dict[Way, Score], what: str = "return") -> str:
    """One line per way; if there is an oracle that earns anything, with the share of its return.

    Args:
        what: was measured.
    """
    oracle = scores["oracle", None].mean if ("oracle", None) in scores else 0.0
    head = f"{'way':<15}{'labels':>7}   {what:<15}"
    lines = [head + ("of the oracle's" if oracle > 0 else "")]
    for (name, labels), score in scores.items():
        number = "" if labels is None else str(labels)
        share = f"{score.mean / oracle:.0%}" if oracle > 0 else ""
        lines.append(f"{name:<15}{number:>7}   {score!s:<15}{share}".rstrip())
    return "\n".join(lines)


def plot(game: str, scores: dict[Way, Score]) -> Figure:
    """Returns against the number of labels."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(name for name, _ in scores):
        own = {labels: score for (way, labels), score in scores.items() if way == name}
        means = [score.mean for score in own.values()]
        margins = [score.margin for score in own.values()]
        if None in own:
            axes.axhline(means[0], linestyle="--", color="0.6")
            axes.annotate(name, (1, means[0]), xycoords=("axes fraction", "data"), fontsize=8)
        else:
            axes.errorbar(
                [number or 0 for number in own],
                means,
                yerr=margins,
                capsize=3,
                marker="o",
                label=name,
            )
    axes.set_xscale("symlog", linthresh=10)
    axes.set(xlabel="labelled transitions", ylabel=f"return of an episode of {game}")
    if min(score.mean for score in scores.values()) >= 0:
        axes.set_ylim(bottom=0)
    axes.legend()
    return figure
