"""From a folder of videos to shards and clips: nothing lost, nothing mixed, nothing half-made."""

import errno
import hashlib
import json
import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HEIGHT, WIDTH
from hypothesis import given, settings
from hypothesis import strategies as st

from genie import data, video
from genie.data import Clips, FrameStore, TokenStore
from genie.errors import UserError
from train import prepare as command

SIZE = (16, 24)


def write_video(path: Path, num_frames: int = 18, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(seed).integers(0, 256, (num_frames, *SIZE, 3), np.uint8)
    video.write(path, list(frames), fps=9.0, lossless=path.suffix != ".gif")
    return path


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    for seed, name in enumerate(("train/a.mp4", "train/deep/b.mkv", "heldout/c.mp4")):
        write_video(folder / name, num_frames=16 + seed, seed=seed)
    return folder


def counted_store(lengths: list[int]) -> TokenStore:
    """A store whose token and action are the number of the row."""
    rows = torch.arange(sum(lengths))
    return TokenStore(rows[:, None], rows, np.cumsum([0, *lengths]))


# Preparing


def test_folders_called_train_and_heldout_decide_the_split(source: Path, tmp_path: Path):
    card = data.prepare(source, tmp_path / "out", size=SIZE)
    assert card.videos == {
        "train": {"train/a": 16, "train/deep/b": 17},
        "heldout": {"heldout/c": 18},
    }
    assert data.read_card(tmp_path / "out") == card, "the card on disk says something else"
    assert card.fps == pytest.approx(9) and not card.skipped


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_store_holds_each_videos_frames(prepared_folder: Path, recorded_folder: Path, split: str):
    store = FrameStore.open(prepared_folder, split)
    assert store.size == (HEIGHT, WIDTH) and store.fps == pytest.approx(12)
    assert len(store) == store.video_starts[-1] == 40 * len(store.video_names)
    rows = pairwise(store.video_starts.tolist())
    for name, (start, stop) in zip(store.video_names, rows, strict=True):
        wanted = video.read(recorded_folder / f"{name}.mp4")
        assert torch.equal(store.read(start, stop), wanted), f"{name} has other frames in the store"
        assert torch.equal(store.read(start + 7, start + 9), wanted[7:9])


def test_split_by_name_is_stable_when_videos_are_added(tmp_path: Path):
    folder = tmp_path / "videos"
    for seed in range(8):
        write_video(folder / f"video-{seed}.mp4", seed=seed)
    first = data.prepare(folder, tmp_path / "first", size=SIZE, heldout_share=0.5)
    for seed in range(8, 12):
        write_video(folder / f"video-{seed}.mp4", seed=seed)
    second = data.prepare(folder, tmp_path / "second", size=SIZE, heldout_share=0.5)
    assert first.source != second.source
    for split in data.SPLITS:
        assert first.videos[split], "with half the videos held out, both splits get some"
        assert first.videos[split].items() <= second.videos[split].items(), (
            "a video changed sides because others came in"
        )


NAMES = st.text("abcdefgh", min_size=1, max_size=6)


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("one") / "video.gif", num_frames=16)


@given(names=st.sets(NAMES, min_size=2, max_size=5), share=st.sampled_from([0.1, 0.5, 0.9]))
@settings(max_examples=12, deadline=None)
def test_lowest_names_are_held_out_and_always_one(
    one_file: Path, tmp_path_factory: pytest.TempPathFactory, names: set[str], share: float
):
    folder = tmp_path_factory.mktemp("names")
    (folder / "videos").mkdir()
    for name in names:
        shutil.copy(one_file, folder / "videos" / f"{name}.gif")
    card = data.prepare(folder / "videos", folder / "out", size=(8, 8), heldout_share=share)
    draws = {n: int(hashlib.sha256(n.encode()).hexdigest()[:8], 16) / 2**32 for n in names}
    ranking = sorted(names, key=lambda name: draws[name])
    count = sum(draw < share for draw in draws.values())
    wanted = ranking[: min(max(count, 1), len(names) - 1)]
    assert sorted(card.videos["heldout"]) == sorted(wanted)
    assert sorted(card.videos["train"]) == sorted(names - set(wanted))


@pytest.mark.parametrize(
    ("share", "num_heldout"), [(0.1, 16), (0.5, 25), (0.9, 34)], ids=["least", "half", "most"]
)
def test_the_last_part_of_an_only_video_is_held_out(tmp_path: Path, share: float, num_heldout: int):
    path = write_video(tmp_path / "videos" / "walk.mp4", num_frames=50)
    (tmp_path / "videos" / "notes.mp4").write_text("not a video, so the other is alone")
    card = data.prepare(tmp_path / "videos", tmp_path / "out", size=SIZE, heldout_share=share)
    cut = 50 - num_heldout
    assert card.videos == {"train": {"walk": cut}, "heldout": {"walk-end": num_heldout}}
    found = [FrameStore.open(tmp_path / "out", split) for split in data.SPLITS]
    assert torch.equal(torch.cat([store.read(0, len(store)) for store in found]), video.read(path))


def test_split_is_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_video(tmp_path / "videos" / "train" / "a.mp4")
    write_video(tmp_path / "videos" / "train" / "b.mp4")
    monkeypatch.delattr(video, "stream")
    with pytest.raises(UserError, match="no video for the heldout split"):
        data.prepare(tmp_path / "videos", tmp_path / "out", size=SIZE)


def test_split_that_lost_its_videos_is_one_clear_line(tmp_path: Path):
    write_video(tmp_path / "videos" / "good.mp4")
    broken = truncate(write_video(tmp_path / "videos" / "heldout" / "b.mkv", num_frames=40))
    with pytest.raises(UserError, match="no video for the heldout split") as error:
        data.prepare(tmp_path / "videos", tmp_path / "out", size=SIZE)
    assert f"{broken}: breaks off" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"heldout_share": share}, "--heldout-share") for share in (0.0, 1.0, -0.5, 7.0, float("nan"))]
    + [({"size": size}, "--size") for size in ((0, 64), (64, -1))],
)
def test_numbers_out_of_range_are_refused(source: Path, tmp_path: Path, options, message: str):
    with pytest.raises(UserError, match=message):
        data.prepare(source, tmp_path / "out", **{"size": SIZE} | options)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("one.gif", b"GIF89a\1\0\1\0"),
        ("gone.mp4", None),
        pytest.param(
            os.fsdecode(b"\xff.mp4"),
            b"a name that is no text",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="no such names here"),
        ),
    ],
    ids=["cut", "a link to nowhere", "odd name"],
)
def test_odd_file_stops_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture, name: str, content: bytes | None
):
    odd = source / name
    if content is None:
        odd.symlink_to("nowhere")
    else:
        odd.write_bytes(content)
    card = command.main(command.PrepareConfig(source=source, out=tmp_path / "out", size=SIZE))
    assert list(card.skipped) == [str(odd)]
    assert {split: len(videos) for split, videos in card.videos.items()} == {
        "train": 2,
        "heldout": 1,
    }
    assert "\nskipped " in capsys.readouterr().out


def test_pieces_leave_no_trace_in_the_data(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = data.prepare(source, tmp_path / "whole", size=SIZE)
    monkeypatch.setattr(data, "CHUNK_BYTES", 5 * 3 * SIZE[0] * SIZE[1])
    assert data.prepare(source, tmp_path / "pieces", size=SIZE) == whole
    for split in data.SPLITS:
        stores = [FrameStore.open(tmp_path / name, split) for name in ("whole", "pieces")]
        frames, again = (store.read(0, len(store)) for store in stores)
        assert torch.equal(frames, again)
        (shard,) = (tmp_path / "pieces" / split).glob("*.arrow")
        assert shard.read_bytes() == (tmp_path / "whole" / split / shard.name).read_bytes()
    assert {p.name for p in (tmp_path / "pieces").iterdir()} == {"card.json", *data.SPLITS}


def test_prepared_folder_tells_what_it_was_made_from(source: Path, tmp_path: Path):
    out = tmp_path / "out"
    card = data.prepare(source, out, size=SIZE)
    made = data.read_card(out).source
    assert made == data.describe_source(source, SIZE)
    assert made["path"] == str(source.resolve()) and made["size"] == list(SIZE)
    assert made != data.describe_source(source, (SIZE[1], SIZE[0])), "another size"
    write_video(source / "train" / "more.mp4")
    more = data.describe_source(source, SIZE)
    assert made != more, "another video"
    with (source / "train" / "more.mp4").open("ab") as file:
        file.write(b"x")
    assert more != data.describe_source(source, SIZE), "a video of another length"
    shutil.copytree(source, tmp_path / "copy")
    elsewhere = data.describe_source(tmp_path / "copy", SIZE)
    (tmp_path / "copy" / "train" / "more.mp4").unlink()
    assert elsewhere["listing"] == data.describe_source(source, SIZE)["listing"]
    again = data.prepare(tmp_path / "copy", tmp_path / "again", size=SIZE)
    assert again.fingerprint == card.fingerprint, "the same frames from another place"


def test_folder_from_before_sources_and_rates_were_recorded_opens(source: Path, tmp_path: Path):
    out = tmp_path / "out"
    data.prepare(source, out, size=SIZE)
    values = json.loads((out / "card.json").read_text()) | {"fps": 0.0}
    del values["source"]
    (out / "card.json").write_text(json.dumps(values))
    assert data.read_card(out).source == {}
    assert FrameStore.open(out, "train").fps == 15


def test_truncated_video_is_skipped_and_named(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    broken = truncate(write_video(source / "train" / "broken.mp4", seed=7))
    short = write_video(source / "train" / "short.mp4", num_frames=3)
    config = command.PrepareConfig(source=source, out=tmp_path / "out", size=SIZE)
    card = command.main(config)
    assert set(card.skipped) == {str(broken), str(short)}
    assert list(card.videos["train"]) == ["train/a", "train/deep/b"], "the good ones must stay"
    printed = capsys.readouterr().out
    assert f"skipped {broken}" in printed and f"skipped {short}" in printed
    assert torch.equal(
        FrameStore.open(tmp_path / "out", "train").read(0, 16),
        video.read(source / "train" / "a.mp4"),
    )


def test_two_videos_of_one_name_are_both_kept(source: Path, tmp_path: Path):
    write_video(source / "train" / "a.mkv", num_frames=20, seed=11)
    data.prepare(source, tmp_path / "out", size=SIZE)
    store = FrameStore.open(tmp_path / "out", "train")
    assert len(store.video_names) == len(set(store.video_names)) == 3
    contents = [
        store.read(start, stop).numpy().tobytes()
        for start, stop in pairwise(store.video_starts.tolist())
    ]
    for path in source.glob("train/**/*.m*"):
        assert video.read(path).numpy().tobytes() in contents, f"the frames of {path} are mixed up"


def test_same_videos_give_the_same_fingerprint(source: Path, tmp_path: Path):
    def fingerprint(name: str) -> str:
        return data.prepare(source, tmp_path / name, size=SIZE).fingerprint

    first = fingerprint("first")
    assert first == fingerprint("again")
    write_video(source / "train" / "a.mp4", num_frames=16, seed=99)
    assert first != fingerprint("other-frames"), "other frames must not pass for these"


def test_another_split_gives_another_fingerprint(tmp_path: Path):
    for seed in range(8):
        write_video(tmp_path / "videos" / f"video-{seed}.mp4", seed=seed)
    cards = [
        data.prepare(tmp_path / "videos", tmp_path / str(share), size=SIZE, heldout_share=share)
        for share in (0.15, 0.4)
    ]
    assert cards[0].videos != cards[1].videos
    assert cards[0].fingerprint != cards[1].fingerprint, "tokens of one would be taken for another"


def only_text(folder: Path) -> None:
    (folder / "notes.txt").write_text("no video here")


def only_short(folder: Path) -> None:
    write_video(folder / "train" / "a.mp4", num_frames=5)
    write_video(folder / "heldout" / "b.mp4", num_frames=5)


def only_broken(folder: Path) -> None:
    (folder / "a.mp4").write_text("not a video")


def nothing_held_out(folder: Path) -> None:
    write_video(folder / "train" / "a.mp4")


def alone_and_short(folder: Path) -> None:
    write_video(folder / "a.mp4", num_frames=31)


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (only_text, "holds no videos"),
        (only_short, "has 5 frames, 16 are wanted"),
        (only_broken, "not a readable video"),
        (nothing_held_out, "no video for the heldout split"),
        (alone_and_short, "only video and has 31 frames.* 32 frames"),
    ],
)
def test_unusable_folder_is_refused_and_leaves_nothing(tmp_path: Path, fill, message: str):
    (tmp_path / "videos").mkdir()
    fill(tmp_path / "videos")
    with pytest.raises(UserError, match=message) as error:
        data.prepare(tmp_path / "videos", tmp_path / "out", size=SIZE)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["videos"], "something half-made stayed"


def test_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        data.prepare(tmp_path / "nowhere", tmp_path / "out", size=SIZE)
    assert not list(tmp_path.iterdir())


def test_existing_out_is_not_touched(source: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="exists already"):
        data.prepare(source, out, size=SIZE)
    assert [p.name for p in out.iterdir()] == ["mine.txt"]


def test_interrupted_preparing_leaves_nothing(source: Path, tmp_path: Path):
    def interrupted(paths: list[Path]):
        yield from paths[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.prepare(source, tmp_path / "out", size=SIZE, progress=interrupted)
    assert [p.name for p in tmp_path.iterdir()] == ["videos"]


def test_full_disk_is_one_line_and_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fill_up(rows: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(data, "_fixed_lists", fill_up)
    with pytest.raises(UserError, match="No space left"):
        data.prepare(source, tmp_path / "out", size=SIZE)
    assert [p.name for p in tmp_path.iterdir()] == ["videos"]


# Opening


def test_folder_that_was_not_prepared_is_refused(tmp_path: Path):
    assert not data.is_prepared(tmp_path)
    with pytest.raises(UserError, match=r"train\.prepare"):
        FrameStore.open(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: json.dumps(card | {"version": 99}), "99"),
        (lambda card: json.dumps(card)[:-20], "card.json"),
        (lambda card: json.dumps([card]), "card.json"),
        (lambda card: json.dumps({k: card[k] for k in card if k != "fps"}), "card.json"),
        (lambda card: json.dumps(card | {"colour": 3}), "card.json"),
    ],
    ids=["other version", "broken", "a list", "a field less", "a field more"],
)
def test_bad_card_is_refused(prepared_folder: Path, tmp_path: Path, change, message: str):
    card = json.loads((prepared_folder / "card.json").read_text())
    (tmp_path / "card.json").write_text(change(card))
    with pytest.raises(UserError, match=message):
        FrameStore.open(tmp_path, "train")


# Clips


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    num_frames=st.integers(1, 12),
    stride=st.integers(1, 4),
)
def test_clips_are_all_windows_that_stay_within_a_video(lengths, num_frames, stride):
    store = counted_store(lengths)
    wanted = [
        int(start) + offset
        for start, length in zip(store.video_starts[:-1], lengths, strict=True)
        for offset in range(0, length - num_frames + 1, stride)
    ]
    if not wanted:
        with pytest.raises(UserError, match=f"longest video has {max(lengths)}"):
            Clips(store, num_frames, stride)
        return
    clips = Clips(store, num_frames, stride)
    assert [clips.row(i) for i in range(len(clips))] == wanted
    video_of_row = np.repeat(np.arange(len(lengths)), lengths)
    for tokens, actions in (clips[i] for i in range(len(clips))):
        rows = tokens[:, 0].tolist()
        assert rows == list(range(rows[0], rows[0] + num_frames)), "a clip skips frames"
        assert len(set(video_of_row[rows])) == 1, "a clip crosses from one video into the next"
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
    found = TokenStore.open(tmp_path / "tokens", "abc", tokens.video_starts)
    assert found is not None and len(found) == 9
    assert torch.equal(found.tokens, tokens.tokens), "a token changed on its way over the disk"
    assert torch.equal(found.actions, tokens.actions)
    assert [p.name for p in tmp_path.iterdir()] == ["tokens"]


def test_tokens_of_other_nets_or_frames_are_refused(tokens: TokenStore, tmp_path: Path):
    folder = tmp_path / "tokens"
    assert TokenStore.open(folder, "abc", tokens.video_starts) is None, "nothing is stored yet"
    tokens.save(folder, "abc")
    assert TokenStore.open(folder, "other", tokens.video_starts) is None
    other = TokenStore(tokens.tokens + 1, tokens.actions, tokens.video_starts)
    other.save(folder, "other")
    assert TokenStore.open(folder, "abc", tokens.video_starts) is None, "the old ones are gone"
    found = TokenStore.open(folder, "other", tokens.video_starts)
    assert found is not None and torch.equal(found.tokens, other.tokens)


def test_interrupted_saving_is_no_store(tokens: TokenStore, tmp_path: Path):
    tokens.save(tmp_path / "tokens", "abc")
    shutil.copytree(tmp_path / "tokens", tmp_path / "half")
    (tmp_path / "half" / "fingerprint").unlink()
    assert TokenStore.open(tmp_path / "half", "abc", tokens.video_starts) is None
