"""From a folder of videos to shards and clips: nothing lost, nothing mixed, nothing half-made."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HEIGHT, WIDTH
from hypothesis import given
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
    for split in data.SPLITS:
        assert first.videos[split], "with half the videos held out, both splits get some"
        assert first.videos[split].items() <= second.videos[split].items(), (
            "a video changed sides because others came in"
        )


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


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (only_text, "holds no videos"),
        (only_short, "has 5 frames, 16 are wanted"),
        (only_broken, "not a readable video"),
        (nothing_held_out, "no video for the heldout split"),
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
