"""The start screen: every prompt can be reached, and nothing on disk can break it."""

from pathlib import Path

import numpy as np
import pygame
import pytest
from hands import click, let_in, post, tap, until
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from genie.errors import UserError
from play.__main__ import main
from play.window.game_screen import GameScreen
from play.window.paint import ACTIVE
from play.window.start_screen import Gallery
from play.window.window import Window

COLOURS = [(number * 9, 200, 255 - number * 9) for number in range(28)]
SIZE = (640, 466)


@pytest.fixture
def shelves(tmp_path):
    """Two worlds with many prompts, each of one colour."""
    worlds = {tmp_path / "first": 11, tmp_path / "second": 17}
    shelves, colours = {}, iter(COLOURS)
    for world, count in worlds.items():
        world.mkdir()
        shelves[world] = [world / f"{number:02}.png" for number in range(count)]
        for path in shelves[world]:
            Image.new("RGB", (20, 30), next(colours)).save(path)
    return shelves


@pytest.fixture
def hall(no_screen):
    """Opens the start screen: the window, and what was chosen so far."""

    def hall(shelves, choose=None):
        chosen = []
        window = Window(SIZE)
        window.show(
            Gallery(window, shelves, choose or (lambda *choice: chosen.append(choice))),
        )
        return window, chosen

    return hall


def pixels():
    return pygame.surfarray.array3d(pygame.display.get_surface())


def place_of(colour):
    """Somewhere on the screen with this colour; None if there is none."""
    found = np.argwhere((pixels() == colour).all(-1))
    return tuple(map(int, found[len(found) // 2])) if len(found) else None


def tiles(shelves):
    return [(world, prompt) for world, prompts in shelves.items() for prompt in prompts]


def test_arrows_and_enter_reach_every_prompt(hall, shelves):
    window, chosen = hall(shelves)
    for number, tile in enumerate(tiles(shelves)):
        tap(pygame.K_RETURN if number % 2 else pygame.K_KP_ENTER)
        until(window, lambda count=number + 1: len(chosen) == count)
        assert chosen[-1] == tile
        assert place_of(COLOURS[number]) and place_of(ACTIVE), "what is chosen can be seen"
        tap(pygame.K_RIGHT)
        window.tick()
    tap(pygame.K_RIGHT, pygame.K_DOWN, pygame.K_DOWN, pygame.K_SPACE)
    until(window, lambda: len(chosen) == 29)
    assert chosen[-1] == tiles(shelves)[-1], "it ends at the last one"
    for number in reversed(range(27)):
        tap(pygame.K_LEFT)
        window.tick()
        assert place_of(COLOURS[number]), "the way back can be seen as well"


def test_the_wheel_and_a_click_reach_every_prompt(hall, shelves):
    window, chosen = hall(shelves)
    window.refresh()
    for number, tile in enumerate(tiles(shelves)):
        while place_of(COLOURS[number]) is None:
            before = pixels()
            post(pygame.MOUSEWHEEL, x=0, y=-1)
            window.tick()
            assert (pixels() != before).any(), f"{tile[1]} is out of reach"
        click(place_of(COLOURS[number]))
        until(window, lambda count=number + 1: len(chosen) == count)
        assert chosen[-1] == tile
    for _ in range(60):
        post(pygame.MOUSEWHEEL, x=0, y=1)
    until(window, lambda: place_of(COLOURS[0]))
    click((3, 3))
    click(place_of(COLOURS[0]), button=3)
    window.tick()
    assert len(chosen) == 28, "only the first button chooses, and only a picture"


KEYS = st.sampled_from([pygame.K_LEFT, pygame.K_RIGHT, pygame.K_UP, pygame.K_DOWN])


@settings(max_examples=15, deadline=None)
@given(st.lists(KEYS, max_size=20), st.tuples(st.integers(200, 900), st.integers(250, 700)))
def test_what_is_chosen_can_be_seen_in_a_window_of_any_size(tmp_path_factory, keys, size):
    world = tmp_path_factory.mktemp("world")
    shelf = [world / f"{number}.png" for number in range(len(COLOURS))]
    for path, colour in zip(shelf, COLOURS, strict=True):
        Image.new("RGB", (8, 8), colour).save(path)
    chosen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDL_VIDEODRIVER", "dummy")
        pygame.display.init()
        window = Window(size)
        window.show(Gallery(window, {world: shelf}, lambda _, prompt: chosen.append(prompt)))
        window.refresh()
        for key in keys:
            tap(key)
            window.tick()
        tap(pygame.K_RETURN)
        until(window, lambda: chosen)
        assert place_of(COLOURS[shelf.index(chosen[0])])


def test_a_gamepad_chooses(hall, shelves):
    window, chosen = hall(shelves)
    window.refresh()
    for value in ((1, 0), (0, 0), (1, 0), (0, 0), (-1, 0)):
        post(pygame.JOYHATMOTION, instance_id=0, hat=0, value=value)
    for number in (4, 7, 0):
        post(pygame.JOYBUTTONDOWN, instance_id=0, button=number)
    until(window, lambda: chosen)
    assert chosen == [tiles(shelves)[1]], "once, and not by the shoulder or Start"


def test_a_dropped_file_is_played_in_the_world_that_is_chosen(hall, shelves):
    window, chosen = hall(shelves)
    window.refresh()
    post(pygame.DROPFILE, file="/tmp/mine.png")
    tap(*[pygame.K_RIGHT] * 12)
    post(pygame.DROPFILE, file="/tmp/mine.png")
    until(window, lambda: len(chosen) == 2)
    assert chosen == [(world, Path("/tmp/mine.png")) for world in shelves]


def test_a_world_without_prompts_still_takes_a_dropped_file(hall, tmp_path):
    window, chosen = hall({tmp_path: []})
    tap(pygame.K_RETURN, pygame.K_DOWN)
    post(pygame.DROPFILE, file="mine.png")
    until(window, lambda: chosen == [(tmp_path, Path("mine.png"))])


def test_what_cannot_be_opened_is_said_and_the_next_choice_goes_on(hall, shelves, capsys):
    attempts = []

    def choose(_, prompt):
        attempts.append(prompt)
        if len(attempts) == 1:
            raise UserError(f"{prompt} is not a readable image")

    window, _ = hall(shelves, choose)
    tap(pygame.K_RETURN)
    until(window, lambda: "not a readable image" in window.notice)
    assert capsys.readouterr().out == f"error: {attempts[0]} is not a readable image\n"
    tap(pygame.K_RIGHT, pygame.K_RETURN)
    until(window, lambda: len(attempts) == 2)


def test_escape_quits(hall, shelves):
    window, chosen = hall(shelves)
    tap(pygame.K_ESCAPE)
    window.run()
    assert chosen == [] and not pygame.display.get_init()


# Files of all kinds


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    for ending in ("png", "jpg", "webp", "bmp", "gif"):
        Image.fromarray(noise).save(folder / f"a.{ending}")
    return folder


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif"])
@given(draw=st.data())
@settings(max_examples=15, deadline=None)
def test_a_damaged_prompt_is_a_tile_all_the_same(pictures, ending, draw):
    content = bytearray((pictures / f"a.{ending}").read_bytes())
    places = st.integers(0, min(400, len(content) - 1))
    for place, value in draw.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
        content[place] = value
    path = pictures / f"damaged.{ending}"
    path.write_bytes(content[: draw.draw(st.integers(1, len(content)))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDL_VIDEODRIVER", "dummy")
        pygame.display.init()
        window = Window(SIZE)
        shelf = {pictures: [path, pictures / "film.mp4", pictures / "gone.png"]}
        before = pixels()
        window.show(Gallery(window, shelf, print))
        window.refresh()
        assert (pixels() != before).any() and place_of(ACTIVE)


@pytest.mark.parametrize("kind", [SyntaxError, ValueError, Image.DecompressionBombError])
def test_whatever_the_decoder_raises_the_prompt_is_a_tile(hall, shelves, monkeypatch, kind):
    def fail(*_, **__):
        raise kind("unpack requires a buffer of 4 bytes")

    monkeypatch.setattr("PIL.Image.open", fail)
    window, chosen = hall(shelves)
    tap(pygame.K_RETURN)
    until(window, lambda: chosen)


# The command


@pytest.fixture
def checkpoints(tiny_world_folder, tmp_path, monkeypatch):
    """A folder to play in, with two worlds; both are the tiny one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("play.worlds.shipped", lambda folder: tmp_path / folder)
    for name, colour in (("another", "blue"), ("coinrun", "red")):
        prompts = tmp_path / "checkpoints" / name / "prompts"
        prompts.mkdir(parents=True)
        Image.new("RGB", (48, 32), colour).save(prompts / "1.png")
        (prompts / "2.png").write_text("no picture")
        for file in tiny_world_folder.iterdir():
            (prompts.parent / file.name).write_bytes(file.read_bytes())
    return tmp_path / "checkpoints"


def test_worlds_are_played_one_after_the_other(no_screen, checkpoints, monkeypatch, capsys):
    def person(screens):
        gallery = screens[0]
        tap(pygame.K_RETURN)
        yield lambda: len(screens) == 2
        tap(pygame.K_ESCAPE, pygame.K_RIGHT, pygame.K_RETURN)
        yield lambda: "2.png is not a readable image" in gallery._window.notice
        tap(pygame.K_RIGHT, pygame.K_RETURN)
        yield lambda: len(screens) == 3
        tap(pygame.K_3)
        yield lambda: screens[2].player.playthrough.position == 1
        tap(pygame.K_ESCAPE, pygame.K_ESCAPE)
        yield lambda: False

    screens = let_in(monkeypatch, person)
    assert main(["--export", str(checkpoints / "a.gif")]) == 0
    assert [type(screen) for screen in screens] == [Gallery, GameScreen, GameScreen]
    assert [screen.title for screen in screens[1:]] == ["another", "coinrun"]
    assert [tuple(s.player.recording().prompt[0, 0, 0]) for s in screens[2:]] == [(255, 0, 0)]
    assert capsys.readouterr().out.count("error: ") == 1


def test_without_any_world_the_command_says_what_to_do(no_screen, tmp_path, monkeypatch, capsys):
    (tmp_path / "checkpoints" / "coinrun").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("play.worlds.shipped", lambda folder: tmp_path / folder)
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: no world in checkpoints") and err.count("\n") == 1
