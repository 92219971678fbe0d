"""Pictures from elsewhere: what keeps its look is told from what turns into the game."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genie.data.clips import FrameStore
from genie.errors import UserError
from genie.frames import to_uint8
from genie.world import World
from train import elsewhere
from train.elsewhere import PICTURES, ElsewhereConfig, Look, look
from train.measure.patches import KnownPatches


@pytest.fixture(scope="module")
def store(prepared_folder: Path) -> FrameStore:
    return FrameStore.open(prepared_folder, "heldout")


@pytest.fixture(scope="module")
def game(store: FrameStore) -> KnownPatches:
    known = KnownPatches.of(store, seed=0)
    assert known is not None
    return known


@pytest.fixture(scope="module")
def pictures(store: FrameStore) -> torch.Tensor:
    """Coarse noise of bright colours, unlike anything in the game."""
    coarse = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return to_uint8(torch.nn.functional.interpolate(coarse, store.size, mode="bilinear"))


def measured(frames: torch.Tensor, pictures: torch.Tensor, game: KnownPatches) -> Look:
    return look(frames, pictures, game, seed=0)


def test_a_copy_keeps_its_look_and_the_game_does_not(store, game, pictures):
    copy = measured(pictures, pictures, game)
    assert copy.kept == 100 and copy.colour == 0 and copy.to_picture < 0.1 and copy.to_game > 5
    turned = measured(store.read(0, 3), pictures, game)
    assert turned.kept < 10 and turned.colour > 10 and turned.to_game < turned.to_picture


def test_each_frame_is_compared_with_its_own_picture(game, pictures):
    others = measured(pictures.roll(1, dims=0), pictures, game)
    assert others.to_picture > 10


def test_colours_alone_are_kept_without_contrast(game, pictures):
    plain = pictures.float().mean(dim=(-2, -1), keepdim=True).expand(pictures.shape).to(torch.uint8)
    flat = measured(plain, pictures, game)
    assert flat.colour < 1 and flat.contrast < 0.01
    assert measured(pictures, pictures, game).contrast == pytest.approx(1)


def test_half_a_picture_is_half_kept(store, game, pictures):
    half, middle = pictures.clone(), store.size[1] // 2
    half[..., middle:] = store.read(0, 3)[..., middle:]
    assert 25 < measured(half, pictures, game).kept < 75


def test_the_command(tiny_world: World, tiny_world_folder: Path, prepared_folder, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        Image.new("RGB", (80, 50), colour).save(folder / f"{name}.png")
    (folder / ".hidden").write_text("")
    given = {"world": tiny_world_folder, "data": prepared_folder, "out": tmp_path / "report"}
    config = ElsewhereConfig(**given, pictures=folder)
    elsewhere.main(config)
    printed = capsys.readouterr().out.splitlines()
    found = json.loads((tmp_path / "report" / "elsewhere.json").read_text())
    assert found["pictures"] == ["blue", "red"]
    assert list(found["looks"]) == ["0", "10", "50", "100", "game"] and len(printed) == 6
    with Image.open(tmp_path / "report" / "elsewhere.png") as sheet:
        assert sheet.height > 2 * 2 * tiny_world.size[0]
    elsewhere.main(config)
    again = json.loads((tmp_path / "report" / "elsewhere.json").read_text())
    assert again == found, "the same seed gives the same figures"
    for empty in (tmp_path / "report" / "none", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="give a folder of pictures"):
            elsewhere.main(ElsewhereConfig(**given, pictures=empty))
    with pytest.raises(UserError, match="seed"):
        elsewhere.main(ElsewhereConfig(**given, pictures=folder, seed=-1))
    (folder / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"notes\.txt"):
        elsewhere.main(config)


def test_thirty_pictures_come_with_the_project():
    names, frames = elsewhere.read_pictures(PICTURES, (64, 64))
    assert len(names) == 30
    assert all(frame.float().std() > 5 for frame in frames)
    assert len(np.unique(frames.flatten(1).numpy(), axis=0)) == 30
