"""Matching and likelihoods on CUDA against the CPU backend, on identical inputs.

Partners and counts are the same integers, ties included. Likelihoods are computed in double precision by the same
recursion on both sides: of 288,000 entries none differed by more than 1.4·10⁻¹⁴. A device has another logarithm, which
may change the last bit of float32.
"""

import importlib
import logging
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

from exotrack.backends import cpu
from exotrack.backends.cuda import device
from exotrack.backends.cuda.likelihood import likelihood

on_device = importlib.import_module("exotrack.backends.cuda.match")

UNTOUCHED = -7
SQUARED = 1000.0 * np.linspace(0.0, 1.0, 33) ** 2
"""Costs from 0 to 1000 at the gate."""
FLAT = np.zeros(33)


# --- match --------------------------------------------------------------------------------------------------------


def frames_of(rng, sizes, shape=(128, 160), quantum=0.0):
    """Positions of spots, frame by frame, on a lattice where a quantum is given; pairs of frames that have some."""
    border = np.concatenate([[0], np.cumsum(sizes)])
    y, x = (rng.uniform(0.0, extent, border[-1]) for extent in shape)
    if quantum:
        y, x = np.round(y / quantum) * quantum, np.round(x / quantum) * quantum
    pairs = [(*border[i : i + 2], *border[i + 1 : i + 3]) for i in range(len(sizes) - 1) if sizes[i] and sizes[i + 1]]
    return y, x, np.array(pairs, np.int64).reshape(-1, 4)


def one_pair(sources, targets):
    places = np.concatenate([sources, targets]).astype(float)
    n = len(sources)
    return np.ascontiguousarray(places[:, 0]), np.ascontiguousarray(places[:, 1]), np.array([[0, n, n, len(places)]])


def both(y, x, pairs, at=None, *, gate, costs=SQUARED, cost_unmatched=900):
    """Partners, the count, and which pairs the device left, after they have been compared with the CPU's."""
    settings = {"gate": gate, "costs": costs, "cost_unmatched": cost_unmatched}
    given = (y, x, *((y, x) if at is None else at), pairs)
    expected, partner, unfinished = (np.full(len(y), UNTOUCHED) for _ in range(3))
    count = cpu.match(*given, expected, **settings)
    assert on_device.match(*given, partner, **settings) == count
    assert np.array_equal(partner, expected)
    left = on_device.match_on_device(*given, unfinished, **settings)
    for start, stop in pairs[left, :2]:
        expected[start:stop] = UNTOUCHED
    assert np.array_equal(unfinished, expected)
    assert count == 0 or left.any()
    return partner, count, left


@pytest.mark.parametrize(
    ("most", "gate", "share"),
    [(60, 4.0, 0.0), (60, 9.0, 0.0), (200, 6.0, 0.0), (300, 9.0, 0.4), (300, 14.0, 0.7)],
)
def test_random_frames(cuda, most, gate, share):
    """From isolated spots to those of which all compete; about `share` of the pairs is too dense for the device."""
    rng = np.random.default_rng(most + int(gate))
    sizes = rng.integers(0, most + 1, 14)
    sizes[[3, 9]] = 0, most
    y, x, pairs = frames_of(rng, sizes)
    partner, _, left = both(y, x, pairs, gate=gate)
    assert abs(left.mean() - share) < 0.2
    linked = partner[partner != UNTOUCHED] >= 0
    assert 0.03 < linked.mean() < 0.97


@pytest.mark.parametrize("costs", [FLAT, SQUARED], ids=["flat", "squared"])
@pytest.mark.parametrize("quantum", [2.0, 3.0])
def test_ties(cuda, quantum, costs):
    """Spots on a lattice, also on top of one another: in the other order of the rows other links are as good."""
    rng = np.random.default_rng(int(quantum))
    y, x, pairs = frames_of(rng, rng.integers(60, 90, 12), shape=(60, 70), quantum=quantum)
    partner, _, left = both(y, x, pairs, gate=3.0, costs=costs)
    assert not left.any()
    start, stop, target, end = pairs[0]
    order = np.arange(len(y))
    order[start:stop], order[target:end] = order[start:stop][::-1], order[target:end][::-1]
    other, _, _ = both(y[order], x[order], pairs[:1], gate=3.0, costs=costs)
    again = np.full(stop - start, -1)
    linked = other[start:stop] >= 0
    again[linked] = order[other[start:stop][linked]]
    assert not np.array_equal(again[::-1], partner[start:stop])


def test_every_source_has_its_own_expected_place(cuda):
    rng = np.random.default_rng(3)
    y, x, pairs = frames_of(rng, rng.integers(40, 100, 8))
    at = (y + rng.normal(5.0, 2.0, len(y)), x + rng.normal(-8.0, 2.0, len(y)))
    partner, _, left = both(y, x, pairs, at, gate=8.0)
    assert not left.all()
    assert np.mean(partner != both(y, x, pairs, gate=8.0)[0]) > 0.3


def test_the_gate_to_the_last_bit(cuda):
    """A link as long as the gate is made, one longer by the last bit is not; a cost as dear as none is not."""
    reach = np.nextafter(5.0, 6.0)
    targets = np.array([[3.0, 4.0], [40.0, 45.0], [80.0, 80.0 + 2.0**-40], [120.0, 125.0 + 2.0**-44]])
    sources = np.array([[0.0, 0.0], [40.0, 40.0], [80.0, 80.0 - 5.0], [120.0, 120.0]])
    assert reach > 5.0
    costs = np.linspace(0.0, 500.0, 6)
    partner, _, left = both(*one_pair(sources, targets), gate=5.0, costs=costs, cost_unmatched=501)
    assert not left.any()
    assert list(partner[:4]) == [4, 5, -1, -1]
    assert both(*one_pair(sources, targets), gate=5.0, costs=costs, cost_unmatched=500)[0][0] == -1


def test_spots_exactly_a_gate_apart(cuda):
    """Lattices of 0.1 px and gates that are no sums of powers of two: rounding decides, the same way on both sides."""
    rng = np.random.default_rng(5)
    for gate in (0.3, 0.7, 1.0 / 3.0, np.sqrt(2.0)):
        y, x, pairs = frames_of(rng, [70, 70, 70], shape=(5.0, 7.0), quantum=gate / 2 if gate > 1 else 0.1)
        both(y, x, pairs, gate=gate)


def test_a_link_from_before_the_first_cell(cuda):
    """From a hair before it to the gate behind its beginning: a grid as fine as the gate has a cell between."""
    y, x, pairs = one_pair(np.array([[0.0, 50.0]]), np.array([[0.0, 0.0], [3.0, 50.0]]))
    assert both(y, x, pairs, (y - 1e-20, x), gate=3.0, cost_unmatched=1001)[0][0] == 2
    assert both(x, y, pairs, (x, y - 1e-20), gate=3.0, cost_unmatched=1001)[0][0] == 2


def test_distances_are_not_fused(cuda):
    """Offsets whose squared length, with one rounding fewer, would be more than the squared gate."""
    rng = np.random.default_rng(4)
    tried = 0
    while tried < 5:
        dy, dx = rng.uniform(1.0, 3.0, 2)
        square = dy * dy + dx * dx
        fused = min(float(Fraction(a) ** 2 + Fraction(b * b)) for a, b in ((dy, dx), (dx, dy)))
        gate = np.sqrt(square)
        if square < fused and gate * gate == square:
            tried += 1
            pair = one_pair(np.zeros((1, 2)), np.array([[dy, dx]]))
            assert both(*pair, gate=float(gate), cost_unmatched=1001)[0][0] == 1


def test_costs_are_rounded_to_even(cuda):
    pair = one_pair(np.zeros((1, 2)), np.zeros((1, 2)))
    for cost, dear, linked in [(0.5, 1, True), (1.5, 2, False), (2.5, 3, True), (-0.5, 0, False), (-1.5, -1, True)]:
        partner, _, _ = both(*pair, gate=3.0, costs=np.full(5, cost), cost_unmatched=dear)
        assert (partner[0] == 1) == linked


def test_costs_between_two_of_the_table(cuda):
    """A coarse table of irregular costs: which of two links is dearer depends on where they fall in it."""
    rng = np.random.default_rng(6)
    for _ in range(4):
        y, x, pairs = frames_of(rng, rng.integers(60, 90, 4))
        both(y, x, pairs, gate=9.0, costs=rng.uniform(-300.0, 1000.0, 7))
    both(y, x, pairs, gate=9.0, costs=np.array([0.0, 1000.0]))


def chain(order):
    """Sources in a row, each within reach of the targets at either side; `order` tells which row each place has."""
    n = len(order)
    places = np.arange(n)[np.argsort(order)]
    sources = np.column_stack([np.zeros(n), -2.0 * places])
    targets = np.column_stack([np.zeros(n + 1), 1.0 - 2.0 * np.arange(n + 1)])
    return one_pair(sources, targets)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("n", "too_many"), [(32, False), (33, True), (400, True)])
def test_as_many_sources_as_may_compete(cuda, n, too_many, turned):
    """Chains along which the least number gets on by one source in two sweeps, in one of the orders of the threads."""
    order = np.concatenate([[0], np.arange(1, n)[::-1]]) if turned else np.arange(n)
    y, x, pairs = chain(order)
    partner, _, left = both(y, x, pairs, gate=1.5)
    assert list(left) == [too_many]
    assert np.all(partner[:n] >= n)
    # The same chain turned round, and one across the lines of cells.
    assert list(both(y, -x, pairs, gate=1.5)[2]) == [too_many]
    assert list(both(-x, y, pairs, gate=1.5)[2]) == [too_many]


def test_many_groups_of_the_largest_size(cuda):
    """More groups than a warp has lanes, more spots than a block has threads, members far apart in the rows."""
    rng = np.random.default_rng(7)
    _, x, _ = chain(np.arange(32))
    sources = np.array([(10.0 * g, x[i]) for g in range(40) for i in range(32)])
    targets = np.array([(10.0 * g, x[i]) for g in range(40) for i in range(32, 65) if i != 32 + g % 33])
    sources += rng.uniform(-0.2, 0.2, sources.shape)
    partner, _, left = both(*one_pair(rng.permutation(sources), rng.permutation(targets)), gate=1.5)
    assert not left.any()
    assert np.mean(partner[: len(sources)] >= 0) > 0.95


@pytest.mark.parametrize(("n", "too_many"), [(16, False), (17, True)])
def test_as_many_candidates_as_a_source_may_have(cuda, n, too_many):
    around = np.column_stack([np.cos(np.arange(n)), np.sin(np.arange(n))])
    partner, count, left = both(*one_pair(np.array([[0.0, 0.0], [0.1, 0.0]]), around), gate=2.0)
    assert list(left) == [too_many]
    assert count == 0
    assert np.all(partner[:2] >= 2)


@pytest.mark.parametrize(("n", "too_many"), [(100, False), (101, True)])
@pytest.mark.parametrize("of_sources", [False, True])
def test_as_many_spots_as_a_cell_may_have(cuda, of_sources, n, too_many):
    """A heap out of reach of anything."""
    heap = np.random.default_rng(n).uniform(0.0, 0.9, (n, 2))
    alone = np.array([[40.0, 50.0], [60.0, 20.0]])
    heaped = np.concatenate([heap, alone])
    y, x, pairs = one_pair(*((heaped, alone) if of_sources else (alone, heaped)))
    partner, count, left = both(y, x, pairs, gate=2.0)
    assert list(left) == [too_many]
    assert count == int(too_many and of_sources)
    at = n if of_sources else 0
    assert np.all(partner[at : at + 2] >= 0)


def test_a_heap_is_matched_on_the_host(cuda, caplog):
    """Between two pairs that are not; how often its gate was narrowed is told, and how many pairs were left."""
    rng = np.random.default_rng(8)
    sizes = [30, 30, 150, 150, 30, 30]
    y, x, _ = frames_of(rng, sizes)
    y[60:360], x[60:360] = rng.normal(50.0, 1.5, (2, 300))
    pairs = np.array([[0, 30, 30, 60], [60, 210, 210, 360], [360, 390, 390, 420]])
    with caplog.at_level(logging.DEBUG, logger=on_device.__name__):
        partner, count, left = both(y, x, pairs, gate=5.0)
    assert list(left) == [False, True, False]
    assert count > 0
    assert "1 of 3 pairs" in caplog.text
    assert np.all(partner[30:60] == UNTOUCHED)


@pytest.mark.parametrize(("tall", "wide"), [(1e6, 3e5), (1e6, 30.0), (10.0, 1e6), (200.0, 4000.0)])
def test_fields_much_wider_than_their_spots(cuda, tall, wide):
    """The grid wraps in one direction or both; some spots are expected outside of it, before its first cell too."""
    rng = np.random.default_rng(9)
    centres = rng.uniform(0.0, 1.0, (25, 2)) * (tall, wide)
    sources, targets = (np.repeat(centres, 3, axis=0) + rng.normal(0.0, 2.0, (75, 2)) for _ in range(2))
    y, x, pairs = one_pair(sources, targets)
    partner, _, left = both(y, x, pairs, gate=3.0)
    assert not left.any()
    assert np.mean(partner[:75] >= 0) > 0.5
    for shift in (-2.5, 2.5, -1e7, 1e7):
        both(y, x, pairs, (y + shift, x - shift), gate=3.0)


def test_one_large_pair(cuda):
    rng = np.random.default_rng(10)
    y, x, pairs = frames_of(rng, [900, 1000], shape=(600, 800))
    partner, _, left = both(y, x, pairs, gate=9.0)
    assert not left.any()
    assert np.mean(partner[:900] >= 0) > 0.3


def test_pairs_in_any_order_in_parts_and_at_the_same_time(cuda, monkeypatch):
    rng = np.random.default_rng(11)
    y, x, pairs = frames_of(rng, rng.integers(0, 130, 30))
    given, settings = (y, x, y + 1.0, x), {"gate": 15.0, "costs": SQUARED, "cost_unmatched": 900}
    expected, partner = np.full(len(y), UNTOUCHED), np.full(len(y), UNTOUCHED)
    counts = cpu.match(*given, pairs, expected, **settings)
    assert 1 <= on_device.match_on_device(*given, pairs, partner.copy(), **settings).sum() < len(pairs)

    def work(part):
        return on_device.match(*given, part, partner, **settings)

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(work, np.array_split(rng.permutation(pairs), 9))) == counts
    assert np.array_equal(partner, expected)
    # Far fewer spots at a time than there are.
    partner[:] = UNTOUCHED
    monkeypatch.setattr(on_device, "_AT_A_TIME", 150)
    launches = getattr(device.current().runtime, "launches", None)
    before = len(launches or [])
    assert work(pairs) == counts
    assert np.array_equal(partner, expected)
    assert launches is None or len(launches) > before + 10


def test_nothing_to_match(cuda):
    launches = getattr(device.current().runtime, "launches", [])
    nothing = np.empty(0)
    assert both(nothing, nothing, np.empty((0, 4), np.int64), gate=3.0)[1] == 0
    assert not launches
    far = one_pair(np.array([[0.0, 0.0]]), np.array([[0.0, 50.0]]))
    assert both(*far, gate=3.0)[0][0] == -1
    near = one_pair(np.array([[0.0, 0.0]]), np.array([[0.0, 1.0]]))
    assert both(*near, gate=3.0)[0][0] == 1
    y, x, pairs = frames_of(np.random.default_rng(12), [40, 40, 40])
    partner, _, left = both(y, x, pairs, gate=8.0, cost_unmatched=0)
    assert np.all(partner[:80] == -1)
    assert not left.any()


# --- likelihood -----------------------------------------------------------------------------------------------------


def tracks_of(rng, lengths, *, noise=0.05):
    """Displacements, gaps, variances (a fifth of them zero), blurs from 0 to 1/4, and where tracks begin."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    n, n_tracks = offsets[-1], len(lengths)
    variance = rng.uniform(0.0, noise, (2, n)) * (rng.uniform(size=(2, n)) > 0.2)
    blur = rng.uniform(0.0, 0.25, n_tracks)
    blur[: min(2, n_tracks)] = (0.0, 0.25)[:n_tracks]
    gap = rng.choice([1, 1, 1, 2, 5], n - n_tracks).astype(np.int32)
    step = rng.normal(0.0, 0.5, (2, n - n_tracks)) * np.sqrt(gap)
    return *step, gap, *variance, blur, offsets


def compare(*tracks, diffusion, own_velocity):
    """Rows of the device, after they have been compared with those of the CPU: by the last bit of float32."""
    settings = {"frame_interval_s": 1 / 30, "own_velocity": own_velocity}
    expected = cpu.likelihood(*tracks, diffusion, **settings)
    rows = likelihood(*tracks, diffusion, **settings)
    assert rows.dtype == np.float32
    assert rows.shape == expected.shape
    assert np.all(np.isfinite(expected))
    assert np.all(np.abs(rows - expected) <= 1e-6 + 1.2e-7 * np.abs(expected))
    return rows


@pytest.mark.parametrize("own_velocity", [False, True])
@pytest.mark.parametrize("n_grid", [1, 63, 200, 257])
def test_likelihood(cuda, n_grid, own_velocity):
    """Tracks of 1 to 200 localizations: on either side of the 16 steps after which a logarithm is taken."""
    rng = np.random.default_rng(n_grid)
    tracks = tracks_of(rng, [2, 3, 1, 15, 16, 17, 18, 1, 32, 33, 34, 200, 5, 10, 60])
    rows = compare(*tracks, diffusion=np.geomspace(0.05, 60.0, n_grid), own_velocity=own_velocity)
    assert np.all(rows.max(axis=1) == 0.0)
    assert np.all(rows[[2, 7]] == 0.0)
    if own_velocity:
        assert np.all(np.abs(rows[0]) < 1e-6)  # a single displacement says nothing beside its velocity
    if n_grid > 1:
        assert np.all(rows[3:7].min(axis=1) < -1.0)


@pytest.mark.parametrize("own_velocity", [False, True])
def test_likelihood_with_and_without_noise(cuda, own_velocity):
    """Variances of zero, and a thousand times the diffusion between frames."""
    rng = np.random.default_rng(1)
    diffusion = np.geomspace(0.05, 60.0, 240)
    for noise in (0.0, 3.0):
        tracks = tracks_of(rng, [7, 25, 60], noise=noise)
        rows = compare(*tracks, diffusion=diffusion, own_velocity=own_velocity)
        # In another order of the grid the same numbers.
        settings = {"frame_interval_s": 1 / 30, "own_velocity": own_velocity}
        assert np.array_equal(likelihood(*tracks, diffusion[::-1], **settings), rows[:, ::-1])


def test_likelihood_of_many_tracks(cuda):
    """What a track gets does not depend on the others."""
    rng = np.random.default_rng(2)
    tracks = tracks_of(rng, rng.integers(1, 12, 300))
    diffusion = np.geomspace(0.05, 60.0, 50)
    rows = compare(*tracks, diffusion=diffusion, own_velocity=False)
    step_y, step_x, gap, variance_y, variance_x, blur, offsets = tracks
    first, last = offsets[200], offsets[201]
    steps, spots = slice(first - 200, last - 201), slice(first, last)
    alone = (step_y[steps], step_x[steps], gap[steps], variance_y[spots], variance_x[spots], blur[200:201])
    row = compare(*alone, np.array([0, last - first]), diffusion=diffusion, own_velocity=False)
    assert np.array_equal(row[0], rows[200])


def test_likelihood_of_no_displacements(cuda):
    diffusion = np.geomspace(0.05, 60.0, 70)
    for own_velocity in (False, True):
        tracks = tracks_of(np.random.default_rng(3), [1, 1, 1])
        assert np.all(compare(*tracks, diffusion=diffusion, own_velocity=own_velocity) == 0.0)


def test_likelihood_of_no_tracks(cuda):
    launches = getattr(device.current().runtime, "launches", [])
    tracks = tracks_of(np.random.default_rng(4), [])
    rows = compare(*tracks, diffusion=np.geomspace(0.05, 60.0, 70), own_velocity=False)
    assert rows.shape == (0, 70)
    assert not launches
