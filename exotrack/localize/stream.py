"""Walk a video window by window and block by block, and collect its spots."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any
from typing import Protocol as Interface

import numpy as np

from exotrack import backends
from exotrack.acquisition import Acquisition
from exotrack.backends.contract import Backend
from exotrack.camera import Camera
from exotrack.errors import InputError
from exotrack.localize.calibrate import calibrate as learn
from exotrack.localize.calibrate import saturation_level
from exotrack.localize.noise import in_parts, window_state
from exotrack.localize.pieces import once_more
from exotrack.localize.window import Work, localize_window
from exotrack.protocol import Protocol
from exotrack.tables import Array, Localizations, SpotModel

WINDOW_BYTES = 256 * 2**20
"""Most memory that the frames of one window may take."""
LEFT_BEHIND = 0.05
"""Share of the steps of the smallest particle of interest that may lead beyond where it is looked for again."""


class FrameSource(Interface):
    """What `localize` needs of a video; `exotrack.video.Video` and a simulated one provide it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height, width."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8, uint16 or float32."""

    @property
    def acquisition(self) -> Acquisition:
        """How the video was recorded."""

    def blocks(self, block_frames: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Array]]:
        """Consecutive stacks of frames with the index of their first one; each frame is decoded once."""


class _ArraySource:
    """A NumPy array as a frame source."""

    def __init__(self, frames: Array, acquisition: Acquisition) -> None:
        self.frames, self.acquisition, self.sequential = frames, acquisition, False
        self.shape, self.dtype = frames.shape, frames.dtype

    def blocks(self, block_frames: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Array]]:
        for first in range(start, self.shape[0] if stop is None else stop, block_frames):
            yield (
                first,
                self.frames[first : min(first + block_frames, self.shape[0] if stop is None else stop)],
            )


def plan_windows(
    shape: tuple[int, int, int], itemsize: int, frame_interval_s: float, protocol: Protocol | None = None
) -> tuple[tuple[int, int], ...]:
    """The global time grid: (start, stop) of the windows that share one background and noise map.

    Parameters
    ----------
    shape : tuple of int
        Frames, height, width.
    itemsize : int
        Bytes per pixel.
    frame_interval_s : float
    protocol : Protocol, optional

    Returns
    -------
    tuple of (int, int)
        Windows of `localize.background_s` seconds, but of at most 256 MB and at least one frame; a remainder shorter
        than half a window belongs to the one before it. It depends on the video and the protocol alone.

    Examples
    --------
    >>> plan_windows((700, 480, 640), 1, 1 / 30)
    ((0, 300), (300, 700))
    """
    settings = (protocol or Protocol()).localize
    n_frames, height, width = shape
    by_memory = max(WINDOW_BYTES // (height * width * itemsize), 1)
    length = min(max(round(settings.background_s / frame_interval_s), 1), by_memory)
    starts = list(range(0, n_frames, length))
    if len(starts) > 1 and n_frames - starts[-1] < length / 2:
        starts.pop()
    return tuple(zip(starts, [*starts[1:], n_frames], strict=True))


def calibrate(
    source: FrameSource, protocol: Protocol | None = None, *, backend: str = "auto", camera: Camera | None = None
) -> SpotModel:
    """Learn the spot model of a video from its first window; see `exotrack.localize.calibrate.calibrate`."""
    protocol = protocol or Protocol()
    first = plan_windows(source.shape, source.dtype.itemsize, source.acquisition.frame_interval_s, protocol)[0]
    operations, camera = backends.load(backend), camera or getattr(source, "camera", None)
    size = operations.block_frames(math.prod(source.shape[1:]) * source.dtype.itemsize, 1)
    _, frames = next(_window_frames(source, [first], size, operations))
    usable = _usable(frames, saturation_level(source.dtype, _bit_depth(source)), operations, size)
    return _learn(_kept(frames, usable), source, protocol, operations, camera)


def _kept(frames: Array, usable: Array) -> Array:
    """The usable frames; not copied where all are."""
    return frames if usable.all() else frames[usable]


def _learn(
    frames: Array, source: FrameSource, protocol: Protocol, operations: Backend, camera: Camera | None
) -> SpotModel:
    """Learn the spot model from the usable frames of a window."""
    reach, bit_depth = _reach_px(source.acquisition, protocol), _bit_depth(source)
    return learn(frames, protocol.localize, reach, backend=operations, bit_depth=bit_depth, camera=camera)


def _reach_px(acquisition: Acquisition, protocol: Protocol) -> float:
    """Distance that the smallest particle of interest leaves behind in all but few of its steps, px."""
    largest = acquisition.stokes_einstein_um2_s_nm / protocol.link.smallest_diameter_nm
    step = 4.0 * largest * acquisition.frame_interval_s * (1.0 - 2.0 * acquisition.blur)
    return 1.0 + math.sqrt(step * math.log(1.0 / LEFT_BEHIND)) / acquisition.pixel_size_um


def localize(
    video: FrameSource | Array,
    protocol: Protocol | None = None,
    *,
    acquisition: Acquisition | None = None,
    camera: Camera | None = None,
    backend: str = "auto",
    model: SpotModel | None = None,
    start: int = 0,
    stop: int | None = None,
    block_frames: int | None = None,
    threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Localizations:
    """Find the spots of a video and their positions to a fraction of a pixel.

    Parameters
    ----------
    video : Video or array, shape (n_frames, height, width)
        A video from `open_video`, or frames as uint8, uint16 or float32 together with an `acquisition`.
    protocol : Protocol, optional
        Settings; the defaults if not given.
    acquisition : Acquisition, optional
        How an array was recorded; a video knows its own.
    camera : Camera, optional
        Offset, gain and read noise of each pixel; a video that was opened with one knows it. Masses and backgrounds
        are in electrons then.
    backend : str
        "auto", "cpu" or "cuda".
    model : SpotModel, optional
        What `calibrate` learned of this video; learned on the first window if not given.
    start, stop : int, optional
        Frames to localize: borders of windows of `plan_windows`.
    block_frames : int, optional
        Frames read and processed at a time, chosen by the backend if not given; it never changes a result. Memory is
        bounded by the window of the time grid, 256 MB and half as much again at the end of a video, since its
        background is known only when it is read.
    threads : int
        On the CPU, threads that share the frames of a window. On a GPU, windows that are under way at the same time,
        three at least: one is copied in while another is computed. It never changes a result.
    progress : callable, optional
        Called with the number of frames done since the last call, from any thread.

    Returns
    -------
    Localizations
        Ordered by frame, then y, then x. Empty where there is no spot. `.model` is the spot model.

    Raises
    ------
    InputError
        Array of the wrong dtype or shape, with pixels that are not finite, or without an acquisition; start or stop off
        the window grid.
    BackendError
        The backend cannot run here, or its device failed twice at the same frames.
    VideoError
        From a video that cannot be decoded.

    Notes
    -----
    The position is within a few per cent of the Cramér–Rao bound for spots of the fitted shape (see the benchmarks).
    Particles that move by more than the width of the spot during the exposure are not of that shape; their error is
    larger than stated, and the pooled covariance of the tracks corrects it downstream.

    Examples
    --------
    >>> import numpy as np
    >>> frames = np.random.default_rng(1).normal(20, 2, (12, 64, 64)).round().astype(np.uint8)
    >>> frames[:, 30:33, 40:43] += 40
    >>> spots = localize(frames, acquisition=Acquisition(pixel_size_um=0.2, frame_interval_s=0.04))
    >>> len(spots) >= 12
    True
    """
    protocol = protocol or Protocol()
    source = _source(video, acquisition)
    operations = backends.load(backend)
    settings = protocol.localize
    n_frames = source.shape[0]
    stop = n_frames if stop is None else stop
    windows = plan_windows(source.shape, source.dtype.itemsize, source.acquisition.frame_interval_s, protocol)
    wanted = [w for w in windows if start <= w[0] and w[1] <= stop]
    if not wanted or wanted[0][0] != start or wanted[-1][1] != stop:
        raise InputError(
            f"frames {start} to {stop} are not whole windows of the time grid {windows[:3]}…; see plan_windows"
        )
    limit = saturation_level(source.dtype, _bit_depth(source))
    camera = camera or getattr(source, "camera", None)
    reach = _reach_px(source.acquisition, protocol)
    threads = max(threads, operations.IN_FLIGHT)
    frame_bytes = source.shape[1] * source.shape[2] * (4 if camera is not None else source.dtype.itemsize)
    size = block_frames or operations.block_frames(frame_bytes, threads)

    def window(first: int, frames: Array, model: SpotModel, executor: Executor | None = None) -> Localizations:
        levels = partial(_usable, frames, limit, operations, size, executor)
        usable = once_more(levels, f"levels of frames {first} to {first + len(frames) - 1}")
        seen = _kept(frames, usable)
        work = Work(operations, model, settings.width == "free", reach, camera)
        learn_state = partial(
            window_state, seen, model, settings, reach, backend=operations, camera=camera, executor=executor
        )
        state = once_more(learn_state, f"noise of frames {first} to {first + len(frames) - 1}")
        spots = localize_window(seen, state, work, block_frames=size, executor=executor, progress=progress)
        if progress is not None and len(seen) < len(frames):
            progress(len(frames) - len(seen))
        return replace(spots, frame=(first + np.flatnonzero(usable))[spots.frame].astype(np.int32))

    parts = _window_frames(source, wanted, size, operations)
    if model is None:
        first, frames = next(parts)
        usable = _usable(frames, limit, operations, size)
        model = _learn(_kept(frames, usable), source, protocol, operations, camera)
        parts = chain(iter([(first, frames)]), parts)
        del frames
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads)) if threads > 1 else None
        if pool is not None and operations.IN_FLIGHT > 1:
            return Localizations.concat(list(_ahead(pool, window, ((*part, model) for part in parts), threads)))
        found = []
        for first, frames in parts:
            found.append(window(first, frames, model, pool))
            del frames
        return Localizations.concat(found)


def _ahead(
    pool: Executor, work: Callable[..., Localizations], items: Iterable[tuple[Any, ...]], most: int
) -> Iterator[Localizations]:
    """Results of the work on the items, in order, with so many of them under way."""
    waiting: deque[Future[Localizations]] = deque()
    for item in items:
        waiting.append(pool.submit(work, *item))
        if len(waiting) == most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _usable(frames: Array, limit: float, operations: Backend, size: int, executor: Executor | None = None) -> Array:
    """Frames that show something: not uniform, not half saturated, not far darker or brighter than the others.

    A frame that fails, as when the shutter or the light is off, has no spots, like any missed frame. Where all fail,
    all are kept, and the warnings of the spot model say what is wrong.
    """
    parts = (frames[first : first + size] for first in range(0, len(frames), size))
    levels = in_parts(executor, lambda part: operations.frame_levels(part, limit), parts)
    level, low, high, clipped = np.concatenate(levels).T
    typical = float(np.median(level))
    usual = np.abs(level - typical) <= max(0.5 * abs(typical), 5.0)
    usable = usual & (high > low) & (clipped <= 0.5)
    return usable if usable.any() else np.ones(len(frames), bool)


def _window_frames(
    source: FrameSource, windows: list[tuple[int, int]], block_frames: int, operations: Backend
) -> Iterator[tuple[int, Array]]:
    """The frames of each window, read once and in order; one window is held at a time."""
    sequential = getattr(source, "sequential", True)
    blocks = source.blocks(block_frames, windows[0][0], windows[-1][1]) if sequential else iter(())
    rest: Array = np.empty((0, *source.shape[1:]), source.dtype)
    for first, last in windows:
        if not sequential:
            _, frames = next(iter(source.blocks(last - first, first, last)))
        else:
            frames = operations.frame_buffer((last - first, *source.shape[1:]), source.dtype)
            filled = 0
            while filled < len(frames):
                if len(rest) == 0:
                    _, rest = next(blocks)
                part = rest[: len(frames) - filled]
                frames[filled : filled + len(part)] = part
                filled += len(part)
                rest = rest[len(part) :]
        if np.issubdtype(frames.dtype, np.floating) and not np.isfinite(frames).all():
            bad = first + int(np.argmin(np.isfinite(frames).all(axis=(1, 2))))
            raise InputError(f"frame {bad} has pixels that are not finite; fill them in, or leave the frame out")
        yield first, frames
        del frames  # one window at a time: it must be gone before the next is read


def _source(video: FrameSource | Array, acquisition: Acquisition | None) -> FrameSource:
    if isinstance(video, np.ndarray):
        if acquisition is None:
            raise InputError(
                "frames given as an array need acquisition=Acquisition(pixel_size_um=…, frame_interval_s=…)"
            )
        if video.ndim != 3:
            raise InputError(f"frames must have three axes (t, y, x), got shape {video.shape}")
        if video.dtype not in (np.uint8, np.uint16, np.float32):
            raise InputError(f"frames of dtype {video.dtype} are not read; convert them to uint8, uint16 or float32")
        source: FrameSource = _ArraySource(video, acquisition)
    elif acquisition is not None:
        raise InputError("a video knows its acquisition; give the values to open_video instead")
    else:
        source = video
    if min(source.shape) < 1 or min(source.shape[1:]) < 16:
        raise InputError(
            f"frames of {source.shape[1]}×{source.shape[2]} px (n = {source.shape[0]}) are too small: 16×16 px at least"
        )
    return source


def _bit_depth(source: FrameSource) -> int | None:
    metadata = getattr(source, "metadata", {})
    value = metadata["bit_depth"][0] if "bit_depth" in metadata else None
    return int(value) if value is not None else None
