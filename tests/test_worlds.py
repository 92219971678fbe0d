"""Libraries: folders and files in, openings out that bring all that a screen needs."""

import json
import shutil

import numpy as np
import pytest
from conftest import moving_square, scrolling_ground
from PIL import Image

from genie import video
from genie.errors import UserError
from play import bindings, worlds
from play.game import Settings
from play.recording import digest
from play.worlds import HISTORY, MAX_CLIP, Library


@pytest.fixture
def world(tiny_world_folder, tmp_path):
    """A copy of the tiny world with a legend."""
    folder = tmp_path / "tiny"
    shutil.copytree(tiny_world_folder, folder)
    (folder / "legend.json").write_text(json.dumps({"keys": {"left": 4, "none": 2}}))
    return folder


@pytest.fixture
def image(tmp_path):
    Image.fromarray(moving_square(1, seed=3)[0][0]).save(tmp_path / "prompt.png")
    return tmp_path / "prompt.png"


def film(path, num_frames):
    """A lossless video of a scrolling ground; gives its frames."""
    frames = scrolling_ground(num_frames, seed=1)[0]
    video.write(path, list(frames), fps=12.0, lossless=True)
    return frames


# What there is


def test_worlds_are_folders_with_a_config(tmp_path):
    for name in ("b", "a", "no-world"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        (tmp_path / name / "config.json").write_text("{}")
    assert worlds.worlds_in(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert worlds.worlds_in(tmp_path / "missing") == []


def test_a_worlds_own_prompts_come_before_those_for_any_world(tmp_path, monkeypatch):
    monkeypatch.setattr(worlds, "shipped", lambda folder: tmp_path / folder)
    own, shared = tmp_path / "world" / "prompts", tmp_path / "examples" / "prompts"
    assert worlds.prompts_for(tmp_path / "world") == []
    for folder, names in ((own, ["2.PNG", "1.gif", "notes.md"]), (shared, ["0.mp4", "9.jpeg"])):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text("")
    found = worlds.prompts_for(tmp_path / "world")
    assert found == [own / "1.gif", own / "2.PNG", shared / "0.mp4", shared / "9.jpeg"]
    assert worlds.first_prompt(tmp_path / "world") == own / "1.gif"
    assert worlds.first_prompt(tmp_path / "elsewhere") == shared / "0.mp4"


def test_without_any_prompt_one_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(worlds, "shipped", lambda folder: tmp_path / folder)
    with pytest.raises(UserError, match="--prompt"):
        worlds.first_prompt(tmp_path / "world")


# Opening


def test_a_picture_is_opened_as_the_world_starts_from_it(world, tiny_world, image):
    opening = Library(seed=4).open(world, image)
    picture = video.read_image(image, tiny_world.size)
    assert (opening.prompt == picture[None]).all()
    assert (opening.world, opening.title, opening.seed) == ("tiny", "tiny", 4)
    assert opening.fingerprint == tiny_world.fingerprint
    assert opening.fps == tiny_world.fps and opening.beside is None and opening.clip is None
    assert opening.settings == Settings(3, 1.0), "those of the world"
    assert opening.what_runs.startswith("tiny on ") and "3 passes" in opening.what_runs
    game = opening.start(4, opening.settings)
    expected = tiny_world.start(picture, seed=4)
    for action in (1, 0, 4):
        assert (game.step(action) == expected.step(action)).all()


def test_what_is_asked_for_is_stronger_than_what_a_world_has(world, image):
    opening = Library(maskgit_steps=1, temperature=0.0, fps=5.0).open(world, image)
    assert opening.settings == Settings(1, 0.0) and opening.fps == 5.0
    assert "1 pass a frame" in opening.what_runs


def test_the_same_opening_starts_again_the_same(world, image):
    opening = Library().open(world, image)
    digests = []
    for seed in (0, 0, 1):
        played = opening.playthrough(seed, opening.settings)
        for action in (1, 2, 3):
            played.step(action)
        digests.append(played.digests)
    assert digests[0] == digests[1] != digests[2]


def test_a_world_is_read_once(world, image, monkeypatch):
    shelf = Library()
    first = shelf.world(world)
    monkeypatch.setattr("genie.world.World.from_pretrained", lambda _: pytest.fail("read again"))
    assert shelf.world(world) is first
    shelf.open(world, image)


@pytest.mark.parametrize("name", ["gone.png", "text.png", "text.mp4", "text.txt"])
def test_what_cannot_be_read_is_named_in_one_line(world, tmp_path, name):
    if name.startswith("text"):
        (tmp_path / name).write_text("no picture")
    with pytest.raises(UserError, match=name) as error:
        Library().open(world, tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_world_is_named(tmp_path, image):
    with pytest.raises(UserError, match="is not a world"):
        Library().open(tmp_path, image)


# Keys


def test_the_players_own_keys_lie_over_the_legends(world, image, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    shelf = Library()
    bindings.remember("k", 1, shelf.world(world).fingerprint)
    opening = shelf.open(world, image)
    assert opening.legend_keymap.bindings == {"left": 4, "none": 2}
    assert opening.keymap.bindings == {"left": 4, "none": 2, "k": 1}
    bindings.forget(opening.fingerprint)
    assert shelf.open(world, image).keymap == opening.legend_keymap


# Videos


@pytest.mark.parametrize("num_frames", [2, HISTORY, HISTORY + 1, 3 * HISTORY])
def test_a_video_is_continued_from_its_end_and_shown_from_its_beginning(
    world, tiny_world, tmp_path, num_frames
):
    frames = film(tmp_path / "film.mkv", num_frames)
    opening = Library().open(world, tmp_path / "film.mkv")
    assert (opening.prompt == frames[-HISTORY:]).all() and opening.clip is None
    beside, seen = opening.beside, min(HISTORY, num_frames // 2)
    assert (beside.prompt == frames[:seen]).all()
    assert (np.stack(beside.clip.frames) == frames[seen - 1 :]).all(), "from the prompt's last on"
    inferred = tiny_world.infer(frames).tolist()
    assert beside.clip.actions == tuple(inferred[seen - 1 :])
    assert len(beside.clip.actions) == len(beside.clip.frames) - 1


def test_of_a_long_video_only_both_ends_are_kept(world, tmp_path):
    frames = [np.full((32, 48, 3), number % 250, np.uint8) for number in range(400)]
    video.write(tmp_path / "long.mkv", frames, fps=12.0, lossless=True)
    opening = Library().open(world, tmp_path / "long.mkv")
    assert (opening.prompt == frames[-HISTORY:]).all()
    assert len(opening.beside.clip.frames) == MAX_CLIP + 1


def test_a_video_of_one_picture_has_nothing_beside(world, tmp_path):
    Image.new("P", (40, 40), 3).save(tmp_path / "still.gif")
    opening = Library().open(world, tmp_path / "still.gif")
    assert len(opening.prompt) == 1 and opening.beside is None


# Recordings


def test_a_recording_is_opened_as_it_was_played(world, image):
    opening = Library(seed=7).open(world, image)
    played = opening.playthrough(7, opening.settings)
    for action in (1, 1, 3):
        played.step(action)
    played.tune(Settings(1, 0.5))
    played.step(0)
    recording = opening.recording(played, 7)
    assert recording.settings == ((0, Settings(3, 1.0)), (3, Settings(1, 0.5)))
    again = Library().open_frames(world, recording.prompt)
    replayed = again.playthrough(recording.seed, recording.settings_of(0))
    for number, action in enumerate(recording.actions):
        replayed.tune(recording.settings_of(number))
        replayed.step(action)
    assert replayed.digests == recording.digests == (*map(digest, played.frames),)
