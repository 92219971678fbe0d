"""What somebody calls a world leads to its folder, or to one line."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from genie import places
from genie.errors import UserError


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What the Hub was asked for; it has one world, and is asked from an empty folder."""
    names: list[str] = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        names.append(name)
        if name != "somebody/world":
            raise OSError("404: there is\nno such repository")
        return str(make_world(tmp_path / "cache" / "world"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return names


def make_world(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_folders_come_first_then_shipped_worlds_then_the_hub(asked: list[str], tmp_path: Path):
    assert places.find_world("coinrun") == places.shipped("checkpoints/coinrun")
    own = make_world(Path("checkpoints/coinrun"))
    assert places.find_world("coinrun") == own
    nearer = make_world(Path("coinrun"))
    assert places.find_world("coinrun") == nearer == places.find_world(Path("coinrun"))
    assert places.find_world("somebody/world") == tmp_path / "cache" / "world"
    assert asked == ["somebody/world"]


@pytest.mark.parametrize("name", ["coinrum", "checkpoints/coinrum", "/no/where", "", "a b/c"])
def test_a_slip_is_one_line_and_asks_nobody(name: str, asked: list[str]):
    make_world(Path("checkpoints/mine"))
    with pytest.raises(UserError, match="coinrun, mine, ninja") as refused:
        places.find_world(name)
    assert "\n" not in str(refused.value) and not asked


def test_a_repository_that_is_none_is_one_line(asked: list[str]):
    with pytest.raises(UserError, match="somebody/else") as refused:
        places.find_world("somebody/else")
    assert "\n" not in str(refused.value) and asked == ["somebody/else"]


def test_a_hub_out_of_reach_is_told_apart_from_a_wrong_name(monkeypatch, tmp_path: Path):
    def fetch(*_, **__):
        raise LocalEntryNotFoundError("ConnectError: name or service not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="cannot be reached") as refused:
        places.find_world("somebody/else")
    assert "\n" not in str(refused.value)
