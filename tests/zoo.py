"""Short real videos of many kinds, and broken ones, with the truth about each.

Of 200 videos each row of `RECIPES` makes five. The same index gives the same bytes in each run.
"""

import os
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, cycle, islice, pairwise
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream


@dataclass(frozen=True)
class Clip:
    """What is true of a video.

    Args:
        width: as coded, before `rotation`.
        rotation: degrees counter-clockwise in -180..179, as PyAV's `frame.rotation`.
        times: when each frame is shown, in seconds from the first. Matroska rounds to 1 ms.
        ends: when the last frame ends, at the earliest and the latest: of unequal gaps and of GIFs
            the encoders and containers choose for how long it is shown.
        codec: as ffmpeg names the format, not the encoder, such as "h264".
        traits: those of "vfr" (unequal gaps), "rotated", "odd" (width or height), "gray", "alpha",
            "audio" and "lossless" (the pictures' own colours are kept).
    """

    num_frames: int
    width: int
    height: int
    rotation: int
    times: tuple[float, ...]
    ends: tuple[float, float]
    suffix: str
    codec: str
    traits: frozenset[str]


@dataclass(frozen=True)
class Zoo:
    """The files in `folder`, by their path relative to it; `bad` tells what is wrong with each."""

    folder: Path
    good: dict[str, Clip]
    bad: dict[str, str]


@dataclass(frozen=True)
class Recipe:
    """A kind of video: its container, encoder and pixel format, and what is unusual in it."""

    suffix: str
    encoder: str
    pixels: str = "yuv420p"
    vfr: bool = False
    odd: bool = False
    rotation: int = 0
    audio: str = ""

    @property
    def traits(self) -> frozenset[str]:
        held = {
            "vfr": self.vfr,
            "odd": self.odd,
            "rotated": self.rotation != 0,
            "audio": self.audio != "",
            "gray": self.pixels == "gray",
            "alpha": self.pixels in ALPHA_PIXELS,
            "lossless": self.encoder in LOSSLESS_ENCODERS and not self.pixels.startswith("yuv"),
        }
        return frozenset(trait for trait, holds in held.items() if holds)


@dataclass(frozen=True)
class Film:
    """RGBA pictures, uint8 (t, h, w, 4), and when each is shown, in units of `tick` seconds."""

    pictures: np.ndarray
    stamps: tuple[int, ...]
    tick: Fraction

    @property
    def times(self) -> tuple[float, ...]:
        return tuple(float(stamp * self.tick) for stamp in self.stamps)

    @property
    def ends(self) -> tuple[float, float]:
        longest = max(b - a for a, b in pairwise(self.stamps))
        return tuple(float((self.stamps[-1] + length) * self.tick) for length in (1, longest))


ALPHA_PIXELS = frozenset({"rgba", "argb", "bgra", "yuva444p", "pal8"})
LOSSLESS_ENCODERS = frozenset({"ffv1", "libx264rgb", "png", "qtrle"})
ENCODER_OPTIONS = {
    "libx264": {"preset": "veryfast", "mbtree": "0"},  # the tree makes tiny pictures vary
    "libx264rgb": {"preset": "veryfast", "qp": "0"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "30"},
    "libsvtav1": {"preset": "11", "crf": "12", "svtav1-params": "lp=1"},
}

RECIPES = (
    Recipe(".mp4", "libx264"),
    Recipe(".mp4", "libx264", rotation=90),
    Recipe(".mp4", "libx264", rotation=180),
    Recipe(".mp4", "libx264", rotation=270, audio="aac"),
    Recipe(".mp4", "libx264", vfr=True, audio="aac"),
    Recipe(".mp4", "libx264", "yuv444p", odd=True),
    Recipe(".mp4", "libx264", "gray"),
    Recipe(".mp4", "libsvtav1", vfr=True),
    Recipe(".mp4", "libvpx-vp9", odd=True),
    Recipe(".mp4", "mpeg4", audio="aac"),
    Recipe(".mkv", "libx264", audio="flac"),
    Recipe(".mkv", "libx264", vfr=True, rotation=90),
    Recipe(".mkv", "libx264rgb", "rgb24", odd=True),
    Recipe(".mkv", "ffv1", "bgr0"),
    Recipe(".mkv", "ffv1", "bgra", odd=True),
    Recipe(".mkv", "ffv1", "yuva444p", vfr=True),
    Recipe(".mkv", "ffv1", "gray", odd=True),
    Recipe(".mkv", "libvpx-vp9", vfr=True, audio="libopus"),
    Recipe(".mkv", "libsvtav1"),
    Recipe(".webm", "libvpx-vp9"),
    Recipe(".webm", "libvpx-vp9", odd=True, audio="libopus"),
    Recipe(".webm", "libvpx-vp9", vfr=True),
    Recipe(".webm", "libsvtav1", audio="libopus"),
    Recipe(".webm", "libsvtav1", odd=True),
    Recipe(".mov", "libx264", rotation=90, audio="aac"),
    Recipe(".mov", "libx264", rotation=270, vfr=True),
    Recipe(".mov", "libx264rgb", "rgb24", rotation=180, odd=True),
    Recipe(".mov", "qtrle", "argb", odd=True),
    Recipe(".mov", "png", "rgba"),
    Recipe(".mov", "png", "gray", vfr=True),
    Recipe(".mov", "mjpeg", "yuvj420p", audio="pcm_s16le"),
    Recipe(".avi", "mpeg4"),
    Recipe(".avi", "mpeg4", vfr=True),
    Recipe(".avi", "mpeg4", audio="mp2"),  # aac and mp3 start early, which delays an AVI's pictures
    Recipe(".avi", "mjpeg", "yuvj420p", odd=True),
    Recipe(".avi", "ffv1", "bgr0"),
    Recipe(".gif", "gif", "rgb8"),
    Recipe(".gif", "gif", "rgb8", odd=True, vfr=True),
    Recipe(".gif", "gif", "gray"),
    Recipe(".gif", "gif", "pal8"),
)
STRIDE = 7
"""Shares no factor with the number of recipes, so that a few files already are of many kinds."""

FOLDERS = (
    ".",
    "arcade",
    "arcade/level 1",
    "arcade/level 1/second take",
    "Küche/Äpfel und Birnen",
    "日本/ゲーム",
    "игры/день 2",
)
NAMES = ("run", "jump high", "Fähre", "落ちる", "niña", "прыжок", "swim", "été 2024", "x")

EVEN_SIZES = ((48, 36), (64, 48), (96, 64), (40, 56), (80, 60))
ODD_SIZES = ((53, 37), (61, 48), (37, 51), (64, 45), (75, 49))
RATES = tuple(map(Fraction, (10, 12.5, 15, 24, 25, Fraction(30000, 1001), 30, 60)))
VFR_RATE = Fraction(30)
VFR_GAPS = (1, 1, 3, 2, 1, 4, 2)
GIF_RATE = Fraction(100)
GIF_GAPS = (3, 4, 5, 7, 10)
"""From 3 up, in hundredths of a second: players and ffmpeg slow a GIF that is faster."""

FRAME_COUNTS = (16, 40)
KEYFRAME_EVERY = 10
COLOURS = ((250, 200, 60), (60, 230, 250), (250, 90, 220), (120, 250, 80))
SAMPLE_RATE = 48_000


def make_zoo(folder: Path, count: int = 200) -> Zoo:
    """Write `count` good videos and five bad ones into `folder` and the folders that it gets."""
    os.environ.setdefault("SVT_LOG", "1")  # else the AV1 encoder prints its settings
    good = dict(_make_clip(folder, index) for index in range(count))
    return Zoo(folder, good, _make_bad(folder))


def original(index: int) -> np.ndarray:
    """RGBA pictures, uint8 (t, h, w, 4), of the good video of this place, before it was encoded."""
    return _shoot(_recipe(index), np.random.default_rng(index)).pictures


def _recipe(index: int) -> Recipe:
    return RECIPES[index * STRIDE % len(RECIPES)]


def _make_clip(folder: Path, index: int) -> tuple[str, Clip]:
    recipe = _recipe(index)
    name = f"{NAMES[index % len(NAMES)]} {index:03d}{recipe.suffix}"
    path = _place(folder, index) / name
    film = _shoot(recipe, np.random.default_rng(index))
    _encode(path, recipe, film)
    frames, height, width, _ = film.pictures.shape
    clip = Clip(
        num_frames=frames,
        width=width,
        height=height,
        rotation=(recipe.rotation + 180) % 360 - 180,
        times=film.times,
        ends=film.ends,
        suffix=recipe.suffix,
        codec=av.Codec(recipe.encoder, "w").canonical_name,
        traits=recipe.traits,
    )
    return path.relative_to(folder).as_posix(), clip


def _make_bad(folder: Path) -> dict[str, str]:
    paths = {
        "truncated mp4": _place(folder, 1) / "half loaded.mp4",
        "truncated mkv": _place(folder, 2) / "disk full.mkv",
        "empty": _place(folder, 3) / "nothing.mp4",
        "text": _place(folder, 4) / "Lies mich, größer.mp4",
        "audio only": _place(folder, 5) / "音.mp4",
    }
    mp4, mkv = Recipe(".mp4", "libx264"), Recipe(".mkv", "ffv1", "bgr0")
    _encode(paths["truncated mp4"], mp4, _shoot(mp4, np.random.default_rng(1)), index_first=True)
    _cut(paths["truncated mp4"], 0.6)
    _encode(paths["truncated mkv"], mkv, _shoot(mkv, np.random.default_rng(2)))
    _cut(paths["truncated mkv"], 0.5)
    paths["empty"].touch()
    paths["text"].write_text("This is no video.\n" * 50)
    with av.open(str(paths["audio only"]), "w") as container:
        _add_tone(container, _add_audio(container, "aac"), seconds=1.0)
    return {path.relative_to(folder).as_posix(): kind for kind, path in paths.items()}


def _place(folder: Path, index: int) -> Path:
    place = folder / FOLDERS[index % len(FOLDERS)]
    place.mkdir(parents=True, exist_ok=True)
    return place


def _cut(path: Path, share: float) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])


def _shoot(recipe: Recipe, rng: np.random.Generator) -> Film:
    """A bright rectangle moves over a patchwork, without a scene cut."""
    width, height = rng.choice(ODD_SIZES if recipe.odd else EVEN_SIZES)
    num_frames = int(rng.integers(FRAME_COUNTS[0], FRAME_COUNTS[1], endpoint=True))
    pictures = np.repeat(_ground(rng, height, width)[None], num_frames, axis=0)
    tall, wide = rng.integers(8, 15, 2)
    bright = (*rng.choice(COLOURS), 255)
    room = np.array([height - tall, width - wide])
    for picture, (top, left) in zip(pictures, _way(rng, num_frames, room), strict=True):
        picture[top : top + tall, left : left + wide] = bright
    return Film(pictures, *_clock(recipe, rng, num_frames))


def _ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Dark RGBA patches, a half of them see-through in part or whole."""
    side = int(rng.integers(4, 9))
    patches = rng.integers(0, 140, (height // side + 1, width // side + 1, 4), dtype=np.uint8)
    patches[..., 3] = rng.choice((0, 128, 255, 255), patches.shape[:2])
    return patches.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]


def _way(rng: np.random.Generator, num_frames: int, room: np.ndarray) -> np.ndarray:
    """Positions (t, 2) within 0..`room`, 1 to 3 pixels apart, turning back at the edges."""
    position = rng.integers(0, room, endpoint=True)
    step = rng.integers((0, 1), (2, 3), endpoint=True) * rng.choice((-1, 1), 2)
    way = []
    for _ in range(num_frames):
        way.append(position)
        wanted = position + step
        step = np.where((wanted < 0) | (wanted > room), -step, step)
        position = position + step
    return np.array(way)


def _clock(
    recipe: Recipe, rng: np.random.Generator, num_frames: int
) -> tuple[tuple[int, ...], Fraction]:
    """When each frame is shown, in ticks, and the seconds of a tick."""
    rate = VFR_RATE if recipe.vfr else RATES[rng.integers(len(RATES))]
    gaps = np.roll(VFR_GAPS, rng.integers(len(VFR_GAPS))) if recipe.vfr else np.ones(1, int)
    if recipe.suffix == ".gif":
        rate, gaps = GIF_RATE, gaps * rng.choice(GIF_GAPS)
    stamps = accumulate(islice(cycle(gaps.tolist()), num_frames - 1), initial=0)
    return tuple(stamps), 1 / rate


def _encode(path: Path, recipe: Recipe, film: Film, *, index_first: bool = False) -> None:
    options = {"fflags": "+bitexact"}  # else Matroska files get random numbers
    if index_first:
        options["movflags"] = "+faststart"
    with av.open(str(path), "w", options=options) as container:
        video = _add_video(container, recipe, film)
        audio = _add_audio(container, recipe.audio) if recipe.audio else None
        for picture, stamp in zip(film.pictures, film.stamps, strict=True):
            frame = _frame(picture, recipe.pixels)
            frame.pts, frame.time_base = stamp, film.tick
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None:
            _add_tone(container, audio, film.times[-1])


def _add_video(container: OutputContainer, recipe: Recipe, film: Film) -> VideoStream:
    options = ENCODER_OPTIONS.get(recipe.encoder, {})
    track = container.add_stream(recipe.encoder, rate=1 / film.tick, options=options)
    track.height, track.width = film.pictures.shape[1:3]
    track.pix_fmt = recipe.pixels
    track.codec_context.time_base = film.tick
    track.gop_size = KEYFRAME_EVERY
    track.codec_context.thread_count = 1
    if recipe.rotation:
        track.set_display_rotation(recipe.rotation)
    return track


def _frame(picture: np.ndarray, pixels: str) -> av.VideoFrame:
    if pixels == "pal8":
        return av.VideoFrame.from_ndarray(_to_palette(picture), format=pixels)
    if pixels in ALPHA_PIXELS:
        return av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format=pixels)
    rgb = np.ascontiguousarray(picture[..., :3])
    return av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixels)


def _to_palette(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices into, and the ARGB of, 255 colours and a last one that is see-through."""
    red, green, blue, alpha = np.moveaxis(picture, -1, 0)
    indices = np.minimum((red & 0xE0) | (green >> 3 & 0x1C) | (blue >> 6), 254)
    entries = np.arange(256)
    opaque = np.where(entries < 255, 255, 0)
    palette = np.stack([opaque, entries & 0xE0, (entries & 0x1C) << 3, (entries & 3) << 6], axis=1)
    return np.where(alpha > 0, indices, 255).astype(np.uint8), palette.astype(np.uint8)


def _add_audio(container: OutputContainer, encoder: str) -> AudioStream:
    return container.add_stream(encoder, rate=SAMPLE_RATE, layout="mono")


def _add_tone(container: OutputContainer, track: AudioStream, seconds: float) -> None:
    wave = 8000 * np.sin(0.06 * np.arange(int(seconds * SAMPLE_RATE)))
    tone = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
    tone.sample_rate, tone.pts, tone.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
    container.mux(track.encode(tone))
    container.mux(track.encode())
