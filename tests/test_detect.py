"""Background, noise and detection: each operation against its oracle."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from scipy import ndimage
from scipy.stats import norm

from exotrack import backends
from exotrack.localize.matched import MatchedFilter
from exotrack.localize.noise import Tiles, pixel_noise
from exotrack.localize.trouble import blockiness, unchanged_share

CPU = backends.load("cpu")
NOWHERE = (np.empty(0, np.int32), np.empty(0), np.empty(0))


def filtered(frames, matched, pedestal=0.0):
    return CPU.matched_filter(frames, matched.taps, box_half=matched.box_half, step=matched.step, pedestal=pedestal)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("n", [3, 10, 51])
def test_still_background_is_the_mean_of_the_central_third(dtype, n):
    frames = np.random.default_rng(n).integers(0, 200, (n + 5, 7, 600)).astype(dtype)
    picked = np.arange(n) + np.arange(n) // 12
    still = CPU.still_background(frames, picked, rows=(2, 6))
    np.testing.assert_allclose(still, oracles.still_background(frames[picked])[2:6], rtol=1e-6)


@pytest.mark.parametrize("sigma", [0.8, 1.3, 2.0, 3.0, 6.0])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_matched_filter_is_a_correlation_with_its_kernel(sigma, dtype):
    """The lattice has a step of 1, 2, 3, 4 and 9 pixels, and the frame is no multiple of any."""
    frames = np.random.default_rng(1).integers(0, 200, (2, 101, 131)).astype(dtype)
    matched = MatchedFilter.for_sigma(sigma)
    expected = oracles.matched_filter(frames, matched.kernel(), matched.step)
    np.testing.assert_allclose(filtered(frames, matched, pedestal=70.0), expected, atol=2e-4)


@pytest.mark.parametrize("sigma", [0.8, 1.3, 2.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_detect_finds_the_peaks_of_the_filtered_image(sigma, sign):
    frames = np.random.default_rng(3).normal(50, 5, (3, 61, 70)).astype(np.float32)
    matched = MatchedFilter.for_sigma(sigma)
    rng, shape = np.random.default_rng(4), matched.lattice(61, 70)
    level, inverse = (rng.uniform(a, b, shape).astype(np.float32) for a, b in ((-0.1, 0.1), (0.5, 1.0)))
    limit = (level + 0.8).astype(np.float32)
    frame, y, x, snr = CPU.detect(
        frames, level, inverse, limit, matched.taps,
        box_half=matched.box_half, step=matched.step, sign=sign, pedestal=50.0,
    )  # fmt: skip
    expected = [
        (t, *spot)
        for t in range(3)
        for spot in oracles.detect(frames[t], level, inverse, limit, matched.kernel(), matched.step, sign, 1.6)
    ]
    assert len(frame) == len(expected) > 20
    np.testing.assert_array_equal(frame, [e[0] for e in expected])
    assert np.abs(y - [e[1] for e in expected]).max() <= 0.6 * matched.step
    assert np.abs(x - [e[2] for e in expected]).max() <= 0.6 * matched.step
    np.testing.assert_allclose(snr, [e[3] for e in expected], rtol=1e-4)


def test_a_spot_is_found_wherever_it_lies_between_lattice_points():
    """At 1.15 times the threshold, 8 by 8 offsets over a lattice cell, without noise."""
    matched = MatchedFilter.for_sigma(1.3)
    shape = matched.lattice(64, 64)
    gain = matched.noise_gain(64, 64)
    top = float((matched.kernel() * oracles.pixel_gaussian(matched.kernel().shape, *[matched.box_half] * 2, 1.3)).sum())
    mass = 1.15 * 5.0 * float(gain[16, 16]) / top
    offsets = np.arange(8) / 4
    frames = np.stack([mass * oracles.pixel_gaussian((64, 64), 32 + a, 32 + b, 1.3) for a in offsets for b in offsets])
    frame, y, x, snr = CPU.detect(
        frames.astype(np.float32), np.zeros(shape, np.float32), 1.0 / gain, np.float32(5.0 * matched.seen) * gain,
        matched.taps, box_half=matched.box_half, step=matched.step, sign=1.0, pedestal=0.0,
    )  # fmt: skip
    np.testing.assert_array_equal(frame, np.arange(64))
    assert np.all(snr > 5.0)
    assert np.abs(y - 32 - np.repeat(offsets, 8)).max() < 0.3
    assert np.abs(x - 32 - np.tile(offsets, 8)).max() < 0.3


def test_threshold_is_the_quantile_of_skewed_noise():
    """30 million values of a filtered Poisson field: the share above the tabulated levels is that of a normal tail."""
    matched = MatchedFilter.for_sigma(1.0)
    frames = np.random.default_rng(8).poisson(4.0, (120, 512, 512)).astype(np.uint8)
    field = filtered(frames, matched)[:, 16:-16, 16:-16] / (2.0 * matched.noise_gain(512, 512)[16:-16, 16:-16])
    plain = matched.threshold(2000.0, 1_000_000)
    skewed = float(matched.threshold_at(2000.0, 1_000_000, np.array([0.5]))[0])
    share = np.mean(field > skewed) / norm.sf(plain)
    assert 0.9 < share < 1.1
    assert np.mean(field > plain) / norm.sf(plain) > 1.4


def test_noise_gain_of_the_filter_is_known_up_to_the_border():
    """4,000 frames: the s.d. of an s.d. is 1.1 %, and its largest deviation over 180 points about four of them."""
    frames = np.random.default_rng(11).normal(0, 1, (4000, 24, 30)).astype(np.float32)
    for sigma in (0.9, 1.3):
        matched = MatchedFilter.for_sigma(sigma)
        np.testing.assert_allclose(filtered(frames, matched).std(axis=0), matched.noise_gain(24, 30), rtol=0.05)


def test_tile_noise_is_the_median_of_what_is_quiet():
    rng = np.random.default_rng(9)
    values = rng.normal(0, 3, (4, 60, 70)).astype(np.float32)
    inverse = rng.uniform(0.9, 1.1, (60, 70)).astype(np.float32)
    quiet = rng.random(values.shape) < 0.7
    quiet[:, :20, :18] = False
    ys, xs = np.array([0, 20, 41, 60]), np.array([0, 18, 36, 70])
    noise = CPU.tile_noise(values, inverse, quiet, ys, xs)
    np.testing.assert_allclose(noise, oracles.tile_noise(values, inverse, quiet, ys, xs), rtol=0.01)


def test_quieten_takes_out_the_surroundings_of_what_is_loud():
    values = np.random.default_rng(10).normal(0, 1, (3, 40, 50)).astype(np.float32)
    limit = np.full((40, 50), 2.5, np.float32)
    quiet = np.ones(values.shape, bool)
    CPU.quieten(values, limit, 2, quiet)
    loud = ndimage.maximum_filter(values > limit, size=(1, 5, 5), mode="constant")
    np.testing.assert_array_equal(quiet, ~loud)
    assert 0.5 < quiet.mean() < 0.95


@pytest.mark.parametrize("slope", [0.0, 0.5])
def test_cumulants_of_photon_noise_are_equal(slope):
    """1.2 million triplets: standard errors of 0.2 % and about 1 %."""
    light = 20.0 + slope * np.arange(240)
    frames = np.random.default_rng(12).poisson(light, (80, 240, 240)).astype(np.uint8)
    second, third, n = CPU.noise_cumulants(frames, np.ones((80, 120, 120), bool), step=2, spacing=4)
    assert n > 200_000
    assert second == pytest.approx(light.mean(), rel=0.02)
    assert third / second == pytest.approx(1.0, abs=0.15)


def test_noise_map_follows_a_gradient_of_noise():
    level = np.linspace(2, 6, 320)
    frames = (np.random.default_rng(10).normal(0, 1, (12, 96, 320)) * level).astype(np.float32)
    matched = MatchedFilter.for_sigma(1.0)
    tiles = Tiles.of((96, 320), matched)
    noise, _ = pixel_noise(filtered(frames, matched), NOWHERE, matched, tiles, backend=CPU, floor=0.0)
    assert np.abs(tiles.on_pixels(noise)[:, 48:-48] / level[48:-48] - 1).max() < 0.12


def test_levels_of_frames():
    frames = np.random.default_rng(13).integers(0, 256, (5, 64, 80)).astype(np.uint8)
    frames[2] = 255
    mean, low, high, clipped = CPU.frame_levels(frames, 254.0).T
    np.testing.assert_allclose(mean, frames.mean(axis=(1, 2)), atol=6.0)
    assert (low[2], high[2], clipped[2]) == (255.0, 255.0, 1.0)
    np.testing.assert_allclose(clipped[[0, 1, 3, 4]], 2 / 256, atol=0.01)


def test_codecs_give_themselves_away():
    rng = np.random.default_rng(14)
    clean = rng.normal(60, 3, (20, 96, 96)).round().astype(np.uint8)
    assert unchanged_share(clean, 3.0) < 0.02
    assert blockiness(clean) == pytest.approx(1.0, abs=0.03)
    carried = clean.copy()
    for t in range(1, 20):
        same = rng.random((96, 96)) < 0.4
        carried[t][same] = carried[t - 1][same]
    assert unchanged_share(carried, 3.0) == pytest.approx(0.36, abs=0.06)
    means = clean.reshape(20, 12, 8, 12, 8).mean(axis=(2, 4)).repeat(8, axis=1).repeat(8, axis=2)
    assert blockiness(0.3 * clean + 0.7 * (means + rng.normal(0, 3, (20, 12, 12)).repeat(8, 1).repeat(8, 2))) > 1.3
