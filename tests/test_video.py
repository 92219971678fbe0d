"""Pictures and videos: exact where they promise to be, one clear line where a file is bad."""

import errno
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import moving_square, scrolling_ground
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageSequence

import genie
from genie import video
from genie.errors import UserError
from genie.frames import from_pictures, to_float, to_pictures, to_uint8

REPOSITORY = Path(__file__).resolve().parent.parent
COLOUR = (200, 40, 90)
SIZE = (24, 32)
SIDES = st.integers(1, 9)


@pytest.fixture(scope="module")
def clip() -> list[np.ndarray]:
    return list(moving_square(20, seed=3)[0])


@pytest.fixture(scope="module")
def clip_file(clip: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    video.write(path, clip, fps=12.0)
    return path


def noise(num_frames: int, height: int = 32, width: int = 48) -> list[np.ndarray]:
    """Frames that compress badly, so that most of a file's bytes are pictures."""
    return list(np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), np.uint8))


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def assert_one_line_about(error: pytest.ExceptionInfo, path: Path) -> None:
    message = str(error.value)
    assert str(path) in message, f"the message does not say which file: {message}"
    assert "\n" not in message, f"more than one line: {message!r}"


# Numbers


@given(npst.arrays(np.uint8, st.tuples(SIDES, st.just(3), SIDES, SIDES)))
def test_stored_to_float_to_stored_changes_no_pixel(frames: np.ndarray):
    stored = torch.from_numpy(frames)
    floats = to_float(stored)
    assert ((floats >= 0) & (floats <= 1)).all(), "float frames leave 0..1"
    assert torch.equal(to_uint8(floats), stored)


def test_float_range_is_used_whole_and_clamped():
    given, wanted = [-0.5, 0.0, 0.5, 1.0, 2.0], [0, 0, 128, 255, 255]
    assert to_uint8(torch.tensor(given)).tolist() == wanted


@given(npst.arrays(np.uint8, st.tuples(SIDES, SIDES, SIDES, st.just(3))))
def test_pictures_of_frames_have_their_pixels(pictures: np.ndarray):
    frames = from_pictures(pictures)
    for plane in range(3):
        assert (frames[:, plane].numpy() == pictures[..., plane]).all(), "the third is not blue"
    assert (to_pictures(frames) == pictures).all()
    assert (from_pictures(pictures[0]) == frames[0]).all(), "one is as one of many"
    assert (to_pictures(frames[0]) == pictures[0]).all()


# Writing and reading videos


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_lossless_video_comes_back_exactly(clip: list[np.ndarray], tmp_path: Path, ending: str):
    path = tmp_path / f"clip{ending}"
    video.write(path, clip, fps=12.0, lossless=True)
    found = video.read(path)
    assert np.array_equal(found, np.stack(clip))
    assert video.read_fps(path) == pytest.approx(12)


@pytest.mark.parametrize("of", [(32, 48), (61, 33), (16, 24), (24, 32)])
@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
def test_a_resizer_gives_what_reading_a_lossless_video_gives(tmp_path: Path, of, fit: video.Fit):
    frames = noise(3, *of)
    video.write(tmp_path / "clip.mkv", frames, fps=5.0, lossless=True)
    read = list(video.stream(tmp_path / "clip.mkv", SIZE, fit=fit))
    resizer = video.Resizer(SIZE, fit)
    assert np.array_equal([resizer(frame) for frame in frames], read)


def test_lossless_keeps_noise_and_odd_sides(tmp_path: Path):
    frames = noise(5, height=17, width=23)
    video.write(tmp_path / "odd.mp4", frames, fps=7.5, lossless=True)
    assert (video.read(tmp_path / "odd.mp4") == np.stack(frames)).all()
    assert video.read_fps(tmp_path / "odd.mp4") == pytest.approx(7.5)


def test_ordinary_mp4_is_close_and_plays_anywhere(clip: list[np.ndarray], tmp_path: Path):
    path = tmp_path / "clip.mp4"
    video.write(path, clip, fps=12.0)
    difference = video.read(path).astype(float) - np.stack(clip)
    assert np.sqrt((difference**2).mean()) < 8, "the picture is far from what was written"
    with av.open(str(path)) as container:
        layout = container.streams.video[0].pix_fmt
    assert layout == "yuv420p", f"{layout} is what browsers and phones do not show"


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_scale_repeats_each_pixel(clip: list[np.ndarray], tmp_path: Path, ending: str):
    path = tmp_path / f"large{ending}"
    video.write(path, clip, fps=10.0, scale=3, lossless=ending == ".mp4")
    first = video.read(path)[0]
    assert first.shape == (96, 144, 3)
    spread = [first[row::3, column::3].astype(int) for row in range(3) for column in range(3)]
    assert all((part == spread[0]).all() for part in spread), "a pixel became no even square"
    assert np.abs(spread[0] - clip[0]).max() <= 2


def test_gif_keeps_colours_speed_and_loops(tmp_path: Path):
    frames = [np.roll(moving_square(1, seed=5)[0][0], 2 * shift, axis=1) for shift in range(8)]
    path = tmp_path / "clip.gif"
    video.write(path, frames, fps=10.0)
    found = video.read(path)
    assert len(found) == len(frames)
    assert np.abs(found.astype(int) - np.stack(frames)).max() <= 2, "few colours should be exact"
    with Image.open(path) as image:
        assert image.info["duration"] == 100, "10 frames per second are 100 ms each"
        assert image.info["loop"] == 0, "a GIF of a game should loop"


def gif_times(path: Path) -> list[int]:
    """Milliseconds of each frame, as the file has them."""
    with Image.open(path) as image:
        return [frame.info["duration"] for frame in ImageSequence.Iterator(image)]


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 40), st.floats(0.5, 100))
def test_a_gif_lasts_as_long_as_its_frames(small_files: Path, count: int, fps: float):
    path = small_files / "timed.gif"
    frames = [np.full((8, 8, 3), 6 * number, np.uint8) for number in range(count)]
    video.write(path, frames, fps=fps)
    times = gif_times(path)
    assert abs(sum(times) - 1000 * count / fps) <= 20, "faster or slower than told"
    assert min(times) >= 20, "browsers slow this down"


def test_a_gif_faster_than_gifs_can_be_leaves_out_frames(tmp_path: Path):
    frames = [np.full((8, 8, 3), 2 * number, np.uint8) for number in range(120)]
    video.write(tmp_path / "fast.gif", frames, fps=120.0)
    times, found = gif_times(tmp_path / "fast.gif"), from_gif(tmp_path / "fast.gif")
    assert sum(times) == 1000 and set(times) <= {20, 30}
    assert np.all(np.diff(found[:, 0, 0, 0].astype(int)) > 0), "the order is lost"
    video.write(tmp_path / "usual.gif", frames[:15], fps=15.0)
    assert sum(gif_times(tmp_path / "usual.gif")) == 1000, "15 frames are a second"


def test_a_picture_that_stands_for_longer_than_a_gif_can_tell_is_refused(tmp_path: Path):
    frames = [np.zeros((8, 8, 3), np.uint8)] * 11
    video.write(tmp_path / "still.gif", frames[:10], fps=1 / 60)
    with pytest.raises(UserError, match="mp4"):
        video.write(tmp_path / "still.gif", frames, fps=1 / 60)
    assert [path.name for path in tmp_path.iterdir()] == ["still.gif"]


def from_gif(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.stack([np.array(f.convert("RGB")) for f in ImageSequence.Iterator(image)])


COLOURS = npst.arrays(np.uint8, st.tuples(st.integers(1, 256), st.just(3)))


@settings(max_examples=60, deadline=None)
@given(
    COLOURS, st.integers(0, 2**32 - 1), st.integers(8, 40), st.integers(8, 40), st.integers(1, 3)
)
def test_gif_of_few_colours_is_exact(
    small_files: Path, colours: np.ndarray, seed: int, height: int, width: int, scale: int
):
    rng = np.random.default_rng(seed)
    frames = [colours[rng.integers(len(colours), size=(height, width))] for _ in range(3)]
    video.write(small_files / "few.gif", frames, fps=10.0, scale=scale)
    found = from_gif(small_files / "few.gif")
    distinct = [frames[0], *(b for a, b in pairwise(frames) if (a != b).any())]
    enlarged = np.stack(distinct).repeat(scale, axis=1).repeat(scale, axis=2)
    assert (found == enlarged).all()


def test_in_a_large_gif_of_few_colours_a_lone_pixel_keeps_its_own(tmp_path: Path):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (250, 3), dtype=np.uint8)
    frame = colours[np.zeros((500, 400), dtype=int)]
    frame.reshape(-1, 3)[rng.choice(500 * 400, 250, replace=False)] = colours
    video.write(tmp_path / "large.gif", [frame], fps=10.0)
    assert (from_gif(tmp_path / "large.gif")[0] == frame).all()


def soft_art(seed: int, num_colours: int, noise: float) -> np.ndarray:
    """Pixel art as a decoder draws it: soft edges, and no two pixels quite alike."""
    rng = np.random.default_rng(seed)
    palette = rng.integers(0, 256, (num_colours, 3))
    art = palette[rng.integers(num_colours, size=(8, 8))].repeat(8, axis=0).repeat(8, axis=1)
    for axis in (0, 1):
        art = 0.8 * art + 0.1 * np.roll(art, 1, axis) + 0.1 * np.roll(art, -1, axis)
    return (art + rng.normal(0, noise, art.shape)).clip(0, 255).round().astype(np.uint8)


def worst_psnr(found: np.ndarray, wanted: np.ndarray) -> float:
    errors = ((found.astype(float) - wanted) ** 2).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / max(errors.max(), 1e-9))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 2), st.integers(6, 12), st.floats(1, 2))
def test_gif_of_many_colours_loses_little(small_files: Path, seed: int, colours: int, noise: float):
    frames = [soft_art(seed + number, colours, noise) for number in range(2)]
    assert all(len(np.unique(frame.reshape(-1, 3), axis=0)) > 256 for frame in frames)
    video.write(small_files / "many.gif", frames, fps=10.0)
    assert worst_psnr(from_gif(small_files / "many.gif"), np.stack(frames)) > 40


def test_gif_of_a_world_loses_little(tmp_path: Path):
    """Frames of the shipped world; the worst one lost 50 dB when this was written."""
    world = genie.load(REPOSITORY / "checkpoints" / "coinrun")
    prompt = video.read_image(REPOSITORY / "checkpoints/coinrun/prompts/1.png", world.size)
    session = world.start(prompt, seed=1)
    frames = [session.step(number // 6 % world.num_actions) for number in range(24)]
    video.write(tmp_path / "world.gif", frames, fps=15.0)
    assert worst_psnr(from_gif(tmp_path / "world.gif"), np.stack(frames)) > 45


@given(st.integers(1, 60), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_strip_goes_from_the_first_frame_to_the_last(small_files: Path, count: int, scale: int):
    frames = [np.full((8, 9, 3), (number, 255 - number, 7), np.uint8) for number in range(count)]
    video.write(small_files / "strip.png", frames, fps=10.0, scale=scale)
    with Image.open(small_files / "strip.png") as image:
        strip = np.array(image)
    pictures = strip.reshape(8 * scale, -1, 9 * scale, 3).swapaxes(0, 1)
    numbers = [int(picture[0, 0, 0]) for picture in pictures]
    assert len(pictures) == min(count, 12) and (numbers[0], numbers[-1]) == (0, count - 1)
    assert numbers == sorted(set(numbers)), "each once, in order"
    gaps = np.diff(numbers)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1, "evenly spread"
    wanted = np.stack([frames[number] for number in numbers])
    assert (pictures == wanted.repeat(scale, axis=1).repeat(scale, axis=2)).all()


def test_reading_at_another_size_crops_the_middle(tmp_path: Path):
    frame = np.zeros((16, 48, 3), np.uint8)
    frame[:, 16:32] = COLOUR
    video.write(tmp_path / "wide.mp4", [frame] * 3, fps=5.0, lossless=True)
    found = video.read(tmp_path / "wide.mp4", size=(8, 8))
    assert found.shape == (3, 8, 8, 3)
    assert (found[:, :, 3] == COLOUR).all()


@pytest.mark.parametrize("last", [1, 8, 20, 30])
def test_the_last_frames_are_those_of_the_whole(clip_file: Path, last: int):
    whole = video.read(clip_file, SIZE)
    assert np.array_equal(video.read(clip_file, SIZE, last=last), whole[-last:])


@pytest.mark.parametrize(
    ("ending", "place"), [("mkv", 0.6), ("mkv", 0.7), ("mkv", 0.8), ("mp4", 0.3), ("mp4", 0.8)]
)
def test_damage_in_the_middle_is_told(tmp_path: Path, ending: str, place: float):
    """Decoders go on after it with smears; whole pictures that are lost show as a pause at most."""
    path = tmp_path / f"film.{ending}"
    frames, _ = scrolling_ground(150, seed=3)
    video.write(path, [frame.repeat(4, axis=0).repeat(4, axis=1) for frame in frames], fps=15.0)
    content = bytearray(path.read_bytes())
    start = int(place * len(content))
    content[start : start + 400] = np.random.default_rng(0).bytes(400)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged|breaks off") as told:
        video.read(path, SIZE)
    assert str(told.value).count(str(path)) == 1


def test_frames_stream_before_the_end_is_reached(tmp_path: Path):
    ends_before_its_last_frame(tmp_path / "cut.mp4")
    frames = video.stream(tmp_path / "cut.mp4", SIZE)
    assert next(frames).shape == next(frames).shape == (*SIZE, 3), "all were read before the first"
    with pytest.raises(UserError, match="breaks off"):
        list(frames)


def test_file_without_a_rate_gets_an_ordinary_one(tmp_path: Path):
    path = tmp_path / "still.mkv"
    video.write(path, noise(1), fps=10.0)
    content = path.read_bytes()
    start = content.index(bytes.fromhex("23E38384"))  # Matroska's duration of a frame
    path.write_bytes(content[:start] + bytes.fromhex("EC86000000000000") + content[start + 8 :])
    assert video.read_fps(path) == 15


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_impossible_rate_is_refused(clip: list[np.ndarray], tmp_path: Path, fps: float, ending):
    with pytest.raises(UserError, match="frames per second"):
        video.write(tmp_path / f"clip{ending}", clip, fps=fps)
    assert not list(tmp_path.iterdir())


# Nothing half-written


def wrong_shapes(frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    return [*frames[:3], np.zeros((5, 7, 1), np.uint8)]


def full_disk(frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    def fill_up(path: Path, *args, **kwargs) -> None:
        Path(path).write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(video, "_encode", fill_up)
    monkeypatch.setattr(video, "_encode_gif", fill_up)
    monkeypatch.setattr(video, "_encode_strip", fill_up)
    return frames


@pytest.mark.parametrize("ending", [".gif", ".mp4", ".mkv", ".png"])
@pytest.mark.parametrize("failure", [wrong_shapes, full_disk])
def test_failed_writing_leaves_no_trace(
    clip: list[np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: Callable,
    ending: str,
):
    old = tmp_path / f"old{ending}"
    old.write_bytes(b"what was there before")
    frames = failure(clip, monkeypatch)
    for path in (old, tmp_path / f"new{ending}"):
        with pytest.raises((UserError, ValueError)):
            video.write(path, frames, fps=10.0)
    assert [p.name for p in tmp_path.iterdir()] == [old.name], "something half-written stayed"
    assert old.read_bytes() == b"what was there before"


def test_full_disk_is_the_users_business(
    clip: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    full_disk(clip, monkeypatch)
    with pytest.raises(UserError, match="No space left") as error:
        video.write(tmp_path / "new.mp4", clip, fps=10.0)
    assert_one_line_about(error, tmp_path / "new.mp4")


@pytest.mark.parametrize("name", ["clip.webp", "clip", "missing/clip.gif", "folder.gif"])
def test_places_that_cannot_be_written_are_refused(
    clip: list[np.ndarray], tmp_path: Path, name: str
):
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(UserError):
        video.write(tmp_path / name, clip, fps=10.0)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.gif"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission_is_refused(clip: list[np.ndarray], tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="may write"):
        video.write(tmp_path / "clip.gif", clip, fps=10.0)


def test_no_frames_make_no_file(tmp_path: Path):
    with pytest.raises(UserError, match="no frames"):
        video.write(tmp_path / "empty.mp4", [], fps=10.0)
    assert not list(tmp_path.iterdir())


# Bad videos


def no_file(path: Path) -> None:
    pass


def no_bytes(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("1\n00:00:00,000 --> 00:00:01,000\nnot a picture at all\n" * 50)


def sound_only(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        for packet in hum(container.add_stream("aac", rate=16_000), seconds=1):
            container.mux(packet)


def hum(sound: av.AudioStream, seconds: int) -> Iterator[av.Packet]:
    samples = np.zeros((1, 1024), np.float32)
    for _ in range(seconds * 16):
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16_000
        yield from sound.encode(frame)
    yield from sound.encode()


def ends_before_its_index(path: Path) -> None:
    video.write(path, noise(20), fps=10.0, lossless=True)
    cut(path, 0.6)


def ends_before_its_last_frame(path: Path) -> None:
    """Index first, as streaming sites write it, so that the file opens and then breaks off."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for picture in noise(30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    cut(path, 0.6)


@pytest.mark.parametrize(
    "make", [no_file, no_bytes, text, sound_only, ends_before_its_index, ends_before_its_last_frame]
)
def test_bad_video_is_refused_in_one_line(tmp_path: Path, make: Callable):
    path = tmp_path / "bad.mp4"
    make(path)
    with pytest.raises(UserError) as error:
        video.read(path, size=(16, 16))
    assert_one_line_about(error, path)


ENCODERS = {
    "cut.mkv": ("libx264", "yuv420p", {}),
    "cut.mp4": ("libx264", "yuv420p", {"movflags": "faststart"}),
    "cut.avi": ("mpeg4", "yuv420p", {}),
    "cut.webm": ("libvpx", "yuv420p", {}),
}


def encode(path: Path, times: list[int], codec: str, layout: str, options: dict[str, str]) -> None:
    """Noise; `times` tells in milliseconds when each picture appears."""
    with av.open(str(path), "w", options=options) as container:
        track = container.add_stream(codec, rate=10)
        track.width, track.height, track.pix_fmt = 48, 32, layout
        track.codec_context.time_base = Fraction(1, 10 if path.suffix == ".avi" else 1000)
        for picture, time in zip(noise(len(times)), times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 1000), time
            container.mux(track.encode(frame))
        container.mux(track.encode())


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    for name, (codec, layout, options) in ENCODERS.items():
        encode(folder / name, list(range(0, 4000, 100)), codec, layout, options)
    return folder


@pytest.mark.parametrize("name", ENCODERS)
@given(share=st.floats(0.05, 0.85))
@settings(max_examples=15, deadline=None)
def test_recording_that_was_cut_off_is_refused(whole_files: Path, name: str, share: float):
    content = (whole_files / name).read_bytes()
    assert len(video.read(whole_files / name, (8, 8))) == 40
    path = whole_files / f"part-of-{name}"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError) as error:
        video.read(path, (8, 8))
    assert_one_line_about(error, path)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv"])
@given(lengths=st.lists(st.integers(20, 3000), min_size=1, max_size=8))
@settings(max_examples=15, deadline=None)
def test_frames_of_unequal_length_are_no_cut(whole_files: Path, name: str, lengths: list[int]):
    path = whole_files / f"unequal-{name}"
    encode(path, np.cumsum([0, *lengths]).tolist(), *ENCODERS[name])
    assert len(video.read(path, (8, 8))) == len(lengths) + 1


def test_stream_copied_cut_is_whole(tmp_path: Path):
    """A cut between two key frames keeps frames that are not shown, for the decoder only."""
    whole, part = tmp_path / "whole.mp4", tmp_path / "part.mp4"
    options = {"options": {"g": "12", "bf": "0"}}
    with av.open(str(whole), "w") as container:
        track = container.add_stream("libx264", rate=10, **options)
        track.width, track.height, track.pix_fmt = 48, 32, "yuv420p"
        for picture in noise(48):
            container.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(track.encode())
    with av.open(str(whole)) as source, av.open(str(part), "w") as target:
        copied = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.pts * packet.time_base >= Fraction(12, 10):
                shift = int(Fraction(18, 10) / packet.time_base)
                packet.stream, packet.pts, packet.dts = (
                    copied,
                    packet.pts - shift,
                    packet.dts - shift,
                )
                target.mux(packet)
    with av.open(str(part)) as container:
        assert container.streams.video[0].frames == 36, "the test is to have hidden frames"
    assert len(video.read(part)) == 30


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_sound_may_go_on_after_the_pictures(tmp_path: Path, ending: str):
    path = tmp_path / f"song{ending}"
    with av.open(str(path), "w") as container:
        track, sound = container.add_stream("libx264", rate=10), container.add_stream("aac", 16_000)
        track.width, track.height, track.pix_fmt = 48, 32, "yuv420p"
        for picture in noise(10):
            container.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(track.encode())
        for packet in hum(sound, seconds=5):
            container.mux(packet)
    path.write_bytes(path.read_bytes().replace(b"DURATION", b"LOCATION"))
    assert len(video.read(path)) == 10


@pytest.mark.parametrize("clock", ["a while", "1:2", "::", "x:y:z", "00:00:nan", "00:00:inf"])
def test_odd_duration_tag_is_no_reason_to_stop(tmp_path: Path, clock: str):
    path = tmp_path / "odd.mkv"
    video.write(path, noise(20), fps=10.0)
    content = path.read_bytes()
    assert content.count(b"00:00:02.000000000") == 1
    path.write_bytes(content.replace(b"00:00:02.000000000", clock.encode().ljust(18)))
    assert len(video.read(path)) == 20


def test_gif_is_held_to_the_rules_of_images(tmp_path: Path):
    path = tmp_path / "a.gif"
    for read in (video.read, video.read_image):
        single_pixel(path)
        with pytest.raises(UserError, match=r"1x1.*8x8") as error:
            read(path, SIZE)
        assert_one_line_about(error, path)
        see_through_palette().save(path, transparency=0)
        assert (read(path, SIZE) == 255).all(), "transparency is laid on white"


# Upright


QUARTER_TURNS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]


def turn(path: Path, turns: int) -> None:
    """Ask players of an MP4 for quarter turns clockwise, as telephones do: in its track header."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    a, b, c, d = (number << 16 for number in QUARTER_TURNS[turns])
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


FITS = ("crop", "letterbox", "stretch")


@pytest.fixture(scope="module")
def turned_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For every number of turns: the file that asks for them, and one that is upright already."""
    folder = tmp_path_factory.mktemp("turned")
    soft = [soft_art(seed, 12, 1)[:40] for seed in range(3)]  # 40 high, 64 wide
    for turns in range(4):
        video.write(folder / f"{turns}.mp4", soft, fps=10.0, lossless=True)
        turn(folder / f"{turns}.mp4", turns)
        upright = [np.rot90(picture, -turns) for picture in soft]
        video.write(folder / f"{turns}-upright.mp4", upright, fps=10.0, lossless=True)
    return folder


@pytest.mark.parametrize("turns", range(4))
def test_video_of_a_turned_telephone_stands_upright(turned_files: Path, turns: int):
    found = video.read(turned_files / f"{turns}.mp4")
    assert np.array_equal(found, video.read(turned_files / f"{turns}-upright.mp4"))


@pytest.mark.parametrize("turns", range(4))
@given(size=st.tuples(st.integers(8, 100), st.integers(8, 100)), fit=st.sampled_from(FITS))
@settings(max_examples=40, deadline=None)
def test_turned_video_is_fitted_as_an_upright_one(
    turned_files: Path, turns: int, size: tuple[int, int], fit: video.Fit
):
    pairs = [
        next(video.stream(turned_files / name, size, fit=fit)).astype(int)
        for name in (f"{turns}.mp4", f"{turns}-upright.mp4")
    ]
    assert np.abs(pairs[0] - pairs[1]).max() <= 12, "turned and upright are resized differently"


# Shapes


def striped(height: int, width: int) -> np.ndarray:
    """Colours that tell the place: red grows downwards, green to the right; none is black."""
    picture = np.full((height, width, 3), 120, np.uint8)
    picture[..., 0] = np.linspace(60, 250, height)[:, None]
    picture[..., 1] = np.linspace(60, 250, width)[None]
    return picture


@given(
    of=st.tuples(st.integers(8, 70), st.integers(8, 70)),
    size=st.tuples(st.integers(8, 70), st.integers(8, 70)),
    fit=st.sampled_from(FITS),
)
@settings(max_examples=120, deadline=None)
def test_picture_of_any_shape_comes_to_any_size(
    small_files: Path, of: tuple[int, int], size: tuple[int, int], fit: video.Fit
):
    video.write(small_files / "shape.mkv", [striped(*of)], fps=5.0, lossless=True)
    (found,) = video.stream(small_files / "shape.mkv", size, fit=fit)
    assert found.shape == (*size, 3) and found.dtype == np.uint8
    is_bar = (found < 30).all(axis=-1)
    rows, columns = (np.flatnonzero(~is_bar.all(axis=axis)) for axis in (1, 0))
    inner = found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(int)
    assert not is_bar[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].any()
    scale = min(size[0] / of[0], size[1] / of[1])
    wanted = (of[0] * scale, of[1] * scale) if fit == "letterbox" else size
    assert np.abs(np.subtract(inner.shape[:2], wanted)).max() <= 1, "bars of another width"
    for seen, length in ((rows, size[0]), (columns, size[1])):
        assert abs(seen[0] - (length - 1 - seen[-1])) <= 1, "not in the middle"
    down, right = inner[:, :, 0].mean(axis=1), inner[:, :, 1].mean(axis=0)
    assert (np.diff(down) >= 0).all() and (np.diff(right) >= 0).all(), "turned or mirrored"
    scale = max(size[0] / of[0], size[1] / of[1])
    for colours, across, along in ((down, of[0], size[0]), (right, of[1], size[1])):
        share = min(1.0, along / (across * scale)) if fit == "crop" else 1.0
        step = 190 / (across - 1) + 190 / len(colours)  # a pixel here, a pixel there
        assert abs(colours[0] - (155 - 95 * share)) <= step + 3
        assert abs(colours[-1] - (155 + 95 * share)) <= step + 3


@pytest.mark.parametrize("size", [None, (16, 20), (60, 80)], ids=["own", "smaller", "larger"])
@pytest.mark.parametrize(
    ("codec", "layout"),
    [("png", "rgba"), ("qtrle", "argb"), ("ffv1", "bgra"), ("ffv1", "yuva444p")],
    ids=str,
)
def test_see_through_video_is_laid_on_white(tmp_path: Path, codec: str, layout: str, size):
    path = tmp_path / ("a.mkv" if codec == "ffv1" else "a.mov")
    picture = np.array(with_alpha(128))
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=10)
        track.width, track.height, track.pix_fmt = 40, 30, layout
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format=layout)
            container.mux(track.encode(frame))
        container.mux(track.encode())
    for found in video.stream(path, size):
        assert np.abs(found.astype(int) - half_on_white()).max() <= 3, f"became {found[0, 0]}"


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(90, 160), (17, 23)])
def test_a_video_of_the_wanted_size_is_exact_in_every_fit(tmp_path: Path, size, fit: video.Fit):
    frames = noise(4, *size)
    video.write(tmp_path / "same.mp4", frames, fps=6.0, lossless=True)
    for fps in (None, 6.0):
        found = list(video.stream(tmp_path / "same.mp4", size, fit=fit, fps=fps))
        assert (np.stack(found) == np.stack(frames)).all()


def test_letterbox_puts_equal_black_bars(tmp_path: Path):
    video.write(tmp_path / "wide.mp4", noise(2, 40, 80), fps=5.0, lossless=True)
    (found, _) = video.stream(tmp_path / "wide.mp4", (48, 48), fit="letterbox")
    assert (found[:12] == 0).all() and (found[-12:] == 0).all(), "24 of 48 rows are picture"
    assert found[12:-12].min(axis=(1, 2)).max() > 0 and found[12:-12].std() > 20
    Image.fromarray(noise(1, 40, 80)[0]).save(tmp_path / "wide.png")
    image = video.read_image(tmp_path / "wide.png", (48, 48), "letterbox")
    assert (image[:12] == 0).all() and (image[-12:] == 0).all() and image[12:-12].std() > 20


# Clocks


def numbered(number: int) -> np.ndarray:
    """A picture that tells which one it is."""
    return np.full((8, 8, 3), number, np.uint8)


def write_timed(path: Path, times: list[int], lengths: list[int]) -> None:
    """Numbered pictures, each shown at its millisecond for so many."""
    with av.open(str(path), "w") as container:
        track = container.add_stream("ffv1", rate=1000)
        track.width, track.height, track.pix_fmt = 8, 8, "bgr0"
        track.codec_context.time_base = Fraction(1, 1000)
        for number, (time, length) in enumerate(zip(times, lengths, strict=True)):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            for packet in track.encode(frame):
                packet.duration = length
                container.mux(packet)


def shown_at(tick: float, times: list[int]) -> set[int]:
    """Which pictures may be shown at a second; two where clocks that round may disagree."""
    return {
        max(number for number, time in enumerate(times) if number == 0 or time <= limit)
        for limit in (1000 * tick + 0.99, 1000 * tick + 1.01)
    }


@given(
    gaps=st.lists(st.integers(2, 400), max_size=25),
    last=st.integers(2, 400),
    start=st.sampled_from([0, 0, 730]),
    fps=st.sampled_from([1.0, 5.0, 7.3, 10.0, 12.5, 24.0, 30000 / 1001, 60.0, 144.0]),
)
@settings(max_examples=80, deadline=None)
def test_at_every_tick_of_the_clock_the_picture_is_taken_that_is_shown_then(
    small_files: Path, gaps: list[int], last: int, start: int, fps: float
):
    times = np.cumsum([0, *gaps]).tolist()
    path = small_files / "timed.mkv"
    write_timed(path, [start + time for time in times], [*gaps, last])
    found = [int(picture[0, 0, 0]) for picture in video.stream(path, fps=fps)]
    for number, picture in enumerate(found):
        assert picture in shown_at(number / fps, times), f"tick {number} shows {picture}"
    end = (times[-1] + last) / 1000
    assert (len(found) - 1) / fps < end, "there is a picture after the end"
    assert len(found) / fps >= end - 0.0021, "the end is missing"
    assert [int(p[0, 0, 0]) for p in video.stream(path)] == list(range(len(times)))


@pytest.mark.parametrize(("fps", "wanted"), [(24.0, 48), (12.0, 24), (48.0, 96), (10.0, 20)])
def test_an_even_clock_gives_as_many_frames_as_seconds_need(
    tmp_path: Path, fps: float, wanted: int
):
    video.write(tmp_path / "a.mp4", [numbered(t) for t in range(48)], fps=24.0, lossless=True)
    found = [int(p[0, 0, 0]) for p in video.stream(tmp_path / "a.mp4", fps=fps)]
    assert found == [int(24 * k / fps + 1e-6) for k in range(wanted)]


def test_a_cut_off_recording_is_refused_at_any_rate(tmp_path: Path):
    ends_before_its_last_frame(tmp_path / "cut.mp4")
    for fps in (1.0, 10.0, 100.0):
        with pytest.raises(UserError, match="breaks off"):
            list(video.stream(tmp_path / "cut.mp4", SIZE, fps=fps))


# Images of all kinds


def checker(colours: list[tuple[int, int, int]], width: int = 40, height: int = 30) -> Image.Image:
    """One upright stripe per colour."""
    stripes = np.repeat(np.array(colours, np.uint8), width // len(colours), axis=0)
    return Image.fromarray(np.broadcast_to(stripes, (height, len(stripes), 3)).copy())


def plain() -> Image.Image:
    return checker([COLOUR])


def with_alpha(alpha: int) -> Image.Image:
    image = plain().convert("RGBA")
    image.putalpha(alpha)
    return image


def grey16(value: int) -> Image.Image:
    return Image.fromarray(np.full((30, 40), value, np.uint16))


def see_through_palette() -> Image.Image:
    image = Image.new("P", (40, 30), 0)
    image.putpalette([*COLOUR, 0, 0, 255])
    return image


def half_on_white() -> tuple[int, int, int]:
    return tuple(round((c + 255) / 2) for c in COLOUR)


GOOD_IMAGES = {
    "png": ("a.png", plain, {}, COLOUR),
    "jpeg": ("a.jpg", plain, {"quality": 95}, COLOUR),
    "cmyk": ("a.jpg", lambda: plain().convert("CMYK"), {"quality": 95}, COLOUR),
    "palette": ("a.png", lambda: plain().quantize(4), {}, COLOUR),
    "opaque": ("a.png", lambda: with_alpha(255), {}, COLOUR),
    "transparent": ("a.png", lambda: with_alpha(0), {}, (255, 255, 255)),
    "half transparent": ("a.png", lambda: with_alpha(128), {}, half_on_white()),
    "transparent palette": ("a.png", see_through_palette, {"transparency": 0}, (255, 255, 255)),
    "opaque palette": ("a.png", see_through_palette, {"transparency": 1}, COLOUR),
    "grey": ("a.png", lambda: Image.new("L", (40, 30), 77), {}, (77, 77, 77)),
    "grey with alpha": ("a.png", lambda: Image.new("LA", (40, 30), (77, 255)), {}, (77, 77, 77)),
    "black and white": ("a.png", lambda: Image.new("1", (40, 30), 1), {}, (255, 255, 255)),
    "16-bit grey": ("a.png", lambda: grey16(0x8080), {}, (128, 128, 128)),
    "16-bit dark grey": ("a.png", lambda: grey16(0x00F0), {}, (0, 0, 0)),
    "16-bit tiff": ("a.tif", lambda: grey16(0x4040), {}, (64, 64, 64)),
    "webp": ("a.webp", plain, {"lossless": True}, COLOUR),
}


@pytest.mark.parametrize("kind", GOOD_IMAGES)
def test_image_of_any_mode_has_the_right_colour(tmp_path: Path, kind: str):
    name, make, options, wanted = GOOD_IMAGES[kind]
    make().save(tmp_path / name, **options)
    found = video.read_image(tmp_path / name, SIZE)
    assert found.shape == (*SIZE, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - wanted).max() <= 3, f"became {found[0, 0]}"


def test_animated_gif_gives_its_first_frame(tmp_path: Path):
    others = [Image.new("RGB", (40, 30), colour) for colour in ("blue", "green")]
    plain().save(tmp_path / "a.gif", save_all=True, append_images=others)
    found = video.read_image(tmp_path / "a.gif", SIZE)
    assert found[5, 5].tolist() == list(COLOUR)


def test_photograph_stands_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to show
    checker([(255, 0, 0), (0, 0, 255)], 40, 40).save(tmp_path / "a.png", exif=exif)
    found = video.read_image(tmp_path / "a.png", (16, 16))
    assert found[2, 8].tolist() == [255, 0, 0], "left in the file is on top when upright"
    assert found[13, 8].tolist() == [0, 0, 255]


@pytest.mark.parametrize(("width", "height"), [(90, 30), (9, 8), (300, 100), (8, 200)])
def test_image_of_any_shape_is_cropped_around_its_middle(tmp_path: Path, width: int, height: int):
    colours = [(0, 0, 255), COLOUR, (0, 0, 255)] if width > height else [COLOUR]
    checker(colours, width, height).save(tmp_path / "a.png")
    found = video.read_image(tmp_path / "a.png", (16, 16))
    assert found.shape == (16, 16, 3)
    assert found[8, 8].tolist() == list(COLOUR), "the middle of the picture is lost"


def huge(path: Path) -> None:
    """20000x20000 black, one bit a pixel: 50 MB of zeros in a file of 50 KB."""
    header = (20_000).to_bytes(4) * 2 + bytes([1, 0, 0, 0, 0])
    rows = zlib.compress(bytes(20_000 * 2_501), 1)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, content in chunks:
            check = zlib.crc32(kind + content).to_bytes(4)
            file.write(len(content).to_bytes(4) + kind + content + check)


def single_pixel(path: Path) -> None:
    Image.new("RGB", (1, 1)).save(path)


def broken_off(path: Path) -> None:
    Image.fromarray(noise(1)[0]).save(path)
    cut(path, 0.5)


@pytest.mark.parametrize("make", [no_file, no_bytes, text, single_pixel, huge, broken_off])
def test_bad_image_is_refused_in_one_line(tmp_path: Path, make: Callable):
    path = tmp_path / "bad.png"
    make(path)
    with pytest.raises(UserError) as error:
        video.read_image(path, SIZE)
    assert_one_line_about(error, path)


@pytest.mark.parametrize("kind", [ValueError, EOFError, struct.error, SyntaxError, IndexError])
def test_whatever_the_decoder_raises_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
):
    def fail(*args) -> None:
        raise kind("unpack requires\na buffer of 4 bytes")

    path = tmp_path / "a.png"
    plain().save(path)
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(UserError, match="not a readable image") as error:
        video.read_image(path, SIZE)
    assert_one_line_about(error, path)


@pytest.fixture(scope="module")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    for ending in ("png", "jpg", "webp", "bmp", "tif", "ppm"):
        Image.fromarray(noise(1)[0]).save(folder / f"a.{ending}")
    for ending in ("gif", "mp4", "mkv"):
        video.write(folder / f"a.{ending}", noise(3), fps=5.0)
    return folder


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "tif", "ppm", "gif", "mp4", "mkv"])
@given(draw=st.data())
@settings(max_examples=15, deadline=None)
def test_damaged_file_is_read_or_refused_in_one_line(small_files: Path, ending: str, draw):
    content = bytearray((small_files / f"a.{ending}").read_bytes())
    # Nearly all that can break a reader stands at the beginning.
    places = st.integers(0, min(400, len(content) - 1))
    for place, value in draw.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=6)):
        content[place] = value
    path = small_files / f"damaged.{ending}"
    path.write_bytes(content[: draw.draw(st.integers(1, len(content)))])
    for read in (video.read, video.read_image):
        try:
            assert read(path, SIZE).shape[-3:] == (*SIZE, 3)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error), str(error)


def test_folder_is_no_image(tmp_path: Path):
    with pytest.raises(UserError, match="no file"):
        video.read_image(tmp_path, SIZE)
