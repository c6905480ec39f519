"""Products of matrices and Fourier transforms on CUDA against the CPU backend, on identical inputs."""

import numpy as np
import pytest

from exotrack.backends import cpu
from exotrack.backends.cuda import structure
from exotrack.backends.cuda.blocks import upload
from exotrack.backends.cuda.deconvolve import deconvolve
from exotrack.backends.cuda.structure import structure_function

# Deconvolution


def tracks(n, seed=0):
    """Likelihoods of tracks of 12 steps over 60 diameters, and weightings of them."""
    rng = np.random.default_rng(seed)
    grid = np.geomspace(20.0, 1000.0, 60)
    ratio = (120.0 * np.exp(0.3 * rng.normal(size=n)) * rng.gamma(12.0, 1 / 12.0, n))[:, None] / grid
    rows = np.exp(12.0 * (np.log(ratio) - ratio + 1.0)).astype(np.float32)
    weights = rng.integers(0, 3, (4, n)).astype(float)
    return rows / rows.max(axis=1, keepdims=True), weights + (weights.sum(axis=1, keepdims=True) == 0)


@pytest.mark.parametrize("n", [1, 33, 500])
@pytest.mark.parametrize(("iterations", "atol"), [(0, 1e-15), (1, 2e-7), (50, 2e-6), (1000, 3e-5)])
def test_deconvolve(cuda, n, iterations, atol):
    """Five times what the order of the tracks does to the shares on the CPU: 4·10⁻⁸, 4·10⁻⁷ and 6·10⁻⁶."""
    rows, weights = tracks(n)
    start = np.random.default_rng(1).dirichlet(np.ones(60), 4)
    shares = deconvolve(rows, weights, start, iterations=iterations)
    expected = cpu.deconvolve(rows, weights, start, iterations=iterations)
    assert shares.dtype == np.float64
    assert shares.shape == (4, 60)
    np.testing.assert_allclose(shares, expected, rtol=0, atol=atol)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-12)
    if iterations == 1000:
        dropped = np.all(expected == 0.0, axis=0)
        assert dropped.sum() > 10
        assert np.array_equal(np.all(shares == 0.0, axis=0), dropped)


def test_deconvolve_leaves_its_arguments(cuda):
    rows, weights = tracks(40)
    start = np.full((4, 60), 1 / 60)
    kept = [a.copy() for a in (rows, weights, start)]
    deconvolve(rows, weights, start, iterations=30)
    assert all(np.array_equal(a, b) for a, b in zip((rows, weights, start), kept, strict=True))


def test_deconvolve_refuses_what_the_cpu_refuses(cuda):
    rows, weights = tracks(10)
    start = np.full((4, 60), 1 / 60)
    for bad in ((rows[:9], weights, start), (rows, weights, start[:, :5]), (rows, 0.0 * weights, start)):
        with pytest.raises(ValueError, match="differ, or a weighting sums to zero"):
            deconvolve(*bad, iterations=1)


# Structure function


def movie(shape, dtype, seed=3):
    """Spots that wander over a bright still background, in noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    frames = 60.0 + 20.0 * np.sin(rows / 5.0) + rng.normal(0.0, 3.0, shape)
    for _ in range(6):
        path = rng.uniform(0, shape[1:]) + np.cumsum(rng.normal(0, 0.5, (shape[0], 2)), axis=0)
        apart = (rows - path[:, :1, None]) ** 2 + (columns - path[:, 1:, None]) ** 2
        frames += 50.0 * np.exp(-apart / 5.0)
    return frames.astype(dtype)


def rings(shape):
    """Rings of modes, of one mode (the first) to many, with modes left out in between."""
    q = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.arange(shape[1] // 2 + 1) / shape[1])
    ring = np.where((q > 0.1) & (q < 0.45), (q * 10).astype(np.int64), -1)
    ring[0, 1] = 0
    return ring


def moved(n):
    return np.cumsum(np.random.default_rng(4).normal(0.3, 0.2, (n, 2)), axis=0)


def agrees(frames, ring, flow, spans, lags, uploaded=None):
    """Whether values agree to 10⁻⁶ of the largest of their ring.

    SciPy's transforms in float32 lose 10⁻⁷ of the power and those of NumPy nothing. Of few modes, single values that
    happen to be small differ by 10⁻⁶ of themselves.
    """
    ours = structure_function(frames if uploaded is None else uploaded, ring, flow, spans, lags=lags)
    expected = cpu.structure_function(frames, ring, flow, spans, lags=lags)
    largest = expected.max(axis=(0, 2), keepdims=True)
    assert largest.min() > 0.0
    assert ours.dtype == np.float64
    assert ours.shape == expected.shape
    return bool(np.all(np.abs(ours - expected) <= 1e-6 * largest))


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "f8", "i2", ">u2"])
@pytest.mark.parametrize("shape", [(40, 24, 20), (33, 17, 31)])
def test_structure_function(cuda, shape, dtype):
    spans = np.array([[0, shape[0]], [0, 16], [16, 32], [5, 17]])
    assert agrees(movie(shape, dtype), rings(shape[1:]), moved(shape[0]), spans, 11)


def test_structure_function_in_parts(cuda, monkeypatch):
    """Of 40 frames 7 at a time, and of a ring's modes 3."""
    frames, spans = movie((40, 24, 20), "u1"), np.array([[0, 40], [10, 30]])
    given = rings((24, 20)), moved(40)
    whole = structure_function(frames, *given, spans, lags=9)
    monkeypatch.setattr(structure, "_PIXELS_AT_ONCE", 7 * 24 * 20)
    monkeypatch.setattr(structure, "_VALUES_AT_ONCE", 3 * 40)
    assert agrees(frames, *given, spans, 9)
    assert agrees(frames, *given, spans, 9, uploaded=upload(frames))
    assert np.allclose(structure_function(frames, *given, spans, lags=9), whole, rtol=1e-6, atol=0)


def test_structure_function_of_a_scene_that_hardly_changes(cuda):
    """From frame to frame D is 10⁻³ of what it becomes in the end."""
    rows, columns = np.mgrid[:32, :32]
    shift = 0.002 * np.arange(64)[:, None, None]
    frames = (100.0 + 80.0 * np.exp(-((rows - 16 - shift) ** 2 + (columns - 16) ** 2) / 20.0)).astype(np.float32)
    q = np.hypot(np.fft.fftfreq(32)[:, None], np.arange(17) / 32)
    ring, still = np.where((q > 0.02) & (q < 0.15), 0, -1), np.zeros((64, 2))
    changes = structure_function(frames, ring, still, np.array([[0, 64]]), lags=40)[0, 0]
    assert changes[0] < 1e-3 * changes[-1]
    assert agrees(frames, ring, still, np.array([[0, 64]]), 40)
    assert agrees(frames, ring, still, np.array([[0, 64]]), 1)


def test_structure_function_of_no_spans(cuda):
    none = np.empty((0, 2), np.int64)
    found = structure_function(movie((20, 16, 16), "u1"), rings((16, 16)), moved(20), none, lags=3)
    assert found.shape == (0, 5, 3)
