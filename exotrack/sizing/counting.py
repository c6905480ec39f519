"""How far counts scatter: frames show the same particles again and again, so that they are not independent."""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from exotrack.tables import F64

_TAUS = 2000
_NEVER = 1e-9  # s.d. of a displacement below which nothing has moved, µm


def counting_fano(
    diffusion_um2_s: float,
    depth_um: float,
    duration_s: float,
    *,
    frame_um: tuple[float, float] = (np.inf, np.inf),
    flow_um_s: tuple[float, float] = (0.0, 0.0),
) -> float:
    """Variance of the mean number in view over that number, for a box watched for some time.

    Particles stay for many frames, so the count of a still slab improves only with the fourth root of the duration. The
    autocorrelation of the number is the overlap of the box with itself after the displacement of a particle; it is
    averaged over all pairs of frames.

    Parameters
    ----------
    diffusion_um2_s : float
        Diffusion coefficient.
    depth_um : float
        Depth of the box.
    duration_s : float
        Time without a change of place.
    frame_um : tuple of float
        Height and width of the frame; infinite where exchange over its border is left out.
    flow_um_s : tuple of float
        Mean velocity along y and x.

    Returns
    -------
    float
        Between 0 and 1; 1 where nothing moves.

    Examples
    --------
    >>> round(counting_fano(4.9, 10.0, 60.0), 2)
    0.34
    """
    # Small times matter, where nothing has left yet: the mean is over midpoints in the square root of τ.
    root = (np.arange(_TAUS) + 0.5) / _TAUS
    tau = root**2 * duration_s
    spread = np.sqrt(2.0 * diffusion_um2_s * tau)
    correlation = overlap(depth_um, 0.0 * tau, spread)
    for side, velocity in zip(frame_um, flow_um_s, strict=True):
        if np.isfinite(side):
            correlation = correlation * overlap(side, velocity * tau, spread)
    return float(2.0 * np.mean((1.0 - root**2) * correlation * 2.0 * root))


def overlap(side_um: float, shift_um: F64, spread_um: F64) -> F64:
    """Mean share of an interval that stays in it after a normal displacement of given mean and s.d.

    E[(w − |u|)₊]/w. Without shift it is erf(α) − (1 − exp(−α²))/(α√π) with α = w/(√2·s.d.).
    """
    s = np.maximum(spread_um, _NEVER)

    def ramp(a: float) -> F64:
        z = (shift_um - a) / s
        result: F64 = s * np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi) + (shift_um - a) * special.ndtr(z)
        return result

    share: F64 = (ramp(-side_um) - 2.0 * ramp(0.0) + ramp(side_um)) / side_um
    return np.clip(share, 0.0, 1.0)


def poisson_factors(n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Ends of the exact interval of a Poisson mean over the count n > 0, which need not be whole.

    Garwood's interval, ½χ²(2n) and ½χ²(2n + 2).

    References
    ----------
    Garwood, Biometrika 28, 437 (1936), doi:10.1093/biomet/28.3-4.437.

    Examples
    --------
    >>> [round(10 * f, 2) for f in poisson_factors(10.0)]
    [4.8, 18.39]
    """
    tail = (1.0 - confidence) / 2.0
    return float(stats.gamma.ppf(tail, n)) / n, float(stats.gamma.isf(tail, n + 1.0)) / n
