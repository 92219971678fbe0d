"""Worlds on disk, strictly read; sessions that repeat, branch and run for ever."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HEIGHT, WIDTH, square_frames, tiny_world_config
from hypothesis import given, settings
from hypothesis import strategies as st

from genie import machine, noise, video, world
from genie.codebook import CodebookConfig
from genie.errors import UserError
from genie.maskgit import fill_frame
from genie.session import Players, SamplingConfig, Session, Sessions
from genie.st_latent_action import STLatentActionConfig
from genie.world import NETS, World, WorldConfig

ACTIONS = [0, 1, 1, 4, 2, 3, 0, 2, 2, 1, 4, 4]


@pytest.fixture(scope="module")
def prompt() -> torch.Tensor:
    return video.to_uint8(square_frames(1, 6, seed=3)[0])[0]


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


def play(session: Session, actions: list[int] = ACTIONS) -> np.ndarray:
    return np.stack([session.step(action) for action in actions])


# On disk


def test_saved_world_comes_back_bit_for_bit(tiny_world: World, tiny_world_folder: Path, prompt):
    loaded = World.from_pretrained(tiny_world_folder)
    assert loaded.config == tiny_world.config
    wanted = tiny_world.state_dict()
    assert loaded.state_dict().keys() == wanted.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor.cpu(), wanted[name]), f"{name} changed on its way over the disk"
    assert not loaded.training, "a loaded world must not learn from being played"
    loaded.cpu()
    assert (play(loaded.start(prompt)) == play(tiny_world.start(prompt))).all()


def test_world_says_what_it_is(tiny_world_folder: Path):
    loaded = World.from_pretrained(str(tiny_world_folder))
    assert (loaded.name, loaded.size, loaded.num_actions, loaded.fps) == (
        "tiny",
        (HEIGHT, WIDTH),
        5,
        12.0,
    )


def test_folder_holds_no_pickle_and_nothing_half_written(tiny_world_folder: Path):
    wanted = {"config.json", *(f"{net}.safetensors" for net in NETS)}
    assert {path.name for path in tiny_world_folder.iterdir()} == wanted


def test_saving_again_replaces_the_old_world(tiny_world: World, tmp_path: Path):
    tiny_world.save_pretrained(tmp_path / "world")
    other = World(tiny_world_config(temperature=0.25))
    other.save_pretrained(tmp_path / "world")
    loaded = World.from_pretrained(tmp_path / "world")
    assert loaded.config.sampling.temperature == 0.25
    assert torch.equal(loaded.dynamics.out.weight.cpu(), other.dynamics.out.weight)


def test_a_world_with_the_papers_latent_actions_comes_back(tmp_path: Path, prompt: torch.Tensor):
    paper = STLatentActionConfig(
        height=HEIGHT, width=WIDTH, num_actions=5, dim=16, num_blocks=1, num_heads=2, window=4
    )
    torch.manual_seed(0)
    saved = World(replace(tiny_world_config(), latent_action=paper))
    saved.save_pretrained(tmp_path / "paper")
    loaded = World.from_pretrained(tmp_path / "paper").cpu()
    assert loaded.config == saved.config
    for frames in (prompt, prompt[0]):
        found, wanted = (play(each.start(frames), [1, 4]) for each in (loaded, saved))
        assert (found == wanted).all()


def test_place_that_cannot_be_written_is_refused(tiny_world: World, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        tiny_world.save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.fixture
def folder(tiny_world_folder: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(tiny_world_folder, tmp_path / "broken"))


def change_config(folder: Path, change: Callable[[dict], None]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def load_error(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        World.from_pretrained(folder)
    message = str(error.value)
    assert "\n" not in message, f"more than one line: {message!r}"
    return message


def test_missing_folder_and_empty_folder(tmp_path: Path):
    assert "config.json" in load_error(tmp_path / "nowhere")
    assert "config.json" in load_error(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: c.update(version=99), "version 99"),
        (lambda c: c.pop("version"), "version None"),
        (lambda c: c.update(gravity=9.8), "'gravity'"),
        (lambda c: c.pop("fps"), "'fps'"),
        (lambda c: c["dynamics"].update(colour=3), "'colour'"),
        (lambda c: c["tokenizer"]["codebook"].pop("levels"), "'levels'"),
        (lambda c: c["latent_action"].update(num_actions="5"), "num_actions"),
        (lambda c: c["dynamics"].update(num_blocks=2.5), "num_blocks"),
        (lambda c: c["dynamics"].update(masking="frames"), "masking"),
        (lambda c: c["tokenizer"].update(codebook=60), "codebook"),
        (lambda c: c["tokenizer"]["codebook"].update(levels=60), "levels"),
        (lambda c: c["tokenizer"].update(width="wide"), "width"),
        (lambda c: c["dynamics"].update(dim={}), "dim"),
        (lambda c: c["sampling"].update(temperature=-1), "temperature"),
        (lambda c: c["sampling"].update(maskgit_steps=0), "maskgit_steps"),
        (lambda c: c["dynamics"].update(dim=41), "dim 41"),
    ],
)
def test_config_that_does_not_fit_names_its_field(folder: Path, change: Callable, named: str):
    change_config(folder, change)
    assert named in load_error(folder)


def test_broken_config_names_the_file(folder: Path):
    path = folder / "config.json"
    for broken in (path.read_text()[:-10], "", "[]", '"text"', "\0"):
        path.write_text(broken)
        assert str(path) in load_error(folder)


@pytest.mark.parametrize("net", NETS)
def test_bad_weights_name_the_file(folder: Path, net: str):
    path = folder / f"{net}.safetensors"
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], content[:3], b"", b"text" * 100):
        path.write_bytes(broken)
        assert str(path) in load_error(folder)
    path.unlink()
    assert str(path) in load_error(folder)


def test_swapped_weights_are_refused(folder: Path):
    first, second = folder / "tokenizer.safetensors", folder / "dynamics.safetensors"
    spare = folder / "spare"
    first.rename(spare), second.rename(first), spare.rename(second)
    assert str(first) in load_error(folder)


@pytest.mark.parametrize(
    ("net", "field", "value"),
    [
        ("dynamics", "dim", 48),
        ("dynamics", "num_blocks", 3),
        ("tokenizer", "dim", 36),
        ("latent_action", "code_dim", 7),
    ],
)
def test_weights_of_another_size_are_refused(folder: Path, net: str, field: str, value: int):
    change_config(folder, lambda config: config[net].update({field: value}))
    message = load_error(folder)
    assert f"{net}.safetensors" in message and "config.json" in message


@pytest.mark.parametrize(
    ("net", "change", "named"),
    [
        ("dynamics", {"num_tokens": 23}, ("num_tokens", "23", "24")),
        ("dynamics", {"codebook_size": 64}, ("codebook_size", "64", "60")),
        (
            "tokenizer",
            {"codebook": CodebookConfig(levels=(5, 4))},
            ("dynamics.codebook_size", "tokenizer.codebook.size", "20", "60"),
        ),
        ("dynamics", {"num_actions": 6}, ("dynamics.num_actions", "latent_action.num_actions")),
        ("latent_action", {"height": 64}, ("latent_action.height", "tokenizer.height", "64", "32")),
        ("latent_action", {"width": 32}, ("latent_action.width", "tokenizer.width", "32", "48")),
    ],
)
def test_configs_that_do_not_fit_each_other_are_named(net: str, change: dict, named: tuple):
    config = tiny_world_config()
    with pytest.raises(UserError) as error:
        replace(config, **{net: replace(getattr(config, net), **change)})
    assert all(word in str(error.value) for word in named), str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"maskgit_steps": 0},
        {"temperature": -0.1},
        {"choice_temperature": -1.0},
        {"guidance": 0.5},
    ],
)
def test_impossible_sampling_is_refused(values: dict):
    with pytest.raises(UserError):
        SamplingConfig(**values)


def test_guidance_wants_a_dynamics_that_knows_no_action():
    config = tiny_world_config(guidance=2.0)
    assert config.sampling.guidance == 2.0
    with pytest.raises(UserError, match="action_dropout"):
        replace(config, dynamics=replace(config.dynamics, action_dropout=0.0))


@torch.inference_mode()
def test_guidance_enlarges_what_the_action_changes(tiny_world: World):
    """Logits grow from those without an action through those with it, by the factor asked for."""
    prompt = torch.randint(256, (2, 1, 3, *tiny_world.size), dtype=torch.uint8)
    tokens = torch.full((2, 24), tiny_world.dynamics.mask_id)
    action, nothing = torch.tensor([1, 3]), torch.full((2,), tiny_world.dynamics.no_action)
    logits = {}
    for guidance in (1.0, 3.0):
        running = Sessions(Players(tiny_world), prompt, [0, 1], SamplingConfig(guidance=guidance))
        logits[guidance] = running.logits(tokens, action).float()
        if guidance == 1:
            unled = running.logits(tokens, nothing).float()
    torch.testing.assert_close(logits[3.0] - unled, 3 * (logits[1.0] - unled), atol=0.1, rtol=0.1)
    assert not torch.allclose(logits[3.0], logits[1.0]), "the action changes nothing"


def test_world_config_is_json_and_back(tiny_world_folder: Path):
    text = (tiny_world_folder / "config.json").read_text()
    assert world.read_config(tiny_world_folder) == tiny_world_config()
    assert json.loads(text)["version"] == WorldConfig().version


# Sessions


def test_same_seed_and_actions_give_the_same_bytes(lively_world: World, prompt: torch.Tensor):
    first = play(lively_world.start(prompt, seed=4))
    torch.manual_seed(999)  # what else draws at random must not matter
    assert (play(lively_world.start(prompt, seed=4)) == first).all()
    assert (play(lively_world.start(prompt, seed=5)) != first).any(), "the seed has no effect"


def test_actions_and_prompt_matter(lively_world: World, prompt: torch.Tensor):
    def last(actions: list[int], frames: torch.Tensor = prompt) -> np.ndarray:
        return play(lively_world.start(frames), actions)[-1]

    assert (last([1, 1, 1, 1]) != last([2, 2, 2, 2])).any(), "the world does not obey"
    assert (last([1], 255 - prompt) != last([1])).any(), "the prompt does not matter"


def test_first_picture_is_the_prompt_as_the_tokenizer_has_it(lively_world: World, prompt):
    with torch.no_grad():
        tokens = lively_world.tokenizer.encode(video.to_float(prompt)[None])
        wanted = video.to_uint8(lively_world.tokenizer.decode(tokens))[0, -1]
    found = lively_world.start(prompt).frame
    assert found.shape == (HEIGHT, WIDTH, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - video.to_picture(wanted)).mean() < 3, (
        "bf16 and the cached path differ by little"
    )


def test_one_frame_prompt_with_and_without_its_time_axis(lively_world: World, prompt: torch.Tensor):
    bare, stacked = (play(lively_world.start(frames)) for frames in (prompt[0], prompt[:1]))
    assert (bare == stacked).all()


def test_a_longer_prompt_is_remembered(lively_world: World, prompt: torch.Tensor):
    other = prompt.clone()
    other[-2] = 255 - other[-2]
    found, changed = (play(lively_world.start(frames), [0]) for frames in (prompt, other))
    assert (found != changed).any(), "only the prompt's last frame counts"


def test_session_is_a_rollout_of_one(lively_world: World, prompt: torch.Tensor):
    session = lively_world.start(prompt, seed=8)
    frames = lively_world.rollout(prompt[None], torch.tensor([ACTIONS]), seed=8)
    assert (frames[0].movedim(1, -1).numpy() == play(session)).all()
    assert session.num_steps == len(ACTIONS)


def test_worlds_in_a_batch_go_their_own_ways(lively_world: World, prompt: torch.Tensor):
    prompts = torch.stack([prompt, 255 - prompt])
    actions = torch.tensor([ACTIONS, ACTIONS])
    options = {"temperature": 0.0, "maskgit_steps": 1}
    together = lively_world.rollout(prompts, actions, **options)
    for index in range(2):
        alone = lively_world.rollout(prompts[index : index + 1], actions[:1], **options)
        difference = (together[index].float() - alone[0].float()).abs().mean()
        assert difference < 1, "a world in a batch depends on its neighbour"


def test_one_of_many_starts_anew_and_the_others_do_not_notice(lively_world: World, prompt):
    """Each row is what it would be alone, but for rounding in larger matrix products."""
    options = {"temperature": 0.0, "maskgit_steps": 1}
    prompts = torch.stack([prompt, 255 - prompt, prompt.flip(-1)])
    many = lively_world.start_many(prompts, seeds=[4, 5, 6], **options)
    alone = [lively_world.start(each, seed=4 + row, **options) for row, each in enumerate(prompts)]
    for step, action in enumerate(ACTIONS):
        if step == 5:
            many.reset(1, prompt[:2], seed=9)
            alone[1] = lively_world.start(prompt[:2], seed=9, **options)
            assert (video.to_picture(many.frames[1]) == alone[1].frame).all()
        frames = many.step(torch.tensor([action, 4 - action, 1]))
        for row, led_by in enumerate((action, 4 - action, 1)):
            wanted = alone[row].step(led_by).astype(int)
            difference = np.abs(video.to_picture(frames[row]).astype(int) - wanted).mean()
            assert difference < 1, f"world {row} differs by {difference} at step {step}"


def test_frames_given_out_do_not_change_later(lively_world: World, prompt: torch.Tensor):
    many = lively_world.start_many(prompt[None].expand(2, -1, -1, -1, -1))
    first = many.frames
    kept = first.clone()
    many.reset(1, 255 - prompt)
    second = many.step(torch.tensor([1, 2]))
    kept_second = second.clone()
    many.step(torch.tensor([2, 3]))
    many.reset(0, prompt)
    assert torch.equal(first, kept) and torch.equal(second, kept_second)


@pytest.mark.parametrize("likely", ["right", "wrong", "none"])
def test_what_idle_time_is_spent_on_never_shows(lively_world: World, prompt, likely: str):
    """Frames are those of a session that was never idle, bit for bit, and so are snapshots."""
    session, wanted = (lively_world.start(prompt, seed=3) for _ in range(2))
    for step, action in enumerate(ACTIONS):
        guess = {"right": action, "wrong": (action + 1) % 5, "none": None}[likely]
        session.prepare(guess)
        if step == 4:
            session.restore(session.snapshot())
        if step % 3 == 0:
            session.prepare(guess)
        assert (session.step(action) == wanted.step(action)).all(), f"step {step} shows it"


def test_a_foreseen_frame_takes_no_pass(lively_world: World, prompt, monkeypatch):
    passes = []
    logits = Sessions.logits
    monkeypatch.setattr(Sessions, "logits", lambda *args: passes.append(1) or logits(*args))
    session = lively_world.start(prompt, maskgit_steps=3)
    session.prepare(2)
    assert len(passes) == 3
    session.step(2)
    assert len(passes) == 3, "what was prepared was not used"
    session.step(2)
    assert len(passes) == 6
    with pytest.raises(UserError, match="action 5"):
        session.prepare(5)


def test_sampling_can_be_chosen_per_session(lively_world: World, prompt: torch.Tensor):
    def rollout(**options) -> np.ndarray:
        return play(lively_world.start(prompt, **options))

    own = lively_world.config.sampling
    same = {"maskgit_steps": own.maskgit_steps, "temperature": own.temperature}
    assert (rollout(**same) == rollout()).all()
    assert (rollout(temperature=0.0) != rollout()).any()
    assert (rollout(maskgit_steps=1) != rollout()).any()
    with pytest.raises(UserError, match="maskgit_steps"):
        lively_world.start(prompt, maskgit_steps=0)
    with pytest.raises(UserError, match="temperature"):
        lively_world.start(prompt, temperature=-1.0)


def test_a_session_draws_what_a_world_without_caches_would(
    lively_world: World, prompt: torch.Tensor, monkeypatch: pytest.MonkeyPatch
):
    """Frame by frame, from the whole history each time, long after the windows have slid."""
    monkeypatch.setattr(machine, "has_fast_bf16", lambda device: False)
    frames = lively_world.rollout(prompt[None], torch.tensor([ACTIONS]), seed=2)[0]
    sampling, dynamics = lively_world.config.sampling, lively_world.dynamics
    with torch.no_grad():
        tokens = lively_world.tokenizer.encode(video.to_float(prompt)[None])
        actions = lively_world.latent_action.infer(video.to_float(prompt)[None])
        for step, action in enumerate(ACTIONS):
            actions = torch.cat([actions, torch.tensor([[action]])], dim=1)
            past, steps = tokens, sampling.maskgit_steps
            drawn = noise.uniform(torch.tensor([2]), torch.tensor([step]), steps * 2 * 24)
            newest = fill_frame(
                lambda shown, past=past, actions=actions: dynamics.logits(
                    torch.cat([past, shown[:, None]], dim=1),
                    actions,
                    torch.zeros(1, past.shape[1] + 1, 24, dtype=torch.bool),
                )[:, -1],
                noise=drawn.view(1, steps, 2, 24),
                mask_id=dynamics.mask_id,
                temperature=sampling.temperature,
                choice_temperature=sampling.choice_temperature,
            )
            tokens = torch.cat([past, newest[:, None]], dim=1)
            picture = video.to_uint8(lively_world.tokenizer.decode(tokens))[0, -1]
            difference = (picture.int() - frames[step].int()).abs().max()
            assert difference <= 1, f"step {step} differs from an uncached world by {difference}"


@pytest.mark.parametrize("num_before", [0, 2, 11])
def test_restored_session_goes_on_bit_for_bit(lively_world: World, prompt, num_before: int):
    session = lively_world.start(prompt[0], seed=3)
    for step in range(num_before):
        session.step(step % 5)
    snapshot, frame = session.snapshot(), session.frame
    wanted = play(session)
    for _ in range(2):  # the second time shows whether the snapshot itself was touched
        session.restore(snapshot)
        assert session.num_steps == num_before
        assert (session.frame == frame).all(), "the picture is not that of the snapshot"
        assert (play(session) == wanted).all(), "history took another course after restore"


def test_snapshots_branch(lively_world: World, prompt: torch.Tensor):
    session = lively_world.start(prompt, seed=3)
    play(session, [1, 2, 3, 4])
    root = session.snapshot()
    left = play(session, [1, 1, 1])
    branch = session.snapshot()
    session.restore(root)
    right = play(session, [2, 2, 2])
    session.restore(branch)
    after_left = play(session, [0, 0])
    session.restore(root)
    assert (play(session, [1, 1, 1]) == left).all() and (left != right).any()
    assert (play(session, [0, 0]) == after_left).all()


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2, 3, 4, "save", "back"]), max_size=12))
def test_going_back_and_forth_never_changes_history(lively_world: World, prompt, moves: list):
    """Whatever is saved and restored on the way, the frames are those of the actions that count."""
    session = lively_world.start(prompt[0], maskgit_steps=1)
    taken, saved = [], (session.snapshot(), [])
    for move in moves:
        if move == "save":
            saved = session.snapshot(), list(taken)
        elif move == "back":
            session.restore(saved[0])
            taken = list(saved[1])
        else:
            session.step(move)
            taken.append(move)
    straight = lively_world.start(prompt[0], maskgit_steps=1)
    for action in taken:
        straight.step(action)
    assert (session.frame == straight.frame).all() and session.num_steps == len(taken)


@pytest.mark.parametrize("action", [-1, 5, 100])
def test_unknown_action_is_refused_and_nothing_happens(lively_world: World, prompt, action: int):
    session = lively_world.start(prompt)
    before = session.frame
    with pytest.raises(UserError, match=f"action {action}.*0 to 4"):
        session.step(action)
    assert session.num_steps == 0 and (session.frame == before).all()
    untouched = lively_world.start(prompt)
    assert (play(session) == play(untouched)).all()


@pytest.mark.parametrize("shape", [(3, 48, 32), (2, 3, 64, 64), (3, 16, 48)])
def test_prompt_of_another_size_is_refused(lively_world: World, shape: tuple):
    with pytest.raises(UserError, match="32x48") as error:
        lively_world.start(torch.zeros(shape, dtype=torch.uint8))
    assert f"{shape[-2]}x{shape[-1]}" in str(error.value)


def test_a_session_runs_for_ever_at_constant_size(lively_world: World, prompt: torch.Tensor):
    session = lively_world.start(prompt[0], maskgit_steps=1)
    sizes = []
    for step in range(300):
        session.step(step % 5)
        if step % 50 == 49:
            sizes.append(session_bytes(session))
    assert all(a == b for a, b in pairwise(sizes)), f"it grows: {sizes}"
    assert session.num_steps == 300 and len(np.unique(session.frame)) > 1


def session_bytes(session: Session) -> int:
    """Memory of every tensor that a snapshot holds on to."""
    found, waiting = {}, [session.snapshot()]
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, (tuple, list)):
            waiting += thing
        elif hasattr(thing, "__dict__"):
            waiting += vars(thing).values()
    return sum(found.values())
