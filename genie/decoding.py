"""Video files decoded as a player shows them: on time, upright, undistorted, in SDR colours.

In: the path of a video. Out: numpy uint8 (h, w, 3) pictures, or an error that says what is wrong
with the file. Writes nothing.

Sources: mpv's manual (`--video-params`) for the colour matrix that players assume for untagged
video; BT.2408, which swscale follows, for the white level of HDR; bwdif (Weston's 3-field filter
with yadif's spatial check) for deinterlacing.
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
"""Endings of files that are taken for videos; one that is no video is an error when opened."""

MIN_FPS, MAX_FPS = 0.01, 1000.0
DEFAULT_FPS = 15.0
"""Frames per second of files that declare none."""

THREADS = 1
"""Threads that convert a picture; starting more of them takes longer than they save."""
ROUNDING = 1e-3
"""Seconds by which timestamps may be off; containers round to milliseconds."""
LEAST_JUMP = 0.25
"""Seconds that timestamps must jump back to count as a joint; less is a muxer's disorder."""
LONGEST_PAUSE = 5.0
"""Seconds between two frames of a transport stream; a longer gap counts as a joint, too."""
RATE_FRAMES = 200
"""First frames of an animation, from which its frames per second are estimated."""

HDR = {ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67}
"""Transfer curves of PQ and HLG."""
UNTAGGED = 2
"""ffmpeg's value for a matrix or primaries that a file does not declare."""


class Converter:
    """Turns the frames of one video into RGB pictures of one size."""

    def __init__(self, size: Size | None, fit: Fit, pixel: Fraction = Fraction(1)) -> None:
        """Args: pixel: width of a stored pixel over its height."""
        self._size, self._fit, self._pixel = size, fit, pixel
        self._reformatter = VideoReformatter()  # shared: `frame.reformat` starts threads per frame

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """One frame, colours converted and resized in one pass, as uint8 (h, w, 3)."""
        size, turns = self._size, round(frame.rotation / 90) % 4
        has_alpha = any(component.is_alpha for component in frame.format.components)
        shape = shown_shape(frame.height, frame.width, self._pixel)
        upright = _turned(shape, turns)
        if has_alpha or (size and (upright[0] < size[0] or upright[1] < size[1])):
            # Pillow, because it blends alpha and enlarges small pixel art without blurring it.
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
    """Options for swscale where its defaults are wrong; sets tags that an HDR frame lacks."""
    if frame.color_trc in HDR:
        # HDR that declares nothing else is BT.2020.
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
        # The tolerance: timestamps are rounded, and frames of unequal length may not declare
        # theirs. Files that were joined declare the end of one of them only.
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
    """All pictures, or with `fps` the one that is on screen at every tick."""
    timed = clock.follow(frames)
    converted: tuple[av.VideoFrame, np.ndarray] | None = None
    part = 0
    for number, (frame, its_part) in enumerate(timed if fps is None else clock.ticks(timed, fps)):
        if converted is None or converted[0] is not frame:  # one frame may fill several ticks
            converted = frame, convert(frame)
        if its_part != part and joints is not None:
            joints.add(number)
        part = its_part
        yield converted[1]


def is_film(path: Path) -> bool:
    """Whether a file has the ending of a video, or is an animated picture."""
    return path.suffix.lower() in VIDEO_SUFFIXES or is_animation(path)


def is_animation(path: Path) -> bool:
    """Whether a PNG or WebP is animated; of such a WebP, ffmpeg decodes one picture at most."""
    if path.suffix.lower() not in {".png", ".apng", ".webp"} or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(24)
            if head.startswith(b"\x89PNG"):
                file.seek(8)
                return _png_moves(file)
    except OSError:  # reported when it is read
        return False
    return head[12:16] == b"VP8X" and len(head) > 20 and bool(head[20] & 2)


def _png_moves(file: BinaryIO) -> bool:
    """Whether the chunk of an animation (acTL) comes before the first picture's data."""
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        if head[4:] == b"acTL":
            return True
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def animation_rate(path: Path) -> float:
    """Frames per second of an animated GIF, PNG or WebP.

    Durations are rounded to hundredths of a second, and longer where nothing changes: the mean of
    those that are less than 1.5 times the shortest is taken.

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
    """The image, moved on to each frame in turn, and that frame's duration in milliseconds."""
    try:
        image = Image.open(path)
        first, last = int(bool(image.info.get("default_image"))), getattr(image, "n_frames", 1)
    except Exception as error:  # a broken file makes Pillow raise nearly anything
        raise UserError(f"{path} is not a readable video ({in_one_line(error)})") from error
    with image:
        check_image_size(path, image.width, image.height)
        # The picture for programs without animation need not be part of the animation.
        for number in range(min(first, last - 1), last):
            image.seek(number)
            image.load()  # before that, a WebP has no duration
            # Browsers show a frame of duration 0 for a tenth of a second.
            yield image, round(image.info.get("duration", 0)) or 100


def _undamaged(frames: Iterator[av.VideoFrame], path: Path) -> Iterator[av.VideoFrame]:
    """The same frames up to a damaged one; decoders go on after damage, with broken pictures."""
    for frame in frames:
        if frame.is_corrupt:
            raise BrokenOff(f"{path} is damaged: its frame at {frame.time or 0:.1f} s is broken")
        yield frame


def _deinterlaced(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """The same frames, interlaced ones deinterlaced."""
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
    # Frames that are marked progressive pass unchanged.
    bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(bwdif), bwdif.link_to(sink)
    graph.configure()
    return graph


def _pull(graph: Graph, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
    """Push a frame into a filter graph (None: the end), and yield the frames that are ready."""
    graph.vpush(frame)
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):
            return


Timed = tuple[av.VideoFrame, int]
"""A frame, and the number of the joined part of the file that it belongs to."""


class _Clock:
    """When the frames of a file are shown, in seconds."""

    def __init__(self, usual: float, longest_pause: float = inf) -> None:
        """Seconds: `usual` duration of a frame that declares none, longest gap that is no joint."""
        self.usual = self.longest = usual
        self.longest_pause = longest_pause
        self.num_frames, self.num_joints, self.time, self.end = 0, 0, 0.0, 0.0

    def follow(self, frames: Iterator[av.VideoFrame]) -> Iterator[Timed]:
        """The same frames; meanwhile `time` and `end` are the newest one's start and end.

        Where timestamps jump, as where files were joined, `time` goes on without the jump.
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
        """From the frames of `follow`, the one on screen at each tick, starting with the first."""
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
    """The time in seconds at which the pictures end, as the file declares it, if it does."""
    rate = frame_rate(track)
    if container.format.name == "avi" and track.frames and rate:
        return float(track.frames / rate)  # ffmpeg corrects the duration of a truncated AVI
    if track.duration and track.time_base:
        # The duration leaves out frames before an edit list's start: stored, but not shown.
        return _start(track) + float(track.duration * track.time_base)
    tagged = _seconds(track.metadata.get("DURATION", ""))
    if tagged or len(container.streams) > 1:  # sound may be longer than the pictures
        return tagged
    return container.duration / av.time_base if container.duration else None


def _seconds(clock: str) -> float | None:
    """Matroska's h:m:s in seconds; None if the text is anything else."""
    try:
        hours, minutes, seconds = clock.split(":")
        total = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None
    return total if isfinite(total) else None


def _start(track: av.VideoStream) -> float:
    return float((track.start_time or 0) * (track.time_base or 0))


def frame_rate(track: av.VideoStream) -> Fraction | None:
    """Average frames per second that a file declares; None if missing or out of range."""
    rate = track.average_rate
    return rate if rate and MIN_FPS <= rate <= MAX_FPS else None
