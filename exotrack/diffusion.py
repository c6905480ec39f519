"""Tracks → Particles: diffusion coefficient and hydrodynamic diameter of each track, with their errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from exotrack import backends
from exotrack.acquisition import Acquisition
from exotrack.displacements import Displacements, displacements, likelihood_rows, size_grid_nm
from exotrack.protocol import Protocol
from exotrack.tables import F32, F64, I64, ParticleFlag, Particles, Tracks

_MIN_STEPS = 2
_SHORT_STEPS = 10
_NOT_BROWNIAN_P = 1e-3
_HALF_CHI2_95 = 1.920729  # ln L falls by this at the ends of a 95 % likelihood interval (χ²₁/2)
_POSITIVE = 1e-12


def measure(
    tracks: Tracks, acquisition: Acquisition, protocol: Protocol | None = None, *, backend: str = "auto"
) -> Particles:
    """Diffusion coefficient and hydrodynamic diameter of every track with at least two displacements.

    The likelihood of a track (see `exotrack.backends.cpu.likelihood`) is evaluated on the size grid of the protocol;
    its maximum is refined by a parabola in ln d, and the interval is where ln L has fallen by 1.92.

    Parameters
    ----------
    tracks : Tracks
        Ordered by particle, then frame; from `exotrack.link` or from trackpy.
    acquisition : Acquisition
        Pixel size, frame interval, exposure, temperature, viscosity.
    protocol : Protocol, optional
        Defaults to all defaults.
    backend : str
        "auto", "cpu" or "cuda".

    Returns
    -------
    Particles
        One row per track with two displacements or more, in order. Pieces of one identity are rows of their own. Where
        camera or codec carry images over into the next frames, the displacements span several frames, and n_steps
        counts those that do not overlap.

    Raises
    ------
    InputError
        Tracks out of order, or with two localizations in one frame.
    BackendError
        The backend cannot run here.

    Notes
    -----
    The diameter of a short track is wide and skewed: its mean over tracks is larger than that of the particles, so
    that a histogram of these diameters is not a size distribution; use `exotrack.sizing` for that. Tracks below ten
    displacements are flagged SHORT.

    NOT_BROWNIAN is the smallest of three p-values, times three, below 0.001; they see a displacement too large for
    the others (Fisher's g on the squared innovations), correlated innovations, and a mean velocity.

    D is restricted to the size grid; at its border the row is flagged OUTSIDE_GRID.

    References
    ----------
    Berglund, Phys. Rev. E 82, 011917 (2010), doi:10.1103/PhysRevE.82.011917.
    Fisher, Proc. R. Soc. A 125, 54 (1929), doi:10.1098/rspa.1929.0151.
    """
    settings = protocol or Protocol()
    d = displacements(tracks, acquisition, settings)
    parts = _Parts(d)
    rows = parts.mean_rows(likelihood_rows(d, acquisition, settings, backend=backend))
    log_d = np.log(size_grid_nm(settings))
    peak, curvature = _refined_maximum(rows, log_d)
    lo, hi = _likelihood_interval(rows, log_d, peak)
    diameter = np.exp(peak)
    diffusion = acquisition.stokes_einstein_um2_s_nm / diameter
    best = rows.argmax(axis=1) if len(rows) else np.empty(0, np.int64)
    misfit = _goodness_p(d, acquisition, diffusion[parts.of_row], backend)
    n_steps = parts.largest(d.n_steps)

    flag = np.zeros(len(rows), np.uint16)
    for bit, raised in (
        (ParticleFlag.SHORT, n_steps < _SHORT_STEPS),
        (ParticleFlag.STUCK, d.stuck[parts.first]),
        (ParticleFlag.NOT_BROWNIAN, -parts.largest(-misfit) * parts.count < _NOT_BROWNIAN_P),
        (ParticleFlag.OUTSIDE_GRID, (best == 0) | (best == len(log_d) - 1)),
    ):
        flag[raised] |= np.uint16(bit)

    track = np.searchsorted(d.particle[parts.first], tracks.particle)
    known = np.isin(tracks.particle, d.particle)

    def mean(column: npt.NDArray[np.floating]) -> F32:
        total = np.bincount(track[known], column[known].astype(np.float64), len(rows))
        return np.asarray(total / parts.total(d.n_frames), np.float32)

    return Particles(
        particle=d.particle[parts.first],
        first_frame=-parts.largest(-d.first_frame),
        n_frames=parts.total(d.n_frames),
        n_steps=n_steps,
        D_um2_s=diffusion,
        D_err_um2_s=diffusion / np.sqrt(np.maximum(curvature, _POSITIVE)),
        D_cve_um2_s=_covariance_based(d, parts, acquisition),
        diameter_nm=diameter,
        diameter_lo_nm=np.exp(lo),
        diameter_hi_nm=np.exp(hi),
        mass=d.mass[parts.first].astype(np.float32),
        snr=mean(tracks.snr),
        y=mean(tracks.y),
        x=mean(tracks.x),
        flag=flag,
    ).take(n_steps >= _MIN_STEPS)


class _Parts:
    """The rows of `Displacements` that are parts of one track: one, or as many as the stride where it is larger."""

    def __init__(self, d: Displacements) -> None:
        self.first: I64 = np.flatnonzero(np.diff(d.particle, prepend=d.particle[:1] - 1))
        self.count: I64 = np.diff(self.first, append=len(d))
        self.of_row: I64 = np.repeat(np.arange(len(self.first)), self.count)

    def total(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Sum over the parts of each track."""
        return np.add.reduceat(value, self.first) if len(self.first) else value

    def largest(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Largest over the parts of each track."""
        return np.maximum.reduceat(value, self.first) if len(self.first) else value

    def mean_rows(self, rows: F32) -> F32:
        """Mean log-likelihood over the parts, which overlap in time: no more certain than one of them."""
        if len(self.first) == len(rows):
            return rows
        mean = np.add.reduceat(rows, self.first, axis=0) / self.count[:, None].astype(np.float32)
        return np.asarray(mean - mean.max(axis=1, keepdims=True), np.float32)


def _refined_maximum(rows: F32, log_d: F64) -> tuple[F64, F64]:
    """ln d of the maximum of each row by a parabola through the grid maximum, and −∂²lnL/∂(ln d)² there."""
    if len(rows) == 0:
        return np.empty(0), np.empty(0)
    step = log_d[1] - log_d[0]
    best = np.clip(rows.argmax(axis=1), 1, len(log_d) - 2)
    i = np.arange(len(rows))
    left, middle, right = (rows[i, best + k].astype(np.float64) for k in (-1, 0, 1))
    second = np.minimum(left + right - 2.0 * middle, -_POSITIVE)
    shift = np.clip(0.5 * (left - right) / second, -1.0, 1.0)
    return log_d[best] + shift * step, -second / step**2


def _likelihood_interval(rows: F32, log_d: F64, peak: F64) -> tuple[F64, F64]:
    """Where each row falls 1.92 below its maximum; the end of the grid where it does not."""
    lo, hi = np.full(len(rows), log_d[0]), np.full(len(rows), log_d[-1])
    # √(−ln L) is linear for a parabola, which makes linear interpolation exact for long tracks.
    depth = np.sqrt(np.maximum(-rows, 0.0)) - np.sqrt(_HALF_CHI2_95)
    outside = depth > 0
    column = np.arange(len(log_d))
    for i in range(len(rows)):
        below = np.flatnonzero(outside[i] & (log_d < peak[i]))
        above = np.flatnonzero(outside[i] & (log_d > peak[i]))
        for edge, inner, end in ((below[-1:], 1, lo), (above[:1], -1, hi)):
            if len(edge):
                k = int(edge[0])
                inside = int(np.clip(k + inner, 0, column[-1]))
                fraction = depth[i, k] / max(depth[i, k] - depth[i, inside], _POSITIVE)
                end[i] = log_d[k] + min(fraction, 1.0) * (log_d[inside] - log_d[k])
    return np.minimum(lo, peak), np.maximum(hi, peak)


def _covariance_based(d: Displacements, parts: _Parts, acquisition: Acquisition) -> F64:
    """Covariance-based D of each track; gaps enter through the mean interval. Corrected as the likelihood is.

    Vestergaard, Blainey & Flyvbjerg, Phys. Rev. E 89, 022726 (2014), doi:10.1103/PhysRevE.89.022726.
    """
    n_tracks = len(d)
    track = np.repeat(np.arange(n_tracks), d.n_steps)
    square = np.bincount(track, d.step_y_um**2 + d.step_x_um**2, n_tracks)
    product = d.step_y_um[1:] * d.step_y_um[:-1] + d.step_x_um[1:] * d.step_x_um[:-1]
    same = track[1:] == track[:-1]
    covariance = np.bincount(track[1:][same], product[same], n_tracks)
    n, pairs = parts.total(d.n_steps), parts.total(np.maximum(d.n_steps - 1, 0))
    interval = parts.total(np.bincount(track, d.gap, n_tracks)) / np.maximum(n, 1) * acquisition.frame_interval_s
    mean_square = parts.total(square) / np.maximum(2.0 * n, 1.0)
    mean_product = parts.total(covariance) / np.maximum(2.0 * pairs, 1.0)
    result: F64 = (0.5 * mean_square + mean_product) / np.maximum(interval, _POSITIVE) * d.diffusion_scale
    return result


def _goodness_p(d: Displacements, acquisition: Acquisition, diffusion: F64, backend: str) -> F64:
    """Smallest of three p-values for free diffusion, times three: largest step, correlation, mean velocity."""
    e_y, e_x = backends.load(backend).innovations(
        *d.covariance_model,
        diffusion / d.diffusion_scale,
        frame_interval_s=acquisition.frame_interval_s,
    )
    n_tracks, n = len(d), np.maximum(d.n_steps, 1).astype(np.int64)
    track = np.repeat(np.arange(n_tracks), d.n_steps)
    square = e_y**2 + e_x**2
    total = np.maximum(np.bincount(track, square, n_tracks), _POSITIVE)
    largest = np.zeros(n_tracks)
    np.maximum.at(largest, track, square)
    same = track[1:] == track[:-1]
    product = (e_y[1:] * e_y[:-1] + e_x[1:] * e_x[:-1])[same]
    correlation = np.bincount(track[1:][same], product, n_tracks) / total
    sum_y, sum_x = np.bincount(track, e_y, n_tracks), np.bincount(track, e_x, n_tracks)
    share = (sum_y**2 + sum_x**2) / (n * total)  # of the power at frequency zero: 1 − (1 − share)^(n − 1) is exact
    p = np.minimum(
        _largest_share_p(largest / total, n),
        special.erfc(np.abs(correlation) * np.sqrt(n)),  # variance 1/(2n) with two axes
    )
    p = np.minimum(p, np.maximum(1.0 - share, 0.0) ** np.maximum(n - 1, 1))
    p[n < _SHORT_STEPS // 2] = 1.0  # too few displacements to tell
    result: F64 = np.minimum(3.0 * p, 1.0)
    return result


def _largest_share_p(share: F64, n: I64) -> F64:
    """Upper bound, tight for small p, of the probability that the largest of n exponential shares exceeds `share`."""
    bound: F64 = n * np.maximum(1.0 - share, 0.0) ** np.maximum(n - 1, 1)
    return np.minimum(bound, 1.0)
