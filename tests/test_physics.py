"""Formulae against published and independently computed values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exotrack import physics


@pytest.mark.parametrize(
    ("celsius", "mpa_s"),
    [(15, 1.1375), (18, 1.0526), (20, 1.0016), (22, 0.9544), (25, 0.8900), (30, 0.7972), (37, 0.6913)],
)
def test_viscosity_of_water_has_the_tabulated_values(celsius, mpa_s):
    assert physics.water_viscosity_mpa_s(celsius) == pytest.approx(mpa_s, abs=6e-5)


def test_viscosity_of_water_agrees_with_the_kestin_correlation():
    for t in np.arange(5.0, 40.0, 2.5):
        log_ratio = (20 - t) / (t + 96) * (1.2364 - 1.37e-3 * (20 - t) + 5.7e-6 * (20 - t) ** 2)
        assert physics.water_viscosity_mpa_s(t) == pytest.approx(1.0020 * 10**log_ratio, rel=1.2e-3)


@pytest.mark.parametrize("celsius", [-21.0, 111.0, float("nan")])
def test_viscosity_of_water_outside_its_range_is_refused(celsius):
    with pytest.raises(ValueError, match="outside"):
        physics.water_viscosity_mpa_s(celsius)


def test_unknown_medium_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"syrup.*pbs"):
        physics.viscosity_mpa_s("syrup", 25.0)


@pytest.mark.parametrize(("celsius", "um2_s"), [(15, 3.711), (20, 4.288), (25, 4.908), (37, 6.572)])
def test_stokes_einstein_of_a_100_nm_sphere_in_water(celsius, um2_s):
    eta = physics.water_viscosity_mpa_s(celsius)
    assert physics.diameter_to_diffusion_um2_s(100.0, celsius, eta) == pytest.approx(um2_s, abs=6e-4)


@given(st.floats(1.0, 1e4), st.floats(0.0, 100.0), st.floats(0.1, 50.0))
def test_diameter_and_diffusion_are_inverse(diameter, celsius, eta):
    diffusion = physics.diameter_to_diffusion_um2_s(diameter, celsius, eta)
    assert physics.diffusion_to_diameter_nm(diffusion, celsius, eta) == pytest.approx(diameter)


def test_blur_of_a_full_exposure_is_one_sixth():
    assert physics.motion_blur(0.04, 0.04) == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("n", "ratio", "blur", "expected"),
    [
        (10, 0.05, 1 / 6, 0.35),
        (10, 0.3, 0.0, 0.40),
        (10, 1.0, 1 / 6, 0.58),
        (20, 0.05, 0.0, 0.23),
        (20, 1.0, 0.0, 0.36),
    ],
)
def test_bound_of_the_diffusion_coefficient_has_the_known_values(n, ratio, blur, expected):
    assert physics.diffusion_crlb(n, ratio, blur) == pytest.approx(expected, abs=0.0051)


def test_bound_of_the_diffusion_coefficient_equals_the_dense_fisher_matrix():
    n, ratio, blur = 12, 0.4, 0.1
    off = np.eye(n, k=1) + np.eye(n, k=-1)
    by_d = 2 * (1 - 2 * blur) * np.eye(n) + 2 * blur * off
    by_s = 2 * np.eye(n) - off
    inverse = np.linalg.inv(by_d + ratio * by_s)
    fisher = np.array([[np.trace(inverse @ a @ inverse @ b) for b in (by_d, by_s)] for a in (by_d, by_s)])  # 2 axes
    assert physics.diffusion_crlb(n, ratio, blur) == pytest.approx(fisher[0, 0] ** -0.5)
    unknown = np.linalg.inv(fisher)[0, 0] ** 0.5
    assert physics.diffusion_crlb(n, ratio, blur, noise_known=False) == pytest.approx(unknown)
    assert unknown > fisher[0, 0] ** -0.5


@pytest.mark.parametrize(
    ("sigma", "photons", "background", "crlb"), [(1.2, 1000.0, 10.0, 0.051), (1.8, 300.0, 25.0, 0.310)]
)
def test_bound_of_a_position_is_within_two_percent_of_the_numerical_one(sigma, photons, background, crlb):
    assert physics.position_crlb_px(photons, background, sigma) == pytest.approx(crlb, rel=0.02)
