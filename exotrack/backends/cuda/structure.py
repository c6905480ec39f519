"""The image structure function on the device: Fourier transforms over space and over time."""

from __future__ import annotations

from exotrack.backends.cpu.structure import change_of_modes
from exotrack.backends.cuda import device
from exotrack.backends.cuda.device import Uploaded
from exotrack.tables import F64, I64, Array


def structure_function(frames: Array | Uploaded, ring: I64, moved_px: F64, spans: I64, *, lags: int) -> F64:
    """As `exotrack.backends.cpu.structure_function`; frames and modes have to fit into the device's memory."""
    with device.lane("structure_function") as lane:
        images = lane.put(frames)
        return change_of_modes(lane.arrays, lane.arrays.fft, images, ring, moved_px, spans, lags)
