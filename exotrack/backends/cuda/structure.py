"""The image structure function on the device: Fourier transforms over space and over time."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from exotrack.backends.cpu.structure import Arrays, change_of_modes
from exotrack.backends.cuda import device
from exotrack.backends.cuda.device import Uploaded
from exotrack.tables import F64, I64, Array

_PIXELS_AT_ONCE: Final = 2**22
"""Pixels that are transformed together; with what becomes of them on the way they take 130 MB."""
_VALUES_AT_ONCE: Final = 2**21
"""Modes times frames that are correlated together; with zeros to twice the length they take 220 MB."""
_AS_THEY_ARE: Final = tuple(np.dtype(name) for name in ("uint8", "uint16", "float32", "float64"))


def structure_function(frames: Array | Uploaded, ring: I64, moved_px: F64, spans: I64, *, lags: int) -> F64:
    """As `exotrack.backends.cpu.structure_function`, to 10⁻⁶ of the largest value of a ring.

    SciPy's transforms in float32 lose 10⁻⁷ of the power, those of NumPy nothing: the difference of the two is 1.3·10⁻⁷.

    Frames pass the device twice, in parts, once for their mean; the modes stay there: 8 bytes for each mode and frame.
    Frames of other types than uint8, uint16, float32 and float64 are converted to the last on the host.
    """
    n, height, width = frames.shape
    with device.lane("structure_function") as lane:

        def part(first: int, last: int) -> Any:
            if isinstance(frames, Uploaded):
                return frames.on_device[first:last]
            images = frames[first:last]
            return lane.put(images if images.dtype in _AS_THEY_ARE else images.astype(np.float64))

        at_once = max(_PIXELS_AT_ONCE // (height * width), 1)
        total = lane.zeros((height, width), np.float64)
        for first in range(0, n, at_once):
            images = part(first, min(first + at_once, n))
            total += lane.arrays.sum(images, axis=0, dtype=np.float64)
        mean = total / n

        def without_mean(first: int, last: int) -> Any:
            images = part(first, last)
            return lane.arrays.subtract(images, mean)

        use = Arrays(lane.arrays, lane.arrays.fft, frames=at_once, modes=max(_VALUES_AT_ONCE // max(n, 1), 1))
        result: F64 = lane.get(change_of_modes(use, without_mean, frames.shape, ring, moved_px, spans, lags))
        return result
