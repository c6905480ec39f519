"""Refinement: against a general optimizer, the Cramér–Rao bound, crowded spots, and rings."""

from __future__ import annotations

import numpy as np
import oracles
import pytest

from exotrack import backends
from exotrack.acquisition import Acquisition
from exotrack.localize import localize
from exotrack.localize.calibrate import growth_of_noise
from exotrack.physics import position_crlb_px
from exotrack.tables import SpotFlag

CPU = backends.load("cpu")


def refined(frames, variance, seeds, sigma=1.2, half=4, gain=1.0, free_width=True, saturation=np.inf):
    """One seed per frame."""
    shape = frames.shape[1:]
    return CPU.refine(
        frames, np.zeros(shape, np.float32), np.broadcast_to(np.float32(variance), shape).copy(),
        np.arange(len(frames), dtype=np.int32), *np.ascontiguousarray(seeds.T, np.float32),
        sign=1.0, sigma=sigma, gain=gain, half=half, saturation=saturation, free_width=free_width,
    )  # fmt: skip


def spots(rng, n, photons, background=10.0, sigma=1.2, side=21):
    """Frames of one spot each, and its centres."""
    centre = side // 2 + rng.uniform(-0.5, 0.5, (n, 2))
    light = np.stack([photons * oracles.pixel_gaussian((side, side), *c, sigma) + background for c in centre])
    return light, centre


@pytest.mark.parametrize("free_width", [True, False])
def test_refine_reaches_the_poisson_maximum_likelihood(free_width):
    rng = np.random.default_rng(1)
    light, centre = spots(rng, 20, 1000.0, 20.0, 1.3)
    frames = rng.poisson(light).astype(np.uint8)
    # Variance = background and gain 1: with the true background in the variance the estimates agree.
    values, flag = refined(frames, 20.0, np.rint(centre), sigma=1.3, free_width=free_width)
    assert not flag.any()
    for k, (y, x) in enumerate(np.rint(centre).astype(int)):
        data = frames[k, y - 4 : y + 5, x - 4 : x + 5].astype(float)
        fit = oracles.poisson_fit(data, 4, 4, 1.3)
        # The window's own background is estimated, not known, so that the weights differ by a few per cent.
        assert abs(values[0, k] - y + 4 - fit[0]) < 0.2 * values[6, k]
        assert abs(values[1, k] - x + 4 - fit[1]) < 0.2 * values[7, k]
        assert abs(values[2, k] / fit[2] - 1) < (0.03 if free_width else 0.2)
    assert np.all(values[5] == pytest.approx(1.3, abs=0.2 if free_width else 1e-6))


@pytest.mark.parametrize("photons", [200, 500, 1000, 5000])
@pytest.mark.parametrize("free_width", [True, False])
def test_positions_reach_the_cramer_rao_bound(photons, free_width):
    """2,500 spots of σ = 1.2 px on 10 photons per pixel; the s.d. of a ratio of rms is then 1.4 % per axis."""
    rng = np.random.default_rng(photons)
    light, centre = spots(rng, 2500, photons)
    values, _ = refined(rng.poisson(light).astype(np.uint16), 10.0, np.rint(centre), free_width=free_width)
    errors = values[:2].T - centre
    bound = np.mean([oracles.position_bound((9, 9), *(4 + c - np.rint(c)), 1.2, photons, 10.0) for c in centre[:200]])
    assert 0.95 < np.sqrt((errors**2).mean()) / bound < 1.06
    assert abs(bound / position_crlb_px(photons, 10.0, 1.2) - 1) < 0.04
    assert 0.95 < (errors / values[6:8].T).std() < 1.05  # the claimed errors are the real ones
    phase = centre - np.rint(centre)
    locking = 2 * np.mean(errors * np.sin(2 * np.pi * phase))
    assert abs(locking) < max(0.003, 4 * bound / np.sqrt(2500))


def test_the_read_noise_of_each_pixel_is_weighed():
    """One camera, 2,500 spots: rms error over the bound that knows each pixel; ignoring them costs a third more."""
    rng = np.random.default_rng(3)
    light, centre = spots(rng, 2500, 600.0)
    read = np.where(rng.random((21, 21)) < 0.15, 400.0, 2.0)
    frames = (rng.poisson(light) + rng.normal(0, np.sqrt(read), light.shape)).astype(np.float32)
    values, _ = refined(frames, 10.0 + read, np.rint(centre))
    rough, _ = refined(frames, 10.0 + np.full_like(read, read.mean()), np.rint(centre))
    bounds = np.array([oracles.position_bound((21, 21), *c, 1.2, 600.0, 10.0, read) for c in centre[:400]])
    errors = values[:2].T - centre
    ratio = np.sqrt((errors**2).mean()) / np.sqrt((bounds**2).mean())
    assert 0.95 < ratio < 1.08
    assert 0.95 < (errors / values[6:8].T).std() < 1.05
    assert np.sqrt(((rough[:2].T - centre) ** 2).mean()) > 1.3 * np.sqrt((errors**2).mean())


@pytest.mark.parametrize("apart", [3.0, 4.0, 5.0])
def test_neighbours_do_not_pull_each_other(apart):
    """1,000 pairs of σ = 1.3 px, `apart` widths from each other: mean error 0.03 of its s.d., standard error 3 %."""
    rng = np.random.default_rng(int(10 * apart))
    n, shape = 1000, (31, 41)
    left = np.stack([15 + rng.uniform(-0.5, 0.5, n), 15 + rng.uniform(-0.5, 0.5, n)], 1)
    right = left + np.array([0.0, apart * 1.3])
    light = 20.0 + sum(
        1500.0 * np.stack([oracles.pixel_gaussian(shape, *c, 1.3) for c in side]) for side in (left, right)
    )
    frames = rng.poisson(light).astype(np.uint16)
    frame = np.repeat(np.arange(n), 2).astype(np.int32)
    truth = np.stack([left, right], 1).reshape(-1, 2)
    seeds = np.rint(truth).astype(np.float32)
    values, flag = CPU.refine(
        frames, np.zeros(shape, np.float32), np.full(shape, 20.0, np.float32), frame, seeds[:, 0].copy(),
        seeds[:, 1].copy(), sign=1.0, sigma=1.3, gain=1.0, half=4, saturation=np.inf, free_width=True,
    )  # fmt: skip
    z = (values[:2].T - truth) / values[6:8].T
    z = z[np.abs(z).max(axis=1) < 6]
    assert len(z) > 0.99 * 2 * n
    inwards = z[::2, 1].mean() - z[1::2, 1].mean()
    assert abs(inwards) < 0.3
    assert 0.75 < z.std() < 1.2
    assert np.mean((flag & SpotFlag.CROWDED) > 0) == (1.0 if apart < 4 else pytest.approx(0.5, abs=0.51))


def test_growth_of_the_noise_is_the_gain_and_twice_the_gain_for_an_emccd():
    """The excess noise of a multiplication register doubles the variance of the photons."""
    rng = np.random.default_rng(5)
    light, centre = spots(rng, 2500, 1500.0, 30.0)
    electrons = rng.poisson(light)
    for frames, expected in (
        (2.0 * electrons, 2.0),
        (rng.gamma(np.maximum(electrons, 1e-9), 2.0), 4.0),
    ):
        frames = frames.astype(np.float32)
        gain = 0.0
        for _ in range(2):
            values, _ = refined(frames, 30.0 * 2.0 * expected, np.rint(centre), gain=gain)
            squares, signal = CPU.residuals(
                frames, np.zeros((21, 21), np.float32), np.arange(2500, dtype=np.int32), values,
                sign=1.0, gain=gain, half=4, most=2500,
            )  # fmt: skip
            gain = growth_of_noise(squares, signal)
        assert gain == pytest.approx(expected, rel=0.15)


def test_rings_are_centred_by_radial_symmetry_and_found_once():
    """Three videos of 24 spots in focus and 12 rings: nine rings of ten give one spot, flagged, its error as stated.

    The share of single spots varies from video to video, 0.88 to 0.97, with the gain that is learned from each.
    """
    defocused, grid = oracles.Defocused(7.5), np.arange(28, 235, 40)
    errors, z, rings, alone = [], [], [], []
    for seed in (7, 8, 9):
        rng = np.random.default_rng(seed)
        frames, truth = [], []
        for _ in range(40):
            light = np.full((256, 256), 40.0)
            for i, gy in enumerate(grid):
                for j, gx in enumerate(grid):
                    y, x = rng.uniform(-0.5, 0.5, 2) + np.array([gy, gx])
                    if (i + j) % 3 == 0:
                        light[gy - 20 : gy + 21, gx - 20 : gx + 21] += 7000.0 * defocused.at(y - gy, x - gx)
                        truth.append((len(frames), y, x))
                    else:
                        own = np.s_[gy - 20 : gy + 21, gx - 20 : gx + 21]
                        light[own] += 1500.0 * oracles.pixel_gaussian((41, 41), y - gy + 20, x - gx + 20, 1.3)
            frames.append(rng.poisson(light))
        found = localize(
            np.array(frames).astype(np.uint16), acquisition=Acquisition(pixel_size_um=0.2, frame_interval_s=0.03)
        )
        assert found.model.further_sigmas_px
        for t, y, x in truth:
            near = np.flatnonzero((found.frame == t) & (np.hypot(found.y - y, found.x - x) < 10))
            assert len(near) >= 1
            alone.append(len(near) == 1)
            k = near[np.argmin(np.hypot(found.y[near] - y, found.x[near] - x))]
            errors.append([found.y[k] - y, found.x[k] - x])
            z.append(errors[-1] / np.array([found.y_err[k], found.x_err[k]]))
            rings.append(bool(found.flag[k] & SpotFlag.RING))
    assert np.mean(alone) > 0.9
    assert np.mean(rings) > 0.9
    assert np.median(np.abs(errors)) < 0.2
    assert 0.7 < 1.4826 * np.median(np.abs(z)) < 1.4
