"""The displacement that all particles of a frame share: drift of the stage, flow of the liquid, vibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exotrack.tables import F64, I64

WINDOWS = (65, 33, 17, 9, 5, 3, 1)
"""Smoothing windows in frames that compete with the mean over the whole video; odd, so that they are centred."""

_SIGNIFICANT = 3.0  # standard errors by which a shorter window must predict better than the whole video
_MOST_LAGS = 257  # beyond this window the loss to the flow estimate is below 1e-3 for any density


@dataclass(frozen=True)
class Flow:
    """Collective displacement per frame and what its subtraction costs.

    The flow of a frame is the weighted mean over tracks, averaged over `window` frames. A track takes part in the
    estimate that is subtracted from it; `own_share` says how much, and the two methods what that removes.
    """

    y_um: F64
    """Displacement along y from frame t to t + 1, µm, shape (n_frames − 1,)."""
    x_um: F64
    """The same along x."""
    window: int
    """Frames averaged; n_frames − 1 is the mean over the whole video."""
    own_share: float
    """Mean share of a displacement in the flow that is subtracted from it, 1/(tracks × window) for equal tracks."""

    @property
    def mean_um(self) -> tuple[float, float]:
        """Mean displacement per frame along y and x, µm; 0 without frames."""
        if not len(self.y_um):
            return 0.0, 0.0
        return float(np.mean(self.y_um)), float(np.mean(self.x_um))

    def lost_covariance(self, lag: int, variance: float, following: float) -> float:
        """What subtraction takes from the displacements' covariance at a lag, from the covariances of the residuals.

        Parameters
        ----------
        lag : int
            In frames.
        variance, following : float
            Variance of the residuals and their covariance with the following one.
        """
        if self.own_share >= 1.0:
            return 0.0  # a displacement alone is all flow: nothing is left to tell from
        shared = self._response(lag) * variance + (self._response(lag - 1) + self._response(lag + 1)) * following
        return self.own_share / (1.0 - self.own_share) * shared

    def lost_diffusion(self, noise_ratio: float, blur: float) -> float:
        """Relative loss of the likelihood's diffusion coefficient by the subtraction.

        Subtraction takes the share own·K(ω) of the spectrum λ at each frequency, of the noise as of the motion, and the
        likelihood with known noise blames all of it on D: δD/D = Σ (b/λ)·own·K / Σ (b/λ)², with b = D ∂λ/∂D.

        Parameters
        ----------
        noise_ratio : float
            σ²/(D·Δt) of a typical localization.
        blur : float
            Motion-blur coefficient R.
        """
        lags = min(self.window, _MOST_LAGS)
        angle = np.pi * (np.arange(4 * lags) + 0.5) / (4 * lags)
        by_diffusion = 2.0 * (1.0 - 2.0 * blur) + 4.0 * blur * np.cos(angle)
        spectrum = by_diffusion + noise_ratio * 2.0 * (1.0 - np.cos(angle))
        lost = np.full(len(angle), self._response(0))
        for lag in range(1, lags):
            taper = 1.0 - lag / lags if self._whole else 1.0  # a mean is lost once per video
            lost += 2.0 * taper * self._response(lag) * np.cos(lag * angle)
        relative = by_diffusion / spectrum
        return self.own_share * float(np.sum(relative * lost) / np.sum(relative**2))

    @property
    def _whole(self) -> bool:
        return self.window >= len(self.y_um)

    def _response(self, lag: int) -> float:
        """Covariance of residuals that is lost at a lag, for independent displacements of unit variance and share."""
        if self._whole:
            return 1.0
        return 2.0 * (abs(lag) <= self.window // 2) - max(0.0, 1.0 - abs(lag) / self.window)


def no_flow(n_frames: int) -> Flow:
    """A flow of zero that costs nothing."""
    still = np.zeros(max(n_frames - 1, 0))
    return Flow(y_um=still, x_um=still, window=max(n_frames - 1, 1), own_share=0.0)


def estimate_flow(y: F64, x: F64, frame: I64, track: I64, weight: F64, n_frames: int) -> Flow:
    """Flow from displacements between consecutive frames, with the smoothing window that predicts best.

    Each candidate window predicts every displacement from the other tracks alone. A window shorter than the video
    is taken only if its squared errors are smaller by three standard errors, so that a video without changing flow
    keeps the mean over all its frames, which costs practically nothing.

    Parameters
    ----------
    y, x : float64 array
        Displacements over one frame in µm, ordered by track, then frame.
    frame, track : int64 array
        First frame and track of each.
    weight : float64 array
        Weight of each, the same for all displacements of a track: the inverse of its variance.
    n_frames : int
        Frames in the video.

    Returns
    -------
    Flow
        Zero where there are no displacements.
    """
    if len(y) == 0 or n_frames < 2:
        return no_flow(n_frames)
    whole = n_frames - 1
    reference = _prediction_error(y, x, frame, track, weight, n_frames, whole)
    best, best_gain = whole, 0.0
    for window in WINDOWS:
        if 2 * window > whole:
            continue
        gain = reference - _prediction_error(y, x, frame, track, weight, n_frames, window)
        total, error = float(gain.sum()), float(np.sqrt(np.sum((gain - gain.mean()) ** 2)))
        if total > max(_SIGNIFICANT * error, best_gain):
            best, best_gain = window, total
    mass = _smoothed(_per_frame(frame, weight, whole), best)
    flow_y = _smoothed(_per_frame(frame, weight * y, whole), best) / np.maximum(mass, 1e-300)
    flow_x = _smoothed(_per_frame(frame, weight * x, whole), best) / np.maximum(mass, 1e-300)
    own = float(np.mean(weight / mass[frame]))
    return Flow(y_um=flow_y, x_um=flow_x, window=best, own_share=own)


def _per_frame(frame: I64, value: F64, n: int) -> F64:
    """Sum of the values of each frame."""
    return np.bincount(frame, value, n).astype(np.float64)


def _smoothed(per_frame: F64, window: int) -> F64:
    """Sum over a centred window, cut at the ends; a window as long as the video is the sum over all of it."""
    n = len(per_frame)
    if window >= n:
        return np.full(n, per_frame.sum())
    before = np.concatenate([[0.0], np.cumsum(per_frame)])
    t = np.arange(n)
    total: F64 = before[np.minimum(t + window // 2 + 1, n)] - before[np.maximum(t - window // 2, 0)]
    return total


def _prediction_error(y: F64, x: F64, frame: I64, track: I64, weight: F64, n_frames: int, window: int) -> F64:
    """Weighted squared error per frame of each displacement predicted by the other tracks in the window."""
    n = n_frames - 1
    half = n - 1 if window >= n else window // 2
    key = track * (4 * n) + frame + n  # increasing, with room for half a window on either side of each track
    first = np.searchsorted(key, key - half, "left")
    last = np.searchsorted(key, key + half, "right")

    def others(value: F64) -> F64:
        total = _smoothed(_per_frame(frame, value, n), window)[frame]
        running = np.concatenate([[0.0], np.cumsum(value)])
        result: F64 = total - (running[last] - running[first])
        return result

    mass = others(weight)
    alone = mass < 1e-9 * weight.max()
    mass[alone] = 1.0
    error = (y - others(weight * y) / mass) ** 2 + (x - others(weight * x) / mass) ** 2
    error[alone] = y[alone] ** 2 + x[alone] ** 2  # nothing to predict from: the prediction is rest
    return _per_frame(frame, weight * error, n)
