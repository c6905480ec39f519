"""Single-molecule frames with known truth: 16 bits, sCMOS noise, what `picasso` is made for.

Gaussian spots of one width, integrated over the pixels, at new random positions in every frame. No two are nearer than
`SEPARATION`, and none is nearer to a border: neither overlap nor borders are what is measured.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from scipy.special import ndtr

from exotrack.physics import position_crlb_px
from exotrack.simulate.truth import TruePositions

SIGMA = 1.2
"""s.d. of a spot, px."""
PHOTONS = (500.0, 1000.0)
"""Least and most photoelectrons of a spot; uniform between them."""
BACKGROUND = 15.0
"""Photoelectrons of the background per pixel."""
OFFSET, GAIN, READ_NOISE = 100.0, 0.5, 1.5
"""Camera: grey level without light, DN; grey levels per photoelectron; s.d. of the read noise, photoelectrons."""
SEPARATION = 8.0
"""Least distance between two spots, and between a spot and a border, px."""
REACH = 8
"""Half the side of the square in which a spot is drawn, px."""


def simulate(n_frames: int, side: int, spots: int, seed: int) -> tuple[np.ndarray, SimpleNamespace]:
    """Frames as uint16 and their truth, with the same `positions` as that of `exotrack.simulate`."""
    rng = np.random.default_rng(seed)
    places = np.concatenate([scatter(rng, side, spots) for _ in range(n_frames)])
    photons = rng.uniform(*PHOTONS, len(places))
    frame = np.repeat(np.arange(n_frames), spots)
    frames = np.empty((n_frames, side, side), np.uint16)
    for t in range(n_frames):
        expected = draw(places[frame == t], photons[frame == t], side)
        electrons = rng.poisson(expected) + rng.normal(0.0, READ_NOISE, expected.shape)
        frames[t] = np.rint(OFFSET + GAIN * electrons)
    # Read noise and rounding count as background: the Gaussian and the Poisson variance add up.
    bound = position_crlb_px(photons, BACKGROUND + READ_NOISE**2 + 1.0 / (12.0 * GAIN**2), SIGMA)
    positions = TruePositions(
        frame=frame, particle=np.arange(len(frame)), y=places[:, 0], x=places[:, 1], z_um=np.zeros(len(frame)),
        mass=GAIN * photons, snr=np.full(len(frame), np.nan), y_crlb_px=bound, x_crlb_px=bound,
        in_focus=np.ones(len(frame), bool),
    )  # fmt: skip
    return frames, SimpleNamespace(positions=positions)


def scatter(rng: np.random.Generator, side: int, spots: int) -> np.ndarray:
    """Random positions in a square frame, shape (spots, 2), that keep their distance."""
    places = np.empty((0, 2))
    while len(places) < spots:
        place = rng.uniform(SEPARATION, side - 1 - SEPARATION, 2)
        if not (((places - place) ** 2).sum(axis=1) < SEPARATION**2).any():
            places = np.vstack([places, place])
    return places


def draw(places: np.ndarray, photons: np.ndarray, side: int) -> np.ndarray:
    """Expected photoelectrons per pixel."""
    expected = np.full((side, side), BACKGROUND)
    for place, light in zip(places, photons, strict=True):
        first = np.rint(place).astype(int) - REACH
        first, last = np.maximum(first, 0), np.minimum(first + 2 * REACH + 1, side)
        y, x = (
            np.diff(ndtr((np.arange(a, b + 1) - 0.5 - c) / SIGMA)) for a, b, c in zip(first, last, place, strict=True)
        )
        expected[first[0] : last[0], first[1] : last[1]] += light * np.outer(y, x)
    return expected
