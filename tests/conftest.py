"""Synthetic games whose truth is known, and tiny worlds. Sizes differ pairwise on purpose."""

import copy
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from genie import video
from genie.codebook import CodebookConfig
from genie.data.parts import FrameOptions
from genie.data.prepare import prepare
from genie.dynamics import DynamicsConfig
from genie.frames import to_float, to_uint8
from genie.latent_action import LatentActionConfig
from genie.sampling import SamplingConfig
from genie.tokenizer import Tokenizer, TokenizerConfig
from genie.world import World, WorldConfig

# No property here is about time, and a busy machine is slow now and then.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# A shell starts what runs in its background deaf to Ctrl-C, and so would be the commands that
# tests start and stop.
signal.signal(signal.SIGINT, signal.default_int_handler)

HEIGHT, WIDTH = 32, 48
MOVES = np.array([(0, 0), (0, -3), (0, 3), (-3, 0), (3, 0)])
MOVE_NAMES = ["none", "LEFT", "RIGHT", "UP", "DOWN"]


def moving_square(num_frames: int, seed: int, hold: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A bright square on a dark, dotted ground, moved by a random action held for `hold` frames.

    Returns frames uint8 (t, h, w, 3) and actions (t-1,), indices into MOVES.
    """
    rng = np.random.default_rng(seed)
    ground = np.where(rng.random((HEIGHT, WIDTH, 1)) < 0.03, 90, 30).astype(np.uint8)
    position = np.array([rng.integers(8, HEIGHT - 16), rng.integers(8, WIDTH - 16)])
    frames, actions, action = [], [], 0
    for t in range(num_frames):
        frame = np.broadcast_to(ground, (HEIGHT, WIDTH, 3)).copy()
        frame[position[0] : position[0] + 8, position[1] : position[1] + 8] = (250, 200, 60)
        frames.append(frame)
        if t % hold == 0:
            action = int(rng.integers(len(MOVES)))
        wanted = position + MOVES[action]
        inside = (wanted >= 0).all() and wanted[0] <= HEIGHT - 8 and wanted[1] <= WIDTH - 8
        actions.append(action if inside else 0)
        position = wanted if inside else position
    return np.stack(frames), np.array(actions[:-1])


def scrolling_ground(num_frames: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A view that moves over a patchwork of colours, by a random action held for three frames."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)
    ground = patches.repeat(8, axis=0).repeat(8, axis=1)
    position, frames, actions = np.array([220, 220]), [], []
    for t in range(num_frames):
        row, column = position
        frames.append(ground[row : row + HEIGHT, column : column + WIDTH])
        if t % 3 == 0:
            action = int(rng.integers(len(MOVES)))
        actions.append(action)
        position = position + MOVES[action]
    return np.stack(frames), np.array(actions[:-1])


def square_frames(
    num_clips: int, num_frames: int, seed: int = 0, hold: int = 3
) -> tuple[torch.Tensor, ...]:
    """Float frames "b t 3 h w" in 0..1 and true actions "b t-1"."""
    clips = [moving_square(num_frames, seed * 10_000 + i, hold) for i in range(num_clips)]
    frames = torch.from_numpy(np.stack([frames for frames, _ in clips])).movedim(-1, 2)
    return to_float(frames), torch.from_numpy(np.stack([actions for _, actions in clips]))


def tiny_world_config(**sampling) -> WorldConfig:
    return WorldConfig(
        tokenizer=TokenizerConfig(
            height=HEIGHT,
            width=WIDTH,
            dim=32,
            encoder_blocks=1,
            decoder_blocks=1,
            num_heads=2,
            window=3,
            codebook=CodebookConfig(levels=(5, 4, 3)),
        ),
        latent_action=LatentActionConfig(
            height=HEIGHT, width=WIDTH, num_actions=5, history=2, dim=8, code_dim=6
        ),
        dynamics=DynamicsConfig(
            num_tokens=24,
            codebook_size=60,
            num_actions=5,
            dim=40,
            num_blocks=2,
            num_heads=4,
            window=4,
        ),
        sampling=SamplingConfig(
            **{
                "maskgit_steps": 3,
                "temperature": 1.0,
                "choice_temperature": 1.0,
                "guidance": 1.0,
                "entropy_bound": 0.6,  # some frames of these random nets take 2 passes, others 3
            }
            | sampling
        ),
        fps=12.0,
    )


@pytest.fixture(scope="module", autouse=True)
def settings_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keys that a test binds are not the user's, nor those of other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("settings")))
        yield


@pytest.fixture(scope="session")
def tiny_world() -> World:
    torch.manual_seed(7)
    world = World(tiny_world_config(), name="tiny")
    # Fresh nets hardly look at their input; larger weights make every choice depend on it.
    torch.nn.init.normal_(world.tokenizer.codebook.quantizer.project_in.linear.weight, std=0.5)
    torch.nn.init.normal_(world.dynamics.out.weight, std=0.5)
    for weights in (world.dynamics.token.weight, world.dynamics.action.weight):
        torch.nn.init.normal_(weights, std=1.0)
    _centre(world.tokenizer)
    return world


@torch.no_grad()
def _centre(tokenizer: Tokenizer) -> None:
    """Let it see flat and busy pictures: until then, all of them have the same tokens."""
    flat = torch.rand(8, 1, 3, 1, 1).expand(-1, -1, -1, HEIGHT, WIDTH)
    pictures = torch.cat([flat, torch.rand(8, 1, 3, HEIGHT, WIDTH)])
    tokenizer.train()
    for _ in range(20):
        tokenizer.encode(pictures)
    tokenizer.eval()


@pytest.fixture(scope="session")
def tiny_world_folder(tiny_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds") / "tiny"
    tiny_world.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def recorded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lossless videos of a scrolling ground as the recorder of real games lays them out."""
    folder = tmp_path_factory.mktemp("recorded") / "square"
    true_actions = {}
    for split, count, first in (("train", 6, 0), ("heldout", 4, 1000)):
        (folder / split).mkdir(parents=True)
        for seed in range(first, first + count):
            frames, actions = scrolling_ground(40, seed)
            name = f"{split}/level-{seed:06d}-episode-00000"
            video.write(folder / f"{name}.mp4", list(frames), fps=12.0, lossless=True)
            true_actions[name] = actions
    np.savez(folder / "true_actions.npz", **true_actions)
    (folder / "recording.json").write_text(
        json.dumps({"game": "ground", "fps": 12, "true_actions": MOVE_NAMES})
    )
    return folder


@pytest.fixture(scope="session")
def prepared_folder(recorded_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "square"
    prepare([recorded_folder], folder, FrameOptions(size=(HEIGHT, WIDTH)), workers=1)
    return folder


@pytest.fixture(scope="module")
def lively_world(tiny_world: World) -> World:
    """Nets that never learnt see and say next to nothing; larger weights make this one listen."""
    torch.manual_seed(8)
    lively = copy.deepcopy(tiny_world)
    torch.nn.init.normal_(lively.dynamics.token.weight, std=1.0)
    with torch.no_grad():
        for name, weight in lively.tokenizer.stem.named_parameters():
            weight *= 0 if name.endswith("bias") else 3
        for weight in lively.tokenizer.head.parameters():
            weight *= 2.5
    return lively


@pytest.fixture(scope="session")
def prompt() -> torch.Tensor:
    return to_uint8(square_frames(1, 6, seed=3)[0])[0]


@pytest.fixture
def no_screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Windows open, but nobody sees them."""
    # Loaded here, so that tests without a window wait for no pygame.
    import pygame

    from play.window import paint, window

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    assert window.open_display()
    yield
    pygame.display.quit()
    paint.forget()
