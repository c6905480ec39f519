"""The part of the flow that changes over the field, as linking found it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exotrack.tables import F64, I64, LinkSummary


@dataclass(frozen=True)
class Shear:
    """Displacement relative to that at the centre of the field, linear in the position."""

    path: F64
    """Gradient of the displacement summed over the steps before each frame, shape (n_frames, 2, 2)."""
    centre_um: tuple[float, float]

    def taken_off(self, step_y: F64, step_x: F64, y: F64, x: F64, at: I64, gap: I64) -> tuple[F64, F64]:
        """Displacements from places y, x in frame `at` over `gap` frames, all in µm, without what the shear moved."""
        gradient = self.path[at + gap] - self.path[at]
        place = np.stack([y - self.centre_um[0], x - self.centre_um[1]], axis=1)
        moved = np.einsum("nij,nj->ni", gradient, place)
        return step_y - moved[:, 0], step_x - moved[:, 1]


def shear_of(linking: LinkSummary | None, pixel_size_um: float, n_frames: int) -> Shear | None:
    """The shear of a video, or None where linking took the flow as uniform, or is not known."""
    if linking is None or linking.flow_gradient is None:
        return None
    path = np.zeros((max(n_frames, 1), 2, 2))
    steps = min(len(linking.flow_gradient), len(path) - 1)
    path[1 : steps + 1] = np.cumsum(linking.flow_gradient[:steps], axis=0)
    path[steps + 1 :] = path[steps]
    y, x = linking.flow_centre_px
    return Shear(path, (y * pixel_size_um, x * pixel_size_um))
