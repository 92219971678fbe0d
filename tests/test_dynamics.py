"""The dynamics: what a frame may know, what it is asked, and the same answers with a cache."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genie import dynamics as dynamics_module
from genie.dynamics import Dynamics, DynamicsConfig
from genie.errors import UserError

FRAMES, TOKENS, SIZE, ACTIONS, CHANGED = 14, 6, 11, 5, 7


def make(**values) -> Dynamics:
    """A small one whose random embeddings are large enough to matter."""
    torch.manual_seed(0)
    small = {
        "num_tokens": TOKENS,
        "codebook_size": SIZE,
        "num_actions": ACTIONS,
        "dim": 24,
        "num_blocks": 2,
        "num_heads": 3,
        "window": 4,
    }
    dynamics = Dynamics(DynamicsConfig(**small | values))
    nn.init.normal_(dynamics.token.weight)
    nn.init.normal_(dynamics.action.weight)
    return dynamics.eval()


@pytest.fixture(scope="module", params=["one digit", "two digits"])
def dynamics(request: pytest.FixtureRequest) -> Dynamics:
    two = {"codebook_size": SIZE + 1, "factors": (4, 3)}
    return make(**two if request.param == "two digits" else {})


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(SIZE, (2, FRAMES, TOKENS), generator=generator)
    return tokens, torch.randint(ACTIONS, (2, FRAMES - 1), generator=generator)


@pytest.fixture(scope="module")
def hidden() -> torch.Tensor:
    return torch.rand(2, FRAMES, TOKENS, generator=torch.Generator().manual_seed(2)) < 0.5


def frames_that_differ(one: torch.Tensor, other: torch.Tensor) -> list[int]:
    return ((one - other).abs().amax(dim=(0, 2, 3)) > 1e-5).nonzero().flatten().tolist()


# What a frame may know


@torch.no_grad()
def test_tokens_of_a_frame_matter_from_the_next_frame_on(dynamics, clip):
    tokens, actions = clip
    other = tokens.clone()
    other[:, CHANGED] = (other[:, CHANGED] + 1) % SIZE
    found = frames_that_differ(dynamics.logits(other, actions), dynamics.logits(tokens, actions))
    assert found[0] == CHANGED + 1, "a wholly hidden frame knows itself, or the past its future"


@torch.no_grad()
def test_shown_tokens_of_a_frame_matter_and_hidden_ones_do_not(dynamics, clip, hidden):
    tokens, actions = clip
    wanted = dynamics.logits(tokens, actions, hidden)
    for which, meaning in ((hidden, "hidden"), (~hidden, "shown")):
        other = tokens.clone()
        other[:, CHANGED] = torch.where(
            which[:, CHANGED], (other[:, CHANGED] + 1) % SIZE, other[:, CHANGED]
        )
        found = frames_that_differ(dynamics.logits(other, actions, hidden), wanted)
        first = CHANGED + 1 if meaning == "hidden" else CHANGED
        assert found[0] == first, f"changing {meaning} tokens of frame {CHANGED} changed {found}"


@torch.no_grad()
def test_an_action_matters_from_the_frame_it_leads_to(dynamics, clip, hidden):
    tokens, actions = clip
    other = actions.clone()
    other[:, CHANGED] = (other[:, CHANGED] + 1) % ACTIONS
    found = frames_that_differ(
        dynamics.logits(tokens, other, hidden), dynamics.logits(tokens, actions, hidden)
    )
    assert found[0] == CHANGED + 1, f"action {CHANGED} leads to frame {CHANGED + 1}, not {found[0]}"


def test_gradient_reaches_only_what_a_frame_may_know(dynamics, clip, hidden):
    tokens, actions = clip
    embedded = {"token": [], "action": []}
    hooks = [
        getattr(dynamics, name).register_forward_hook(
            lambda _, __, output, kept=kept: kept.append(output) or output.retain_grad()
        )
        for name, kept in embedded.items()
    ]
    dynamics.logits(tokens, actions, hidden)[:, CHANGED].sum().backward()
    for hook in hooks:
        hook.remove()
    context, asked = (out.grad.abs().sum(dim=(0, 2, 3)) for out in embedded["token"])
    led_by = sum(out.grad.abs().sum(dim=(0, 2)) for out in embedded["action"])
    assert (context[CHANGED:] == 0).all(), "frame t learns from the clean tokens of frame t"
    assert (context[CHANGED - 3 : CHANGED] > 0).all(), "frame t does not see its past"
    assert asked.nonzero().flatten().tolist() == [CHANGED], "it reads other hidden frames"
    assert (led_by[CHANGED + 1 :] == 0).all(), "frame t learns from actions that come later"
    assert (led_by[CHANGED - 3 : CHANGED + 1] > 0).all()


@torch.no_grad()
def test_clips_in_a_batch_do_not_mix(dynamics, clip):
    tokens, actions = clip
    alone = dynamics.logits(tokens[1:], actions[1:])
    torch.testing.assert_close(dynamics.logits(tokens, actions)[1:], alone, atol=1e-4, rtol=1e-4)


# The same with a cache


@torch.no_grad()
def test_cached_logits_are_the_full_logits_at_every_frame(dynamics, clip, hidden):
    """Long after the window has slid, wholly hidden, half hidden and shown."""
    tokens, actions = clip
    led_by = F.pad(actions, (1, 0), value=dynamics.no_action)
    masks = {"half": hidden, "all": torch.ones_like(hidden), "none": torch.zeros_like(hidden)}
    wanted = {name: dynamics.logits(tokens, actions, mask) for name, mask in masks.items()}
    ring = dynamics.transformer.new_ring(2, TOKENS)
    for t in range(FRAMES):
        for name, mask in masks.items():
            shown = tokens[:, t].masked_fill(mask[:, t], dynamics.mask_id)
            found = dynamics.next_logits(shown, led_by[:, t], ring.past())
            difference = (found - wanted[name][:, t]).abs().max().item()
            assert difference < 1e-4, f"frame {t}, {name} hidden: differs by {difference}"
        ring.append(dynamics.remember(tokens[:, t], led_by[:, t], ring.past()))


@torch.no_grad()
def test_looking_back_tells_the_next_frame_after_whatever_action(dynamics, clip):
    tokens, actions = clip
    led_by = F.pad(actions, (1, 0), value=dynamics.no_action)
    ring = dynamics.transformer.new_ring(2, TOKENS)
    hidden, unknown = torch.full((2, TOKENS), dynamics.mask_id), led_by[:, 0]
    for t in range(FRAMES):
        remembered = dynamics.remember(tokens[:, t], led_by[:, t], ring.past())
        found, newest = dynamics.look_back(tokens[:, t], led_by[:, t], ring.past(2))
        for kept, wanted in zip(newest, remembered, strict=True):
            torch.testing.assert_close(kept, wanted, atol=1e-4, rtol=1e-4)
        ring.append(newest)
        wanted = dynamics.next_logits(hidden, unknown, ring.past())
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


# What the net is asked


class KnowsTheAnswer(nn.Module):
    """Stands in for all but the embeddings: sure of `answer`, whatever it is given."""

    def __init__(self, answer: torch.Tensor, sureness: float = 50.0) -> None:
        super().__init__()
        self.answer, self.sureness = answer[..., None].float(), sureness

    def forward_hidden(self, context: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        return self.answer + 0 * hidden.sum()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if features.ndim == 4:  # as the transformer; else as the last layer, of some tokens
            return self.answer + 0 * features.sum()
        return self.sureness * F.one_hot(features[..., 0].long(), SIZE).float()


def let_know(dynamics: Dynamics, answer: torch.Tensor, sureness: float = 50.0) -> None:
    dynamics.transformer = dynamics.out = KnowsTheAnswer(answer, sureness)


@pytest.mark.parametrize("masking", ["frame", "clip"])
def test_perfect_logits_have_no_loss(clip, masking: str):
    """So the targets are the clean tokens: neither the mask nor the corrupted context."""
    tokens, actions = clip
    dynamics = make(masking=masking, corruption=1.0).train()
    let_know(dynamics, tokens)
    loss, metrics = dynamics(tokens, actions)
    assert loss.item() < 1e-6 and metrics["accuracy"] == 1, "the loss wants something else"
    let_know(dynamics, (tokens + 1) % SIZE)
    loss, metrics = dynamics(tokens, actions)
    assert loss.item() > 10 and metrics["accuracy"] == 0, "wrong answers cost nothing"


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_the_loss_is_the_mean_over_hidden_tokens(clip, share: float, monkeypatch):
    """All of them where they are few; where they are more than are asked for, over some of them."""
    tokens, actions = clip
    dynamics = make(corruption=0.0, action_dropout=0.0, changed_weight=3.0).train()
    hidden = torch.rand(tokens.shape, generator=torch.manual_seed(3)) < share
    monkeypatch.setattr(dynamics_module, "_frame_mask", lambda _: hidden.clone())
    losses = [dynamics(tokens, actions)[0].item() for _ in range(300 if share > 0.8 else 2)]
    logits = dynamics.logits(tokens, actions, hidden)
    hidden[:, 0] = False
    entropy = F.cross_entropy(logits[hidden], tokens[hidden], reduction="none")
    same = F.pad(tokens[:, 1:] == tokens[:, :-1], (0, 0, 1, 0))[hidden]
    weight = torch.where(same, 1.0, 4.0)
    wanted = ((weight * entropy).sum() / weight.sum()).item()
    if share < 0.8:
        assert losses == pytest.approx([wanted] * 2, rel=1e-5)
    else:
        assert len(set(losses)) > 1 and sum(losses) / 300 == pytest.approx(wanted, rel=5e-3)


@pytest.mark.parametrize("masking", ["frame", "clip"])
def test_the_prompt_is_never_asked_for(clip, masking: str):
    tokens, actions = clip
    wrong_about_the_first = tokens.clone()
    wrong_about_the_first[:, 0] = (tokens[:, 0] + 1) % SIZE
    dynamics = make(masking=masking).train()
    let_know(dynamics, wrong_about_the_first)
    assert dynamics(tokens, actions)[0].item() < 1e-6


def shown_to(dynamics: Dynamics, clip: tuple, seed: int = 0) -> list[torch.Tensor]:
    """The token ids that the net reads in one training step."""
    seen = []
    hook = dynamics.token.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    torch.manual_seed(seed)
    dynamics.train()(*clip)
    hook.remove()
    return seen


def test_frames_are_asked_for_after_a_clean_past(clip):
    """Recipe "frame": as in play, the past is whole and only the newest frame is hidden."""
    context, asked = shown_to(make(corruption=0.0), clip)
    assert torch.equal(context, clip[0]), "the past is not what playing shows"
    hides = asked == SIZE
    assert torch.equal(asked[~hides], clip[0][~hides]), "a shown token is not the true one"
    assert hides.any() and (~hides).any()


def test_the_papers_recipe_masks_the_clip_alike(clip):
    (asked,) = shown_to(make(masking="clip", corruption=0.0), clip)
    hides = asked == SIZE
    assert torch.equal(asked[~hides], clip[0][~hides])
    assert not hides[:, 0].any(), "the first frame is the prompt"


def test_masking_rates_are_those_of_the_recipes():
    tokens = torch.zeros(400, 9, 20, dtype=torch.long)
    clip = tokens, torch.zeros(400, 8, dtype=torch.long)
    size = {"num_tokens": 20, "dim": 6, "num_heads": 1, "num_blocks": 1, "corruption": 0.0}
    _, asked = shown_to(make(**size), clip)
    share = (asked == SIZE).float().mean(dim=2)
    assert 0.25 < (share == 1).float().mean() < 0.4, "about a quarter of the frames wholly hidden"
    assert share.min() < 0.2, "some frames must be nearly complete, as in the last pass"
    (asked,) = shown_to(make(masking="clip", **size), clip)
    share = (asked[:, 1:] == SIZE).float().mean(dim=(1, 2))
    assert 0.4 < share.min() < 0.55 and 0.95 < share.max() <= 1, "the paper's rate is U(0.5, 1)"
    assert abs(share.mean() - 0.75) < 0.02


def test_a_share_of_the_actions_is_withheld(clip):
    tokens, actions = clip
    for share in (0.0, 0.5):
        dynamics, seen = make(action_dropout=share).train(), []
        hook = dynamics.action.register_forward_pre_hook(
            lambda _, given, s=seen: s.append(given[0])
        )
        for seed in range(20):
            torch.manual_seed(seed)
            dynamics(tokens, actions)
        hook.remove()
        withheld = (torch.stack(seen)[:, :, 1:] == dynamics.no_action).float().mean().item()
        assert withheld == pytest.approx(share, abs=0.1)


@pytest.mark.parametrize("masking", ["frame", "clip"])
def test_corruption_replaces_some_tokens_by_random_ones(masking: str):
    tokens = torch.randint(SIZE, (300, 9, TOKENS), generator=torch.Generator().manual_seed(0))
    clip = tokens, torch.zeros(300, 8, dtype=torch.long)
    seen = shown_to(make(masking=masking, corruption=0.4), clip)[0]
    shown = seen != SIZE
    share = (seen != tokens)[shown].float().mean().item()
    wanted = 0.4 / 2 * (1 - 1 / SIZE)  # a rate from U(0, 0.4); some draws hit the true token
    assert share == pytest.approx(wanted, abs=0.03), "the flag does not do what it says"


def test_changed_tokens_weigh_more():
    tokens = torch.zeros(2, 3, TOKENS, dtype=torch.long)
    tokens[:, 2, 0] = 1  # one token changes, once
    actions = torch.zeros(2, 2, dtype=torch.long)
    losses = {}
    for weight in (0.0, 9.0):
        dynamics = make(changed_weight=weight).train()
        let_know(dynamics, torch.zeros_like(tokens), sureness=3.0)
        torch.manual_seed(1)
        loss, metrics = dynamics(tokens, actions)
        losses[weight] = loss.item()
    assert losses[0.0] == pytest.approx(metrics["cross_entropy"].item()), "plain mean expected"
    assert losses[9.0] > losses[0.0], "copying the frame before is not punished"
    assert metrics["copy_accuracy"] == metrics["accuracy"], "this stand-in copies"


@pytest.mark.parametrize("factors", [(), (12, 5)])
def test_learns_one_batch_by_heart(factors: tuple[int, ...]):
    torch.manual_seed(0)
    tokens = torch.randint(60, (2, 5, 24))
    actions = torch.randint(ACTIONS, (2, 4))
    config = DynamicsConfig(
        num_tokens=24,
        codebook_size=60,
        factors=factors,
        num_actions=ACTIONS,
        dim=48,
        num_blocks=2,
        num_heads=4,
        window=4,
        corruption=0.0,
    )
    dynamics = Dynamics(config)
    optimizer = torch.optim.AdamW(dynamics.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1, (step + 1) / 10, (150 - step) / 60)
        loss, _ = dynamics(tokens, actions)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(dynamics.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        logits = dynamics.eval().logits(tokens, actions)[:, 1:]
    if factors:  # the logits of a token are the sums of those of its digits
        first, second = logits.split(factors, dim=-1)
        logits = (second[..., :, None] + first[..., None, :]).flatten(-2)
    entropy = F.cross_entropy(logits.flatten(0, 2), tokens[:, 1:].flatten()).item()
    accuracy = (logits.argmax(dim=-1) == tokens[:, 1:]).float().mean().item()
    assert accuracy > 0.95 and entropy < 0.3, f"accuracy {accuracy:.2f}, entropy {entropy:.2f}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dim": 30, "num_heads": 4}, "dim 30"),
        ({"codebook_size": 12, "factors": (4, 4)}, "product is not 12"),
        ({"action_dropout": 1.0}, "action_dropout is 1.0"),
        ({"num_heads": 0}, "num_heads"),
        ({"window": 1}, "window is 1"),
        ({"corruption": 1.5}, "corruption"),
    ],
)
def test_impossible_shape_is_refused(values: dict, message: str):
    with pytest.raises(UserError, match=message):
        DynamicsConfig(**values)
