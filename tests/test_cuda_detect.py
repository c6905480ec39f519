"""Detection on CUDA against the CPU backend, on identical inputs."""

import importlib

import numpy as np
import pytest

from exotrack.backends import cpu
from exotrack.backends.cuda.blocks import upload
from exotrack.backends.cuda.detect import detect
from exotrack.backends.cuda.filter import matched_filter
from exotrack.errors import BackendError
from exotrack.localize.matched import MatchedFilter

NOISE = 6.0


def scene(shape, dtype, sigma, seed=1):
    """Frames with spots anywhere, also at the borders, in noise; bright and dark ones."""
    rng = np.random.default_rng(seed)
    frames = rng.normal(60.0, NOISE, shape)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    for _ in range(12 * shape[0]):
        y, x = rng.uniform(-1, shape[1]), rng.uniform(-1, shape[2])
        light = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))
        frames[rng.integers(shape[0])] += rng.choice([-1, 1]) * rng.uniform(10, 90) * light
    return frames.astype(dtype) if dtype == np.float32 else frames.round().clip(0, 250).astype(dtype)


def maps(matched, shape, seed=2):
    """Level, inverse noise and limit that differ from point to point."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0.0, 0.5, matched.lattice(*shape)).astype(np.float32)
    inverse = (1.0 / (NOISE * matched.noise_gain(*shape))).astype(np.float32)
    return level, inverse, (level + 2.5 / inverse).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("sigma", [0.8, 1.3, 2.4, 9.0])
def test_the_same_peaks(cuda, sigma, dtype):
    matched = MatchedFilter.for_sigma(sigma)
    settings = {"box_half": matched.box_half, "step": matched.step, "pedestal": 60.0 if dtype == np.float32 else 0.0}
    n_found = 0
    for shape in ((3, 65, 131), (1, 16, 300), (2, 33, 17)):
        frames = scene(shape, dtype, sigma)
        filtered = matched_filter(frames, matched.taps, **settings)
        assert filtered.dtype == np.float32
        # Sums of up to 50 by 50 pixels of 60 grey levels in float32.
        assert np.allclose(filtered, cpu.matched_filter(frames, matched.taps, **settings), rtol=0, atol=3e-4)
        for sign in (1.0, -1.0):
            ours = detect(frames, *maps(matched, shape[1:]), matched.taps, sign=sign, **settings)
            theirs = cpu.detect(frames, *maps(matched, shape[1:]), matched.taps, sign=sign, **settings)
            n_found += len(ours[0])
            assert [a.dtype for a in ours] == [b.dtype for b in theirs]
            assert np.array_equal(ours[0], theirs[0])
            for a, b in zip(ours[1:], theirs[1:], strict=True):
                assert np.allclose(a, b, rtol=1e-5, atol=1e-3 if sigma > 5 else 2e-4)
    assert n_found > 20


def test_uploaded_frames_and_maps(cuda):
    matched = MatchedFilter.for_sigma(1.3)
    settings = {"box_half": matched.box_half, "step": matched.step, "pedestal": 0.0, "sign": 1.0}
    frames, around = scene((2, 40, 60), np.uint8, 1.3), maps(matched, (40, 60))
    plain = detect(frames, *around, matched.taps, **settings)
    uploaded = detect(upload(frames), *map(upload, around), matched.taps, **settings)
    assert all(np.array_equal(a, b) for a, b in zip(plain, uploaded, strict=True))


def test_more_peaks_than_there_is_room_for(cuda, monkeypatch):
    matched = MatchedFilter.for_sigma(1.3)
    settings = {"box_half": matched.box_half, "step": matched.step, "pedestal": 0.0, "sign": 1.0}
    frames, around = scene((2, 40, 60), np.uint8, 1.3), maps(matched, (40, 60))
    plain = detect(frames, *around, matched.taps, **settings)
    monkeypatch.setattr(importlib.import_module("exotrack.backends.cuda.detect"), "_ROOM", 3)
    assert len(plain[0]) > 6
    again = detect(frames, *around, matched.taps, **settings)
    assert all(np.array_equal(a, b) for a, b in zip(plain, again, strict=True))


def test_equal_values_are_one_peak(cuda):
    matched = MatchedFilter.for_sigma(1.3)
    frames = np.full((1, 48, 48), 20, np.uint8)
    frames[0, 20:24, 20:24] = 200  # symmetric about a point between four points of the lattice
    settings = {"box_half": matched.box_half, "step": matched.step, "pedestal": 0.0, "sign": 1.0}
    flat = [np.full(matched.lattice(48, 48), value, np.float32) for value in (0.0, 1.0, 3.0)]
    ours, theirs = (module(frames, *flat, matched.taps, **settings) for module in (detect, cpu.detect))
    assert len(ours[0]) == len(theirs[0]) == 1
    assert all(np.allclose(a, b, atol=1e-4) for a, b in zip(ours, theirs, strict=True))


def test_nothing_to_find(cuda):
    matched = MatchedFilter.for_sigma(1.3)
    settings = {"box_half": matched.box_half, "step": matched.step, "pedestal": 0.0}
    for frames in (np.empty((0, 40, 60), np.uint8), np.full((2, 40, 60), 7, np.uint8)):
        found = detect(frames, *maps(matched, (40, 60)), matched.taps, sign=1.0, **settings)
        assert [len(a) for a in found] == [0, 0, 0, 0]
        assert matched_filter(frames, matched.taps, **settings).shape == (len(frames), *matched.lattice(40, 60))


def test_a_spot_too_wide_for_a_block_is_refused(cuda):
    matched = MatchedFilter.for_sigma(90.0)
    frames = np.zeros((1, 600, 600), np.uint8)
    flat = np.ones(matched.lattice(600, 600), np.float32)
    with pytest.raises(BackendError, match="too wide for the CUDA backend; use --backend cpu"):
        detect(frames, flat, flat, flat, matched.taps, box_half=matched.box_half, step=matched.step, sign=1, pedestal=0)
