"""Localizations → Tracks.

Each pair of consecutive frames is one exact assignment problem whose costs are the likelihoods of steps; the links
are then chained, and gaps of a few frames are closed between the ends and the starts of chains. What the costs need,
the collective flow and the distribution of steps, is learned from the video itself:

`flow` votes for the flow and refines it · `steps` learns the mixture of diffusion coefficients · `frames` says which
rows may be linked · `brightness` says how far the ends of a link must look alike. The assignment is the backend's.
"""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from exotrack import backends
from exotrack.acquisition import Acquisition
from exotrack.errors import InputError
from exotrack.link import flow as collective
from exotrack.link.brightness import compare_brightness
from exotrack.link.flow import Flow
from exotrack.link.frames import Frames
from exotrack.link.steps import Steps, any_steps, chance_neighbours, learn_steps
from exotrack.protocol import LinkSection, Protocol
from exotrack.tables import F64, I32, I64, LinkSummary, Localizations, Tracks

ROUNDS = 4
"""Times that flow and steps are learned from each other's results at most; two are the rule."""
SETTLED = 0.1
"""Change of the flow, in typical step lengths, below which they have settled."""
COST_UNIT = 1e-6
"""Log-likelihood that one integer unit of cost stands for."""
COSTS = 4096
"""Distances, from 0 to the gate, at which costs are tabulated."""
PARTS = 64
"""Parts in which threads share the pairs of frames."""
LINKS_FOR_GRADIENT = 500
"""Links that a gradient of the flow is averaged over at least: it takes two in so many from their squared steps."""
MOST_FRAMES = 10_000_000
"""Frames that a video may have: a larger number is a time or an error."""
SMALLEST_FIELD = 64.0
"""Height and width, px, that a field of unknown size has at least: a few spots do not span theirs."""


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

    With x = πρv for a mean squared step v ≈ 4DΔt, about x/2 of the links are wrong without cuts: 1.5 % at x = 0.03
    and 5 % at x = 0.1; with cuts at half the gate, 0.3 % and 1 %, at the price of 7 % and 22 % of the links.

    The protocol's `evidence` allows a second pass. "track" judges a step also by those before and behind it: with
    diffusion coefficients of 0.4 and 4 at x = 0.1, 3.3 % instead of 3.6 % of the links are wrong. "brightness" asks
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
    order = _order(spots)
    with ThreadPoolExecutor(threads) if threads > 1 else nullcontext() as executor:
        video = _Video.of(spots, order, acquisition, settings, backends.load(backend), executor)
        flow, steps, successor, n_shrunk = _link_neighbours(video, _prior(video, spots, acquisition))
        if settings.evidence != "step":
            mass = spots.mass[order] if settings.evidence == "brightness" else np.zeros(len(order), np.float32)
            successor, n_shrunk = _link_again(video, flow, steps, successor, *compare_brightness(mass, successor))
        n_shrunk += _close_gaps(video, flow, steps, successor)
    gate = steps.gate(settings.miss_probability)
    cut = successor
    if settings.isolation > 0.0:
        crowded = video.engine.crowded(video.y, video.x, video.frames.offsets, reach=settings.isolation * gate)
        cut = np.where(crowded, -1, successor)
    rows, particle, identity = video.engine.number_tracks(successor, cut)
    kept = spots.take(order[rows])
    return Tracks(
        **{name: getattr(kept, name) for name in Localizations.columns()},
        particle=particle,
        identity=identity,
        model=spots.model,
        linking=LinkSummary(
            n_links=int(np.sum(successor >= 0)),
            gate_px=gate,
            mislink_index=np.pi * steps.density * steps.typical,
            density_px2=steps.density,
            flow_y_px=flow.moved[:, 0].copy(),
            flow_x_px=flow.moved[:, 1].copy(),
            n_shrunk=n_shrunk,
            flow_gradient=flow.gradient if settings.flow == "affine" else None,
        ),
    )


@dataclass(frozen=True)
class _Video:
    """What linking works on."""

    y: F64
    x: F64
    frame: I64
    frames: Frames
    extent: tuple[float, float]
    """Height and width of the field, px; where it is not known, of the box around all spots."""
    settings: LinkSection
    engine: Any
    executor: Executor | None

    @classmethod
    def of(
        cls,
        spots: Localizations,
        order: I64,
        acquisition: Acquisition,
        settings: LinkSection,
        engine: Any,
        executor: Executor | None,
    ) -> Self:
        y, x, frame = spots.y[order], spots.x[order], spots.frame[order].astype(np.int64)
        n_frames = int(frame[-1]) + 1 if len(frame) else 0
        frames = Frames.of(frame, max(n_frames, acquisition.n_frames or 0), acquisition.cuts)
        box = [max(float(np.ptp(axis)) if len(frame) else 0.0, SMALLEST_FIELD) for axis in (y, x)]
        height, width = acquisition.frame_shape or box
        return cls(y, x, frame, frames, (float(height), float(width)), settings, engine, executor)

    @property
    def area(self) -> float:
        """Area of the field, px², times the number of frames."""
        return self.extent[0] * self.extent[1] * max(len(self.frames.sections), 1)

    def match(
        self, rows: I64, pairs: I64, flow: Flow, steps: Steps, *, intervals: int, unmatched: float
    ) -> tuple[I64, int]:
        """Link pairs of frames some intervals apart at the costs of such steps; `pairs` count along `rows`."""
        gate = steps.gate(self.settings.miss_probability, intervals)
        costs = steps.minus_log_density(np.linspace(0.0, gate, COSTS + 1), intervals) / COST_UNIT
        y, x = self.y[rows], self.x[rows]
        at_y, at_x = flow.carry(y, x, self.frame[rows], intervals)
        partner = np.full(len(rows), -1, np.int64)

        def match(part: I64) -> int:
            shrunk: int = self.engine.match(
                y, x, at_y, at_x, part, partner, gate=gate, costs=costs, cost_unmatched=round(unmatched / COST_UNIT)
            )
            return shrunk

        if self.executor is None:
            return partner, match(pairs)
        return partner, sum(self.executor.map(match, np.array_split(pairs, PARTS)))


def _order(spots: Localizations) -> I64:
    """Rows by frame, y, x: the order in which ties are decided. Further columns settle what these leave open."""
    countable = (spots.frame >= 0) & (spots.frame < MOST_FRAMES)
    wrong = np.flatnonzero(~(countable & np.isfinite(spots.y) & np.isfinite(spots.x)))
    if len(wrong):
        row = wrong[0]
        raise InputError(
            f"localizations: row {row} has frame = {spots.frame[row]}, y = {spots.y[row]:g}, x = {spots.x[row]:g}; "
            f"frames count from 0 to {MOST_FRAMES - 1} and positions are finite; mend or remove such rows "
            f"({len(wrong)} in all)"
        )
    order = np.arange(len(spots))
    if not _increasing(spots.frame, spots.y):
        # A single key sorts five times faster than four, and almost always right.
        order = np.argsort(spots.frame * (2.0 * np.ptp(spots.y) + 1.0) + spots.y)
    if not _increasing(spots.frame[order], spots.y[order]):
        order = np.lexsort((spots.mass, spots.x, spots.y, spots.frame))
    return order


def _increasing(frame: I32, y: F64) -> bool:
    """Whether rows are ordered by frame, then y, without ties."""
    later = (frame[1:] > frame[:-1]) | ((frame[1:] == frame[:-1]) & (y[1:] > y[:-1]))
    return bool(later.all())


def _prior(video: _Video, spots: Localizations, acquisition: Acquisition) -> Steps:
    """Steps up to those of the smallest particle of interest, all diffusion coefficients alike."""
    largest = acquisition.stokes_einstein_um2_s_nm / video.settings.smallest_diameter_nm  # D, µm²/s
    variances = 0.5 * (spots.y_err.astype(np.float64) ** 2 + spots.x_err.astype(np.float64) ** 2)
    stated = variances[np.isfinite(variances)]
    noise = float(np.median(stated)) if len(stated) else 0.0  # σ², px²
    if spots.model is not None:
        noise = min(noise, spots.model.sigma_px**2)  # what is not even known to a width is no position
    moving = largest * acquisition.frame_interval_s / acquisition.pixel_size_um**2
    return any_steps(
        moving + noise / (1.0 - 2.0 * acquisition.blur), blur=acquisition.blur, density=len(spots) / video.area
    )


def _link_neighbours(video: _Video, prior: Steps) -> tuple[Flow, Steps, I64, int]:
    """Flow, steps, the successor of each spot in the next frame (-1: none), and how often groups were narrowed."""
    reach = prior.reach(video.settings.miss_probability)
    around = {"reach": reach, "extent": video.extent, "backend": video.engine}
    _, pairs = video.frames.pairs(1)
    everything = np.arange(len(video.y))
    chance = chance_neighbours(video.y, video.x, video.frames, **around)
    flow = Flow.none(video.frames.n_steps, video.extent)
    if video.settings.flow != "none":
        voted = collective.vote(video.y, video.x, video.frames, gate=reach, extent=video.extent, backend=video.engine)
        flow = replace(flow, moved=voted)
    for _ in range(ROUNDS):
        at_y, at_x = flow.carry(video.y, video.x, video.frame)
        steps = learn_steps(prior, chance, video.y, video.x, at_y, at_x, video.frames, **around)
        successor, n_shrunk = video.match(everything, pairs, flow, steps, intervals=1, unmatched=steps.unmatched)
        if video.settings.flow == "none":
            break
        refined = _flow_of_links(video, flow, steps, successor)
        change = _largest_difference(refined, flow, video.extent)
        flow = refined
        if change < SETTLED * np.sqrt(steps.typical):
            break
    return flow, steps, successor, n_shrunk


def _link_again(
    video: _Video, flow: Flow, steps: Steps, successor: I64, brightness: F64, correlation: float
) -> tuple[I64, int]:
    """Successor of each spot with the tracks found so far as evidence, and how often groups were narrowed."""
    at_y, at_x = flow.carry(video.y, video.x, video.frame)
    partner = np.full(len(successor), -1, np.int64)
    n_shrunk = video.engine.rematch(
        video.y,
        video.x,
        at_y,
        at_x,
        video.frames.pairs(1)[1],
        successor,
        partner,
        gate=steps.gate(video.settings.miss_probability),
        weights=steps.weights,
        variances=steps.variances(),
        brightness=brightness,
        correlation=correlation,
        cost_unmatched=round(steps.unmatched / COST_UNIT),
        unit=COST_UNIT,
    )
    return partner, n_shrunk


def _flow_of_links(video: _Video, flow: Flow, steps: Steps, successor: I64) -> Flow:
    """Flow from the links that were made at the given flow and steps."""
    reach, unit = steps.gate(video.settings.miss_probability), 0.5 * max(video.extent)
    at_y, at_x = flow.carry(video.y, video.x, video.frame)
    matrix, vector = video.engine.link_moments(
        video.y,
        video.x,
        at_y,
        at_x,
        video.frames.offsets,
        successor,
        centre=flow.centre,
        unit=unit,
        reach=reach,
        precision=steps.precision(np.linspace(0.0, reach, COSTS + 1)),
    )
    sections = video.frames.sections[:-1]
    of_place, of_rest = np.s_[:, :, 1:, 1:], np.s_[:, :, :1, :1]
    moved = collective.refine(matrix[of_rest], vector[:, :, :1], sections)
    gradient = np.zeros((len(sections), 2, 2))
    if video.settings.flow == "affine":
        shortest = LINKS_FOR_GRADIENT * len(sections) // max(int(np.sum(successor >= 0)), 1)
        rest = vector[:, :, 1:] - matrix[:, :, 1:, :1] @ moved
        slope = collective.refine(matrix[of_place], rest, sections, shortest=shortest)
        moved = collective.refine(matrix[of_rest], vector[:, :, :1] - matrix[:, :, :1, 1:] @ slope, sections)
        gradient = np.swapaxes(slope, 1, 2) / unit
    return replace(flow, moved=moved[:, 0], gradient=gradient)


def _largest_difference(one: Flow, other: Flow, extent: tuple[float, float]) -> float:
    """Bound of the difference of two flows anywhere in the field, px."""
    at_centre = np.abs(one.moved - other.moved)
    towards_corner = np.abs(one.gradient - other.gradient) @ (0.5 * np.array(extent))
    return float((at_centre + towards_corner).max(initial=0.0))


def _close_gaps(video: _Video, flow: Flow, steps: Steps, successor: I64) -> int:
    """Link ends of tracks to starts of tracks some frames later, the shortest gaps first.

    Writes into `successor`; returns how often groups were narrowed.
    """
    n_shrunk = 0
    for lag in range(2, video.settings.gap_frames + 2):
        preceded = np.zeros(len(successor), bool)
        preceded[successor[successor >= 0]] = True
        ends, starts = np.flatnonzero(successor < 0), np.flatnonzero(~preceded)
        offsets = video.frames.offsets
        _, pairs = video.frames.pairs(lag, np.searchsorted(ends, offsets), len(ends) + np.searchsorted(starts, offsets))
        rows = np.concatenate([ends, starts])
        # An end is as likely a particle that was missed as one that left; the start found may be any other's.
        unmatched = -np.log(max(len(starts), 1) / video.area)
        partner, shrunk = video.match(rows, pairs, flow, steps, intervals=lag, unmatched=unmatched)
        linked = np.flatnonzero(partner >= 0)
        successor[rows[linked]] = rows[partner[linked]]
        n_shrunk += shrunk
    return n_shrunk
