"""Latent action models: causal, never shown the answer, and able to find the buttons."""

import pytest
import torch
from conftest import HEIGHT, MOVES, WIDTH, square_frames, tiny_world_config

from genie.errors import UserError
from genie.latent_action import LatentActionConfig, LatentActionModel, extrapolate, translation
from genie.st_latent_action import STLatentActionConfig, STLatentActionModel


def _conv() -> LatentActionModel:
    model = LatentActionModel(tiny_world_config().latent_action)
    # The head starts at zero (the prediction is the last frame); let every input show.
    torch.nn.init.normal_(model.forward_model.out.weight, std=0.1)
    return model.eval()


def _st() -> STLatentActionModel:
    config = STLatentActionConfig(
        height=HEIGHT, width=WIDTH, num_actions=5, dim=24, num_blocks=1, num_heads=2, code_dim=6
    )
    return STLatentActionModel(config).eval()


@pytest.fixture(params=[_conv, _st], ids=["conv", "st"])
def model(request: pytest.FixtureRequest):
    torch.manual_seed(11)
    return request.param()


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return square_frames(2, 8, seed=3)[0]


@torch.no_grad()
def test_action_sees_no_frame_beyond_the_next(model, frames: torch.Tensor):
    changed = frames.clone()
    changed[:, 5:] = 1 - changed[:, 5:]
    before, after = model.infer(frames), model.infer(changed)
    assert torch.equal(before[:, :4], after[:, :4]), "action 3 leads to frame 4, which is the same"


@torch.no_grad()
def test_prediction_never_sees_its_answer(model, frames: torch.Tensor):
    actions = torch.randint(5, (2, 8))
    changed = frames.clone()
    changed[:, 5:] = 1 - changed[:, 5:]
    before, after = model.predict(frames, actions), model.predict(changed, actions)
    torch.testing.assert_close(before[:, :5], after[:, :5], msg="frame 5 leaked into its own guess")
    assert (before[:, 5] - after[:, 5]).abs().max() > 1e-4, "the newest frame is ignored"


@torch.no_grad()
def test_prediction_sees_no_later_action(model, frames: torch.Tensor):
    actions = torch.zeros(2, 8, dtype=torch.long)
    changed = actions.clone()
    changed[:, 5] = 3
    before, after = model.predict(frames, actions), model.predict(frames, changed)
    torch.testing.assert_close(before[:, :5], after[:, :5], msg="a later action changed the past")
    assert (before[:, 5] - after[:, 5]).abs().max() > 1e-6, "the action is ignored"


def test_gradient_of_a_prediction_reaches_the_past_only(model, frames: torch.Tensor):
    leaf = frames.clone().requires_grad_()
    model.predict(leaf, torch.zeros(2, 8, dtype=torch.long))[:, 4].sum().backward()
    assert (leaf.grad[:, 5:] == 0).all() and (leaf.grad[:, 4] != 0).any()


@torch.no_grad()
def test_one_frame_has_no_action(model, frames: torch.Tensor):
    assert model.infer(frames[:, :1]).shape == (2, 0)


def test_translation_of_a_cut_out_is_found():
    torch.manual_seed(0)
    picture = torch.rand(1, 1, 80, 120)
    for down, right in ((0, 0), (5, -7), (-8, 11), (3, 0)):
        before = picture[:, :, 20:52, 30:78]
        after = picture[:, :, 20 - down : 52 - down, 30 - right : 78 - right]
        assert translation(before, after).tolist() == [[[down, right]]]


def test_extrapolation_goes_on_at_the_same_speed():
    torch.manual_seed(0)
    picture = torch.rand(1, 1, 3, 80, 120)
    first, second, third = (
        picture[..., 20 + 4 * k : 52 + 4 * k, 30 + 6 * k : 78 + 6 * k] for k in range(3)
    )
    guess = extrapolate(first, second)
    torch.testing.assert_close(guess[..., :-4, :-6], third[..., :-4, :-6])


def test_flat_picture_stays_still():
    flat = torch.full((1, 1, 32, 48), 0.3)
    assert translation(flat, flat).tolist() == [[[0, 0]]]


def test_recovers_the_buttons_of_a_moving_square():
    """Trained on pixels alone; true actions only score it, on clips it never saw."""
    torch.manual_seed(0)
    model = LatentActionModel(
        LatentActionConfig(
            height=HEIGHT, width=WIDTH, num_actions=len(MOVES), history=2, dim=16, code_dim=6
        )
    )
    frames, true = square_frames(64, 20, seed=1)
    num_steps, rate = 300, 3e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95))
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 30, (num_steps - step) / (0.4 * num_steps))
        clips, start = torch.randint(64, (16,)), int(torch.randint(16, ()))
        loss, _ = model(frames[clips, start : start + 5])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    table = torch.zeros(len(MOVES), len(MOVES))
    table.index_put_((model.infer(frames)[:, 1:], true[:, 1:]), torch.tensor(1.0), accumulate=True)
    fresh, pressed = square_frames(32, 20, seed=2)
    found = table.argmax(dim=1)[model.infer(fresh)[:, 1:]]
    accuracy = (found == pressed[:, 1:]).float().mean().item()
    assert accuracy > 0.9, f"only {accuracy:.2f} of the buttons are told by the latent actions"


def test_evaluation_tells_what_the_actions_carry(frames: torch.Tensor):
    model = _conv()
    _, metrics = model(frames)
    assert "delta_psnr" in metrics
    _, metrics = model.train()(frames)
    assert "delta_psnr" not in metrics


@pytest.mark.parametrize("values", [{"height": 40}, {"num_actions": 1}, {"history": 0}])
def test_impossible_shape_is_refused(values: dict):
    with pytest.raises(UserError, match="wants"):
        LatentActionConfig(**values)
