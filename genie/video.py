"""Video and image files to uint8 frames and back, and the only 0..255 to 0..1 conversions.

In: paths of videos and images. Out: `frames` as UInt8[Tensor, "t 3 h w"], or files on disk.
Deliberately knows nothing of tokens or models.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from genie.errors import UserError

VIDEO_SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif"})
MIN_IMAGE_SIDE = 8
MAX_IMAGE_PIXELS = 100_000_000

Size = tuple[int, int]


def read(path: str | Path, size: Size | None = None) -> UInt8[Tensor, "t 3 h w"]:
    """Read a whole video or GIF.

    Args:
        path: a file that ffmpeg can decode.
        size: (height, width); frames are centre-cropped to its shape and resized. None keeps
            the file's own size.

    Raises:
        UserError: if the file is missing, empty, not a video, or ends before its last frame.
    """
    path = _existing_file(path)
    pictures = list(_decode(path, size))
    if not pictures:
        raise UserError(f"{path} holds no video frame: give a video with at least one picture")
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).contiguous()


def read_fps(path: str | Path) -> float:
    """Average frames per second that the file declares.

    Raises:
        UserError: if the file is missing or not a video.
    """
    with _open(_existing_file(path)) as container:
        rate = container.streams.video[0].average_rate
    return float(rate) if rate else 0.0


def read_image(path: str | Path, size: Size) -> UInt8[Tensor, "3 h w"]:
    """Read an image of any mode and size, centre-cropped and resized to `size` (height, width).

    Transparency is laid on white, 16-bit greys are scaled, an animation gives its first frame.

    Raises:
        UserError: if the file is missing, not an image, smaller than 8x8 or over 100 megapixels.
    """
    path = _existing_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _check_image_size(path, image)
                picture = _fit(_to_rgb(image), size)
    except Image.DecompressionBombError:
        raise UserError(
            f"{path} is larger than {MAX_IMAGE_PIXELS // 1_000_000} megapixels: scale it down"
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path} is not a readable image ({error}): give a PNG or JPEG") from error
    return torch.from_numpy(np.array(picture)).movedim(-1, 0).contiguous()


def write(
    path: str | Path,
    frames: Sequence[np.ndarray],
    *,
    fps: float,
    scale: int = 1,
    lossless: bool = False,
) -> None:
    """Write uint8 (h, w, 3) pictures as a GIF or a video, chosen by the ending.

    The file appears whole or not at all.

    Args:
        path: where to; `.gif`, `.mp4` or `.mkv`.
        frames: uint8 (h, w, 3) pictures of one size.
        fps: frames per second.
        scale: whole-number enlargement, nearest neighbour.
        lossless: H.264 in RGB without loss (videos only; GIFs keep 256 colours a frame).

    Raises:
        UserError: if there is nothing to write, the ending is unknown, or the place not writable.
    """
    path = check_writable(path)
    if len(frames) == 0:
        raise UserError(f"no frames to write to {path}: make at least one step first")
    pictures = [frame.repeat(scale, axis=0).repeat(scale, axis=1) for frame in frames]
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        if path.suffix.lower() == ".gif":
            iio.imwrite(partial, pictures, duration=1000 / fps, loop=0, plugin="pillow")
        else:
            _encode(partial, pictures, fps, lossless)
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
    if path.suffix.lower() not in {".gif", ".mp4", ".mkv"}:
        raise UserError(f"{path} ends in {path.suffix!r}: name a .gif, .mp4 or .mkv file")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file inside it")
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} does not exist: make it or choose another")
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


def from_picture(picture: np.ndarray) -> UInt8[Tensor, "3 h w"]:
    """The inverse of `to_picture`."""
    return torch.from_numpy(np.ascontiguousarray(picture)).movedim(-1, 0).contiguous()


def _existing_file(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no file {path}: check the path")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty (0 bytes): give a file with a picture in it")
    return path


def _open(path: Path) -> av.container.InputContainer:
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, ValueError) as error:
        raise UserError(f"{path} is not a readable video ({error})") from error
    if not container.streams.video:
        container.close()
        raise UserError(f"{path} has no video stream: give a file with pictures")
    return container


def _decode(path: Path, size: Size | None) -> Iterator[np.ndarray]:
    with _open(path) as container:
        stream = container.streams.video[0]
        count = 0
        try:
            for frame in container.decode(stream):
                count += 1
                picture = frame.to_ndarray(format="rgb24")
                if size is not None and picture.shape[:2] != size:
                    picture = np.array(_fit(Image.fromarray(picture), size))
                yield picture
        except av.error.FFmpegError as error:
            raise UserError(f"{path} breaks off after {count} frames ({error})") from error
        if count < stream.frames:
            raise UserError(f"{path} breaks off: {count} of its {stream.frames} frames are there")
        if count and _lacks_its_end(stream, frame):
            raise UserError(f"{path} breaks off after {count} frames: it declares a longer film")


def _lacks_its_end(stream: av.VideoStream, last: av.VideoFrame) -> bool:
    """Whether a Matroska stream, which counts no frames, says that it ends after its last frame."""
    declared = stream.metadata.get("DURATION")
    if not declared or last.time is None or not last.duration:
        return False
    hours, minutes, seconds = declared.split(":")
    length = float(last.duration * last.time_base)
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds) - last.time > 2.5 * length


def _encode(path: Path, pictures: Sequence[np.ndarray], fps: float, lossless: bool) -> None:
    height, width = pictures[0].shape[:2]
    # libx264rgb keeps RGB as it is; yuv420p, which every player shows, needs even sides.
    codec, layout = ("libx264rgb", "rgb24") if lossless else ("libx264", "yuv420p")
    options = {"qp": "0", "preset": "veryfast"} if lossless else {"crf": "16"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=_as_rate(fps), options=options)
        stream.width, stream.height = (width, height) if lossless else (width & ~1, height & ~1)
        stream.pix_fmt = layout
        stream.thread_count = 1
        for picture in pictures:
            picture = np.ascontiguousarray(picture[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _as_rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


def _check_image_size(path: Path, image: Image.Image) -> None:
    if min(image.size) < MIN_IMAGE_SIDE:
        width, height = image.size
        raise UserError(f"{path} is {width}x{height}: give at least {MIN_IMAGE_SIDE}x8 pixels")
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise UserError(
            f"{path} is larger than {MAX_IMAGE_PIXELS // 1_000_000} megapixels: scale it down"
        )


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


def _fit(image: Image.Image, size: Size) -> Image.Image:
    height, width = size
    if image.size == (width, height):
        return image
    # Small pixel art stays crisp when enlarged; photographs are averaged when reduced.
    enlarge = image.width < width or image.height < height
    method = Image.Resampling.NEAREST if enlarge else Image.Resampling.HAMMING
    return ImageOps.fit(image, (width, height), method=method)
