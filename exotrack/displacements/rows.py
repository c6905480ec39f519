"""Likelihood of every track on the grid of sizes: what both the single particle and the distribution are read from."""

from __future__ import annotations

import numpy as np

from exotrack import backends
from exotrack.acquisition import Acquisition
from exotrack.displacements.prepare import Displacements
from exotrack.protocol import Protocol
from exotrack.tables import F32, F64


def size_grid_nm(protocol: Protocol) -> F64:
    """Hydrodynamic diameters of the size classes in nm, equally spaced in their logarithm."""
    size = protocol.size
    return np.geomspace(size.diameter_min_nm, size.diameter_max_nm, size.grid_points)


def likelihood_rows(d: Displacements, acquisition: Acquisition, protocol: Protocol, *, backend: str = "auto") -> F32:
    """Log-likelihood of each track at each size of the grid, relative to its own maximum.

    Parameters
    ----------
    d : Displacements
        Of one video.
    acquisition : Acquisition
        Conditions of that video, which turn sizes into diffusion coefficients.
    protocol : Protocol
        The size grid, and whether each track may have a velocity of its own.
    backend : str
        "auto", "cpu" or "cuda".

    Returns
    -------
    float32 array, shape (n_tracks, n_grid)
        0 at the most likely size of each track.

    Raises
    ------
    BackendError
        The backend cannot run here.
    """
    diffusion = acquisition.stokes_einstein_um2_s_nm / (size_grid_nm(protocol) * d.diffusion_scale)
    rows: F32 = backends.load(backend).likelihood(
        *d.covariance_model,
        diffusion,
        frame_interval_s=acquisition.frame_interval_s,
        own_velocity=protocol.diffusion.velocity == "track",
    )
    return rows
