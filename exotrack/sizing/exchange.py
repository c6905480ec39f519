"""How particles come and go through the faces of the observed volume, and what short tracks miss of it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import special

from exotrack.tables import F64

_RATIOS = np.geomspace(0.5, 64.0, 29)  # depth over step; beyond, the two faces do not know of each other
_CELLS_PER_STEP = 16
_REACH = 6.0  # r.m.s. displacements that the kernel and the surroundings extend


def unconfirmed_depth_um(step_um: F64, depth_um: F64, shortest: int, gap_frames: int) -> F64:
    """Depth whose particles are seen in tracks that are too short to count.

    Particles diffuse through a slab out of an endless reservoir. A track is broken when its particle is outside for
    more than `gap_frames` frames, and counts if it spans `shortest` frames. Of the c·h localizations per frame and
    area, those in tracks that count are c·(h − result).

    Parameters
    ----------
    step_um : float64 array
        R.m.s. displacement per frame along the axis, √(2DΔt), µm.
    depth_um : float64 array
        Depth h of the slab, µm; broadcast against `step_um`.
    shortest : int
        Frames from first to last localization of the shortest track that counts, ≥ 1.
    gap_frames : int
        Frames that a particle may be missing from within a track.

    Returns
    -------
    float64 array
        In µm, below `depth_um`. For thick slabs without gaps it is √(2/π)·s·[Σ_{j<k} j^−½ − (k − 1) k^−½], which
        follows from the Sparre Andersen law P(L ≥ k) ∝ k^−½; gaps and thin slabs are computed by propagating the
        density of the tracks from frame to frame.

    References
    ----------
    Spitzer, Trans. Am. Math. Soc. 82, 323 (1956), doi:10.1090/S0002-9947-1956-0079851-X.

    Examples
    --------
    >>> thick = float(unconfirmed_depth_um(np.array(0.5), np.array(30.0), 5, 0))
    >>> k = np.arange(1, 5)
    >>> round(float(thick / (0.5 * np.sqrt(2 / np.pi) * (np.sum(k**-0.5) - 4 * 5**-0.5))), 2)
    1.0
    """
    lost, _ = _table(shortest, gap_frames)
    ratio = np.asarray(depth_um, np.float64) / step_um
    result: F64 = step_um * np.interp(np.log(np.minimum(ratio, _RATIOS[-1])), np.log(_RATIOS), lost)
    return np.minimum(result, depth_um)  # below half a step no track counts


def confirmed_starts_um(step_um: F64, shortest: int, gap_frames: int) -> F64:
    """Tracks that begin per frame, area and concentration and span at least `shortest` frames, µm.

    Of a slab much deeper than the steps, through both faces: it does not depend on the depth. Parameters are those of
    `unconfirmed_depth_um`. Without gaps it is √(2/π)·s·k^−½.
    """
    _, starts = _table(shortest, gap_frames)
    result: F64 = np.asarray(step_um, np.float64) * starts[-1]
    return result


@lru_cache(maxsize=16)
def _table(shortest: int, gap_frames: int) -> tuple[F64, F64]:
    """Per ratio of depth to step, in steps: depth in short tracks, and starts of long ones per frame."""
    rows = np.array([_short_tracks(float(ratio), shortest, gap_frames) for ratio in _RATIOS])
    return rows[:, 0], rows[:, 1]


def _short_tracks(ratio: float, shortest: int, gap_frames: int) -> tuple[float, float]:
    """Localizations in short tracks, and starts of long ones, per frame for a slab of `ratio` steps."""
    inside = max(round(ratio * _CELLS_PER_STEP), 4)
    cell = ratio / inside
    margin = int(np.ceil(_REACH * np.sqrt(gap_frames + 2.0) / cell))
    seen = np.zeros(inside + 2 * margin, bool)
    seen[margin : margin + inside] = True
    edges = (np.arange(-int(np.ceil(_REACH / cell)), int(np.ceil(_REACH / cell)) + 2) - 0.5) * cell
    kernel = np.diff(special.ndtr(edges))
    kernel /= kernel.sum()
    reach = len(kernel) // 2

    def moved(density: F64, around: float) -> F64:
        return np.convolve(np.pad(density, reach, constant_values=around), kernel, "valid")

    away = np.where(seen, 0.0, 1.0)
    for _ in range(gap_frames):  # outside for as long as it takes to break a track
        away = np.where(seen, 0.0, moved(away, 1.0))
    born = np.where(seen, moved(away, 1.0), 0.0)
    # alive[m] holds, per number of localizations so far, tracks that have been missing for m frames.
    alive = [{1: born}] + [{} for _ in range(gap_frames)]
    lost_spots = lost_tracks = 0.0
    for age in range(1, shortest + gap_frames + 1):
        after: list[dict[int, F64]] = [{} for _ in range(gap_frames + 1)]
        for missing, states in enumerate(alive):
            if age - missing >= shortest:
                continue  # spans enough already
            for n, density in states.items():
                now = moved(density, 0.0)
                _add(after[0], n + 1, np.where(seen, now, 0.0))
                gone = np.where(seen, 0.0, now)
                if missing < gap_frames:
                    _add(after[missing + 1], n, gone)
                else:
                    lost_spots += n * float(gone.sum()) * cell
                    lost_tracks += float(gone.sum()) * cell
        alive = after
    return lost_spots, float(born.sum()) * cell - lost_tracks


def _add(states: dict[int, F64], n: int, density: F64) -> None:
    states[n] = states[n] + density if n in states else density
