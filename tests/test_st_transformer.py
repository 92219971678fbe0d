"""Time runs one way, the window ends where it says, and the cache tells the same story."""

import pytest
import torch

from genie.st_transformer import KVCache, STTransformer, attend, fused_attend

DIM, WINDOW, FRAMES, TOKENS = 24, 3, 14, 5


@pytest.fixture(scope="module")
def net() -> STTransformer:
    torch.manual_seed(0)
    return STTransformer(dim=DIM, num_blocks=2, num_heads=3, window=WINDOW)


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(2, FRAMES, TOKENS, DIM, generator=torch.manual_seed(1))


def cache_bytes(cache: KVCache, num_blocks: int) -> int:
    tensors = [tensor for block in range(num_blocks) for tensor in cache.read(block)]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


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
    wanted, cache = net(x), net.new_cache()
    for t in range(FRAMES):
        features, fresh = net.forward_cached(x[:, t : t + 1], cache)
        cache.append(fresh)
        assert_same(features[:, 0], wanted[:, t], f"frame {t} differs with a cache")


@torch.no_grad()
def test_reading_a_cache_changes_nothing(net, x):
    cache = net.new_cache()
    for t in range(5):
        first, fresh = net.forward_cached(x[:, t : t + 1], cache)
        net.forward_cached(torch.randn_like(x[:, :1]), cache)
        again, _ = net.forward_cached(x[:, t : t + 1], cache)
        assert torch.equal(first, again), "a frame that was only tried out left a trace"
        cache.append(fresh)


@torch.no_grad()
def test_a_full_cache_stays_as_large_as_it_is(net, x):
    cache, sizes = net.new_cache(), []
    for t in range(FRAMES):
        _, fresh = net.forward_cached(x[:, t : t + 1], cache)
        cache.append(fresh)
        sizes.append(cache_bytes(cache, num_blocks=2))
    assert cache.read(0)[0].shape[3] == WINDOW - 1, "it holds other than the window's past"
    assert set(sizes[WINDOW - 2 :]) == {sizes[WINDOW - 2]}, f"a session would grow: {sizes}"


@torch.no_grad()
def test_a_copy_goes_its_own_way(net, x):
    cache = net.new_cache()
    for t in range(6):
        cache.append(net.forward_cached(x[:, t : t + 1], cache)[1])
    copy = cache.copy()
    wanted, _ = net.forward_cached(x[:, 6:7], cache)
    for t in range(7, 12):
        copy.append(net.forward_cached(x[:, t : t + 1], copy)[1])
    found, _ = net.forward_cached(x[:, 6:7], cache)
    assert torch.equal(found, wanted), "appending to a copy changed the original"
    assert (cache.num_frames, copy.num_frames) == (6, 11)


@torch.no_grad()
def test_very_old_sessions_are_as_exact_as_young_ones(net, x):
    results = []
    for age in (0, 3_000_000):
        cache = net.new_cache()
        cache.num_frames = age
        for t in range(6):
            features, fresh = net.forward_cached(x[:, t : t + 1], cache)
            cache.append(fresh)
        results.append(features)
    assert_same(results[1], results[0], "after three million frames the positions blur")


@pytest.mark.parametrize("masked", [False, True])
def test_the_gpus_attention_is_the_cpus(masked: bool):
    generator = torch.manual_seed(2)
    q = torch.randn(2, 3, 4, 5, 8, generator=generator)
    k, v = torch.randn(2, 2, 3, 4, 7, 8, generator=generator)
    may_attend = torch.ones(5, 7, dtype=torch.bool).tril(2) if masked else None
    assert_same(
        fused_attend(q, k, v, may_attend), attend(q, k, v, may_attend), "two kernels differ"
    )
