"""The evaluation on worlds whose figures are known beforehand, and its command end to end."""

import base64
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_world_config
from PIL import Image

from genie import video
from genie.data.clips import FrameStore
from genie.data.parts import FrameOptions
from genie.data.prepare import prepare
from genie.errors import UserError
from genie.frames import to_pictures
from genie.sampling import SamplingConfig
from genie.world import World, read_config
from train import evaluate, sampling
from train.measure.effects import HELD_STEPS
from train.measure.evaluation import Figures, draw_choice
from train.measure.evaluation import evaluate as evaluate_world
from train.measure.figures import Estimate, EtaSquared, Likeness, estimate
from train.measure.long_rollouts import (
    Ruler,
    long_figures,
    longest_scenes,
    run_on,
    steps_to_look_at,
)
from train.measure.pictures import contact_sheet, draw_pictures
from train.measure.report import HEIGHT, WIDTH, page
from train.measure.rollouts import HISTORY, check_sizes, draw_clips, infer, roll
from train.measure.table import table
from train.measure.true_actions import TrueActions, label_transitions, true_action_figures

SIDE = 32
SPEED = 3
MOVES = {"NONE": (0, 0), "LEFT": (-1, 0), "RIGHT": (1, 0), "UP": (0, 1), "RIGHT+UP": (1, 1)}
NAMES = list(MOVES)
LENGTHS = [60, 45, 30, 60, 50, 12]


class Landscape:
    """A large picture through which a camera moves; knows its views again."""

    def __init__(self) -> None:
        coarse = torch.rand(1, 3, 150, 150, generator=torch.Generator().manual_seed(0))
        self.scene = (F.interpolate(coarse, size=(600, 600), mode="bilinear")[0] * 255).byte()
        self.places = {}

    def view(self, right: int, up: int) -> torch.Tensor:
        frame = self.scene[:, 300 - up : 300 - up + SIDE, 300 + right : 300 + right + SIDE].clone()
        self.places[frame.numpy().tobytes()] = right, up
        return frame

    def place(self, frame: torch.Tensor) -> tuple[int, int]:
        return self.places[frame.numpy().tobytes()]

    def move(self, place: tuple[int, int], action: int) -> tuple[int, int]:
        across, upward = MOVES[NAMES[action]]
        return place[0] + SPEED * across, place[1] + SPEED * upward


class WalkStore(FrameStore):
    """Videos of random walks through a landscape; `actions` holds what was pressed."""

    def __init__(self, landscape: Landscape, lengths: list[int]) -> None:
        generator = torch.Generator().manual_seed(1)
        self.size, self.fps, self.split_fingerprint = (SIDE, SIDE), 10.0, "walks"
        self.video_names = [f"heldout/walk-{number}" for number in range(len(lengths))]
        self.video_starts = self.scene_starts = np.cumsum([0, *lengths])
        self.actions, frames = {}, []
        for name, length in zip(self.video_names, lengths, strict=True):
            pressed = torch.randint(len(NAMES), (length - 1,), generator=generator).tolist()
            place = (0, 0)
            frames.append(landscape.view(*place))
            for action in pressed:
                place = landscape.move(place, action)
                frames.append(landscape.view(*place))
            self.actions[name] = np.array(pressed)
        self.frames = torch.stack(frames)

    def read(self, start: int, stop: int) -> torch.Tensor:
        return self.frames[start:stop]

    def numbers(self) -> torch.Tensor:
        return torch.cat([torch.arange(length) for length in np.diff(self.video_starts)])


class PerfectWorld:
    """Does what the landscape does; its latent actions are the true ones, counted backwards."""

    name, size, fps, num_actions, device = "perfect", (SIDE, SIDE), 10.0, len(NAMES), "cpu"
    what_computes = "cpu, nothing to compute"

    def __init__(self, landscape: Landscape, heeds_actions: bool = True) -> None:
        self.landscape, self.heeds_actions = landscape, heeds_actions
        self.tokenizer = self.latent_action = self

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return frames

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens

    def infer(self, frames: torch.Tensor) -> torch.Tensor:
        clips = (frames * 255).round().byte()
        return torch.tensor([self._actions([self.landscape.place(f) for f in c]) for c in clips])

    def _actions(self, places: list[tuple[int, int]]) -> list[int]:
        steps = pairwise(places)
        moves = [((b[0] - a[0]) // SPEED, (b[1] - a[1]) // SPEED) for a, b in steps]
        return [self.num_actions - 1 - list(MOVES.values()).index(move) for move in moves]

    def rollout(self, prompt: torch.Tensor, actions: torch.Tensor, *, seed: int) -> torch.Tensor:
        films = zip(prompt[:, -1], actions.tolist(), strict=True)
        return torch.stack([self._film(frame, led_by) for frame, led_by in films])

    def _film(self, frame: torch.Tensor, actions: list[int]) -> torch.Tensor:
        place, frames = self.landscape.place(frame), []
        for action in actions:
            if self.heeds_actions:
                place = self.landscape.move(place, self.num_actions - 1 - action)
            frames.append(self.landscape.view(*place))
        return torch.stack(frames)

    def start_many(self, prompts: torch.Tensor, *, seeds: list[int]) -> "PerfectWorlds":
        return PerfectWorlds(self, prompts)

    def start(self, prompt: torch.Tensor, *, seed: int) -> "PerfectWorld":
        return self

    num_passes = num_steps = 1

    def step(self, action: int) -> None:
        pass


class PerfectWorlds:
    def __init__(self, world: PerfectWorld, prompts: torch.Tensor) -> None:
        self.world, self.now = world, prompts[:, -1]

    def step(self, actions: torch.Tensor) -> np.ndarray:
        self.now = self.world.rollout(self.now[:, None], actions[:, None], seed=0)[:, 0]
        return self.now.numpy()


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return Landscape()


@pytest.fixture(scope="module")
def walks(landscape: Landscape) -> WalkStore:
    return WalkStore(landscape, LENGTHS)


@pytest.fixture
def true_actions(walks: WalkStore, tmp_path: Path) -> Path:
    return save_true_actions(tmp_path, walks.actions)


def measure(world, store: FrameStore, true_actions: Path | None = None, **clips) -> Figures:
    truth = TrueActions.open(true_actions) if true_actions else None
    return evaluate_world(world, draw_choice(store, **clips), truth)


def save_true_actions(folder: Path, actions: dict[str, np.ndarray], names=NAMES) -> Path:
    np.savez_compressed(folder / "true_actions.npz", **actions)
    (folder / "recording.json").write_text(json.dumps({"version": 1, "true_actions": names}))
    return folder / "true_actions.npz"


def test_a_perfect_world_gets_perfect_figures(landscape, walks, true_actions):
    figures = measure(PerfectWorld(landscape), walks, true_actions, num_clips=12)
    assert figures.clips.num_clips == 12
    assert figures.tokenizer == Likeness(psnr=60, psnr_pooled=60, ssim=pytest.approx(1))
    assert list(figures.rollout) == list(range(1, 16))
    for step in figures.rollout.values():
        assert step.generated == step.tokenizer == figures.tokenizer
        assert step.copy_last_frame.psnr < 60
    step = figures.rollout[8]
    assert step.gain_over_copy.mean == pytest.approx(60 - step.copy_last_frame.psnr)
    delta = figures.delta_psnr[4]
    assert delta.mean > 20 and 0 < delta.standard_error < 10
    assert delta.interval[0] < delta.mean < delta.interval[1]
    assert list(figures.delta_psnr) == list(range(1, 11))
    assert figures.latent_action.usage == 1
    assert 4.5 < figures.latent_action.perplexity <= 5
    assert sum(figures.latent_action.histogram) == 12 * 18
    true = EtaSquared(across=pytest.approx(1), up_down=pytest.approx(1))
    assert figures.latent_action.eta_squared == true, "its actions are the true ones"
    for kind, num_classes in {"all": 5, "horizontal": 3, "vertical": 2, "moves": 5}.items():
        agreement = figures.true_actions[kind]
        assert agreement.balanced_accuracy == 1
        assert agreement.balanced_accuracy_weighted_vote == 1
        assert agreement.chance == pytest.approx(1 / num_classes)
    assert figures.true_actions["all"].nmi == pytest.approx(1)
    assert figures.true_actions["all"].ami == pytest.approx(1)
    assert figures.true_actions["vertical"].nmi < 0.9, "five actions say more than up or not"


def test_the_held_actions_of_a_perfect_world_move_the_view_as_they_should(landscape, walks):
    held = measure(PerfectWorld(landscape), walks, num_clips=8).held_actions
    assert held.num_prompts == 8
    assert held.eta_squared == EtaSquared(across=pytest.approx(1), up_down=pytest.approx(1))
    for effect, name in zip(held.actions, reversed(NAMES), strict=True):
        dx, dy = (SPEED * HELD_STEPS * axis for axis in MOVES[name])
        assert (effect.median_dx, effect.median_dy) == (dx, dy), name
        shares = {side: float(side.upper() in name) for side in ("right", "left", "up")}
        assert {side: getattr(effect, side) for side in shares} == shares
        assert effect.still == float(name == "NONE")


def test_a_world_that_ignores_its_actions_is_not_controllable(landscape, walks):
    world = PerfectWorld(landscape, heeds_actions=False)
    figures = measure(world, walks, num_clips=8, horizon=5)
    assert figures.true_actions is None
    nothing = Estimate(mean=0, standard_error=0, interval=(0, 0))
    assert figures.delta_psnr == dict.fromkeys(range(1, 6), nothing)
    assert figures.long is None
    assert figures.held_actions.eta_squared == EtaSquared(across=0, up_down=0)
    for step in figures.rollout.values():
        assert step.generated == step.copy_last_frame
        assert step.gain_over_copy.mean == 0


@pytest.mark.parametrize("copies", [1, 3])
def test_clips_of_one_video_count_as_one(copies: int):
    """Each value comes with copies of itself, which tell nothing new."""
    values = torch.randn(40, generator=torch.Generator().manual_seed(0))
    found = estimate(values.repeat(copies), np.tile(np.arange(40), copies))
    assert found.standard_error == pytest.approx(values.std().item() / 40**0.5, rel=1e-4)
    assert found.interval[0] < found.mean < found.interval[1]
    assert estimate(values, np.zeros(40, dtype=int)).standard_error is None


def test_latent_actions_that_mean_nothing_stay_at_chance(landscape, walks, true_actions):
    world = PerfectWorld(landscape)
    generator = torch.Generator().manual_seed(0)
    world.infer = lambda frames: torch.randint(5, (len(frames), 18), generator=generator)
    truth = TrueActions.open(true_actions)
    figures = true_action_figures(world, walks, truth, horizon=15, seed=0)
    assert figures["horizontal"].nmi < 0.1
    assert abs(figures["horizontal"].balanced_accuracy - 1 / 3) < 0.15


def test_true_actions_are_read_at_the_transitions_of_the_latent_ones(
    landscape, walks, true_actions
):
    truth = TrueActions.open(true_actions)
    world = PerfectWorld(landscape)
    latent, true, video_ids = label_transitions(world, walks, truth, horizon=15, seed=0)
    assert torch.equal(true, 4 - latent)
    assert set(video_ids.tolist()) == {0, 1, 2, 3, 4}, "the last video is too short for a clip"
    # Videos of 60, 45, 30, 60 and 50 frames hold 3, 2, 1, 3 and 3 windows of 19 frames.
    assert len(latent) == 15 * 12


def walk_with_rests(landscape: Landscape, num_frames: int, seed: int) -> tuple[list, np.ndarray]:
    """Pictures and buttons; nothing is pressed about every second time."""
    generator = np.random.default_rng(seed)
    pressed = generator.integers(1, len(NAMES), num_frames - 1) * generator.integers(
        0, 2, num_frames - 1
    )
    place, frames = (0, 0), [landscape.view(0, 0)]
    for action in pressed.tolist():
        place = landscape.move(place, action)
        frames.append(landscape.view(*place))
    return list(to_pictures(torch.stack(frames))), pressed


@pytest.mark.parametrize("most_still_s", [None, 0.0, 0.1])
def test_true_actions_line_up_where_frames_were_dropped(
    landscape, tmp_path: Path, most_still_s: float | None
):
    actions = {}
    for number in range(4):
        name = f"{'heldout' if number else 'train'}/walk-{number}"
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        frames, actions[name] = walk_with_rests(landscape, 120, seed=number)
        video.write(tmp_path / "videos" / f"{name}.mp4", frames, fps=10.0, lossless=True)
    options = FrameOptions(size=(SIDE, SIDE), cuts=False, most_still_s=most_still_s)
    prepare([tmp_path / "videos"], tmp_path / "data", options, workers=1)
    store = FrameStore.open(tmp_path / "data", "heldout")
    truth = TrueActions.open(save_true_actions(tmp_path, actions))
    numbers = [store.numbers()[a:b] for a, b in pairwise(store.video_starts.tolist())]
    for name, kept in zip(store.video_names, numbers, strict=True):
        for row, action in enumerate(truth.of(name, kept).tolist()):
            leads_on = row + 1 < len(kept) and kept[row + 1] == kept[row] + 1
            assert action == (actions[name][kept[row]] if leads_on else -1)
    latent, true, video_ids = label_transitions(PerfectWorld(landscape), store, truth, 5, seed=0)
    assert len(latent) == len(true) == len(video_ids) > 50
    assert torch.equal(true, 4 - latent), "a button is held against another transition"
    assert (true == 0).any() == (most_still_s != 0), "of a rest there is nothing to see"
    if most_still_s is not None:
        assert len(store) < 3 * 120 and len(latent) < len(store), "the test is to have gaps"


def test_the_same_seed_draws_the_same_and_another_draws_others(walks):
    (first, _), (again, _) = (draw_clips(walks, 6, horizon=5, seed=0) for _ in range(2))
    other, _ = draw_clips(walks, 6, horizon=5, seed=1)
    assert first.shape == (6, 9, 3, SIDE, SIDE)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_clips_do_not_overlap_unless_there_would_be_too_few(walks):
    # Frames of a walk may repeat, so clips are told apart by their rows.
    walks = WalkStore(Landscape(), [20, 20])
    walks.frames = torch.arange(40, dtype=torch.uint8).reshape(40, 1, 1, 1).expand(40, 3, 8, 8)
    clips, video_ids = draw_clips(walks, 4, horizon=6, seed=0)
    rows = clips[:, :, 0, 0, 0]
    assert sorted(rows.flatten().tolist()) == list(range(40))
    assert video_ids.tolist() == (rows[:, 0] // 20).tolist(), "clips and videos do not match"
    assert len(draw_clips(walks, 5, horizon=6, seed=0)[0]) == 5
    assert len(draw_clips(walks, 100, horizon=6, seed=0)[0]) == 22


# Videos of 30, 8 and 40 frames hold 3, 0 and 4 windows of 9 frames.
@pytest.mark.parametrize(("num_clips", "num_videos"), [(1, 1), (7, 2)])
def test_only_the_videos_that_clips_were_drawn_from_are_counted(
    landscape, num_clips: int, num_videos: int
):
    store = WalkStore(landscape, [30, 8, 40])
    figures = measure(PerfectWorld(landscape), store, num_clips=num_clips, horizon=5)
    assert (figures.clips.num_clips, figures.num_videos) == (num_clips, num_videos)


@pytest.mark.parametrize(("num_clips", "horizon"), [(0, 5), (4, 0), (4, 57)])
def test_impossible_clips_are_refused(walks, num_clips: int, horizon: int):
    with pytest.raises(UserError, match=r"give (1 or more|longer or more)"):
        draw_clips(walks, num_clips, horizon, seed=0)


def test_frames_of_another_size_are_refused(landscape, walks):
    world = PerfectWorld(landscape)
    world.size = (16, 24)
    with pytest.raises(UserError, match="frames of 16x24 but the data has 32x32"):
        check_sizes(world, walks)


def test_true_actions_of_another_recording_are_refused(landscape, walks, tmp_path: Path):
    short = {name: actions[:-1] for name, actions in walks.actions.items()}
    unnamed = {name: actions + 1 for name, actions in walks.actions.items()}
    other = {f"other/{name}": actions for name, actions in walks.actions.items()}
    for number, actions in enumerate((short, unnamed, other)):
        (tmp_path / str(number)).mkdir()
        path = save_true_actions(tmp_path / str(number), actions)
        with pytest.raises(UserError, match="true actions do not fit"):
            measure(PerfectWorld(landscape), walks, path, num_clips=2)


def test_a_broken_file_of_true_actions_is_refused(tmp_path: Path, true_actions: Path):
    recording = tmp_path / "recording.json"
    saved = recording.read_text()
    for text in ("{}", "no json", "[]", '{"true_actions": null}'):
        recording.write_text(text)
        with pytest.raises(UserError, match="cannot read the true actions"):
            TrueActions.open(true_actions)
    recording.unlink()
    with pytest.raises(UserError, match="cannot read the true actions"):
        TrueActions.open(true_actions)
    recording.write_text(saved)
    whole = true_actions.read_bytes()
    damaged = whole[:60] + bytes(20) + whole[80:]
    for content in (b"", b"no archive", bytes(range(256)), whole[:-40], damaged):
        true_actions.write_bytes(content)
        with pytest.raises(UserError, match="cannot read the true actions"):
            TrueActions.open(true_actions)
    with pytest.raises(UserError, match="cannot read the true actions"):
        TrueActions.open(tmp_path / "missing.npz")


def test_one_video_is_not_enough_for_a_probe(landscape, tmp_path: Path):
    store = WalkStore(landscape, [40])
    truth = TrueActions.open(save_true_actions(tmp_path, store.actions))
    with pytest.raises(UserError, match="two videos"):
        true_action_figures(PerfectWorld(landscape), store, truth, horizon=15, seed=0)


def test_merges_join_the_buttons_that_move_the_view_alike():
    names = ["LEFT+DOWN", "LEFT", "LEFT+UP", "DOWN", "NONE", "UP", "RIGHT", "RIGHT+UP", "D"]
    merges = {kind: m.tolist() for kind, m in TrueActions({}, names).merges().items()}
    assert len(set(merges["all"])) == len(names)
    assert merges["horizontal"] == [0, 0, 0, 1, 1, 1, 2, 2, 1]
    assert merges["vertical"] == [0, 0, 1, 0, 0, 1, 0, 1, 0]
    assert len(set(merges["moves"])) == 6


def test_pictures_show_every_action_from_every_prompt(landscape, walks, tmp_path: Path):
    world = PerfectWorld(landscape)
    clips, _ = draw_clips(walks, 8, 4, seed=0)
    real, actions = clips[:, HISTORY:], infer(world, clips)[:, HISTORY:]
    generated = roll(world, real[:, 0], actions, 0, "")
    draw_pictures(world, real, generated, tmp_path, seed=0)
    tile = 2 * (SIDE + 2)
    with Image.open(tmp_path / "actions.png") as sheet:
        assert sheet.size == (60 + 5 * tile, 16 + 3 * 5 * tile)
    with Image.open(tmp_path / "rollouts.png") as sheet:
        assert sheet.size == (60 + 5 * tile, 16 + 8 * 2 * tile)
        rows = np.asarray(sheet)[16:, 60:].reshape(8, 2, tile, -1, 3)
    assert np.array_equal(rows[:, 0], rows[:, 1]), "a perfect world's rollout is the real clip"
    with Image.open(tmp_path / "actions.gif") as animation:
        assert animation.n_frames == 5
        assert animation.size == (60 + 5 * tile, 16 + 3 * tile)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "actions.gif",
        "actions.png",
        "best.png",
        "rollouts.png",
        "worst.png",
    ]


def test_the_best_clips_are_those_that_gain_most(landscape, walks, tmp_path: Path):
    world = PerfectWorld(landscape)
    clips, _ = draw_clips(walks, 10, 4, seed=0)
    real = clips[:, HISTORY:]
    generated = roll(world, real[:, 0], infer(world, clips)[:, HISTORY:], 0, "")
    generated[3] = 255 - generated[3]  # the only one that is wrong
    draw_pictures(world, real, generated, tmp_path, seed=0)
    tile = 2 * (SIDE + 2)
    pairs = {}
    for name in ("best", "worst"):
        with Image.open(tmp_path / f"{name}.png") as sheet:
            pairs[name] = np.asarray(sheet)[16:, 60:].reshape(8, 2, tile, -1, 3)
    assert np.array_equal(pairs["best"][:, 0], pairs["best"][:, 1])
    assert not np.array_equal(pairs["worst"][0, 0], pairs["worst"][0, 1])
    assert np.array_equal(pairs["worst"][1:, 0], pairs["worst"][1:, 1])


def test_a_contact_sheet_keeps_each_pixel_crisp():
    pictures = torch.zeros(1, 2, 3, 4, 6, dtype=torch.uint8)
    pictures[0, 1, :, 2, 3] = torch.tensor([9, 90, 200])
    sheet = contact_sheet(pictures, ["row"], ["a", "b"])
    places = np.argwhere((sheet == [9, 90, 200]).all(axis=-1))
    # One pixel of margin round every picture, all of it twice as large.
    top, left = 16 + 2 * (1 + 2), 60 + 2 * (6 + 2) + 2 * (1 + 3)
    assert places.tolist() == [[top + y, left + x] for y in (0, 1) for x in (0, 1)]


@pytest.fixture(scope="module")
def report(tiny_world_folder, prepared_folder, recorded_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "deep" / "report"
    true_actions = recorded_folder / "true_actions.npz"
    evaluate.main(configure(tiny_world_folder, prepared_folder, out, true_actions=true_actions))
    return out


def configure(world: Path, data: Path, out: Path, **others) -> evaluate.EvaluateConfig:
    options = {"num_clips": 3, "horizon": 5, "long_steps": 60, **others}
    return evaluate.EvaluateConfig(world=world, data=data, out=out, **options)


def test_the_command_writes_figures_and_pictures(report: Path, tiny_world_folder: Path):
    pictures = ["actions.gif", "actions.png", "best.png", "long.png", "rollouts.png", "worst.png"]
    wanted = sorted(["metrics.json", "report.html", *pictures])
    assert sorted(path.name for path in report.iterdir()) == wanted
    figures = json.loads((report / "metrics.json").read_text())
    world = World.from_pretrained(tiny_world_folder)
    assert len(figures["held_actions"]["actions"]) == world.num_actions
    assert list(figures["rollout"]) == ["1", "2", "3", "4", "5"]
    assert figures["latency"]["p95_ms"] >= figures["latency"]["p50_ms"] > 0
    assert figures["latency"]["computed_by"].startswith("cpu, ")
    assert 0 < figures["tokenizer"]["psnr"] < 60
    assert set(figures["true_actions"]) == {"all", "horizontal", "vertical", "moves"}


def test_a_second_run_gives_the_same_figures(
    report: Path, tiny_world_folder: Path, prepared_folder: Path, tmp_path: Path, capsys
):
    evaluate.main(configure(tiny_world_folder, prepared_folder, tmp_path))
    first, second = (json.loads((f / "metrics.json").read_text()) for f in (report, tmp_path))
    assert first.pop("true_actions") and second.pop("true_actions") is None
    assert first.pop("latency").keys() == second.pop("latency").keys()
    for figures in (first, second):
        figures["main"] = {
            name: x
            for name, x in figures["main"].items()
            if "moves" not in name and "ms" not in name
        }
    assert first == second
    for name in (path.name for path in report.iterdir() if path.suffix in {".png", ".gif"}):
        assert (report / name).read_bytes() == (tmp_path / name).read_bytes()
    printed = capsys.readouterr().out
    for word in ("tokenizer:", "PSNR generated", "delta PSNR", "perplexity", "eta squared", "p95"):
        assert word in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 100


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        evaluate.main(configure(tmp_path, tmp_path, tmp_path / "file" / "report"))


def test_the_command_line_says_in_one_line_what_is_wrong(tmp_path: Path):
    command = [sys.executable, "-m", "train.evaluate", str(tmp_path / "no-world"), str(tmp_path)]
    root = Path(__file__).resolve().parents[1]
    options = ["--out", str(tmp_path / "report")]
    done = subprocess.run([*command, *options], cwd=root, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "report").exists(), "nothing is left behind"


# Running on


def test_a_perfect_world_runs_on_as_its_game_does(landscape, walks):
    world = PerfectWorld(landscape)
    run = run_on(world, walks, longest_scenes(walks), steps_to_look_at(50), seed=0)
    figures = long_figures(world, walks, run, seed=0)
    assert list(figures.steps) == [10, 50]
    assert [len(truth) for truth in run.truths] == [length - HISTORY for length in LENGTHS]
    for step, num_true in ((10, 5), (50, 2)):
        at = figures.steps[step]
        assert at.num_true == num_true, "videos of 60 frames have 57 after the history"
        assert at.generated.psnr == at.tokenizer.psnr == 60
        assert at.copy_last_frame.psnr < 60
        for name in ("sharpness", "contrast", "motion"):
            assert getattr(at, name) == pytest.approx(1, abs=0.4), name


def test_worlds_that_blur_or_stop_are_told(landscape, walks):
    run = run_on(
        PerfectWorld(landscape), walks, longest_scenes(walks), steps_to_look_at(10), seed=0
    )
    films, ruler = run.windows[10], Ruler.of(walks, seed=0)
    real = ruler.looks(films)
    darker = ruler.looks(films // 2)
    assert ruler.looks(blur(films)).sharpness < 0.8 * real.sharpness
    assert ruler.looks(films[:, :1].expand_as(films)).motion == 0 < real.motion
    assert darker.colour > 30 > real.colour
    assert darker.contrast == pytest.approx(real.contrast / 2, rel=0.05)


def blur(films: torch.Tensor) -> torch.Tensor:
    smooth = F.avg_pool2d(films.flatten(0, 1).float(), 5, stride=1, padding=2)
    return smooth.byte().unflatten(0, films.shape[:2])


def test_a_film_is_the_same_however_long_others_run_on(landscape, walks):
    world, scenes = PerfectWorld(landscape), longest_scenes(walks)
    short, long = (
        run_on(world, walks, scenes, steps_to_look_at(steps), seed=0) for steps in (50, 99)
    )
    assert list(long.windows) == [10, 50], "99 frames are looked at after 50 of them"
    longer = run_on(world, walks, scenes, steps_to_look_at(100), seed=0)
    for step in (10, 50):
        assert torch.equal(short.windows[step], longer.windows[step])


def test_real_films_have_fewer_patches_never_seen_than_spoilt_ones(landscape, walks):
    world, scenes = PerfectWorld(landscape), longest_scenes(walks)
    run = run_on(world, walks, scenes, steps_to_look_at(10), seed=0)
    run.windows[10][..., ::2, :] //= 2
    figures = long_figures(world, walks, run, seed=0)
    (low, high), shares = figures.never_seen.real_range, figures.never_seen
    assert low <= shares.real <= high < shares.steps[10]
    assert shares.tokenizer <= high, "this tokenizer loses nothing"


def test_a_film_never_starts_twice_the_same_way(landscape, walks):
    scenes = longest_scenes(walks)
    run = run_on(PerfectWorld(landscape), walks, scenes, [10], seed=0)
    again = run_on(PerfectWorld(landscape), walks, scenes, [10], seed=0)
    other = run_on(PerfectWorld(landscape), walks, scenes, [10], seed=3)
    assert torch.equal(run.windows[10], again.windows[10])
    assert torch.equal(run.windows[10][:5], other.windows[10][:5]), "these follow the true videos"
    assert not torch.equal(run.windows[10][5], other.windows[10][5]), "this video has ended"


# The report


class Reader(HTMLParser):
    """Tags with their attributes, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_holds_everything_itself(report: Path):
    read = Reader((report / "report.html").read_text())
    sources = [found["src"] for tag, found in read.tags if tag == "img"]
    assert len(sources) == 6
    for source in sources:
        kind, content = source.removeprefix("data:image/").split(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
            assert picture.format.lower() == kind
    assert not {"link", "script", "iframe"} & {tag for tag, _ in read.tags}
    figures = json.loads((report / "metrics.json").read_text())
    assert f"{figures['tokenizer']['psnr']:.2f} dB" in read.text
    curves = [found["points"].split() for tag, found in read.tags if tag == "polyline"]
    assert [len(points) for points in curves] == [5, 5, 5, 5, 2, 2, 2, 2, 2, 2]
    for x, y in (point.split(",") for points in curves for point in points):
        assert 0 <= float(x) <= WIDTH and 0 <= float(y) <= HEIGHT


def test_names_are_no_markup(landscape, walks, tmp_path: Path):
    figures = measure(PerfectWorld(landscape), walks, num_clips=2, horizon=5)
    assert "<script>" not in page("<script>x</script>", {"<script>": figures}, tmp_path)


def test_two_worlds_are_held_beside_each_other(
    report: Path, tiny_world_folder: Path, prepared_folder: Path, tmp_path: Path, capsys
):
    against = report / "metrics.json"
    evaluate.main(configure(tiny_world_folder, prepared_folder, tmp_path, against=against))
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("rollout t=4, dB"))
    first, second, gain = row.removeprefix("rollout t=4, dB").split()
    assert first == second and gain == "+0.00"
    assert row in Reader((tmp_path / "report.html").read_text()).text
    with pytest.raises(UserError, match=r"other clips \(num_clips: 3 there, 2 here\)"):
        config = configure(tiny_world_folder, prepared_folder, tmp_path, against=against)
        evaluate.main(replace(config, num_clips=2, long_steps=0))


@pytest.mark.parametrize(
    "content",
    [
        None,
        "no json",
        "[]",
        '{"world": "x"}',
        '{"games": [1]}',
        '{"games": {"a": {}}}',
        '{"main": {}, "clips": {"data": "", "num_clips": 1, "horizon": 1, "seed": 1}}',
        '{"version": 2, "world": "x", "main": {}, "clips": {"data": "", "num_clips": 1}}',
        '{"version": 2, "world": "x", "main": {"FID": null}, "games": {}}',
    ],
)
def test_what_is_no_report_is_refused_before_the_work(tmp_path: Path, content: str | None):
    path = tmp_path / "metrics.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"metrics\.json"):
        evaluate.main(configure(tmp_path, tmp_path, tmp_path / "report", against=path))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"long_steps": 1001}, "--long-steps is 1001: give 1000 or fewer"),
        ({"seed": -1}, "the seed is -1"),
        ({"seed": 10**30}, "the seed is 1000"),
    ],
)
def test_impossible_numbers_are_refused_before_the_work(
    tiny_world_folder: Path, prepared_folder: Path, tmp_path: Path, flags: dict, told: str
):
    config = configure(tiny_world_folder, prepared_folder, tmp_path / "report")
    with pytest.raises(UserError, match=told):
        evaluate.main(replace(config, **flags))
    assert not (tmp_path / "report").exists()


def test_a_report_shows_no_picture_of_an_earlier_one(
    tiny_world_folder: Path, prepared_folder: Path, tmp_path: Path
):
    config = configure(tiny_world_folder, prepared_folder, tmp_path)
    evaluate.main(replace(config, long_steps=10))
    assert "Running on by itself" in (tmp_path / "report.html").read_text()
    evaluate.main(replace(config, long_steps=0))
    assert "Running on by itself" not in (tmp_path / "report.html").read_text()


# Several games in one folder


@pytest.fixture(scope="module")
def two_games(recorded_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of two games side by side; the second's buttons are numbered backwards."""
    folder = tmp_path_factory.mktemp("games")
    for game in ("ground", "upside"):
        shutil.copytree(recorded_folder, folder / game)
    with np.load(folder / "upside" / "true_actions.npz") as arrays:
        actions = {name: arrays[name] for name in arrays.files}
    card = json.loads((folder / "upside" / "recording.json").read_text())
    last = len(card["true_actions"]) - 1
    save_true_actions(
        folder / "upside",
        {name: last - taken for name, taken in actions.items()},
        card["true_actions"][::-1],
    )
    prepare([folder], folder / "prepared", FrameOptions(size=(32, 48)), workers=1)
    return folder


@pytest.fixture(scope="module")
def report_of_games(two_games: Path, tiny_world_folder: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "games"
    options = {"true_actions": two_games, "num_clips": 2}
    evaluate.main(configure(tiny_world_folder, two_games / "prepared", out, **options))
    return out


def test_every_game_is_measured_by_itself(
    report_of_games: Path,
    two_games: Path,
    tiny_world_folder: Path,
    prepared_folder: Path,
    recorded_folder: Path,
    tmp_path: Path,
):
    """As if there were no other: both games here are the same, whose figures are known."""
    alone = tmp_path / "alone"
    options = {"true_actions": recorded_folder / "true_actions.npz", "num_clips": 2}
    evaluate.main(configure(tiny_world_folder, prepared_folder, alone, **options))
    known = json.loads((alone / "metrics.json").read_text())
    games = json.loads((report_of_games / "metrics.json").read_text())["games"]
    assert list(games) == ["ground", "upside"]
    for figures in games.values():
        for name in figures.keys() - {"clips", "latency"}:
            assert figures[name] == known[name], name
    for game in games:
        assert (report_of_games / game / "rollouts.png").is_file()


def test_the_report_of_games_has_each_and_their_mean(landscape, walks, report_of_games: Path):
    figures = measure(PerfectWorld(landscape), walks, num_clips=2, horizon=5)
    better = replace(figures, tokenizer=replace(figures.tokenizer, psnr=62))
    lines = table("", {"one": figures, "two": better}).splitlines()
    row = next(line for line in lines if line.startswith("tokenizer, dB"))
    first, second, mean = map(float, row.removeprefix("tokenizer, dB").split())
    assert second == pytest.approx(first + 2, abs=0.011)
    assert mean == pytest.approx(first + 1, abs=0.011)
    read = Reader((report_of_games / "report.html").read_text())
    assert len([tag for tag, _ in read.tags if tag == "img"]) == 12
    assert [tag for tag, _ in read.tags].count("h2") == 2


def test_figures_of_other_games_are_not_held_beside(
    report: Path, report_of_games: Path, two_games: Path, tiny_world_folder: Path, tmp_path: Path
):
    config = configure(tiny_world_folder, two_games / "prepared", tmp_path, num_clips=2)
    with pytest.raises(UserError, match=r"other games \(none by name\) than these \(ground, up"):
        evaluate.main(replace(config, against=report / "metrics.json"))
    with pytest.raises(UserError, match=r"other clips \(seed: 0 there, 1 here\)"):
        evaluate.main(replace(config, against=report_of_games / "metrics.json", seed=1))


def test_a_folder_of_recordings_without_true_actions_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"holds no true_actions\.npz"):
        TrueActions.open(tmp_path)


# Ways of sampling


def sweep(world: Path, data: Path, out: Path, **values) -> sampling.SamplingSweep:
    small = {
        "passes": (1, 3),
        "entropy_bounds": (0.0, 0.2),
        "temperatures": (0.0, 1.0),
        "num_clips": 2,
        "horizon": 12,
    }
    return sampling.SamplingSweep(world=world, data=data, out=out, **small | values)


def test_every_way_of_sampling_is_sent_through_the_same_course(
    tiny_world_folder: Path, prepared_folder: Path, tmp_path: Path, capsys
):
    sampling.main(sweep(tiny_world_folder, prepared_folder, tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "sampling.json").read_text())
    names = ("maskgit_steps", "temperature", "entropy_bound")
    ways = [tuple(row["sampling"][name] for name in names) for row in found["rows"]]
    own = tiny_world_config().sampling
    assert ways.pop(0) == (own.maskgit_steps, own.temperature, own.entropy_bound)
    assert ways == [(1, 0, 0), (1, 1, 0), (3, 0, 0), (3, 0, 0.2), (3, 1, 0), (3, 1, 0.2)]
    for row in found["rows"]:
        assert 0 <= row["never_seen"] <= 100 and row["ms"] > 0
        most, bound = row["sampling"]["maskgit_steps"], row["sampling"]["entropy_bound"]
        assert 1 <= row["passes"] <= most
        assert bound or row["passes"] == most
    assert len({row["psnr"]["15"] for row in found["rows"]}) > 3, "the ways do not differ"
    chosen = found["chosen"] | {"psnr": {int(t): dB for t, dB in found["chosen"]["psnr"].items()}}
    chosen["sampling"] = SamplingConfig(**chosen["sampling"])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + 7 + 2 and printed[-1] == sampling.line(sampling.Row(**chosen))
    assert read_config(tiny_world_folder) == tiny_world_config(), "the world was changed"


def test_the_quickest_that_looks_and_obeys_nearly_best_is_chosen():
    ways = {
        "slow": (5.0, 0.98, 0.80, 40.0),
        "best": (5.9, 1.05, 0.801, 20.0),
        "slower": (5.5, 1.0, 0.85, 30.0),
        "does not obey": (5.5, 1.0, 0.60, 10.0),
        "melts": (6.1, 1.0, 0.99, 5.0),
        "empty": (0.0, 0.5, 0.99, 1.0),
        "noise": (0.0, 1.5, 0.99, 1.0),
    }
    rows = {
        name: sampling.Row(
            sampling=SamplingConfig(),
            never_seen=never_seen,
            sharpness=sharpness,
            agreement=agreement,
            eta_squared=1.0,
            psnr={},
            passes=1.0,
            ms=ms,
        )
        for name, (never_seen, sharpness, agreement, ms) in ways.items()
    }
    assert sampling.choose(list(rows.values())) is rows["best"]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"passes": (0,)}, "maskgit_steps is 0"),
        ({"passes": ()}, "at least one value"),
        ({"entropy_bounds": (-1.0,)}, "entropy_bound is -1"),
        ({"horizon": 9}, "--horizon is 9"),
    ],
)
def test_impossible_ways_are_refused(tiny_world_folder, prepared_folder, tmp_path, values, reason):
    with pytest.raises(UserError, match=reason):
        sampling.main(sweep(tiny_world_folder, prepared_folder, tmp_path, **values))


def test_too_few_videos_to_look_up_in_are_refused(
    tiny_world_folder, prepared_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("train.measure.patches.FEWEST_VIDEOS", 100)
    with pytest.raises(UserError, match="look patches up in others"):
        sampling.main(sweep(tiny_world_folder, prepared_folder, tmp_path))
