"""The camera, pixel by pixel: what turns grey levels (DN) into photoelectrons and says how noisy they are."""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from exotrack.errors import InputError
from exotrack.tables import F32, F64, Array

MAPS: Final = ("offset", "gain", "variance")
"""Names of the maps, as fields and in the file."""
LEAST_LEVELS: Final = 2
"""Levels of light that a calibration needs."""


@dataclass(frozen=True, eq=False)
class Camera:
    """Offset, gain and read noise of every pixel of an sCMOS, CCD or EMCCD camera.

    A pixel that collects n photoelectrons on average reads n × gain + offset (DN) on average, with the variance
    excess × n × gain² + variance (DN²) [1]_, [2]_. Maps are float32, read-only, of shape (height, width), and cover the
    part of the sensor that the frames show, in the same orientation. Cameras are compared by their `sha256`.

    Raises
    ------
    InputError
        If a map is no two-dimensional array of real numbers, is not finite somewhere, differs in shape from the others
        or has a value that no camera has (gain ≤ 0, variance < 0), or the excess is below 1.

    References
    ----------
    .. [1] F. Huang et al., Video-rate nanoscopy using sCMOS camera-specific single-molecule localization algorithms,
       Nature Methods 10, 653–658 (2013), doi:10.1038/nmeth.2488
    .. [2] M. S. Robbins and B. J. Hadwen, The noise performance of electron multiplying charge-coupled devices,
       IEEE Transactions on Electron Devices 50, 1227–1232 (2003), doi:10.1109/TED.2003.813462

    Examples
    --------
    >>> camera = Camera(offset=np.full((2, 3), 100), gain=np.full((2, 3), 2), variance=np.full((2, 3), 8))
    >>> camera.electrons(np.full((1, 2, 3), 120, np.uint16)).tolist()
    [[[10.0, 10.0, 10.0], [10.0, 10.0, 10.0]]]
    >>> camera.read_variance[0].tolist()
    [2.0, 2.0, 2.0]
    """

    offset: F32
    """Mean grey level without light, DN."""
    gain: F32
    """Grey levels per photoelectron, DN, > 0; with a multiplication register its gain included."""
    variance: F32
    """Variance of the read noise, DN²; not its s.d."""
    excess: float = 1.0
    """Excess noise factor F² of a multiplication register: 2 for an EMCCD at high gain, 1 for other cameras."""

    def __post_init__(self) -> None:
        for name in MAPS:
            object.__setattr__(self, name, _checked_map(name, getattr(self, name)))
        shapes = {name: getattr(self, name).shape for name in MAPS}
        if len(set(shapes.values())) > 1:
            words = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise InputError(f"maps of different shape (height, width): {words}; give one value per pixel in each")
        _check_values("gain", self.gain, self.gain > 0, "DN per photoelectron are a positive number")
        _check_values("variance", self.variance, self.variance >= 0, "a variance (DN²) is 0 or more")
        object.__setattr__(self, "excess", _checked_excess(self.excess))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the maps in px."""
        height, width = self.gain.shape
        return height, width

    @property
    def read_variance(self) -> F32:
        """Variance of the read noise in photoelectrons², float32, shape (height, width)."""
        return self.variance / self.gain / self.gain  # the square of a small gain would underflow

    @cached_property
    def sha256(self) -> str:
        """Hash of shape, maps and excess: cameras with equal hashes give equal results."""
        digest = hashlib.sha256(f"{self.shape} {self.excess!r}".encode())
        for name in MAPS:
            digest.update(np.ascontiguousarray(getattr(self, name), "<f4").data)  # the same on every machine
        return digest.hexdigest()

    def electrons(self, frames: Array) -> F32:
        """Grey levels as photoelectrons: (frames − offset) / gain.

        Parameters
        ----------
        frames : array, shape (n_frames, height, width) or (height, width)
            Grey levels in DN, of any real dtype.

        Returns
        -------
        array of float32, same shape
            Photoelectrons; read noise makes some of them negative.

        Raises
        ------
        InputError
            If the frames are not of the size of the maps.
        """
        if frames.ndim not in (2, 3) or frames.shape[-2:] != self.shape:
            raise InputError(
                f"frames of shape {frames.shape} and camera maps of shape {self.shape}: height and width must be the "
                "same; cut the maps to the part of the sensor that was recorded"
            )
        electrons: F32 = np.subtract(frames, self.offset, dtype=np.float32)
        electrons /= self.gain
        return electrons

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a calibration that `save`, or NumPy's `savez`, wrote.

        Parameters
        ----------
        path : str or Path
            A NumPy .npz file with the arrays offset (DN), gain (DN per photoelectron) and variance (DN²), and
            optionally the number excess. One or two of the three may be single numbers, which then hold for all
            pixels. Nothing in the file is executed: pickled objects are refused.

        Raises
        ------
        InputError
            If the file is missing, is no .npz file or damaged, lacks an array, or holds values that no camera has.

        Examples
        --------
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "camera.npz"
        >>> np.savez(file, offset=np.full((2, 3), 100.0), gain=2.0, variance=8.0, excess=2.0)
        >>> camera = Camera.from_file(file)
        >>> camera.shape, camera.excess, camera.gain[0].tolist()
        ((2, 3), 2.0, [2.0, 2.0, 2.0])
        """
        path = Path(path)
        arrays = _read_arrays(path)
        shape = next((arrays[name].shape for name in MAPS if arrays[name].ndim == 2), None)
        if shape is None:
            raise InputError(f"{path}: none of {', '.join(MAPS)} is a map of shape (height, width); give one at least")
        maps = {name: arrays[name] if arrays[name].ndim else np.broadcast_to(arrays[name], shape) for name in MAPS}
        excess: Any = arrays.get("excess", np.array(1.0))
        try:
            return cls(**maps, excess=excess.item() if excess.size == 1 else excess)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write the calibration as `from_file` reads it: whole or not at all, and equal cameras as equal bytes.

        Parameters
        ----------
        path : str or Path
            By custom ending in .npz. An existing file is replaced.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        path = Path(path)
        beside = path.with_name(f".tmp-{os.getpid()}-{path.name}")
        try:
            with beside.open("wb") as stream:
                np.savez(stream, offset=self.offset, gain=self.gain, variance=self.variance, excess=self.excess)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(beside, path)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); check the path") from None
        finally:
            with suppress(OSError):
                beside.unlink()

    @classmethod
    def calibrate(cls, dark: Array, flats: Sequence[Array], excess: float = 1.0) -> Self:
        """Calibrate a camera from frames without light and from frames of steady, even light.

        Offset and read noise are mean and variance of the dark frames. The gain of a pixel is the slope, by least
        squares, of its variance beyond the read noise over its signal, divided by the excess [1]_.

        Parameters
        ----------
        dark : array, shape (n_frames, height, width)
            Frames with the shutter closed, DN, two at least; some thousands for the noise of single pixels.
        flats : sequence of arrays, each of shape (n_frames, height, width)
            Frames at two or more levels of light, DN, none of them saturated. They need not be the same number.
        excess : float
            Excess noise factor F² of the multiplication register; it cannot be told from the gain.

        Raises
        ------
        InputError
            If there are too few frames or levels, sizes differ, or most pixels do not get noisier with light.

        Notes
        -----
        The relative error of the gain of one pixel is about √(2 / number of frames at the brightest level). A defective
        pixel, whose noise does not grow with the light, gets the median gain, and as the s.d. of its read noise the
        largest signal of all: it counts for next to nothing. Light that flickers adds to the variance and makes the
        gain too large.

        References
        ----------
        .. [1] F. Huang et al., Video-rate nanoscopy using sCMOS camera-specific single-molecule localization
           algorithms, Nature Methods 10, 653–658 (2013), doi:10.1038/nmeth.2488

        Examples
        --------
        >>> rng = np.random.default_rng(1)
        >>> shape = (500, 8, 8)
        >>> dark = rng.normal(100, 3, shape)
        >>> flats = [2.0 * rng.poisson(level, shape) + rng.normal(100, 3, shape) for level in (50, 200)]
        >>> round(float(Camera.calibrate(dark, flats).gain.mean()), 1)
        2.0
        """
        excess = _checked_excess(excess)
        if len(flats) < LEAST_LEVELS:
            raise InputError(f"flats: {len(flats)} level(s) of light; give frames at {LEAST_LEVELS} or more")
        offset, variance = _moments("dark", dark)
        product, square = np.zeros_like(offset), np.zeros_like(offset)
        for number, flat in enumerate(flats):
            mean, noisy = _moments(f"flats[{number}]", flat)
            if mean.shape != offset.shape:
                raise InputError(f"flats[{number}]: frames of shape {mean.shape}, the dark ones are {offset.shape}")
            product += (mean - offset) * (noisy - variance)
            square += (mean - offset) ** 2
        slope = np.divide(product, square, out=np.zeros_like(square), where=square > 0)
        sound = slope > 0
        if not sound.mean() > 0.5:
            raise InputError(
                f"flats: in {(~sound).sum()} of {sound.size} pixels the noise does not grow with the light; give "
                "levels that are brighter than the dark frames and not saturated"
            )
        slope[~sound], variance[~sound] = np.median(slope[sound]), square.max()
        gain = slope / excess
        return cls(offset.astype(np.float32), gain.astype(np.float32), variance.astype(np.float32), excess)


def _checked_map(name: str, values: Any) -> F32:
    """The map as read-only float32."""
    given = np.asarray(values)
    if given.dtype.kind not in "iuf" or given.ndim != 2 or not given.size:
        raise InputError(
            f"{name} is {given.dtype} of shape {given.shape}; give one real number per pixel, shape (height, width)"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
        checked: F32 = np.array(given, np.float32, order="C")  # a copy: the caller's array may change
    checked.flags.writeable = False
    _check_values(name, checked, np.isfinite(checked), "replace what is not finite")
    return checked


def _check_values(name: str, values: F32, good: Array, rule: str) -> None:
    if good.all():
        return
    y, x = np.argwhere(~good)[0]
    more = f" and {(~good).sum() - 1} more" if (~good).sum() > 1 else ""
    raise InputError(f"{name} = {values[y, x]:g} at pixel (y {y}, x {x}){more}: {rule}; correct the map")


def _checked_excess(excess: Any) -> float:
    number = isinstance(excess, int | float | np.number) and not isinstance(excess, bool)
    if not (number and np.isreal(excess) and 1 <= excess < math.inf):
        raise InputError(
            f"excess = {excess!r}: the excess noise factor F² is a number of 1 or more; give 2 for an EMCCD at high "
            "gain, 1 for other cameras"
        )
    return float(excess)


def _read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file that make a camera; the maps are there."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the path of the camera's .npz file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: permission denied; give this user read access to it")
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"{path}: not a NumPy .npz file, or cut short; write one with Camera.save, or with numpy.savez from the "
            f"arrays {', '.join(MAPS)}"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            present = list(archive.files)
            arrays = {name: np.asarray(archive[name]) for name in (*MAPS, "excess") if name in present}
    except Exception as error:  # zip, zlib and NumPy each raise their own on damaged or pickled content
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path}: cannot be read ({reason}); copy it again, or write it with numpy.savez from arrays of numbers"
        ) from None
    missing = [name for name in MAPS if name not in arrays]
    if missing:
        raise InputError(
            f"{path}: it lacks {', '.join(missing)}; it holds {', '.join(present) or 'nothing'}. Needed are "
            f"{', '.join(MAPS)}, and excess where it is not 1"
        )
    return arrays


def _moments(name: str, stack: Array) -> tuple[F64, F64]:
    """Mean and unbiased variance of every pixel of a stack; row by row, for the stack may be larger than memory."""
    if stack.ndim != 3 or len(stack) < 2:
        raise InputError(f"{name}: an array of shape {stack.shape}; give two frames or more (n_frames, height, width)")
    mean, variance = np.empty(stack.shape[1:]), np.empty(stack.shape[1:])
    for y in range(stack.shape[1]):
        row = stack[:, y].astype(np.float64)
        mean[y], variance[y] = row.mean(axis=0), row.var(axis=0, ddof=1)
    return mean, variance
