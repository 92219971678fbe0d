"""The dynamics model: causal, trained as it is played, the same with and without a cache."""

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_world_config

from genie.dynamics import Dynamics, DynamicsConfig, _clip_mask, _frame_mask
from genie.errors import UserError


@pytest.fixture(scope="module")
def dynamics() -> Dynamics:
    torch.manual_seed(5)
    net = Dynamics(tiny_world_config().dynamics).eval()
    for weight in (net.token.weight, net.action.weight, net.position):
        torch.nn.init.normal_(weight, std=0.7)
    return net


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randint(60, (2, 9, 24), generator=generator),
        torch.randint(5, (2, 8), generator=generator),
    )


@torch.no_grad()
def test_logits_see_no_later_token(dynamics: Dynamics, clip):
    tokens, actions = clip
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 9) % 60
    before, after = dynamics.logits(tokens, actions), dynamics.logits(changed, actions)
    torch.testing.assert_close(before[:, :6], after[:, :6], msg="a hidden or later token leaked")
    assert (before[:, 6] - after[:, 6]).abs().max() > 1e-3, "the past is ignored"


@torch.no_grad()
def test_logits_see_shown_tokens_of_their_frame(dynamics: Dynamics, clip):
    tokens, actions = clip
    hidden = torch.ones_like(tokens, dtype=torch.bool)
    hidden[:, 5, :12] = False
    changed = tokens.clone()
    changed[:, 5, 3] = (changed[:, 5, 3] + 9) % 60
    before = dynamics.logits(tokens, actions, hidden)
    after = dynamics.logits(changed, actions, hidden)
    assert (before[:, 5, 12:] - after[:, 5, 12:]).abs().max() > 1e-3
    torch.testing.assert_close(before[:, :5], after[:, :5])


@torch.no_grad()
def test_logits_see_the_action_that_leads_to_them_and_no_later_one(dynamics: Dynamics, clip):
    tokens, actions = clip
    changed = actions.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 5
    before, after = dynamics.logits(tokens, actions), dynamics.logits(tokens, changed)
    torch.testing.assert_close(before[:, :5], after[:, :5], msg="action 4 leads to frame 5")
    assert (before[:, 5] - after[:, 5]).abs().max() > 1e-3, "the action is ignored"


@torch.no_grad()
def test_cached_equals_uncached_long_after_the_window_has_slid(dynamics: Dynamics):
    tokens, actions = torch.randint(60, (2, 14, 24)), torch.randint(5, (2, 13))
    whole, cache = dynamics.logits(tokens, actions), dynamics.transformer.new_cache()
    led_by = F.pad(actions, (1, 0), value=dynamics.start_action)
    for t in range(14):
        asked = torch.full_like(tokens[:, t], dynamics.mask_id)
        logits, _ = dynamics.next_logits(asked, led_by[:, t], cache)
        torch.testing.assert_close(logits, whole[:, t], atol=1e-4, rtol=0)
        _, fresh = dynamics.next_logits(tokens[:, t], led_by[:, t], cache)
        cache.append(fresh)


def test_perfect_logits_cost_nothing(dynamics: Dynamics, clip):
    tokens, _ = clip
    hidden = torch.rand(tokens.shape) < 0.5
    perfect = 100.0 * F.one_hot(tokens, 60).float()
    loss, metrics = dynamics._loss(perfect, tokens, hidden)
    assert loss < 1e-4 and metrics["accuracy"] == 1
    copied = (tokens[:, 1:] == tokens[:, :-1])[hidden[:, 1:]].float().mean()
    if not hidden[:, 0].any():
        torch.testing.assert_close(metrics["copy_accuracy"], copied)


@pytest.mark.parametrize("masking", ["frame", "clip"])
def test_overfits_one_batch(masking: str):
    torch.manual_seed(0)
    config = DynamicsConfig(
        num_tokens=6,
        codebook_size=20,
        num_actions=3,
        dim=32,
        num_blocks=2,
        num_heads=2,
        window=4,
        masking=masking,
        corruption=0.0,
    )
    net = Dynamics(config)
    tokens, actions = torch.randint(20, (3, 5, 6)), torch.randint(3, (3, 4))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(200):
        loss, metrics = net(tokens, actions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    found = net.logits(tokens, actions).argmax(-1)[:, 1:]
    accuracy = (found == tokens[:, 1:]).float().mean().item()
    wanted = 0.95 if masking == "frame" else 0.5  # the clip recipe never sees a clean past
    assert accuracy > wanted, f"{accuracy:.2f} of five frames learnt by heart"
    assert metrics["cross_entropy"] < 1.0


def test_corruption_replaces_some_tokens_and_no_targets(dynamics: Dynamics):
    tokens = torch.zeros(40, 8, 24, dtype=torch.long)
    share = (dynamics._corrupt(tokens) != tokens).float().mean().item()
    assert 0.02 < share < 0.08, "rates are uniform up to 0.1, so 0.05 on average"
    assert (tokens == 0).all()


def test_masks_follow_their_recipes():
    torch.manual_seed(0)
    tokens = torch.zeros(400, 6, 24, dtype=torch.long)
    per_frame = _frame_mask(tokens).float().mean(dim=2)
    assert 0.25 < (per_frame == 1).float().mean() < 0.6, "a quarter and more wholly hidden"
    assert per_frame.std(dim=1).mean() > 0.1, "each frame has a rate of its own"
    whole_clip = _clip_mask(tokens)
    assert not whole_clip[:, 0].any(), "the first frame is always shown"
    rates = whole_clip[:, 1:].float().mean(dim=(1, 2))
    assert rates.min() > 0.3 and 0.7 < rates.mean() < 0.8, "U(0.5, 1) per clip"


@pytest.mark.parametrize("values", [{"dim": 100, "num_heads": 8}, {"window": 1}])
def test_impossible_shape_is_refused(values: dict):
    with pytest.raises(UserError):
        DynamicsConfig(**values)
