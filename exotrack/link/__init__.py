"""Localizations → Tracks.

Each pair of consecutive frames is one exact assignment problem whose costs are the likelihoods of steps; the links
are then chained, and gaps of a few frames are closed between the ends and the starts of chains. What the costs need,
the collective flow and the distribution of steps, is learned from the video itself:

`material` puts the spots in order · `frames` says which rows may be linked · `rest` tells what the flow leaves behind ·
`flow` votes for the flow and refines it · `steps` learns the mixture of diffusion coefficients · `brightness` says how
far the ends of a link must look alike · `pairs` links consecutive frames and `gaps` those farther apart. The
assignment is the backend's.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np

from exotrack import backends
from exotrack.acquisition import Acquisition
from exotrack.link.gaps import close_gaps
from exotrack.link.material import Material, in_order
from exotrack.link.pairs import link_pairs
from exotrack.protocol import Protocol
from exotrack.tables import U16, LinkSummary, Localizations, Mask, SpotFlag, Tracks


def link(
    spots: Localizations,
    acquisition: Acquisition,
    protocol: Protocol | None = None,
    *,
    backend: str = "auto",
    threads: int = 1,
) -> Tracks:
    """Join the localizations of each particle into tracks.

    Parameters
    ----------
    spots : Localizations
        In any order of rows. Standard errors of the positions may be NaN and then count as zero.
    acquisition : Acquisition
        Pixel size, frame interval, exposure and temperature give the reach of the smallest particle; no track
        crosses a frame of `cuts`.
    protocol : Protocol, optional
        The section `link` is used.
    backend : {"auto", "cpu", "cuda"}
        Where the work is done; the result is the same.
    threads : int
        Threads that share the pairs of frames; it never changes a result.

    Returns
    -------
    Tracks
        The spots that belong to tracks of two spots or more, by track, then frame; tracks are numbered by their first
        frame, then position. `particle` ends where a track was cut because another spot came near; the pieces share
        their `identity`. `linking` says what was found out. Empty where nothing can be linked.

    Raises
    ------
    InputError
        For a frame number that is negative or above ten million, or a position that is not finite.
    BackendError
        For a backend that is not available.

    Notes
    -----
    A link of length r costs −ln f(r) for the density f of steps, and pays if that is less than leaving both spots
    unmatched: −ln[(1−P)²ρ/P] for a share P of spots with a partner and ρ spots per area. Flow, f and P are learned
    from the distances between all spots of consecutive frames, before anything is linked; the links then refine the
    flow. A gap is closed where f over that time exceeds the density of starting tracks.

    A track is cut behind frame t where another spot *of frame t* is nearer than `isolation` times the gate. That looks
    at the past only, so the steps that remain are as long as if nothing had been cut; to reject links whose target has
    a second candidate would favour short steps.

    With x = πρv for a mean squared step v ≈ 4DΔt, about x/2 of the links are wrong without cuts: 1.4 % at x = 0.03,
    5 % at 0.1, 14 % at 0.3, as for an assignment that knows D; with cuts at half the gate, 0.3, 1 and 3 %, at the price
    of 8, 22 and 54 % of the links.

    Spots that are found again at their place before and behind, while the flow would have carried them away, have no
    part in the flow and are expected where they are; they get the flag RESTING. With `flow = "affine"` the flow may
    change linearly over the field, by least squares in which each frame has a mean of its own.

    The protocol's `evidence` allows a second pass. "track" judges a step also by those before and behind it: with
    diffusion coefficients of 0.4 and 4 at x = 0.1, 3.2 % instead of 3.6 % of the links are wrong. "brightness" asks
    also how much both ends look alike, as far as brightness is found to be kept along links: where particles differ by
    70 % and flicker by 20 %, 1.6 % instead of 4.7 % are wrong. It is not the default, since a particle that moves in
    depth changes its brightness with its place.

    Time and memory grow with the number of spots, wherever they lie: 0.5 µs per spot on one core at x = 0.1. Spots
    that lie too densely for that are not linked, or only over shorter distances, and counted.

    References
    ----------
    Crocker & Grier, J. Colloid Interface Sci. 179, 298 (1996), doi:10.1006/jcis.1996.0217 (likelihood of links);
    Jaqaman et al., Nat. Methods 5, 695 (2008), doi:10.1038/nmeth.1237 (assignment, gap closing).

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"frame": [0, 1, 3], "y": [5.0, 5.5, 5.2], "x": [9.0, 9.4, 9.1]})
    >>> spots = Localizations.from_pandas(table)
    >>> tracks = link(spots, Acquisition(pixel_size_um=0.166, frame_interval_s=1 / 30))
    >>> tracks.particle.tolist(), tracks.linking.n_links
    ([0, 0, 0], 2)
    """
    settings = (protocol or Protocol()).link
    order = in_order(spots)
    with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as executor:
        material = Material.of(spots, order, acquisition, settings, backends.load(backend), executor)
        linked = link_pairs(material, spots, order, acquisition)
        n_shrunk = linked.n_shrunk + close_gaps(material, linked)
        gate = linked.steps.gate(settings.miss_probability)
        cut = np.where(_crowded(material, settings.isolation * gate), -1, linked.successor)
    rows, particle, identity = material.engine.number_tracks(linked.successor, cut)
    kept = spots.take(order[rows])
    columns = {name: getattr(kept, name) for name in Localizations.columns()}
    columns["flag"] = _flagged(kept.flag, linked.resting[rows])
    flow = linked.flow
    return Tracks(
        **columns,
        particle=particle,
        identity=identity,
        model=spots.model,
        linking=LinkSummary(
            n_links=int(np.sum(linked.successor >= 0)),
            gate_px=gate,
            mislink_index=np.pi * linked.steps.density * linked.steps.mean_square,
            density_px2=linked.steps.density,
            flow_y_px=flow.moved[:, 0].copy(),
            flow_x_px=flow.moved[:, 1].copy(),
            flow_centre_px=flow.centre,
            flow_gradient=flow.gradient if settings.flow == "affine" else None,
            shear_px=linked.shear_px,
            n_shrunk=n_shrunk,
        ),
    )


def _crowded(material: Material, reach: float) -> Mask:
    """Which spots have another one in their frame nearer than `reach`."""
    close = np.zeros(len(material.y), bool)
    if reach > 0.0:
        frames = np.stack([material.frames.offsets[:-1], material.frames.offsets[1:]], axis=1)
        material.each(lambda part: material.engine.crowded(material.y, material.x, part, close, reach=reach), frames)
    return close


def _flagged(flag: U16, resting: Mask) -> U16:
    """Flags of spots with those at rest marked, and no others."""
    others = flag & ~np.uint16(SpotFlag.RESTING)
    return np.asarray(others | np.where(resting, SpotFlag.RESTING, 0), np.uint16)
