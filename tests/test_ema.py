"""The running average of the weights: a plain sum, put in place for a while, and what is kept."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_train import on_one_core, open_stores, small_trainer, to_its_end  # noqa: F401
from torch import nn

from train.loop.ema import WeightAverage


def make_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))


def walk(net: nn.Module, average: WeightAverage, num_steps: int) -> list[dict]:
    """Change the net at every step; gives its states."""
    states = []
    for step in range(1, num_steps + 1):
        net(torch.randn(8, 3))  # moves the running statistics
        with torch.no_grad():
            for tensor in net.parameters():
                tensor.add_(torch.randn_like(tensor))
        average.update(step)
        states.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
    return states


def test_decay_0_keeps_the_net_as_it_is():
    net = make_net()
    average = WeightAverage(net, 0.0)
    last = walk(net, average, 5)[-1]
    with average.in_place():
        assert all(torch.equal(net.state_dict()[name], last[name]) for name in last)
    assert average.state() == {}


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_an_average_is_the_plain_one(decay: float):
    net = make_net()
    wanted = {name: t.double().clone() for name, t in net.state_dict().items()}
    average = WeightAverage(net, decay)
    for step, state in enumerate(walk(net, average, 40), start=1):
        kept = min(decay, step / (10 + step))  # the first steps are soon forgotten
        wanted = {name: kept * old + (1 - kept) * state[name] for name, old in wanted.items()}
    with average.in_place():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                assert torch.allclose(tensor.double(), wanted[name], atol=1e-5), name


def test_the_net_is_as_before_afterwards_even_if_something_breaks():
    net = make_net()
    average = WeightAverage(net, 0.9)
    last = walk(net, average, 5)[-1]
    places = [tensor.data_ptr() for tensor in net.parameters()]
    with pytest.raises(EOFError), average.in_place():
        assert not torch.equal(net[0].weight, last["0.weight"])
        raise EOFError
    assert all(torch.equal(net.state_dict()[name], last[name]) for name in last)
    assert [tensor.data_ptr() for tensor in net.parameters()] == places, "an optimiser has lost it"


def test_a_stored_average_goes_on_as_if_nothing_had_happened():
    net, averages = make_net(), []
    average = WeightAverage(net, 0.9)
    walk(net, average, 5)
    other = make_net(1)
    other.load_state_dict(net.state_dict())
    loaded = WeightAverage(other, 0.9)
    loaded.load(average.state())
    for pair in ((net, average), (other, loaded)):
        torch.manual_seed(3)
        walk(*pair, 5)
        averages.append(pair[1].state())
    assert averages[0].keys() == averages[1].keys()
    assert all(torch.equal(averages[0][name], averages[1][name]) for name in averages[0])


def test_what_is_kept_of_a_run_is_the_average(prepared_folder: Path, tmp_path: Path):
    stores = open_stores(prepared_folder)
    last, averaged = (
        small_trainer(stores, tmp_path / name, "tokenizer", average=decay)
        for name, decay in (("last", 0.0), ("averaged", 0.9))
    )
    for trainer in (last, averaged):
        to_its_end(trainer)
    kept = {
        name: load_file(tmp_path / name / "weights.safetensors") for name in ("last", "averaged")
    }
    trained, mean = averaged.net.state_dict(), averaged.average.state()
    for name, tensor in kept["last"].items():
        assert torch.equal(trained[name], tensor), "the average changes how a net is trained"
        found = kept["averaged"][name]
        assert torch.equal(found, mean.get(name, tensor)), f"{name} is not the average"
    assert any(not torch.equal(kept["last"][name], mean[name]) for name in mean)


@pytest.mark.parametrize("net", ["tokenizer", "latent_action", "dynamics"])
def test_an_averaged_run_that_is_broken_off_is_the_unbroken_run(
    prepared_folder: Path, tmp_path: Path, net: str
):
    stores = open_stores(prepared_folder)
    to_its_end(small_trainer(stores, tmp_path / "unbroken", net, average=0.8))
    with pytest.raises(EOFError):
        small_trainer(stores, tmp_path / "broken", net, average=0.8, last_read=18).run()
    to_its_end(small_trainer(stores, tmp_path / "broken", net, average=0.8))
    wanted, found = (
        load_file(tmp_path / run / "weights.safetensors") for run in ("unbroken", "broken")
    )
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
