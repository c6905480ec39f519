"""Background and statistics of pixels on CUDA: the very same bits as those of the CPU backend, on identical inputs."""

import numpy as np
import pytest

from exotrack.backends import cpu
from exotrack.backends.cuda.background import still_background
from exotrack.backends.cuda.noise import frame_levels, quieten, tile_noise
from exotrack.errors import BackendError

TYPES = [np.uint8, np.uint16, np.float32]


def stack(shape, dtype, seed=1):
    """Frames over most of the range of their type; those of integers have many values twice."""
    rng = np.random.default_rng(seed)
    if dtype == np.float32:
        return rng.normal(-3.0, 20.0, shape).astype(dtype)
    top = np.iinfo(dtype).max
    return rng.integers(top - min(top, 7000), top, shape, dtype, endpoint=True)


def same(ours, theirs):
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()


# Still background


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("m", [3, 4, 31])
def test_still_background(cuda, dtype, m):
    frames = stack((m + 5, 6, 131), dtype, seed=m)
    picked = np.arange(m) + np.arange(m) // 16
    for rows in ((0, 6), (2, 3), (4, 6)):
        ours = still_background(frames, picked, rows=rows)
        assert same(ours, cpu.still_background(frames, picked, rows=rows))


def test_as_many_frames_as_a_protocol_allows(cuda):
    frames = stack((301, 1, 45), np.uint16)
    every = np.arange(301)
    assert same(still_background(frames, every, rows=(0, 1)), cpu.still_background(frames, every, rows=(0, 1)))


def test_still_background_of_sorted_and_equal_values(cuda):
    rising = np.arange(31, dtype=np.uint8)[:, None, None] + np.zeros((31, 2, 7), np.uint8)
    for frames in (rising, rising[::-1], np.full_like(rising, 255)):
        ours = still_background(frames, np.arange(31), rows=(0, 2))
        assert same(ours, cpu.still_background(frames, np.arange(31), rows=(0, 2)))
    assert np.all(still_background(rising, np.arange(31), rows=(0, 2)) == 15.0)


def test_no_rows_and_too_many_frames(cuda):
    frames = stack((385, 2, 3), np.float32)
    assert still_background(frames, np.arange(385), rows=(1, 1)).shape == (0, 3)
    every = np.arange(384)
    assert same(still_background(frames, every, rows=(0, 2)), cpu.still_background(frames, every, rows=(0, 2)))
    with pytest.raises(BackendError, match="385 frames of float32 is too long for the CUDA backend; use fewer"):
        still_background(frames, np.arange(385), rows=(0, 2))


# Levels


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(3, 70, 131), (2, 1, 1), (1, 63, 5), (2, 64, 4), (2, 95, 33), (1, 200, 1001)])
def test_frame_levels(cuda, dtype, shape):
    """Rows of 1001 pixels of uint16 add up to more than float32 holds exactly: their order counts."""
    frames = stack(shape, dtype)
    for limit in (float(np.quantile(frames, 0.9)), 254.0, 1e9, -1e9):
        assert same(frame_levels(frames, limit), cpu.frame_levels(frames, limit))


def test_levels_begin_with_the_first_pixel(cuda):
    frames = np.full((2, 130, 9), 100, np.uint8)
    frames[0, 0, 0], frames[1, 0, 0] = 3, 200  # of 130 rows the third is the first that is looked at
    ours = frame_levels(frames, 99.0)
    assert same(ours, cpu.frame_levels(frames, 99.0))
    assert ours[:, 1:].tolist() == [[3.0, 100.0, 1.0], [100.0, 200.0, 1.0]]


def test_levels_of_no_frames(cuda):
    assert frame_levels(np.empty((0, 70, 50), np.uint8), 255.0).shape == (0, 4)


# Noise of tiles


def noise_field(n, height, width, share, seed=2):
    """Filtered frames whose noise rises across them, a few outliers, gains, and what is quiet."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (n, height, width)) * np.linspace(0.5, 9.0, width)
    values[rng.random(values.shape) < 0.01] *= 50.0
    inverse = rng.uniform(0.5, 2.0, (height, width)).astype(np.float32)
    return values.astype(np.float32), inverse, rng.random(values.shape) < share


@pytest.mark.parametrize("share", [0.0, 0.2, 0.24, 0.26, 0.9, 1.0])
def test_tile_noise(cuda, share):
    """Tiles of 5 frames have up to 165 rows: more than a block has threads."""
    field = noise_field(5, 61, 70, share)
    ys, xs = np.array([0, 20, 53, 61]), np.array([0, 18, 35, 70])
    expected = cpu.tile_noise(*field, ys, xs)
    assert expected.min() > 0.3
    assert same(tile_noise(*field, ys, xs), expected)
    for a, b in ((0, 1), (1, 3), (2, 3)):  # bands of rows, as several threads ask for them
        assert same(tile_noise(*field, ys[a : b + 1], xs), expected[a:b])


def test_tile_noise_of_tiles_of_all_sizes(cuda):
    field = noise_field(3, 23, 19, 0.7, seed=3)
    ys, xs = np.array([1, 2, 2, 9, 22]), np.array([3, 4, 6, 19])
    expected = cpu.tile_noise(*field, ys, xs)
    assert np.all(expected[1] == 0.0)  # no rows
    assert same(tile_noise(*field, ys, xs), expected)


def test_tile_noise_without_noise_and_without_frames(cuda):
    values, inverse, quiet = noise_field(2, 16, 16, 0.9)
    ys = xs = np.array([0, 8, 16])
    values[:, :8] = 0.0
    ours = tile_noise(values, inverse, quiet, ys, xs)
    assert same(ours, cpu.tile_noise(values, inverse, quiet, ys, xs))
    assert np.all(ours[0] == 0.0)
    assert np.all(ours[1] > 0.0)
    assert np.all(tile_noise(values[:0], inverse, quiet[:0], ys, xs) == np.zeros((2, 2)))


# What is quiet


@pytest.mark.parametrize("radius", [0, 1, 3, 40])
@pytest.mark.parametrize("shape", [(3, 37, 53), (1, 1, 300), (2, 90, 1), (1, 16, 16)])
def test_quieten(cuda, radius, shape):
    rng = np.random.default_rng(4)
    values = rng.normal(0, 1, shape).astype(np.float32)
    limit = rng.uniform(2.2, 3.0, shape[1:]).astype(np.float32)
    values[:, 0, 0], values[:, -1, -1] = 9.0, 9.0  # corners reach into no other row, frame or side
    ours = rng.random(shape) < 0.8
    theirs, before = ours.copy(), ours.copy()
    assert quieten(values, limit, radius, ours) is None
    cpu.quieten(values, limit, radius, theirs)
    assert same(ours, theirs)
    assert not np.array_equal(ours, before)


def test_quieten_one_frame_of_a_stack_in_place(cuda):
    values = np.zeros((3, 12, 14), np.float32)
    values[:, 5, 6] = 2.0
    limit = np.full((12, 14), 1.0, np.float32)
    quiet = np.ones(values.shape, bool)
    quieten(values[1:2], limit, 1, quiet[1:2])
    assert quiet[[0, 2]].all()
    assert np.argwhere(~quiet[1]).tolist() == [[y, x] for y in (4, 5, 6) for x in (5, 6, 7)]


def test_a_value_at_the_limit_is_quiet_and_no_frames_are(cuda):
    values, limit = np.full((1, 4, 5), 3.0, np.float32), np.full((4, 5), 3.0, np.float32)
    quiet = np.ones(values.shape, bool)
    quieten(values, limit, 2, quiet)
    assert quiet.all()
    quieten(values[:0], limit, 2, quiet[:0])
