"""Modes, log-normal populations, and the histogram of single tracks, against what was simulated."""

from __future__ import annotations

import numpy as np
import pytest
from brownian import WATER_25, acquisition, simulated_tracks
from test_sizing import GRID, gamma_rows, log_normal, protocol

from exotrack import measure
from exotrack.sizing import pool, track_histogram
from exotrack.sizing.modes import find_modes


def bells(*parts):
    """Shares of narrow bells in ln d: (diameter, weight) each."""
    share = sum(w * np.exp(-0.5 * (np.log(GRID / d) / 0.06) ** 2) for d, w in parts)
    return share / share.sum()


def videos(draw, seed):
    rng = np.random.default_rng(seed)
    return [gamma_rows(rng, part) for part in np.array_split(draw(rng), 5)]


def two_sizes(small, large):
    return lambda rng: np.where(rng.random(2000) < 0.5, small, large) * np.exp(0.03 * rng.normal(size=2000))


# Modes


def test_modes_are_peaks_with_a_dip_between_and_enough_particles():
    two = bells((80.0, 0.7), (160.0, 0.3))
    found = find_modes(two, np.array([two, two, bells((100.0, 1.0))]), GRID, 0.05)
    assert found.diameter_nm == pytest.approx((80.0, 160.0), rel=0.03)
    assert found.fraction == pytest.approx((0.7, 0.3), abs=0.01)
    assert found.stability == pytest.approx(2 / 3)


@pytest.mark.parametrize("share", [bells((100.0, 0.99), (300.0, 0.01)), bells((100.0, 0.5), (113.0, 0.5))])
def test_a_peak_of_few_particles_or_without_a_dip_is_no_mode(share):
    found = find_modes(share, share[None], GRID, 0.05)
    assert len(found.diameter_nm) == 1
    assert found.fraction == pytest.approx((1.0,))


# Populations


def test_two_populations_of_equal_number_are_found_with_their_sizes():
    """2,000 tracks of 15 steps on average: over 24 seeds medians were within 2.6 % and fractions within 2.2 points."""
    result = pool(videos(two_sizes(100.0, 200.0), 0), protocol())
    small, large = result.populations
    assert (small.name, large.name) == ("P1", "P2")
    assert small.median_nm.value == pytest.approx(100.0, rel=0.03)
    assert large.median_nm.value == pytest.approx(200.0, rel=0.03)
    assert small.fraction.value == pytest.approx(0.5, abs=0.1)
    assert small.fraction.lo < 0.5 < small.fraction.hi
    assert small.gsd.value < 1.15
    assert result.modes.stability > 0.9


def test_one_log_normal_is_one_population():
    """A mixture has no more parts than the tracks bear out: none of 24 samples was split."""
    for seed in range(3):
        result = pool(videos(lambda rng: log_normal(rng, 2000, 120.0, 0.35), seed), protocol())
        (only,) = result.populations
        assert only.median_nm.value == pytest.approx(120.0, rel=0.05)
        assert np.log(only.gsd.value) == pytest.approx(0.35, abs=0.03)
        assert only.fraction.value == 1.0


def test_populations_are_by_number_where_the_distribution_is():
    """Arrivals count ∝ √D: of equal numbers of arrivals, there are √2 times as many particles of 200 nm as of 100."""
    result = pool(videos(two_sizes(100.0, 200.0), 2), protocol(weighting="number"))
    assert result.weighting == "number"
    small, large = result.populations
    assert large.fraction.value / small.fraction.value == pytest.approx(np.sqrt(2.0), rel=0.15)


def test_too_few_particles_have_no_populations():
    rng = np.random.default_rng(4)
    assert pool([gamma_rows(rng, log_normal(rng, 30))], protocol()).populations == ()


# Single tracks


def test_histogram_of_single_tracks_has_the_width_of_their_length():
    """3,000 tracks of 20 displacements of particles of one size: CV 1/√18, standard error 2 %."""
    tracks = simulated_tracks(np.random.default_rng(6), np.full(3000, WATER_25 / 100.0), 21)
    p = measure(tracks, acquisition())
    found = track_histogram(p.diameter_nm, p.n_steps, np.zeros(3000, bool), np.arange(0.0, 400.0, 10.0))
    assert found.expected_cv == pytest.approx(1.0 / np.sqrt(18.0), rel=1e-6)
    assert found.cv == pytest.approx(found.expected_cv, rel=0.08)
    assert found.count.sum() == 3000
    assert "broadened" in found.label
    assert "24%" in found.label
