"""Video files decoded as a player shows them: on time, upright, undistorted, in ordinary colours.

In: a path that ffmpeg can open. Out: numpy uint8 (h, w, 3) pictures, or what is wrong with the
file. Writes nothing.

Sources: which matrix untagged video is meant for, as players guess it: mpv's manual
(`--video-params`); BT.2408 for the white of HDR, which swscale's conversion follows; bwdif removes
the combs of interlaced video (Weston's 3-field filter with yadif's spatial check).
"""

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from math import inf, isfinite
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from av.filter import Graph
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, VideoReformatter
from PIL import Image

from genie.errors import BrokenOff, UserError, in_one_line
from genie.fitting import Fit, Size, check_image_size, fit_image, place, scaled_shape, to_rgb

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".gif", ".ts", ".mts", ".m2ts", ".flv",
    ".f4v", ".wmv", ".asf", ".mpg", ".mpeg", ".m2v", ".vob", ".3gp", ".3g2", ".ogv", ".ogm", ".mxf",
    ".dv", ".nut", ".divx", ".rm", ".rmvb", ".y4m", ".mjpeg", ".apng",
})
# fmt: on
"""Endings of files that are taken for videos; one that is none is told so when it is opened."""

MIN_FPS, MAX_FPS = 0.01, 1000.0
DEFAULT_FPS = 15.0
"""Of files that do not tell their frames per second."""

THREADS = 1
"""That convert a picture: more of them take longer to start than to work."""
ROUNDING = 1e-3
"""Seconds by which two clocks may differ; containers round to milliseconds."""
LEAST_JUMP = 0.25
"""Seconds by which time must run back to be a joint; less is a muxer's disorder."""
LONGEST_PAUSE = 5.0
"""Seconds of standstill in a transport stream, which broadcasts; more is a joint, too."""
RATE_FRAMES = 200
"""Of an animation, that tell its frames per second."""

HDR = {ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67}
"""Transfer curves of PQ and HLG."""
UNTAGGED = 2
"""Where a file does not tell its matrix or its primaries."""


class Converter:
    """Turns the frames of one video into RGB pictures of one size."""

    def __init__(self, size: Size | None, fit: Fit, pixel: Fraction = Fraction(1)) -> None:
        """Args: pixel: width of a stored pixel over its height."""
        self._size, self._fit, self._pixel = size, fit, pixel
        self._reformatter = VideoReformatter()  # frames that convert themselves start threads each

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """One frame, the colours converted and resized in one go; uint8 (h, w, 3)."""
        size, turns = self._size, round(frame.rotation / 90) % 4
        has_alpha = any(component.is_alpha for component in frame.format.components)
        shape = shown_shape(frame.height, frame.width, self._pixel)
        upright = _turned(shape, turns)
        if has_alpha or (size and (upright[0] < size[0] or upright[1] < size[1])):
            # Pillow blends, and enlarges small pixel art without blurring it.
            picture = self._reformat(frame, shape, "rgba" if has_alpha else "rgb24")
            image = to_rgb(Image.fromarray(picture))
            image = Image.fromarray(np.rot90(np.asarray(image), turns)) if turns else image
            return np.array(fit_image(image, size, self._fit) if size else image)
        scaled = scaled_shape(upright, size, self._fit) if size else upright
        picture = self._reformat(frame, _turned(scaled, turns), "rgb24", interpolation="AREA")
        picture = np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
        return place(picture, size) if size and scaled != size else picture

    def _reformat(self, frame: av.VideoFrame, shape: Size, format: str, **how: Any) -> np.ndarray:
        rows, columns = shape
        how |= {"threads": THREADS} | _colours(frame)
        return self._reformatter.reformat(frame, columns, rows, format, **how).to_ndarray()


def shown_shape(height: int, width: int, pixel: Fraction) -> Size:
    """(height, width) at which pixels are square; neither gets smaller."""
    return (height, round(width * pixel)) if pixel >= 1 else (round(height / pixel), width)


def _turned(shape: Size, turns: int) -> Size:
    return (shape[1], shape[0]) if turns % 2 else shape


def _colours(frame: av.VideoFrame) -> dict[str, Any]:
    """How the colours come to an ordinary screen's, where that is not the usual way."""
    if frame.color_trc in HDR:
        # What it leaves untold is BT.2020's.
        if frame.color_primaries == UNTAGGED:
            frame.color_primaries = ColorPrimaries.BT2020
        if frame.colorspace == UNTAGGED and not frame.format.is_rgb:
            frame.colorspace = Colorspace.BT2020
        return {
            "dst_color_trc": ColorTrc.IEC61966_2_1,
            "dst_color_primaries": ColorPrimaries.BT709,
        }
    is_large = frame.width >= 1280 or frame.height > 576
    if is_large and frame.colorspace == UNTAGGED and not frame.format.is_rgb:
        return {"src_colorspace": Colorspace.ITU709}
    return {}


def open_video(path: Path) -> av.container.InputContainer:
    """Open a file that has pictures.

    Raises:
        UserError: if it is no video.
    """
    try:
        container = av.open(str(path), metadata_errors="replace")
    except (av.error.FFmpegError, ValueError) as error:
        why = in_one_line(error)
        raise UserError(f"{path} is not a readable video ({why})") from error
    if not container.streams.video:
        container.close()
        raise UserError(f"{path} has no video stream: give a file with pictures")
    return container


def decode(
    path: Path, size: Size | None, fit: Fit, fps: float | None, joints: set[int] | None = None
) -> Iterator[np.ndarray]:
    """The pictures of a file; see `video.stream`.

    Raises:
        UserError: if it is no video.
        BrokenOff: if it is damaged, or ends before its last frame.
    """
    if is_animation(path):
        clock = _Clock(1 / DEFAULT_FPS)
        yield from _shown(clock, _animated(path), fps, Converter(size, fit), joints)
        return
    with open_video(path) as container:
        track = container.streams.video[0]
        pixel = track.sample_aspect_ratio or Fraction(1)
        height, width = shown_shape(track.height, track.width, pixel)
        check_image_size(path, width, height)
        declared, rate = _declared_end(container, track), frame_rate(track)
        longest = LONGEST_PAUSE if container.format.name == "mpegts" else inf
        clock = _Clock(float(1 / rate) if rate else 1 / DEFAULT_FPS, longest)
        frames = _deinterlaced(_undamaged(container.decode(track), path))
        yield from _shown(clock, frames, fps, Converter(size, fit, pixel), joints)
        # Clocks round, and where frames last unequally the file need not tell for how long. What
        # joined files declare is of one of them.
        known = declared is not None and rate is not None and clock.num_frames
        if known and not clock.num_joints and declared - clock.end > 1.5 * clock.longest:
            raise BrokenOff(
                f"{path} breaks off: its frames end at {clock.end:.1f} s, it declares "
                f"{declared:.1f} s"
            )


def _shown(
    clock: "_Clock",
    frames: Iterator[av.VideoFrame],
    fps: float | None,
    convert: Converter,
    joints: set[int] | None,
) -> Iterator[np.ndarray]:
    """The pictures of the frames, or at every tick the one that is shown then."""
    timed = clock.follow(frames)
    converted: tuple[av.VideoFrame, np.ndarray] | None = None
    part = 0
    for number, (frame, its_part) in enumerate(timed if fps is None else clock.ticks(timed, fps)):
        if converted is None or converted[0] is not frame:  # a slow video shows one for long
            converted = frame, convert(frame)
        if its_part != part and joints is not None:
            joints.add(number)
        part = its_part
        yield converted[1]


def is_film(path: Path) -> bool:
    """Whether a file is a video by its ending, or a picture that moves."""
    return path.suffix.lower() in VIDEO_SUFFIXES or is_animation(path)


def is_animation(path: Path) -> bool:
    """Whether a PNG or WebP moves; ffmpeg shows the first picture of a WebP at most."""
    if path.suffix.lower() not in {".png", ".apng", ".webp"} or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(24)
            if head.startswith(b"\x89PNG"):
                file.seek(8)
                return _png_moves(file)
    except OSError:  # told when it is read
        return False
    return head[12:16] == b"VP8X" and len(head) > 20 and bool(head[20] & 2)


def _png_moves(file: BinaryIO) -> bool:
    """Whether a chunk before the picture tells of more pictures."""
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        if head[4:] == b"acTL":
            return True
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def animation_rate(path: Path) -> float:
    """Frames per second of a GIF, PNG or WebP that moves.

    Frames last whole hundredths of a second, and longer where nothing changes: of the shortest,
    and those that are a hundredth or so longer, the mean is meant.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        lengths = [length for _, length in islice(_moving(path), RATE_FRAMES)]
    except UserError:
        raise
    except Exception as error:  # a broken file makes Pillow raise nearly anything
        raise UserError(f"{path} is not a readable video ({in_one_line(error)})") from error
    short = [length for length in lengths if length < 1.5 * min(lengths)]
    return 1000 * len(short) / sum(short)


def _animated(path: Path) -> Iterator[av.VideoFrame]:
    time = 0
    for image, length in _moving(path):
        frame = av.VideoFrame.from_ndarray(np.array(image.convert("RGBA")), format="rgba")
        frame.pts, frame.time_base, frame.duration = time, Fraction(1, 1000), length
        time += length
        yield frame


def _moving(path: Path) -> Iterator[tuple[Image.Image, int]]:
    """An image at each of its frames in turn, and for how many milliseconds that is shown."""
    try:
        image = Image.open(path)
        first, last = int(bool(image.info.get("default_image"))), getattr(image, "n_frames", 1)
    except Exception as error:  # a broken file makes Pillow raise nearly anything
        raise UserError(f"{path} is not a readable video ({in_one_line(error)})") from error
    with image:
        check_image_size(path, image.width, image.height)
        # What is shown by programs that know no animations need not be part of it.
        for number in range(min(first, last - 1), last):
            image.seek(number)
            image.load()  # before that, a WebP does not know how long
            # Browsers show what lasts for no time for a tenth of a second.
            yield image, round(image.info.get("duration", 0)) or 100


def _undamaged(frames: Iterator[av.VideoFrame], path: Path) -> Iterator[av.VideoFrame]:
    """The same frames; decoders go on after damage, and show what they make of it."""
    for frame in frames:
        if frame.is_corrupt:
            raise BrokenOff(f"{path} is damaged: its frame at {frame.time or 0:.1f} s is broken")
        yield frame


def _deinterlaced(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """The same frames, those whose two halves were taken one after the other without combs."""
    graph: Graph | None = None
    kind = None
    for frame in frames:
        now = frame.width, frame.height, frame.format.name
        if graph and now != kind:
            yield from _pull(graph, None)
            graph = None
        if graph is None and frame.interlaced_frame:
            graph, kind = _deinterlacer(frame), now
        if graph:
            yield from _pull(graph, frame)
        else:
            yield frame
    if graph:
        yield from _pull(graph, None)


def _deinterlacer(frame: av.VideoFrame) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    # Frames that say that they are whole pass as they are.
    bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(bwdif), bwdif.link_to(sink)
    graph.configure()
    return graph


def _pull(graph: Graph, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """Give a frame to a graph, or None as the end, and take what it has ready."""
    graph.vpush(frame)
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):
            return


Timed = tuple[av.VideoFrame, int]
"""A frame, and of which of a file's joined parts it is."""


class _Clock:
    """When the frames of a file are shown, in seconds."""

    def __init__(self, usual: float, longest_pause: float = inf) -> None:
        """Seconds: `usual` that a frame lasts where it does not say, and of a pause at most."""
        self.usual = self.longest = usual
        self.longest_pause = longest_pause
        self.num_frames, self.num_joints, self.time, self.end = 0, 0, 0.0, 0.0

    def follow(self, frames: Iterator[av.VideoFrame]) -> Iterator[Timed]:
        """The same frames; `time` is the newest one's, `end` when it ends.

        Where time jumps, as where files were put end to end, it goes on as if it had not.
        """
        timed, offset = False, 0.0
        for frame in frames:
            length = float(frame.duration * (frame.time_base or 0)) or self.usual
            if frame.time is not None:
                jump = frame.time + offset - self.time
                if timed and not -LEAST_JUMP <= jump <= self.longest_pause:
                    offset = self.end - frame.time
                    self.num_joints += 1
                if timed:
                    self.longest = max(self.longest, frame.time + offset - self.time)
                self.time, timed = frame.time + offset, True
            elif self.num_frames:
                self.time += self.usual
            self.num_frames += 1
            self.end, self.longest = self.time + length, max(self.longest, length)
            yield frame, self.num_joints

    def ticks(self, frames: Iterator[Timed], fps: float) -> Iterator[Timed]:
        """Of the frames of `follow` the one that is shown at each tick, from the first frame on."""
        shown, number, start = None, 0, 0.0
        for timed in frames:
            if shown is None:
                start = self.time
            while shown is not None and start + number / fps < self.time - ROUNDING:
                yield shown
                number += 1
            shown = timed
        while shown is not None and start + number / fps < self.end - ROUNDING:
            yield shown
            number += 1


def _declared_end(container: av.container.InputContainer, track: av.VideoStream) -> float | None:
    """The second at which a file says that its pictures end, if it does say."""
    rate = frame_rate(track)
    if container.format.name == "avi" and track.frames and rate:
        return float(track.frames / rate)  # ffmpeg corrects the duration of an AVI that is cut
    if track.duration and track.time_base:
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


def frame_rate(track: av.VideoStream) -> Fraction | None:
    """Average frames per second that a file declares, if it tells any that can be."""
    rate = track.average_rate
    return rate if rate and MIN_FPS <= rate <= MAX_FPS else None
