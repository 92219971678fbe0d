"""Sessions: they repeat, branch, start anew one by one, and run for ever."""

import copy
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HEIGHT, WIDTH
from hypothesis import given, settings
from hypothesis import strategies as st

import genie
from genie import machine, noise, torch_engine, video
from genie import world as world_module
from genie.errors import UserError
from genie.frame import Reveal
from genie.frames import from_pictures, to_float, to_pictures, to_uint8
from genie.maskgit import reveal
from genie.sampling import Pace, fill_frame
from genie.session import Foreseen, Session, Sessions
from genie.torch_engine import TorchEngine
from genie.world import World

REPOSITORY = Path(__file__).resolve().parents[1]
ACTIONS = [0, 1, 1, 4, 2, 3, 0, 2, 2, 1, 4, 4]


def play(session: Session, actions: list[int] = ACTIONS) -> np.ndarray:
    return np.stack([session.step(action) for action in actions])


def test_guidance_enlarges_what_the_action_changes(tiny_world: World, monkeypatch):
    """In the first pass over a frame alone: the others go by what it showed."""
    monkeypatch.setattr(machine, "has_fast_bf16", lambda device: False)
    prompts = torch.randint(256, (2, 1, 3, *tiny_world.size), dtype=torch.uint8)
    seen, predict = [], Reveal.logits

    def note(net, tokens, actions, unled, guidance, past):
        found = predict(net, tokens, actions, unled, guidance, past)
        nothing = torch.full_like(actions, tiny_world.dynamics.no_action)
        led, unled = (net.dynamics.next_logits(tokens, each, past) for each in (actions, nothing))
        seen.append(((found - unled) / (led - unled)).median().item())
        return found

    monkeypatch.setattr(Reveal, "logits", note)
    sampling = replace(tiny_world.config.sampling, guidance=3.0, entropy_bound=0.0)
    world = copy.copy(tiny_world)
    world.config = replace(world.config, sampling=sampling)
    running = world.start_many(prompts, maskgit_steps=3)
    for _ in range(2):
        running.step(np.array([1, 3]))
    assert seen == pytest.approx([3, 1, 1] * 2, abs=0.01)


def test_same_seed_and_actions_give_the_same_bytes(lively_world: World, prompt: torch.Tensor):
    first = play(lively_world.start(prompt, seed=4))
    torch.manual_seed(999)  # what else draws at random must not matter
    assert (play(lively_world.start(prompt, seed=4)) == first).all()
    assert (play(lively_world.start(prompt, seed=5)) != first).any(), "the seed has no effect"


def test_a_bound_lets_frames_take_fewer_passes(lively_world: World, prompt: torch.Tensor):
    counts = {}
    for bound in (0.0, 0.6, 100.0):
        world = copy.copy(lively_world)
        sampling = replace(world.config.sampling, entropy_bound=bound)
        world.config = replace(world.config, sampling=sampling)
        running = world.start_many(prompt[None])
        for action in ACTIONS:
            running.step(torch.tensor([action]))
        counts[bound] = running.num_passes / len(ACTIONS)
    assert counts[0.0] == 3 > counts[0.6] > counts[100.0] == 1


def test_actions_and_prompt_matter(lively_world: World, prompt: torch.Tensor):
    def last(actions: list[int], frames: torch.Tensor = prompt) -> np.ndarray:
        return play(lively_world.start(frames), actions)[-1]

    assert (last([1, 1, 1, 1]) != last([2, 2, 2, 2])).any(), "the world does not obey"
    assert (last([1], 255 - prompt) != last([1])).any(), "the prompt does not matter"


def test_first_picture_is_the_prompt_as_the_tokenizer_has_it(lively_world: World, prompt):
    with torch.no_grad():
        tokens = lively_world.tokenizer.encode(to_float(prompt)[None])
        wanted = to_uint8(lively_world.tokenizer.decode(tokens))[0, -1]
    found = lively_world.start(prompt).frame
    assert found.shape == (HEIGHT, WIDTH, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - to_pictures(wanted)).mean() < 3, (
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
            assert (np.moveaxis(many.frames[1], 0, -1) == alone[1].frame).all()
        frames = many.step(torch.tensor([action, 4 - action, 1]))
        for row, led_by in enumerate((action, 4 - action, 1)):
            wanted = alone[row].step(led_by).astype(int)
            difference = np.abs(np.moveaxis(frames[row], 0, -1).astype(int) - wanted).mean()
            assert difference < 1, f"world {row} differs by {difference} at step {step}"


def test_what_does_not_fit_the_worlds_is_refused(lively_world: World, prompt: torch.Tensor):
    prompts = prompt[None].expand(2, -1, -1, -1, -1)
    with pytest.raises(UserError, match="3 seeds for 2 prompts"):
        lively_world.start_many(prompts, seeds=[1, 2, 3])
    many = lively_world.start_many(prompts)
    before = many.frames.copy()
    for row in (-1, 2):
        with pytest.raises(UserError, match=f"world {row} does not exist"):
            many.reset(row, prompt)
    for take in (many.step, many.prepare):
        with pytest.raises(UserError, match="1 actions for 2 worlds"):
            take(torch.tensor([1]))
        with pytest.raises(UserError, match="action 5 does not exist"):
            take(torch.tensor([1, 5]))
    assert (many.frames == before).all()


def test_the_callers_tensor_may_be_used_again(lively_world: World, prompt: torch.Tensor):
    many, wanted = (lively_world.start_many(prompt[None], seeds=[3]) for _ in range(2))
    buffer = torch.zeros(1, dtype=torch.long)
    for action in ACTIONS:
        buffer.fill_(action)
        assert (many.step(buffer) == wanted.step(torch.tensor([action]))).all()
        buffer.fill_(1)
        many.prepare(buffer)
        buffer.fill_(0)


REFUSED = """
import sys, numpy as np, torch, genie

world = genie.load(sys.argv[1]).cpu()
prompt = torch.randint(256, (1, 2, 3, *world.size), dtype=torch.uint8)
session = world.start(prompt[0], seed=3)
many = session._running
many.prepare(torch.tensor([2]))
takes = [2.5, 3.0, "a", None, [1], 2**70]
rows = [torch.tensor([2.0]), [2], np.array([2.0]), torch.tensor(2), np.array([[2]])]
prompts = [prompt.float() / 255, prompt[:, :, :1], prompt[:0], prompt[:, :0], prompt[0],
           prompt.numpy()[0], "prompt"]
seeds = [2**63, -1, 1.5, "a", None]
calls = [
    *((session.step, take) for take in takes),
    *((many.step, row) for row in rows),
    *((world.start_many, each) for each in prompts),
    *((lambda seed: world.start_many(prompt, seeds=[seed]), seed) for seed in seeds),
    (lambda actions: world.rollout(prompt, actions), torch.zeros(1, 0, dtype=torch.long)),
]
for call, argument in calls:
    try:
        call(argument)
    except genie.UserError as error:
        assert len(str(error).splitlines()) == 1, error
    else:
        raise SystemExit(f"not refused: {argument!r}")
wanted = world.start(prompt[0], seed=3)
for action in (2, np.uint8(1), torch.tensor(0)):
    assert (session.step(action) == wanted.step(int(action))).all(), "a refusal left a trace"
narrow = many.step(torch.tensor([1], dtype=torch.uint8))
assert (np.moveaxis(narrow[0], 0, -1) == wanted.step(1)).all()
"""


def test_what_cannot_be_played_is_refused_and_harms_nothing(tiny_world_folder: Path):
    """As a plain program runs, without the checks of shapes that tests have."""
    result = subprocess.run(
        [sys.executable, "-c", REFUSED, str(tiny_world_folder)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert result.returncode == 0, result.stderr


def test_prompts_may_be_views_that_cannot_be_written(lively_world: World, prompt: torch.Tensor):
    frames = prompt[None].numpy()
    turned = frames[..., ::-1]
    turned.flags.writeable = False
    found = lively_world.start_many(turned, seeds=[3]).step(np.array([1]))
    assert (found == lively_world.start_many(turned.copy(), seeds=[3]).step(np.array([1]))).all()


def test_a_snapshot_goes_only_where_there_is_room(lively_world: World, prompt: torch.Tensor):
    many = lively_world.start_many(prompt[None].expand(2, -1, -1, -1, -1))
    for row in (-1, 1, 2):
        with pytest.raises(UserError, match="snapshot of 2 worlds"):
            many.restore(many.snapshot(), row)


def test_frames_given_out_do_not_change_later(lively_world: World, prompt: torch.Tensor):
    many = lively_world.start_many(prompt[None].expand(2, -1, -1, -1, -1))
    first = many.frames
    kept = first.copy()
    many.reset(1, 255 - prompt)
    second = many.step(torch.tensor([1, 2]))
    kept_second = second.copy()
    many.step(torch.tensor([2, 3]))
    many.reset(0, prompt)
    assert (first == kept).all() and (second == kept_second).all()


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
    reveals = TorchEngine.reveal
    monkeypatch.setattr(TorchEngine, "reveal", lambda *args: passes.append(1) or reveals(*args))
    session = lively_world.start(prompt, maskgit_steps=3)
    for _ in range(2):
        session.prepare(2)
        first = len(passes)
        assert 1 <= first == session.num_passes <= 3
    session.step(2)
    assert len(passes) == first, "what was prepared was not used"
    session.step(2)
    assert len(passes) == session.num_passes > first
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
        tokens = lively_world.tokenizer.encode(to_float(prompt)[None])
        actions = lively_world.latent_action.infer(to_float(prompt)[None])
        for step, action in enumerate(ACTIONS):
            actions = torch.cat([actions, torch.tensor([[action]])], dim=1)
            past, steps = tokens, sampling.maskgit_steps
            drawn = noise.uniform(np.array([2]), np.array([step]), steps * 2 * 24)
            numbers = torch.from_numpy(drawn).view(1, steps, 2, 24)

            def one_pass(shown, number, pace, past=past, actions=actions, numbers=numbers):
                shown = torch.from_numpy(shown)
                clip = torch.cat([past, shown[:, None]], dim=1)
                logits = dynamics.logits(clip, actions, torch.zeros_like(clip, dtype=torch.bool))
                pace = Pace(*(torch.from_numpy(np.asarray(each)) for each in pace))
                picked = reveal(logits[:, -1], shown, numbers[:, number], dynamics.factors, pace)
                return picked.numpy()

            hidden = np.full((1, 24), dynamics.mask_id)
            newest = torch.from_numpy(fill_frame(one_pass, hidden, dynamics.mask_id, sampling))
            tokens = torch.cat([past, newest[:, None]], dim=1)
            picture = to_uint8(lively_world.tokenizer.decode(tokens))[0, -1]
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
    """Memory of every array that a snapshot holds on to."""
    found, waiting = {}, [session.snapshot()]
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif isinstance(thing, np.ndarray):
            found[thing.ctypes.data] = thing.nbytes
        elif isinstance(thing, (tuple, list)):
            waiting += thing
        elif hasattr(thing, "__dict__"):
            waiting += vars(thing).values()
    return sum(found.values())


@pytest.mark.skipif(not machine.has_fast_bf16(torch.device("cpu")), reason="computes in float32")
def test_the_quick_number_format_changes_little(monkeypatch):
    """The shipped world in bf16 beside itself in float32, led along the same tokens.

    The bounds are three times what was measured.
    """
    world = genie.load(REPOSITORY / "checkpoints" / "coinrun").cpu()
    images = sorted((REPOSITORY / "checkpoints" / "coinrun" / "prompts").glob("*.png"))
    prompts = from_pictures(np.stack([[video.read_image(path, world.size)] for path in images]))
    monkeypatch.setattr(torch_engine, "autocast", lambda *_, **__: nullcontext())  # same prompts
    quick = world.start_many(prompts, temperature=0.0)
    monkeypatch.setattr(torch_engine, "quick_dtype", lambda _: torch.float32)
    monkeypatch.setattr(world_module, "quick_dtype", lambda _: torch.float32)
    exact = world.start_many(prompts, temperature=0.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(12):
        actions = torch.randint(world.num_actions, (len(images),), generator=generator)
        exact.prepare(actions)
        quick.prepare()
        found, wanted = (logits_of(running, actions) for running in (quick, exact))
        tokens = exact._foreseen[1].tokens
        shown = quick._engine.show(tokens, quick._shown.past())
        quick._foreseen = actions.numpy(), Foreseen(tokens, *shown)
        apart = (found.softmax(-1) - wanted.softmax(-1)).abs().sum(-1) / 2
        assert apart.mean() < 0.03, "the tokens are drawn from other distributions"
        agree = found.argmax(-1) == wanted.argmax(-1)
        assert agree.float().mean() > 0.95, "other tokens are the most likely"
        difference = np.abs(quick.step(actions).astype(int) - exact.step(actions))
        assert difference.max() <= 12 and difference.mean() < 0.5, "other pixels"


@torch.no_grad()
def logits_of(running: Sessions, actions: torch.Tensor) -> torch.Tensor:
    """What the first pass over the next frame says."""
    net, past = running._engine.dynamics, running._past.past()
    hidden = torch.full((len(actions), 64), net.mask_id)
    return net.next_logits(hidden, actions, past).float()


def test_futures_are_what_holding_each_action_gives(lively_world: World, prompt: torch.Tensor):
    game = lively_world.start(prompt, seed=4)
    play(game)
    moment = game.snapshot()
    foreseen = np.stack([frames for _, frames in zip(range(4), game.futures(), strict=False)])
    assert (game.frame == play(lively_world.start(prompt, seed=4))[-1]).all(), "it moved"
    assert foreseen.shape == (4, game.num_actions, HEIGHT, WIDTH, 3)
    for action in range(game.num_actions):
        game.restore(moment)
        # Batches of another size may round otherwise, which a draw can turn into another token.
        held = play(game, [action] * 4).astype(int)
        assert np.abs(held - foreseen[:, action]).mean() < 1
    assert len({foreseen[-1, action].tobytes() for action in range(game.num_actions)}) > 1


def test_only_a_single_world_forks(lively_world: World, prompt: torch.Tensor):
    many = lively_world.start_many(prompt[None].expand(2, -1, -1, -1, -1))
    with pytest.raises(UserError, match="2 worlds run here"):
        many.fork(3)


def test_tuned_while_it_runs_a_session_draws_as_if_started_so(lively_world: World, prompt):
    game = lively_world.start(prompt, seed=4, maskgit_steps=1, temperature=0.0)
    game.prepare(ACTIONS[0])  # a guess under settings that then change
    game.tune(maskgit_steps=2, temperature=1.5)
    assert (game.sampling.maskgit_steps, game.sampling.temperature) == (2, 1.5)
    wanted = lively_world.start(prompt, seed=4, maskgit_steps=2, temperature=1.5)
    assert (play(game) == play(wanted)).all()
    game.tune(temperature=0.5)
    assert game.sampling.maskgit_steps == 2, "what is not given stays"
    for wrong in ({"maskgit_steps": 0}, {"temperature": -1.0}, {"temperature": float("nan")}):
        with pytest.raises(UserError):
            game.tune(**wrong)


def test_sessions_share_their_nets_until_a_weight_changes(lively_world: World, prompt):
    lively = copy.deepcopy(lively_world)
    before = play(lively.start(prompt, seed=4))
    shared = lively.start_many(prompt[None])._engine
    assert lively.start_many(prompt[None])._engine is shared
    with torch.no_grad():
        lively.dynamics.out.weight.neg_()
    assert lively.start_many(prompt[None])._engine is not shared
    assert (play(lively.start(prompt, seed=4)) != before).any(), "stale weights were played"
