"""Video and image files to uint8 frames and back, and the only 0..255 to 0..1 conversions.

In: paths of videos and images. Out: `frames` as UInt8[Tensor, "t 3 h w"], or files on disk.
Deliberately knows nothing of tokens or models.
"""

import io
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain
from math import isfinite, isqrt
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from genie.errors import UserError

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif"})
MIN_IMAGE_SIDE = 8
MAX_IMAGE_PIXELS = 100_000_000
MIN_FPS, MAX_FPS = 0.01, 1000.0
DEFAULT_FPS = 15.0
"""Of files that do not tell their frames per second."""

PALETTE_PIXELS = 16_384
"""How many pixels of a large picture choose its colours in a GIF."""
GIF_SHORTEST = 2
"""Hundredths of a second that a frame of a GIF lasts at least."""
STRIP_PICTURES = 12

THREADS = 1
"""That convert a picture: more of them take longer to start than to work."""
ROUNDING = 1e-3
"""Seconds by which two clocks may differ; containers round to milliseconds."""

Size = tuple[int, int]
Fit = Literal["crop", "letterbox", "stretch"]
"""crop: what goes beyond the shape is cut off. letterbox: black bars. stretch: as it comes."""


def read(
    path: str | Path, size: Size | None = None, *, last: int | None = None
) -> UInt8[Tensor, "t 3 h w"]:
    """Read a video or GIF into memory, whole or only its end.

    Args:
        path: a file that ffmpeg can decode.
        size: (height, width); frames are centre-cropped to its shape and resized. None keeps
            the file's own size.
        last: how many frames to keep, counted from the end. None keeps all.

    Raises:
        UserError: as `stream`.
    """
    return torch.stack(tuple(deque(stream(path, size), maxlen=last)))


def stream(
    path: str | Path, size: Size | None = None, *, fit: Fit = "crop", fps: float | None = None
) -> Iterator[UInt8[Tensor, "3 h w"]]:
    """The frames of a video or GIF one after the other; transparency is laid on white.

    A rotation that the file asks for is done.

    Args:
        path: a file that ffmpeg can decode.
        size: as in `read`.
        fit: how frames of another shape come to `size`.
        fps: what is shown at every tick of a clock of so many ticks per second, by the file's
            timestamps; None gives every frame that is stored.

    Raises:
        UserError: if the file is missing, empty, not a video, smaller than 8x8 or over 100
            megapixels, or ends before its last frame. The last is known only after all frames.
    """
    for picture in stream_pictures(path, size, fit=fit, fps=fps):
        yield torch.from_numpy(picture).movedim(-1, 0).contiguous()


def stream_pictures(
    path: str | Path, size: Size | None = None, *, fit: Fit = "crop", fps: float | None = None
) -> Iterator[np.ndarray]:
    """As `stream`, numpy uint8 (h, w, 3)."""
    count = 0
    try:
        for picture in _decode(_existing_file(path), size, fit, fps):
            yield picture
            count += 1
    except UserError:
        raise
    except Exception as error:  # a broken file makes the decoders raise nearly anything
        why = _in_one_line(error)
        raise UserError(f"{path} breaks off after {count} frames ({why})") from error
    if count == 0:
        raise UserError(f"{path} holds no video frame: give a video with at least one picture")


class Resizer:
    """Brings pictures to one size, just as they come out of a lossless video that is so read."""

    def __init__(self, size: Size, fit: Fit = "crop") -> None:
        """As `stream_pictures`."""
        self._size, self._fit = size, fit
        self._converter = VideoReformatter()

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """A uint8 (h, w, 3) picture at the size; always an array of its own."""
        if picture.shape[:2] == self._size:
            return picture.copy()
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        return _to_picture(frame, self._converter, self._size, self._fit)


def read_fps(path: str | Path) -> float:
    """Average frames per second that the file declares; 15 if it tells none.

    Raises:
        UserError: if the file is missing or not a video.
    """
    with _open(_existing_file(path)) as container:
        return float(_rate(container.streams.video[0]) or DEFAULT_FPS)


def read_image(path: str | Path, size: Size, fit: Fit = "crop") -> UInt8[Tensor, "3 h w"]:
    """Read an image of any mode and size; it comes to `size` (height, width) as `fit` says.

    Transparency is laid on white, 16-bit greys are scaled, an animation gives its first frame.

    Raises:
        UserError: if the file is missing, not an image, smaller than 8x8 or over 100 megapixels.
    """
    path = _existing_file(path)
    return _open_image(path, path, size, MAX_IMAGE_PIXELS, fit=fit)


def decode_image(
    content: bytes, size: Size, fit: Fit = "crop", *, max_pixels: int = MAX_IMAGE_PIXELS
) -> UInt8[Tensor, "3 h w"]:
    """As `read_image`, of a PNG, JPEG, WebP, GIF or BMP that somebody sent.

    Raises:
        UserError: if it is none, smaller than 8x8, or has more than `max_pixels`.
    """
    formats = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
    return _open_image(io.BytesIO(content), "the picture", size, max_pixels, formats, fit)


def _open_image(
    file: Path | io.BytesIO,
    name: object,
    size: Size,
    max_pixels: int,
    formats: tuple[str, ...] | None = None,
    fit: Fit = "crop",
) -> UInt8[Tensor, "3 h w"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of large or damaged files
            with Image.open(file, formats=formats) as image:
                _check_image_size(name, image.width, image.height, max_pixels)
                picture = _fit(_to_rgb(image), size, fit)
    except Image.DecompressionBombError:
        raise UserError(
            f"{name} is larger than {max_pixels // 1_000_000} megapixels: scale it down"
        ) from None
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is not a readable image: give a PNG or JPEG") from error
    except Exception as error:  # a broken file makes Pillow raise nearly anything
        why = _in_one_line(error)
        raise UserError(f"{name} is not a readable image ({why}): give a PNG or JPEG") from error
    return torch.from_numpy(np.array(picture)).movedim(-1, 0).contiguous()


def write(
    path: str | Path,
    frames: Sequence[np.ndarray],
    *,
    fps: float,
    scale: int = 1,
    lossless: bool = False,
) -> None:
    """Write uint8 (h, w, 3) pictures as a GIF, a video or a film strip, chosen by the ending.

    The file appears whole or not at all.

    Args:
        path: where to; `.gif`, `.mp4`, `.mkv`, or `.png` for up to 12 pictures side by side, evenly
            spread over all.
        frames: uint8 (h, w, 3) pictures of one size.
        fps: frames per second, 0.01 to 1000.
        scale: whole-number enlargement, nearest neighbour.
        lossless: H.264 in RGB without loss (videos only; GIFs keep 256 colours a frame).

    Raises:
        UserError: if there is nothing to write, the ending is unknown, the place not writable, or
            `fps` out of range, or a GIF is to show one picture for more than 655 s.
    """
    path = check_writable(path)
    if len(frames) == 0:
        raise UserError(f"no frames to write to {path}: make at least one step first")
    if not MIN_FPS <= fps <= MAX_FPS:
        raise UserError(f"{fps} frames per second: give {MIN_FPS} to {MAX_FPS:g}")
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        if path.suffix.lower() == ".gif":
            _encode_gif(partial, frames, fps, scale)
        elif path.suffix.lower() == ".png":
            _encode_strip(partial, frames, scale)
        else:
            _encode(partial, _enlarged(frames, scale), fps, lossless)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def write_image(path: str | Path, image: UInt8[Tensor, "3 h w"]) -> None:
    """Write a PNG; the file appears whole or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        Image.fromarray(to_picture(image)).save(partial, format="PNG", optimize=True)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def check_writable(path: str | Path) -> Path:
    """Return `path` if a video or GIF can be written there, before any work is done for it.

    Raises:
        UserError: if the ending is unknown or the folder is missing or not writable.
    """
    path = Path(path)
    if path.suffix.lower() not in {".gif", ".mp4", ".mkv", ".png"}:
        raise UserError(f"{path} ends in {path.suffix!r}: name a .gif, .mp4, .mkv or .png file")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file inside it")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no folder: make it or choose another")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise UserError(f"{path} cannot be written: choose a place where you may write")
    return path


def to_float(frames: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """0..255 to 0..1."""
    return frames.float() / 255


def to_uint8(frames: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """0..1 (clamped) to 0..255, the inverse of `to_float`."""
    return (frames.float().clamp(0, 1) * 255).round().to(torch.uint8)


def to_picture(frame: UInt8[Tensor, "3 h w"]) -> np.ndarray:
    """One frame as numpy uint8 (h, w, 3), the layout that screens and files want."""
    return frame.movedim(0, -1).contiguous().cpu().numpy()


def from_pictures(pictures: np.ndarray) -> UInt8[Tensor, "t 3 h w"]:
    """Several frames from numpy uint8 (t, h, w, 3); the inverse of `to_picture` for each."""
    return torch.from_numpy(pictures.copy()).movedim(-1, 1).contiguous()


def _existing_file(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file {path}: check the path")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes): give a file with a picture in it")
    return path


def _open(path: Path) -> av.container.InputContainer:
    try:
        container = av.open(str(path), metadata_errors="replace")
    except (av.error.FFmpegError, ValueError) as error:
        why = _in_one_line(error)
        raise UserError(f"{path} is not a readable video ({why})") from error
    if not container.streams.video:
        container.close()
        raise UserError(f"{path} has no video stream: give a file with pictures")
    return container


def _decode(path: Path, size: Size | None, fit: Fit, fps: float | None) -> Iterator[np.ndarray]:
    with _open(path) as container:
        track = container.streams.video[0]
        _check_image_size(path, track.width, track.height)
        converter = VideoReformatter()  # frames that convert themselves start threads each
        declared, rate = _declared_end(container, track), _rate(track)
        clock = _Clock(float(1 / rate) if rate else 1 / DEFAULT_FPS)
        frames = clock.follow(_undamaged(container.decode(track), path))
        converted: tuple[av.VideoFrame, np.ndarray] | None = None
        for frame in frames if fps is None else clock.ticks(frames, fps):
            if converted is None or converted[0] is not frame:  # a slow video shows one for long
                converted = frame, _to_picture(frame, converter, size, fit)
            yield converted[1]
        # Clocks round, and where frames last unequally the file need not tell for how long.
        known = declared is not None and rate is not None and clock.num_frames
        if known and declared - clock.end > 1.5 * clock.longest:
            raise UserError(
                f"{path} breaks off: its frames end at {clock.end:.1f} s, it declares "
                f"{declared:.1f} s"
            )


def _undamaged(frames: Iterator[av.VideoFrame], path: Path) -> Iterator[av.VideoFrame]:
    """The same frames; decoders go on after damage, and show what they make of it."""
    for frame in frames:
        if frame.is_corrupt:
            raise UserError(f"{path} is damaged: its frame at {frame.time or 0:.1f} s is broken")
        yield frame


class _Clock:
    """When the frames of a file are shown, in seconds."""

    def __init__(self, usual: float) -> None:
        """Args: usual: seconds that a frame lasts where it does not say."""
        self.usual = self.longest = usual
        self.num_frames, self.time, self.end = 0, 0.0, 0.0

    def follow(self, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """The same frames; `time` is the newest one's, `end` when it ends."""
        timed, unit = False, None
        for frame in frames:
            if unit is None:
                unit = float(frame.time_base or 0)  # of all frames; to ask for it takes time
            length = frame.duration * unit or self.usual
            if frame.time is not None:
                if timed:
                    self.longest = max(self.longest, frame.time - self.time)
                self.time, timed = frame.time, True
            elif self.num_frames:
                self.time += self.usual
            self.num_frames += 1
            self.end, self.longest = self.time + length, max(self.longest, length)
            yield frame

    def ticks(self, frames: Iterator[av.VideoFrame], fps: float) -> Iterator[av.VideoFrame]:
        """Of the frames of `follow` the one that is shown at each tick, from the first frame on."""
        shown, number, start = None, 0, 0.0
        for frame in frames:
            if shown is None:
                start = self.time
            while shown is not None and start + number / fps < self.time - ROUNDING:
                yield shown
                number += 1
            shown = frame
        while shown is not None and start + number / fps < self.end - ROUNDING:
            yield shown
            number += 1


def _declared_end(container: av.container.InputContainer, track: av.VideoStream) -> float | None:
    """The second at which a file says that its pictures end, if it does say."""
    rate = _rate(track)
    if container.format.name == "avi" and track.frames and rate:
        return float(track.frames / rate)  # ffmpeg corrects the duration of an AVI that is cut
    if track.duration:
        # Frames before the start of an edit list are stored, but not shown and not in here.
        return _start(track) + float(track.duration * track.time_base)
    tagged = _seconds(track.metadata.get("DURATION", ""))
    if tagged or len(container.streams) > 1:  # sound may be longer than the pictures
        return tagged
    return container.duration / av.time_base if container.duration else None


def _seconds(clock: str) -> float | None:
    """Matroska's h:m:s in seconds; None for whatever else stands there."""
    try:
        hours, minutes, seconds = clock.split(":")
        total = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None
    return total if isfinite(total) else None


def _start(track: av.VideoStream) -> float:
    return float((track.start_time or 0) * (track.time_base or 0))


def _rate(track: av.VideoStream) -> Fraction | None:
    rate = track.average_rate
    return rate if rate and MIN_FPS <= rate <= MAX_FPS else None


def _to_picture(
    frame: av.VideoFrame, converter: VideoReformatter, size: Size | None, fit: Fit
) -> np.ndarray:
    """One frame upright, in RGB and at its size, the colours converted and resized in one go."""
    layout, turns = frame.format, round(frame.rotation / 90) % 4
    has_alpha = any(component.is_alpha for component in layout.components)
    height, width = (frame.height, frame.width)[:: -1 if turns % 2 else 1]
    if has_alpha or (size and (width < size[1] or height < size[0])):
        # Pillow blends, and enlarges small pixel art without blurring it.
        format = "rgba" if has_alpha else "rgb24"
        picture = _to_rgb(
            Image.fromarray(converter.reformat(frame, format=format, threads=THREADS).to_ndarray())
        )
        picture = Image.fromarray(np.rot90(np.asarray(picture), turns)) if turns else picture
        return np.array(_fit(picture, size, fit) if size else picture)
    scaled = _scaled((height, width), size, fit) if size else (height, width)
    rows, columns = scaled[:: -1 if turns % 2 else 1]
    resized = converter.reformat(
        frame, columns, rows, "rgb24", interpolation="AREA", threads=THREADS
    )
    picture = resized.to_ndarray()
    picture = np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
    return _placed(picture, size) if size and scaled != size else picture


def _scaled(of: Size, to: Size, fit: Fit) -> Size:
    """(height, width) that a picture is resized to before it is cropped or padded."""
    if fit == "stretch":
        return to
    scales = to[0] / of[0], to[1] / of[1]
    scale = max(scales) if fit == "crop" else min(scales)
    return max(1, round(of[0] * scale)), max(1, round(of[1] * scale))


def _placed(picture: np.ndarray, size: Size) -> np.ndarray:
    """A picture centred in `size`: cropped where it is larger, black around where it is smaller."""
    for axis, wanted in enumerate(size):
        extra = picture.shape[axis] - wanted
        if extra > 0:
            inside = slice(extra // 2, extra // 2 + wanted)
            picture = picture[inside] if axis == 0 else picture[:, inside]
        elif extra < 0:
            border = [(0, 0)] * 3
            border[axis] = (-extra // 2, -extra - -extra // 2)
            picture = np.pad(picture, border)
    return np.ascontiguousarray(picture)


def _checked(frames: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    for frame in frames:
        if frame.shape != frames[0].shape:
            raise ValueError(f"a frame is {frame.shape}, the first one {frames[0].shape}")
        yield frame


def _enlarged(frames: Sequence[np.ndarray], scale: int) -> Iterator[np.ndarray]:
    for frame in _checked(frames):
        yield frame.repeat(scale, axis=0).repeat(scale, axis=1)


def _encode_gif(path: Path, frames: Sequence[np.ndarray], fps: float, scale: int) -> None:
    shown, lasting = zip(*_gif_times(len(frames), fps), strict=True)
    images = (_indexed(frame) for frame in _checked([frames[number] for number in shown]))
    large = (
        image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
        for image in images
    )
    options = {"format": "GIF", "save_all": True, "duration": lasting, "loop": 0}
    try:
        next(large).save(path, append_images=large, **options)
    except OverflowError as error:
        raise UserError(
            "a picture stands still for longer than the 655 s that a GIF can tell: name an .mp4"
        ) from error


def _gif_times(num_frames: int, fps: float) -> Iterator[tuple[int, int]]:
    """The frames that a GIF shows, and for how many milliseconds each.

    A GIF counts in hundredths of a second, so that 15 frames per second last 7, 6, 7, 7, 6, ... of
    them. Browsers slow down what lasts less than two, so faster films lose frames instead.
    """
    begins = [round(100 * number / fps) for number in range(num_frames + 1)]
    number = 0
    while number < num_frames:
        following = number + 1
        while following < num_frames and begins[following] - begins[number] < GIF_SHORTEST:
            following += 1
        lasts = max(begins[following] - begins[number], GIF_SHORTEST)
        yield number, 10 * lasts
        number = following


def _indexed(frame: np.ndarray) -> Image.Image:
    """A picture in its own best 256 colours, undithered, so that pixel art stays clean.

    Of the ways that Pillow has, this lost least on generated frames: 65 dB on average and 51 dB on
    the worst, where its default has 55 and 41.
    """
    picture = Image.fromarray(frame)
    best = {"method": Image.Quantize.MAXCOVERAGE, "kmeans": 1, "dither": Image.Dither.NONE}
    stride = isqrt(frame.shape[0] * frame.shape[1] // PALETTE_PIXELS)
    if stride <= 1 or picture.getcolors(256):
        return picture.quantize(256, **best)
    seen = Image.fromarray(np.ascontiguousarray(frame[::stride, ::stride]))
    return picture.quantize(palette=seen.quantize(256, **best), dither=Image.Dither.NONE)


def _encode_strip(path: Path, frames: Sequence[np.ndarray], scale: int) -> None:
    count = min(len(frames), STRIP_PICTURES)
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]
    strip = np.concatenate(list(_enlarged(chosen, scale)), axis=1)
    Image.fromarray(strip).save(path, format="PNG", optimize=True)


def _encode(path: Path, pictures: Iterator[np.ndarray], fps: float, lossless: bool) -> None:
    first = next(pictures)
    height, width = first.shape[:2]
    # libx264rgb keeps RGB as it is; yuv420p, which every player shows, needs even sides.
    codec, layout = ("libx264rgb", "rgb24") if lossless else ("libx264", "yuv420p")
    options = {"qp": "0", "preset": "veryfast"} if lossless else {"crf": "16"}
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=_as_rate(fps), options=options)
        track.width, track.height = (width, height) if lossless else (width & ~1, height & ~1)
        track.pix_fmt = layout
        track.thread_count = 1
        for picture in chain([first], pictures):
            picture = np.ascontiguousarray(picture[: track.height, : track.width])
            container.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(track.encode())


def _as_rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


def _in_one_line(error: Exception) -> str:
    told = getattr(error, "strerror", None) or str(
        error
    )  # without the path, which is named already
    return " ".join(told.split()) or type(error).__name__


def _check_image_size(
    name: object, width: int, height: int, max_pixels: int = MAX_IMAGE_PIXELS
) -> None:
    if min(width, height) < MIN_IMAGE_SIDE:
        raise UserError(f"{name} is {width}x{height}: give at least {MIN_IMAGE_SIDE}x8 pixels")
    if width * height > max_pixels:
        raise UserError(f"{name} is larger than {max_pixels / 1e6:g} megapixels: scale it down")


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow clips these modes at 255 instead of scaling them.
        grey = np.asarray(image, dtype=np.float32)
        peak = 65535 if image.mode.startswith("I;16") or grey.max() > 255 else 255
        return Image.fromarray((grey.clip(0, peak) * (255 / peak)).astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _fit(image: Image.Image, size: Size, fit: Fit = "crop") -> Image.Image:
    height, width = size
    if image.size == (width, height):
        return image
    # Small pixel art stays crisp when enlarged; photographs are averaged when reduced.
    enlarge = image.width < width or image.height < height
    method = Image.Resampling.NEAREST if enlarge else Image.Resampling.HAMMING
    if fit == "stretch":
        return image.resize((width, height), method)
    fitted = ImageOps.fit if fit == "crop" else ImageOps.pad
    return fitted(image, (width, height), method=method)
