"""Localizations → Tracks, against exact assignment, known trajectories and the symmetries of the problem."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trackpy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from exotrack import backends
from exotrack.acquisition import Acquisition
from exotrack.backends.cpu.match import MOST_IN_CELL
from exotrack.displacements import displacements
from exotrack.errors import InputError
from exotrack.link import link
from exotrack.link.frames import Frames, sample
from exotrack.link.material import Material
from exotrack.link.steps import any_steps, count_neighbours, learn_steps
from exotrack.physics import stokes_einstein_constant, water_viscosity_mpa_s
from exotrack.protocol import Protocol
from exotrack.tables import Localizations, SpotFlag, Tracks

FIELD = (240, 320)
LAPTRACK = Path(__file__).parents[1] / "../shared/data/laptrack_edges"


# --- material -----------------------------------------------------------------------------------------------------


def spots_at(frame, y, x, error=np.nan):
    """Localizations at given places."""
    n = len(frame)
    rest = {name: np.zeros(n) for name in Localizations.columns() if name not in ("frame", "y", "x")}
    errors = {"y_err": np.full(n, error), "x_err": np.full(n, error)}
    return Localizations(**rest | errors | {"frame": np.asarray(frame, np.int32), "y": y, "x": x})


def acquisition_of(step_px2, *, diameter_nm=100.0, **more):
    """An acquisition in which a particle of this diameter has D·Δt = `step_px2` px²."""
    diffusion = stokes_einstein_constant(25.0, water_viscosity_mpa_s(25.0)) / diameter_nm
    pixel = float(np.sqrt(diffusion / 30.0 / step_px2))
    return Acquisition(**{"pixel_size_um": pixel, "frame_interval_s": 1 / 30, "frame_shape": FIELD} | more)


def protocol_of(**section):
    return Protocol.from_dict({"link": section})


def brownian(n, n_frames, steps_px2, seed, *, flow=None, dropout=0.0, error=0.0, margin=100):
    """Localizations, and the particle of each, of `n` particles per frame that diffuse through from all sides."""
    rng = np.random.default_rng(seed)
    size = np.array(FIELD) + 2 * margin
    population = round(n * size.prod() / np.prod(FIELD))
    step = rng.choice(np.atleast_1d(steps_px2), population)
    place = rng.uniform(0, size, (population, 2))
    flow = np.zeros((n_frames, 2)) if flow is None else flow
    rows = []
    for frame in range(n_frames):
        seen_at = place - margin + rng.normal(0, error, place.shape)
        seen = np.all((seen_at >= 0) & (seen_at < FIELD), axis=1) & (rng.random(population) >= dropout)
        rows.append(np.column_stack([np.full(population, frame), seen_at, np.arange(population)])[seen])
        place = (place + rng.normal(0, np.sqrt(2 * step)[:, None], place.shape) + flow[frame]) % size
    table = np.concatenate(rows)
    table = table[np.lexsort((table[:, 2], table[:, 1], table[:, 0]))]
    return spots_at(table[:, 0], table[:, 1], table[:, 2], error), table[:, 3].astype(int)


def links_of(tracks):
    """Set of links, each by the frame and place of its two ends."""
    spot = list(zip(tracks.frame.tolist(), tracks.y.tolist(), tracks.x.tolist(), strict=True))
    same = np.flatnonzero(np.diff(tracks.particle) == 0)
    return {(spot[i], spot[i + 1]) for i in same}


def score(tracks, spots, truth):
    """Share of wrong links, and mean squared one-frame displacement over that of the true links, flow ignored."""
    known = {(f, y, x): p for f, y, x, p in zip(spots.frame, spots.y, spots.x, truth, strict=True)}
    particle = np.array([known[key] for key in zip(tracks.frame, tracks.y, tracks.x, strict=True)])
    same = np.diff(tracks.particle) == 0
    wrong = np.mean(particle[1:][same] != particle[:-1][same])
    return float(wrong), float(squared_steps(tracks.frame, tracks.y, tracks.x, tracks.particle).mean())


def squared_steps(frame, y, x, particle, flow=None):
    """Squared one-frame displacements of rows of the same particle, minus the flow."""
    order = np.lexsort((frame, particle))
    frame, y, x, particle = frame[order], y[order], x[order], particle[order]
    one = (np.diff(particle) == 0) & (np.diff(frame) == 1)
    moved = np.column_stack([np.diff(y), np.diff(x)])[one]
    if flow is not None:
        moved = moved - flow[frame[:-1][one]]
    return (moved**2).sum(axis=1)


def one_pair(sources, targets):
    """Positions and rows of a single pair of frames."""
    places = np.concatenate([sources, targets])
    pairs = np.array([[0, len(sources), len(sources), len(places)]])
    return np.ascontiguousarray(places[:, 0]), np.ascontiguousarray(places[:, 1]), pairs


def match(y, x, pairs, *, flow=(0.0, 0.0), gate=3.0, costs=None, cost_unmatched=9001):
    """Partners by the CPU backend, and how often groups were narrowed."""
    partner = np.full(len(y), -1)
    costs = SQUARED if costs is None else costs
    arguments = {"gate": gate, "costs": costs, "cost_unmatched": cost_unmatched}
    n_shrunk = backends.load("cpu").match(y, x, y + flow[0], x + flow[1], pairs, partner, **arguments)
    return partner, n_shrunk


SQUARED = 1000.0 * np.linspace(0.0, 3.0, 301) ** 2
"""Costs of links up to 3 px long: the square of the distance."""


# --- oracle: exact assignment -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), m=st.integers(1, 40), dear=st.integers(500, 20_000))
def test_match_has_the_cost_and_the_links_of_a_dense_assignment(seed, n, m, dear):
    rng = np.random.default_rng(seed)
    sources, targets = rng.uniform(0, 12, (n, 2)), rng.uniform(0, 12, (m, 2))
    partner, n_shrunk = match(*one_pair(sources, targets), cost_unmatched=dear)
    distance = np.hypot(*(sources[:, None] - targets[None]).T).T
    at = np.minimum((distance * 100).astype(int), 299)
    cost = np.rint(SQUARED[at] + (distance * 100 - at) * (SQUARED[at + 1] - SQUARED[at])).astype(np.int64)
    cost[(distance > 3.0) | (cost >= dear)] = 10**9
    # Augmented by one private way out per source, at the price of staying unmatched.
    out = np.full((n, n), 10**9)
    np.fill_diagonal(out, dear)
    rows, columns = linear_sum_assignment(np.hstack([cost, out]))
    expected = np.where(columns < m, columns, -1)[np.argsort(rows)]
    chosen = np.where(partner[:n] < 0, -1, partner[:n] - n)
    linked = np.flatnonzero(chosen >= 0)
    total = cost[linked, chosen[linked]].sum() + dear * (n - len(linked))
    assert total == np.hstack([cost, out])[rows, columns].sum()
    assert chosen.tolist() == expected.tolist()  # random places: the optimum is unique
    assert n_shrunk == 0


def test_match_prefers_the_pairing_over_the_greedy_link():
    sources, targets = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[0.9, 0.0], [2.4, 0.0]])
    partner, _ = match(*one_pair(sources, targets))
    assert partner.tolist() == [2, 3, -1, -1]  # greedy takes 1 → 2 (0.1 px) and leaves 2.4 px for the other


def test_match_follows_the_flow_and_honours_the_gate():
    pair = one_pair(np.array([[0.0, 0.0]]), np.array([[0.0, 5.0]]))
    assert match(*pair, flow=(0.0, 1.9))[0][0] == -1
    assert match(*pair, flow=(0.0, 2.1))[0][0] == 1


def test_a_link_exactly_as_long_as_the_gate_is_found_at_every_place():
    for start in np.linspace(0, 100, 1001):
        sources, targets = np.array([[0.0, start]]), np.array([[0.0, start + 3.0], [50.0, 0.0]])
        expected = 1 if targets[0, 1] - start <= 3.0 else -1
        assert match(*one_pair(sources, targets))[0][0] == expected


def test_ties_go_to_the_lower_row():
    assert match(*one_pair(np.array([[0.0, 0.0]]), np.array([[0.0, -1.0], [0.0, 1.0]])))[0][0] == 1


def test_a_group_of_a_thousand_competing_spots_is_solved_exactly():
    """Every spot of a square lattice reaches twelve others; the group spans the frame."""
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.arange(35), np.arange(35), indexing="ij"), axis=-1).reshape(-1, 2) * 1.5
    partner, n_shrunk = match(*one_pair(grid, grid + rng.uniform(-0.2, 0.2, grid.shape)))
    assert n_shrunk == 0
    assert partner[: len(grid)].tolist() == (np.arange(len(grid)) + len(grid)).tolist()


@pytest.mark.parametrize("n", [MOST_IN_CELL + 1, 100_000])
def test_spots_in_one_place_beyond_telling_apart_are_left_alone_and_counted(n):
    """Both frames have the heap and one spot far away, which is linked as ever."""
    places = np.concatenate([np.ones((n, 2)), [[90.0, 90.0]]])
    partner, n_shrunk = match(*one_pair(places, places))
    assert n_shrunk == 1
    assert (partner[:n] == -1).all()
    assert partner[n] == 2 * n + 1


def test_a_far_spot_changes_nothing():
    """Cells stay as wide as the gate, however large the box around all spots."""
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40), indexing="ij"), axis=-1).reshape(-1, 2) * 8.0
    far = np.array([[2e4, 2e4], [-7e5, 3e3], [1e3, -9e7]])
    sources, targets = np.concatenate([grid, far]), np.concatenate([grid + 0.1, far + 0.1])
    partner, n_shrunk = match(*one_pair(sources, targets))
    assert n_shrunk == 0
    assert partner[: len(sources)].tolist() == (np.arange(len(sources)) + len(sources)).tolist()
    close = np.zeros(len(sources), bool)
    backends.load("cpu").crowded(
        sources[:, 0].copy(), sources[:, 1].copy(), np.array([[0, len(sources)]]), close, reach=3.0
    )
    assert not close.any()


def test_groups_do_not_depend_on_each_other_even_where_they_are_too_dense():
    rng = np.random.default_rng(4)
    n = 1500
    sources, targets = rng.uniform(0, 14, (n, 2)), rng.uniform(0, 14, (n, 2))
    alone, shrunk = match(*one_pair(sources, targets))
    assert shrunk > 0
    further = rng.uniform(0, 14, (n, 2)) + 100.0
    both, _ = match(*one_pair(np.concatenate([sources, further]), np.concatenate([targets, further[::-1]])))
    offset = np.where(alone[:n] >= 0, n, 0)  # rows of targets come behind those of all sources
    assert both[:n].tolist() == (alone[:n] + offset).tolist()


def test_a_group_too_dense_to_solve_is_narrowed_and_counted():
    """Eighty spots per gate squared, without relation between the frames: the search would wander through all."""
    rng = np.random.default_rng(2)
    side = 60.0
    n = round(80 * side**2 / 9)
    partner, n_shrunk = match(*one_pair(rng.uniform(0, side, (n, 2)), rng.uniform(0, side, (n, 2))))
    assert n_shrunk > 0
    linked = partner[partner >= 0]
    assert len(linked) > 0.5 * n
    assert len(set(linked.tolist())) == len(linked)


def test_matching_does_not_depend_on_which_pairs_are_solved_together():
    spots, _ = brownian(80, 8, 2.0, 5)
    _, pairs = Frames.of(spots.frame.astype(np.int64), 8, ()).pairs(1)
    arguments = {"gate": 9.0, "costs": np.linspace(0, 1e7, 50), "cost_unmatched": 10**7}
    together, _ = match(spots.y, spots.x, pairs, **arguments)
    apart = np.full(len(spots), -1)
    for pair in pairs[::-1]:
        apart = np.maximum(apart, match(spots.y, spots.x, pair[None], **arguments)[0])
    assert together.tolist() == apart.tolist()


# --- oracle: neighbours -------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 30), m=st.integers(1, 30), reach=st.floats(0.5, 30.0))
def test_neighbours_are_those_of_all_distances(seed, n, m, reach):
    rng = np.random.default_rng(seed)
    scale = np.array([20.0, rng.choice([0.0, 20.0])])  # all in one line, too
    sources, targets, flow = (
        rng.uniform(0, 1, (n, 2)) * scale,
        rng.uniform(0, 1, (m, 2)) * scale,
        np.array([[2.0, -1.0]]),
    )
    y, x, pairs = one_pair(sources, targets)
    engine = backends.load("cpu")
    delta = targets[None] - sources[:, None]
    distance = np.hypot(*(delta - flow[0]).T).ravel()
    edges = reach * np.linspace(0, 1, 9) ** 2
    counted = engine.distance_histogram(y, x, y + flow[0, 0], x + flow[0, 1], pairs, reach=reach, bins=8)
    assert counted.tolist() == np.histogram(distance[distance < reach], edges)[0].tolist()
    plane = engine.displacement_histogram(y, x, pairs, most=100, reach=reach, bins=7)
    cells = np.linspace(-reach, reach, 8)  # an odd number of bins: none begins at zero
    assert plane.tolist() == np.histogram2d(*delta.reshape(-1, 2).T, bins=[cells, cells])[0].astype(int).tolist()
    within = np.hypot(*(sources[None] - sources[:, None]).T) + np.where(np.eye(n), np.inf, 0.0)
    close = np.zeros(n, bool)
    engine.crowded(y[:n].copy(), x[:n].copy(), np.array([[0, n]]), close, reach=reach)
    assert close.tolist() == (within.min(axis=1) < reach).tolist()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_densest_box_is_the_one_of_a_search_through_all(seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(2.0, (12, 12))
    counts[4:6, 7:9] += rng.integers(0, 20)
    chance = np.full((12, 12), 1 / 144)

    def surprise(row, column, side):
        inside = counts[row : row + side, column : column + side].sum()
        share = side**2 / 144
        expected = (counts.sum() - inside + 1) * share / (1 - share)
        return inside * np.log(max(inside, 1) / expected) - inside + expected if inside > expected else 0.0

    every = [surprise(i, j, k) for k in (1, 2, 4) for i in range(13 - k) for j in range(13 - k)]
    found = backends.load("cpu").densest_box(counts, chance, (1, 2, 4))
    assert found[0] == pytest.approx(max(every))
    assert surprise(*found[1:]) == pytest.approx(max(every))


def test_unmixing_finds_the_amounts_of_two_kinds_on_chance():
    shares = np.array([[0.6, 0.3, 0.1, 0.0], [0.0, 0.1, 0.3, 0.5]])
    chance = np.array([0.01, 0.02, 0.03, 0.04])
    counts = np.rint(3000 * shares[0] + 1000 * shares[1] + 96_000 * chance).astype(np.int64)
    amounts = backends.load("cpu").unmix(counts, chance, 100_000, shares, 4000.0, iterations=5000)
    assert amounts == pytest.approx([3000, 1000], rel=0.01)


def test_link_moments_are_the_normal_equations_of_each_half():
    rng = np.random.default_rng(5)
    spots, _ = brownian(20, 4, 1.0, 5)
    offsets = np.searchsorted(spots.frame, np.arange(5))
    successor = np.full(len(spots), -1)
    for t in range(3):
        n = min(offsets[t + 1] - offsets[t], offsets[t + 2] - offsets[t + 1]) - 3
        successor[offsets[t] : offsets[t] + n] = offsets[t + 1] + rng.permutation(n)
    at_y, at_x = spots.y + 0.5, spots.x - 0.2
    matrix, vector = backends.load("cpu").link_moments(
        spots.y, spots.x, at_y, at_x, offsets, successor,
        centre=(100.0, 150.0), unit=50.0, reach=400.0, precision=np.array([1.0, 0.0]),
    )  # fmt: skip
    source = np.flatnonzero(successor >= 0)
    target = successor[source]
    weight = 1 - np.hypot(spots.y[target] - at_y[source], spots.x[target] - at_x[source]) / 400
    basis = np.stack([np.ones(len(source)), (spots.y[source] - 100) / 50, (spots.x[source] - 150) / 50], axis=1)
    moved = np.stack([spots.y[target] - spots.y[source], spots.x[target] - spots.x[source]], axis=1)
    for half in (0, 1):
        for t in range(3):
            mine = (np.arange(len(source)) % 2 == half) & (spots.frame[source] == t)
            b, w = basis[mine], weight[mine, None]
            assert matrix[half, t] == pytest.approx(b.T @ (w * b))
            assert vector[half, t] == pytest.approx(b.T @ (w * moved[mine]))


@pytest.mark.parametrize(("n", "most", "places"), [(5, 500, [0, 1, 2, 3, 4]), (5, 300, [0, 2, 4]), (4, 1, [2])])
def test_a_sample_of_frame_pairs_is_spread_over_all(n, most, places):
    pairs = np.array([[100 * k, 100 * (k + 1), 0, 1] for k in range(n)])
    assert sample(pairs, most).tolist() == places


# --- analytic -----------------------------------------------------------------------------------------------------


def test_gate_of_one_diffusion_coefficient():
    """Gate over the r.m.s. displacement at three miss probabilities: √ln(1/p)."""
    steps = any_steps(2.0, 0.0, 1e-3)
    only = steps.__class__(**vars(steps) | {"weights": np.eye(25)[-1]})
    for probability, ratio in ((1e-2, 2.15), (1e-3, 2.63), (1e-4, 3.03)):
        assert only.gate(probability) / np.sqrt(8.0) == pytest.approx(ratio, abs=0.006)


def test_step_density_integrates_to_one_also_over_a_gap():
    steps = any_steps(2.0, 0.1, 1e-3)
    r = np.linspace(0, 60, 600_001)
    for intervals in (1, 2):
        assert np.trapezoid(2 * np.pi * r * np.exp(-steps.minus_log_density(r, intervals)), r) == pytest.approx(
            1, abs=1e-4
        )


def test_motion_blur_narrows_the_gate_and_localization_error_widens_it():
    """4DΔt(1 − 2R) + 4σ² of the fastest particle; with R = 1/6 and σ = 2 px of 30 nm, where nothing is learned."""

    def gate(error, **more):
        one = spots_at([0], np.array([5.0]), np.array([5.0]), error)
        return link(one, acquisition_of(2.0, **more)).linking.gate_px

    fastest = 4 * 2.0 * 100 / 30
    assert gate(np.nan, exposure_s=1 / 30) / gate(np.nan) == pytest.approx(np.sqrt(2 / 3), abs=1e-6)
    assert gate(2.0) / gate(np.nan) == pytest.approx(np.sqrt((fastest + 16.0) / fastest), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 60))
def test_tracks_are_the_chains_of_links(seed, n):
    rng = np.random.default_rng(seed)
    uncut = np.full(n, -1)
    free = set(range(n))
    for i in range(n):
        later = [j for j in free if i < j < i + 8]
        if later and rng.random() < 0.8:
            uncut[i] = rng.choice(later)
            free.remove(uncut[i])
    cut = np.where(rng.random(n) < 0.2, -1, uncut)

    def start(successor, row):
        before = np.flatnonzero(successor == row)
        return start(successor, before[0]) if len(before) else row

    rows, particle, identity = backends.load("cpu").number_tracks(uncut, cut)
    chains = {}
    for row in range(n):
        chains.setdefault(start(cut, row), []).append(row)
    kept = [chain for _, chain in sorted(chains.items()) if len(chain) > 1]
    whole = list(dict.fromkeys(start(uncut, chain[0]) for chain in kept))
    assert rows.tolist() == [row for chain in kept for row in chain]
    assert particle.tolist() == [k for k, chain in enumerate(kept) for _ in chain]
    assert identity.tolist() == [whole.index(start(uncut, chain[0])) for chain in kept for _ in chain]


def test_tracks_are_numbered_by_their_first_rows():
    successor = np.array([3, 2, -1, 4, 6, -1, -1])
    rows, particle, identity = backends.load("cpu").number_tracks(successor, np.where(np.arange(7) == 3, -1, successor))
    assert rows.tolist() == [0, 3, 1, 2, 4, 6]
    assert particle.tolist() == [0, 0, 1, 1, 2, 2]
    assert identity.tolist() == [0, 0, 1, 1, 0, 0]


# --- statistical: wrong links -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("index", "n_frames", "most_wrong"), [(0.03, 150, 0.016), (0.1, 60, 0.050)])
def test_wrong_links_and_mean_squared_step_without_cuts(index, n_frames, most_wrong):
    """13,000 to 18,000 links at x = 0.03 and 0.1. An exact assignment that knows D reaches 0.0153 and 0.0486."""
    n = index / (4 * np.pi * 2.0) * np.prod(FIELD)
    spots, truth = brownian(n, n_frames, 2.0, 11)
    tracks = link(spots, acquisition_of(2.0), protocol_of(isolation=0.0, gap_frames=0))
    wrong, step = score(tracks, spots, truth)
    true_step = squared_steps(spots.frame, spots.y, spots.x, truth).mean()
    sampling = 2 * np.sqrt(most_wrong / tracks.linking.n_links)
    assert wrong < most_wrong + sampling
    assert tracks.linking.mislink_index == pytest.approx(index, rel=0.1)
    if index == 0.03:
        assert step == pytest.approx(true_step, rel=0.01)


def test_wrong_links_in_a_dense_field_away_from_its_border():
    """x = 0.3: 13 to 14 % wrong also for an exact assignment that knows D; near the border particles come and go."""
    wrong = []
    for seed in range(4):
        spots, truth = brownian(0.3 / (4 * np.pi * 2.0) * np.prod(FIELD), 20, 2.0, 40 + seed)
        tracks = link(spots, acquisition_of(2.0), protocol_of(isolation=0.0, gap_frames=0))
        known = {(f, y, x): p for f, y, x, p in zip(spots.frame, spots.y, spots.x, truth, strict=True)}
        particle = np.array([known[key] for key in zip(tracks.frame, tracks.y, tracks.x, strict=True)])
        inside = np.minimum(np.minimum(tracks.y, FIELD[0] - tracks.y), np.minimum(tracks.x, FIELD[1] - tracks.x)) > 15
        same = (np.diff(tracks.particle) == 0) & inside[:-1]
        wrong.append(particle[1:][same] != particle[:-1][same])
    wrong = np.concatenate(wrong)
    assert wrong.mean() < 0.135 + 2 * np.sqrt(2 * 0.135 / len(wrong))  # wrong links come in pairs


def test_dense_video_is_linked_as_well_as_by_an_assignment_that_knows_the_diffusion_coefficient():
    """x = 0.3: 18,000 links; the learned steps cost nothing."""
    n = 0.3 / (4 * np.pi * 2.0) * np.prod(FIELD)
    spots, truth = brownian(n, 20, 2.0, 3)
    tracks = link(spots, acquisition_of(2.0), protocol_of(isolation=0.0, gap_frames=0))
    wrong, _ = score(tracks, spots, truth)
    gate = 3.03 * np.sqrt(8.0)
    _, pairs = Frames.of(spots.frame.astype(np.int64), 20, ()).pairs(1)
    partner, _ = match(
        spots.y, spots.x, pairs, gate=gate, costs=1e5 * np.linspace(0, gate, 4097) ** 2, cost_unmatched=10**12
    )
    linked = np.flatnonzero(partner >= 0)
    assert wrong <= np.mean(truth[linked] != truth[partner[linked]]) + 0.003  # 2 s.e. of the difference


def test_cuts_at_half_the_gate_leave_nine_links_in_ten_and_almost_no_wrong_one():
    """x = 0.03, 18,000 links: 0.3 % wrong, steps unbiased within their standard error of 0.7 %."""
    n = 0.03 / (4 * np.pi * 2.0) * np.prod(FIELD)
    spots, truth = brownian(n, 200, 2.0, 12)
    tracks = link(spots, acquisition_of(2.0), protocol_of(gap_frames=0))
    wrong, step = score(tracks, spots, truth)
    assert wrong <= 0.004
    assert np.sum(np.diff(tracks.particle) == 0) / tracks.linking.n_links >= 0.90
    assert step == pytest.approx(squared_steps(spots.frame, spots.y, spots.x, truth).mean(), rel=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_mislink_index_of_a_mixture_is_twice_its_wrong_links(seed):
    """Diffusion coefficients 0.4 and 4 in equal parts, x = 0.1 by their mean."""
    spots, truth = brownian(0.1 / (4 * np.pi * 2.2) * np.prod(FIELD), 40, [0.4, 4.0], 60 + seed)
    tracks = link(spots, acquisition_of(2.2), protocol_of(isolation=0.0, gap_frames=0))
    assert tracks.linking.mislink_index == pytest.approx(0.1, rel=0.2)  # 2 s.e. of the mixture and its neighbours
    assert 0.25 < score(tracks, spots, truth)[0] / tracks.linking.mislink_index < 0.6


def test_mislink_index_counts_the_neighbours_that_spots_have():
    """Blank frames and empty parts of the field thin out no crowd."""
    spots, _ = brownian(0.1 / (4 * np.pi * 2.0) * np.prod(FIELD), 90, 2.0, 7)
    reference = link(spots, acquisition_of(2.0)).linking
    lit = spots.take(np.flatnonzero(spots.frame % 30 < 10))
    blank = link(lit, acquisition_of(2.0)).linking
    assert blank.mislink_index == pytest.approx(reference.mislink_index, rel=0.15)
    for height, least in ((80, 0.85), (25, 0.6)):  # those at the border of a light sheet have half as many
        sheet = spots.take(np.flatnonzero((spots.y > 100) & (spots.y < 100 + height)))
        within = len(sheet) / (90 * height * FIELD[1])
        assert least * within < link(sheet, acquisition_of(2.0)).linking.density_px2 < 1.1 * within


# --- statistical: evidence beyond the step ------------------------------------------------------------------------


def shining(spots, truth, between, within, seed):
    """The same spots with log-normal brightness of some spread between particles and from frame to frame."""
    rng = np.random.default_rng(seed)
    log_mass = 7 + rng.normal(0, between, truth.max() + 1)[truth] + rng.normal(0, within, len(truth))
    return replace(spots, mass=np.exp(log_mass).astype(np.float32))


def wrong_links(spots, truth, evidence):
    tracks = link(spots, acquisition_of(2.2), protocol_of(isolation=0.0, gap_frames=0, evidence=evidence))
    return score(tracks, spots, truth)[0]


def test_steps_before_and_behind_a_link_tell_fast_from_slow_particles():
    """Diffusion coefficients 0.4 and 4, x = 0.1: 16,000 links, 3.6 % of them wrong; a tenth of these are saved."""
    spots, truth = brownian(0.1 / (4 * np.pi * 2.2) * np.prod(FIELD), 60, [0.4, 4.0], 3)
    assert wrong_links(spots, truth, "track") < 0.95 * wrong_links(spots, truth, "step")


def test_brightness_tells_particles_apart_and_has_no_say_where_it_cannot():
    spots, truth = brownian(0.1 / (4 * np.pi * 2.2) * np.prod(FIELD), 60, [2.2], 3)
    steady = shining(spots, truth, 0.7, 0.2, 1)
    assert wrong_links(steady, truth, "brightness") < 0.5 * wrong_links(steady, truth, "step")
    flickering = shining(spots, truth, 0.0, 0.5, 1)
    assert wrong_links(flickering, truth, "brightness") < 1.1 * wrong_links(flickering, truth, "step")
    dark = replace(spots, mass=np.zeros(len(spots), np.float32))
    assert links_of(link(dark, acquisition_of(2.2), protocol_of(evidence="brightness"))) == links_of(
        link(dark, acquisition_of(2.2), protocol_of(evidence="track"))
    )


# --- recovery: what is learned from the video ---------------------------------------------------------------------


def test_mixture_of_steps_is_learned_before_linking():
    """Two populations of 1 and 6 px², 100 spots a frame, one spot in ten missed at random."""
    spots, truth = brownian(100, 60, [1.0, 6.0], 2, dropout=0.1)
    prior = any_steps(20.0, 0.0, 100 / np.prod(FIELD))
    settings = Protocol().link
    acquisition = acquisition_of(1.0, n_frames=60)
    material = Material.of(spots, np.arange(len(spots)), acquisition, settings, backends.load("cpu"), None)
    around = count_neighbours(material, 25.0)
    assert around.density(25.0) == pytest.approx(
        len(spots) / 60 / np.prod(FIELD), rel=0.15
    )  # 250 independent neighbours
    steps = learn_steps(prior, around, material, (spots.y, spots.x), 25.0)
    true = squared_steps(spots.frame, spots.y, spots.x, truth)
    for distance in (1.0, 2.0, 4.0, 8.0):
        beyond = steps.weights @ np.exp(-(distance**2) / steps.variances())
        assert beyond == pytest.approx(np.mean(true > distance**2), abs=0.02)  # 2 s.e. of 5,000 steps, and the bins
    assert steps.survival == pytest.approx(len(true) / len(spots), abs=0.03)


def test_gate_of_dense_slow_particles_is_theirs_and_not_that_of_the_fastest():
    """Four spots in the reach of a 30 nm particle, 15.7 px, but steps of 0.9 px."""
    spots, truth = brownian(400, 15, 0.2, 4)
    tracks = link(spots, acquisition_of(0.2, diameter_nm=1000.0))
    assert 2.5 < tracks.linking.gate_px < 3.2
    assert score(tracks, spots, truth)[0] < 0.002
    assert tracks.linking.n_shrunk == 0


def constant(n_frames):
    return np.tile([-4.0, 2.0], (n_frames, 1))


def pulsating(n_frames):
    return np.column_stack([2.5 + 2.5 * np.sin(2 * np.pi * np.arange(n_frames) / 30), np.zeros(n_frames)])


@pytest.mark.parametrize("n", [10, 60])
@pytest.mark.parametrize("course", [constant, pulsating])
def test_flow_is_followed_and_leaves_the_mean_squared_step_alone(n, course):
    """Flow of one Brownian step; 10 and 60 spots a frame, 3 % missed."""
    flow = course(150)
    spots, truth = brownian(n, 150, 4.0 if n == 60 else 8.0, 6, flow=flow, dropout=0.03)
    tracks = link(spots, acquisition_of(4.0 if n == 60 else 8.0), protocol_of(isolation=0.0))
    found = np.column_stack([tracks.linking.flow_y_px, tracks.linking.flow_x_px])
    assert np.sqrt(np.mean((found - flow[:-1]) ** 2)) < 0.8  # a seventh of a step
    linked = squared_steps(tracks.frame, tracks.y, tracks.x, tracks.particle, flow).mean()
    true = squared_steps(spots.frame, spots.y, spots.x, truth, flow).mean()
    assert linked == pytest.approx(true, rel=0.01)


@pytest.mark.parametrize("course", ["constant", "pulsating"])
@pytest.mark.parametrize("speed", [1.0, 2.0, 3.5, 5.0])
def test_flow_changes_the_diffusion_coefficient_by_less_than_a_percent(course, speed):
    """80 spots × 150 frames with steps of 2.8 px, and the same spots carried along by the flow."""
    t = np.arange(150)
    along = np.full(150, speed) if course == "constant" else speed * 0.5 * (1 + np.sin(2 * np.pi * t / 25))
    flow = np.column_stack([along, -0.4 * along])
    spots, _ = brownian(80, 150, 2.0, 21, dropout=0.02)
    travelled = np.concatenate([np.zeros((1, 2)), np.cumsum(flow, axis=0)])[spots.frame]
    carried = spots_at(spots.frame, spots.y + travelled[:, 0], spots.x + travelled[:, 1])
    acquisition = acquisition_of(2.0)
    at_rest, moving = (displacements(link(s, acquisition), acquisition).D_um2_s for s in (spots, carried))
    assert moving / at_rest == pytest.approx(1, abs=0.01)


def sheared(seed, gradient, *, pulse=0.0, n_frames=150, filled=1.0):
    """Spots with steps of 2 px in a flow that changes over the field; only a part of its height may be filled."""
    rng = np.random.default_rng(seed)
    size = np.array([FIELD[0] + 200, FIELD[1] + 600])
    margin = (size - FIELD) / 2
    place = rng.uniform(0, size, (round(60 * size.prod() / np.prod(FIELD)), 2)) - margin
    centre = (np.array(FIELD) - 1) / 2
    rows = []
    for frame in range(n_frames):
        seen = np.all((place >= 0) & (place < np.array(FIELD) * [filled, 1.0]), axis=1)
        rows.append(np.column_stack([np.full(seen.sum(), frame), place[seen]]))
        drift = np.array([1.0 + pulse * np.sin(frame), 0.5]) + (place - centre) @ gradient.T
        place = (place + drift + rng.normal(0, np.sqrt(2), place.shape) + margin) % size - margin
    return spots_at(*np.concatenate(rows).T)


ACROSS = np.array([[0.0, 0.0], [0.03, 0.0]])
"""A flow along x that grows by 0.03 px per frame and px along y: ±3.6 px at the borders of the field."""


@pytest.mark.parametrize(("filled", "pulse"), [(1.0, 0.0), (1.0, 2.0), (0.5, 0.0)])
def test_shear_is_followed_and_leaves_the_diffusion_coefficient_alone(filled, pulse):
    """Also where the flow pulsates, and where particles are in one half of the field only."""
    acquisition, affine = acquisition_of(1.0), protocol_of(flow="affine")
    tracks = link(sheared(4, ACROSS, pulse=pulse, filled=filled), acquisition, affine)
    assert tracks.linking.flow_gradient == pytest.approx(np.broadcast_to(ACROSS, (149, 2, 2)), abs=3e-3)
    assert np.mean(tracks.linking.flow_y_px) == pytest.approx(1.0, abs=0.1)
    diffusion = acquisition.stokes_einstein_um2_s_nm / 100
    assert displacements(tracks, acquisition, affine).D_um2_s / diffusion == pytest.approx(1, abs=0.04)  # 2 s.e.


def test_shear_is_followed_in_a_field_of_unknown_size_and_place():
    spots = sheared(4, ACROSS)
    moved = spots_at(spots.frame, spots.y + 500.0, spots.x - 300.0)
    affine = protocol_of(flow="affine")
    known, unknown = acquisition_of(1.0), acquisition_of(1.0, frame_shape=None)
    reference = displacements(link(spots, known, affine), known, affine).D_um2_s
    assert displacements(link(moved, unknown, affine), unknown, affine).D_um2_s / reference == pytest.approx(
        1, abs=0.01
    )


def test_shear_that_is_not_followed_is_said():
    spots, acquisition = sheared(4, ACROSS), acquisition_of(1.0)
    tracks = link(spots, acquisition)
    assert tracks.linking.flow_gradient is None
    assert tracks.linking.shear_px == pytest.approx(3.6, abs=0.4)
    diffusion = acquisition.stokes_einstein_um2_s_nm / 100
    assert displacements(tracks, acquisition).D_um2_s > 1.5 * diffusion


def on_the_wall(n, n_frames, *, error=0.05, drift=0.0, seen=0.98, seed=1):
    """Spots that adhere to the wall, which may drift."""
    rng = np.random.default_rng(seed)
    frame = np.repeat(np.arange(n_frames), n)
    place = np.tile(rng.uniform(0, 1, (n, 2)) * FIELD, (n_frames, 1)) + rng.normal(0, error, (len(frame), 2))
    place[:, 0] += drift * frame
    kept = rng.random(len(frame)) < seen
    return spots_at(frame[kept], *place[kept].T, error)


@pytest.mark.parametrize(
    ("n_stuck", "cuts", "more"),
    [
        (4, (), {}),
        (20, (), {}),
        (20, (), {"drift": 0.02, "error": 0.1}),
        (20, (), {"seen": 0.8}),
        (20, (), {"error": 0.25}),
        (20, tuple(range(15, 150, 15)), {}),
    ],
)
def test_spots_at_rest_in_flowing_liquid_change_neither_flow_nor_diffusion_coefficient(n_stuck, cuts, more):
    """60 free particles, flow of nearly two steps; up to a quarter of all spots adhere to the wall."""
    flow = np.tile([5.0, -2.0], (150, 1))
    acquisition = acquisition_of(2.0, cuts=cuts)
    free, _ = brownian(60, 150, 2.0, 5, flow=flow, dropout=0.02, margin=160, error=more.get("error", 0.05))
    wall = on_the_wall(n_stuck, 150, **more)
    tracks = link(Localizations.concat([free, wall]), acquisition)
    assert np.mean(tracks.linking.flow_y_px) == pytest.approx(5.0, abs=0.08)
    resting = (tracks.flag & SpotFlag.RESTING) != 0
    assert resting.sum() > 0.8 * len(wall)
    at_wall = set(zip(wall.frame.tolist(), wall.y.tolist(), strict=True))
    passing = sum((f, y) not in at_wall for f, y in zip(tracks.frame[resting], tracks.y[resting], strict=True))
    assert passing < 0.001 * len(free)  # right over a place on the wall
    alone = displacements(link(free, acquisition), acquisition).D_um2_s
    assert displacements(tracks, acquisition).D_um2_s / alone == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("n_stuck", [3, 20])
def test_a_still_video_with_spots_on_the_wall_has_no_flow_and_nothing_at_rest_in_it(n_stuck):
    for seed in range(3):
        free, _ = brownian(60, 100, 1.0, seed)
        tracks = link(Localizations.concat([free, on_the_wall(n_stuck, 100, seed=seed)]), acquisition_of(1.0))
        assert not tracks.linking.flow_y_px.any()
        assert not tracks.linking.flow_x_px.any()
        assert not (tracks.flag & SpotFlag.RESTING).any()


def test_nothing_is_at_rest_behind_a_cut_where_the_flow_ends():
    flow = np.concatenate([np.tile([2.0, 0.0], (60, 1)), np.zeros((60, 2))])
    spots, _ = brownian(60, 120, 0.002, 2, flow=flow, margin=160)
    tracks = link(spots, acquisition_of(2.0, cuts=(60,)))
    assert not (tracks.flag & SpotFlag.RESTING).any()


@pytest.mark.parametrize("seed", range(3))
def test_no_particle_of_a_flowing_suspension_is_taken_for_one_at_rest(seed):
    spots, _ = brownian(60, 100, [0.02, 2.0], seed, flow=np.tile([1.0, 0.0], (100, 1)))
    assert not (link(spots, acquisition_of(2.0)).flag & SpotFlag.RESTING).any()


def test_no_shear_is_found_where_there_is_none():
    spots, _ = brownian(60, 60, 2.0, 3, flow=np.tile([1.0, 2.0], (60, 1)))
    linking = link(spots, acquisition_of(2.0), protocol_of(flow="affine")).linking
    assert not linking.flow_gradient.any()
    assert np.mean(linking.flow_x_px) == pytest.approx(2.0, abs=0.1)


def test_flow_of_more_than_a_gate_is_found():
    flow = np.tile([25.0, -10.0], (40, 1))
    spots, truth = brownian(30, 40, 4.0, 8, flow=flow, margin=200)
    tracks = link(spots, acquisition_of(4.0))
    found = np.column_stack([tracks.linking.flow_y_px, tracks.linking.flow_x_px])
    assert np.sqrt(np.mean((found - flow[:-1]) ** 2)) < 0.4  # a tenth of a step
    assert tracks.linking.gate_px < 25.0
    assert score(tracks, spots, truth)[0] < 0.01


@pytest.mark.parametrize("seed", range(5))
def test_no_flow_is_found_where_there_is_none(seed):
    spots, _ = brownian(5, 60, 8.0, seed, dropout=0.05)
    linking = link(spots, acquisition_of(8.0)).linking
    assert not linking.flow_y_px.any()
    assert not linking.flow_x_px.any()


def test_flow_none_assumes_none():
    spots, _ = brownian(60, 20, 1.0, 8, flow=np.tile([3.0, 0.0], (20, 1)))
    assert not link(spots, acquisition_of(1.0), protocol_of(flow="none")).linking.flow_y_px.any()


# --- invariance ---------------------------------------------------------------------------------------------------


def still(seed):
    return brownian(40, 12, 2.0, seed, dropout=0.05)[0]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_links_do_not_depend_on_row_order_place_axes_or_the_direction_of_time(seed):
    spots = still(seed)
    acquisition, protocol = acquisition_of(2.0), protocol_of(isolation=0.0, flow="none")
    tracks = link(spots, acquisition, protocol)
    reference = links_of(tracks)

    shuffled = link(spots.take(np.random.default_rng(seed).permutation(len(spots))), acquisition, protocol)
    for name in Tracks.columns():
        assert np.array_equal(getattr(shuffled, name), getattr(tracks, name), equal_nan=True)

    moved = link(spots_at(spots.frame, spots.y + 64.0, spots.x - 32.0), acquisition, protocol)
    assert {tuple((f, y - 64.0, x + 32.0) for f, y, x in pair) for pair in links_of(moved)} == {
        tuple((f, y + 64.0 - 64.0, x - 32.0 + 32.0) for f, y, x in pair) for pair in reference
    }

    turned = link(spots_at(spots.frame, spots.x, spots.y), acquisition_of(2.0, frame_shape=FIELD[::-1]), protocol)
    assert {tuple((f, y, x) for f, x, y in pair) for pair in links_of(turned)} == reference

    reverse = link(spots_at(11 - spots.frame, spots.y, spots.x), acquisition, protocol)
    assert {tuple((11 - f, y, x) for f, y, x in pair[::-1]) for pair in links_of(reverse)} == reference


def test_rows_at_the_same_place_are_ordered_by_all_they_have():
    spots = still(3)
    doubled = Localizations.concat([spots, replace(spots, snr=spots.snr + 1), replace(spots, sigma=spots.sigma + 1)])
    reference = link(doubled, acquisition_of(2.0), protocol_of(isolation=0.0))
    shuffled = doubled.take(np.random.default_rng(0).permutation(len(doubled)))
    for name in Tracks.columns():
        found = getattr(link(shuffled, acquisition_of(2.0), protocol_of(isolation=0.0)), name)
        assert found.tobytes() == getattr(reference, name).tobytes()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), evidence=st.sampled_from(["step", "track", "brightness"]))
def test_the_same_bytes_whatever_the_order_of_rows_and_the_number_of_threads(seed, evidence):
    """With flow, gaps, cuts and everything that is learned."""
    spots, truth = brownian(60, 30, 3.0, seed, flow=pulsating(30), dropout=0.05)
    spots = shining(spots, truth, 0.7, 0.2, seed)
    acquisition, protocol = acquisition_of(3.0, cuts=(11,)), protocol_of(evidence=evidence)
    reference = link(spots, acquisition, protocol)
    shuffled = spots.take(np.random.default_rng(seed).permutation(len(spots)))
    for other in (link(shuffled, acquisition, protocol), link(spots, acquisition, protocol, threads=3)):
        for name in Tracks.columns():
            assert getattr(other, name).tobytes() == getattr(reference, name).tobytes()
        for name, value in vars(reference.linking).items():
            assert np.array_equal(getattr(other.linking, name), value)


def test_with_flow_links_hardly_depend_on_place_axes_and_the_direction_of_time():
    """The flow is learned from sums, whose rounding and whose halves depend on the order: near ties may turn."""
    spots, _ = brownian(60, 40, 2.0, 17, flow=pulsating(40), dropout=0.03)
    acquisition, protocol = acquisition_of(2.0), protocol_of(isolation=0.0)
    reference = links_of(link(spots, acquisition, protocol))

    def same(found):
        return len(found & reference) / len(found | reference)

    moved = link(spots_at(spots.frame, spots.y + 64.0, spots.x - 32.0), acquisition, protocol)
    back = {tuple((f, y - 64.0, x + 32.0) for f, y, x in pair) for pair in links_of(moved)}
    places = {(round(y, 6), round(x, 6)): (y, x) for y, x in zip(spots.y, spots.x, strict=True)}
    assert same({tuple((f, *places[round(y, 6), round(x, 6)]) for f, y, x in pair) for pair in back}) > 0.999
    turned = link(spots_at(spots.frame, spots.x, spots.y), acquisition_of(2.0, frame_shape=FIELD[::-1]), protocol)
    assert same({tuple((f, y, x) for f, x, y in pair) for pair in links_of(turned)}) > 0.995
    reverse = link(spots_at(39 - spots.frame, spots.y, spots.x), acquisition, protocol)
    assert same({tuple((39 - f, y, x) for f, y, x in pair[::-1]) for pair in links_of(reverse)}) > 0.995


def test_links_of_a_section_are_those_of_its_frames_alone():
    """What is learned is fixed: the links of a pair of frames depend on these two frames."""
    spots = still(5)
    acquisition, protocol = acquisition_of(2.0), protocol_of(isolation=0.0, flow="none", gap_frames=0)
    whole = links_of(link(spots, acquisition, protocol))
    cut = links_of(link(spots, acquisition_of(2.0, cuts=(6,)), protocol))
    assert whole - cut == {pair for pair in whole if pair[0][0] == 5}


# --- behaviour ----------------------------------------------------------------------------------------------------


def test_tracks_are_numbered_by_first_frame_then_place_and_ordered_by_particle_then_frame():
    spots, _ = brownian(30, 20, 2.0, 1)
    tracks = link(spots, acquisition_of(2.0))
    assert np.all(np.lexsort((tracks.frame, tracks.particle)) == np.arange(len(tracks)))
    first = np.flatnonzero(np.diff(tracks.particle, prepend=-1))
    assert np.all(np.lexsort((tracks.x[first], tracks.y[first], tracks.frame[first])) == np.arange(len(first)))
    assert np.bincount(tracks.particle).min() >= 2
    assert set(tracks.identity) == set(range(tracks.identity.max() + 1))


def test_crossing_particles_keep_their_identity():
    """Two particles in steady motion past each other at a distance of 3 px."""
    t = np.arange(21)
    spots = spots_at(
        np.repeat(t, 2), np.tile([50.0, 53.0], 21), np.column_stack([40 + t, 60 - t]).ravel().astype(float)
    )
    tracks = link(spots, acquisition_of(0.3), protocol_of(isolation=0.0))
    assert np.bincount(tracks.particle).tolist() == [21, 21]
    assert all(np.ptp(tracks.y[tracks.particle == p]) == 0 for p in (0, 1))


def lonely(frames, **section):
    """One particle at rest that is seen in some frames."""
    return link(
        spots_at(frames, np.full(len(frames), 9.0), np.full(len(frames), 9.0)),
        acquisition_of(1.0),
        protocol_of(**section),
    )


def test_gaps_up_to_the_allowed_length_are_closed():
    frames = [0, 1, 2, 4, 5, 8, 9]
    assert np.bincount(lonely(frames, gap_frames=0).particle).tolist() == [3, 2, 2]
    assert np.bincount(lonely(frames, gap_frames=1).particle).tolist() == [5, 2]
    assert np.bincount(lonely(frames, gap_frames=2).particle).tolist() == [7]
    assert lonely(frames, gap_frames=2).linking.n_links == 6


def test_dropouts_are_bridged_and_newcomers_start_tracks():
    spots, truth = brownian(30, 60, 1.0, 9, dropout=0.1)
    tracks = link(spots, acquisition_of(1.0), protocol_of(isolation=0.0))
    assert score(tracks, spots, truth)[0] < 0.005
    gaps = np.diff(tracks.frame)[np.diff(tracks.particle) == 0]
    assert np.mean(gaps == 2) == pytest.approx(0.09 * 0.9 / (0.9 * 0.9 + 0.09 * 0.9), abs=0.02)


def test_no_track_crosses_a_cut():
    frames = np.arange(10)
    spots = spots_at(frames, np.full(10, 9.0), np.full(10, 9.0))
    tracks = link(spots, acquisition_of(1.0, cuts=(4, 7)), protocol_of(gap_frames=2))
    assert tracks.particle.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_track_is_cut_where_another_spot_comes_near_and_keeps_its_identity():
    t = np.arange(12)
    neighbour = np.where(t == 5, 101.0, 140.0)  # near in frame 5 only
    spots = spots_at(np.repeat(t, 2), np.column_stack([np.full(12, 100.0), neighbour]).ravel(), np.full(24, 80.0))
    tracks = link(spots, acquisition_of(1.0))
    assert tracks.linking.gate_px > 2.0
    pieces = [tracks.frame[tracks.particle == p].tolist() for p in np.unique(tracks.particle[tracks.y == 100.0])]
    assert pieces == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert len(set(tracks.identity[tracks.y == 100.0])) == 1
    whole = link(spots, acquisition_of(1.0), protocol_of(isolation=0.0))
    assert len(set(whole.particle[whole.y == 100.0])) == 1


def test_a_lone_particle_is_followed_also_in_a_field_of_unknown_size():
    spots = spots_at([0, 1, 3], np.array([5.0, 5.5, 5.2]), np.array([9.0, 9.4, 9.1]))
    tracks = link(spots, acquisition_of(2.0, frame_shape=None))
    assert tracks.frame.tolist() == [0, 1, 3]
    assert tracks.particle.tolist() == [0, 0, 0]


@pytest.mark.parametrize("frames", [[], [0], [0, 0, 0], [0, 9]])
def test_nothing_to_link_gives_empty_tracks(frames):
    spots = spots_at(frames, np.arange(len(frames)) * 50.0, np.zeros(len(frames)))
    tracks = link(spots, acquisition_of(1.0, n_frames=12))
    assert len(tracks) == 0
    assert tracks.linking.n_links == 0
    assert tracks.linking.flow_y_px.shape == (11,)


@pytest.mark.parametrize(
    ("frame", "y", "message"),
    [
        (1, np.nan, r"row 1 has frame = 1, y = nan.*remove such rows \(1 in all\)"),
        (-1, 1.0, r"row 1 has frame = -1"),
        (2_000_000_000, 1.0, r"row 1 has frame = 2000000000.*frames count from 0 to 9999999"),
    ],
)
def test_rows_that_are_no_spots_are_refused(frame, y, message):
    with pytest.raises(InputError, match=message):
        link(spots_at([0, frame], np.array([1.0, y]), np.array([1.0, 1.0])), acquisition_of(1.0))


def test_trackpy_takes_the_tracks_and_finds_the_same_diffusion_coefficient():
    """40 spots × 60 frames: trackpy's ensemble MSD at one frame against the mean squared step, and D within 4 %."""
    spots, _ = brownian(40, 60, 2.0, 7)
    acquisition = acquisition_of(2.0)
    tracks = link(spots, acquisition, protocol_of(gap_frames=0))
    rate = 1 / acquisition.frame_interval_s
    msd = trackpy.emsd(tracks.to_pandas(), acquisition.pixel_size_um, rate, max_lagtime=3)
    ours = squared_steps(tracks.frame, tracks.y, tracks.x, tracks.particle).mean() * acquisition.pixel_size_um**2
    assert msd.iloc[0] == pytest.approx(ours, rel=0.01)
    assert msd.iloc[0] / (4 * acquisition.frame_interval_s) == pytest.approx(4.907, rel=0.04)


@pytest.mark.skipif(not LAPTRACK.exists(), reason="outside data are not here")
@pytest.mark.parametrize(("name", "gap"), [("without", 0), ("with", 1)])
def test_edges_of_another_tracker_are_reproduced(name, gap):
    """134 spots of a published video; the edges were found by an independent program with a gate of 15 px."""
    spots = pd.read_csv(LAPTRACK / f"trackmate_tracks_{name}_gap_closing_spots.csv")
    edges = pd.read_csv(LAPTRACK / f"trackmate_tracks_{name}_gap_closing_edges.csv")
    place = {row.id: (row.frame, row.position_y, row.position_x) for row in spots.itertuples()}
    expected = {
        tuple(sorted((place[a], place[b]))) for a, b in zip(edges.spot_source_id, edges.spot_target_id, strict=True)
    }
    table = spots_at(spots.frame.to_numpy(), spots.position_y.to_numpy(), spots.position_x.to_numpy())
    acquisition = acquisition_of(2.1, diameter_nm=30.0, frame_shape=None)
    tracks = link(table, acquisition, protocol_of(isolation=0.0, flow="none", gap_frames=gap))
    assert links_of(tracks) == expected
