"""Expected images of moving particles, and how precisely such an image can be located."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from exotrack.simulate.motion import SPOT_REACH

Floats = npt.NDArray[np.float64]


@njit(nogil=True, cache=True, error_model="numpy")
def _profile(centre: float, sigma: float, first: int, share: Floats, slope: Floats) -> None:
    """Share of a unit Gaussian in each pixel from `first` on, and its derivative with respect to the centre."""
    scale = 1.0 / (math.sqrt(2.0) * sigma)
    height = scale / math.sqrt(math.pi)
    edge = (first - 0.5 - centre) * scale
    integral, density = math.erf(edge), math.exp(-edge * edge)
    for i in range(len(share)):
        edge = (first + i + 0.5 - centre) * scale
        next_integral, next_density = math.erf(edge), math.exp(-edge * edge)
        share[i] = 0.5 * (next_integral - integral)
        slope[i] = (density - next_density) * height
        integral, density = next_integral, next_density


@njit(nogil=True, cache=True, error_model="numpy")
def _window(y: Floats, x: Floats, sigma: Floats, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Pixels of the frame that a spot reaches: first row, end row, first column, end column (ends exclusive)."""
    reach = SPOT_REACH * sigma.max() + 0.5
    top = max(0, math.ceil(y.min() - reach))
    left = max(0, math.ceil(x.min() - reach))
    bottom = min(shape[0], math.floor(y.max() + reach) + 1)
    right = min(shape[1], math.floor(x.max() + reach) + 1)
    return top, max(top, bottom), left, max(left, right)


@njit(nogil=True, cache=True, error_model="numpy")
def add_spots(image: Floats, y: Floats, x: Floats, sigma: Floats, photons: Floats) -> None:
    """Add the expected photoelectrons of every particle to an image, in place.

    Each particle is the sum, over the instants of the exposure, of a Gaussian integrated over every pixel.

    Parameters
    ----------
    image : float64 array of shape (height, width)
        Photoelectrons per pixel; spots are cut at its border.
    y, x, sigma, photons : float64 arrays of shape (n, instants)
        Centre in px (0 is the centre of the first pixel), s.d. in px and photoelectrons at each instant.
    """
    for i in range(y.shape[0]):
        top, bottom, left, right = _window(y[i], x[i], sigma[i], image.shape)
        along_y, along_x = np.empty(bottom - top), np.empty(right - left)
        unused_y, unused_x = np.empty(bottom - top), np.empty(right - left)
        for instant in range(y.shape[1]):
            if photons[i, instant] == 0.0 or bottom == top or right == left:
                continue
            _profile(y[i, instant], sigma[i, instant], top, along_y, unused_y)
            _profile(x[i, instant], sigma[i, instant], left, along_x, unused_x)
            for row in range(bottom - top):
                amount = photons[i, instant] * along_y[row]
                for column in range(right - left):
                    image[top + row, left + column] += amount * along_x[column]


@njit(nogil=True, cache=True, error_model="numpy")
def _information(
    y: Floats,
    x: Floats,
    sigma: Floats,
    photons: Floats,
    background: Floats,
    extra_variance: float,
    sign: float,
    peak: Floats,
    fisher: Floats,
) -> None:
    """Highest pixel of each spot, and the Fisher matrix of (y, x, ln amplitude, background): see `located`."""
    for i in range(y.shape[0]):
        top, bottom, left, right = _window(y[i], x[i], sigma[i], background.shape)
        rows, columns = bottom - top, right - left
        along_y, slope_y = np.empty(rows), np.empty(rows)
        along_x, slope_x = np.empty(columns), np.empty(columns)
        gradient = np.zeros((4, rows, columns))
        gradient[3] = 1.0
        for instant in range(y.shape[1]):
            _profile(y[i, instant], sigma[i, instant], top, along_y, slope_y)
            _profile(x[i, instant], sigma[i, instant], left, along_x, slope_x)
            for row in range(rows):
                amount, change = photons[i, instant] * along_y[row], photons[i, instant] * slope_y[row]
                for column in range(columns):
                    gradient[0, row, column] += change * along_x[column]
                    gradient[1, row, column] += amount * slope_x[column]
                    gradient[2, row, column] += amount * along_x[column]
        for row in range(rows):
            for column in range(columns):
                signal = gradient[2, row, column]
                peak[i] = max(peak[i], signal)
                variance = max(background[top + row, left + column] + sign * signal, 0.0) + extra_variance
                for a in range(4):
                    weighted = gradient[a, row, column] / variance
                    for b in range(a, 4):
                        fisher[i, a, b] += weighted * gradient[b, row, column]
        for a in range(4):
            for b in range(a):
                fisher[i, a, b] = fisher[i, b, a]


def located(
    y: Floats,
    x: Floats,
    sigma: Floats,
    photons: Floats,
    *,
    background: Floats,
    extra_variance: float,
    dark: bool,
) -> tuple[Floats, Floats, Floats]:
    """Highest pixel of each spot and the Cramér–Rao bounds of its position.

    Parameters
    ----------
    y, x, sigma, photons : float64 arrays of shape (n, instants)
        As for `add_spots`. Every centre must lie near the frame and every particle send some light.
    background : float64 array of shape (height, width)
        Expected photoelectrons per pixel without the spots.
    extra_variance : float
        Variance per pixel beyond the shot noise (read noise, rounding), photoelectrons².
    dark : bool
        Whether the spots take light away.

    Returns
    -------
    peak, y_crlb, x_crlb : float64 arrays of shape (n,)
        Photoelectrons in the highest pixel; smallest possible s.d. of y and x in px, for an isolated spot of known
        shape with unknown amplitude and background, from the pixels of the frame within the spot's reach.

    Notes
    -----
    The variance of a pixel is its expected count plus the extra variance, i.e. the sum of read noise and photoelectrons
    is treated as Poisson-like, which is what makes the bound computable.

    References
    ----------
    Huang et al., Nat. Methods 10, 653 (2013), doi:10.1038/nmeth.2488.
    """
    peak, fisher = np.zeros(len(y)), np.zeros((len(y), 4, 4))
    sign = -1.0 if dark else 1.0
    _information(y, x, sigma, photons, background, extra_variance, sign, peak, fisher)
    scale = np.sqrt(np.maximum(np.diagonal(fisher, axis1=1, axis2=2), np.finfo(np.float64).tiny))
    # Scaled to a unit diagonal; the ridge keeps a spot in the very corner, of one pixel or two, from being singular.
    unit = fisher / (scale[:, :, None] * scale[:, None, :]) + 1e-12 * np.eye(4)
    bound: Any = np.sqrt(np.diagonal(np.linalg.inv(unit), axis1=1, axis2=2)) / scale
    return peak, bound[:, 0], bound[:, 1]
