"""Links between consecutive frames, with flow and steps learned along the way."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from exotrack.acquisition import Acquisition
from exotrack.link import flow as collective
from exotrack.link.brightness import compare_brightness
from exotrack.link.flow import Flow
from exotrack.link.frames import Frames
from exotrack.link.material import Material
from exotrack.link.rest import at_rest, beside_recurring, place_radius, recurring
from exotrack.link.steps import Steps, any_steps, count_neighbours, learn_steps
from exotrack.tables import F32, F64, I64, Localizations, Mask

ROUNDS = 4
"""Times that flow and steps are learned from each other's results at most; two are the rule."""
SETTLED = 0.1
"""Change of the flow, in root mean squared steps, below which they have settled."""
COST_UNIT = 1e-6
"""Log-likelihood that one integer unit of cost stands for."""
COSTS = 4096
"""Distances, from 0 to the gate, at which costs are tabulated."""
LINKS_FOR_GRADIENT = 500
"""Links that a gradient of the flow is averaged over at least: it takes two in so many from their squared steps."""


@dataclass(frozen=True)
class Linked:
    """Links between consecutive frames, and what they were made with."""

    successor: I64
    """Row that follows each row in its track, or -1."""
    flow: Flow
    """As refined by these links."""
    resting: Mask
    """Rows at rest in this flow, which it does not carry."""
    steps: Steps
    shear_px: float
    """As in `LinkSummary`."""
    n_shrunk: int
    """How often groups were narrowed."""

    def carry(self, material: Material, lag: int = 1) -> tuple[F64, F64]:
        """Where each row is expected `lag` frames later, px."""
        return _carry(material, self.flow, self.resting, lag)


def link_pairs(material: Material, spots: Localizations, order: I64, acquisition: Acquisition) -> Linked:
    """Link each frame to the next; `order` takes the rows of `spots` into those of the material."""
    settings = material.settings
    error = _position_error(spots)
    prior = _prior(material, error, acquisition)
    linked = _link_by_step(material, prior, place_radius(error))
    if settings.evidence == "step":
        return linked
    mass = spots.mass[order] if settings.evidence == "brightness" else np.zeros(len(order), np.float32)
    return _link_again(material, linked, mass)


def _link_by_step(material: Material, prior: Steps, radius: float) -> Linked:
    """Links, flow and steps from each other, until the flow and what rests in it have settled."""
    frames, settings = material.frames, material.settings
    reach = prior.reach(settings.miss_probability)
    around = count_neighbours(material, reach)
    flow, recurs = Flow.none(frames.n_steps, material.centre), np.zeros(len(material.y), bool)
    if settings.flow != "none":
        recurs = recurring(material, radius)
        flow = replace(flow, moved=_vote(material, ~recurs, reach))
    resting = at_rest(material, recurs, flow, radius)
    everything, (_, pairs) = np.arange(len(material.y)), frames.pairs(1)
    shear_px, settled = 0.0, settings.flow == "none"
    for _ in range(ROUNDS):
        at = _carry(material, flow, resting)
        steps = learn_steps(prior, around, material, at, reach)
        steps = replace(steps, density=around.density(steps.gate(settings.miss_probability)))
        successor, n_shrunk = match(material, everything, at, pairs, steps, intervals=1, unmatched=steps.unmatched)
        if not settled:
            from_rest = resting | ((successor >= 0) & resting[successor])
            refined, shear_px = _flow_of_links(material, flow, at, steps, np.where(from_rest, -1, successor))
            recurs |= beside_recurring(material, recurs, successor, radius)
            stays = at_rest(material, recurs, refined, radius)
            change = _difference(refined, flow, material.extent)
            settled = change < SETTLED * np.sqrt(steps.mean_square) and np.array_equal(stays, resting)
            flow, resting = refined, stays
        if settled:
            break
    return Linked(successor, flow, resting, steps, shear_px, n_shrunk)


def match(
    material: Material,
    rows: I64,
    at: tuple[F64, F64],
    pairs: I64,
    steps: Steps,
    *,
    intervals: int,
    unmatched: float,
) -> tuple[I64, int]:
    """Link pairs of frames some intervals apart at the costs of such steps.

    Parameters
    ----------
    material : Material
        The spots.
    rows : int64 (n,)
        Those that take part.
    at : (float64, float64)
        Where each row of the material is expected, px.
    pairs : int64 (n_pairs, 4)
        As for the backend's `match`, counting along `rows`.
    steps : Steps
        Their distribution.
    intervals : int
        Frame intervals that a step spans.
    unmatched : float
        Log-likelihood of leaving source and target alone.

    Returns
    -------
    partner : int64 (n,)
        Place in `rows` of the target of each, or -1.
    n_shrunk : int
        How often groups were narrowed.
    """
    gate = steps.gate(material.settings.miss_probability, intervals)
    costs = steps.minus_log_density(np.linspace(0.0, gate, COSTS + 1), intervals) / COST_UNIT
    y, x, at_y, at_x = (values[rows] for values in (material.y, material.x, *at))
    partner = np.full(len(rows), -1, np.int64)
    dear = round(unmatched / COST_UNIT)

    def link(part: I64) -> int:
        shrunk: int = material.engine.match(
            y, x, at_y, at_x, part, partner, gate=gate, costs=costs, cost_unmatched=dear
        )
        return shrunk

    return partner, sum(material.each(link, pairs))


def _position_error(spots: Localizations) -> float:
    """Typical standard error of a position per axis, px; NaN where none is stated."""
    variances = 0.5 * (spots.y_err.astype(np.float64) ** 2 + spots.x_err.astype(np.float64) ** 2)
    stated = variances[np.isfinite(variances)]
    if not len(stated):
        return float("nan")
    error = float(np.sqrt(np.median(stated)))
    # What is not even known to a width is no position.
    return error if spots.model is None else min(error, spots.model.sigma_px)


def _prior(material: Material, error_px: float, acquisition: Acquisition) -> Steps:
    """Steps up to those of the smallest particle of interest, all diffusion coefficients alike."""
    largest = acquisition.stokes_einstein_um2_s_nm / material.settings.smallest_diameter_nm  # D, µm²/s
    noise = error_px**2 if np.isfinite(error_px) else 0.0
    moving = largest * acquisition.frame_interval_s / acquisition.pixel_size_um**2
    return any_steps(moving + noise / (1.0 - 2.0 * acquisition.blur), blur=acquisition.blur, density=0.0)


def _vote(material: Material, moving: Mask, reach: float) -> F64:
    """The flow that the spots which do not stay in place vote for."""
    if moving.all():
        return collective.vote(material.y, material.x, material.frames, reach, material)
    offsets = np.concatenate([[0], np.cumsum(moving)])[material.frames.offsets]
    frames = Frames(offsets, material.frames.sections)
    return collective.vote(material.y[moving], material.x[moving], frames, reach, material)


def _carry(material: Material, flow: Flow, resting: Mask, lag: int = 1) -> tuple[F64, F64]:
    """Where each row is expected `lag` frames later, px."""
    at_y, at_x = flow.carry(material.y, material.x, material.frame, lag)
    if resting.any():
        at_y, at_x = np.where(resting, material.y, at_y), np.where(resting, material.x, at_x)
    return at_y, at_x


def _flow_of_links(
    material: Material, flow: Flow, at: tuple[F64, F64], steps: Steps, successor: I64
) -> tuple[Flow, float]:
    """Flow from the links that were made with the given flow and steps, and the shear in it or left out of it."""
    reach, unit = steps.gate(material.settings.miss_probability), 0.5 * max(material.extent)
    matrix, vector = material.engine.link_moments(
        material.y,
        material.x,
        *at,
        material.frames.offsets,
        successor,
        centre=flow.centre,
        unit=unit,
        reach=reach,
        precision=steps.precision(np.linspace(0.0, reach, COSTS + 1)),
    )
    sections = material.frames.sections[:-1]
    links_per_frame = np.sum(successor >= 0) / max(len(sections), 1)
    shortest = int(LINKS_FOR_GRADIENT / max(links_per_frame, 1e-9))
    slope = collective.refine(*collective.without_constant(matrix, vector), sections, shortest=shortest)
    gradient = np.swapaxes(slope, 1, 2) / unit
    at_border = np.abs(gradient) @ (0.5 * np.array(material.extent))
    shear_px = float(np.mean(np.hypot(at_border[:, 0], at_border[:, 1]))) if len(sections) else 0.0
    if material.settings.flow != "affine":
        slope, gradient = np.zeros_like(slope), np.zeros_like(gradient)
    constant = vector[:, :, :1] - matrix[:, :, :1, 1:] @ slope
    moved = collective.refine(matrix[:, :, :1, :1], constant, sections)
    return replace(flow, moved=moved[:, 0], gradient=gradient), shear_px


def _difference(one: Flow, other: Flow, extent: tuple[float, float]) -> float:
    """Root mean square over the frames of the largest difference of two flows in the field, px."""
    at_centre = np.abs(one.moved - other.moved)
    towards_corner = np.abs(one.gradient - other.gradient) @ (0.5 * np.array(extent))
    square = ((at_centre + towards_corner) ** 2).sum(axis=1)
    return float(np.sqrt(square.mean())) if len(square) else 0.0


def _link_again(material: Material, linked: Linked, mass: F32) -> Linked:
    """Links with the tracks found so far as evidence, and the mass of each spot."""
    steps, engine = linked.steps, material.engine
    at_y, at_x = linked.carry(material)
    brightness, correlation = compare_brightness(mass, linked.successor)
    components = {"weights": steps.weights, "variances": steps.variances()}
    past, future = engine.histories(material.y, material.x, at_y, at_x, linked.successor, **components)
    partner = np.full(len(material.y), -1, np.int64)
    gate, dear = steps.gate(material.settings.miss_probability), round(steps.unmatched / COST_UNIT)

    def link(part: I64) -> int:
        shrunk: int = engine.rematch(
            material.y,
            material.x,
            at_y,
            at_x,
            part,
            partner,
            past,
            future,
            brightness,
            gate=gate,
            correlation=correlation,
            cost_unmatched=dear,
            unit=COST_UNIT,
            **components,
        )
        return shrunk

    n_shrunk = sum(material.each(link, material.frames.pairs(1)[1]))
    return replace(linked, successor=partner, n_shrunk=n_shrunk)
