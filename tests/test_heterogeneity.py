"""Distances between distributions against SciPy, their null level and their intervals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from exotrack.errors import InputError
from exotrack.heterogeneity import compare, wasserstein_nm
from exotrack.sizing.summary import density_per_nm
from exotrack.tables import SizeDistribution

GRID = np.geomspace(20.0, 1000.0, 120)


def log_normal(median, sigma=0.3, replicates=100, spread=0.02, seed=0):
    """Distribution with replicates whose median scatters by `spread`."""

    def share(m):
        s = np.exp(-0.5 * (np.log(GRID / m) / sigma) ** 2)
        return s / s.sum()

    rng = np.random.default_rng(seed)
    drawn = np.array([share(median * np.exp(spread * z)) for z in rng.normal(size=replicates)])
    density = density_per_nm(share(median), GRID)
    return SizeDistribution(GRID, density, density, density, replicates=drawn)


weights = st.lists(st.floats(0.0, 1.0), min_size=30, max_size=30).filter(lambda w: sum(w) > 0.1)


@given(weights, weights)
def test_distance_equals_the_one_of_scipy(a, b):
    d = GRID[:30]
    expected = stats.wasserstein_distance(d, d, a, b)
    assert wasserstein_nm(d, np.array(a), np.array(b)) == pytest.approx(expected, abs=1e-9)


def test_distance_of_a_shift_is_the_shift_of_the_mean():
    a, b = log_normal(100.0), log_normal(120.0)
    result = compare(a, b)
    assert result.wasserstein_nm.value == pytest.approx(20.0 * np.exp(0.3**2 / 2), rel=0.02)
    assert result.d50_ratio.value == pytest.approx(1.2, rel=0.002)
    assert result.d50_ratio.lo == pytest.approx(1.2 * np.exp(-1.96 * 0.02 * 2**0.5), rel=0.02)
    assert result.wasserstein_nm.lo < result.wasserstein_nm.value < result.wasserstein_nm.hi
    assert result.wasserstein_null_nm < result.wasserstein_nm.lo


def test_same_material_stays_at_its_null_level():
    result = compare(log_normal(100.0, seed=1), log_normal(100.5, seed=2))
    assert result.wasserstein_nm.value < result.wasserstein_null_nm
    assert result.d50_ratio.lo < 1.0 < result.d50_ratio.hi


def test_null_level_is_passed_by_one_in_twenty_pairs_of_the_same_material():
    """400 pairs, each estimate as uncertain as its replicates say: standard error 1.1 %."""
    medians = 100.0 * np.exp(0.02 * np.random.default_rng(5).normal(size=(400, 2)))
    passed = []
    for i, (first, second) in enumerate(medians):
        result = compare(log_normal(first, seed=2 * i + 10), log_normal(second, seed=2 * i + 11))
        passed.append(result.wasserstein_nm.value > result.wasserstein_null_nm)
    assert np.mean(passed) == pytest.approx(0.05, abs=0.03)


def test_comparison_is_symmetric():
    a, b = log_normal(90.0, seed=3), log_normal(110.0, 0.4, seed=4)
    assert compare(a, b).wasserstein_nm.value == pytest.approx(compare(b, a).wasserstein_nm.value)
    assert compare(a, b).d50_ratio.value == pytest.approx(1 / compare(b, a).d50_ratio.value)


def test_empty_and_unsuitable_distributions():
    a = log_normal(100.0)
    assert np.isnan(compare(a, SizeDistribution.empty()).wasserstein_nm.value)
    without = SizeDistribution(GRID, a.density_per_nm, a.lo, a.hi)
    with pytest.raises(InputError, match="without replicates"):
        compare(a, without)
    with pytest.raises(InputError, match="grids"):
        compare(a, SizeDistribution(GRID * 1.1, a.density_per_nm, a.lo, a.hi, replicates=a.replicates))


def test_distributions_that_count_differently_are_not_compared():
    a, b = log_normal(100.0), log_normal(100.0)
    b = dataclasses.replace(b, weighting="frames")
    with pytest.raises(InputError, match="weighted by number and by frames"):
        compare(a, b)


def test_both_are_cut_at_the_larger_limit_of_detection():
    """One sample, of which one video shows what lies below 100 nm and the other does not: no difference above."""
    whole = log_normal(100.0, spread=0.0)
    visible = np.where(GRID < 100.0, 0.0, 1.0)
    replicates = whole.replicates * visible
    density = whole.density_per_nm * visible
    cut = SizeDistribution(GRID, density, density, density, limit_nm=100.0, replicates=replicates)
    assert compare(whole, cut).wasserstein_nm.value == pytest.approx(0.0, abs=1e-9)
    assert compare(whole, cut).d50_ratio == pytest.approx((1.0, 1.0, 1.0))
    unknown = dataclasses.replace(cut, limit_nm=float("nan"))
    assert compare(whole, unknown).wasserstein_nm.value > 5.0
