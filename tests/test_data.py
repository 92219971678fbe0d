"""From shards to clips: none crosses a cut, what is damaged or old is told in one line."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import HEIGHT, WIDTH, scrolling_ground
from hypothesis import given
from hypothesis import strategies as st

from genie import video
from genie.data import clips, shards
from genie.data.card import SPLITS, game_of, is_prepared, read_card, shard_names
from genie.data.clips import Clips, FrameStore, TokenStore
from genie.data.parts import FrameOptions
from genie.data.prepare import prepare
from genie.errors import UserError


def counted_store(lengths: list[int]) -> TokenStore:
    """A store whose token and action are the number of the row."""
    rows = torch.arange(sum(lengths))
    return TokenStore(rows[:, None], rows, np.cumsum([0, *lengths]))


# Games


@pytest.mark.parametrize(
    ("name", "game"),
    [
        ("heldout/level-1", ""),
        ("ninja/heldout/level-1", "ninja"),
        ("procgen/ninja/train/day-2/level-1", "procgen/ninja"),
        ("holidays/level-1", ""),
        ("train", ""),
    ],
)
def test_a_game_is_the_folders_above_the_split(name: str, game: str):
    assert game_of(name) == game


def test_each_game_has_its_own_videos_in_their_order(tmp_path: Path):
    names = ("b/heldout/1", "a/heldout/2", "b/heldout/3", "b/train/4")
    frames = {}
    for number, name in enumerate(names):
        frames[name] = scrolling_ground(17 + number, seed=number)[0]
        path = tmp_path / "videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        video.write(path, list(frames[name]), fps=12.0, lossless=True)
    options = FrameOptions(size=(HEIGHT, WIDTH))
    prepare([tmp_path / "videos"], tmp_path / "out", options, workers=1)
    whole = FrameStore.open(tmp_path / "out", "heldout")
    games = whole.by_game()
    assert sorted(games) == ["a", "b"]
    assert [len(games[game]) for game in ("a", "b")] == [18, 17 + 19]
    for store in games.values():
        assert store.split_fingerprint == whole.split_fingerprint
        lengths = np.diff(store.video_starts)
        assert store.numbers().tolist() == [n for length in lengths for n in range(length)]
        for number, name in enumerate(store.video_names):
            start, stop = store.video_starts[number : number + 2].tolist()
            wanted = torch.from_numpy(frames[name]).movedim(-1, 1)
            assert torch.equal(store.read(start, stop), wanted)
            assert torch.equal(store.read(start + 2, stop - 1), wanted[2:-1])
        assert len(Clips(store, 17)) == sum(lengths - 16)


# Opening


def test_folder_that_was_not_prepared_is_refused(tmp_path: Path):
    assert not is_prepared(tmp_path)
    with pytest.raises(UserError, match=r"train\.prepare"):
        FrameStore.open(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: json.dumps(card | {"version": 99}), "99"),
        (lambda card: json.dumps(card | {"version": 1}), "format 1.* run python -m train.prepare"),
        (lambda card: json.dumps(card)[:-20], "card.json"),
        (lambda card: json.dumps([card]), "card.json"),
        (lambda card: json.dumps({k: card[k] for k in card if k != "fps"}), "card.json"),
        (lambda card: json.dumps(card | {"colour": 3}), "card.json"),
    ],
    ids=["later version", "earlier version", "broken", "a list", "a field less", "a field more"],
)
def test_bad_card_is_refused(prepared_folder: Path, tmp_path: Path, change, message: str):
    card = json.loads((prepared_folder / "card.json").read_text())
    (tmp_path / "card.json").write_text(change(card))
    with pytest.raises(UserError, match=message):
        FrameStore.open(tmp_path, "train")


@pytest.fixture(scope="module")
def sharded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of several scenes in files of 13 frames."""
    folder = tmp_path_factory.mktemp("sharded")
    for number, name in enumerate(("train/a", "train/b", "heldout/c")):
        (folder / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        scenes = [scrolling_ground(9 + number + n, seed=10 * number + n)[0] for n in range(3)]
        film = [picture for scene in scenes for picture in scene]
        video.write(folder / "videos" / f"{name}.mp4", film, fps=10.0, lossless=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", 13 * 3 * HEIGHT * WIDTH)
        options = FrameOptions(size=(HEIGHT, WIDTH), min_frames=9)
        prepare([folder / "videos"], folder / "out", options, workers=1)
    return folder / "out"


def test_store_knows_where_videos_and_scenes_begin(sharded_folder: Path):
    store = FrameStore.open(sharded_folder, "train")
    assert store.video_names == ["train/a", "train/b"]
    assert store.video_starts.tolist() == [0, 30, 63]
    assert store.scene_starts.tolist() == [0, 9, 19, 30, 40, 51, 63]
    assert store.numbers().tolist() == [*range(30), *range(33)]


@pytest.mark.parametrize("split", SPLITS)
def test_store_that_lies_elsewhere_is_the_same(sharded_folder: Path, split: str):
    here = FrameStore.open(sharded_folder, split)
    there = FrameStore.open(f"file://{sharded_folder}", split)
    assert len(here) == len(there) and there.fingerprint == here.fingerprint
    for start, stop in ((0, 1), (12, 13), (12, 14), (5, 30), (0, len(here))):
        assert torch.equal(here.read(start, stop), there.read(start, stop)), (start, stop)
    assert torch.equal(here.numbers(), there.numbers())


@pytest.mark.parametrize("where", ["", "file://"], ids=["here", "elsewhere"])
def test_another_process_is_given_a_store_without_its_frames(sharded_folder: Path, where: str):
    store = FrameStore.open(f"{where}{sharded_folder}", "train")
    told = pickle.dumps(store)
    assert len(told) < store.num_bytes / 4
    assert torch.equal(pickle.loads(told).read(5, 30), store.read(5, 30))


def test_frames_that_are_held_in_memory_need_no_file(sharded_folder: Path, tmp_path: Path):
    shutil.copytree(sharded_folder, tmp_path / "copy")
    mapped, held = (FrameStore.open(tmp_path / "copy", "train") for _ in range(2))
    before = mapped.read(0, len(mapped)).clone()
    held.hold()
    for shard in (tmp_path / "copy" / "train").glob("*.arrow"):
        with shard.open("r+b") as file:
            file.write(bytes(shard.stat().st_size))
    assert torch.equal(held.read(0, len(held)), before)
    assert not mapped.read(0, len(mapped)).any(), "the other one reads the file each time"


def test_clips_of_a_store_elsewhere_come_in_blocks_of_a_file_each(sharded_folder: Path):
    here = Clips(FrameStore.open(sharded_folder, "train"), 5, stride=2)
    there = Clips(FrameStore.open(f"file://{sharded_folder}", "train"), 5, stride=2)
    assert here.block_sizes == (len(here),), "any order is as good"
    assert sum(there.block_sizes) == len(there) == len(here)
    blocks = np.repeat(np.arange(len(there.block_sizes)), there.block_sizes)
    files = np.array([there.row(index) // 13 for index in range(len(there))])
    assert [len(set(files[blocks == block])) for block in set(blocks)] == [1] * (63 // 13 + 1)
    assert all(torch.equal(here[index], there[index]) for index in range(len(here)))


def lose(shard: Path) -> None:
    shard.unlink()


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-5000])


def spoil(shard: Path) -> None:
    shard.write_bytes(b"no rows at all" * 1000)


def swap(shard: Path) -> None:
    """Whole, but of another number of rows."""
    shutil.copy(min(shard.parent.glob("*.arrow")), shard)


@pytest.mark.parametrize("where", ["", "file://"], ids=["here", "elsewhere"])
@pytest.mark.parametrize("damage", [lose, cut, spoil, swap])
def test_folder_that_was_copied_in_part_is_refused_in_one_line(
    sharded_folder: Path, tmp_path: Path, damage: Callable, where: str
):
    shutil.copytree(sharded_folder, tmp_path / "copy")
    shard = max((tmp_path / "copy" / "train").glob("*.arrow"))
    damage(shard)
    with pytest.raises(UserError) as error:
        store = FrameStore.open(f"{where}{tmp_path / 'copy'}", "train")
        store.read(0, len(store))
    assert "\n" not in str(error.value) and str(shard) in str(error.value)


def test_card_that_counts_other_frames_than_its_files_is_refused(
    sharded_folder: Path, tmp_path: Path
):
    shutil.copytree(sharded_folder, tmp_path / "copy")
    card = json.loads((tmp_path / "copy" / "card.json").read_text())
    card["shards"]["train"] = card["shards"]["train"][:-1]
    (tmp_path / "copy" / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="its files have 52 frames, its videos 63"):
        FrameStore.open(tmp_path / "copy", "train")


def test_folder_that_an_earlier_release_prepared_is_opened(sharded_folder: Path, tmp_path: Path):
    """The library wrote its files, with state.json and dataset_info.json beside them."""
    shutil.copytree(sharded_folder, tmp_path / "copy")
    for split, counts in read_card(sharded_folder).shards.items():
        files = [str(sharded_folder / split / name) for name in shard_names(len(counts))]
        rows = datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])
        shutil.rmtree(tmp_path / "copy" / split)
        rows.save_to_disk(tmp_path / "copy" / split, num_shards=1)
    card = json.loads((tmp_path / "copy" / "card.json").read_text())
    card["shards"] = {split: [sum(counts)] for split, counts in card["shards"].items()}
    (tmp_path / "copy" / "card.json").write_text(json.dumps(card))
    for split in SPLITS:
        old, new = (FrameStore.open(place, split) for place in (tmp_path / "copy", sharded_folder))
        assert (tmp_path / "copy" / split / "state.json").is_file()
        assert torch.equal(old.read(0, len(old)), new.read(0, len(new)))
        assert torch.equal(old.numbers(), new.numbers()) and old.fingerprint == new.fingerprint


@pytest.mark.parametrize("place", ["file:///nowhere", "nosuch://bucket/data"])
def test_place_that_cannot_be_reached_is_refused_in_one_line(place: str):
    with pytest.raises(UserError, match="cannot read") as error:
        FrameStore.open(place, "train")
    assert place in str(error.value) and "\n" not in str(error.value)


# Clips


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    num_frames=st.integers(1, 12),
    stride=st.integers(1, 4),
)
def test_clips_are_all_windows_that_stay_within_a_scene(lengths, num_frames, stride):
    store = counted_store(lengths)
    wanted = [
        int(start) + offset
        for start, length in zip(store.scene_starts[:-1], lengths, strict=True)
        for offset in range(0, length - num_frames + 1, stride)
    ]
    if not wanted:
        with pytest.raises(UserError, match=f"longest scene has {max(lengths)}"):
            Clips(store, num_frames, stride)
        return
    clips = Clips(store, num_frames, stride)
    assert [clips.row(i) for i in range(len(clips))] == wanted
    scene_of_row = np.repeat(np.arange(len(lengths)), lengths)
    for tokens, actions in (clips[i] for i in range(len(clips))):
        rows = tokens[:, 0].tolist()
        assert rows == list(range(rows[0], rows[0] + num_frames)), "a clip skips frames"
        assert len(set(scene_of_row[rows])) == 1, "a clip crosses from one scene into the next"
        assert actions.tolist() == rows[:-1], "action t must lead from row t to t+1"


def test_clips_of_frames_are_the_frames(prepared_folder: Path):
    store = FrameStore.open(prepared_folder, "heldout")
    clips = Clips(store, 5, stride=7)
    for index in (0, 3, len(clips) - 1):
        row = clips.row(index)
        assert torch.equal(clips[index], store.read(row, row + 5))


# Tokens


@pytest.fixture
def tokens() -> TokenStore:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(60, (9, 24), generator=generator, dtype=torch.int32)
    actions = torch.randint(5, (9,), generator=generator, dtype=torch.int32)
    return TokenStore(ids, actions, np.array([0, 4, 9]))


def test_stored_tokens_come_back(tokens: TokenStore, tmp_path: Path):
    tokens.save(tmp_path / "tokens", "abc")
    found = TokenStore.open(tmp_path / "tokens", "abc", tokens.scene_starts)
    assert found is not None and len(found) == 9
    assert torch.equal(found.tokens, tokens.tokens), "a token changed on its way over the disk"
    assert torch.equal(found.actions, tokens.actions)
    assert [p.name for p in tmp_path.iterdir()] == ["tokens"]


def test_tokens_of_other_nets_or_frames_are_refused(tokens: TokenStore, tmp_path: Path):
    folder = tmp_path / "tokens"
    assert TokenStore.open(folder, "abc", tokens.scene_starts) is None, "nothing is stored yet"
    tokens.save(folder, "abc")
    assert TokenStore.open(folder, "other", tokens.scene_starts) is None
    other = TokenStore(tokens.tokens + 1, tokens.actions, tokens.scene_starts)
    other.save(folder, "other")
    assert TokenStore.open(folder, "abc", tokens.scene_starts) is None, "the old ones are gone"
    found = TokenStore.open(folder, "other", tokens.scene_starts)
    assert found is not None and torch.equal(found.tokens, other.tokens)


def test_torn_tokens_are_no_store(
    tokens: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Wherever the file ends; between batches of rows, Arrow itself takes it for a whole one."""
    monkeypatch.setattr(clips, "ROWS_AT_ONCE", 3)
    tokens.save(tmp_path / "tokens", "abc")
    found = TokenStore.open(tmp_path / "tokens", "abc", tokens.scene_starts)
    assert found is not None and torch.equal(found.tokens, tokens.tokens)
    rows = tmp_path / "tokens" / "rows.arrow"
    content = rows.read_bytes()
    for length in range(0, len(content) - 8, 8):  # the last 8 say no more than that it ends
        rows.write_bytes(content[:length])
        assert TokenStore.open(tmp_path / "tokens", "abc", tokens.scene_starts) is None, length


def test_interrupted_saving_is_no_store(tokens: TokenStore, tmp_path: Path):
    tokens.save(tmp_path / "tokens", "abc")
    shutil.copytree(tmp_path / "tokens", tmp_path / "half")
    (tmp_path / "half" / "fingerprint").unlink()
    assert TokenStore.open(tmp_path / "half", "abc", tokens.scene_starts) is None
