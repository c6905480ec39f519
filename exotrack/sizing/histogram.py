"""Histogram of the diameters of single tracks, as older programs report it: broadened by the length of the tracks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exotrack.tables import F64, I64

_LEAST_STEPS = 4  # as sizes use; with two, the spread of a diameter has no limit


@dataclass(frozen=True, eq=False)
class TrackHistogram:
    """Counts of single tracks by their most likely diameter. It is no size distribution."""

    edges_nm: F64
    """Borders of the bins, shape (n_bins + 1,)."""
    count: I64
    """Tracks per bin, shape (n_bins,)."""
    cv: float
    """s.d. over mean of the diameters."""
    expected_cv: float
    """The same of particles of one size with tracks of these lengths, without localization error."""
    label: str
    """What to write beside it."""


def track_histogram(
    diameter_nm: npt.ArrayLike, n_steps: npt.ArrayLike, stuck: npt.ArrayLike, edges_nm: npt.ArrayLike
) -> TrackHistogram:
    """Histogram of the most likely diameters of moving tracks of four displacements or more.

    Parameters
    ----------
    diameter_nm, n_steps, stuck : array, shape (n_tracks,)
        Columns of `Particles`, and whether each is flagged STUCK.
    edges_nm : array, shape (n_bins + 1,)
        Borders of the bins, increasing; tracks beyond them are left out of the counts alone.

    Notes
    -----
    The diameter of a track of N displacements along two axes is d·N over a gamma variate of shape N: its mean is
    N/(N − 1) times d and its s.d. over mean 1/√(N − 2), which no number of tracks makes smaller.

    References
    ----------
    Michalet & Berglund, Phys. Rev. E 85, 061916 (2012), doi:10.1103/PhysRevE.85.061916.

    Examples
    --------
    >>> round(_expected_cv(np.full(5, 18)), 2)
    0.25
    """
    used = (np.asarray(n_steps) >= _LEAST_STEPS) & ~np.asarray(stuck, bool)
    diameter, steps = np.asarray(diameter_nm, np.float64)[used], np.asarray(n_steps)[used]
    edges = np.asarray(edges_nm, np.float64)
    cv = float(np.std(diameter) / np.mean(diameter)) if len(diameter) else float("nan")
    expected = _expected_cv(steps)
    return TrackHistogram(
        edges_nm=edges,
        count=np.histogram(diameter, edges)[0].astype(np.int64),
        cv=cv,
        expected_cv=expected,
        label=f"single tracks, broadened by their length: particles of one size would show a CV of {expected:.0%}"
        if len(steps)
        else "no tracks that are long enough",
    )


def _expected_cv(steps: npt.NDArray[np.integer]) -> float:
    """s.d. over mean of the diameters of equal particles with tracks of these lengths; NaN without any."""
    n = steps[steps >= _LEAST_STEPS].astype(np.float64)
    if not len(n):
        return float("nan")
    first, second = np.mean(n / (n - 1.0)), np.mean(n**2 / ((n - 1.0) * (n - 2.0)))
    return float(np.sqrt(second / first**2 - 1.0))
