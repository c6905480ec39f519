"""One small use of every operation that has kernels: what sanitizers run, and the constants that compilers get."""

import numpy as np

from exotrack.backends import cuda
from exotrack.localize.matched import MatchedFilter

SHAPE = (40, 48)


def use_every_kernel():
    """Call each operation once, on a uint8 video of spots of 1.3 px and on a few tracks."""
    rng = np.random.default_rng(1)
    matched = MatchedFilter.for_sigma(1.3)
    frames = rng.normal(50.0, 3.0, (31, *SHAPE)).round().astype(np.uint8)
    frames[0, 10:13, 10:13] += 60  # plain
    frames[0, 20:22, 30:33] += 12  # faint: `locate` has to look at it
    frames[0, 25:27, 30:32] += 16  # and it has a neighbour
    cuda.frame_levels(frames[:2], 254.0)
    background = cuda.still_background(frames, np.arange(31), rows=(0, SHAPE[0]))
    settings = {"box_half": matched.box_half, "step": matched.step, "pedestal": 0.0}
    filtered = cuda.matched_filter(frames[:2], matched.taps, **settings)
    level, points = cuda.matched_filter(background[None], matched.taps, **settings)[0], filtered.shape[1:]
    inverse = (1.0 / (3.0 * matched.noise_gain(*SHAPE))).astype(np.float32)
    quiet = np.ones(filtered.shape, np.bool_)
    cuda.quieten(filtered, (level + 3.5 / inverse).astype(np.float32), 2, quiet)
    cuda.tile_noise(filtered, inverse, quiet, np.array([0, points[0]]), np.array([0, points[1]]))
    limit = (level + 3.0 / inverse).astype(np.float32)
    frame, y, x, _ = cuda.detect(frames[:1], level, inverse, limit, matched.taps, sign=1.0, **settings)
    assert len(frame) >= 3
    _, flags = cuda.refine(
        frames[:1], background, np.full(SHAPE, 9.0, np.float32), frame, y, x, sign=1.0, sigma=1.3, gain=0.5,
        half=matched.fit_half, saturation=254.0, free_width=True,
    )  # fmt: skip
    assert np.any(flags & 4)  # CROWDED: fitted jointly
    spots = rng.uniform(0.0, 20.0, (2, 16))
    pairs, partner = np.array([[0, 8, 8, 16]]), np.full(16, -1)
    cuda.match(*spots, *spots, pairs, partner, gate=8.0, costs=np.linspace(0.0, 900.0, 65), cost_unmatched=1000)
    assert np.any(partner >= 0)
    offsets = np.array([0, 4, 9])
    steps, errors = rng.normal(0.0, 0.4, (2, 7)), np.full((2, 9), 0.01)
    cuda.likelihood(
        *steps, np.ones(7, np.int32), *errors, np.full(2, 1 / 6), offsets, np.geomspace(0.1, 50.0, 200),
        frame_interval_s=1 / 30,
    )  # fmt: skip
