"""Localization as a whole: what is found, how precisely, how many false alarms, and that blocks change nothing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from exotrack.acquisition import Acquisition
from exotrack.camera import Camera
from exotrack.errors import InputError
from exotrack.localize import calibrate, localize, plan_windows
from exotrack.localize.matched import MatchedFilter
from exotrack.protocol import Protocol
from exotrack.tables import SpotFlag

ACQUISITION = Acquisition(pixel_size_um=0.3, frame_interval_s=1 / 30)


def movie(seed=0, n=6, shape=(96, 128), spots=12, sigma=1.3, peak=40.0, background=20.0, noise=2.0, margin=9):
    """8-bit frames of spots at least 12 px apart, and their true positions: one (spots, 2) array per frame."""
    rng = np.random.default_rng(seed)
    frames, truth = np.empty((n, *shape)), []
    for t in range(n):
        places: list[np.ndarray] = []
        while len(places) < spots:
            p = rng.uniform(margin, np.array(shape) - margin - 1)
            if all(np.hypot(*(p - q)) > 12 for q in places):
                places.append(p)
        light = sum(peak * 2 * np.pi * sigma**2 * oracles.pixel_gaussian(shape, *p, sigma) for p in places)
        frames[t] = rng.poisson(light + background) + rng.normal(0, noise, shape)
        truth.append(np.array(places))
    return np.clip(frames.round(), 0, 255).astype(np.uint8), truth


def matches(spots, truth, reach=1.5):
    """Errors, errors over claimed errors, share of true positions found and share of spots that are true."""
    errors, z, found, right = [], [], 0, 0
    for t, places in enumerate(truth):
        at = np.flatnonzero(spots.frame == t)
        d = np.stack([spots.y[at], spots.x[at]], axis=1)[None] - places[:, None]
        near = np.hypot(d[..., 0], d[..., 1]) < reach
        found, right = found + near.any(axis=1).sum(), right + near.any(axis=0).sum()
        for i, j in np.argwhere(near):
            errors.append(d[i, j])
            z.append(d[i, j] / [spots.y_err[at[j]], spots.x_err[at[j]]])
    return np.array(errors), np.array(z), found / sum(map(len, truth)), right / max(len(spots), 1)


# -- recovery ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("peak", "recall", "precision"), [(20.0, 0.95, 0.98), (60.0, 0.99, 0.98)])
def test_spots_are_found(peak, recall, precision):
    frames, truth = movie(peak=peak, n=20)
    _, z, found, right = matches(localize(frames, acquisition=ACQUISITION), truth)
    assert found >= recall
    assert right >= precision
    assert 0.85 < 1.4826 * np.median(np.abs(z)) < 1.15


def test_dark_spots_are_recognised_and_equal_bright_ones():
    frames, _ = movie()
    bright = localize(frames, acquisition=ACQUISITION)
    dark = localize((255 - frames).astype(np.uint8), acquisition=ACQUISITION)
    assert (bright.model.polarity, dark.model.polarity) == ("bright", "dark")
    np.testing.assert_allclose(bright.y, dark.y, atol=1e-4)
    np.testing.assert_allclose(bright.mass, dark.mass, rtol=1e-3)
    np.testing.assert_allclose(bright.background + dark.background, 255, atol=1e-2)


@pytest.mark.parametrize("sigma", [0.9, 1.5, 2.5])
def test_width_of_the_spots_is_learned(sigma):
    frames, _ = movie(sigma=sigma, shape=(160, 160), spots=8, margin=16)
    model = calibrate_array(frames)
    assert abs(model.sigma_px / sigma - 1) < 0.1


NOISES = {
    "gaussian": lambda rng, rise, size: rng.normal(1000 * rise, 30, size).round().astype(np.uint16),
    "poisson": lambda rng, rise, size: rng.poisson(12.0 * rise, size).astype(np.uint8),
    "few photons": lambda rng, rise, size: rng.poisson(3.0 * rise, size).astype(np.uint8),
    "quantized": lambda rng, rise, size: rng.normal(20 * rise, 0.8, size).round().astype(np.uint8),
}


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("slope", [0.0, 1.0], ids=["flat", "sloped"])
@pytest.mark.parametrize(("sigma", "asked", "n"), [(1.3, 1.0, 240), (2.0, 20.0, 30)])
def test_false_alarms_are_those_asked_for(noise, slope, sigma, asked, n):
    """At least 240 alarms expected, s.d. 6.5 %; sloped, the background rises threefold across the frame."""
    rng = np.random.default_rng(5)
    rise = 1.0 + slope * np.linspace(-0.5, 0.5, 256)
    frames = NOISES[noise](rng, rise, (n, 256, 256))
    settings = {"false_alarms_per_frame": asked, "psf_sigma_px": sigma, "polarity": "bright"}
    found = len(localize(frames, Protocol.from_dict({"localize": settings}), acquisition=ACQUISITION)) / n
    assert asked / 1.6 < found < asked * 1.6


@pytest.mark.parametrize("snr", [5.0, 10.0, 20.0, 50.0])
def test_stated_errors_are_the_real_ones(snr):
    """About 2,500 spots at rest, two coordinates each: the standard error of the s.d. is 1.4 %."""
    sigma, gain, light = 1.3, 0.25, 80.0
    noise = np.sqrt(light + 4.0 + 1 / 12 / gain**2)
    photons = snr * noise / oracles.pixel_gaussian((41, 41), 20, 20, sigma).max()
    rng = np.random.default_rng(int(snr))
    grid = np.arange(14, 242, 19)
    frames, truth = [], []
    for _ in range(18):
        places = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
        places = places + rng.uniform(-3, 3, places.shape)
        expected = np.full((256, 256), light)
        for y, x in places:
            top, left = round(y) - 9, round(x) - 9
            spot = oracles.pixel_gaussian((19, 19), y - top, x - left, sigma)
            expected[top : top + 19, left : left + 19] += photons * spot
        frames.append(np.clip(np.rint(4 + gain * (rng.poisson(expected) + rng.normal(0, 2, expected.shape))), 0, 255))
        truth.append(places)
    _, z, found, right = matches(localize(np.array(frames).astype(np.uint8), acquisition=ACQUISITION), truth)
    assert found > 0.999
    assert right > 0.999
    assert 0.95 < z.std() < 1.05


def flickering(rng):
    """A particle at rest whose peak is 8 s.d. in one frame and 4.3, below the threshold, in the next; 90 frames."""
    shape, sigma, noise = (64, 64), 1.3, 4.0
    matched = MatchedFilter.for_sigma(sigma)
    spot = oracles.pixel_gaussian(shape, 32, 32, sigma)
    height = float(
        (matched.kernel() * oracles.pixel_gaussian(matched.kernel().shape, *[matched.box_half] * 2, sigma)).sum()
    )
    mass = noise * float(matched.noise_gain(*shape)[16, 16]) / height
    level = np.where(np.arange(90) % 2 == 0, 8.0, 4.3)[:, None, None]
    frames = np.clip(np.rint(40 + level * mass * spot + rng.normal(0, noise, (90, *shape))), 0, 255).astype(np.uint8)
    # As many false alarms per pixel as the default asks for in a frame of 640 × 480.
    settings = {"psf_sigma_px": sigma, "polarity": "bright", "false_alarms_per_frame": 0.01 * 64 * 64 / (640 * 480)}
    return frames, Protocol.from_dict({"localize": settings})


def test_faint_peaks_continue_a_particle_and_nothing_else():
    rng = np.random.default_rng(21)
    frames, protocol = flickering(rng)
    spots = localize(frames, protocol, acquisition=ACQUISITION)
    at_place = np.hypot(spots.y - 32, spots.x - 32) < 3
    faint = (spots.flag & SpotFlag.FAINT) > 0
    assert len(np.unique(spots.frame[at_place])) > 0.7 * 90  # half of them without
    assert faint[at_place].sum() > 12
    assert np.sum(~at_place) < 4
    empty = np.clip(np.rint(40 + rng.normal(0, 4.0, (200, 64, 64))), 0, 255).astype(np.uint8)
    alone = localize(empty, protocol, acquisition=ACQUISITION)
    assert np.sum((alone.flag & SpotFlag.FAINT) > 0) <= len(alone) // 2


def test_faint_spots_are_measured_in_electrons_too():
    """The same frames as a camera of gain 2 and offset 100 records them, and with its maps: nothing changes."""
    frames, protocol = flickering(np.random.default_rng(21))
    camera = Camera(offset=np.full((64, 64), 100.0), gain=np.full((64, 64), 2.0), variance=np.full((64, 64), 1e-3))
    plain = localize(frames, protocol, acquisition=ACQUISITION)
    known = localize((100 + 2 * frames.astype(np.uint16)), protocol, acquisition=ACQUISITION, camera=camera)
    for spots in (plain, known):
        assert ((spots.flag & SpotFlag.FAINT) > 0).sum() > 12
    faint = [spots.mass[(spots.flag & SpotFlag.FAINT) > 0] for spots in (plain, known)]
    assert np.median(faint[1]) == pytest.approx(np.median(faint[0]), rel=0.1)


@pytest.mark.parametrize("camera", [None, Camera(np.full((96, 128), 5.0), np.ones((96, 128)), np.ones((96, 128)))])
def test_spots_at_the_upper_limit_of_the_sensor_are_flagged(camera):
    frames, _ = movie(n=4, peak=600.0)
    spots = localize(frames, acquisition=ACQUISITION, camera=camera)
    assert np.mean((spots.flag & SpotFlag.SATURATED) > 0) > 0.9


def test_a_stuck_speck_belongs_to_the_background_and_a_slow_particle_does_not():
    rng = np.random.default_rng(6)
    n, shape = 120, (64, 64)
    speck = 60 * oracles.pixel_gaussian(shape, 20, 20, 1.3) * 2 * np.pi * 1.3**2
    passing = [oracles.pixel_gaussian(shape, 45, 8 + 0.4 * t, 1.3) * 2 * np.pi * 1.3**2 * 60 for t in range(n)]
    quick = np.stack([20 + speck + p for p in passing])
    frames = rng.poisson(quick).astype(np.uint8)
    spots = localize(frames, acquisition=ACQUISITION)
    assert spots.model.still_background
    at_speck = np.hypot(spots.y - 20, spots.x - 20) < 2
    assert at_speck.sum() < 0.05 * n
    assert abs(len(spots) - n) < 0.1 * n
    crawling = [oracles.pixel_gaussian(shape, 30, 20 + 0.05 * t, 1.3) * 2 * np.pi * 1.3**2 * 60 for t in range(n)]
    slow = localize(rng.poisson(20 + np.stack(crawling)).astype(np.uint8), acquisition=ACQUISITION)
    assert not slow.model.still_background
    assert len(slow) > 0.95 * n


# -- invariance -------------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(block=st.integers(1, 60))
def test_block_size_does_not_change_a_byte(block):
    frames, _ = movie(n=50, shape=(48, 64), spots=4)
    protocol = Protocol.from_dict({"localize": {"background_s": 0.6}})
    whole = localize(frames, protocol, acquisition=ACQUISITION)
    parts = localize(frames, protocol, acquisition=ACQUISITION, block_frames=block, threads=1 + block % 3)
    assert whole.to_arrow().equals(parts.to_arrow())


def test_windows_localized_apart_equal_the_whole():
    frames, _ = movie(n=50, shape=(48, 64), spots=4)
    protocol = Protocol.from_dict({"localize": {"background_s": 0.6}})
    windows = plan_windows(frames.shape, 1, 1 / 30, protocol)
    assert windows == ((0, 18), (18, 36), (36, 50))
    whole = localize(frames, protocol, acquisition=ACQUISITION)
    parts = [
        localize(frames, protocol, acquisition=ACQUISITION, model=whole.model, start=a, stop=b) for a, b in windows
    ]
    assert whole.to_arrow().equals(type(whole).concat(parts).to_arrow())


@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 5000), height=st.integers(16, 3000), seconds=st.floats(0.1, 60))
def test_windows_cover_a_video_once(n, height, seconds):
    protocol = Protocol.from_dict({"localize": {"background_s": seconds}})
    windows = plan_windows((n, height, 640), 2, 1 / 30, protocol)
    assert windows[0][0] == 0
    assert windows[-1][1] == n
    assert all(a[1] == b[0] for a, b in pairwise(windows))


def test_transposed_frames_give_transposed_spots():
    frames, _ = movie(n=2)
    upright = localize(frames, acquisition=ACQUISITION)
    lying = localize(np.ascontiguousarray(frames.transpose(0, 2, 1)), acquisition=ACQUISITION)
    order, as_was = np.lexsort((lying.y, lying.frame)), np.lexsort((upright.x, upright.frame))
    np.testing.assert_allclose(lying.x[order], upright.y[as_was], atol=1e-3)
    np.testing.assert_allclose(lying.y[order], upright.x[as_was], atol=1e-3)


def test_an_offset_and_a_slope_change_next_to_nothing():
    """A slope s moves a fit with a constant background by 8πσ⁴s/mass: here by 0.008 px, a tenth of the error."""
    frames, _ = movie(n=4)
    ramp = (frames + 300.0 + 0.05 * np.arange(128)).astype(np.float32)
    protocol = Protocol.from_dict({"localize": {"psf_sigma_px": 1.3}})
    flat = localize(frames.astype(np.float32), protocol, acquisition=ACQUISITION)
    tilted = localize(ramp, protocol, acquisition=ACQUISITION)
    # Where the border is continued by its last pixel a slope has a kink, so that only the inside is compared.
    flat, tilted = (s.take((s.x > 8) & (s.x < 119) & (s.snr > 5)) for s in (flat, tilted))
    assert len(flat) == len(tilted) > 30
    assert np.abs((flat.y - tilted.y) / flat.y_err).max() < 0.3
    assert np.abs((flat.x - tilted.x) / flat.x_err).max() < 0.3


# -- edges and errors -------------------------------------------------------------------------------------------------


def test_saturated_spots_are_flagged_and_still_centred():
    frames, truth = movie(peak=400.0)
    spots = localize(frames, acquisition=ACQUISITION)
    errors, _, found, _ = matches(spots, truth)
    assert found == 1.0
    assert np.mean((spots.flag & SpotFlag.SATURATED) > 0) > 0.9
    assert np.median(np.abs(errors)) < 0.1


@pytest.mark.parametrize("level", [0, 255])
def test_uniform_frames_give_no_spots_and_a_warning(level):
    spots = localize(np.full((12, 32, 48), level, np.uint8), acquisition=ACQUISITION)
    assert len(spots) == 0
    assert any("uniform" in w for w in spots.model.warnings)


def test_one_frame_is_enough():
    frames, truth = movie(n=1)
    _, _, found, _ = matches(localize(frames, acquisition=ACQUISITION), truth)
    assert found == 1.0


def test_spots_near_each_other_are_flagged_and_kept():
    shape = (48, 48)
    light = sum(oracles.pixel_gaussian(shape, 24, x, 1.3) * 1500 for x in (20.0, 25.2))
    frames = np.random.default_rng(9).poisson(light + 20.0, (10, *shape)).astype(np.uint8)
    protocol = Protocol.from_dict({"localize": {"psf_sigma_px": 1.3}})
    spots = localize(frames, protocol, acquisition=ACQUISITION)
    assert len(spots) >= 20
    assert np.sum((spots.flag & SpotFlag.CROWDED) > 0) == 20
    assert abs(np.median(spots.x[spots.x > 22]) - 25.2) < 0.3


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((4, 32, 32), np.int32), "int32"),
        (np.zeros((32, 32), np.uint8), "three axes"),
        (np.zeros((4, 8, 8), np.uint8), "too small"),
        (np.zeros((0, 32, 32), np.uint8), "too small"),
    ],
)
def test_wrong_arrays_are_refused(frames, message):
    with pytest.raises(InputError, match=message):
        localize(frames, acquisition=ACQUISITION)


def test_an_array_needs_an_acquisition_and_whole_windows():
    frames = np.zeros((40, 32, 32), np.uint8)
    with pytest.raises(InputError, match="Acquisition"):
        localize(frames)
    with pytest.raises(InputError, match="plan_windows"):
        localize(frames, acquisition=ACQUISITION, start=3)


def test_a_pixel_that_is_no_number_is_refused():
    frames = np.random.default_rng(12).normal(20, 2, (12, 32, 48)).astype(np.float32)
    frames[7, 3, 4] = np.nan
    with pytest.raises(InputError, match="frame 7"):
        localize(frames, acquisition=ACQUISITION)


@pytest.mark.parametrize("level", [0, 255])
def test_frames_without_light_have_no_spots_and_spoil_no_other(level):
    frames, _ = movie(n=40)
    whole = localize(frames, acquisition=ACQUISITION)
    dark = frames.copy()
    dark[25:] = level
    spots = localize(dark, acquisition=ACQUISITION)
    assert not np.any(spots.frame >= 25)
    before = whole.take(whole.frame < 25)
    assert abs(len(spots) - len(before)) <= 0.03 * len(before)


def test_clipping_of_12_bits_in_16_is_seen():
    frames, _ = movie(n=4, peak=400.0)
    deep = np.clip(frames.astype(np.uint16) * 17, 0, 4095)  # 255 becomes just 4335: clipped
    assert calibrate_array(frames).saturation_dn == 254
    assert calibrate_array(deep).saturation_dn == 4095


def scene(structure, shift_per_frame=0.0, n=160):
    rng = np.random.default_rng(13)
    moved = [ndimage.shift(structure, (shift_per_frame * t, 0), order=3, mode="nearest") for t in range(n)]
    return rng.poisson(np.clip(moved, 1, None)).astype(np.uint8)


def test_drift_of_the_stage_is_seen_by_what_is_still():
    rng = np.random.default_rng(14)
    specks = sum(300 * oracles.pixel_gaussian((96, 96), *rng.uniform(15, 80, 2), 1.5) for _ in range(8)) + 20.0
    steady, drifting = calibrate_array(scene(specks)), calibrate_array(scene(specks, 0.02))
    assert steady.stage_drift_px == pytest.approx(0.0, abs=0.1)
    assert drifting.stage_drift_px == pytest.approx(0.02 * 80, abs=0.2)
    assert any("drift" in warning for warning in drifting.warnings)
    assert np.isnan(calibrate_array(scene(np.full((96, 96), 20.0))).stage_drift_px)


def test_a_bubble_is_a_large_object_and_a_gradient_is_none():
    y, x = np.mgrid[:128, :128]
    frames, _ = movie(n=120, shape=(128, 128), peak=60.0)
    bubble = 60 * (np.hypot(y - 60, x - 60) < 20)
    assert calibrate_array(frames).large_objects == 0
    assert calibrate_array((frames + x // 4).astype(np.uint8)).large_objects == 0
    assert calibrate_array(np.minimum(frames + bubble, 255).astype(np.uint8)).large_objects == 1


def calibrate_array(frames):
    class Source:
        shape, dtype, acquisition = frames.shape, frames.dtype, ACQUISITION

        @staticmethod
        def blocks(block_frames, start=0, stop=None):
            for first in range(start, stop, block_frames):
                yield first, frames[first : min(first + block_frames, stop)]

    return calibrate(Source())


def test_a_camera_gives_electrons_and_knows_its_hot_pixels():
    """sCMOS maps: a twentieth of the pixels is hot, gains and offsets vary; 20 frames of 12 spots."""
    rng = np.random.default_rng(31)
    shape, n = (96, 128), 20
    gain, offset = rng.uniform(1.8, 2.2, shape), rng.uniform(95, 105, shape)
    variance = np.where(rng.random(shape) < 0.05, 900.0, 8.0)
    light, truth = movie(seed=32, n=n, shape=shape, peak=60.0, noise=0.0)
    adu = offset + gain * light + rng.normal(0, 1, (n, *shape)) * np.sqrt(variance)
    frames = np.clip(np.rint(adu), 0, 65535).astype(np.uint16)
    camera = Camera(offset=offset, gain=gain, variance=variance)
    known = localize(frames, acquisition=ACQUISITION, camera=camera)
    blind = localize(frames, acquisition=ACQUISITION)
    errors, z, found, right = matches(known, truth)
    rough, _, _, wrong = matches(blind, truth)
    assert found > 0.98
    assert right > 0.97
    assert right >= wrong
    assert np.sqrt(np.mean(errors**2)) < np.sqrt(np.mean(rough**2))
    assert 0.85 < 1.4826 * np.median(np.abs(z)) < 1.15
    assert np.median(known.mass) == pytest.approx(60.0 * 2 * np.pi * 1.3**2, rel=0.1)
