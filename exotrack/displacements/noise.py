"""What besides diffusion shapes the covariance of displacements: localization error, shutter, carried-over images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exotrack.displacements.flow import Flow
from exotrack.tables import F64, I64

MEMORY_LAGS = 12
"""Frames over which an image may be carried over: the usual distance between key frames of a video codec."""
STRIDES = (2, 3, 4, 6, 8, 12)
"""Frames to step over that compete where images are carried over."""

_STEPS_PER_CLASS = 2000  # so that the pooled localization variance has a standard error below 0.025 DΔt
_MOST_CLASSES = 10
_MEMORY_SIGNIFICANT = 4.0  # standard errors: short of this every frame is used
_MEMORY_GONE = 2.0
_LEVEL_SIGNIFICANT = 3.0
_MAX_BLUR = 1.0 / 6.0  # an open shutter
_BLUR_UNSURE = 0.05  # of the blur's part of a covariance, by how positions of smeared images differ from means


@dataclass(frozen=True)
class Steps:
    """Flow-corrected displacements over one frame (over one stride of a thinned video), ordered by track, then time."""

    y: F64
    x: F64
    frame: I64
    track: I64
    n_tracks: int

    def products(self, lag: int) -> tuple[F64, F64]:
        """Per track: sum over both axes of products of displacements `lag` frames apart, and their number."""
        if lag == 0:
            track, product = self.track, self.y**2 + self.x**2
        else:
            # A step `lag` frames later is at most `lag` rows further on.
            key = self.track * (int(self.frame.max(initial=0)) + lag + 1) + self.frame
            later = np.searchsorted(key, key + lag)
            found = np.flatnonzero(later < len(key))
            found = found[key[later[found]] == key[found] + lag]
            found = found[self.track[later[found]] == self.track[found]]
            track = self.track[found]
            product = self.y[found] * self.y[later[found]] + self.x[found] * self.x[later[found]]
        total = np.bincount(track, product, self.n_tracks).astype(np.float64)
        return total, 2.0 * np.bincount(track, minlength=self.n_tracks).astype(np.float64)


@dataclass(frozen=True)
class Noise:
    """Localization variance and blur, as the covariance model of the likelihood takes them."""

    variance_y: F64
    """Per localization, µm²."""
    variance_x: F64
    blur: F64
    """Motion-blur coefficient R per track."""
    error_scale: F64
    """Localization variance found over that of the Fisher matrix, per class of brightness; NaN without the latter."""
    relative_error: float
    """Relative standard error of the localization variance of the video; 0 where there is none."""


def uncorrelated_stride(steps: Steps, weight: F64, flow: Flow) -> int:
    """Number of frames after which displacements are correlated with no more than the next one.

    Displacements of free particles two or more frames apart are independent, whatever the shutter and the white
    localization error. Temporal noise reduction and predictive video codecs carry part of an image over into the
    next ones: positions then trail behind, short-lag estimates of D are too small, and the covariances at lags from 2
    on are positive. Displacements over k frames are then used, so that what is carried over reaches no further than the
    next displacement, where the covariance model has a place for it; the response of the camera need not be known.

    Parameters
    ----------
    steps : Steps
        Displacements over one frame.
    weight : float64 array, shape (n_tracks,)
        Weight of a track, the inverse of its mean squared displacement.
    flow : Flow
        What was subtracted.

    Returns
    -------
    int
        1 unless the covariances at lags 2 … `MEMORY_LAGS` sum to four standard errors above zero; then the smallest k
        of `STRIDES` at whose next lag, k + 1, the covariance is within two of zero. Covariances at lags beyond, up to
        twice as long, are residual flow; where they are significant their mean is taken off first.

    Notes
    -----
    On a video of 1 µm latex spheres with inter-frame compression, strides from 3 to 12 gave the same diameter within
    its interval, and the share of tracks that do not fit free diffusion fell from 13 % to 1 % and less.
    """
    sums = [steps.products(lag) for lag in range(2 * MEMORY_LAGS + 1)]
    counts = np.array([weight @ n for _, n in sums])
    if np.any(counts[: MEMORY_LAGS + 1] == 0):
        return 1
    c = np.array([weight @ s for s, _ in sums]) / np.maximum(counts, np.finfo(float).tiny)
    c += np.array([flow.lost_covariance(lag, c[0], c[1]) for lag in range(len(c))])

    def with_error(use: F64) -> tuple[float, float]:
        """Sum of covariances and its standard error from the influence of each track."""
        influence = np.zeros(steps.n_tracks)
        for (s, n), value, total, share in zip(sums, c, counts, use, strict=True):
            if total > 0:
                influence += share * weight * (s - value * n) / total
        return float(use @ c), float(np.sqrt(np.sum(influence**2)))

    lag = np.arange(len(c))
    beyond = np.where(lag > MEMORY_LAGS, counts, 0.0)
    beyond /= max(beyond.sum(), np.finfo(float).tiny)
    level, level_error = with_error(beyond)
    flat = float(level > _LEVEL_SIGNIFICANT * level_error)

    def correlated(first: int, last: int, significance: float) -> bool:
        """Whether the covariances at these lags stand out from zero."""
        total, error = with_error(((lag >= first) & (lag <= last)) - flat * (last - first + 1) * beyond)
        return total > significance * error

    if not correlated(2, MEMORY_LAGS, _MEMORY_SIGNIFICANT):
        return 1
    return next((k for k in STRIDES if not correlated(k + 1, k + 1, _MEMORY_GONE)), STRIDES[-1])


def measure_noise(
    steps: Steps,
    crlb_y: F64,
    crlb_x: F64,
    mass: F64,
    offsets: I64,
    flow: Flow,
    *,
    blur: float | None,
    stride: int = 1,
) -> Noise:
    """Localization variance per brightness class from the pooled covariances of displacements.

    With a known shutter the variance of a class is R⟨Δ²⟩ + (2R − 1)⟨ΔΔ₊⟩; it is averaged by precision with that of
    the Fisher matrix, which is trusted to its own size and a twentieth of the blur, and handed out to the
    localizations in the proportions of the Fisher matrix. The fit of a smeared image follows where the particle
    dwelled rather than its mean place, so that R is a little smaller than the shutter's; unless the variance may
    take that up, D was found 1 to 3 % too large for 50 and 100 nm particles, with an exposure of 0.6 and 1 of the
    frame interval. With an unknown shutter only −⟨ΔΔ₊⟩ = σ² − 2RDΔt is known: a positive value is taken as
    localization error without blur, a negative one as blur without localization error. Both have the covariance
    that was seen, and both leave it positive definite at every D.

    Parameters
    ----------
    steps : Steps
        Displacements over one frame.
    crlb_y, crlb_x : float64 array, shape (n_localizations,)
        Localization variance of the Fisher matrix, µm²; NaN where there is none.
    mass : float64 array, shape (n_tracks,)
        Mean integrated signal of each track; NaN where unknown.
    offsets : int64 array, shape (n_tracks + 1,)
        First localization of each track.
    flow : Flow
        What was subtracted.
    blur : float or None
        Motion-blur coefficient R, None if unknown.
    stride : int
        Frames that a displacement spans. What trails behind by up to that many frames counts as blur.

    References
    ----------
    Vestergaard, Blainey & Flyvbjerg, Phys. Rev. E 89, 022726 (2014), doi:10.1103/PhysRevE.89.022726.
    """
    square, n_square = steps.products(0)
    product, n_product = steps.products(1)
    variance_y, variance_x = np.empty(offsets[-1]), np.empty(offsets[-1])
    blurs = np.full(len(mass), blur or 0.0)
    classes = _brightness_classes(mass, n_product / 2)
    scales = np.full(classes.max(initial=0) + 1, np.nan)
    found, errors = np.zeros(len(scales)), np.zeros(len(scales))
    of_spot = np.repeat(classes, np.diff(offsets))
    for i in range(len(scales)):
        tracks, spots = classes == i, of_spot == i
        n0, n1 = float(n_square[tracks].sum()), float(n_product[tracks].sum())
        c0 = float(square[tracks].sum()) / max(n0, 1.0)
        c1 = float(product[tracks].sum()) / max(n1, 1.0)
        c0, c1 = c0 + flow.lost_covariance(0, c0, c1), c1 + flow.lost_covariance(1, c0, c1)
        both = np.concatenate([crlb_y[spots], crlb_x[spots]])
        fisher = float(np.mean(both[np.isfinite(both)])) if np.any(np.isfinite(both)) else float("nan")
        if blur is None:
            variance, errors[i] = max(-c1, 0.0), c0 / np.sqrt(max(n1, 1.0))
            short = (0.5 * c0 + c1) / stride  # DΔt
            blurs[tracks] = min(max(c1, 0.0) / (2.0 * short), stride * _MAX_BLUR) if short > 0 else 0.0
        else:
            variance, errors[i] = _combined(c0, c1, n1, blur, fisher)
        found[i] = variance
        if np.isfinite(fisher) and fisher > 0:
            scales[i] = variance / fisher
            variance_y[spots] = np.where(np.isfinite(crlb_y[spots]), crlb_y[spots] * scales[i], variance)
            variance_x[spots] = np.where(np.isfinite(crlb_x[spots]), crlb_x[spots] * scales[i], variance)
        else:
            variance_y[spots] = variance_x[spots] = variance
    # Classes hold about as many displacements each.
    relative = float(np.sqrt(np.sum(errors**2)) / found.sum()) if found.sum() > 0 else 0.0
    return Noise(variance_y, variance_x, blurs, scales, relative)


def _combined(c0: float, c1: float, n1: float, blur: float, fisher: float) -> tuple[float, float]:
    """Precision-weighted mean of the covariance-based localization variance and that of the Fisher matrix, µm².

    And its standard error.
    """
    seen = blur * c0 + (2.0 * blur - 1.0) * c1
    error2 = c0**2 * (2.0 * blur**2 + (1.0 - 2.0 * blur) ** 2) / max(n1, 1.0)
    if not (np.isfinite(fisher) and fisher > 0):
        return max(seen, 0.0), float(np.sqrt(error2))
    prior2 = fisher**2 + (_BLUR_UNSURE * 2.0 * blur * max(0.5 * c0 + c1, 0.0)) ** 2
    if n1 == 0:
        return fisher, float(np.sqrt(prior2))
    precision = 1.0 / max(error2, 1e-300) + 1.0 / prior2
    combined = (seen / max(error2, 1e-300) + fisher / prior2) / precision
    # The Fisher matrix is a lower bound, up to the error of its inputs.
    return max(combined, 0.25 * fisher), float(precision**-0.5)


def _brightness_classes(mass: F64, n_pairs: F64) -> I64:
    """Class of each track: quantiles of brightness that hold about the same number of displacements."""
    n_classes = int(np.clip(n_pairs.sum() // _STEPS_PER_CLASS, 1, _MOST_CLASSES))
    if n_classes <= 1 or not np.all(np.isfinite(mass)):
        return np.zeros(len(mass), np.int64)
    order = np.argsort(mass, kind="stable")
    reached = np.cumsum(n_pairs[order]) / n_pairs.sum()
    classes = np.empty(len(mass), np.int64)
    classes[order] = np.minimum((reached * n_classes).astype(np.int64), n_classes - 1)
    return classes
