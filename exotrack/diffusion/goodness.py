"""Whether a track is free diffusion: tests on its displacements made independent, exact for every length and gap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from exotrack import backends
from exotrack.acquisition import Acquisition
from exotrack.displacements import Displacements
from exotrack.tables import F64, I64

_FEWEST = 5  # displacements; of fewer nothing can be told
_POSITIVE = 1e-12

Complex = npt.NDArray[np.complex128]


def goodness_of_fit(
    d: Displacements, acquisition: Acquisition, diffusion: F64, backend: str, *, own_velocity: bool
) -> tuple[F64, F64]:
    """p-values for free diffusion of each row, and for no mean velocity beside the flow.

    The innovations of the likelihood at the track's own D, one complex number y + ix per displacement, are independent
    and normal if the model holds: their squares are exponential, and so are the squares of their Fourier transform.
    Tests take shares in the sum of the squares, so that they do not depend on D:

    - the largest square (Fisher's g): one wrong link to a place far off;
    - squares summed along the track (Kolmogorov–Smirnov): at rest first and moving then, or two particles in one track;
    - the periodogram summed from low to high frequencies (Bartlett, Kolmogorov–Smirnov): oscillation, a velocity that
      changes, a wrong localization error;
    - the component along what a constant velocity would be (with no velocity of its own allowed).

    Parameters
    ----------
    d : Displacements
        Of one video.
    acquisition : Acquisition
        Frame interval.
    diffusion : float64 array, shape (n_rows,)
        D of the track that each row belongs to, µm²/s.
    backend : str
        "auto", "cpu" or "cuda".
    own_velocity : bool
        Whether a constant velocity of the track is part of the model; recursive residuals take the innovations' place.

    Returns
    -------
    misfit, moving : float64 array, shape (n_rows,)
        Smallest of the p-values times their number, at most 1; p-value of the velocity alone. 1 for rows of fewer than
        five displacements.

    Notes
    -----
    Power in per cent at p < 0.001, of 20, 60 and 200 displacements (σ²/(DΔt) = 0.3, R = 1/6), beside that of the three
    tests before (largest square, correlation of neighbours, sum of innovations)::

        a link to within 3 r.m.s. steps            5 / 6 / 5        5 / 6 / 6
        ... to a particle a quarter as fast        4 / 15 / 77      3 / 4 / 4
        at rest for the first half                 5 / 76 / 100     1 / 2 / 2
        a velocity of 0.5 step per axis            2 / 38 / 100     2 / 42 / 100
        one of 0.7 that turns round halfway        0 / 3 / 74       0 / 1 / 20
        oscillation of 1 step, 0.3 per frame       0 / 64 / 100     0 / 0 / 53
        localization variance assumed 1/4 of it    1 / 4 / 42       0 / 5 / 51
        ... 4 times of it                          3 / 44 / 100     1 / 56 / 100

    One wrong link among many steps of the same size cannot be told by any test.

    References
    ----------
    Fisher, Proc. R. Soc. A 125, 54 (1929), doi:10.1098/rspa.1929.0151.
    Brown, Durbin & Evans, J. R. Stat. Soc. B 37, 149 (1975), doi:10.1111/j.2517-6161.1975.tb01532.x (sums of squares).
    """
    engine, n = backends.load(backend), d.n_steps.astype(np.int64)
    scaled = diffusion / d.diffusion_scale
    interval = acquisition.frame_interval_s
    e_y, e_x = engine.innovations(*d.covariance_model, scaled, frame_interval_s=interval)
    unit = d.gap.astype(np.float64)
    g_y, g_x = engine.innovations(unit, unit, *d.covariance_model[2:], scaled, frame_interval_s=interval)
    moving = _velocity_p(e_y, e_x, g_y, g_x, n)
    if own_velocity:
        e_y, e_x = engine.innovations(*d.covariance_model, scaled, frame_interval_s=interval, own_velocity=True)
    first = np.cumsum(n) - n + own_velocity  # the first recursive residual is none
    misfit = 3.0 * _misfit_p(e_y + 1j * e_x, first, n - own_velocity)
    if not own_velocity:
        misfit = np.minimum(4.0 / 3.0 * misfit, 4.0 * moving)
    return np.minimum(misfit, 1.0), moving


def _velocity_p(e_y: F64, e_x: F64, g_y: F64, g_x: F64, n: I64) -> F64:
    """p-value of the share of the power that lies along the innovations of a constant velocity."""
    row = np.repeat(np.arange(len(n)), n)

    def total(value: F64) -> F64:
        return np.bincount(row, value, len(n)).astype(np.float64)

    along = sum(total(e * g) ** 2 / np.maximum(total(g * g), _POSITIVE) for e, g in ((e_y, g_y), (e_x, g_x)))
    share = along / np.maximum(total(e_y**2 + e_x**2), _POSITIVE)
    p: F64 = np.where(n < _FEWEST, 1.0, np.maximum(1.0 - share, 0.0) ** np.maximum(n - 1, 1))
    return p


def _misfit_p(innovation: Complex, first: I64, n: I64) -> F64:
    """Smallest of the three p-values that need no velocity, row by row."""
    p = np.ones(len(n))
    for length in np.unique(n[n >= _FEWEST]):
        rows = np.flatnonzero(n == length)
        z = innovation[first[rows, None] + np.arange(length)]
        by_frequency = np.argsort(np.abs(np.fft.fftfreq(length)), kind="stable")
        power = np.abs(np.fft.fft(z, axis=1)[:, by_frequency]) ** 2
        square = np.abs(z) ** 2
        uneven = _uneven_p(np.maximum(_distance(square), _distance(power)), int(length) - 1)
        p[rows] = np.minimum(_largest_p(square), uneven)
    return p


def _largest_p(square: F64) -> F64:
    """Upper bound, tight where small, of the p-value of the largest of n exponential shares, per row."""
    n = square.shape[1]
    share = square.max(axis=1) / np.maximum(square.sum(axis=1), _POSITIVE)
    bound: F64 = n * np.maximum(1.0 - share, 0.0) ** (n - 1)
    return np.minimum(bound, 1.0)


def _distance(square: F64) -> F64:
    """Kolmogorov–Smirnov distance of exponential shares, whose running sums are uniform numbers in order, per row."""
    n = square.shape[1] - 1
    reached = np.cumsum(square, axis=1)
    reached = reached[:, :-1] / np.maximum(reached[:, -1:], _POSITIVE)
    rank = np.arange(1, n + 1) / n
    distance: F64 = np.maximum((rank - reached).max(axis=1), (reached - rank).max(axis=1) + 1.0 / n)
    return np.clip(distance, 0.0, 1.0)


def _uneven_p(distance: F64, n: int) -> F64:
    """Upper bound, tight where small, of the p-value of that distance of n uniform numbers: twice the one-sided one."""
    bound: F64 = 2.0 * special.smirnov(n, distance)
    return np.minimum(bound, 1.0)
