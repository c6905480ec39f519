"""Nonparametric maximum likelihood on the device: products of matrices."""

from __future__ import annotations

from exotrack.backends.cpu.deconvolve import iterate, normalized
from exotrack.backends.cuda import device
from exotrack.tables import F32, F64


def deconvolve(rows: F32, weights: F64, start: F64, *, iterations: int) -> F64:
    """As `exotrack.backends.cpu.deconvolve`; the products are added up in another order than on the CPU."""
    weight = normalized(rows, weights, start)
    with device.lane("deconvolve") as lane:
        given = lane.put(rows), lane.put(weight), lane.put(start)
        shares: F64 = lane.get(iterate(lane.arrays, *given, iterations))
        return shares
