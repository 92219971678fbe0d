"""Pictures and videos: exact where they promise to be, one clear line where a file is bad."""

import errno
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import pytest
import torch
from conftest import moving_square
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from genie import video
from genie.errors import UserError

COLOUR = (200, 40, 90)
SIZE = (24, 32)
SIDES = st.integers(1, 9)


@pytest.fixture(scope="module")
def clip() -> list[np.ndarray]:
    return list(moving_square(20, seed=3)[0])


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
    floats = video.to_float(stored)
    assert ((floats >= 0) & (floats <= 1)).all(), "float frames leave 0..1"
    assert torch.equal(video.to_uint8(floats), stored)


def test_float_range_is_used_whole_and_clamped():
    given, wanted = [-0.5, 0.0, 0.5, 1.0, 2.0], [0, 0, 128, 255, 255]
    assert video.to_uint8(torch.tensor(given)).tolist() == wanted


@given(npst.arrays(np.uint8, st.tuples(SIDES, SIDES, st.just(3))))
def test_picture_to_frame_and_back_changes_nothing(picture: np.ndarray):
    frame = video.from_picture(picture)
    assert (frame[2].numpy() == picture[:, :, 2]).all(), "the third plane is not blue"
    assert (video.to_picture(frame) == picture).all()


# Writing and reading videos


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_lossless_video_comes_back_exactly(clip: list[np.ndarray], tmp_path: Path, ending: str):
    path = tmp_path / f"clip{ending}"
    video.write(path, clip, fps=12.0, lossless=True)
    found = video.read(path)
    assert torch.equal(found.movedim(1, -1), torch.from_numpy(np.stack(clip)))
    assert video.read_fps(path) == pytest.approx(12)


def test_lossless_keeps_noise_and_odd_sides(tmp_path: Path):
    frames = noise(5, height=17, width=23)
    video.write(tmp_path / "odd.mp4", frames, fps=7.5, lossless=True)
    assert (video.read(tmp_path / "odd.mp4").movedim(1, -1).numpy() == np.stack(frames)).all()
    assert video.read_fps(tmp_path / "odd.mp4") == pytest.approx(7.5)


def test_ordinary_mp4_is_close_and_plays_anywhere(clip: list[np.ndarray], tmp_path: Path):
    path = tmp_path / "clip.mp4"
    video.write(path, clip, fps=12.0)
    difference = video.read(path).movedim(1, -1).numpy().astype(float) - np.stack(clip)
    assert np.sqrt((difference**2).mean()) < 8, "the picture is far from what was written"
    with av.open(str(path)) as container:
        layout = container.streams.video[0].pix_fmt
    assert layout == "yuv420p", f"{layout} is what browsers and phones do not show"


@pytest.mark.parametrize("ending", [".gif", ".mp4"])
def test_scale_repeats_each_pixel(clip: list[np.ndarray], tmp_path: Path, ending: str):
    path = tmp_path / f"large{ending}"
    video.write(path, clip, fps=10.0, scale=3, lossless=ending == ".mp4")
    first = video.read(path)[0].movedim(0, -1).numpy()
    assert first.shape == (96, 144, 3)
    spread = [first[row::3, column::3].astype(int) for row in range(3) for column in range(3)]
    assert all((part == spread[0]).all() for part in spread), "a pixel became no even square"
    assert np.abs(spread[0] - clip[0]).max() <= 2


def test_gif_keeps_colours_speed_and_loops(tmp_path: Path):
    frames = [np.roll(moving_square(1, seed=5)[0][0], 2 * shift, axis=1) for shift in range(8)]
    path = tmp_path / "clip.gif"
    video.write(path, frames, fps=10.0)
    found = video.read(path).movedim(1, -1).numpy()
    assert len(found) == len(frames)
    assert np.abs(found.astype(int) - np.stack(frames)).max() <= 2, "few colours should be exact"
    with Image.open(path) as image:
        assert image.info["duration"] == 100, "10 frames per second are 100 ms each"
        assert image.info["loop"] == 0, "a GIF of a game should loop"


def test_reading_at_another_size_crops_the_middle(tmp_path: Path):
    frame = np.zeros((16, 48, 3), np.uint8)
    frame[:, 16:32] = COLOUR
    video.write(tmp_path / "wide.mp4", [frame] * 3, fps=5.0, lossless=True)
    found = video.read(tmp_path / "wide.mp4", size=(8, 8))
    assert found.shape == (3, 3, 8, 8)
    assert (found[:, :, :, 3] == torch.tensor(COLOUR, dtype=torch.uint8)[:, None]).all()


# Nothing half-written


def wrong_shapes(frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    return [*frames[:3], np.zeros((5, 7, 1), np.uint8)]


def full_disk(frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    def fill_up(path: Path, *args, **kwargs) -> None:
        Path(path).write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(video, "_encode", fill_up)
    monkeypatch.setattr(iio, "imwrite", fill_up)
    return frames


@pytest.mark.parametrize("ending", [".gif", ".mp4", ".mkv"])
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
        stream = container.add_stream("aac", rate=16_000)
        samples = np.zeros((1, 1024), np.float32)
        for _ in range(20):
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate = 16_000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


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


def test_truncated_mkv_is_refused(tmp_path: Path):
    path = tmp_path / "recording.mkv"
    video.write(path, noise(40), fps=10.0, lossless=True)
    cut(path, 0.6)
    with pytest.raises(UserError, match="breaks off") as error:
        video.read(path)
    assert_one_line_about(error, path)


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
    assert found.shape == (3, *SIZE) and found.dtype == torch.uint8
    colours = found.flatten(1).float().T
    assert (colours - torch.tensor(wanted).float()).abs().max() <= 3, f"became {colours[0]}"


def test_animated_gif_gives_its_first_frame(tmp_path: Path):
    others = [Image.new("RGB", (40, 30), colour) for colour in ("blue", "green")]
    plain().save(tmp_path / "a.gif", save_all=True, append_images=others)
    found = video.read_image(tmp_path / "a.gif", SIZE)
    assert found[:, 5, 5].tolist() == list(COLOUR)


def test_photograph_stands_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to show
    checker([(255, 0, 0), (0, 0, 255)], 40, 40).save(tmp_path / "a.png", exif=exif)
    found = video.read_image(tmp_path / "a.png", (16, 16))
    assert found[:, 2, 8].tolist() == [255, 0, 0], "left in the file is on top when upright"
    assert found[:, 13, 8].tolist() == [0, 0, 255]


@pytest.mark.parametrize(("width", "height"), [(90, 30), (9, 8), (300, 100), (8, 200)])
def test_image_of_any_shape_is_cropped_around_its_middle(tmp_path: Path, width: int, height: int):
    colours = [(0, 0, 255), COLOUR, (0, 0, 255)] if width > height else [COLOUR]
    checker(colours, width, height).save(tmp_path / "a.png")
    found = video.read_image(tmp_path / "a.png", (16, 16))
    assert found.shape == (3, 16, 16)
    assert found[:, 8, 8].tolist() == list(COLOUR), "the middle of the picture is lost"


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


def test_folder_is_no_image(tmp_path: Path):
    with pytest.raises(UserError, match="no file"):
        video.read_image(tmp_path, SIZE)
