"""The matched filter of one width at work: it filters frames and finds peaks, for bright and for dark spots alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exotrack.backends.contract import Backend
from exotrack.localize.matched import MatchedFilter
from exotrack.tables import F32, I32, Array, SpotModel

SURE = 6.0
"""Signal-to-noise ratio above which a maximum is a spot beyond doubt, at any scale."""

Found = tuple[I32, F32, F32, F32]
"""Frame, y, x [px] and signal-to-noise ratio of peaks."""


@dataclass(frozen=True)
class Detector:
    """A matched filter with what it needs to run."""

    matched: MatchedFilter
    sign: float
    """1 for bright spots, −1 for dark ones."""
    pedestal: float
    """Grey level that is taken off first, DN."""
    backend: Backend
    """A loaded backend."""

    @classmethod
    def of(cls, model: SpotModel, sigma: float, backend: Backend) -> Detector:
        """The detector of a video's spots at a width, px."""
        return cls(MatchedFilter.for_sigma(sigma), model.sign, model.pedestal_dn, backend)

    def filtered(self, frames: Array) -> F32:
        """Filtered frames on the lattice, positive for spots, DN."""
        m = self.matched
        signal: F32 = self.backend.matched_filter(
            frames, m.taps, box_half=m.box_half, step=m.step, pedestal=self.pedestal
        )
        if self.sign < 0:
            np.negative(signal, out=signal)
        return signal

    def peaks(self, frames: Array, level: F32, inverse_noise: F32, limit: F32) -> Found:
        """Peaks of which a lattice point exceeds a limit; see `detect` of the backends."""
        m = self.matched
        found: Found = self.backend.detect(
            frames, level, inverse_noise, limit, m.taps,
            box_half=m.box_half, step=m.step, sign=self.sign, pedestal=self.pedestal,
        )  # fmt: skip
        return found

    def sure(self, frames: Array, level: F32, filtered_noise: F32) -> Found:
        """Peaks that are spots beyond doubt: filtered noise as on the lattice, DN."""
        limit = level + np.float32(SURE * self.matched.seen) * filtered_noise
        frame, y, x, snr = self.peaks(frames, level, (1.0 / filtered_noise).astype(np.float32), limit)
        rows = snr > SURE
        return frame[rows], y[rows], x[rows], snr[rows]
