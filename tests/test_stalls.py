"""A training step asks a GPU nothing whose answer the host waits for, forward and backward.

No GPU is needed. Steps run for real on a CPU with tensors that say they are on a GPU, so that the
branches for one are taken, and every operation that hands a number to the host is seen. They run
again on the device "meta", whose tensors have no numbers: there it is seen what the host makes in
every step and sends over. The same holds for what generates frames, which a GPU can record.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from genie import st_transformer
from genie.codebook import CodebookConfig
from genie.dynamics import Dynamics, DynamicsConfig
from genie.frame import LookBack, Reveal, Show
from genie.latent_action import LatentActionConfig, LatentActionModel
from genie.sampling import Pace
from genie.st_latent_action import STLatentActionConfig, STLatentActionModel
from genie.tokenizer import QuickFrameDecoder, Tokenizer, TokenizerConfig
from train.loop.ema import WeightAverage

READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "equal")
FRAMES = 5
SMALL = {"patch_size": 8, "dim": 16, "num_heads": 2, "window": 4}


def make_tokenizer(kind: str) -> Tokenizer:
    codebook = CodebookConfig(kind=kind, levels=(4, 3), num_codes=9, code_dim=4)
    return Tokenizer(
        TokenizerConfig(**SMALL, encoder_blocks=1, decoder_blocks=2, codebook=codebook)
    )


NETS = {
    "tokenizer": lambda: make_tokenizer("fsq"),
    "tokenizer with learnt codes": lambda: make_tokenizer("vq"),
    "latent actions": lambda: LatentActionModel(LatentActionConfig(dim=8, code_dim=4)),
    "the paper's latent actions": lambda: STLatentActionModel(
        STLatentActionConfig(dim=16, num_blocks=1, num_heads=2, window=4, code_dim=4)
    ),
    "dynamics": lambda: Dynamics(DynamicsConfig(dim=16, num_blocks=2, num_heads=2, window=4)),
    "dynamics, the paper's masks": lambda: Dynamics(
        DynamicsConfig(dim=16, num_blocks=1, num_heads=2, window=4, masking="clip")
    ),
}


def batch_for(net: nn.Module, device: str) -> tuple[torch.Tensor, ...]:
    if isinstance(net, Dynamics):
        tokens = torch.randint(1000, (3, FRAMES, 64), device=device)
        return tokens, torch.randint(8, (3, FRAMES - 1), device=device)
    return (torch.rand(3, FRAMES, 3, 64, 64, device=device),)


class OnGpu(torch.Tensor):
    """A tensor whose results, and theirs, say that they are on a GPU."""

    is_cuda = True


def move(net: nn.Module, device: str) -> tuple[torch.Tensor, ...]:
    """Side effect: the net is in training, there. Gives a batch for it that says it is on a GPU."""
    net.to(device).train()
    if isinstance(net, Dynamics):  # its batch is whole numbers: this is where its floats begin
        net.position = nn.Parameter(net.position.detach().as_subclass(OnGpu))
    batch = batch_for(net, device)
    return tuple(x.as_subclass(OnGpu) if x.is_floating_point() else x for x in batch)


class HostReads(TorchDispatchMode):
    """Collects the operations whose results the host has to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        picks = [x for x in tree_leaves(args[1:]) if isinstance(x, torch.Tensor)]
        by_truth = name in {"index", "index_put", "index_put_"} and any(
            pick.dtype == torch.bool for pick in picks
        )
        if by_truth or name.startswith(READS):
            self.seen.append(str(func))
        return func(*args, **kwargs or {})


def one_hot(ids: torch.Tensor, size: int) -> torch.Tensor:
    """The library's looks at the numbers on a CPU, and there alone."""
    return (ids[..., None] == torch.arange(size, device=ids.device)).long()


@contextmanager
def as_on_a_gpu() -> Iterator[list[str]]:
    """Within it, gives the calls of the attention for GPUs."""
    attended, plain = [], st_transformer.fused_attend

    def attend(*given: torch.Tensor) -> torch.Tensor:
        attended.append("once")
        return plain(*given)

    with pytest.MonkeyPatch.context() as patched, torch.autocast("cpu", torch.bfloat16):
        patched.setattr(st_transformer, "fused_attend", attend)
        patched.setattr(F, "one_hot", one_hot)
        yield attended


@pytest.mark.parametrize("name", NETS)
def test_no_step_waits_for_a_number(name: str):
    torch.manual_seed(0)
    net = NETS[name]()
    batch, average = move(net, "cpu"), WeightAverage(net, 0.9)
    with as_on_a_gpu() as attended, HostReads() as reads:
        loss, metrics = net(*batch)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        average.update(1)
    assert not reads.seen, f"the host waits for {set(reads.seen)}"
    assert loss.isfinite() and all(torch.as_tensor(value).isfinite() for value in metrics.values())
    assert loss.dtype == torch.float32, "losses are summed in fp32"
    assert attended or name == "latent actions", "the branch for GPUs was not taken"


def test_a_read_would_be_seen():
    x = torch.arange(4.0)
    for read in (lambda: x.sum().item(), lambda: x[x > 1], lambda: bool((x > 1).any())):
        with HostReads() as reads:
            read()
        assert reads.seen


class FromHost(TorchDispatchMode):
    """Collects the operations that a CPU tensor takes part in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        tensors = [x for x in tree_leaves((args, result)) if isinstance(x, torch.Tensor)]
        if any(x.device.type == "cpu" for x in tensors):
            self.seen.append(str(func))
        return result


@pytest.mark.parametrize("name", NETS)
def test_nothing_comes_from_the_host_after_the_first_step(name: str):
    net = NETS[name]()
    batch, average = move(net, "meta"), WeightAverage(net, 0.9)
    with as_on_a_gpu():
        for _ in range(2):
            with FromHost() as host:
                net(*batch)[0].backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                average.update(1)
    assert not host.seen, f"made on the host in every step: {set(host.seen)}"


FRAME_FUNCTIONS = ("look back", "reveal", "show", "look back for guidance")


def frame_function(name: str, device: str) -> tuple[nn.Module, tuple]:
    """A function that a GPU records to generate frames, and arguments for it."""
    dynamics = NETS["dynamics"]()
    function = {
        "look back": lambda: LookBack(dynamics, foresees=False),
        "look back for guidance": lambda: LookBack(dynamics, foresees=True),
        "reveal": lambda: Reveal(dynamics),
        "show": lambda: Show(QuickFrameDecoder(make_tokenizer("fsq"), torch.float32)),
    }[name]()
    function = function.to(device).eval().requires_grad_(False)
    shows = name == "show"
    stack = function.decoder.tokenizer.decoder if shows else dynamics.transformer
    past = stack.new_ring(2, 64).past(2 if "guidance" in name else 1)
    ids = torch.randint(12, (2, 64), device=device)
    actions = torch.randint(8, (2,), device=device)
    if shows:
        return function, (ids, past)
    if name != "reveal":
        return function, (ids, actions, past)
    pace = Pace(*(torch.tensor(number, device=device) for number in (3, 0.5, 0.0, 0.5, 1.5)))
    unled, noise = torch.rand(2, 64, 1000, device=device), torch.rand(2, 2, 64, device=device)
    ids[:, ::2] = dynamics.mask_id
    return function, (ids, actions, unled, noise, pace, past)


@pytest.mark.parametrize("name", FRAME_FUNCTIONS)
@torch.no_grad()
def test_frames_can_be_recorded(name: str):
    """CUDA graphs allow neither reads of numbers nor tensors that come from the host."""
    function, given = frame_function(name, "cpu")
    with HostReads() as reads:
        function(*given)
    assert not reads.seen, f"the host waits for {set(reads.seen)}"
    function, given = frame_function(name, "meta")
    with FromHost() as host:
        function(*given)
    assert not host.seen, f"made on the host: {set(host.seen)}"


def test_sums_between_blocks_are_in_the_format_of_the_products():
    net, seen = NETS["dynamics"](), []
    for block in net.transformer.blocks:
        block.feed_forward.register_forward_pre_hook(lambda _, x: seen.append(x[0].dtype))
    batch = move(net, "cpu")
    with as_on_a_gpu():
        net(*batch)
    assert seen == [torch.bfloat16] * len(net.transformer.blocks)
