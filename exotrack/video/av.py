"""AVI, MP4, MOV and MKV through PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from exotrack.errors import VideoError
from exotrack.place import is_remote
from exotrack.tables import Array
from exotrack.video.colour import Colour
from exotrack.video.opened import opened
from exotrack.video.source import Facts

SUFFIXES = (".avi", ".mp4", ".m4v", ".mov", ".mkv")

# Packed 4:2:2 formats of camera drivers: where in each pair of bytes the luma lies.
_PACKED_LUMA = {"yuyv422": 0, "yvyu422": 0, "uyvy422": 1}


@dataclass(frozen=True)
class AvSource:
    """Frames of the first video stream.

    Grey and luma are taken from the decoded plane as they are, never rescaled; colour is handed on as R, G, B.
    """

    path: Path
    colour: Colour
    facts: Facts
    packet_bytes: int | None
    """Size of every frame's data where it is uncompressed: FFmpeg would fill up a shorter one without a word."""

    def frames(self, start: int, stop: int) -> Generator[Array, None, None]:
        """See `Source.frames`. A sequential source is decoded from its first frame whatever `start`.

        Raises
        ------
        VideoError
            If a frame is damaged or missing, or the file holds more frames than its header promises.
        """
        promised = self.facts.shape[0]
        index = 0 if self.facts.sequential else start
        with opened(self.path) as file, av.open(file) as container:
            stream = container.streams.video[0]
            # FFmpeg's default is to patch damaged areas over; a patched frame would be measured as if it were real.
            stream.codec_context.options = {"err_detect": "explode"}
            stream.thread_type = "AUTO"
            packets = _packets(container, stream, None if self.facts.sequential else start)
            decoded = (frame for packet in packets for frame in _intact(packet, self.packet_bytes))
            while True:
                try:
                    frame = next(decoded, None)
                except av.FFmpegError as error:
                    raise self._damaged(index, error.strerror) from None
                if frame is None:
                    return
                if frame.is_corrupt:
                    raise self._damaged(index, "parts of it are missing")
                if index == promised:
                    raise VideoError(
                        f"{self.path}: the header promises {promised} frames and the file holds more; the recording "
                        "was not closed properly: repair its index (for example with ffmpeg -i IN -c copy OUT)"
                    )
                if index >= start:
                    yield _pixels(frame, self.colour)
                index += 1
                if index == stop < promised:
                    return

    def _damaged(self, index: int, reason: str | None) -> VideoError:
        return VideoError(
            f"{self.path}: the header promises {self.facts.shape[0]} frames, only {index} could be decoded: the next "
            f"is damaged ({reason}); copy the file again from the instrument"
        )


def open_source(path: Path, colour: Colour) -> AvSource:
    """Read the header; where it states no number of frames, count packets without decoding them.

    Raises
    ------
    VideoError
        If there is no video stream, or its pixel format is not read.
    """
    with opened(path) as file, av.open(file) as container:
        if not container.streams.video:
            raise VideoError(f"{path}: it holds no video stream")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context.format is None:
            raise VideoError(
                f"{path}: the codec {context.name} does not state a pixel format; export uncompressed AVI or TIFF"
            )
        bits = _checked_bits(path, context.format)
        container_facts = {
            "format": container.format.name,
            "codec": context.name,
            "pixel_format": context.format.name,
            **_luma_range(context),
        }
        leads: dict[str, Any] = {"bit_depth": bits}
        if stream.average_rate and stream.average_rate > 0:
            leads["fps"] = float(stream.average_rate)
        facts = Facts(
            shape=(stream.frames or _count_packets(container, stream), context.height, context.width),
            dtype=np.dtype(np.uint8 if bits == 8 else np.uint16),
            container=container_facts,
            files=() if is_remote(path) else (path,),
            leads=leads,
            warnings=_warnings(stream),
            sequential=not _seekable(container, stream),
        )
        raw = context.name == "rawvideo"
        stated = context.height * context.width * context.format.padded_bits_per_pixel // 8
    held = _first_packet_bytes(path) if raw else None
    # Rows may be padded to four bytes and planes of odd size rounded up: a few per cent, never this much.
    if held is not None and not 0.9 * stated <= held <= 1.15 * stated + 4 * facts.shape[1]:
        raise VideoError(
            f"{path}: the header says {facts.shape[2]}×{facts.shape[1]} px ({stated} bytes a frame), but a frame holds "
            f"{held} bytes: the header is wrong; export the video again"
        )
    return AvSource(path, colour, facts, held)


def _seekable(container: Any, stream: Any) -> bool:
    # AVI has no time stamps: a packet's is its number. Where every packet is a frame by itself, frame k can be sought.
    return bool(
        container.format.name == "avi"
        and stream.codec.intra_only
        and stream.average_rate
        and stream.time_base * stream.average_rate == 1
    )


def _packets(container: Any, stream: Any, start: int | None) -> Iterator[Any]:
    """Packets from the first, or, where packets are numbered frames, from that of frame `start`."""
    if start is None:
        yield from container.demux(stream)
        return
    origin = stream.start_time or 0
    if start:
        container.seek(origin + start, stream=stream)
    expected = start
    for packet in container.demux(stream):
        number = packet.pts if packet.pts is not None else packet.dts
        if number is not None:
            if number - origin < start:
                continue
            if number - origin != expected:
                raise VideoError(
                    f"{container.name}: frame {expected} is missing, the next one is {number - origin}: the camera "
                    "dropped frames or the file is damaged; time is no longer even: record again or cut the video there"
                )
            expected += 1
        yield packet


def _intact(packet: Any, expected_bytes: int | None) -> list[Any]:
    """Frames of a packet that is all there; the last packet is empty and flushes the decoder."""
    short = expected_bytes is not None and packet.size not in (0, expected_bytes)
    if packet.is_corrupt or short:
        raise av.InvalidDataError(0, "parts of its data are missing")
    return cast("list[Any]", packet.decode())


def _count_packets(container: Any, stream: Any) -> int:
    return sum(1 for packet in container.demux(stream) if packet.size)


def _first_packet_bytes(path: Path) -> int | None:
    with opened(path) as file, av.open(file) as container:
        return next((packet.size for packet in container.demux(video=0) if packet.size), None)


def _checked_bits(path: Path, pixel_format: Any) -> int:
    """Bits per sample, 8 to 16, of a pixel format that can be read without loss."""
    name, first = pixel_format.name, pixel_format.components[0]
    readable = (
        pixel_format.has_palette
        or name in _PACKED_LUMA
        or pixel_format.is_rgb
        or pixel_format.is_planar
        or len(pixel_format.components) == 1
    )
    if not readable or pixel_format.is_bayer or pixel_format.is_bit_stream or not 8 <= first.bits <= 16:
        raise VideoError(
            f"{path}: pixel format {name} ({first.bits} bits per sample) is not read; export uncompressed 8-bit grey "
            "AVI, or TIFF for more bits"
        )
    return int(first.bits)


def _luma_range(context: Any) -> dict[str, str]:
    """Whether luma uses all values or, as in television, 16–235 of 255; grey and RGB use all."""
    if context.format.is_rgb or context.format.has_palette or len(context.format.components) == 1:
        return {}
    full = context.format.name.startswith("yuvj") or context.color_range == 2  # AVCOL_RANGE_JPEG
    return {"luma_range": "full" if full else "limited"}


def _warnings(stream: Any) -> tuple[str, ...]:
    found = []
    if stream.codec.lossy:
        found.append(f"the codec {stream.codec_context.name} may be lossy: noise and faint spots are altered")
    if stream.sample_aspect_ratio not in (None, 0, 1):
        found.append(f"the file states pixels of aspect {stream.sample_aspect_ratio}; they were taken as square")
    return tuple(found)


def _pixels(frame: Any, colour: Colour) -> Array:
    """(y, x), or (y, x, 3) where a colour rule is to be applied."""
    layout = frame.format
    deep = layout.components[0].bits > 8
    if layout.has_palette:
        return _palette_pixels(frame)
    has_colour = len(layout.components) >= 3
    if layout.is_rgb or (has_colour and colour != "luma"):
        return cast("Array", frame.to_ndarray(format="rgb48le" if deep else "rgb24")).astype(
            np.uint16 if deep else np.uint8, copy=False
        )
    itemsize = 2 if deep or layout.name in _PACKED_LUMA else 1
    rows = _plane_rows(frame.planes[0], itemsize * frame.width)
    if layout.name in _PACKED_LUMA:
        return rows[:, _PACKED_LUMA[layout.name] :: 2]
    if deep:
        return rows.view(">u2" if layout.is_big_endian else "<u2")
    return rows


def _plane_rows(plane: Any, row_bytes: int) -> Array:
    """Rows of a plane without their padding; a bottom-up picture has a negative line size."""
    stride = abs(plane.line_size)
    rows = np.frombuffer(plane, np.uint8)[: stride * plane.height].reshape(plane.height, stride)[:, :row_bytes]
    return rows[::-1] if plane.line_size < 0 else rows


def _palette_pixels(frame: Any) -> Array:
    index, palette = frame.to_ndarray()
    rgb = palette[:, 1:]  # alpha comes first
    # No palette at all, and the identity, both mean that the index is the grey value.
    if not rgb.any() or (rgb == np.arange(256, dtype=np.uint8)[:, None]).all():
        return cast("Array", index)
    return cast("Array", rgb[index])
