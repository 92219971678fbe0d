"""The screens of the window in this process: what can be told without pixels and real keys."""

import json
from dataclasses import replace
from threading import Event

import numpy as np
import pygame
import pytest
from hands import click, let_in, post, press, release, tap, until
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from square import (
    FINGERPRINT,
    KEYMAP,
    KEYS,
    SIDE,
    START,
    MovingSquare,
    make_opening,
    open_window,
    played_afresh,
    with_film,
)

from genie import video
from genie.errors import UserError
from play import bindings
from play.__main__ import main
from play.overlay import captioned
from play.player import HOTTEST, MOST_STEPS
from play.recording import Recording, digest
from play.window.game_screen import KEY_NAMES, GameScreen
from play.window.gamepad import Gamepads
from play.window.what_if import WhatIfScreen

FPS = 200.0
RIGHT = KEYS["right"]


@pytest.fixture
def own_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    return bindings.path_for(FINGERPRINT)


@pytest.fixture
def desk(no_screen, own_keys, tmp_path):
    """Opens windows with the game."""

    def desk(opening=None, **options):
        opening = opening or make_opening(fps=FPS)
        return open_window(opening, tmp_path / "rollout.gif", **options)

    return desk


@pytest.fixture
def square(desk):
    return desk()


def actions_of(playing):
    return playing.player.playthrough.actions


def assert_nothing_shows(playing):
    """Neither keys nor time nor idle work left a trace."""
    played = playing.player.playthrough
    assert digest(played.frame) == played.digests[-1]
    if played.actions:
        assert played_afresh(playing.player.recording()).digests == played.digests


def play(window, playing, *keys):
    """Tap keys, each after the step of the one before."""
    for key in keys:
        count = playing.player.playthrough.position
        tap(key)
        until(window, lambda before=count: playing.player.playthrough.position > before)


# The loop


def test_idle_time_goes_into_the_picture_that_a_held_key_will_want(desk):
    """Just once a step, and only after the step's own picture is on the screen."""
    window, playing = desk(make_opening(fps=10.0))
    game = playing.player.playthrough.game
    press(pygame.K_RIGHT)
    for _ in range(200):
        window.tick()
        steps = game.x - START[0]
        assert game.prepared == [RIGHT] * steps
        if steps == 3:
            return
    pytest.fail("three steps take no 200 ticks")


def test_close_button_ends_well(square):
    window, _ = square
    post(pygame.QUIT)
    window.run()
    assert not pygame.display.get_init(), "the window is gone"


def test_a_file_that_fails_while_the_window_closes_is_an_error(square, monkeypatch):
    window, playing = square
    closes = Event()
    monkeypatch.setattr(playing, "close", closes.set)

    def fail():
        assert closes.wait(timeout=30)
        raise UserError("cannot write it: the disk is full")

    window.save(fail)
    post(pygame.QUIT)
    with pytest.raises(UserError, match="the disk is full"):
        window.run()


def test_nothing_is_due_while_the_world_waits(square):
    window, playing = square
    assert playing.wait() == 1.0
    play(window, playing, pygame.K_RIGHT)
    until(window, lambda: playing.wait() == 1.0)
    press(pygame.K_q)
    window.tick()
    assert playing.wait() == 1.0, "a key that means nothing keeps the machine busy"
    press(pygame.K_RIGHT)
    until(window, lambda: len(actions_of(playing)) > 1)
    assert playing.wait() <= 1 / FPS, "a held key wants the next frame"


def test_a_step_is_taken_under_the_keys_that_are_down(square):
    window, playing = square
    play(window, playing, pygame.K_a, pygame.K_3, pygame.K_KP3, pygame.K_w)
    assert actions_of(playing) == (KEYS["left"], 2, 2, KEYS["up"])
    press(pygame.K_RIGHT)
    press(pygame.K_UP)
    window.tick()
    until(window, lambda: len(actions_of(playing)) > 6)
    release(pygame.K_UP)
    until(window, lambda: actions_of(playing)[-1] == RIGHT)
    assert KEYS["right_up"] in actions_of(playing)
    assert_nothing_shows(playing)


def test_held_keys_are_let_go_when_the_window_loses_the_keyboard(square):
    window, playing = square
    for key, is_at_work in (
        (pygame.K_RIGHT, lambda: len(actions_of(playing)) >= 30),
        (pygame.K_BACKSPACE, lambda: len(actions_of(playing)) <= 25),
    ):
        press(key)
        until(window, is_at_work)
        post(pygame.WINDOWFOCUSLOST)
        until(window, lambda: playing.wait() == 1.0)
        before = actions_of(playing)
        release(key)
        play(window, playing, pygame.K_3)
        assert actions_of(playing) == (*before, 2), "it went on after the keyboard was lost"


def test_rewinding_ends_at_the_start_and_says_so(square):
    window, playing = square
    play(window, playing, *[pygame.K_RIGHT] * 3)
    press(pygame.K_BACKSPACE)
    until(window, lambda: window.notice == "no further back")
    assert actions_of(playing) == () and playing.wait() <= 1 / FPS
    release(pygame.K_BACKSPACE)
    until(window, lambda: playing.wait() == 1.0)
    play(window, playing, pygame.K_3)
    assert actions_of(playing) == (2,)
    assert_nothing_shows(playing)


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        (pygame.K_MINUS, {"temperature": 0.0}),
        (pygame.K_LEFTBRACKET, {"maskgit_steps": 1}),
        (pygame.K_RIGHTBRACKET, {"maskgit_steps": MOST_STEPS}),
        (pygame.K_KP_PLUS, {"temperature": HOTTEST}),
    ],
)
def test_settings_stop_at_their_limits(square, key, changed):
    window, playing = square
    before = playing.player.playthrough.settings
    tap(*[key] * 75)
    until(window, lambda: True)
    assert playing.player.playthrough.settings == before._replace(**changed)
    assert playing.player.playthrough.game.settings == playing.player.playthrough.settings


def test_a_bookmark_is_of_its_own_start(square):
    window, playing = square
    tap(pygame.K_F9)
    until(window, lambda: "no bookmark" in window.notice)
    play(window, playing, pygame.K_RIGHT)
    tap(pygame.K_F5, pygame.K_r, pygame.K_F9)
    until(window, lambda: "no bookmark" in window.notice)
    assert actions_of(playing) == ()


KEYS_OF_ALL_KINDS = sorted(
    {*KEY_NAMES, pygame.K_BACKSPACE, pygame.K_DELETE, pygame.K_TAB, pygame.K_F1, pygame.K_F5}
    | {pygame.K_F9, pygame.K_PERIOD, pygame.K_MINUS, pygame.K_EQUALS, pygame.K_LEFTBRACKET}
    | {pygame.K_RIGHTBRACKET, pygame.K_ESCAPE, pygame.K_HOME}
)
PLACES = st.tuples(st.integers(0, 639), st.integers(0, 465))
HAPPENINGS = st.one_of(
    st.tuples(st.just(press), st.sampled_from(KEYS_OF_ALL_KINDS)),
    st.tuples(st.just(release), st.sampled_from(KEYS_OF_ALL_KINDS)),
    st.tuples(st.just(tap), st.sampled_from(KEYS_OF_ALL_KINDS)),
    st.tuples(st.just(click), PLACES),
    st.tuples(st.just(post), st.just(pygame.WINDOWFOCUSLOST)),
    st.tuples(st.just(pygame.key.set_mods), st.sampled_from([0, pygame.KMOD_SHIFT])),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(HAPPENINGS, min_size=20, max_size=60))
def test_whatever_is_pressed_the_frames_are_those_of_the_actions(tmp_path_factory, happenings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("own")))
        patch.setenv("SDL_VIDEODRIVER", "dummy")
        patch.setattr("play.window.game_screen.GameScreen._save", lambda *_: None)
        patch.setattr("play.window.game_screen.GameScreen._save_recording", lambda *_: None)
        from play.window.window import open_display

        assert open_display()
        # Twenty frames of what would come cost more than all the rest.
        window, playing = open_window(with_film(make_opening(fps=10.0)), "rollout.gif")
        left = []
        patch.setattr(playing, "close", lambda: left.append(True))
        for do, what in happenings:
            do(what)
            window.tick()
            if left:
                break
        pygame.key.set_mods(0)
        pygame.event.clear()
        assert_nothing_shows(playing)
        assert not left or (pygame.K_ESCAPE in [what for _, what in happenings])


# Gamepads


def hat(*value, pad=0):
    post(pygame.JOYHATMOTION, instance_id=pad, hat=0, value=value)


def stick(axis, value, pad=0):
    post(pygame.JOYAXISMOTION, instance_id=pad, axis=axis, value=value)


def button(number, is_down=True, pad=0):
    kind = pygame.JOYBUTTONDOWN if is_down else pygame.JOYBUTTONUP
    post(kind, instance_id=pad, button=number)


def takes(window, playing, action):
    """Wait until this action is taken, and nothing else."""
    start = len(actions_of(playing))
    until(window, lambda: action in actions_of(playing)[start:])


def waits(window, playing):
    until(window, lambda: playing.wait() == 1.0)


def test_cross_stick_and_buttons_of_a_gamepad_are_keys(square):
    window, playing = square
    for point, centre, action in (
        (lambda: hat(1, 0), lambda: hat(0, 0), RIGHT),
        (lambda: hat(1, 1), lambda: hat(0, 0), KEYS["right_up"]),
        (lambda: stick(0, -0.9), lambda: stick(0, 0.1), KEYS["left"]),
        (lambda: stick(1, 0.8, pad=3), lambda: stick(1, 0.0, pad=3), KEYS["down"]),
        (lambda: button(0), lambda: button(0, is_down=False), KEYS["up"]),
    ):
        point()
        takes(window, playing, action)
        centre()
        waits(window, playing)
    before = actions_of(playing)
    stick(0, 0.3)
    stick(4, 1.0)
    button(9)
    play(window, playing, pygame.K_3)
    assert actions_of(playing) == (*before, 2), "a resting stick, a trigger and Guide do nothing"


def test_shoulder_rewinds_and_back_and_start_are_commands(square):
    window, playing = square
    play(window, playing, *[pygame.K_RIGHT] * 5)
    button(4)
    until(window, lambda: len(actions_of(playing)) <= 2)
    button(4, is_down=False)
    waits(window, playing)
    hat(1, 0)
    takes(window, playing, RIGHT)
    button(7)
    waits(window, playing)
    button(6)
    until(window, lambda: actions_of(playing) == ())
    button(7)
    takes(window, playing, RIGHT)


def test_a_gamepad_that_is_unplugged_lets_go(square):
    window, playing = square
    hat(1, 0)
    stick(1, -1.0)
    takes(window, playing, KEYS["right_up"])
    post(pygame.JOYDEVICEREMOVED, instance_id=0)
    waits(window, playing)


def test_a_cross_let_go_while_another_screen_is_shown_works_again(square):
    window, playing = square
    hat(1, 0)
    takes(window, playing, RIGHT)
    tap(pygame.K_TAB)
    window.tick()
    hat(0, 0)
    tap(pygame.K_TAB)
    window.tick()
    waits(window, playing)
    hat(1, 0)
    takes(window, playing, RIGHT)


def test_a_gamepad_is_heard_whatever_screen_is_shown(square, monkeypatch):
    """Pygame is silent about one that nobody holds on to."""
    window, _ = square
    held = []

    class Pad:
        def __init__(self, number):
            held.append(number)

        def __del__(self):
            held.clear()

    monkeypatch.setattr(pygame.joystick, "Joystick", Pad)
    tap(pygame.K_TAB)
    window.tick()
    post(pygame.JOYDEVICEADDED, device_index=2)
    tap(pygame.K_TAB)
    window.tick()
    assert held == [2]


STICKS = st.one_of(
    st.tuples(st.just("hat"), st.tuples(st.integers(-1, 1), st.integers(-1, 1))),
    st.tuples(st.sampled_from([0, 1]), st.floats(-1, 1)),
)


@given(st.lists(st.tuples(st.integers(0, 1), STICKS)))
def test_only_sticks_that_point_hold_keys(moves):
    pads, down, pointing = Gamepads(), [], {}
    for pad, (part, value) in moves:
        if part == "hat":
            event = pygame.event.Event(pygame.JOYHATMOTION, instance_id=pad, value=value)
            x, y = value
            arrows = {"right": x > 0, "left": x < 0, "up": y > 0, "down": y < 0}
        else:
            values = {"instance_id": pad, "axis": part, "value": value}
            event = pygame.event.Event(pygame.JOYAXISMOTION, values)
            arrows = {("left", "up")[part]: value < -0.5, ("right", "down")[part]: value > 0.5}
        before = pointing.get((pad, part), set())
        now = pointing[pad, part] = {arrow for arrow, is_on in arrows.items() if is_on}
        for key, is_down in pads.changes(event):
            assert is_down != (key in before), "told twice"
            down.append(key) if is_down else down.remove(key)
        assert sorted(down) == sorted(arrow for arrows in pointing.values() for arrow in arrows)
        assert now == {key for key in now if key in down}


# Keys that the player binds


def chip(playing, action):
    return next(
        (x, y)
        for y in range(SIDE * 10, SIDE * 10 + 146)
        for x in range(640)
        if playing._bar.action_at((x, y)) == action
    )


@pytest.mark.parametrize(
    "key",
    ["r", "g", "tab", "backspace", "delete", "5", "f5", "f7", "return", "left shift"],
)
def test_keys_that_are_taken_are_not_bound(square, own_keys, key):
    window, playing = square
    window.refresh()
    play(window, playing, pygame.K_RIGHT)
    click(chip(playing, 2))
    until(window, lambda: "press the key" in window.notice)
    tap(pygame.key.key_code(key))
    until(window, lambda: "is taken" in window.notice)
    assert not own_keys.exists() and actions_of(playing) == (RIGHT,), "nor does it act"
    play(window, playing, pygame.K_LEFT)


def test_escape_and_another_place_leave_the_keys_as_they_are(square, own_keys):
    window, playing = square
    window.refresh()
    for leave in (lambda: tap(pygame.K_ESCAPE), lambda: click((5, 5))):
        click(chip(playing, 2))
        until(window, lambda: "press the key" in window.notice)
        leave()
        window.tick()
        before = len(actions_of(playing))
        tap(pygame.K_k)
        play(window, playing, pygame.K_RIGHT)
        assert actions_of(playing)[before:] == (RIGHT,) and not own_keys.exists()


def test_the_mouse_wheel_chooses_nothing(square):
    window, playing = square
    window.refresh()
    click(chip(playing, 2), button=4)
    play(window, playing, pygame.K_RIGHT)
    assert "press the key" not in window.notice
    tap(pygame.K_TAB)
    window.tick()
    click((100, 100), button=5)
    tap(pygame.K_TAB)
    play(window, playing, pygame.K_RIGHT)
    assert actions_of(playing) == (RIGHT, RIGHT), "it goes to no future either"


def test_a_key_that_cannot_be_remembered_acts_all_the_same(desk, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    opening = make_opening(fps=FPS, keymap=make_opening().legend_keymap)
    window, playing = desk(opening)
    window.refresh()
    click(chip(playing, 2))
    tap(pygame.K_k)
    until(window, lambda: "cannot remember" in window.notice)
    play(window, playing, pygame.K_k)
    assert actions_of(playing) == (2,)
    tap(pygame.K_DELETE)
    until(window, lambda: "cannot remove" in window.notice)
    play(window, playing, pygame.K_k)
    assert actions_of(playing) == (2, 2)


# What if


def test_a_click_on_each_panel_goes_to_its_future(square):
    window, playing = square
    for action in range(6):
        tap(pygame.K_r, pygame.K_TAB)
        window.tick()
        what_if = window._screens[-1]
        assert isinstance(what_if, WhatIfScreen)
        click(what_if._areas[action].center)
        until(window, lambda: playing.player.playthrough.position > 0)
        assert actions_of(playing) == (action,) * int(FPS)
        assert window.notice.startswith("200 frames on")
    assert_nothing_shows(playing)


def test_digits_of_no_action_go_nowhere(square):
    window, playing = square
    tap(pygame.K_TAB, pygame.K_7, pygame.K_9, pygame.K_RIGHT, pygame.K_TAB)
    play(window, playing, pygame.K_3)
    assert actions_of(playing) == (2,)


def test_a_second_of_each_future_is_shown_again_and_again(desk):
    drawn = []

    class Watched(MovingSquare):
        def futures(self):
            for number, frames in enumerate(super().futures()):
                drawn.append(number)
                yield frames

    window, _ = desk(make_opening(fps=10.0, start=Watched))
    tap(pygame.K_TAB)
    until(window, lambda: len(drawn) == 10)
    what_if = window._screens[-1]
    until(window, lambda: what_if._what_if._shown == 0)
    until(window, lambda: what_if._what_if._shown == 2)
    assert len(drawn) == 10, "what is there is not made again"


# Videos beside the world


def test_without_a_video_there_is_nothing_beside(square):
    window, playing = square
    play(window, playing, pygame.K_RIGHT)
    tap(pygame.K_v)
    until(window, lambda: "start from a video" in window.notice)
    assert actions_of(playing) == (RIGHT,)


def test_a_recording_made_beside_a_video_starts_from_its_beginning(desk):
    beside = make_opening(fps=FPS, prompt=np.full((2, SIDE, SIDE, 3), 7, np.uint8))
    window, playing = desk(make_opening(fps=FPS, beside=beside))
    for prompt in (beside.prompt, make_opening().prompt):
        tap(pygame.K_v)
        window.tick()
        play(window, playing, pygame.K_RIGHT)
        assert (playing.player.recording().prompt == prompt).all()
        assert playing.player.recording().actions == (RIGHT,)


# Files


@pytest.mark.parametrize("wishes", [{}, {"right": (0.0, 0.0, 1.0)}])
def test_pictures_with_keys_are_saved_large_enough_to_read(no_screen, tmp_path, wishes):
    from play.window.game_screen import Files
    from play.window.window import Window

    window = Window((640, 466))
    files = Files(picture=tmp_path / "a.gif", scale=1, show_keys=True)
    opening = make_opening(fps=50.0, keymap=replace(KEYMAP, wishes=wishes))
    playing = GameScreen(window, opening, files, drop=print)
    window.show(playing)
    play(window, playing, pygame.K_RIGHT)
    tap(pygame.K_g)
    until(window, (tmp_path / "a.gif").exists)
    shown = video.read(tmp_path / "a.gif")
    assert shown.shape == (2, 160, 160, 3)
    played = playing.player.playthrough
    step = played.steps[0]
    assert (step.action, step.wished) == ((2, "right") if wishes else (RIGHT, None))
    assert (shown == captioned(played.frames, [step], KEYMAP, 5)).all(), "the wish, or the action"
    frames = np.stack(played.frames).repeat(5, axis=1).repeat(5, axis=2)
    differs = (shown != frames).any(-1)
    assert not differs[0].any() and 100 < differs[1].sum() < 160 * 40


def test_nothing_to_record_is_said(square, tmp_path):
    window, _ = square
    tap(pygame.K_o)
    until(window, lambda: window.notice == "nothing was played yet")
    assert not (tmp_path / "rollout.json").exists()


def saved_films(tmp_path):
    return {path.name: len(video.read(path)) for path in tmp_path.glob("*.mp4")}


def test_a_film_ends_where_its_time_ends(square, tmp_path):
    window, playing = square
    tap(pygame.K_m)
    play(window, playing, *[pygame.K_RIGHT] * 4)
    tap(pygame.K_r)
    until(window, (tmp_path / "rollout.mp4").exists)
    play(window, playing, *[pygame.K_RIGHT] * 2)
    tap(pygame.K_F5, pygame.K_m)
    play(window, playing, pygame.K_RIGHT)
    tap(pygame.K_F9)
    until(window, (tmp_path / "rollout-1.mp4").exists)
    tap(pygame.K_m)
    play(window, playing, *[pygame.K_UP] * 2)
    post(pygame.QUIT)
    window.run()
    assert saved_films(tmp_path) == {"rollout.mp4": 5, "rollout-1.mp4": 2, "rollout-2.mp4": 3}


def test_what_is_rewound_is_not_in_a_film(square, tmp_path):
    window, playing = square
    play(window, playing, *[pygame.K_RIGHT] * 3)
    tap(pygame.K_m)
    press(pygame.K_BACKSPACE)
    until(window, lambda: len(actions_of(playing)) < 3)
    release(pygame.K_BACKSPACE)
    waits(window, playing)
    tap(pygame.K_m)
    until(window, lambda: "no frame" in window.notice)
    assert saved_films(tmp_path) == {}


# Prompts that are dropped


def test_a_dropped_file_is_handed_on(desk):
    dropped = []
    window, _ = desk(drop=dropped.append)
    post(pygame.DROPFILE, file="film of mine.mp4")
    until(window, lambda: [path.name for path in dropped] == ["film of mine.mp4"])


@pytest.fixture
def prompts(tmp_path):
    for name, colour in (("blue.png", "blue"), ("red.png", "red")):
        Image.new("RGB", (48, 32), colour).save(tmp_path / name)
    (tmp_path / "broken.png").write_text("no picture")
    return tmp_path


def test_a_dropped_prompt_is_played_and_a_broken_one_is_said(
    no_screen, tiny_world_folder, prompts, monkeypatch, capsys
):
    def person(screens):
        post(pygame.DROPFILE, file=str(prompts / "broken.png"))
        yield lambda: "broken.png" in screens[0]._window.notice
        post(pygame.DROPFILE, file=str(prompts / "red.png"))
        yield lambda: len(screens) == 2
        tap(pygame.K_2)
        yield lambda: screens[1].player.playthrough.position == 1

    screens = let_in(monkeypatch, person)
    record = prompts / "play.json"
    places = ("--prompt", prompts / "blue.png", "--record", record, "--export", prompts / "a.gif")
    code = main([str(part) for part in ("--world", tiny_world_folder, *places)])
    assert (code, capsys.readouterr().err) == (0, "")
    assert [type(screen) for screen in screens] == [GameScreen, GameScreen]
    recording = Recording.load(record)
    assert recording.actions == (1,) and (recording.prompt == (255, 0, 0)).all()


# Recordings, played again in the window


@pytest.fixture
def recorded(tiny_world_folder, prompts):
    """A recording of ten actions in the tiny world."""
    options = ("--random", 10, "--steps", 1, "--record", prompts / "play.json")
    places = ("--prompt", prompts / "blue.png", "--export", prompts / "a.gif")
    code = main(
        [str(part) for part in ("--headless", "--world", tiny_world_folder, *places, *options)]
    )
    assert code == 0
    return prompts / "play.json"


@pytest.fixture
def replay(no_screen, tiny_world_folder, monkeypatch, recorded, capsys):
    """Replays a recording before a person: exit code and what was printed."""

    def replay(person):
        capsys.readouterr()
        options = ("--world", tiny_world_folder, "--replay", recorded, "--fps", "100")
        with monkeypatch.context() as patch:
            let_in(patch, person)
            code = main([str(part) for part in options])
        return code, capsys.readouterr().out

    return replay


def forge(path, *numbers):
    values = json.loads(path.read_text())
    for number in numbers:
        values["digests"][number] = "0" * 16
    path.write_text(json.dumps(values))


def watch_to_the_end(screens):
    yield lambda: screens[0].player.script_ended


def test_a_replay_in_a_window_shows_that_every_frame_is_the_same(replay):
    code, out = replay(watch_to_the_end)
    assert code == 0 and "every frame is the recorded one, bit for bit" in out


@pytest.mark.parametrize("numbers", [(0,), (7, 9), (10,)])
def test_a_replay_in_a_window_names_the_first_other_frame(replay, recorded, numbers):
    forge(recorded, *numbers)
    code, out = replay(watch_to_the_end)
    assert code == 1 and f"frame {numbers[0]} is not the recorded one" in out


def test_a_replay_that_is_left_early_tells_what_it_saw(replay, recorded):
    def leave(screens):
        yield lambda: screens[0].player.playthrough.position >= 3
        tap(pygame.K_RIGHT)
        yield lambda: "you play on" in screens[0]._window.notice

    code, out = replay(leave)
    assert code == 0 and "not played to its end" in out and "bit for bit" not in out
    forge(recorded, 2)
    code, out = replay(leave)
    assert code == 1 and "frame 2 is not the recorded one" in out


def test_after_a_replay_the_player_plays_on(replay, prompts):
    def play_on(screens):
        yield lambda: screens[0].player.script_ended
        tap(pygame.K_2)
        yield lambda: screens[0].player.playthrough.position == 11
        post(pygame.DROPFILE, file=str(prompts / "red.png"))
        yield lambda: len(screens) == 2

    code, out = replay(play_on)
    assert code == 0 and "bit for bit" in out, "what comes after it does not count"


def test_a_replay_can_be_paused_and_costs_nothing_then(replay):
    def pause(screens):
        yield lambda: screens[0].player.playthrough.position >= 3
        tap(pygame.K_p)
        yield lambda: screens[0].wait() == 1.0
        assert not screens[0].player.script_ended
        tap(pygame.K_p)
        yield lambda: screens[0].player.script_ended

    assert replay(pause)[0] == 0
