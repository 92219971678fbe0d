"""Pixels that are not square, HDR, untagged colours, combs: all as a player shows them."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, VideoReformatter
from PIL import Image

from genie import video
from genie.decoding import is_film
from genie.errors import UserError

PQ, HLG = ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67


def encode(
    path: Path,
    frames: Sequence[av.VideoFrame],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    **context: object,
) -> Path:
    """Write frames as they are, 10 a second; `context` sets attributes of the encoder."""
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=10, options=options or {"crf": "4"})
        track.width, track.height = frames[0].width, frames[0].height
        track.pix_fmt = frames[0].format.name
        for name, value in context.items():
            setattr(track.codec_context, name, value)
        for frame in frames:
            container.mux(track.encode(frame))
        container.mux(track.encode())
    return path


def from_rgb(picture: np.ndarray, matrix: Colorspace = Colorspace.ITU601) -> av.VideoFrame:
    """A frame in YUV of a matrix that nothing names."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame = VideoReformatter().reformat(frame, format="yuv420p", dst_colorspace=matrix)
    frame.colorspace = frame.color_trc = frame.color_primaries = 2
    return frame


# Pixels that are not square


def disc(height: int, width: int, across: int, down: int) -> np.ndarray:
    """A white ellipse in the middle of black."""
    y, x = np.mgrid[:height, :width]
    inside = ((x - width / 2 + 0.5) / across) ** 2 + ((y - height / 2 + 0.5) / down) ** 2 < 0.25
    return np.repeat(inside[..., None] * np.uint8(255), 3, axis=2)


@pytest.mark.parametrize("size", [None, (48, 48), (96, 160)])
@pytest.mark.parametrize("pixel", [Fraction(2), Fraction(4, 3), Fraction(1), Fraction(1, 2)])
def test_a_circle_stays_one_whatever_shape_the_stored_pixels_have(
    tmp_path: Path, pixel: Fraction, size: tuple[int, int] | None
):
    stored = disc(96, 96, across=round(20 / pixel), down=20)
    path = encode(tmp_path / "disc.mp4", [from_rgb(stored)] * 3, sample_aspect_ratio=pixel)
    shown = video.read(path, size)[1].mean(axis=-1) > 127
    across, down = shown.any(axis=0).sum(), shown.any(axis=1).sum()
    assert across > 8 and abs(across - down) <= 3, f"the circle is {across}x{down}"


# Colours


PATCHES = np.array(
    [[0, 0, 0], [64, 64, 64], [128, 128, 128], [220, 220, 220], [180, 40, 40], [40, 150, 60]]
)


def patchwork(height: int, width: int) -> np.ndarray:
    """Patches of colours side by side."""
    columns = np.arange(width) * len(PATCHES) // width
    return np.broadcast_to(PATCHES[columns].astype(np.uint8), (height, width, 3))


def middles(picture: np.ndarray) -> np.ndarray:
    """The colour in the middle of each patch."""
    height, width = picture.shape[:2]
    columns = (np.arange(len(PATCHES)) + 0.5) * width / len(PATCHES)
    return picture[height // 2, columns.astype(int)].astype(int)


def found_in(path: Path) -> np.ndarray:
    """The patches of a file's first frame."""
    return middles(video.read(path)[0])


@pytest.mark.parametrize(
    ("height", "width", "matrix"),
    [
        (480, 640, Colorspace.ITU601),
        (576, 720, Colorspace.ITU601),
        (720, 1280, Colorspace.ITU709),
        (1280, 720, Colorspace.ITU709),
    ],
)
def test_untagged_colours_are_those_that_players_guess_by_the_size(
    tmp_path: Path, height: int, width: int, matrix: Colorspace
):
    frame = from_rgb(patchwork(height, width), matrix)
    found = found_in(encode(tmp_path / "untagged.mp4", [frame] * 2))
    assert np.abs(found - PATCHES).max() <= 5, found


@pytest.mark.parametrize("scale", [1, 12])
def test_a_film_of_ours_comes_back_in_its_colours_and_says_what_they_are(
    tmp_path: Path, scale: int
):
    path = tmp_path / "film.mp4"
    video.write(path, [patchwork(64, 96)] * 3, fps=10.0, scale=scale)
    assert np.abs(found_in(path) - PATCHES).max() <= 5
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).colorspace == Colorspace.ITU709


def linear(code: np.ndarray) -> np.ndarray:
    """SRGB, 0..255, to light, 0..1."""
    code = code / 255
    return np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)


def to_pq(light: np.ndarray) -> np.ndarray:
    """Light, of which 1 is the white of 203 nits, to PQ's 0..1. Source: SMPTE ST 2084."""
    y = (light * 203 / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def to_hlg(light: np.ndarray) -> np.ndarray:
    """Light, of which 1 is white, to HLG's 0..1, on a screen of 1000 nits. Source: BT.2100."""
    shown = light * 203 / 1000
    brightness = shown @ [0.2627, 0.6780, 0.0593]
    scene = shown * np.maximum(brightness, 1e-9)[..., None] ** (1 / 1.2 - 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    low = np.sqrt(3 * scene)
    return np.where(scene <= 1 / 12, low, a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def in_hdr(curve: Callable[[np.ndarray], np.ndarray], trc: ColorTrc) -> av.VideoFrame:
    """The patches in the primaries and the matrix of BT.2020, 10 bits."""
    wide = [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    red, green, blue = np.moveaxis(curve(linear(patchwork(64, 96)) @ np.array(wide).T), -1, 0)
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = [
        64 + 876 * luma,
        512 + 896 * (blue - luma) / 1.8814,
        512 + 896 * (red - luma) / 1.4746,
    ]
    frame = av.VideoFrame(96, 64, "yuv444p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((64, plane.line_size // 2), np.uint16)
        rows[:, :96] = np.round(values)
        plane.update(rows.tobytes())
    frame.colorspace, frame.color_range = Colorspace.BT2020, 1
    frame.color_trc, frame.color_primaries = trc, ColorPrimaries.BT2020
    return frame


@pytest.mark.parametrize(("curve", "trc"), [(to_pq, PQ), (to_hlg, HLG)])
def test_high_dynamic_range_comes_to_the_colours_of_an_ordinary_screen(
    tmp_path: Path, curve: Callable[[np.ndarray], np.ndarray], trc: ColorTrc
):
    frame = in_hdr(curve, trc)
    tags = {name: getattr(frame, name) for name in ("colorspace", "color_trc", "color_primaries")}
    path = encode(tmp_path / "hdr.mkv", [frame] * 2, "ffv1", {"level": "3"}, color_range=1, **tags)
    assert np.abs(found_in(path) - PATCHES).max() <= 16, found_in(path)
    small = middles(video.read(path, (64, 64), last=1)[0])
    assert small.max() > 210, "flat when resized"


# Interlaced video


def combs(picture: np.ndarray) -> float:
    """How much neighbouring rows differ more than every second row does."""
    rows = picture.astype(float).mean(axis=2)
    return np.abs(np.diff(rows, axis=0)).mean() - np.abs(rows[2:] - rows[:-2]).mean()


def test_combs_are_removed_and_no_frame_is_lost(tmp_path: Path):
    moments = []
    for time in range(24):  # a bar that goes right by four pixels a field
        moment = np.full((96, 160, 3), 40, np.uint8)
        moment[:, 20 + 4 * time : 40 + 4 * time] = 220
        moments.append(moment)
    woven = []
    for first, second in zip(moments[::2], moments[1::2], strict=True):
        both = second.copy()
        both[1::2] = first[1::2]
        woven.append(both)
    assert combs(woven[5]) > 8
    options = {"crf": "4", "flags": "+ildct+ilme", "x264-params": "bff=1"}
    path = encode(tmp_path / "woven.mp4", [from_rgb(picture) for picture in woven], options=options)
    shown = video.read(path)
    assert len(shown) == len(woven)
    assert max(map(combs, shown)) < 2, "combs are left"
    for picture, first in zip(shown[1:-1], moments[2::2], strict=False):
        assert np.abs(picture.astype(int) - first).mean() < 5, "another moment is shown"
    assert len(list(video.stream(path, fps=10.0))) == len(woven)
    assert len(list(video.stream(path, fps=5.0))) == len(woven) // 2


# Files put end to end, and files that break off


def transport_stream(path: Path, seed: int, num_frames: int = 30, first: int = 0) -> Path:
    """A moving patchwork as a broadcaster or a capture card writes it, from frame `first` on."""
    ground = np.random.default_rng(seed).integers(0, 255, (4, 40, 3), np.uint8)
    ground = ground.repeat(16, axis=0).repeat(16, axis=1)
    frames = [from_rgb(ground[:, 2 * t : 2 * t + 96]) for t in range(num_frames)]
    for number, frame in enumerate(frames):
        frame.pts, frame.time_base = first + number, Fraction(1, 10)
    return encode(path, frames, options={"crf": "10", "g": "10"})


@pytest.mark.parametrize("fps", [None, 10.0])
def test_short_parts_and_time_that_jumps_far_are_joints_too(tmp_path: Path, fps: float | None):
    short = [transport_stream(tmp_path / f"{seed}.ts", seed, num_frames=8) for seed in range(2)]
    late = transport_stream(tmp_path / "late.ts", 2, first=40_000)
    path, joints = tmp_path / "joined.ts", set()
    path.write_bytes(b"".join(part.read_bytes() for part in (*short, late)))
    shown = list(video.stream(path, fps=fps, joints=joints))
    assert 44 <= len(shown) <= 48 and len(joints) == 2


@pytest.mark.parametrize("fps", [None, 10.0, 4.0])
def test_time_that_runs_back_ends_a_scene_and_goes_on(tmp_path: Path, fps: float | None):
    parts = [transport_stream(tmp_path / f"{seed}.ts", seed) for seed in range(3)]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    joints: set[int] = set()
    shown = list(video.stream(path, fps=fps, joints=joints))
    alone = [list(video.stream(part, fps=fps)) for part in parts]
    assert abs(len(shown) - sum(map(len, alone))) <= 2, "pictures are lost or shown twice"
    assert len(joints) == 2
    first, second = sorted(joints)
    for joint, before, after in zip((first, second), alone, alone[1:], strict=False):
        assert np.abs(shown[joint - 1].astype(int) - before[-1]).mean() < 8
        assert np.abs(shown[joint].astype(int) - after[0]).mean() < 8


# Pictures that move


def squares(count: int, background: tuple[int, ...] = (0, 0, 0, 0)) -> list[Image.Image]:
    """A blue square that goes right, on nothing."""
    images = []
    for number in range(count):
        picture = np.full((32, 48, 4), background, np.uint8)
        picture[8:24, 4 * number : 4 * number + 12] = (30, 60, 200, 255)
        images.append(Image.fromarray(picture))
    return images


@pytest.mark.parametrize("ending", [".png", ".apng", ".webp"])
def test_an_animated_picture_is_a_video_with_its_own_times(tmp_path: Path, ending: str):
    path = tmp_path / f"moves{ending}"
    kind = "WEBP" if ending == ".webp" else "PNG"
    # Pillow's WebP knows no frames that are wholly see-through.
    images = squares(6, (200, 30, 60, 255) if kind == "WEBP" else (0, 0, 0, 0))
    lasting = [100, 100, 300, 100, 100, 100]
    images[0].save(
        path, kind, save_all=True, append_images=images[1:], duration=lasting, lossless=True
    )
    shown = video.read(path)
    assert len(shown) == len(images)
    for picture, image in zip(shown, images, strict=True):
        white = Image.new("RGBA", image.size, "white")
        wanted = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
        assert np.abs(picture.astype(int) - wanted).max() <= 2
    assert len(list(video.stream(path, fps=10.0))) == 8, "a frame that lasts long counts once"
    assert video.read_fps(path) == 10


@pytest.mark.parametrize("ending", [".png", ".webp"])
def test_a_moving_picture_that_is_broken_is_told_in_one_line(tmp_path: Path, ending: str):
    path, images = tmp_path / f"moves{ending}", squares(6)
    images[0].save(path, save_all=True, append_images=images[1:], duration=100)
    content = path.read_bytes()
    for length in range(30, len(content), 40):
        path.write_bytes(content[:length])
        for read in (video.read_fps, video.read):
            with suppress(UserError):
                read(path)


def test_an_animation_is_known_however_far_behind_it_says_so(tmp_path: Path):
    images, path = squares(6), tmp_path / "profile.png"
    profile = np.random.default_rng(0).bytes(30_000)
    images[0].save(path, save_all=True, append_images=images[1:], icc_profile=profile)
    assert len(video.read(path)) == 6


@pytest.mark.parametrize("fps", [7.0, 15.0, 24.0, 30.0, 50.0])
def test_a_gif_tells_the_rate_that_it_was_written_with(tmp_path: Path, fps: float):
    frames = [np.full((8, 8, 3), 4 * number, np.uint8) for number in range(60)]
    video.write(tmp_path / "film.gif", [*frames[:20], *[frames[20]] * 9, *frames[20:]], fps=fps)
    assert video.read_fps(tmp_path / "film.gif") == pytest.approx(fps, rel=0.01)


@pytest.mark.parametrize("ending", [".png", ".webp"])
def test_a_picture_that_stands_is_none(tmp_path: Path, ending: str):
    squares(1)[0].save(tmp_path / f"still{ending}")
    assert not is_film(tmp_path / f"still{ending}")
    assert not is_film(tmp_path / f"missing{ending}")
