"""The simulation itself: frames with their truth, block by block or as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from exotrack.acquisition import Acquisition
from exotrack.errors import InputError
from exotrack.simulate.camera import Camera, uneven_background
from exotrack.simulate.files import open_writer
from exotrack.simulate.motion import Population, illumination, spot_sigma_px
from exotrack.simulate.specification import Simulation, specify
from exotrack.simulate.spots import add_spots, located
from exotrack.simulate.truth import TrueParticles, TruePositions, TrueSizes, Truth

Floats = npt.NDArray[np.float64]


class Block(NamedTuple):
    """Consecutive frames and what is true of them."""

    first_frame: int
    frames: npt.NDArray[Any]
    """uint8 or uint16, shape (n, height, width)."""
    positions: TruePositions
    particles: TrueParticles
    """The particles that had not appeared in any block before."""


@dataclass(frozen=True)
class SimulatedVideo:
    """A video in memory that `localize` takes like one from a file."""

    frames: npt.NDArray[Any]
    """uint8 or uint16, shape (frames, height, width)."""
    acquisition: Acquisition
    """How it counts as recorded."""
    sequential: bool = False
    """Frames can be read in any order."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height, width."""
        n_frames, height, width = self.frames.shape
        return n_frames, height, width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a pixel."""
        return self.frames.dtype

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Frames from start to stop (exclusive), a view.

        Raises
        ------
        InputError
            If the range is not within the video.
        """
        if not 0 <= start <= stop <= len(self.frames):
            raise InputError(f"frames {start} to {stop} are not within the {len(self.frames)} frames of the video")
        return self.frames[start:stop]

    def blocks(
        self, block_frames: int, start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """First frame and frames of consecutive blocks; the last one may be shorter."""
        end = len(self.frames) if stop is None else stop
        for first in range(start, end, block_frames):
            yield first, self.read(first, min(first + block_frames, end))

    def write(self, path: str | Path) -> None:
        """Write the frames as uncompressed AVI (8 bits) or TIFF, by the suffix of the path; an old file is replaced.

        Raises
        ------
        InputError
            Another suffix, or more than 8 bits into an AVI.
        """
        interval = self.acquisition.frame_interval_s
        with open_writer(Path(path), shape=self.shape, dtype=self.dtype, frame_interval_s=interval) as append:
            append(self.frames)


class Simulated(NamedTuple):
    """A video and the truth about it."""

    video: SimulatedVideo
    truth: Truth


class _Recording:
    """A simulation between two frames: the particles, the camera, the still scene, the names given to particles."""

    def __init__(self, spec: Simulation) -> None:
        self.spec = spec
        # One stream per cause: more stuck particles, say, must not change the paths of the others.
        particles, brightness, scene, noise = (
            np.random.Generator(np.random.PCG64(seed)) for seed in np.random.SeedSequence(spec.seed).spawn(4)
        )
        self.population = Population(spec, particles)
        self.camera = Camera(spec, noise)
        n = len(self.population.diameter_nm)
        spread = np.sqrt(np.log1p(spec.brightness_cv**2))
        self.photons = spec.photons_in_focus(self.population.diameter_nm) * np.exp(
            spread * brightness.standard_normal(n) - spread**2 / 2.0
        )
        self.background = uneven_background(spec)
        self.sign = -1.0 if spec.polarity == "dark" else 1.0
        self.stuck_yx_px: Floats = scene.random((spec.stuck_particles, 2)) * spec.frame_shape - 0.5
        self.scene = self.background + self.sign * self._stuck_image()
        self.name: npt.NDArray[np.int64] = np.full(n, -1, np.int64)
        self.n_named = 0
        self.frame = 0

    def _stuck_image(self) -> Floats:
        image = np.zeros(self.spec.frame_shape)
        y, x = np.ascontiguousarray(self.stuck_yx_px.T)[..., None]
        light = np.full_like(y, self.spec.reference_photons)
        add_spots(image, y, x, np.full_like(y, self.spec.sigma_px), light)
        return image

    def record(self) -> tuple[npt.NDArray[Any], TruePositions, TrueParticles]:
        """The next frame, the particles in it and those of them that are new."""
        spec = self.spec
        exposure = self.population.expose()
        z = exposure.position_um[:, :, 0]
        light = illumination(spec, z)
        lit = np.flatnonzero(light.any(axis=1))
        rows, z, light = exposure.rows[lit], z[lit], light[lit]
        y = exposure.position_um[lit, :, 1] / spec.pixel_size_um - 0.5
        x = exposure.position_um[lit, :, 2] / spec.pixel_size_um - 0.5
        sigma = spot_sigma_px(spec, z)
        photons = self.photons[rows, None] * light / light.shape[1]

        signal = np.zeros(spec.frame_shape)
        add_spots(signal, y, x, sigma, photons)
        image = self.camera.expose(self.scene + self.sign * signal)

        height, width = spec.frame_shape
        centre_y, centre_x = y.mean(axis=1), x.mean(axis=1)
        seen = np.flatnonzero(
            (centre_y >= -0.5) & (centre_y < height - 0.5) & (centre_x >= -0.5) & (centre_x < width - 0.5)
        )
        seen = seen[np.lexsort((centre_x[seen], centre_y[seen]))]
        rows = rows[seen]
        new = self._name(rows)
        peak, y_crlb, x_crlb = located(
            y[seen],
            x[seen],
            sigma[seen],
            photons[seen],
            background=self.background,
            extra_variance=spec.extra_variance_e2,
            dark=spec.polarity == "dark",
        )
        under = self.background[np.rint(centre_y[seen]).astype(int), np.rint(centre_x[seen]).astype(int)]
        positions = TruePositions(
            frame=np.full(len(seen), self.frame, np.int32),
            particle=self.name[rows],
            y=centre_y[seen],
            x=centre_x[seen],
            z_um=z[seen].mean(axis=1),
            mass=(spec.gain_dn * photons[seen].sum(axis=1)).astype(np.float32),
            snr=(peak / np.sqrt(under + spec.extra_variance_e2)).astype(np.float32),
            y_crlb_px=y_crlb.astype(np.float32),
            x_crlb_px=x_crlb.astype(np.float32),
            in_focus=light[seen].mean(axis=1) >= 0.5,
        )
        particles = self._describe(new)
        self.name[self.population.renewed] = -1
        self.frame += 1
        return image, positions, particles

    def _name(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Number the particles that are seen for the first time; returns their rows."""
        new = rows[self.name[rows] < 0]
        self.name[new] = self.n_named + np.arange(len(new))
        self.n_named += len(new)
        return new

    def _describe(self, rows: npt.NDArray[np.int64]) -> TrueParticles:
        return TrueParticles(
            particle=self.name[rows],
            component=self.population.component[rows],
            diameter_nm=self.population.diameter_nm[rows],
            D_um2_s=self.population.D_um2_s[rows],
            mass=(self.spec.gain_dn * self.photons[rows]).astype(np.float32),
        )


def frames_iter(spec: Simulation, *, block_frames: int = 64) -> Iterator[Block]:
    """Frames and truth in consecutive blocks; no more than one block is held.

    Parameters
    ----------
    spec : Simulation
        What to simulate.
    block_frames : int
        Frames per block, ≥ 1; the last block may be shorter. It does not change a byte of the result.

    Yields
    ------
    Block
        First frame, frames, positions in them, and the particles that had not appeared before.
    """
    recording = _Recording(spec)
    for first in range(0, spec.n_frames, block_frames):
        n = min(block_frames, spec.n_frames - first)
        images, positions, particles = zip(*(recording.record() for _ in range(n)), strict=True)
        yield Block(first, np.stack(images), TruePositions.concat(positions), TrueParticles.concat(particles))


def simulate(spec: Simulation | None = None, **overrides: Any) -> Simulated:
    """Simulate a video of Brownian particles and all that is true of it.

    Particles perform three-dimensional Brownian motion in a reservoir around the observed depth, so they enter and
    leave through its faces and the borders of the frame. During the exposure each is drawn at several instants, as a
    Gaussian integrated over the pixels; the camera adds shot noise and read noise, rounds and clips.

    Parameters
    ----------
    spec : Simulation, optional
        What to simulate; left out, the defaults.
    **overrides
        Settings of `Simulation` that replace those of `spec`.

    Returns
    -------
    video : SimulatedVideo
        Frames in memory; use `frames_iter` or `write` for long videos.
    truth : Truth
        Positions, particles, size distribution and concentration.

    Raises
    ------
    InputError
        An unknown or invalid setting.

    Examples
    --------
    >>> video, truth = simulate(n_frames=3, frame_shape=(64, 96), particles_per_frame=10, seed=2)
    >>> video.shape, str(video.dtype)
    ((3, 64, 96), 'uint8')
    >>> round(truth.sizes.d50_nm, 6)
    100.0
    """
    spec = specify(spec, overrides)
    recording = _Recording(spec)
    frames = np.empty((spec.n_frames, *spec.frame_shape), spec.dtype)
    positions: list[TruePositions] = []
    particles: list[TrueParticles] = []
    for i in range(spec.n_frames):
        frames[i], found, new = recording.record()
        positions.append(found)
        particles.append(new)
    truth = Truth(
        positions=TruePositions.concat(positions),
        particles=TrueParticles.concat(particles),
        sizes=TrueSizes(spec.sizes),
        concentration_per_ml=spec.concentration,
        stuck_yx_px=recording.stuck_yx_px,
    )
    return Simulated(SimulatedVideo(frames, spec.acquisition), truth)
