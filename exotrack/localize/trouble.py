"""Faults of a video that bear on localization, each in words and with its figure."""

from __future__ import annotations

import math

import numpy as np

from exotrack.localize.noise import ROUNDING_NOISE
from exotrack.tables import Array, SpotModel

STAGE_DRIFT = 0.5
"""Distance over half a window beyond which the stage is said to drift, px."""
UNDITHERED = 0.5
"""Noise below which whole grey levels no longer average out, DN."""
CLIPPED_BLACK = 0.05
"""Share of black pixels from which the noise counts as cut off."""
CLIPPED_WHITE = 1e-3
"""Share of clipped pixels that is worth a word."""
BLOCK = 8
"""Side of the blocks of lossy codecs (JPEG, MPEG), px."""
BLOCKINESS = 1.15
"""Ratio of the grey-level steps across block borders to those within blocks that tells a codec."""
UNCHANGED = 0.15
"""Share of pixels equal to those of the frame before, beyond what the noise explains, that tells a codec."""


def warnings(
    frames: Array, samples: Array, model: SpotModel, noise: float, drift_px: float, objects_px: list[float]
) -> tuple[str, ...]:
    """What is wrong with the first window of a video.

    Parameters
    ----------
    frames : array, shape (n, height, width)
        The window.
    samples : array, shape (m, height, width)
        Frames spread over it.
    model : SpotModel
    noise : float
        Median s.d. of the noise per pixel, DN.
    drift_px : float
        Distance that still structure moves within half of the window, px; NaN where there is none.
    objects_px : list of float
        Diameters of still objects that are no particles, largest first, px.
    """
    found: list[str] = []
    whole_levels = np.issubdtype(frames.dtype, np.integer)
    if float(samples.max()) == float(samples.min()):
        return (*found, "the first seconds are uniform: every pixel has the same value")
    if whole_levels and noise <= 1.01 * ROUNDING_NOISE:
        found.append("the noise is below one grey level: the camera's gain is too low to see it, faint spots are lost")
    elif whole_levels and noise < UNDITHERED:
        found.append(
            f"the noise of {noise:.2f} grey levels is too small to average out the rounding: raise the camera's gain"
        )
    if model.saturated_share > CLIPPED_WHITE:
        found.append(
            f"{model.saturated_share:.1%} of the pixels are saturated: masses are too small, shorten the exposure or "
            "lower the gain"
        )
    if drift_px > STAGE_DRIFT:
        found.append(f"what is still moves by {drift_px:.1f} px within the first seconds: the stage drifts")
    if objects_px:
        found.append(
            f"{len(objects_px)} still object(s) of up to {objects_px[0]:.0f} px are no particles: "
            "look for bubbles, fibres and glare"
        )
    dark = float(np.mean(samples == 0)) if whole_levels else 0.0
    if dark > CLIPPED_BLACK:
        found.append(
            f"{dark:.0%} of the pixels are clipped at black: noise is cut off there, and the number of false spots is "
            "no longer known; raise the camera's offset"
        )
    unchanged = unchanged_share(frames, noise) if whole_levels else 0.0
    if unchanged > UNCHANGED:
        found.append(
            f"{unchanged:.0%} of the pixels are carried over from the frame before, more than their noise explains: a "
            "lossy codec or noise reduction; record uncompressed video"
        )
    blocks = blockiness(samples)
    if blocks > BLOCKINESS:
        found.append(
            f"grey levels jump {blocks:.2f} times as much at the borders of 8 × 8 px blocks as within them: a lossy "
            "codec; record uncompressed video"
        )
    return tuple(found)


def unchanged_share(frames: Array, noise: float) -> float:
    """Share of pixels equal to those of the frame before, beyond what noise of an s.d. in DN makes equal by chance."""
    if len(frames) < 2:
        return 0.0
    pairs = np.unique(np.linspace(0, len(frames) - 2, 6).astype(np.int64))
    equal = float(np.mean([np.mean(frames[t, ::2, ::2] == frames[t + 1, ::2, ::2]) for t in pairs]))
    # Two rounded normal numbers are equal with the probability that their difference is below half a level.
    by_chance = math.erf(0.5 / (2.0 * max(noise, ROUNDING_NOISE)))
    return max(equal - by_chance, 0.0)


def blockiness(samples: Array) -> float:
    """Mean grey-level step across the borders of 8 × 8 px blocks over that two pixels from them, averaged over y, x."""
    ratios = []
    for axis in (1, 2):
        if samples.shape[axis] < 4 * BLOCK:
            continue
        values = np.moveaxis(samples[:6], axis, -1)[:, ::2].astype(np.float32)
        steps = np.abs(np.diff(values, axis=-1)).mean(axis=(0, 1))
        border = steps[BLOCK - 1 :: BLOCK].mean()
        within = np.concatenate([steps[BLOCK - 3 :: BLOCK], steps[BLOCK + 1 :: BLOCK]]).mean()
        ratios.append(float(border / within) if within > 0.0 else 1.0)
    return float(np.mean(ratios)) if ratios else 1.0
