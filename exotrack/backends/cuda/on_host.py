"""Operations of the CUDA backend that run on the host, since there is no work for a device in them.

They are those on the table of localizations (a thousandth of the pixels) that follow chains or fill small histograms,
and those that look at a few spots of a few frames once per video. Each is the CPU backend's own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from exotrack.backends import cpu
from exotrack.backends.cuda.device import Uploaded
from exotrack.tables import F32, F64, I32, Array

continuations = cpu.continuations
crowded = cpu.crowded
densest_box = cpu.densest_box
displacement_histogram = cpu.displacement_histogram
distance_histogram = cpu.distance_histogram
found_twice = cpu.found_twice
histories = cpu.histories
innovations = cpu.innovations
link_moments = cpu.link_moments
noise_cumulants = cpu.noise_cumulants
number_tracks = cpu.number_tracks
recurrences = cpu.recurrences
rematch = cpu.rematch
residuals = cpu.residuals
unmix = cpu.unmix
without_spots = cpu.without_spots


def radial_symmetry(
    frames: Array | Uploaded, background: F32 | Uploaded, frame: I32, y: F64, x: F64, *, sign: float, half: int
) -> tuple[F64, npt.NDArray[np.bool_]]:
    """As `exotrack.backends.cpu.radial_symmetry`."""
    frames, background = (a.host if isinstance(a, Uploaded) else a for a in (frames, background))
    values: F64
    values, ring = cpu.radial_symmetry(frames, background, frame, y, x, sign=sign, half=half)
    return values, ring
