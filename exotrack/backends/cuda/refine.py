"""Maximum-likelihood fits of spots on the device, a warp for each."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import numpy as np

from exotrack.backends.cuda import device
from exotrack.backends.cuda.device import Uploaded
from exotrack.backends.cuda.filter import PIXEL_TYPES
from exotrack.backends.cuda.sources import Constants
from exotrack.tables import F32, F64, I32, U16, Array

reference: Any = import_module("exotrack.backends.cpu.refine")  # the module: its name in the package is the function's
_WARPS: Final = 4
_THREADS: Final = 128
_AS_ON_THE_CPU: Final = {
    name: getattr(reference, name)
    for name in (
        *("SATURATED", "EDGE", "CROWDED", "SEED_ONLY", "ITERATIONS", "NEIGHBOURS", "SETTLED", "SWEEPS", "ENOUGH"),
        *("FAINT_2", "FAINT_4", "NARROWEST", "WIDEST"),
    )
}


def refine(
    frames: Array | Uploaded,
    background: F32 | Uploaded,
    variance: F32 | Uploaded,
    frame: I32,
    y: F32,
    x: F32,
    *,
    sign: float,
    sigma: float,
    gain: float,
    half: int,
    saturation: float,
    free_width: bool,
) -> tuple[F64, U16]:
    """As `exotrack.backends.cpu.refine`, to the last bits of float32 sums.

    Flags are the same. Of 5,700 spots on 30 particles per frame of 128 × 128 px, with either width and gain 0 or 0.7,
    99 of 100 positions differ by less than 10⁻⁶ px; the others, where rounding makes one of the backends iterate once
    more, by 10⁻⁴ px, and one free width that the data do not determine by 10⁻² px (0.04 standard errors). Where the
    answer hangs on the last bit, as among three spots in one, the backends differ as much as the CPU's results do when
    the last bit of the background changes: one or two flags of 4,100 at 150 particles per frame, free width.
    """
    n = len(frame)
    n_frames, height, width = frames.shape
    if n == 0:
        return np.empty((9, 0)), np.empty(0, np.uint16)
    border = np.searchsorted(frame, np.arange(n_frames + 1)).astype(np.int64)
    constants: Constants = {
        "PIXEL": PIXEL_TYPES[np.dtype(frames.dtype).name],
        "HALF": half,
        "FREE_WIDTH": int(free_width),
        "WARPS": _WARPS,
        "THREADS": _THREADS,
        **_AS_ON_THE_CPU,
    }
    with device.lane("refine") as lane:
        images = tuple(lane.put(a) for a in (frames, background, variance))
        at, seed_y, seed_x, first = (lane.put(a) for a in (frame, y, x, border))
        fitted, errors, seeds = (lane.empty((rows, n), np.float64) for rows in (6, 2, 2))
        pixels, near, n_near = (lane.empty(length, np.int32) for length in (n, n * reference.NEIGHBOURS, n))
        values, flags = lane.empty((9, n), np.float64), lane.empty(n, np.uint16)
        sizes = (np.int64(n), np.int32(height), np.int32(width))
        model = (np.float32(sign), np.float64(sigma), np.float32(gain), np.float64(saturation))
        lane.launch(
            "refine",
            "fit",
            (-(-n // _WARPS), 1, 1),
            32 * _WARPS,
            (*images, at, seed_y, seed_x, *sizes, *model, fitted, errors, seeds, pixels, near, n_near, flags),
            constants,
        )
        lane.launch(
            "refine",
            "fit_crowded",
            (n_frames, 1, 1),
            32,
            (*images, first, seed_y, seed_x, *sizes, *model, near, n_near, fitted, errors, pixels),
            constants,
        )
        lane.launch(
            "refine",
            "finish",
            (-(-n // _THREADS), 1, 1),
            _THREADS,
            (images[2], seed_y, seed_x, *sizes, np.float64(sigma), fitted, errors, seeds, pixels, values, flags),
            constants,
        )
        return lane.get(values), lane.get(flags)
