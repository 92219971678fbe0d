"""Time functions in turns, so that changes of the machine's speed affect all of them alike."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch


def wait() -> None:
    """Wait until an accelerator, if there is one, has finished its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


def take_turns(
    functions: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2
) -> dict[str, np.ndarray]:
    """Seconds of each call, `rounds` for each function, one after the other in every round."""
    for function in functions.values():
        for _ in range(warm_up):
            function()
    wait()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            wait()
            seconds[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in seconds.items()}


def spread_ms(seconds: np.ndarray) -> dict[str, float]:
    """Median and 99th percentile in ms."""
    p50, p99 = np.percentile(1000 * seconds, (50, 99))
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


def ratio(slow: np.ndarray, quick: np.ndarray) -> float:
    """How many times longer one takes than the other, by their medians."""
    return float(np.median(slow) / np.median(quick))
