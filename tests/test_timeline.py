"""Playthroughs: what is remembered, and that no way back and forth in time leaves a trace."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from square import SETTINGS, MovingSquare

from genie import video
from genie.errors import UserError
from play.game import Press, Settings, exactly
from play.recording import digest
from play.timeline import KEYFRAME_EVERY, Playthrough, free_name

REACH = 40


def square(**limits):
    return Playthrough(MovingSquare(), SETTINGS, **limits)


def random_actions(count, num_actions=6, seed=0):
    return np.random.default_rng(seed).integers(num_actions, size=count).tolist()


def used_settings(played):
    return tuple(step.settings for step in played.steps)


def assert_nothing_shows(played, start):
    """What is played has exactly the digests of a fresh playthrough of its actions."""
    first = played.steps[0].settings if played.steps else played.settings
    fresh = Playthrough(start(first), first)
    for step in played.steps:
        fresh.tune(step.settings)
        fresh.step(step.action)
    assert played.digests == fresh.digests
    assert digest(played.frame) == fresh.digests[-1], "what is shown is what was played"
    assert played.shown_digest == fresh.digests[-1]
    assert [digest(frame) for frame in played.frames] == list(fresh.digests[-len(played.frames) :])


# What is remembered


def test_the_first_frame_and_every_step_are_kept():
    played = square()
    shown = [played.frame, *(played.step(action) for action in (4, 4, 2))]
    assert played.actions == (4, 4, 2) and played.position == 3
    assert used_settings(played) == (SETTINGS,) * 3
    assert [digest(frame) for frame in shown] == list(played.digests)
    assert (np.stack(played.frames) == np.stack(shown)).all()
    assert len(played.latencies_ms) == 3
    assert_nothing_shows(played, lambda settings: MovingSquare(0, settings))


def test_the_oldest_frames_are_forgotten_but_no_digest():
    played = square(max_frames=4)
    shown = [played.step(action) for action in random_actions(10)]
    assert (np.stack(played.frames) == np.stack(shown[-4:])).all()
    assert len(played.actions) == 10 and len(played.digests) == 11


def test_settings_are_kept_with_the_action_that_was_taken_under_them():
    played, other = square(), Settings(1, 0.0)
    played.step(1)
    played.tune(other)
    played.step(2)
    assert used_settings(played) == (SETTINGS, other)


def test_impossible_settings_change_nothing():
    played = square(reach=REACH)
    played.step(4)
    with pytest.raises(UserError):
        played.tune(Settings(0, 0.5))
    played.step(4)
    assert played.settings == SETTINGS and used_settings(played) == (SETTINGS,) * 2
    assert_nothing_shows(played, lambda settings: MovingSquare(0, settings))


# Back in time


def test_three_hundred_frames_go_back_and_come_again():
    played = square(max_frames=1800, reach=400)
    actions = random_actions(1000)
    shown = [played.frame, *(played.step(action) for action in actions)]
    for back in range(1, 301):
        assert played.rewind(), f"no further back than {back} frames"
        assert (played.frame == shown[1000 - back]).all()
        assert played.position == 1000 - back
    again = [played.step(action) for action in actions[700:]]
    assert (np.stack(again) == np.stack(shown[701:])).all()
    assert_nothing_shows(played, lambda settings: MovingSquare(0, settings))


@pytest.mark.parametrize("reach", [1, KEYFRAME_EVERY, REACH])
def test_the_way_back_ends_at_the_start_or_at_the_reach(reach):
    for steps in (*range(4 * KEYFRAME_EVERY), 200):
        played = square(reach=reach)
        for action in random_actions(steps):
            played.step(action)
        back = 0
        while played.rewind():
            back += 1
        assert back == min(steps, reach)
        assert played.position == steps - back, "a refused step back moves nothing"


def test_without_reach_there_is_no_way_back_and_no_snapshot():
    class NoSnapshots(MovingSquare):
        def snapshot(self):
            pytest.fail("a snapshot costs the game's whole memory")

    played = Playthrough(NoSnapshots(), SETTINGS)
    for action in random_actions(3 * KEYFRAME_EVERY):
        played.step(action)
    assert not played.rewind()


def test_snapshots_out_of_reach_are_dropped():
    """Each holds the game's memory, so an endless play must not collect them."""
    alive = set()

    class Counted(MovingSquare):
        def snapshot(self):
            return Snapshot(super().snapshot())

        def restore(self, snapshot):
            super().restore(snapshot.state)

    class Snapshot:
        def __init__(self, state):
            self.state = state
            alive.add(id(self))

        def __del__(self):
            alive.discard(id(self))

    played = Playthrough(Counted(), SETTINGS, reach=REACH)
    for action in random_actions(10 * REACH):
        played.step(action)
        assert len(alive) <= REACH // KEYFRAME_EVERY + 2


def test_only_what_is_shown_is_read_while_time_goes_back():
    played = square(reach=REACH)
    for action in (4, 4, 2, 1):
        played.step(action)
    played.rewind()
    played.rewind()
    assert played.actions == (4, 4) and len(played.digests) == len(played.frames) == 3
    played.prepare(exactly(4))
    assert played.game.prepared == [], "the game itself is not there yet"


def test_going_on_from_the_past_is_tuned_as_at_present():
    played = square(reach=REACH)
    for action in (4, 4, 4):
        played.step(action)
    played.rewind()
    played.tune(Settings(2, 0.0))
    played.rewind()
    played.step(5)
    assert used_settings(played) == (SETTINGS, Settings(2, 0.0))
    assert_nothing_shows(played, lambda settings: MovingSquare(0, settings))


class SlowToChoose(MovingSquare):
    """Its own clock: a choice takes 2 ms, a step 1 ms."""

    now = 0.0

    def choose(self, wish):
        self.now += 0.002
        return super().choose(wish)

    def step(self, action):
        self.now += 0.001
        return super().step(action)


def test_a_wish_is_chosen_for_and_remembered(monkeypatch):
    game = SlowToChoose()
    monkeypatch.setattr("play.timeline.time", SimpleNamespace(perf_counter=lambda: game.now))
    played = Playthrough(game, SETTINGS, reach=REACH)
    wishes = [(1.0, 0.0, 2.0), (0.0, 1.0, 1.0)]
    for wish in wishes:
        likely = Press(0, "left", wish)
        played.prepare(likely)
        played.follow(likely)
        assert played.game.prepared[-1] == played.actions[-1] and wish[played.actions[-1]]
    played.step(4)
    assert [step.wished for step in played.steps] == ["left", "left", None]
    assert list(played.latencies_ms) == pytest.approx([3, 3, 1]), "the choice counts, too"
    mark = played.bookmark()
    played.rewind()
    played.rewind()
    assert [step.wished for step in played.steps] == ["left"]
    played.follow(Press(0, "up", wishes[0]))
    assert [step.wished for step in played.steps] == ["left", "up"]
    played.go_to(mark)
    assert [step.wished for step in played.steps] == ["left", "left", None]
    assert_nothing_shows(played, lambda settings: MovingSquare(0, settings))


def test_futures_show_what_would_come_and_move_nothing():
    played = square(reach=REACH)
    for action in (4, 2, 0):
        played.step(action)
    played.rewind()
    coming = played.futures()
    films = [next(coming) for _ in range(5)]
    assert played.position == 2 and not played.game.prepared
    for action in range(6):
        bookmark = played.bookmark()
        for film in films:
            assert (played.step(action) == film[action]).all()
        played.go_to(bookmark)


# A playthrough is whatever happened, in any order

MOMENTS = st.one_of(
    st.tuples(st.just("hold"), st.tuples(st.integers(0, 4), st.integers(1, 8))),
    st.tuples(st.just("hold"), st.tuples(st.integers(0, 4), st.integers(1, 8))),
    st.tuples(st.just("rewind"), st.integers(1, 20)),
    st.tuples(st.just("bookmark"), st.none()),
    st.tuples(st.just("go_to"), st.integers(0, 3)),
    st.tuples(st.just("tune"), st.tuples(st.integers(1, 3), st.sampled_from([0.0, 0.5, 2.0]))),
    st.tuples(st.just("prepare"), st.integers(0, 4)),
    st.tuples(st.just("futures"), st.none()),
)

WISHED = st.tuples(st.just("wish"), st.sampled_from([(1.0, 0.0, 2.0), (0.0, 0.5, 0.5, 0.1)]))


@pytest.fixture(scope="module")
def many_snapshots():
    """Four times as many as in play, so that short plays come across them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("play.timeline.KEYFRAME_EVERY", KEYFRAME_EVERY // 4)
        yield


def live(played, moments):
    """Do it all; gives the pictures that stood on the screen, each with its digest then."""
    bookmarks, shown = [], []
    for what, how in moments:
        if what == "hold":
            for _ in range(how[1]):
                played.step(how[0])
        elif what == "wish":
            played.follow(Press(0, "right", how))
            assert played.steps[-1].wished == "right" and how[played.actions[-1]]
        elif what == "rewind":
            for _ in range(how):
                played.rewind()
        elif what == "bookmark":
            bookmarks.append(played.bookmark())
        elif what == "go_to" and bookmarks:
            played.go_to(bookmarks[how % len(bookmarks)])
        elif what == "tune":
            played.tune(Settings(*how))
        elif what == "prepare":
            played.prepare(exactly(how))
        elif what == "futures":
            next(played.futures())
        shown.append((played.frame, digest(played.frame)))
    return shown


@given(st.lists(MOMENTS | WISHED, max_size=40))
@settings(deadline=None, max_examples=300)
def test_whatever_happened_nothing_shows_in_a_game(many_snapshots, moments):
    played = square(reach=REACH, max_frames=REACH + 5)
    shown = live(played, moments)
    assert_nothing_shows(played, lambda settings: MovingSquare(0, settings))
    assert all(digest(frame) == then for frame, then in shown), "a frame given out stays as it is"


@given(st.lists(MOMENTS, max_size=10))
@settings(deadline=None, max_examples=10)
def test_whatever_happened_nothing_shows_in_a_world(many_snapshots, tiny_world, prompt, moments):
    def start(settings):
        return tiny_world.start(prompt, seed=5, **settings._asdict())

    first = Settings(2, 1.0)
    played = Playthrough(start(first), first, reach=REACH)
    shown = live(played, moments)
    assert_nothing_shows(played, start)
    assert all(digest(frame) == then for frame, then in shown), "a frame given out stays as it is"


def test_a_bookmark_of_a_way_that_was_left_can_be_rewound(many_snapshots):
    """Snapshots of the other way must not be taken for those of this one."""
    played = square(reach=REACH)
    for action in random_actions(30):
        played.step(action)
    bookmark = played.bookmark()
    for _ in range(20):
        played.rewind()
    for action in random_actions(10, seed=1):
        played.step(action)
    played.go_to(bookmark)
    for _ in range(10):
        assert played.rewind(), "the way to a bookmark comes back with it"
    played.step(2)
    assert_nothing_shows(played, lambda settings: MovingSquare(0, settings))


def test_a_world_goes_back_over_many_snapshots(tiny_world, prompt):
    """Further than the context of its dynamics and than several snapshots."""
    first = Settings(1, 1.0)
    game = tiny_world.start(prompt, seed=2, **first._asdict())
    played = Playthrough(game, first, reach=4 * KEYFRAME_EVERY)
    actions = random_actions(90, num_actions=5)
    shown = [played.frame, *(played.step(action) for action in actions)]
    assert len({digest(frame) for frame in shown}) > 60, "this world is to move all the time"
    for _ in range(60):
        assert played.rewind()
    again = [played.step(action) for action in actions[30:]]
    assert (np.stack(again) == np.stack(shown[31:])).all()


# Names of files


def test_free_name_never_overwrites(tmp_path):
    path = tmp_path / "rollout.gif"
    names = []
    for _ in range(3):
        names.append(free_name(path).name)
        free_name(path).touch()
    assert names == ["rollout.gif", "rollout-1.gif", "rollout-2.gif"]


def test_a_playthrough_can_be_written(tmp_path):
    played = square()
    for action in (4, 4):
        played.step(action)
    video.write(tmp_path / "a.gif", played.frames, fps=10.0)
    found = video.read(tmp_path / "a.gif")
    assert (found == np.stack(played.frames)).all()
