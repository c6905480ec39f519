"""Mislink index of each size class: how far crowding falsifies the share of particles that move that fast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exotrack.acquisition import Acquisition
from exotrack.sizing.summary import fraction_ranges
from exotrack.tables import Tracks

MISLINK_HIGH = 0.05
"""Mislink index of a size class from which on its share is to be taken with care."""
MISLINK_MOST = 0.15
"""… and from which on it is not reported: one step in thirteen would belong to another particle."""


def field_shape(tracks: Tracks, acquisition: Acquisition) -> tuple[int, int]:
    """Height and width of the field in px: as stated, or what the tracks span, which is less; 1×1 without any."""
    if acquisition.frame_shape is not None:
        return acquisition.frame_shape
    if not len(tracks):
        return 1, 1
    return int(np.ptp(tracks.y)) + 1, int(np.ptp(tracks.x)) + 1


def mislink_nm(tracks: Tracks, acquisition: Acquisition) -> float:
    """Mislink index times diameter, nm: πρ·4DΔt·d with the density ρ of all spots.

    Without what linking found out, as with tracks of another program, ρ counts the spots in tracks alone.
    """
    if tracks.linking is not None:
        density = tracks.linking.density_px2
    else:
        shape = field_shape(tracks, acquisition)
        n_frames = acquisition.n_frames or int(tracks.frame.max(initial=0)) + 1
        density = len(tracks) / (shape[0] * shape[1] * n_frames)
    per_um2 = density / acquisition.pixel_size_um**2
    return float(np.pi * per_um2 * 4.0 * acquisition.stokes_einstein_um2_s_nm * acquisition.frame_interval_s)


def class_mislinks(index_nm: float, edges_nm: Sequence[float], lowest_nm: float, highest_nm: float) -> dict[str, float]:
    """Mislink index of each size class, by the name of its share.

    Parameters
    ----------
    index_nm : float
        From `mislink_nm`.
    edges_nm : sequence of float
        Boundaries of the classes.
    lowest_nm, highest_nm : float
        Ends of the size grid, where the outermost classes end.

    Returns
    -------
    dict
        The index at the geometric middle of each class.
    """
    result = {}
    for name, (low, high) in fraction_ranges(edges_nm).items():
        low, high = max(low, min(lowest_nm, high)), min(high, max(highest_nm, low))
        result[name] = index_nm / float(np.sqrt(low * high))
    return result
