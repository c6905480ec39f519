"""Tracks → Particles: diffusion coefficient and hydrodynamic diameter of each track, with their errors.

`maximum` reads estimate and interval off the likelihood · `covariance` and `msd` are cross-checks · `goodness` tests
whether a track is free diffusion · `parts` joins the rows of a track that is stepped through.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from exotrack.acquisition import Acquisition
from exotrack.diffusion.covariance import covariance_based
from exotrack.diffusion.goodness import goodness_of_fit
from exotrack.diffusion.maximum import likelihood_interval, refined_maximum
from exotrack.diffusion.msd import msd_based
from exotrack.diffusion.parts import Parts
from exotrack.displacements import Displacements, displacements, likelihood_rows, size_grid_nm
from exotrack.protocol import Protocol
from exotrack.tables import F32, F64, ParticleFlag, Particles, Tracks

_MIN_STEPS = 2
_SHORT_STEPS = 10
_REJECTED_P = 1e-3


def measure(
    tracks: Tracks,
    acquisition: Acquisition,
    protocol: Protocol | None = None,
    *,
    moved: Displacements | None = None,
    backend: str = "auto",
) -> Particles:
    """Diffusion coefficient and hydrodynamic diameter of every track with at least two displacements.

    The likelihood of a track (see `exotrack.backends.cpu.likelihood`) is evaluated on the size grid of the protocol;
    its maximum is refined by a parabola in ln d, and the interval is where ln L has fallen by 1.92.

    Parameters
    ----------
    tracks : Tracks
        Ordered by particle, then frame; from `exotrack.link` or from trackpy.
    acquisition : Acquisition
        Pixel size, frame interval, exposure, temperature, viscosity.
    protocol : Protocol, optional
        Defaults to all defaults. With ``diffusion.velocity = "track"`` each track may have a constant velocity of its
        own, as in electrophoresis.
    moved : Displacements, optional
        What `exotrack.displacements.displacements` makes of the same tracks, acquisition and protocol, where it is
        there already.
    backend : str
        "auto", "cpu" or "cuda".

    Returns
    -------
    Particles
        One row per track with two displacements or more, in order. Pieces of one identity are rows of their own. Where
        camera or codec carry images over into the next frames, the displacements span several frames, and n_steps
        counts those that do not overlap.

    Raises
    ------
    InputError
        Tracks out of order, or with two localizations in one frame.
    BackendError
        The backend cannot run here.

    Notes
    -----
    From ten displacements on D is unbiased within 1 %, and its s.d. within 5 % of `exotrack.physics.diffusion_crlb`, up
    to σ²/(DΔt) = 1; of ten displacements at 3 it is 3 % too large and 5 to 7 % above that bound.
    The diameter of a short track is wide and skewed: its mean over tracks is larger than that of the particles, so
    that a histogram of these diameters is not a size distribution; use `exotrack.sizing` for that. Tracks below ten
    displacements are flagged SHORT.

    A velocity of the track costs precision: the s.d. of D of ten displacements grows by 6, 11 and 19 % at σ²/(DΔt) of
    0.05, 0.3 and 1, that of twenty by 5 % at 0.3. Without that setting a velocity adds more than half its square times
    Δt to D: the share of tracks flagged MOVING says whether it is needed; it is 0.1 % if not.

    NOT_BROWNIAN is a p-value below 0.001 of `exotrack.diffusion.goodness`, which says what it sees. D is restricted
    to the size grid; at its border the row is flagged OUTSIDE_GRID. Tracks with a negative covariance-based D are kept:
    leaving them out would raise D.

    References
    ----------
    Berglund, Phys. Rev. E 82, 011917 (2010), doi:10.1103/PhysRevE.82.011917.
    """
    settings = protocol or Protocol()
    own_velocity = settings.diffusion.velocity == "track"
    d = displacements(tracks, acquisition, settings) if moved is None else moved
    parts = Parts(d)
    rows = parts.mean_rows(likelihood_rows(d, acquisition, settings, backend=backend))
    log_d = np.log(size_grid_nm(settings))
    peak, curvature = refined_maximum(rows, log_d)
    lo, hi = likelihood_interval(rows, log_d, peak)
    diameter = np.exp(peak)
    diffusion = acquisition.stokes_einstein_um2_s_nm / diameter
    best = rows.argmax(axis=1) if len(rows) else np.empty(0, np.int64)
    misfit, moving = goodness_of_fit(d, acquisition, diffusion[parts.of_row], backend, own_velocity=own_velocity)
    n_steps = parts.largest(d.n_steps)

    flag = np.zeros(len(rows), np.uint16)
    for bit, raised in (
        (ParticleFlag.SHORT, n_steps < _SHORT_STEPS),
        (ParticleFlag.STUCK, d.stuck[parts.first]),
        (ParticleFlag.NOT_BROWNIAN, parts.smallest(misfit) * parts.count < _REJECTED_P),
        (ParticleFlag.MOVING, parts.smallest(moving) * parts.count < _REJECTED_P),
        (ParticleFlag.OUTSIDE_GRID, (best == 0) | (best == len(log_d) - 1)),
    ):
        flag[raised] |= np.uint16(bit)

    track = np.searchsorted(d.particle[parts.first], tracks.particle)
    known = np.isin(tracks.particle, d.particle)

    def mean(column: npt.NDArray[np.floating]) -> F32:
        total = np.bincount(track[known], column[known].astype(np.float64), len(rows))
        return np.asarray(total / parts.total(d.n_frames), np.float32)

    standard_error: F64 = diffusion / np.sqrt(curvature)
    return Particles(
        particle=d.particle[parts.first],
        first_frame=parts.smallest(d.first_frame),
        n_frames=parts.total(d.n_frames),
        n_steps=n_steps,
        D_um2_s=diffusion,
        D_err_um2_s=standard_error,
        D_cve_um2_s=covariance_based(d, parts, acquisition, own_velocity=own_velocity),
        D_msd_um2_s=msd_based(d, parts, acquisition, own_velocity=own_velocity),
        diameter_nm=diameter,
        diameter_lo_nm=np.exp(lo),
        diameter_hi_nm=np.exp(hi),
        mass=d.mass[parts.first].astype(np.float32),
        snr=mean(tracks.snr),
        y=mean(tracks.y),
        x=mean(tracks.x),
        flag=flag,
    ).take(n_steps >= _MIN_STEPS)
