"""The spots of one window of the time grid: detection and refinement block by block, then what spans several frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, starmap
from typing import Any

import numpy as np

from exotrack.backends.contract import Backend
from exotrack.camera import Camera
from exotrack.localize.noise import Scale, WindowState, in_electrons, in_parts
from exotrack.localize.pieces import in_pieces, once_more
from exotrack.tables import F32, F64, I32, U16, Array, Localizations, SpotFlag, SpotModel

DEFOCUSED = 1.6
"""Ratio of a spot's width to the typical one beyond which it counts as out of focus."""
APART = 3.0
"""Least distance of a faint peak from a spot, in widths."""
RING = 2.6
"""Half width of the window in which a ring is centred, in widths of the filter that found it."""
IMPROBABLE = 3.1
"""s.d. of χ² beyond which a fit is poor: p < 0.001."""


@dataclass(frozen=True)
class Work:
    """How the windows of a video are localized."""

    operations: Backend
    """A loaded backend."""
    model: SpotModel
    free_width: bool
    reach_px: float
    """Distance within which a particle is looked for in the next frame, px."""
    camera: Camera | None
    """Where given, frames are turned into electrons first."""


@dataclass(frozen=True)
class Peaks:
    """Maxima of the matched filter, by frame, then row."""

    frame: I32
    y: F32
    x: F32
    snr: F32
    scale: I32
    """Index in `WindowState.scales`."""

    def take(self, rows: Array) -> Peaks:
        """The peaks of an index array or mask."""
        return Peaks(self.frame[rows], self.y[rows], self.x[rows], self.snr[rows], self.scale[rows])

    def later(self, frames: int) -> Peaks:
        """The same, so many frames later."""
        return replace(self, frame=self.frame + np.int32(frames))


@dataclass(frozen=True)
class Fits:
    """Refined spots."""

    frame: I32
    values: F64
    """Shape (9, n), as `refine` gives them."""
    flag: U16

    def later(self, frames: int) -> Fits:
        """The same, so many frames later."""
        return replace(self, frame=self.frame + np.int32(frames))

    @classmethod
    def joined(cls, parts: list[Fits]) -> Fits:
        """All of several, in order."""
        return cls(
            np.concatenate([p.frame for p in parts]),
            np.concatenate([p.values for p in parts], axis=1),
            np.concatenate([p.flag for p in parts]),
        )


def localize_window(
    frames: Array,
    state: WindowState,
    work: Work,
    *,
    block_frames: int,
    executor: Executor | None = None,
    progress: Callable[[int], None] | None = None,
) -> Localizations:
    """Spots of a window; frames count from 0.

    Parameters
    ----------
    frames : array, shape (n, height, width)
        Raw frames.
    state : WindowState
        Their background and noise.
    work : Work
    block_frames : int
        Frames processed at a time; it never changes a result.
    executor : Executor, optional
        Runs blocks in parallel.
    progress : callable, optional
        Called with the number of frames done since the last call.
    """
    blocks = [(first, min(first + block_frames, len(frames))) for first in range(0, len(frames), block_frames)]
    maps = once_more(lambda: Maps.of(state, work.operations), "maps of a window")
    pixels = Pixels(frames, work)

    def find(first: int, last: int) -> tuple[Fits, Peaks]:
        return _localize_block(pixels.of(first, last), first, state, maps, work)

    each = partial(in_pieces, find, make_room=pixels.forget)
    results: Iterable[list[tuple[Fits, Peaks]]]
    results = starmap(each, blocks) if executor is None else executor.map(each, *zip(*blocks, strict=True))
    sure: list[Fits] = []
    faint: list[Peaks] = []
    for (first, last), pieces in zip(blocks, results, strict=True):
        sure += [fits for fits, _ in pieces]
        faint += [peaks for _, peaks in pieces]
        if progress is not None:
            progress(last - first)
    if not sure:
        return Localizations.empty(model=work.model)
    found = Fits.joined(sure)
    continued = _continued(found, _joined(faint), len(frames), state, work)

    def find_faint(first: int, last: int) -> Fits:
        here = continued.take((continued.frame >= first) & (continued.frame < last))
        if not len(here.frame):
            return Fits(here.frame, np.empty((9, 0)), np.empty(0, np.uint16))
        return _refine(pixels.of(first, last), here.later(-first), state, maps, work, SpotFlag.FAINT).later(first)

    pieces_of_faint = in_parts(executor, lambda b: in_pieces(find_faint, *b, make_room=pixels.forget), blocks)
    found = Fits.joined([found, *chain.from_iterable(pieces_of_faint)])
    return _table(found, frames.shape[1:], state, work)


class Pixels:
    """The frames of a window where the operations use them, uploaded once as long as there is room."""

    def __init__(self, frames: Array, work: Work) -> None:
        self._frames, self._work = frames, work
        self._kept: dict[tuple[int, int], Any] = {}
        self._room = work.operations.has_room(frames.nbytes)

    def of(self, first: int, last: int) -> Any:
        """Frames first … last − 1, in electrons where the camera is known."""
        kept = self._kept.get((first, last))
        if kept is not None:
            return kept
        uploaded = self._work.operations.upload(in_electrons(self._frames[first:last], self._work.camera))
        # Electrons take four bytes a pixel: they are made again where they are needed again.
        if self._room and self._work.camera is None:
            self._kept[first, last] = uploaded
        return uploaded

    def forget(self) -> None:
        """Keep nothing any more."""
        self._room = False
        self._kept.clear()


@dataclass(frozen=True)
class Maps:
    """What the operations need of a window's state, where they use it."""

    background: Any
    variance: Any
    scales: tuple[tuple[Any, Any, Any], ...]
    """Level, inverse noise and limit of each scale."""

    @classmethod
    def of(cls, state: WindowState, operations: Backend) -> Maps:
        """The maps of a state."""
        up = operations.upload
        scales = tuple((up(s.level), up(s.inverse_noise), up(s.limit)) for s in state.scales)
        return cls(up(state.background), up(state.variance), scales)


def _localize_block(pixels: Any, first: int, state: WindowState, maps: Maps, work: Work) -> tuple[Fits, Peaks]:
    """Sure spots of a block, refined, and faint peaks."""
    parts = [_peaks(pixels, scale, maps, number) for number, scale in enumerate(state.scales)]
    sure, faint = parts[0]
    if len(parts) > 1:
        sure = _strongest(_joined([part[0] for part in parts]), state.scales)
    return _refine(pixels, sure, state, maps, work).later(first), faint.later(first)


def _peaks(pixels: Any, scale: Scale, maps: Maps, number: int) -> tuple[Peaks, Peaks]:
    """Peaks above the threshold, and those that may only continue a particle."""
    step = scale.detector.matched.step
    frame, y, x, snr = scale.detector.peaks(pixels, *maps.scales[number])
    height, width = scale.threshold.shape
    row = np.clip(np.rint(y / step).astype(np.int64), 0, height - 1)
    column = np.clip(np.rint(x / step).astype(np.int64), 0, width - 1)
    needed = scale.threshold[row, column]
    peaks = Peaks(frame, y, x, snr, np.full(len(frame), number, np.int32))
    sure = snr > needed
    return peaks.take(sure), peaks.take(~sure & (snr > np.float32(scale.faint) * needed))


def _joined(parts: list[Peaks]) -> Peaks:
    """Peaks of several parts, by frame, then row."""
    frame, y, x, snr, scale = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("frame", "y", "x", "snr", "scale")
    )
    peaks = Peaks(frame, y, x, snr, scale)
    return peaks if len(parts) == 1 else peaks.take(_in_order(frame, y))


def _in_order(frame: I32, y: Array) -> Array:
    """Order by frame, then y. The sort is stable, and quick on what is nearly in order."""
    return np.argsort(frame * 2.0**20 + y, kind="stable")


def _strongest(peaks: Peaks, scales: tuple[Scale, ...]) -> Peaks:
    """Of peaks at several widths, those with none higher within two widths of the higher one."""
    sigma = np.array([scale.detector.matched.sigma for scale in scales])[peaks.scale]
    keep = np.ones(len(peaks.frame), bool)
    reach = 2.0 * float(max(scale.detector.matched.sigma for scale in scales))
    last = np.searchsorted(peaks.frame, peaks.frame, side="right")
    for i in range(len(keep)):
        j = np.arange(i + 1, np.searchsorted(peaks.y[i + 1 : last[i]], peaks.y[i] + reach) + i + 1)
        apart = np.hypot(peaks.y[j] - peaks.y[i], peaks.x[j] - peaks.x[i])
        higher = peaks.snr[j] > peaks.snr[i]
        near = apart < 2.0 * np.where(higher, sigma[j], sigma[i])
        near &= peaks.scale[j] != peaks.scale[i]
        keep[j[near & ~higher]] = False
        keep[i] = keep[i] and not np.any(near & higher)
    return peaks.take(keep)


def _refine(pixels: Any, peaks: Peaks, state: WindowState, maps: Maps, work: Work, flag: int = 0) -> Fits:
    """Fit each peak at its own scale."""
    parts = []
    for number, scale in enumerate(state.scales):
        at = peaks if len(state.scales) == 1 else peaks.take(peaks.scale == number)
        if number and not len(at.frame):
            continue
        matched, model = scale.detector.matched, work.model
        values, flags = work.operations.refine(
            pixels, maps.background, maps.variance, at.frame, at.y, at.x, sign=model.sign, sigma=matched.sigma,
            gain=model.gain_dn, half=matched.fit_half, saturation=model.saturation_dn, free_width=work.free_width,
        )  # fmt: skip
        flags |= np.uint16(flag)
        if number:
            _centre_rings(pixels, at.frame, values, flags, state, scale, work)
        parts.append(Fits(at.frame, values, flags))
    return Fits.joined(parts)


def _centre_rings(
    pixels: Any, frame: I32, values: F64, flags: U16, state: WindowState, scale: Scale, work: Work
) -> None:
    """Give rings the centre of radial symmetry, in place: a Gaussian fitted to a ring is six times less precise."""
    sigma = scale.detector.matched.sigma
    centres, ring = work.operations.radial_symmetry(
        pixels, state.background, frame, values[0], values[1], sign=work.model.sign, half=round(RING * sigma)
    )
    # Where the two disagree by more than a width, it is no ring alone.
    agree = np.hypot(centres[0] - values[0], centres[1] - values[1]) < sigma
    ring &= agree & np.isfinite(centres[2])
    values[0, ring], values[1, ring] = centres[0, ring], centres[1, ring]
    values[6, ring], values[7, ring] = centres[2, ring], centres[3, ring]
    flags[ring] |= np.uint16(SpotFlag.RING)


def _continued(found: Fits, faint: Peaks, n_frames: int, state: WindowState, work: Work) -> Peaks:
    """The faint peaks that continue a particle."""
    if not len(faint.frame) or not len(found.frame):
        return faint.take(np.zeros(len(faint.frame), bool))
    n = len(found.frame)
    frame = np.concatenate([found.frame, faint.frame])
    y, x = (np.concatenate([found.values[a], at.astype(np.float64)]) for a, at in ((0, faint.y), (1, faint.x)))
    snr = np.concatenate([np.full(n, np.inf, np.float32), faint.snr])
    order = _in_order(frame, y)
    kept = work.operations.continuations(
        frame[order], y[order], x[order], snr[order], order < n, n_frames,
        reach=work.reach_px, apart=APART * state.scales[0].detector.matched.sigma,
    )  # fmt: skip
    rows = order[kept]
    return faint.take(np.sort(rows[rows >= n]) - n)


def _table(found: Fits, shape: tuple[int, ...], state: WindowState, work: Work) -> Localizations:
    """Spots that lie inside the frame by their own error at least, none twice, ordered by frame, y and x."""
    values = found.values
    order = _in_order(found.frame, values[0])
    height, width = shape
    # Beyond the outermost pixel centres no peak is seen, only the flank of a particle that may be anywhere outside.
    inside = (values[0] >= values[6]) & (values[0] <= height - 1 - values[6])
    inside &= (values[1] >= values[7]) & (values[1] <= width - 1 - values[7])
    order = order[inside[order]]
    twice = work.operations.found_twice(
        found.frame[order], values[0, order], values[1, order], values[2, order], apart=work.model.sigma_px
    )
    order = order[~twice]
    frame, flag = found.frame[order], found.flag[order]
    y, x, mass, offset, noise, sigma, y_err, x_err, chi2 = values[:, order]
    row, column = np.rint(y).astype(np.int64), np.rint(x).astype(np.int64)
    pixels = (2 * state.scales[0].detector.matched.fit_half + 1) ** 2
    flag = flag | np.where(sigma > DEFOCUSED * work.model.sigma_px, SpotFlag.DEFOCUSED, 0).astype(np.uint16)
    poor = chi2 > 1.0 + IMPROBABLE * np.sqrt(2.0 / (pixels - 5))
    flag = flag | np.where(poor, SpotFlag.POOR_FIT, 0).astype(np.uint16)
    return Localizations(
        frame=frame,
        y=y,
        x=x,
        mass=mass,
        background=work.model.sign * offset + state.background[row, column],
        noise=noise,
        snr=mass / (2.0 * np.pi * (sigma**2 + 1.0 / 12.0)) / noise,
        sigma=sigma,
        y_err=y_err,
        x_err=x_err,
        flag=flag,
        model=work.model,
    )
