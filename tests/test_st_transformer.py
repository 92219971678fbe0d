"""Time runs one way, the window ends where it says, and the cache tells the same story."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from genie import machine, st_transformer
from genie.ring import Ring
from genie.st_transformer import (
    STTransformer,
    attend,
    fused_attend,
    recompute_blocks,
    rms_norm,
)

ROOT = Path(__file__).resolve().parents[1]
DIM, WINDOW, FRAMES, TOKENS = 24, 3, 14, 5


@pytest.fixture(scope="module")
def net() -> STTransformer:
    torch.manual_seed(0)
    return STTransformer(dim=DIM, num_blocks=2, num_heads=3, window=WINDOW)


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(2, FRAMES, TOKENS, DIM, generator=torch.manual_seed(1))


def assert_same(found: torch.Tensor, wanted: torch.Tensor, meaning: str) -> None:
    difference = (found - wanted).abs().max().item()
    assert difference < 1e-4, f"{meaning} (largest difference {difference:.2g})"


@torch.no_grad()
@pytest.mark.parametrize("changed", [1, 6, FRAMES - 1])
def test_changing_a_frame_changes_nothing_before_it(net, x, changed: int):
    other = x.clone()
    other[:, changed:] += 1
    assert torch.equal(net(other)[:, :changed], net(x)[:, :changed]), "the past sees the future"
    assert not torch.allclose(net(other)[:, changed], net(x)[:, changed])


def test_gradient_reaches_no_frame_of_the_future(net, x):
    given = x.clone().requires_grad_()
    net(given)[:, 6].sum().backward()
    reach = given.grad.abs().sum(dim=(0, 2, 3))
    assert (reach[7:] == 0).all(), "frame 6 learns from frames after it"
    assert (reach[7 - WINDOW : 7] > 0).all(), "frame 6 does not see its own window"


def test_one_block_sees_its_window_and_no_further(x):
    torch.manual_seed(0)
    net = STTransformer(dim=DIM, num_blocks=1, num_heads=3, window=WINDOW)
    given = x.clone().requires_grad_()
    net(given)[:, 6].sum().backward()
    reach = given.grad.abs().sum(dim=(0, 2, 3))
    assert (reach > 0).nonzero().flatten().tolist() == [4, 5, 6]


def test_tokens_of_a_frame_see_each_other(net, x):
    given = x.clone().requires_grad_()
    net(given)[:, 4, 2].sum().backward()
    assert (given.grad[:, 4].abs().sum(dim=(0, 2)) > 0).all()


@torch.no_grad()
def test_order_of_the_past_matters(net, x):
    other = x.clone()
    other[:, [0, 1]] = x[:, [1, 0]]
    assert not torch.allclose(net(other)[:, 2], net(x)[:, 2], atol=1e-3), "time has no direction"


@torch.no_grad()
def test_hidden_frames_read_only_the_context_before_them(net, x):
    hidden = torch.randn_like(x)
    found = net.forward_hidden(x, hidden)
    for t in range(FRAMES):
        alone = torch.cat([x[:, :t], hidden[:, t : t + 1]], dim=1)
        assert_same(found[:, t], net(alone)[:, t], f"hidden frame {t} saw more than its past")


def follow(net: STTransformer, x: torch.Tensor, ring: Ring) -> torch.Tensor:
    """Features of one more frame, which becomes past."""
    features, newest = net.forward_next(x[:, None], ring.past(), wanted=1)
    ring.append(newest)
    return features[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 2, WINDOW, FRAMES + 1])
def test_cached_equals_uncached_at_every_frame(x, window: int):
    torch.manual_seed(0)
    net = STTransformer(dim=DIM, num_blocks=2, num_heads=3, window=window)
    wanted, ring = net(x), net.new_ring(2, TOKENS)
    for t in range(FRAMES):
        assert_same(follow(net, x[:, t], ring), wanted[:, t], f"frame {t} differs with a cache")


@torch.no_grad()
@pytest.mark.parametrize("num_next", [2, 3, WINDOW + 1])
@pytest.mark.parametrize("window", [1, 2, WINDOW])
def test_several_frames_at_once_are_as_one_after_the_other(x, window: int, num_next: int):
    """Each sees the past in its own window, and those of them that came before it."""
    torch.manual_seed(0)
    net = STTransformer(dim=DIM, num_blocks=2, num_heads=3, window=window)
    wanted, ring = net(x), net.new_ring(2, TOKENS)
    for t in range(FRAMES - num_next):
        found, newest = net.forward_next(x[:, t : t + num_next], ring.past(num_next), wanted=1)
        assert_same(found[:, 0], wanted[:, t + num_next - 1], f"the last of those from {t} on")
        ring.append(newest)


@torch.no_grad()
def test_remembering_a_frame_needs_no_features(net, x):
    quick, slow = net.new_ring(2, TOKENS), net.new_ring(2, TOKENS)
    for t in range(6):
        features, newest = net.forward_next(x[:, t : t + 1], quick.past(), wanted=0)
        assert features.shape == (2, 0, TOKENS, DIM)
        quick.append(newest)
        follow(net, x[:, t], slow)
    found, wanted = (follow(net, x[:, 6], ring) for ring in (quick, slow))
    assert_same(found, wanted, "the past differs")


@torch.no_grad()
def test_trying_a_frame_out_leaves_no_trace(net, x):
    ring = net.new_ring(2, TOKENS)
    for t in range(5):
        past = ring.past()
        first, _ = net.forward_next(x[:, t : t + 1], past, wanted=1)
        net.forward_next(torch.randn_like(x[:, :1]), past, wanted=1)
        again = follow(net, x[:, t], ring)
        assert torch.equal(first[:, 0], again), "a frame that was only tried out left a trace"


@torch.no_grad()
def test_a_ring_stays_where_and_as_large_as_it_is(net, x):
    ring = net.new_ring(2, TOKENS)
    places = {id(ring.keys): ring.keys.data_ptr(), id(ring.values): ring.values.data_ptr()}
    for t in range(FRAMES):
        follow(net, x[:, t], ring)
    assert ring.keys.shape[-2] == WINDOW - 1, "it holds other than the window"
    assert places == {id(each): each.data_ptr() for each in (ring.keys, ring.values)}


@torch.no_grad()
def test_a_state_can_be_returned_to(net, x):
    ring = net.new_ring(2, TOKENS)
    for t in range(6):
        follow(net, x[:, t], ring)
    state, wanted = ring.state(), follow(net, x[:, 6], ring)
    for t in range(7, 12):
        follow(net, x[:, t], ring)
    assert ring.num_frames.tolist() == [12, 12]
    for _ in range(2):  # the second time shows whether the state itself was touched
        ring.restore(state)
        assert ring.num_frames.tolist() == [6, 6]
        assert torch.equal(follow(net, x[:, 6], ring), wanted)
        follow(net, x[:, 8], ring)


@torch.no_grad()
@pytest.mark.parametrize("row", [0, 1])
def test_one_row_can_start_anew(net, x, row: int):
    """Rows of different age side by side are what each would be alone."""
    ring, young = net.new_ring(2, TOKENS), net.new_ring(1, TOKENS)
    for t in range(5):
        follow(net, x[:, t], ring)
    ring.restore(young.state(), row)
    for t in range(5, 12):
        found, wanted = follow(net, x[:, t], ring), follow(net, x[row : row + 1, t], young)
        assert_same(found[row : row + 1], wanted, f"frame {t} of the row that began anew")
        assert_same(found[1 - row], net(x[:, : t + 1])[1 - row, t], "the other row")
    assert ring.num_frames.tolist() == ([7, 12] if row == 0 else [12, 7])


@torch.no_grad()
def test_very_old_sessions_are_as_exact_as_young_ones(net, x):
    results = []
    for age in (0, 3_000_000):
        ring = net.new_ring(2, TOKENS)
        ring.num_frames += age * (WINDOW - 1)
        for t in range(6):
            features = follow(net, x[:, t], ring)
        results.append(features)
    assert_same(results[1], results[0], "after three million frames the positions blur")


@pytest.mark.parametrize("biased", ["no", "alike", "per row"])
@pytest.mark.parametrize("most", [65_535, 5])
def test_the_gpus_attention_is_the_cpus(biased: str, most: int, monkeypatch: pytest.MonkeyPatch):
    """Also where a batch is longer than a kernel takes at once."""
    monkeypatch.setattr(st_transformer, "MOST_ENTRIES", most)
    generator = torch.manual_seed(2)
    q = torch.randn(2, 3, 4, 5, 8, generator=generator)
    k, v = torch.randn(2, 2, 3, 4, 7, 8, generator=generator)
    biases = {
        "no": None,
        "alike": torch.randn(5, 7, generator=generator),
        "per row": torch.randn(2, 1, 1, 5, 7, generator=generator),
    }
    bias = biases[biased]
    assert_same(fused_attend(q, k, v, bias), attend(q, k, v, bias), "two kernels differ")


def test_norm_is_the_librarys():
    x = 3 * torch.randn(4, 5, 16, generator=torch.manual_seed(3))
    scale = torch.randn(16, generator=torch.manual_seed(4))
    assert_same(rms_norm(x, scale), F.rms_norm(x, (16,), scale), "not an RMS norm")
    assert (rms_norm(torch.zeros(2, 16), scale) == 0).all(), "a zero vector has no direction"


def gradients(net: STTransformer, x: torch.Tensor) -> list[torch.Tensor]:
    net.zero_grad()
    net.forward_hidden(x, x.flip(1)).square().mean().backward()
    return [weight.grad.clone() for weight in net.parameters()]


def test_recomputed_blocks_learn_the_same_from_less_memory(net, x):
    """Counted in numbers kept between forward and backward."""
    recomputed = copy.deepcopy(net)
    recompute_blocks(recomputed)
    kept = {}
    for name, each in (("plain", net), ("recomputed", recomputed)):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
        ):
            each.forward_hidden(x, x.flip(1)).sum()
        kept[name] = sum(sizes)
    for found, wanted in zip(gradients(recomputed, x), gradients(net, x), strict=True):
        assert_same(found, wanted, "another gradient")
    assert kept["recomputed"] < kept["plain"] / 4, kept


COMPILED_AND_NOT = """
import copy, torch
from genie.compiling import compile_parts
from genie.st_transformer import STTransformer

torch.manual_seed(0)
net = STTransformer(dim=24, num_blocks=1, num_heads=3, window=3)
learns, plays = copy.deepcopy(net), copy.deepcopy(net)
compile_parts(plays)
real_compile = torch.compile
torch.compile = lambda part, **options: real_compile(part, backend="aot_eager", **options)
compile_parts(learns)
x = torch.randn(2, 6, 5, 24)

def gradients(each):
    each(x).square().mean().backward()
    return torch.cat([weight.grad.flatten() for weight in each.parameters()])

@torch.inference_mode()
def last_frame(each):
    ring = each.new_ring(2, 5)
    for t in range(6):
        frame, newest = each.forward_next(x[:, t : t + 1], ring.past(), wanted=1)
        ring.append(newest)
    return frame

print((gradients(net) - gradients(learns)).abs().max().item())
print((last_frame(net) - last_frame(plays)).abs().max().item())
"""


@pytest.mark.skipif(
    not machine.has_compiler(torch.device("cpu")), reason="needs a compiler: apt-get install g++"
)
def test_compiled_blocks_compute_the_same(tmp_path):
    """Gradients, traced as for any device, and frame by frame with this one's kernels.

    Apart from the shape checks, which cannot be compiled.
    """
    command = [sys.executable, "-W", "ignore", "-c", COMPILED_AND_NOT]
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}  # so that it is compiled here and now
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | caches, timeout=170
    )
    assert result.returncode == 0, result.stderr
    differences = [float(line) for line in result.stdout.split()]
    assert len(differences) == 2 and max(differences) < 1e-4, differences
