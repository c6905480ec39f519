"""Particles per ml of a sample: mean of its videos, net of the blanks, with a check that needs no depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from exotrack.sizing.count import Count
from exotrack.sizing.counting import poisson_factors
from exotrack.sizing.rows import TrackRows
from exotrack.tables import F64, Estimate

FLUX_MODEL = 0.07
"""Relative standard uncertainty of the flux estimate from its model: faces of the volume that are not sharp."""

_NONE_UPPER = 3.6889  # of the mean of a Poisson count of none, 97.5 %
_Z95 = 1.959964
_NAN = float("nan")
_UNKNOWN = Estimate(_NAN, _NAN, _NAN)


@dataclass(frozen=True)
class Concentration:
    """What the videos of one sample or batch say about its concentration, in particles per ml before dilution."""

    net: Estimate
    """Without what the blanks hold; equal to `gross` where there are none."""
    gross: Estimate
    blank: Estimate
    """What the blanks hold, times the dilution of the sample; NaN without blanks."""
    lod_per_ml: float
    """Limit of detection: mean of the blanks and 3.3 s.d. of a blank, times the dilution, no less than the upper end of
    `blank`; NaN without blanks."""
    n_unsubtracted: int
    """Blanks that were not subtracted, because the depth of one of them is not known."""
    flux: Estimate
    """From arrivals, without depth: a check of the calibration."""
    fields: int
    """Places of the sample that were recorded."""
    independent: float
    """Independent particles that were seen."""


def concentration(rows: Sequence[TrackRows], blanks: Sequence[TrackRows] = ()) -> Concentration:
    """Concentration over the videos of one sample or batch, with 95 % intervals.

    Parameters
    ----------
    rows : sequence of TrackRows
        One per video of the sample.
    blanks : sequence of TrackRows
        One per video of the diluent alone.

    Returns
    -------
    Concentration
        NaN where not every video has a known depth; the flux needs none. Blanks of unknown depth are not subtracted.

    Notes
    -----
    The mean over videos. Its interval comes from counting (Garwood's, of the independent particles) or from the spread
    of the videos (Student's, on the logarithm), whichever is wider, and in either case from the uncertainties of pixel
    size and depth that all videos share. The interval of the difference from the blanks joins the ends of the two
    intervals (the method of variance estimates recovery), before those uncertainties, which multiply both.

    References
    ----------
    Zou & Donner, Stat. Med. 27, 1693 (2008), doi:10.1002/sim.3095.
    """
    counts = [r.count for r in rows]
    gross = _mean(counts, [c.concentration_per_ml for c in counts])
    shared = float(np.sqrt(np.mean([c.systematic**2 for c in counts]))) if counts else 0.0
    blank, lod = _UNKNOWN, _NAN
    net = gross
    of_blanks = [r.count for r in blanks]
    subtracted = all(np.isfinite(c.concentration_per_ml) for c in of_blanks)
    if of_blanks and subtracted and np.isfinite(gross.value):
        dilution = float(np.mean([c.dilution for c in counts]))
        values = [c.concentration_per_ml / c.dilution * dilution for c in of_blanks]
        blank = _mean(of_blanks, values, scale=[dilution / c.dilution for c in of_blanks])
        # A blank in which nothing was seen might have shown a particle.
        counting = [c.unit_per_ml / c.dilution * dilution * np.sqrt(max(c.independent, 1.0)) for c in of_blanks]
        scatter = float(np.std(values, ddof=1)) if len(values) > 2 else 0.0
        spread = max(scatter, float(np.sqrt(np.mean(np.square(counting)))))
        lod = max(float(np.mean(values)) + 3.3 * spread, blank.hi)
        net = _difference(gross, blank)
    return Concentration(
        net=_widened(net, shared),
        gross=_widened(gross, shared),
        blank=_widened(blank, shared),
        lod_per_ml=lod,
        n_unsubtracted=0 if subtracted else len(of_blanks),
        flux=_flux_mean(counts),
        fields=sum(c.fields for c in counts),
        independent=float(sum(c.independent for c in counts)),
    )


def _mean(counts: Sequence[Count], values: Sequence[float], scale: Sequence[float] | None = None) -> Estimate:
    """Mean of the videos with its interval from counting or from their spread."""
    if not counts or not np.all(np.isfinite(values)):
        return _UNKNOWN
    units = np.array([c.unit_per_ml for c in counts]) * (1.0 if scale is None else np.array(scale))
    n, mean = len(values), float(np.mean(values))
    independent = float(sum(c.independent for c in counts))
    if independent < 1.0 or mean <= 0:  # as good as nothing: the exact upper limit of none
        upper = _NONE_UPPER + 2.0 * independent
        return Estimate(mean, 0.0, upper * float(np.mean(units)) / n)
    return _interval(mean, values, independent)


def _flux_mean(counts: Sequence[Count]) -> Estimate:
    """Mean flux estimate of the videos in which arrivals could be seen; they are independent of each other."""
    used = [c for c in counts if np.isfinite(c.flux_per_ml)]
    if not used:
        return _UNKNOWN
    flux = np.array([c.flux_per_ml for c in used])
    arrived = float(sum(c.starts for c in used))
    if arrived < 1.0:
        unit = float(np.mean([c.arrival_per_ml for c in used])) / len(used)
        return Estimate(float(flux.mean()), 0.0, (_NONE_UPPER + 2.0 * arrived) * unit)
    return _widened(_interval(float(flux.mean()), flux, arrived), float(np.hypot(FLUX_MODEL, used[0].pixel_error)))


def _interval(mean: float, values: Sequence[float] | F64, independent: float) -> Estimate:
    """Interval of the mean of the videos: from counting, or from their spread where that is wider.

    Three videos or more give Student's interval. Of two, whose spread says little, counting errors are scaled by the
    Birge ratio where it is above one.
    """
    n = len(values)
    low, high = poisson_factors(independent)
    if n > 1:
        relative = float(np.std(values, ddof=1) / np.sqrt(n)) / mean
        spread = relative * (float(stats.t.ppf(0.975, n - 1)) if n > 2 else _Z95)
        low, high = min(low, 1.0 / (1.0 + spread)), max(high, 1.0 + spread)
    return Estimate(mean, mean * low, mean * high)


def _difference(a: Estimate, b: Estimate) -> Estimate:
    """a − b; the ends join the distances of both to theirs in quadrature."""
    value = a.value - b.value
    down = float(np.hypot(a.value - a.lo, b.hi - b.value))
    up = float(np.hypot(a.hi - a.value, b.value - b.lo))
    return Estimate(value, value - down, value + up)


def _widened(estimate: Estimate, relative: float) -> Estimate:
    """With a relative standard uncertainty that multiplies the whole."""
    value, lo, hi = estimate
    if not np.isfinite(value) or value <= 0:
        return estimate
    down = np.hypot(np.log(value / lo), _Z95 * relative) if lo > 0 else None
    low = float(value * np.exp(-down)) if down is not None else lo
    return Estimate(value, low, float(value * np.exp(np.hypot(np.log(hi / value), _Z95 * relative))))
