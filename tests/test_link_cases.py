"""Textbook cases of linking, each a story of a few particles: those that every tracker is expected to get right.

The cases are the ones that trackpy's own tests tell (Allan et al., doi:10.5281/zenodo.1213240): steady and random
walkers near and far, gaps, blank frames, newcomers, memory, particles on a lattice. Written anew for our rules.
"""

import numpy as np
import pytest
from test_link import acquisition_of, protocol_of, spots_at

from exotrack.link import link

STEP = 1.0
"""Largest displacement of the walkers, px; the fastest particles of interest reach 2.7 px per frame."""


def table(*walkers):
    """Localizations and the walker of each, from (frames, y, x) of every walker; missing frames are left out."""
    frame = np.concatenate([np.asarray(w[0]) for w in walkers])
    y, x = (np.concatenate([np.broadcast_to(np.asarray(w[k], float), len(w[0])) for w in walkers]) for k in (1, 2))
    walker = np.repeat(np.arange(len(walkers)), [len(w[0]) for w in walkers])
    shuffled = np.random.default_rng(0).permutation(len(frame))
    return spots_at(frame[shuffled], y[shuffled], x[shuffled]), walker[shuffled]


def stories(*walkers, **section):
    """For each track, which walkers it consists of and the frames they are seen in."""
    spots, walker = table(*walkers)
    acquisition = acquisition_of(0.06, n_frames=int(spots.frame.max()) + 1, frame_shape=(200, 200))
    tracks = link(spots, acquisition, protocol_of(**{"isolation": 0.0, "flow": "none", **section}))
    known = {(f, y, x): w for f, y, x, w in zip(spots.frame, spots.y, spots.x, walker, strict=True)}
    result = []
    for particle in np.unique(tracks.particle):
        mine = tracks.particle == particle
        seen = [known[key] for key in zip(tracks.frame[mine], tracks.y[mine], tracks.x[mine], strict=True)]
        result.append((sorted(set(seen)), tracks.frame[mine].tolist()))
    return result


def walk(seed, n, start):
    """A random walk of steps up to STEP."""
    rng = np.random.default_rng(seed)
    angle, length = rng.uniform(0, 2 * np.pi, n - 1), STEP * np.sqrt(rng.uniform(0, 1, n - 1))
    steps = np.stack([length * np.cos(angle), length * np.sin(angle)])
    return np.asarray(start)[:, None] + np.concatenate([np.zeros((2, 1)), np.cumsum(steps, axis=1)], axis=1)


def test_a_steady_walker_is_one_track():
    t = np.arange(5)
    assert stories((t, 5.0, t)) == [([0], [0, 1, 2, 3, 4])]


def test_two_distant_walkers_are_two_tracks():
    t = np.arange(25)
    assert stories((t, 5.0, t), (t, 40.0, 60.0 - t)) == [([0], t.tolist()), ([1], t.tolist())]


def test_random_walkers_far_apart_keep_their_identities():
    t = np.arange(50)
    places = [(40 * i + 20, 40 * j + 20) for i in range(4) for j in range(4)]
    walkers = [(t, *walk(k, 50, place)) for k, place in enumerate(places)]
    assert sorted(stories(*walkers)) == [([k], t.tolist()) for k in range(16)]


def test_random_walkers_side_by_side_keep_their_identities():
    """Never nearer to each other than two and a half of their largest steps."""
    t = np.arange(30)
    a = walk(1, 30, (20.0, 20.0))
    b = a + np.array([[0.0], [2.5]]) + np.array([[0.0], [0.02]]) * t
    assert sorted(stories((t, *a), (t, *b))) == [([0], t.tolist()), ([1], t.tolist())]


def test_walkers_that_cross_in_steady_motion_far_enough_apart_pass_each_other():
    t = np.arange(21)
    assert sorted(stories((t, 50.0, 40.0 + t), (t, 54.0, 60.0 - t))) == [([0], t.tolist()), ([1], t.tolist())]


def test_a_recording_may_start_at_any_frame():
    t = np.arange(7, 12)
    assert stories((t, 5.0, t), (t, 30.0, t)) == [([0], t.tolist()), ([1], t.tolist())]


def test_a_walker_missed_for_one_frame_is_picked_up_with_memory_only():
    t = np.arange(20)
    seen = t[t != 8]
    gapped = (seen, 40.0, 0.3 * seen)
    assert ([1], seen.tolist()) in stories((t, 5.0, 0.3 * t), gapped, gap_frames=1)
    assert stories((t, 5.0, 0.3 * t), gapped, gap_frames=0) == [
        ([0], t.tolist()),
        ([1], list(range(8))),
        ([1], list(range(9, 20))),
    ]


def test_two_walkers_missed_in_the_same_frame_are_told_apart_by_place():
    t = np.arange(10)
    seen = t[t != 5]
    found = stories((seen, 20.0, 0.2 * seen), (seen, 24.0, 0.2 * seen), (t, 90.0, 0.2 * t))
    assert sorted(found) == [([0], seen.tolist()), ([1], seen.tolist()), ([2], t.tolist())]


def test_memory_lasts_as_long_as_allowed_and_no_longer():
    seen = np.array([0, 1, 2, 6, 7, 8])
    companion = (np.arange(9), 90.0, 90.0)
    assert ([0], seen.tolist()) in stories((seen, 20.0, 20.0), companion, gap_frames=3)
    broken = stories((seen, 20.0, 20.0), companion, gap_frames=2)
    assert ([0], [0, 1, 2]) in broken
    assert ([0], [6, 7, 8]) in broken


def test_a_blank_frame_ends_all_tracks_without_memory_and_none_with_it():
    t = np.array([0, 1, 2, 4, 5, 6])
    walkers = (t, 20.0, 0.2 * t), (t, 60.0, 0.2 * t)
    assert [frames for _, frames in stories(*walkers, gap_frames=0)] == [[0, 1, 2], [0, 1, 2], [4, 5, 6], [4, 5, 6]]
    assert [frames for _, frames in stories(*walkers, gap_frames=1)] == [t.tolist(), t.tolist()]


def test_a_newcomer_starts_a_track_and_takes_nobodys_name():
    t = np.arange(20)
    late = np.arange(9, 20)
    assert stories((t, 20.0, 0.2 * t), (late, 26.0, 40 + 0.2 * late)) == [([0], t.tolist()), ([1], late.tolist())]


def test_a_newcomer_near_a_walker_that_is_missed_does_not_steal_its_memory():
    """The walker is missed in frame 9, when the newcomer appears 3 px off; it is back in frame 10."""
    t = np.arange(20)
    seen, late = t[t != 9], np.arange(9, 20)
    found = stories((seen, 20.0, 0.1 * seen), (late, 23.0, 0.1 * late))
    assert sorted(found) == [([0], seen.tolist()), ([1], late.tolist())]


def test_one_that_leaves_and_one_that_comes_elsewhere_at_once_are_two():
    first, second = np.arange(10), np.arange(10, 20)
    assert stories((first, 20.0, 0.2 * first), (second, 60.0, 0.2 * second)) == [
        ([0], first.tolist()),
        ([1], second.tolist()),
    ]


def test_a_single_appearance_is_no_track():
    t = np.arange(10)
    assert stories((t, 20.0, 0.2 * t), ([4], [70.0], [70.0])) == [([0], t.tolist())]


@pytest.mark.parametrize("share", [0.1, 0.25])
@pytest.mark.parametrize("side", [10, 40])
def test_a_lattice_that_moves_by_up_to_a_quarter_of_its_spacing_is_followed(side, share):
    """All spots compete with their neighbours: up to 1600 in one group."""
    spacing, t = 4.0, np.arange(4)
    places = [(spacing * i, spacing * j) for i in range(side) for j in range(side)]
    walkers = [(t, y, x + share * spacing * t) for y, x in places]
    assert sorted(stories(*walkers)) == [([k], t.tolist()) for k in range(side**2)]


def test_a_lattice_that_moves_by_more_than_half_its_spacing_is_followed_as_a_flow():
    """Where the lattice ends, the vote hears which way it went."""
    spacing, t = 20.0, np.arange(12)
    rng = np.random.default_rng(1)
    walkers = [
        (t, spacing * i + rng.normal(0, 0.3, 12), spacing * j + 0.7 * spacing * t + rng.normal(0, 0.3, 12))
        for i, j in rng.permutation([(i, j) for i in range(9) for j in range(9)])[:40]
    ]
    found = stories(*walkers, flow="uniform", smallest_diameter_nm=3.0)
    assert sorted(found) == [([k], t.tolist()) for k in range(40)]
