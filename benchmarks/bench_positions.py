"""Positions of spots at rest: rms error over the Cramér–Rao bound, pixel locking, and whether the stated errors hold.

Two kinds of rows. "fit": single spots of σ = 1.2 px on a window of 9 × 9 pixels with the noise known, as in the
literature on single molecules. "video": the whole of `localize` on frames of about 140 spots, everything learned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from harness import main
from scipy.spatial import cKDTree
from scipy.special import erf

import exotrack
from exotrack import backends
from exotrack.physics import position_crlb_px


def pixel_gaussian(shape: tuple[int, int], y: float, x: float, sigma: float) -> np.ndarray:
    """Share of a Gaussian of unit integral that falls on every pixel."""
    across = [
        0.5 * np.diff(erf((np.arange(n + 1) - 0.5 - c) / (sigma * np.sqrt(2.0))))
        for n, c in zip(shape, (y, x), strict=True)
    ]
    return np.outer(*across)


def fit(photons: float, n: int) -> dict[str, Any]:
    """Spots of known noise, fitted from seeds that are off by 0.2 px."""
    rng = np.random.default_rng(int(photons))
    offset, background, sigma, side = rng.uniform(-0.5, 0.5, (n, 2)), 10.0, 1.2, 17
    light = [background + photons * pixel_gaussian((side, side), 8 + y, 8 + x, sigma) for y, x in offset]
    frames = rng.poisson(light).astype(np.uint16)
    seeds = (8 + offset + rng.normal(0, 0.2, (n, 2))).astype(np.float32)
    values, _ = backends.load("cpu").refine(
        frames, np.zeros((side, side), np.float32), np.full((side, side), background, np.float32),
        np.arange(n, dtype=np.int32), seeds[:, 0].copy(), seeds[:, 1].copy(),
        sign=1.0, sigma=sigma, gain=1.0, half=4, saturation=np.inf, free_width=True,
    )  # fmt: skip
    error = values[:2].T - 8 - offset
    bound = float(position_crlb_px(photons, background, sigma))
    return {
        "kind": "fit",
        "signal": f"{photons:.0f} photons",
        "spots": n,
        "found": 1.0,
        "rms/bound": float(np.sqrt(np.mean(error**2))) / bound,
        "locking, px": float(2 * np.mean(error * np.sin(2 * np.pi * offset))),
        "s.d. of error/stated": float(np.std(error / values[6:8].T)),
    }


def video(snr: float, bits: int, n: int) -> dict[str, Any]:
    """Frames of spots on a jittered grid, 19 px apart, through `localize` with nothing given."""
    rng = np.random.default_rng(int(snr) + bits)
    sigma, shape, grid = 1.3, (256, 256), np.arange(14, 242, 19)
    background, read, gain, pedestal = (80.0, 2.0, 0.25, 4.0) if bits == 8 else (100.0, 2.0, 1.0, 100.0)
    noise = np.sqrt(background + read**2 + 1.0 / 12.0 / gain**2)
    photons = snr * noise / pixel_gaussian((41, 41), 20, 20, sigma).max()
    frames, truth = [], []
    for _ in range(n):
        at = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2) + rng.uniform(
            -3, 3, (len(grid) ** 2, 2)
        )
        light = np.full(shape, background)
        for y, x in at:
            top, left = round(y) - 9, round(x) - 9
            light[top : top + 19, left : left + 19] += photons * pixel_gaussian((19, 19), y - top, x - left, sigma)
        electrons = rng.poisson(light) + rng.normal(0, read, shape)
        frames.append(np.clip(np.rint(pedestal + gain * electrons), 0, 2**bits - 1))
        truth.append(at)
    spots = exotrack.localize(
        np.array(frames).astype(np.uint8 if bits == 8 else np.uint16),
        acquisition=exotrack.Acquisition(pixel_size_um=0.2, frame_interval_s=0.03),
    )
    error, ratio, offset = [], [], []
    for t, at in enumerate(truth):
        here = spots.frame == t
        found = np.stack([spots.y[here], spots.x[here]], 1)
        distance, nearest = cKDTree(found).query(at)
        hit = distance < 1.5
        error.append(found[nearest[hit]] - at[hit])
        ratio.append(error[-1] / np.stack([spots.y_err[here], spots.x_err[here]], 1)[nearest[hit]])
        offset.append(at[hit])
    errors, bound = np.concatenate(error), float(position_crlb_px(photons, noise**2, sigma))
    return {
        "kind": f"video, {bits} bits",
        "signal": f"SNR {snr:.0f}",
        "spots": len(errors),
        "found": len(errors) / sum(map(len, truth)),
        "rms/bound": float(np.sqrt(np.mean(errors**2))) / bound,
        "locking, px": float(2 * np.mean(errors * np.sin(2 * np.pi * np.concatenate(offset)))),
        "s.d. of error/stated": float(np.std(np.concatenate(ratio))),
    }


def measure(quick: bool) -> list[dict[str, Any]]:
    """Rows of both kinds."""
    rows = [
        fit(photons, 200 if quick else 20000) for photons in ((1000.0,) if quick else (200.0, 500.0, 1000.0, 5000.0))
    ]
    for bits in (8, 16):
        rows += [video(snr, bits, 2 if quick else 40) for snr in ((10.0,) if quick else (5.0, 10.0, 20.0, 50.0))]
    return rows


if __name__ == "__main__":
    main("positions", measure)
