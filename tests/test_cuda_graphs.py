"""Recorded functions give what the functions themselves give, although their memory is used again.

No GPU is needed: what stands in for the recorder keeps to the same places in memory for inputs and
outputs. That the functions can be recorded is tested in test_stalls.py.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from genie.cuda_graphs import Graphed
from genie.session import Sessions
from genie.torch_engine import TorchEngine
from genie.world import World


class Recorder:
    """Records as a GPU does: each call writes over its inputs and its last results."""

    def __init__(self) -> None:
        self.num_recorded = 0

    def __call__(self, function: Callable, own: tuple) -> Callable:
        self.num_recorded += 1
        results = function(*own)

        def replay(*given):
            for mine, fresh in zip(tree_leaves(own), tree_leaves(given), strict=True):
                mine.copy_(fresh)
            for mine, fresh in zip(tree_leaves(results), tree_leaves(function(*own)), strict=True):
                mine.copy_(fresh)
            return results

        return replay


def test_results_outlive_later_calls_and_arguments_stay_the_callers():
    recorder = Recorder()
    double = Graphed(lambda x, pair: (x + pair[0], pair[1] * 2), recorder)
    one, other = torch.tensor([1.0]), torch.tensor([10.0])
    first = double(one, (one, one))
    second = double(other, (other, other))
    assert [x.item() for x in (*first, *second)] == [2, 2, 20, 20]
    assert one.item() == 1 and other.item() == 10
    assert recorder.num_recorded == 1
    wide = double(torch.ones(2), (torch.ones(2), torch.ones(2)))
    assert wide[0].tolist() == [2, 2] and recorder.num_recorded == 2
    whole = torch.tensor([3])
    assert double(whole, (whole, whole))[1].dtype == torch.int64


@pytest.mark.parametrize("guidance", (1.0, 1.5))
def test_recorded_frames_are_the_same(lively_world: World, prompt: torch.Tensor, guidance: float):
    sampling = lively_world.sampling
    sampling = type(sampling)(**{**vars(sampling), "guidance": guidance, "maskgit_steps": 3})

    def play(engine: TorchEngine) -> np.ndarray:
        running = Sessions(engine, prompt[None].repeat(2, 1, 1, 1, 1), [0, 1], sampling)
        frames = []
        for step in range(8):
            actions = np.array([step % lively_world.num_actions, 0])
            running.prepare(np.array([0, 0]))  # right or wrong
            frames.append(running.step(actions))
            if step == 3:
                moment = running.snapshot()
        running.restore(moment)
        frames.append(running.step(np.array([1, 1])))
        return np.stack(frames)

    recorded, recorder = TorchEngine(lively_world, sampling), Recorder()
    for name in ("_look_back", "_reveal", "_show"):
        setattr(recorded, name, Graphed(getattr(recorded, name).forward, recorder))
    plain = play(TorchEngine(lively_world, sampling))
    assert (play(recorded) == plain).all()
    assert recorder.num_recorded == 3, "one of each, whatever the session's age"
    assert len(np.unique(plain[:, 0], axis=0)) > 1, "a world that stands still shows nothing"
