"""Walk a video window by window and block by block, and collect its spots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any
from typing import Protocol as Interface

import numpy as np

from exotrack import backends
from exotrack.acquisition import Acquisition
from exotrack.errors import InputError
from exotrack.localize.calibrate import WindowState, saturation_level, window_state
from exotrack.localize.calibrate import calibrate as learn
from exotrack.localize.matched import MatchedFilter
from exotrack.protocol import Protocol
from exotrack.tables import Array, Localizations, SpotFlag, SpotModel

WINDOW_BYTES = 256 * 2**20
"""Most memory that the frames of one window may take."""
BLOCK_FRAMES = 32
"""Frames read and processed at a time where the caller does not say; it never changes a result."""


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
        self.frames, self.acquisition = frames, acquisition
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


def calibrate(source: FrameSource, protocol: Protocol | None = None, *, backend: str = "auto") -> SpotModel:
    """Learn the spot model of a video from its first window; see `exotrack.localize.calibrate.calibrate`."""
    protocol = protocol or Protocol()
    first = plan_windows(source.shape, source.dtype.itemsize, source.acquisition.frame_interval_s, protocol)[0]
    _, frames = next(_window_frames(source, [first], BLOCK_FRAMES))
    usable = _usable(frames, saturation_level(source.dtype, _bit_depth(source)))
    return learn(frames[usable], protocol.localize, backend=backends.load(backend), bit_depth=_bit_depth(source))


def localize(
    video: FrameSource | Array,
    protocol: Protocol | None = None,
    *,
    acquisition: Acquisition | None = None,
    backend: str = "auto",
    model: SpotModel | None = None,
    start: int = 0,
    stop: int | None = None,
    block_frames: int | None = None,
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
    backend : str
        "auto", "cpu" or "cuda".
    model : SpotModel, optional
        What `calibrate` learned of this video; learned on the first window if not given.
    start, stop : int, optional
        Frames to localize: borders of windows of `plan_windows`.
    block_frames : int, optional
        Frames read and processed at a time; it never changes a result. Memory is bounded by the window of the time
        grid, 256 MB and half as much again at the end of a video, since its background is known only when it is read.
    progress : callable, optional
        Called with the number of frames done since the last call.

    Returns
    -------
    Localizations
        Ordered by frame, then row of the peak. Empty where there is no spot. `.model` is the spot model.

    Raises
    ------
    InputError
        Array of the wrong dtype or shape, with pixels that are not finite, or without an acquisition; start or stop off
        the window grid.
    BackendError
        The backend cannot run here.
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
    found: list[Localizations] = []
    for first, frames in _window_frames(source, wanted, block_frames or BLOCK_FRAMES):
        usable = _usable(frames, limit)
        if model is None:
            model = learn(frames[usable], settings, backend=operations, bit_depth=_bit_depth(source))
        matched = MatchedFilter.for_sigma(model.sigma_px)
        state = window_state(frames[usable], model, matched, settings, operations)
        for offset in range(0, len(frames), block_frames or BLOCK_FRAMES):
            rows = np.arange(offset, min(offset + (block_frames or BLOCK_FRAMES), len(frames)))
            seen = rows[usable[rows]]
            block = _localize_block(frames[seen], state, model, matched, operations)
            found.append(replace(block, frame=(first + seen)[block.frame].astype(np.int32)))
            if progress is not None:
                progress(len(rows))
    return Localizations.concat(found)


def _usable(frames: Array, limit: float) -> Array:
    """Frames that show something: not uniform, not half saturated, not far darker or brighter than the others.

    A frame that fails, as when the shutter or the light is off, has no spots, like any missed frame. Where all fail,
    all are kept, and the warnings of the spot model say what is wrong.
    """
    coarse = frames[:, ::4, ::4].reshape(len(frames), -1)
    level = np.median(coarse, axis=1)
    typical = float(np.median(level))
    usual = np.abs(level - typical) <= max(0.5 * typical, 5.0)
    usable = usual & (coarse.max(axis=1) > coarse.min(axis=1)) & ((coarse >= limit).mean(axis=1) <= 0.5)
    return usable if usable.any() else np.ones(len(frames), bool)


def _localize_block(
    frames: Array, state: WindowState, model: SpotModel, matched: MatchedFilter, operations: Any
) -> Localizations:
    """Spots of a stack of frames that share one background and noise map; frames count from 0."""
    sign = 1.0 if model.polarity == "bright" else -1.0
    frame, y, x, _ = operations.detect(
        frames, state.background, (1.0 / state.filtered_noise).astype(np.float32), matched.taps,
        box_half=matched.box_half, sign=sign, threshold=model.threshold, peak_half=matched.peak_half,
    )  # fmt: skip
    values, flag = operations.refine(
        frames, state.background, state.pixel_noise, frame, y, x,
        sign=sign, sigma=model.sigma_px, gain=model.gain_dn, half=matched.fit_half, saturation=model.saturation_dn,
    )  # fmt: skip
    fy, fx, mass, offset, noise, sigma, y_err, x_err, _ = values
    height, width = frames.shape[1:]
    inside = (fy >= -0.5) & (fy < height - 0.5) & (fx >= -0.5) & (fx < width - 0.5)
    row = np.clip(np.rint(fy), 0, height - 1).astype(np.int64)
    col = np.clip(np.rint(fx), 0, width - 1).astype(np.int64)
    flag = flag | np.where(sigma > 1.6 * model.sigma_px, SpotFlag.DEFOCUSED, 0).astype(np.uint16)
    spots = Localizations(
        frame=frame,
        y=fy,
        x=fx,
        mass=mass,
        background=sign * offset + state.background[row, col],
        noise=noise,
        snr=mass / (2.0 * np.pi * (sigma**2 + 1.0 / 12.0)) / noise,
        sigma=sigma,
        y_err=y_err,
        x_err=x_err,
        flag=flag,
        model=model,
    )
    spots = spots.take(inside)
    return spots.take(~_duplicates(spots, model.sigma_px))


def _duplicates(spots: Localizations, sigma: float) -> Array:
    """Spots whose fit ran into that of a heavier one: nearer than one width in the same frame."""
    twice = np.zeros(len(spots), bool)
    borders = [*np.flatnonzero(np.diff(spots.frame, prepend=-1)), len(spots)]
    for begin, end in pairwise(borders):
        y, x, mass = spots.y[begin:end], spots.x[begin:end], spots.mass[begin:end]
        near = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2 < sigma**2
        index = np.arange(end - begin)
        heavier = (mass > mass[:, None]) | ((mass == mass[:, None]) & (index < index[:, None]))
        twice[begin:end] = (near & heavier).any(axis=1)
    return twice


def _window_frames(
    source: FrameSource, windows: list[tuple[int, int]], block_frames: int
) -> Iterator[tuple[int, Array]]:
    """The frames of each window, read once and in order; one window is held at a time."""
    blocks = source.blocks(block_frames, windows[0][0], windows[-1][1])
    rest: Array = np.empty((0, *source.shape[1:]), source.dtype)
    for first, last in windows:
        frames = np.empty((last - first, *source.shape[1:]), source.dtype)
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
