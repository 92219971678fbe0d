"""Video and image files to pictures and back.

In: paths of videos and images. Out: pictures, numpy uint8 (h, w, 3), or files on disk. Deliberately
knows nothing of models, and does without torch: `frames` makes tensors of pictures.
"""

import io
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import chain
from math import isqrt
from pathlib import Path

import av
import imageio.v3 as imageio
import numpy as np
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    ColorTrc,
    VideoReformatter,
)
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from genie.decoding import (
    DEFAULT_FPS,
    MAX_FPS,
    MIN_FPS,
    THREADS,
    Converter,
    animation_rate,
    decode,
    frame_rate,
    is_animation,
    open_video,
)
from genie.errors import BrokenOff, UserError, in_one_line
from genie.files import whole, writing
from genie.fitting import MAX_IMAGE_PIXELS, Fit, Size, check_image_size, fit_image, to_rgb

PALETTE_PIXELS = 16_384
"""Of a large picture, about how many pixels its GIF palette is computed from."""
CONTAINERS = {".mp4": "mp4", ".mkv": "matroska"}
"""From the ending of a file to PyAV's name of its format."""
GIF_SHORTEST = 2
"""Shortest duration of a GIF's frame, in hundredths of a second."""
STRIP_PICTURES = 12


def read(
    path: str | Path, size: Size | None = None, *, last: int | None = None
) -> UInt8[np.ndarray, "t h w 3"]:
    """Read a video or GIF into memory, whole or only its end.

    Args:
        path: a file that ffmpeg can decode.
        size: (height, width); frames are centre-cropped to its shape and resized. None keeps
            the file's own size.
        last: how many frames to keep, counted from the end. None keeps all.

    Raises:
        UserError: as `stream`.
    """
    return np.stack(tuple(deque(stream(path, size), maxlen=last)))


def stream(
    path: str | Path,
    size: Size | None = None,
    *,
    fit: Fit = "crop",
    fps: float | None = None,
    joints: set[int] | None = None,
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The pictures of a video or GIF one after the other; transparency is laid on white.

    A rotation that the file declares is applied.

    Args:
        path: a file that ffmpeg can decode.
        size: as in `read`.
        fit: how pictures of another shape are brought to `size`.
        fps: pictures per second, sampled by the file's timestamps; None gives every picture that
            is stored.
        joints: receives the numbers of pictures before which the file's timestamps jump, as where
            recordings were joined.

    Raises:
        UserError: if the file is missing, empty, not a video, smaller than 8x8 or over 100
            megapixels.
        BrokenOff: if it is damaged, or ends before its last picture; those before are good.
    """
    count = 0
    try:
        for picture in decode(_existing_file(path), size, fit, fps, joints):
            yield picture
            count += 1
    except UserError:
        raise
    except Exception as error:  # a broken file makes the decoders raise nearly anything
        why = in_one_line(error)
        raise BrokenOff(f"{path} breaks off after {count} frames ({why})") from error
    if count == 0:
        raise UserError(f"{path} holds no video frame: give a video with at least one picture")


class Resizer:
    """Brings pictures to one size, exactly as `stream` does those of a lossless video."""

    def __init__(self, size: Size, fit: Fit = "crop") -> None:
        """As `stream`."""
        self._size, self._convert = size, Converter(size, fit)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """A uint8 (h, w, 3) picture at the size; always an array of its own."""
        if picture.shape[:2] == self._size:
            return picture.copy()
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        return self._convert(frame)


def read_fps(path: str | Path) -> float:
    """Average frames per second that the file declares; 15 if it declares none.

    Raises:
        UserError: if the file is missing or not a video.
    """
    if is_animation(_existing_file(path)) or Path(path).suffix.lower() == ".gif":
        return animation_rate(Path(path))
    with open_video(Path(path)) as container:
        return float(frame_rate(container.streams.video[0]) or DEFAULT_FPS)


def read_image(path: str | Path, size: Size, fit: Fit = "crop") -> UInt8[np.ndarray, "h w 3"]:
    """Read an image of any mode and size, brought to `size` (height, width) as `fit` says.

    Transparency is laid on white, 16-bit greys are scaled, an animation gives its first frame.

    Raises:
        UserError: if the file is missing, not an image, smaller than 8x8 or over 100 megapixels.
    """
    path = _existing_file(path)
    return _open_image(path, path, size, MAX_IMAGE_PIXELS, fit=fit)


def decode_image(
    content: bytes, size: Size, fit: Fit = "crop", *, max_pixels: int = MAX_IMAGE_PIXELS
) -> UInt8[np.ndarray, "h w 3"]:
    """As `read_image`, of the bytes of a PNG, JPEG, WebP, GIF or BMP.

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
) -> UInt8[np.ndarray, "h w 3"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of large or damaged files
            with Image.open(file, formats=formats) as image:
                check_image_size(name, image.width, image.height, max_pixels)
                picture = fit_image(to_rgb(image), size, fit)
    except Image.DecompressionBombError:
        raise UserError(
            f"{name} is larger than {max_pixels // 1_000_000} megapixels: scale it down"
        ) from None
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{name} is not a readable image: give a PNG or JPEG") from error
    except Exception as error:  # a broken file makes Pillow raise nearly anything
        why = in_one_line(error)
        raise UserError(f"{name} is not a readable image ({why}): give a PNG or JPEG") from error
    return np.array(picture)


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
    ending = path.suffix.lower()
    with writing(path), whole(path) as partial:
        if ending == ".gif":
            _encode_gif(partial, frames, fps, scale)
        elif ending == ".png":
            _encode_strip(partial, frames, scale)
        else:
            _encode(partial, CONTAINERS[ending], _enlarged(frames, scale), fps, lossless)


def write_image(path: str | Path, picture: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write a PNG; the file appears whole or not at all.

    Raises:
        UserError: if it cannot be written.
    """
    path = Path(path)
    with writing(path), whole(path) as partial:
        _encode_png(partial, picture)


def check_writable(path: str | Path) -> Path:
    """Return `path` if a video or GIF can be written there, before any work is done for it.

    Raises:
        UserError: if the ending is unknown or the folder is missing or not writable.
    """
    path = Path(path)
    if path.suffix.lower() not in {".gif", ".png", *CONTAINERS}:
        raise UserError(f"{path} ends in {path.suffix!r}: name a .gif, .mp4, .mkv or .png file")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file inside it")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent} is no folder: make it or choose another")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise UserError(f"{path} cannot be written: choose a place where you may write")
    return path


def _existing_file(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file {path}: check the path")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes): give a file with a picture in it")
    return path


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
            "a picture lasts longer than the 655 s that a GIF can store: name an .mp4"
        ) from error


def _gif_times(num_frames: int, fps: float) -> Iterator[tuple[int, int]]:
    """The numbers of the frames that a GIF shows, each with its duration in milliseconds.

    A GIF counts in hundredths of a second: at 15 frames per second, they last 7, 6, 7, 7, 6, ... of
    them. Browsers slow down frames of less than two, so a faster video loses frames instead.
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

    Of Pillow's methods, this one lost least on generated frames: a PSNR of 65 dB on average and
    51 dB at worst, against 55 and 41 of its default.
    """
    picture = Image.fromarray(frame)
    stride = isqrt(frame.shape[0] * frame.shape[1] // PALETTE_PIXELS)
    if stride <= 1 or picture.getcolors(256):
        return _in_best_colours(picture)
    seen = Image.fromarray(np.ascontiguousarray(frame[::stride, ::stride]))
    return picture.quantize(palette=_in_best_colours(seen), dither=Image.Dither.NONE)


def _in_best_colours(picture: Image.Image) -> Image.Image:
    way = Image.Quantize.MAXCOVERAGE
    return picture.quantize(256, method=way, kmeans=1, dither=Image.Dither.NONE)


def _encode_strip(path: Path, frames: Sequence[np.ndarray], scale: int) -> None:
    count = min(len(frames), STRIP_PICTURES)
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]
    _encode_png(path, np.concatenate(list(_enlarged(chosen, scale)), axis=1))


def _encode_png(path: Path, picture: np.ndarray) -> None:
    imageio.imwrite(path, picture, plugin="pillow", extension=".png", optimize=True)


def _encode(
    path: Path, container_format: str, pictures: Iterator[np.ndarray], fps: float, lossless: bool
) -> None:
    first = next(pictures)
    height, width = first.shape[:2]
    # libx264rgb keeps RGB as it is; yuv420p, which every player shows, needs even sides.
    codec, layout = ("libx264rgb", "rgb24") if lossless else ("libx264", "yuv420p")
    options = {"qp": "0", "preset": "veryfast"} if lossless else {"crf": "16"}
    with av.open(str(path), "w", format=container_format) as container:
        track = container.add_stream(codec, rate=_as_rate(fps), options=options)
        track.width, track.height = (width, height) if lossless else (width & ~1, height & ~1)
        track.pix_fmt = layout
        track.thread_count = 1
        matrix = None if lossless else Colorspace.ITU709
        if matrix:
            # Players guess an untagged file's colours by its size, and so does `decoding`.
            tags = track.codec_context
            tags.colorspace, tags.color_range = matrix, ColorRange.MPEG
            tags.color_primaries, tags.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        converter = VideoReformatter()
        for picture in chain([first], pictures):
            picture = np.ascontiguousarray(picture[: track.height, : track.width])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = converter.reformat(frame, format=layout, dst_colorspace=matrix, threads=THREADS)
            container.mux(track.encode(frame))
        container.mux(track.encode())


def _as_rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)
