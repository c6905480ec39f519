"""What stands still in a video: whether it moves with the stage, and whether it is larger than a particle."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.measure import label, regionprops_table
from skimage.registration import phase_cross_correlation

from exotrack.localize.matched import MatchedFilter
from exotrack.tables import F32

VISIBLE = 6.0
"""Still structure must stand out of the noise of the mean by this many s.d. to be followed."""
UNLIKE = 0.7
"""Normalised error of a registration above which the two images do not show the same."""
BIN = 4
"""Side of the squares of pixels that are averaged before large objects are looked for, px."""
LARGE = 12.0
"""Objects of more than this many widths of a spot are no particles that diffuse measurably."""


def stage_drift_px(earlier: F32, later: F32, noise: float) -> float:
    """Distance by which still structure has moved between two images, px; NaN where there is none to follow.

    Parameters
    ----------
    earlier, later : float32 arrays, shape (height, width)
        Still backgrounds of two halves of a window after the matched filter, DN.
    noise : float
        s.d. of their noise, DN.

    Notes
    -----
    Phase correlation to a twentieth of a pixel. Slow particles, which are elsewhere in the second image, do not pass
    for drift: the images must agree after the shift.

    References
    ----------
    Guizar-Sicairos et al., Opt. Lett. 33, 156 (2008), doi:10.1364/OL.33.000156.
    """
    if np.abs(earlier).max() < VISIBLE * noise:
        return math.nan
    shift, error, _ = phase_cross_correlation(earlier, later, upsample_factor=20, normalization=None)
    return float(np.hypot(*shift)) if error < UNLIKE else math.nan


def large_objects(background: F32, matched: MatchedFilter, sign: float, noise: float) -> list[float]:
    """Equivalent diameters of still objects much larger than a spot, px: bubbles, fibres, aggregates, glare.

    Parameters
    ----------
    background : float32 array, shape (height, width)
        Still background, DN.
    matched : MatchedFilter
        Its width is that of a spot.
    sign : float
        1 for bright spots, −1 for dark ones.
    noise : float
        s.d. of the background's noise per pixel, DN.

    Returns
    -------
    list of float
        Largest first; empty where there are none.
    """
    coarse = background[: background.shape[0] // BIN * BIN, : background.shape[1] // BIN * BIN]
    coarse = coarse.reshape(coarse.shape[0] // BIN, BIN, -1, BIN).mean(axis=(1, 3))
    smooth = gaussian_filter(coarse, 2.0 * matched.sigma / BIN)
    # Illumination varies over a good part of the frame, an object does not.
    level = gaussian_filter(coarse, max(coarse.shape) / 6.0)
    objects = label(sign * (smooth - level) > max(VISIBLE * noise, 0.25 * float(np.ptp(smooth))))
    diameters = regionprops_table(objects, properties=("equivalent_diameter_area",))["equivalent_diameter_area"]
    return sorted((float(BIN * d) for d in diameters if BIN * d > LARGE * matched.sigma), reverse=True)
