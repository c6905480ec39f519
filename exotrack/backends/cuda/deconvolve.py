"""Nonparametric maximum likelihood on the device: products of matrices."""

from __future__ import annotations

from exotrack.backends.cpu.deconvolve import iterate, normalized
from exotrack.backends.cuda import device
from exotrack.tables import F32, F64


def deconvolve(rows: F32, weights: F64, start: F64, *, iterations: int) -> F64:
    """As `exotrack.backends.cpu.deconvolve`, in float32 that is added up in another order.

    Another order of 500 or 5000 tracks changes shares by less than 4·10⁻⁷ in 50 iterations, and by 6·10⁻⁶ in 1000. The
    device is waited for in every tenth iteration, to see which classes can be dropped.
    """
    weight = normalized(rows, weights, start)
    with device.lane("deconvolve") as lane:
        given = lane.put(rows), lane.put(weight), lane.put(start)
        shares: F64 = lane.get(iterate(lane.arrays, *given, iterations))
        return shares
