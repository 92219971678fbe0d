"""Latent action models: what a prediction may know, and that codes become the buttons pressed."""

import pytest
import torch
from conftest import HEIGHT, MOVE_NAMES, WIDTH, square_frames
from torch import nn

from genie.errors import UserError
from genie.latent_action import LatentActionConfig, LatentActionModel
from genie.st_latent_action import STLatentActionConfig, STLatentActionModel

FRAMES, CHANGED, ACTIONS = 9, 4, 5
Model = LatentActionModel | STLatentActionModel


def make(kind: str) -> Model:
    """Random weights, large enough that frames and actions matter."""
    torch.manual_seed(0)
    if kind == "paper":
        model = STLatentActionModel(
            STLatentActionConfig(
                height=HEIGHT, width=WIDTH, num_actions=ACTIONS, dim=16, num_blocks=1, num_heads=2
            )
        )
    else:
        model = LatentActionModel(
            LatentActionConfig(
                height=HEIGHT,
                width=WIDTH,
                num_actions=ACTIONS,
                history=2,
                dim=8,
                code_dim=6,
            )
        )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim < 2:
                weight *= 0 if name.endswith("bias") else 1
            elif not weight.any():
                nn.init.normal_(weight, std=0.1)  # the layer that starts at zero
            elif weight.ndim == 4:
                weight *= 2
    return model.eval()


@pytest.fixture(scope="module", params=["convolutional", "paper"])
def model(request: pytest.FixtureRequest) -> Model:
    return make(request.param)


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    frames = square_frames(3, FRAMES, seed=1)[0]
    return frames, torch.randint(ACTIONS, (3, FRAMES), generator=generator)


def changed_at(frames: torch.Tensor, t: int) -> torch.Tensor:
    other = frames.clone()
    other[:, t] = 1 - other[:, t].roll(5, dims=-1)
    return other


def frames_that_differ(one: torch.Tensor, other: torch.Tensor) -> list[int]:
    return ((one - other).abs().flatten(2).amax(dim=(0, 2)) > 1e-6).nonzero().flatten().tolist()


def latents_of(model: Model, frames: torch.Tensor) -> torch.Tensor:
    """What the codebook is given, one per transition."""
    seen = []
    hook = model.codebook.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.infer(frames)
    hook.remove()
    return seen[0].reshape(len(frames), frames.shape[1] - 1, -1)


# What a prediction may know


@torch.no_grad()
def test_prediction_depends_on_past_frames_only(model: Model, clip):
    frames, actions = clip
    wanted = model.predict(frames, actions)
    found = frames_that_differ(model.predict(changed_at(frames, CHANGED), actions), wanted)
    assert found[0] == CHANGED, "the picture of frame t+1 sees frame t+1, or ignores frame t"
    later = frames.clone()
    later[:, CHANGED + 1 :] = 1 - later[:, CHANGED + 1 :]
    assert frames_that_differ(model.predict(later, actions), wanted)[0] == CHANGED + 1


@torch.no_grad()
def test_prediction_depends_on_its_action_and_on_none_that_follow(model: Model, clip):
    frames, actions = clip
    other = actions.clone()
    other[:, CHANGED] = (other[:, CHANGED] + 1) % ACTIONS
    found = frames_that_differ(model.predict(frames, other), model.predict(frames, actions))
    assert found[0] == CHANGED, "action t must lead from frame t to frame t+1"
    if isinstance(model, LatentActionModel):
        assert found == [CHANGED], "an action says nothing about later frames"


def test_gradient_of_a_prediction_reaches_no_later_frame(model: Model, clip):
    given = clip[0].clone().requires_grad_()
    model.predict(given, clip[1])[:, CHANGED].sum().backward()
    reach = given.grad.abs().sum(dim=(0, 2, 3, 4))
    assert (reach[CHANGED + 1 :] == 0).all(), "the decoder learns from what it should predict"
    assert (reach[CHANGED - 1 : CHANGED + 1] > 0).all(), "the decoder does not see its history"


@torch.no_grad()
def test_action_depends_on_no_frame_after_the_one_it_leads_to(model: Model, clip):
    frames = clip[0]
    wanted = model.infer(frames)
    assert wanted.shape == (3, FRAMES - 1)
    for t in range(1, FRAMES):
        assert torch.equal(model.infer(frames[:, : t + 1]), wanted[:, :t]), (
            f"actions before frame {t} look beyond it"
        )
    latents = latents_of(model, frames)
    found = frames_that_differ(latents_of(model, changed_at(frames, CHANGED)), latents)
    assert found[0] == CHANGED - 1, "action t must look at frame t+1, and not beyond"


def test_gradient_of_an_action_reaches_no_later_frame(model: Model, clip):
    given = clip[0].clone().requires_grad_()
    latents_of(model, given)[:, CHANGED].sum().backward()
    reach = given.grad.abs().sum(dim=(0, 2, 3, 4))
    assert (reach[CHANGED + 2 :] == 0).all(), "an action knows what comes after it"
    assert (reach[CHANGED : CHANGED + 2] > 0).all(), "an action does not see its own transition"


@torch.no_grad()
def test_history_has_its_length(clip):
    """Frames older than the history say nothing: the same buttons everywhere in a video."""
    frames, actions = clip
    model = make("convolutional")
    old = changed_at(frames, 1)
    assert frames_that_differ(model.predict(old, actions), model.predict(frames, actions)) == [1, 2]
    assert frames_that_differ(latents_of(model, old), latents_of(model, frames)) == [0, 1, 2]


@torch.no_grad()
def test_a_single_frame_has_no_action(model: Model, clip):
    assert model.infer(clip[0][:, :1]).shape == (3, 0), "a prompt of one frame must do"
    width = model.features(clip[0]).shape[2]
    assert model.features(clip[0][:, :1]).shape == (3, 0, width)


@torch.no_grad()
def test_features_are_what_actions_are_made_of(model: Model, clip):
    frames = clip[0]
    features = model.features(frames)
    to_latent = model.to_latent if isinstance(model, STLatentActionModel) else model.inverse.out[-1]
    torch.testing.assert_close(to_latent(features), latents_of(model, frames))
    found = frames_that_differ(model.features(changed_at(frames, CHANGED)), features)
    assert found[0] == CHANGED - 1, "the features of t must look at frame t+1, and not beyond"


# Learning


def train(model: Model, batches, learning_rate: float, num_steps: int) -> list[dict]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95))
    history = []
    model.train()
    for step in range(num_steps):
        rate = learning_rate * min(1, (step + 1) / 10, 2 * (num_steps - step) / num_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, metrics = model(next(batches))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        history.append({"loss": loss.item()} | {k: float(v) for k, v in metrics.items()})
    return history


def forever(frames: torch.Tensor):
    while True:
        yield frames


def test_learns_one_batch_by_heart():
    torch.manual_seed(0)
    frames = square_frames(4, 6, seed=5)[0]
    config = LatentActionConfig(height=HEIGHT, width=WIDTH, num_actions=ACTIONS, dim=16, code_dim=6)
    last = train(LatentActionModel(config), forever(frames), 3e-3, 150)[-1]
    gain = last["psnr"] - last["copy_psnr"]
    assert gain > 6, f"only {gain:.1f} dB better than copying the last frame"


def test_the_papers_model_learns_one_batch_by_heart():
    torch.manual_seed(0)
    frames = square_frames(4, 6, seed=5)[0]
    config = STLatentActionConfig(
        height=HEIGHT, width=WIDTH, num_actions=ACTIONS, dim=48, num_blocks=1, num_heads=2
    )
    history = train(STLatentActionModel(config), forever(frames), 4e-3, 150)
    gain = history[-1]["psnr"] - history[-1]["copy_psnr"]
    assert gain > 0.5, f"{gain:.1f} dB: worse than copying, which it must find out by itself"
    assert history[-1]["psnr"] > history[0]["psnr"] + 8


def windows(frames: torch.Tensor, batch_size: int, num_frames: int):
    """Random windows of random clips."""
    while True:
        clips = torch.randint(len(frames), (batch_size,))
        start = int(torch.randint(frames.shape[1] - num_frames + 1, ()))
        yield frames[clips, start : start + num_frames]


def test_codes_become_the_buttons_of_the_moving_square():
    """Trained on pixels alone; true actions only score it, on clips that it never saw."""
    torch.manual_seed(0)
    frames, actions = square_frames(64, 20, seed=1, hold=1)
    config = LatentActionConfig(height=HEIGHT, width=WIDTH, num_actions=8, dim=16, code_dim=6)
    model = LatentActionModel(config)
    train(model, windows(frames, 8, 5), 1e-3, 450)
    model.eval()
    counts = torch.zeros(config.num_actions, len(MOVE_NAMES))
    fresh, pressed = square_frames(32, 20, seed=2, hold=1)
    with torch.no_grad():
        counts.index_put_((model.infer(frames), actions), torch.tensor(1.0), accumulate=True)
        told = counts.argmax(dim=1)[model.infer(fresh)]
        metrics = model(fresh)[1]
    accuracy = (told == pressed).float().mean().item()
    assert accuracy > 0.9, f"the codes tell the button of {accuracy:.0%} of new transitions"
    assert metrics["delta_psnr"] > 3, "the model's own decoder does not obey the actions"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_actions": 1}, "num_actions is 1"),
        ({"history": 0}, "history is 0"),
        ({"continuous_share": 1.5}, "continuous_share is 1.5"),
    ],
)
def test_impossible_shape_is_refused(values: dict, message: str):
    with pytest.raises(UserError, match=message):
        LatentActionConfig(**values)


@pytest.mark.parametrize(("height", "width"), [(90, 160), (17, 24), (40, 16)])
def test_any_size_will_do(height: int, width: int):
    torch.manual_seed(0)
    model = LatentActionModel(LatentActionConfig(height=height, width=width, dim=4, code_dim=4))
    frames = torch.rand(2, 5, 3, height, width)
    loss, _ = model(frames)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    actions = model.eval().infer(frames)
    drawn = model.predict(frames[:, :-1], actions)
    assert drawn.shape == frames[:, 1:].shape and actions.shape == (2, 4)
