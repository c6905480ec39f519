"""Refinement on CUDA against the CPU backend, on identical inputs.

Both stop iterating when a step is less than 0.06 of every standard error, of which a tenth is left, and stop the sweeps
over crowded spots at moves of less than 0.005: where rounding makes one of them go on once more, they differ by a part
of that. On 30 particles per frame 99 of 100 positions differ by less than 10⁻⁶ px.

Some fits hang on the last bit: a free width that runs to its limit, three spots in one. Those are told by the CPU
backend itself, whose answer changes with the last bits of the background.
"""

import numpy as np
import oracles
import pytest

from exotrack.backends import cpu
from exotrack.backends.cuda import device
from exotrack.backends.cuda.blocks import upload
from exotrack.backends.cuda.refine import refine
from exotrack.localize.matched import MatchedFilter
from exotrack.simulate import simulate
from exotrack.tables import SpotFlag


def both(frames, background, variance, frame, y, x, *, well_posed=0.95, **settings):
    """Results of the device after they have been compared with those of the CPU, where these are well posed."""
    at = (np.asarray(frame, np.int32), np.asarray(y, np.float32), np.asarray(x, np.float32))
    settings = {"sign": 1.0, "gain": 0.0, "saturation": np.inf, "free_width": True, **settings}
    values, flag = refine(frames, background, variance, *at, **settings)
    expected, expected_flag = cpu.refine(frames, background, variance, *at, **settings)
    assert values.dtype == np.float64
    assert flag.dtype == np.uint16
    assert values.shape == expected.shape

    posed = np.ones(len(flag), bool)
    for seed in range(10):
        bits = 1.0 + 3e-7 * np.random.default_rng(seed).standard_normal(background.shape)
        again, again_flag = cpu.refine(frames, (background * bits).astype(np.float32), variance, *at, **settings)
        posed &= (again_flag == expected_flag) & np.all(np.abs(again[:2] - expected[:2]) < 1e-3 * expected[6:8], axis=0)
        posed &= np.all(np.abs(again[[2, 6, 7]] / expected[[2, 6, 7]] - 1.0) < 2e-4, axis=0)
    assert not len(flag) or posed.mean() >= well_posed
    assert np.array_equal(flag[posed], expected_flag[posed])
    assert np.array_equal(flag & ~SpotFlag.SEED_ONLY, expected_flag & ~SpotFlag.SEED_ONLY)
    assert np.array_equal(values[4], expected[4])
    seed = posed & ((flag & SpotFlag.SEED_ONLY) > 0)
    assert np.array_equal(values[:2, seed], expected[:2, seed])
    assert np.allclose(values[2:8, seed], expected[2:8, seed], rtol=1e-5, atol=1e-5)
    fit = posed & ((flag & SpotFlag.SEED_ONLY) == 0)
    ours, theirs = values[:, fit], expected[:, fit]
    apart = np.abs(ours[:2] - theirs[:2])
    assert np.all(apart <= 0.005 * theirs[6:8] + 1e-6)
    assert fit.sum() < 20 or np.mean(apart < 1e-5) > 0.9
    assert np.allclose(ours[[2, 6, 7]], theirs[[2, 6, 7]], rtol=1e-3, atol=0)
    assert np.all(np.abs(ours[3] - theirs[3]) <= 3e-3 * theirs[4])
    assert np.allclose(ours[5], theirs[5], rtol=0, atol=1e-3 if settings["free_width"] else 0)
    assert np.allclose(ours[8], theirs[8], rtol=1e-3, atol=1e-3)
    return values, flag


def scene(seed, per_frame, dtype, sigma, shape=(45, 61), sign=1.0, apart=0.0):
    """Frames with spots, also across the border; maps that differ from pixel to pixel; seeds half a pixel off."""
    rng = np.random.default_rng(seed)
    variance = rng.uniform(20.0, 40.0, shape).astype(np.float32)
    background = rng.uniform(90.0, 110.0, shape).astype(np.float32)
    frames = rng.normal(background, np.sqrt(variance), (len(per_frame), *shape))
    seeds = []
    for t, n in enumerate(per_frame):
        centres = []
        while len(centres) < n:
            c = rng.uniform(-1.0, np.array(shape))
            if all(np.hypot(*(c - other)) > apart for other in centres):
                centres.append(c)
        for c in centres:
            light = oracles.pixel_gaussian(shape, *c, sigma * rng.uniform(0.9, 1.3))
            frames[t] += sign * light * rng.uniform(20.0, 100.0) * 2 * np.pi * sigma**2
            at = np.clip(c + rng.uniform(-0.5, 0.5, 2), -0.5, np.array(shape) - 0.5)
            seeds.append((t, *at))
    at = np.array(seeds)
    at = at[np.lexsort((at[:, 2], np.rint(at[:, 1]), at[:, 0]))]
    if dtype != np.float32:
        frames = frames.round().clip(0, 255 if dtype == np.uint8 else 4000)
    return frames.astype(dtype), background, variance, at[:, 0], at[:, 1], at[:, 2]


@pytest.mark.parametrize("free_width", [True, False])
@pytest.mark.parametrize("gain", [0.0, 0.6])
def test_a_simulated_video(cuda, free_width, gain):
    """About 360 spots of all depths, a tenth at the border and some beside one another."""
    video, _ = simulate(frame_shape=(128, 128), n_frames=12, particles_per_frame=30.0, seed=4)
    matched = MatchedFilter.for_sigma(1.2)
    filter_ = {"box_half": matched.box_half, "step": matched.step, "pedestal": 0.0}
    background = np.median(video.frames, axis=0).astype(np.float32)
    level = cpu.matched_filter(background[None], matched.taps, **filter_)[0]
    inverse = (1.0 / (2.1 * matched.noise_gain(128, 128))).astype(np.float32)
    limit = (level + 5.0 / inverse).astype(np.float32)
    *seeds, _ = cpu.detect(video.frames, level, inverse, limit, matched.taps, sign=1.0, **filter_)
    variance = np.full((128, 128), 2.1**2, np.float32)
    values, flag = both(
        video.frames, background, variance, *seeds, sigma=1.2, half=4, gain=gain, free_width=free_width
    )  # fmt: skip
    assert values.shape[1] > 250
    assert np.mean(flag == 0) > 0.7


@pytest.mark.parametrize(
    ("dtype", "sigma", "half", "sign", "free_width", "gain"),
    [
        (np.uint8, 0.9, 3, 1.0, True, 0.5),
        (np.uint16, 1.2, 4, -1.0, True, 0.0),
        (np.float32, 1.3, 4, 1.0, False, 0.8),
        (np.float32, 1.9, 6, -1.0, True, 0.0),
    ],
)
def test_windows_pixels_and_signs(cuda, dtype, sigma, half, sign, free_width, gain):
    """Frames without spots among others; windows at all borders."""
    frames, *rest = scene(half, (0, 1, 9, 0, 35, 12), dtype, sigma, sign=sign, apart=3.5 * sigma)
    settings = {"sigma": sigma, "half": half, "sign": sign, "free_width": free_width, "gain": gain}
    # Narrow spots in 8 bits: on one processor 54 of the 57 are well posed, on another more.
    _, flag = both(frames, *rest, **settings, well_posed=0.9 if dtype == np.uint8 else 0.95)
    assert np.count_nonzero(flag & SpotFlag.EDGE) > 5
    assert np.count_nonzero(flag & SpotFlag.CROWDED) > 5


def test_a_wide_window(cuda):
    frames, *rest = scene(5, (2, 1), np.float32, 6.0, shape=(90, 75), apart=30.0)
    values, flag = both(frames, *rest, sigma=6.4, half=20)
    assert np.count_nonzero(flag & SpotFlag.SEED_ONLY) == 0
    assert np.all(np.abs(values[5] - 6.6) < 1.4)


def test_a_window_wider_than_the_frame(cuda):
    frames, *rest = scene(6, (2,), np.uint8, 1.2, shape=(7, 6), apart=3.0)
    _, flag = both(frames, *rest, sigma=1.2, half=4, free_width=False)
    assert np.all(flag & SpotFlag.EDGE)


@pytest.mark.parametrize("free_width", [True, False])
@pytest.mark.parametrize("apart", [3.5, 5.0])
def test_groups(cuda, apart, free_width):
    """Pairs, threes, 20 spots of which most have more than twelve others within reach, and a frame of none."""
    rng = np.random.default_rng(int(apart))
    groups = [[(20, 20), (20, 20 + apart)], [(20, 20), (20, 20 + apart), (20 + apart, 20)], []]
    groups += [[(13 + 4 * i, 13 + 4 * j) for i in range(4) for j in range(5)]]
    frames = rng.poisson(20.0, (4, 45, 45)).astype(float)
    seeds = np.array([(t, *c) for t, group in enumerate(groups) for c in group])
    for t, y, x in seeds:
        frames[int(t)] += rng.poisson(2000.0 * oracles.pixel_gaussian((45, 45), y, x, 1.2))
    at = seeds + np.array([0.0, 0.2, -0.2])
    maps = (np.full((45, 45), 20.0, np.float32), np.full((45, 45), 20.0, np.float32))
    values, flag = both(
        frames.astype(np.uint16), *maps, *at.T, sigma=1.2, half=5, gain=1.0, free_width=free_width,
        well_posed=0.3 if free_width else 0.95
    )  # fmt: skip
    assert np.all((flag[:5] & SpotFlag.CROWDED) > 0) == (apart < 4.8)
    assert np.all((flag[5:] & SpotFlag.CROWDED) > 0)
    assert np.all(np.abs(values[:2, :5].T - seeds[:5, 1:]) < 0.3)
    assert np.all(np.abs(values[2, :5] / 2000.0 - 1.0) < 0.2)


def test_many_spots_in_few_rows(cuda):
    """More than a warp has lanes, both of crowded spots in a frame and of those to look through for neighbours."""
    frames, *rest = scene(8, (170, 3, 0, 50), np.uint8, 1.2, shape=(36, 200), apart=3.6)
    _, flag = both(frames, *rest, sigma=1.2, half=4, free_width=False)
    assert np.count_nonzero(flag & SpotFlag.CROWDED) > 80


def test_a_fit_that_fails_beside_another_spot(cuda):
    """All but two pixels of the second seed are clipped or another's: it is neither fitted again nor subtracted."""
    rng = np.random.default_rng(12)
    frames = 100.0 + rng.normal(0.0, 5.0, (1, 41, 51)) + 800.0 * oracles.pixel_gaussian((41, 51), 20.0, 24.0, 1.2)
    frames[0, 12:30, 26:40] = 500.0
    frames[0, 20, 28], frames[0, 20, 27] = 180.0, 160.0
    maps = (np.full((41, 51), 100.0, np.float32), np.full((41, 51), 25.0, np.float32))
    seeds = ([0, 0], [20.0, 20.1], [24.0, 28.0])
    _, flag = both(frames.astype(np.float32), *maps, *seeds, sigma=1.2, half=4, saturation=500.0, free_width=False)
    assert list(flag & SpotFlag.SEED_ONLY) == [0, SpotFlag.SEED_ONLY]


def test_the_flank_of_a_particle_beyond_the_border(cuda):
    rng = np.random.default_rng(13)
    frames = rng.normal(100.0, 2.0, (12, 31, 31))
    rows, columns = np.mgrid[:31, :31]
    for t in range(12):
        frames[t] += 3000.0 * np.exp(-((rows - 15) ** 2 + (columns + 2.0 + 0.25 * t) ** 2) / (2 * 1.3**2))
    maps = (np.full((31, 31), 100.0, np.float32), np.full((31, 31), 4.0, np.float32))
    at = (range(12), np.full(12, 15.0), np.full(12, -0.5))
    values, flag = both(frames.astype(np.float32), *maps, *at, sigma=1.2, half=4, free_width=False, well_posed=0.7)
    assert np.all(flag & SpotFlag.EDGE)
    assert values[1].min() < -4.5


def test_saturated_pixels(cuda):
    """Flat tops: left out wherever they are, told where they are near; nothing but clipped pixels is no spot."""
    frames, *rest = scene(9, (14, 14), np.uint8, 1.2, apart=8.0)
    frames = np.minimum(frames, 150)
    frames[1, 25:, 40:] = 150
    background, variance, *at = rest
    rest = [background, variance, *(np.append(a, b) for a, b in zip(at, (1, 43.0, 50.0), strict=True))]
    values, flag = both(frames, *rest, sigma=1.2, half=4, saturation=150.0, gain=0.5)
    saturated, seed = (flag & SpotFlag.SATURATED) > 0, (flag & SpotFlag.SEED_ONLY) > 0
    assert 3 < np.count_nonzero(saturated) < len(flag)
    assert np.count_nonzero(saturated & ~seed) > 2
    assert seed[-1]
    assert np.all(np.isfinite(values[:6]))
    # A limit between two grey levels.
    assert np.array_equal(both(frames, *rest, sigma=1.2, half=4, saturation=149.5, gain=0.5)[1], flag)


def test_where_a_clipped_pixel_counts(cuda):
    """One pixel, two rows off is near, farther is not; a seed with less than eight pixels is no spot."""
    rng = np.random.default_rng(14)
    light = 100.0 + 500.0 * oracles.pixel_gaussian((21, 21), 10.0, 10.0, 1.2)
    frames = light + rng.normal(0.0, 1.0, (4, 21, 21))
    frames[0, 12, 10] = frames[1, 12, 11] = 300.0
    few = np.ones((21, 21), bool)
    few[[10, 10, 10, 9, 11, 9, 11], [10, 9, 11, 10, 10, 9, 11]] = False
    frames[2, few] = 300.0
    few[[9, 11], [11, 9]] = False
    frames[3, few] = 300.0
    maps = (np.full((21, 21), 100.0, np.float32), np.full((21, 21), 1.0, np.float32))
    at = (range(4), np.full(4, 10.1), np.full(4, 9.9))
    _, flag = both(frames.astype(np.float32), *maps, *at, sigma=1.2, half=4, saturation=300.0, free_width=False)
    assert list(flag) == [1, 0, 9, 1]


def test_no_spot_where_a_seed_is(cuda):
    """Seeds in plain noise, and beside a spot: most fits leave them."""
    rng = np.random.default_rng(10)
    frames = rng.normal(100.0, 3.0, (2, 50, 50))
    frames[1] += 800.0 * oracles.pixel_gaussian((50, 50), 25.0, 25.0, 1.2)
    at = [(0, y, x) for y in range(6, 50, 12) for x in range(6, 50, 12)] + [(1, 22.0, 25.0)]
    flat = np.full((50, 50), 100.0, np.float32)
    values, flag = both(
        frames.round().astype(np.uint16), flat, flat * 0.09, *np.array(at).T, sigma=1.2, half=4, well_posed=0.9
    )
    seed = (flag & SpotFlag.SEED_ONLY) > 0
    assert seed[-1]
    assert 3 < np.count_nonzero(seed) < len(flag)
    assert np.array_equal(values[:2, seed].T, np.array(at)[seed, 1:])


def test_frames_and_maps_on_the_device(cuda):
    frames, background, variance, frame, y, x = scene(11, (3, 4), np.uint8, 1.2)
    seeds = (frame.astype(np.int32), y.astype(np.float32), x.astype(np.float32))
    settings = {
        "sign": 1.0, "sigma": 1.2, "gain": 0.0, "half": 4, "saturation": np.inf, "free_width": True
    }  # fmt: skip
    uploaded = [upload(a) for a in (frames, background, variance)]
    for ours, theirs in zip(
        refine(*uploaded, *seeds, **settings), refine(frames, background, variance, *seeds, **settings), strict=True
    ):
        assert ours.tobytes() == theirs.tobytes()


def test_nothing(cuda):
    launched = getattr(device.current().runtime, "launches", [])
    flat = np.zeros((9, 9), np.float32)
    for n_frames in (0, 2):
        values, flag = both(np.zeros((n_frames, 9, 9), np.uint8), flat, flat, [], [], [], sigma=1.2, half=4)
        assert values.shape == (9, 0)
        assert flag.shape == (0,)
    assert not launched
