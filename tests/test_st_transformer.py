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


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 2, WINDOW, FRAMES + 1])
def test_cached_equals_uncached_at_every_frame(x, window: int):
    torch.manual_seed(0)
    net = STTransformer(dim=DIM, num_blocks=2, num_heads=3, window=window)
    wanted, cache = net(x), net.new_cache(2, TOKENS)
    for t in range(FRAMES):
        features = net.forward_cached(x[:, t : t + 1], cache)
        cache.append()
        assert_same(features[:, 0], wanted[:, t], f"frame {t} differs with a cache")


@torch.no_grad()
def test_versions_of_a_frame_do_not_see_each_other_and_the_first_becomes_past(net, x):
    """Two versions side by side are what each would be alone; the first is remembered."""
    both, alone = net.new_cache(2, TOKENS, 2), net.new_cache(2, TOKENS)
    for t in range(FRAMES):
        versions = torch.stack([x[:, t], torch.randn_like(x[:, t])], dim=1)
        found = net.forward_cached(versions, both)
        for version in (1, 0):
            wanted = net.forward_cached(versions[:, version : version + 1], alone)
            assert_same(found[:, version], wanted[:, 0], f"version {version} sees its neighbour")
        both.append()
        alone.append()


@torch.no_grad()
def test_remembering_a_frame_is_appending_it(net, x):
    quick, slow = net.new_cache(2, TOKENS), net.new_cache(2, TOKENS)
    for t in range(6):
        net.remember(x[:, t], quick)
        net.forward_cached(x[:, t : t + 1], slow)
        slow.append()
    found, wanted = (net.forward_cached(x[:, 6:7], cache) for cache in (quick, slow))
    assert_same(found, wanted, "the past differs")


@torch.no_grad()
def test_trying_a_frame_out_leaves_no_trace(net, x):
    cache = net.new_cache(2, TOKENS)
    for t in range(5):
        first = net.forward_cached(x[:, t : t + 1], cache)
        net.forward_cached(torch.randn_like(x[:, :1]), cache)
        again = net.forward_cached(x[:, t : t + 1], cache)
        assert torch.equal(first, again), "a frame that was only tried out left a trace"
        cache.append()


@torch.no_grad()
def test_a_cache_stays_where_and_as_large_as_it_is(net, x):
    cache = net.new_cache(2, TOKENS)
    places = {id(cache.keys): cache.keys.data_ptr(), id(cache.values): cache.values.data_ptr()}
    for t in range(FRAMES):
        net.remember(x[:, t], cache)
    assert cache.keys.shape[-2] == WINDOW, "it holds other than the window"
    assert places == {id(each): each.data_ptr() for each in (cache.keys, cache.values)}


@torch.no_grad()
def test_a_state_can_be_returned_to(net, x):
    cache = net.new_cache(2, TOKENS)
    for t in range(6):
        net.remember(x[:, t], cache)
    state, wanted = cache.state(), net.forward_cached(x[:, 6:7], cache)
    for t in range(7, 12):
        net.remember(x[:, t], cache)
    assert cache.num_frames.tolist() == [11, 11]
    for _ in range(2):  # the second time shows whether the state itself was touched
        cache.restore(state)
        assert cache.num_frames.tolist() == [6, 6]
        assert torch.equal(net.forward_cached(x[:, 6:7], cache), wanted)
        net.remember(x[:, 8], cache)


@torch.no_grad()
@pytest.mark.parametrize("row", [0, 1])
def test_one_row_can_start_anew(net, x, row: int):
    """Rows of different age side by side are what each would be alone."""
    cache, young = net.new_cache(2, TOKENS), net.new_cache(1, TOKENS)
    for t in range(5):
        net.remember(x[:, t], cache)
    cache.restore(young.state(), row)
    for t in range(5, 12):
        found = net.forward_cached(x[:, t : t + 1], cache)
        wanted = net.forward_cached(x[row : row + 1, t : t + 1], young)
        assert_same(found[row : row + 1], wanted, f"frame {t} of the row that began anew")
        assert_same(found[1 - row, 0], net(x[:, : t + 1])[1 - row, t], "the other row")
        cache.append()
        young.append()
    assert cache.num_frames.tolist() == ([7, 12] if row == 0 else [12, 7])


@torch.no_grad()
def test_very_old_sessions_are_as_exact_as_young_ones(net, x):
    results = []
    for age in (0, 3_000_000):
        cache = net.new_cache(2, TOKENS)
        cache.num_frames += age * (WINDOW - 1)
        for t in range(6):
            features = net.forward_cached(x[:, t : t + 1], cache)
            net.remember(x[:, t], cache)
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
    cache = each.new_cache(2, 5)
    for t in range(6):
        frame = each.forward_cached(x[:, t : t + 1], cache)
        cache.append()
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
