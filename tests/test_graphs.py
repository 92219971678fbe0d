"""onnxruntime draws what PyTorch draws, without it, and only for the world it was made for."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HEIGHT, WIDTH, tiny_world_config

from genie.codebook import CodebookConfig
from genie.errors import UserError
from genie.graphs import export
from genie.onnx_engine import CARD, read_card
from genie.playable import GraphWorld, open_world
from genie.prior import PriorConfig
from genie.sampling import SamplingConfig
from genie.session import Sessions
from genie.torch_engine import TorchEngine
from genie.world import World
from play.recording import Recording
from train.graphs import farthest_apart

REPOSITORY = Path(__file__).resolve().parents[1]
ACTIONS = [1, 3, 0, 2, 4, 4, 1, 0, 2, 3, 3, 1]


def make_world(kind: str) -> World:
    torch.manual_seed(5)
    guided = kind == "grid, guided"
    config = tiny_world_config(
        guidance=1.5 if guided else 1.0, entropy_bound=0.6 if guided else 0.0
    )
    if guided:
        two_digits = replace(config.dynamics, factors=(15, 4))
        prior = PriorConfig(height=HEIGHT, width=WIDTH, num_actions=5, dim=4)
        config = replace(config, dynamics=two_digits, prior=prior)
    else:
        codebook = CodebookConfig(kind="vq", num_codes=60, code_dim=6)
        tokenizer = replace(config.tokenizer, codebook=codebook, stem="linear", window=1)
        dynamics = replace(config.dynamics, num_blocks=1)  # a graph of two takes twice as long
        config = replace(config, tokenizer=tokenizer, dynamics=dynamics)
    world = World(config, name="tiny")
    torch.nn.init.normal_(world.dynamics.out.weight, std=0.5)
    for weights in (world.dynamics.token.weight, world.dynamics.action.weight):
        torch.nn.init.normal_(weights, std=1.0)
    return world


@pytest.fixture(scope="module", params=["grid, guided", "vectors"])
def pair(request, tmp_path_factory) -> tuple[World, GraphWorld]:
    """A world, and its graphs."""
    folder = tmp_path_factory.mktemp("graphs") / "tiny"
    world = make_world(request.param)
    world.save_pretrained(folder)
    export(world, folder)
    made = open_world(folder, "onnxruntime")
    assert isinstance(made, GraphWorld)
    return world, made


@pytest.fixture
def prompts() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(256, size=(2, 1, 3, HEIGHT, WIDTH), dtype=np.uint8)


def both(pair: tuple[World, GraphWorld], prompts: np.ndarray, **sampling) -> list[Sessions]:
    world, made = pair
    engines = TorchEngine(world, world.sampling, exact=True), made.engine
    config = replace(world.sampling, **sampling)
    return [Sessions(engine, prompts, [3, 4], config) for engine in engines]


def assert_alike(one: np.ndarray, other: np.ndarray, where: str) -> None:
    difference = np.abs(one.astype(int) - other).max()
    assert difference <= 1, f"{where}: differs by {difference}"


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"maskgit_steps": 1},
        {"temperature": 0.0, "choice_temperature": 0.0},
        {"maskgit_steps": 5, "choice_temperature": 3.0},
    ],
    ids=["own", "one pass", "the likeliest", "noise in the order"],
)
def test_frames_are_pytorchs_long_after_the_windows_have_slid(pair, prompts, sampling: dict):
    exact, made = both(pair, prompts, **sampling)
    assert_alike(made.frames, exact.frames, "the prompt")
    for step, (one, other) in enumerate(pairwise(ACTIONS * 2)):
        actions = np.array([one, other])
        assert_alike(made.step(actions), exact.step(actions), f"step {step}")
    assert made.num_passes == exact.num_passes


def test_wishes_mean_what_they_mean_to_pytorch(pair, prompts):
    exact, made = both(pair, prompts)
    if not pair[0].has_prior:
        for running in (exact, made):
            with pytest.raises(UserError, match="no action prior"):
                running.choose(np.ones((2, 5)))
        return
    for action in ACTIONS:
        wishes = np.tile(np.arange(1.0, 6.0), (2, 1))
        assert (made.choose(wishes) == exact.choose(wishes)).all()
        actions = np.array([action, action])
        assert_alike(made.step(actions), exact.step(actions), "led by wishes")


def test_it_repeats_branches_and_looks_ahead(pair, prompts):
    _, made = both(pair, prompts)
    moment = made.snapshot()
    first = [made.step(np.array([1, 2])) for _ in range(5)]
    made.restore(moment)
    made.prepare(np.array([1, 2]))
    again = [made.step(np.array([1, 2])) for _ in range(5)]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    world = pair[1]
    session = world.start(np.moveaxis(prompts[0], 1, -1), seed=3)
    futures = next(session.futures())
    for action in range(world.num_actions):
        alone = world.start(np.moveaxis(prompts[0], 1, -1), seed=3).step(action)
        assert_alike(alone, futures[action], f"the future under {action}")


def test_a_prompt_of_several_frames_is_read_as_pytorch_reads_it(pair, prompt: torch.Tensor):
    world, made = pair
    pictures = prompt.movedim(1, -1).numpy()
    tokens, led_by = made.engine.read(prompt[None].numpy())
    assert tokens.shape[:2] == led_by.shape == (1, len(pictures))
    assert list(made.infer(pictures)) == world.infer(prompt).tolist()
    assert made.start(pictures, seed=0).frame.shape == (HEIGHT, WIDTH, 3)


ALONE = """
import sys
sys.modules["torch"] = None  # whoever imports it fails
from pathlib import Path
import numpy as np
from genie.playable import open_world
world = open_world(Path(sys.argv[1]))
session = world.start(np.zeros((1, *world.size, 3), np.uint8), seed=0)
print(world.engine_name, session.step(2).shape)
"""


def test_it_plays_without_pytorch(pair):
    command = [sys.executable, "-c", ALONE, str(pair[1].folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout == f"onnxruntime ({HEIGHT}, {WIDTH}, 3)\n", done.stderr


def test_graphs_of_a_world_that_has_changed_are_not_used(pair, tmp_path: Path):
    world, made = pair
    folder = tmp_path / "world"
    for change in ("weights", "config", "none"):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made.folder, folder)
        if change == "weights":
            other = make_world("grid, guided" if world.sampling.guidance > 1 else "vectors")
            with torch.no_grad():
                other.dynamics.out.bias += 1
            other.save_pretrained(folder)
        if change == "config":
            values = json.loads((folder / "config.json").read_text())
            values["sampling"]["temperature"] = 0.9
            (folder / "config.json").write_text(json.dumps(values))
        assert open_world(folder).engine_name == ("onnxruntime" if change == "none" else "torch")
        assert (read_card(folder) is None) == (change != "none")
        if change != "none":
            with pytest.raises(UserError, match=r"train\.graphs"):
                open_world(folder, "onnxruntime")


def test_graphs_that_are_broken_or_of_another_program_are_not_used(pair, tmp_path: Path):
    folder = tmp_path / "world"
    shutil.copytree(pair[1].folder, folder)
    shutil.copy(folder / "look_back.onnx", folder / "reveal.onnx")
    assert open_world(folder).engine_name == "torch"
    shutil.copy(pair[1].folder / "reveal.onnx", folder)
    assert open_world(folder).engine_name == "onnxruntime"
    values = json.loads((folder / CARD).read_text())
    for text in (json.dumps(values | {"version": 0}), "{"):
        (folder / CARD).write_text(text)
        assert open_world(folder).engine_name == "torch"
    shutil.copy(pair[1].folder / CARD, folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json"):
        open_world(folder)


@pytest.mark.parametrize("name", ["coinrun", "ninja"])
def test_the_shipped_graphs_draw_the_shipped_worlds(name: str):
    folder = REPOSITORY / "checkpoints" / name
    world, made = World.from_pretrained(folder).cpu(), open_world(folder, "onnxruntime")
    assert isinstance(made, GraphWorld)
    assert made.fingerprint == world.fingerprint and made.size == world.size
    assert (made.fps, made.num_actions) == (world.fps, world.num_actions)
    assert isinstance(made.sampling, SamplingConfig) and made.sampling == world.sampling
    assert farthest_apart(world, made) <= 2


def test_a_recording_replays_on_the_engine_that_drew_it(pair, tmp_path: Path):
    """Also one from before recordings named it, which PyTorch drew."""
    folder = pair[1].folder
    path, command = tmp_path / "play.json", [sys.executable, "-m", "play", "--world", folder]
    image = REPOSITORY / "checkpoints" / "coinrun" / "prompts" / "1.png"
    how = ["--headless", "--prompt", image, "--export", tmp_path / "a.gif"]

    def run(*more) -> subprocess.CompletedProcess:
        words = [str(word) for word in (*command, *more)]
        return subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY)

    played = run(*how, "--actions", "1,2,3,0", "--record", path)
    assert played.returncode == 0 and Recording.load(path).engine == "onnxruntime", played.stderr
    replay = ["--replay", path, "--export", tmp_path / "b.gif"]
    assert "bit for bit" in run(*replay).stdout
    values = json.loads(path.read_text())
    for engine in ("neither", None):
        values["engine"] = engine
        if engine is None:
            del values["engine"]
        path.write_text(json.dumps(values))
        done = run(*replay)
        if engine:
            assert done.returncode == 2 and "engine" in done.stderr
        else:
            assert "onnxruntime" not in done.stdout and done.returncode in (0, 1), done.stderr


def test_what_is_no_world_has_no_graphs(tmp_path: Path):
    command = [sys.executable, "-m", "train.graphs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2 and "config.json" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())
