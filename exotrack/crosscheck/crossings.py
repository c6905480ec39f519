"""Distances between spots of different frames, counted by block of time, with those of spots of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from exotrack.acquisition import Acquisition
from exotrack.backends.contract import Backend
from exotrack.errors import InputError
from exotrack.tables import F64, I64

_MOST_PAIRS: Final = 400  # of frames, per lag
_BLOCKS: Final = 10
_BINS: Final = 40
_MERGING_PX = 8.0  # distance beyond which spots do not hide one another
_AROUND = 1.5  # other particles are counted up to this many reaches …
_LEAST_AROUND_PX = 16.0  # … or px, beyond the distance at which two spots merge into one …
_INNER_BIN = 28  # … and from 0.49 of that on: bins are spaced by the square


@dataclass(frozen=True)
class Counts:
    """Counts of pairs of spots, summed over some time."""

    radius_um: F64
    """Borders of the rings, shape (n_rings + 1,), from 0."""
    cross: F64
    """Pairs of spots of different frames by ring, shape (n_lags, n_rings)."""
    centres: F64
    """Spots that were centres, shape (n_lags,)."""
    others: float
    """Pairs of spots of one frame."""
    others_um2: float
    """Area in which they were counted, over all centres."""
    close: float
    """Pairs of spots of one frame that are near enough to merge."""
    close_um2: float
    """Area in which they were counted, over all centres."""

    @property
    def density(self) -> float:
        """Other spots per µm² around a spot, beyond the distance at which spots merge."""
        return self.others / self.others_um2 if self.others_um2 > 0 else 0.0

    @property
    def hidden(self) -> float:
        """Other spots that a spot hides by merging with them; below zero where particles show as two spots."""
        centres = float(self.centres[0])
        return (self.density * self.close_um2 - self.close) / centres if centres > 0 else 0.0


@dataclass(frozen=True)
class Blocks:
    """Counts by block of time; the first axis is that of the blocks."""

    radius_um: F64
    cross: F64
    centres: F64
    others: F64
    others_um2: F64
    close: F64
    close_um2: F64
    n_pairs: int
    """Pairs of frames of the lag that has most."""

    def total(self, without: int | None = None) -> Counts:
        """Sum over all blocks, or all but one."""
        kept = np.arange(_BLOCKS) != without
        return Counts(
            self.radius_um,
            self.cross[kept].sum(axis=0),
            self.centres[kept].sum(axis=0),
            float(self.others[kept].sum()),
            float(self.others_um2[kept].sum()),
            float(self.close[kept].sum()),
            float(self.close_um2[kept].sum()),
        )

    def each(self) -> list[Counts]:
        """The sums over all but one block, for each block."""
        return [self.total(without=block) for block in range(_BLOCKS)]


def count(
    y: npt.ArrayLike,
    x: npt.ArrayLike,
    frame: npt.ArrayLike,
    acquisition: Acquisition,
    *,
    lags: Sequence[int],
    reach_um: float,
    flow: tuple[npt.ArrayLike | None, npt.ArrayLike | None],
    engine: Backend,
) -> Blocks:
    """Count the distances from spots to those of later frames, up to `reach_um`, from where the flow takes them.

    Parameters
    ----------
    y, x, frame, acquisition
        As `piccs` takes them.
    lags : sequence of int
        Frames between the spots of a pair.
    reach_um : float
        Largest distance.
    flow : pair of arrays or None
        Displacement along y and x from each frame to the next, px.
    engine : module
        The backend.

    Returns
    -------
    Blocks
        At most 400 evenly spaced pairs of frames per lag; all zero without spots away from the border.

    Raises
    ------
    InputError
        As `piccs`.
    """
    pixel = acquisition.pixel_size_um
    reach = reach_um / pixel
    around = max(_AROUND * reach, _LEAST_AROUND_PX)
    rows = _in_order(y, x, frame, flow, acquisition, lags[-1], around)
    start, inner, stop, segment = rows.start, rows.inner, rows.stop, rows.segment
    around_um2 = np.pi * (around * pixel) ** 2 * (1.0 - (_INNER_BIN / _BINS) ** 4)
    cross = np.zeros((_BLOCKS, len(lags), _BINS))
    centres = np.zeros((_BLOCKS, len(lags)))
    others, close, most = np.zeros(_BLOCKS), np.zeros(_BLOCKS), 0
    for i, lag in enumerate(lags):
        first = np.arange(max(len(start) - lag, 0))
        later = first + lag
        first = first[(inner > start)[first] & (stop > start)[later] & (segment[first] == segment[later])]
        if len(first) > _MOST_PAIRS:
            first = first[np.linspace(0, len(first) - 1, _MOST_PAIRS).round().astype(np.int64)]
        most = max(most, len(first))
        at_y, at_x = rows.carried(lag)
        for block, own in enumerate(np.array_split(first, _BLOCKS)):
            pairs = np.stack([start[own], inner[own], start[own + lag], stop[own + lag]], axis=1)
            cross[block, i] = engine.distance_histogram(rows.y, rows.x, at_y, at_x, pairs, reach=reach, bins=_BINS)
            centres[block, i] = np.sum(inner[own] - start[own])
            if i == 0:
                pairs = np.stack([start[own], inner[own], start[own], stop[own]], axis=1)
                found = engine.distance_histogram(rows.y, rows.x, rows.y, rows.x, pairs, reach=around, bins=_BINS)
                others[block] = found[_INNER_BIN:].sum()
                found = engine.distance_histogram(rows.y, rows.x, rows.y, rows.x, pairs, reach=_MERGING_PX, bins=1)
                close[block] = found[0]
    radius = reach_um * (np.arange(_BINS + 1) / _BINS) ** 2
    close_um2 = np.pi * (_MERGING_PX * pixel) ** 2
    return Blocks(radius, cross, centres, others, centres[:, 0] * around_um2, close, centres[:, 0] * close_um2, most)


@dataclass(frozen=True)
class _Rows:
    """Spots by frame, and in each frame those first that may be centres."""

    y: F64
    x: F64
    frame: I64
    start: I64
    """First row of each frame."""
    inner: I64
    """First row of each frame that is no centre: its surroundings are cut by the border."""
    stop: I64
    moved: F64
    """Displacement by the flow up to each frame, px, shape (n_frames, 2)."""
    segment: I64
    """Stretch between cuts to which each frame belongs."""

    def carried(self, lag: int) -> tuple[F64, F64]:
        """Where the flow takes each spot within some frames, px."""
        later = np.minimum(self.frame + lag, len(self.moved) - 1)
        shift = self.moved[later] - self.moved[self.frame]
        return self.y + shift[:, 0], self.x + shift[:, 1]


def _in_order(
    y: npt.ArrayLike,
    x: npt.ArrayLike,
    frame: npt.ArrayLike,
    flow: tuple[npt.ArrayLike | None, npt.ArrayLike | None],
    acquisition: Acquisition,
    lag: int,
    around: float,
) -> _Rows:
    at_y, at_x, at_frame = np.asarray(y, np.float64), np.asarray(x, np.float64), np.asarray(frame, np.int64)
    if not (at_y.ndim == 1 and at_y.shape == at_x.shape == at_frame.shape):
        shapes = f"{at_y.shape}, {at_x.shape}, {at_frame.shape}"
        raise InputError(f"y, x and frame have shapes {shapes}; give columns of one length")
    if not (np.all(np.isfinite(at_y)) and np.all(np.isfinite(at_x)) and np.all(at_frame >= 0)):
        raise InputError("y, x or frame hold positions that are not finite or negative frames; leave those rows out")
    n_frames = int(at_frame.max(initial=-1)) + 1
    moved = _moved(flow, n_frames)
    shift = float(np.abs(moved[lag:] - moved[:-lag]).max(initial=0.0))
    height, width = acquisition.frame_shape or (at_y.max(initial=0.0) + 1.0, at_x.max(initial=0.0) + 1.0)
    low, margin = -0.5, around + shift
    centre = (at_y >= low + margin) & (at_y <= low + height - margin)
    centre &= (at_x >= low + margin) & (at_x <= low + width - margin)
    order = np.lexsort((~centre, at_frame))
    border = np.concatenate([[0], np.cumsum(np.bincount(at_frame, minlength=n_frames))])
    inner = border[:-1] + np.bincount(at_frame, centre, n_frames).astype(np.int64)
    segment = np.searchsorted(np.sort(np.asarray(acquisition.cuts, np.int64)), np.arange(n_frames), side="right")
    return _Rows(at_y[order], at_x[order], at_frame[order], border[:-1], inner, border[1:], moved, segment)


def _moved(flow: tuple[npt.ArrayLike | None, npt.ArrayLike | None], n_frames: int) -> F64:
    moved = np.zeros((n_frames, 2))
    for axis, (name, given) in enumerate(zip(("flow_y_px", "flow_x_px"), flow, strict=True)):
        if given is None or n_frames < 2:
            continue
        steps = np.asarray(given, np.float64)
        if steps.ndim != 1 or len(steps) < n_frames - 1 or not np.all(np.isfinite(steps)):
            raise InputError(
                f"{name} of shape {steps.shape}: give a finite displacement behind each of {n_frames} frames"
            )
        moved[1:, axis] = np.cumsum(steps[: n_frames - 1])
    return moved
