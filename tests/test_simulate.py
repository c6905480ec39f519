"""The simulator against physics, statistics and itself."""

from __future__ import annotations

import csv
import math
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from exotrack import physics, samplesheet
from exotrack.errors import InputError
from exotrack.simulate import (
    Component,
    Simulation,
    Study,
    TruePositions,
    TrueSizes,
    frames_iter,
    simulate,
    write,
)
from exotrack.simulate.camera import Camera, uneven_background
from exotrack.simulate.motion import Population, drift_um, illumination, instants, spot_sigma_px
from exotrack.simulate.spots import add_spots, located

SMALL = {"frame_shape": (48, 64), "n_frames": 6, "particles_per_frame": 8, "seed": 3}


def population(spec: Simulation) -> Population:
    return Population(spec, np.random.default_rng(spec.seed))


def spot(y, x, *, sigma=1.3, photons=1000.0):
    """Arguments of `add_spots` and `located` for one particle with the given instants."""
    y, x = np.atleast_2d(np.asarray(y, float)), np.atleast_2d(np.asarray(x, float))
    return y, x, np.full_like(y, sigma), np.full_like(y, photons / y.shape[1])


# --- sizes: analytic ---------------------------------------------------------------------------------------------


def test_sizes_of_one_log_normal():
    sizes = TrueSizes((Component(diameter_nm=120.0, cv=0.35),))
    s = math.sqrt(math.log1p(0.35**2))
    assert sizes.d50_nm == pytest.approx(120.0)
    assert sizes.d90_nm == pytest.approx(120.0 * math.exp(s * special.ndtri(0.9)))
    assert sizes.d10_nm == pytest.approx(120.0 * math.exp(s * special.ndtri(0.1)))
    assert sizes.mean_nm == pytest.approx(120.0 * math.exp(s**2 / 2))
    assert sizes.mode_nm == pytest.approx(120.0 * math.exp(-(s**2)), rel=1e-4)
    assert sizes.cv == pytest.approx(0.35)
    assert sizes.span == pytest.approx((sizes.d90_nm - sizes.d10_nm) / 120.0)


def test_sizes_of_equal_particles():
    sizes = TrueSizes((Component(diameter_nm=100.0, cv=0.0),))
    assert [sizes.d10_nm, sizes.d50_nm, sizes.mode_nm, sizes.mean_nm] == pytest.approx([100.0] * 4, rel=1e-5)
    assert np.all(sizes.draw(np.random.default_rng(0), 5)[1] == pytest.approx(100.0, rel=1e-12))


mixtures = st.lists(
    st.builds(
        Component,
        diameter_nm=st.floats(30, 500),
        cv=st.floats(0.01, 0.6),
        fraction=st.floats(0.05, 3.0),
    ),
    min_size=1,
    max_size=3,
).map(lambda components: TrueSizes(tuple(components)))


@given(mixtures, st.floats(0.001, 0.999))
def test_quantiles_invert_the_cumulative_distribution(sizes, share):
    assert sizes.cumulative(sizes.quantile_nm(share)) == pytest.approx(share, abs=1e-9)


@given(mixtures)
@settings(max_examples=30)
def test_density_is_the_slope_of_the_cumulative_and_highest_at_the_mode(sizes):
    d = np.geomspace(sizes.quantile_nm(1e-6), sizes.quantile_nm(1 - 1e-6), 4001)
    slope = (sizes.cumulative(d * 1.00001) - sizes.cumulative(d * 0.99999)) / (d * 2e-5)
    density = sizes.density_per_nm(d)
    np.testing.assert_allclose(density, slope, rtol=1e-3, atol=1e-6 * density.max())
    assert sizes.density_per_nm(sizes.mode_nm) >= density.max() * (1 - 1e-6)


def test_drawn_diameters_follow_the_mixture():
    sizes = TrueSizes((Component(diameter_nm=80.0, fraction=0.7), Component(diameter_nm=140.0, cv=0.2, fraction=0.3)))
    component, diameter = sizes.draw(np.random.default_rng(1), 20_000)
    assert stats.kstest(diameter, sizes.cumulative).pvalue > 1e-3
    assert np.mean(component) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 20_000))
    assert diameter.mean() == pytest.approx(sizes.mean_nm, rel=0.01)
    assert diameter.std() / diameter.mean() == pytest.approx(sizes.cv, rel=0.02)


# --- motion: analytic and statistical ----------------------------------------------------------------------------


@pytest.mark.parametrize("exposure_s", [0.033, 0.02, 0.001])
def test_instants_reproduce_motion_blur_exactly(exposure_s):
    spec = Simulation(exposure_s=exposure_s)
    t = instants(spec)
    assert 0 < t[0] < t[-1] < exposure_s
    assert t.mean() == pytest.approx(exposure_s / 2)
    assert np.abs(t[:, None] - t).mean() == pytest.approx(exposure_s / 3)
    blur = np.abs(t[:, None] - t).mean() / (2 * spec.frame_interval_s)
    assert blur == pytest.approx(physics.motion_blur(exposure_s, spec.frame_interval_s))


def mean_positions(spec: Simulation, n_frames: int) -> np.ndarray:
    """Mean (z, y, x) over each exposure, µm, shape (frames, particles, 3), NaN where a particle is far from view."""
    moving = population(spec)
    centres = np.full((n_frames, len(moving.D_um2_s), 3), np.nan)
    for frame in range(n_frames):
        exposure = moving.expose()
        centres[frame, exposure.rows] = exposure.position_um.mean(axis=1)
    return centres


def test_displacements_have_the_covariance_of_blurred_brownian_motion():
    """About 60,000 displacements per axis: relative s.e. of the variance 0.6 %."""
    spec = Simulation(
        frame_shape=(96, 96), pixel_size_um=0.4, depth_um=40.0, sizes=[{"diameter_nm": 100.0, "cv": 0.0}],
        particles_per_frame=1500.0, frame_interval_s=0.03, exposure_s=0.03,
    )  # fmt: skip
    centres = mean_positions(spec, 45)
    # Chosen by where they start, not by where they go: whoever starts deep inside is still near two frames later.
    inside = (np.abs(centres[:-2] - [0.0, 19.2, 19.2]) < [14.0, 14.0, 14.0]).all(axis=2)
    first, second = (centres[1:-1] - centres[:-2])[inside], (centres[2:] - centres[1:-1])[inside]
    assert len(first) > 15_000
    D = physics.diameter_to_diffusion_um2_s(100.0, 25.0, spec.acquisition.viscosity)
    blur = spec.acquisition.blur
    se = math.sqrt(2 / len(first))
    np.testing.assert_allclose(np.mean(first**2, axis=0) / (2 * D * 0.03 * (1 - 2 * blur)), 1.0, atol=4 * se)
    np.testing.assert_allclose(np.mean(first * second, axis=0) / (2 * D * 0.03 * blur), 1.0, atol=4 * se / blur)
    np.testing.assert_allclose(first.mean(axis=0), 0.0, atol=4 * math.sqrt(2 * D * 0.03 / len(first)))


def test_counts_in_the_observed_volume_are_poisson_at_all_times():
    """400 independent populations: the index of dispersion is χ² with 399 degrees of freedom."""
    spec = Simulation(frame_shape=(64, 64), depth_um=10.0, particles_per_frame=12.0, flow_x_um_s=30.0, n_frames=4)
    for frames in (0, 3):
        counts = []
        for seed in range(400):
            moving = Population(spec, np.random.default_rng(seed))
            for _ in range(frames):
                moving.expose()
            z, y, x = moving.position_um.T
            counts.append(np.sum((np.abs(z) <= 5) & (y >= 0) & (y < 19.2) & (x >= 0) & (x < 19.2)))
        assert np.mean(counts) == pytest.approx(12.0, abs=4 * math.sqrt(12 / 400))
        dispersion = 399 * np.var(counts, ddof=1) / np.mean(counts)
        assert 1e-3 < stats.chi2.sf(dispersion, 399) < 1 - 1e-3


def test_residence_in_the_depth_is_that_of_free_exchange():
    """Mean stay L̄ = h / (2 √(DΔt/π)) and P(stay ≥ 10) = P(no return of a random walk), about 9,000 entries."""
    h, dt = 10.0, 1 / 30
    spec = Simulation(
        frame_shape=(64, 64), depth_um=h, sizes=[{"diameter_nm": 100.0, "cv": 0.0}], particles_per_frame=150.0,
        n_frames=120,
    )  # fmt: skip
    moving = population(spec)
    inside = np.empty((spec.n_frames, len(moving.D_um2_s)), bool)
    for frame in range(spec.n_frames):
        inside[frame] = np.abs(moving.position_um[:, 0]) <= h / 2
        moving.expose()
    starts = inside[1:] & ~inside[:-1]
    mean_stay = inside[1:].sum() / starts.sum()
    D = physics.diameter_to_diffusion_um2_s(100.0, 25.0, spec.acquisition.viscosity)
    assert mean_stay * 2 * math.sqrt(D * dt / math.pi) / h == pytest.approx(1.0, abs=0.05)
    survive = starts[:-9] & np.all([inside[1 + k : len(inside) - 9 + k] for k in range(10)], axis=0)
    assert survive.sum() / starts[:-9].sum() * math.sqrt(10) == pytest.approx(1.0, abs=0.05)


@given(
    flow=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    pulsation=st.floats(0, 2),
    frequency=st.floats(0.2, 5),
    field_hz=st.floats(0.2, 5) | st.just(0.0),
)
def test_drift_is_the_integral_of_the_velocity(flow, pulsation, frequency, field_hz):
    spec = Simulation(
        flow_y_um_s=flow[0], flow_x_um_s=flow[1], pulsation=pulsation, pulsation_hz=frequency,
        field_v_per_cm=3.0, mobility_um_cm_per_v_s=-2.0, field_hz=field_hz,
    )  # fmt: skip
    t = np.linspace(0, 2, 20_001)
    middle = (t[1:] + t[:-1]) / 2
    wave = 1 + pulsation * np.sin(2 * np.pi * frequency * middle)
    polarity = np.where((middle * field_hz) % 1 < 0.5, 1.0, -1.0)
    velocity = np.stack([flow[0] * wave, flow[1] * wave - 6.0 * polarity], axis=-1)
    integral = np.concatenate([np.zeros((1, 2)), np.cumsum(velocity, axis=0) * (t[1] - t[0])])
    np.testing.assert_allclose(drift_um(spec, t), integral, atol=0.02)


def test_particles_follow_flow_and_field():
    """About 2,000 displacements of a viscous sample, in which diffusion is negligible."""
    spec = Simulation(
        frame_shape=(64, 64), n_frames=10, viscosity_mpa_s=1e6, particles_per_frame=200.0, flow_y_um_s=5.0,
        field_v_per_cm=4.0, mobility_um_cm_per_v_s=-3.0, field_hz=0.0,
    )  # fmt: skip
    step = np.nanmean(np.diff(mean_positions(spec, 10), axis=0), axis=(0, 1)) * 30
    np.testing.assert_allclose(step, [0.0, 5.0, -12.0], atol=0.01)


def test_a_particle_never_jumps():
    """Leaving the box on one side and entering on the other makes another particle of it."""
    _, truth = simulate(
        frame_shape=(16, 16), n_frames=200, particles_per_frame=6, depth_um=3.0, flow_x_um_s=40.0, flow_y_um_s=-25.0
    )
    table = truth.positions.to_pandas().sort_values(["particle", "frame"])
    step = table.groupby("particle")[["frame", "y", "x"]].diff().dropna()
    limit = (6 * math.sqrt(2 * 6.0 / 30) + 47 / 30) / 0.3 * step["frame"]
    assert np.all(np.hypot(step["y"], step["x"]) < limit)
    assert len(truth.particles) == table["particle"].nunique() == table["particle"].max() + 1
    np.testing.assert_array_equal(truth.particles.particle, np.arange(len(truth.particles)))


def test_diffusion_follows_stokes_einstein():
    _, truth = simulate(**SMALL, sizes=[{"diameter_nm": 90.0, "cv": 0.3}], temperature_c=30.0)
    particles = truth.particles
    product = particles.D_um2_s * particles.diameter_nm
    np.testing.assert_allclose(product, physics.stokes_einstein_constant(30.0, physics.water_viscosity_mpa_s(30.0)))
    assert product[0] == pytest.approx(557.1, abs=0.1)


# --- light: analytic ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["slab", "gaussian"])
def test_depth_is_the_full_width_at_half_of_the_light(profile):
    spec = Simulation(profile=profile, depth_um=8.0)
    light = illumination(spec, np.array([0.0, 3.999, 4.001, 40.0]))
    assert light[0] == 1.0
    assert light[1] >= 0.5 > light[2]
    assert light[3] == 0.0
    if profile == "gaussian":  # 1/e² half-width of the sheet
        assert illumination(spec, np.array(8.0 / math.sqrt(2 * math.log(2)))) == pytest.approx(math.exp(-2))


@pytest.mark.parametrize("profile", ["slab", "gaussian"])
def test_particles_per_frame_counts_those_in_focus(profile):
    """80 independent frames of 15 particles: Poisson, s.e. 2.9 %."""
    counts = [
        np.sum(simulate(frame_shape=(40, 40), n_frames=1, particles_per_frame=15, profile=profile, seed=s)
               .truth.positions.in_focus)
        for s in range(80)
    ]  # fmt: skip
    assert np.mean(counts) == pytest.approx(15.0, abs=4 * math.sqrt(15 / 80))


def test_concentration_and_number_are_the_same_statement():
    by_number = Simulation(particles_per_frame=60.0, dilution=50.0)
    assert by_number.concentration == pytest.approx(50 * 60 / (480 * 640 * 0.3**2 * 10.0) * 1e12)
    by_concentration = by_number.but({"concentration_per_ml": by_number.concentration})
    assert by_concentration.particles_per_frame is None
    assert by_concentration.number_per_um3 == pytest.approx(by_number.number_per_um3)


@given(y=st.floats(18, 22), x=st.floats(18, 22), sigma=st.floats(0.9, 2.5), smear=st.floats(0, 1))
def test_a_spot_holds_all_its_light_at_its_centre(y, x, sigma, smear):
    """Below σ = 0.9 px the pixels undersample the spot, and the centroid itself is off by up to exp(−2π²σ²)/π."""
    path = smear * np.array([-1.0, 0.2, 0.8])
    image = np.zeros((41, 43))
    add_spots(image, *spot(y + path, x - path, sigma=sigma, photons=700.0))
    assert image.sum() == pytest.approx(700.0, rel=3e-6)
    rows, columns = np.indices(image.shape)
    assert np.sum(rows * image) / image.sum() == pytest.approx(y, abs=1e-5)
    assert np.sum(columns * image) / image.sum() == pytest.approx(x, abs=1e-5)


def test_a_spot_is_integrated_over_the_pixel():
    image = np.zeros((15, 15))
    add_spots(image, *spot(7.2, 6.7, sigma=0.9, photons=1.0))
    fine = (np.arange(15 * 200) + 0.5) / 200 - 0.5
    along = [np.exp(-0.5 * ((fine - c) / 0.9) ** 2).reshape(15, 200).sum(axis=1) for c in (7.2, 6.7)]
    oracle = np.outer(*along) / (2 * np.pi * 0.9**2) / 200**2
    np.testing.assert_allclose(image, oracle, atol=1e-6)


def test_spots_at_the_border_are_cut_and_those_outside_do_nothing():
    image = np.zeros((20, 20))
    add_spots(image, *spot(-0.5, 10.0, photons=100.0))
    assert image.sum() == pytest.approx(50.0, rel=1e-5)
    before = image.copy()
    add_spots(image, *spot(-30.0, 400.0))
    np.testing.assert_array_equal(image, before)


def test_defocus_widens_the_spot_and_keeps_its_light():
    spec = Simulation(defocus_um=3.0, psf_sigma_px=1.5)
    np.testing.assert_allclose(spot_sigma_px(spec, np.array([0.0, 3.0, -6.0])), 1.5 * np.sqrt([1.0, 2.0, 5.0]))
    assert np.all(spot_sigma_px(Simulation(psf_sigma_px=1.5), np.array([0.0, 9.0])) == 1.5)
    _, truth = simulate(**SMALL, profile="gaussian", defocus_um=3.0, viscosity_mpa_s=1e6)
    positions, particles = truth.positions, truth.particles
    sheet = np.exp(-4 * math.log(2) * (positions.z_um / 10.0) ** 2)
    np.testing.assert_allclose(positions.mass, particles.mass[positions.particle] * sheet, rtol=1e-3)
    far = positions.take(positions.in_focus & (np.abs(positions.z_um) > 3.0))
    assert len(far)
    assert far.snr.max() < 6.0  # of 10 in the focal plane


def test_width_from_the_aperture():
    assert Simulation(wavelength_nm=500, na=0.4, pixel_size_um=0.1).sigma_px == pytest.approx(0.21 * 0.5 / 0.4 / 0.1)


@given(st.floats(0, 6), st.none() | st.floats(0.5, 100))
def test_brightness_grows_with_size_and_keeps_the_reference(exponent, limit):
    spec = Simulation(photons=500.0, brightness_exponent=exponent, brightness_limit=limit)
    small, reference, large = spec.photons_in_focus(np.array([50.0, 100.0, 1e5]))
    assert reference == pytest.approx(500.0)
    assert small <= reference * (1 + 1e-12) <= large * (1 + 1e-9)
    if limit is None:
        assert small == pytest.approx(500.0 * 0.5**exponent)
    else:
        assert large <= 500.0 * (1 + limit) * (1 + 1e-9)


def test_snr_is_that_of_the_reference_particle():
    """A resting particle on the centre of a pixel has the snr asked for; elsewhere in the pixel it is less sharp."""
    spec = Simulation(snr=12.0, viscosity_mpa_s=1e6, psf_sigma_px=1.2)
    background = uneven_background(spec)
    peak, *_ = located(*spot(20.0, 30.0, sigma=1.2, photons=spec.reference_photons), background=background,
                       extra_variance=spec.extra_variance_e2, dark=False)  # fmt: skip
    noise_dn = spec.gain_dn * math.sqrt(spec.background_e + spec.extra_variance_e2)
    assert spec.gain_dn * peak[0] / noise_dn == pytest.approx(12.0, rel=1e-6)
    _, truth = simulate(spec, frame_shape=(64, 64), n_frames=2, sizes=[{"diameter_nm": 100, "cv": 0}])
    assert 8.0 < truth.positions.snr.min() < truth.positions.snr.max() <= 12.0 * (1 + 1e-6)


def test_snr_includes_motion_blur():
    """Median over some 700 spots of moving particles; the loss within the pixel is below 10 %."""
    _, truth = simulate(frame_shape=(96, 128), n_frames=40, particles_per_frame=20, snr=10.0,
                        sizes=[{"diameter_nm": 100, "cv": 0}])  # fmt: skip
    assert 9.0 < np.median(truth.positions.snr[truth.positions.in_focus]) < 10.0


def test_brightness_spread_keeps_the_mean():
    """About 1,000 particles, s.d. 50 %: s.e. of the mean 1.6 %."""
    _, truth = simulate(frame_shape=(96, 96), n_frames=1, particles_per_frame=1000, brightness_cv=0.5, photons=400.0,
                        sizes=[{"diameter_nm": 100, "cv": 0}])  # fmt: skip
    mass = truth.particles.mass / 0.25
    assert mass.mean() == pytest.approx(400.0, rel=4 * 0.5 / math.sqrt(len(mass)))
    assert mass.std() / mass.mean() == pytest.approx(0.5, rel=0.2)


# --- Cramér–Rao bound: oracle and closed form --------------------------------------------------------------------


def oracle_bound(y, x, *, sigma, photons, background, extra):
    """Fisher matrix from finite differences of the image, with nothing in common with the code under test."""

    def image(dy, dx, amplitude, offset):
        edges_y, edges_x = np.arange(42) - 0.5, np.arange(44) - 0.5
        total = np.zeros((41, 43))
        for cy, cx in zip(y, x, strict=True):
            along_y = np.diff(special.ndtr((edges_y - cy - dy) / sigma))
            along_x = np.diff(special.ndtr((edges_x - cx - dx) / sigma))
            total += np.outer(along_y, along_x) * photons * amplitude / len(y)
        return total + background + offset

    centre, step = np.array([0.0, 0.0, 1.0, 0.0]), 1e-4
    jacobian = [(image(*(centre + step * unit)) - image(*(centre - step * unit))) / (2 * step) for unit in np.eye(4)]
    information = np.einsum("aij,bij,ij->ab", jacobian, jacobian, 1 / (image(*centre) + extra))
    return np.sqrt(np.diag(np.linalg.inv(information)))[:2]


@pytest.mark.parametrize("path", [[0.0], [-0.9, -0.2, 0.4, 1.3]])
@pytest.mark.parametrize(("photons", "background"), [(200.0, 10.0), (5000.0, 80.0)])
def test_bound_of_a_spot_agrees_with_finite_differences(path, photons, background):
    """The window is narrower than the oracle's frame, so the background is known a little less well: 1 %."""
    y, x = 20.3 + np.array(path), 21.9 - 0.5 * np.array(path)
    _, y_bound, x_bound = located(*spot(y, x, photons=photons), background=np.full((41, 43), background),
                                  extra_variance=5.0, dark=False)  # fmt: skip
    expected = oracle_bound(y, x, sigma=1.3, photons=photons, background=background, extra=5.0)
    np.testing.assert_allclose([y_bound[0], x_bound[0]], expected, rtol=0.01)


@pytest.mark.parametrize(("sigma", "photons", "background"), [(1.2, 1000.0, 10.0), (1.8, 1000.0, 25.0)])
def test_bound_of_a_resting_spot_agrees_with_the_closed_form(sigma, photons, background):
    bounds = []
    for offset in np.linspace(-0.5, 0.5, 11):
        _, y_bound, _ = located(*spot(20 + offset, 20.0, sigma=sigma, photons=photons),
                                background=np.full((41, 41), background), extra_variance=0.0, dark=False)  # fmt: skip
        bounds.append(y_bound[0])
    assert np.mean(bounds) == pytest.approx(physics.position_crlb_px(photons, background, sigma), rel=0.03)


def test_bound_is_reached_by_maximum_likelihood():
    """600 noisy exposures of one spot fitted with everything else known: s.d. of the estimate, s.e. 2.9 %."""
    spec = Simulation(frame_shape=(25, 25), background_dn=20.0, gain_dn=1.0, read_noise_e=1.0, bit_depth=16)
    shifts = np.linspace(-0.6, 0.6, 121)
    images = []
    for shift in shifts:
        image = np.zeros((25, 25))
        add_spots(image, *spot(12.1 + shift, 11.8, photons=800.0))
        images.append(image + spec.background_e)
    expected = np.array(images)
    camera = Camera(spec, np.random.default_rng(5))
    weight = expected + spec.extra_variance_e2
    estimates = []
    for _ in range(600):
        count = camera.expose(expected[60]) - spec.offset_dn + spec.extra_variance_e2
        log_likelihood = np.sum(count * np.log(weight) - weight, axis=(1, 2))
        top = int(np.clip(np.argmax(log_likelihood), 1, 119))
        curve = np.polyfit(shifts[top - 1 : top + 2], log_likelihood[top - 1 : top + 2], 2)
        estimates.append(-curve[1] / (2 * curve[0]))
    _, y_bound, _ = located(*spot(12.1, 11.8, photons=800.0), background=np.full((25, 25), spec.background_e),
                            extra_variance=spec.extra_variance_e2, dark=False)  # fmt: skip
    assert np.std(estimates) == pytest.approx(y_bound[0], rel=0.1)
    assert np.mean(estimates) == pytest.approx(0.0, abs=4 * y_bound[0] / math.sqrt(600))


def test_truth_is_where_the_light_is():
    """Without noise to speak of, the centroid of an isolated spot in the frame is the true position."""
    spec = Simulation(frame_shape=(64, 64), n_frames=30, particles_per_frame=1.5, photons=2e6, depth_um=30.0, seed=4,
                      background_dn=0.0, read_noise_e=0.0, gain_dn=0.01, bit_depth=16, offset_dn=0.0,
                      sizes=[{"diameter_nm": 100, "cv": 0}])  # fmt: skip
    video, truth = simulate(spec)
    rows, columns = np.indices(spec.frame_shape)
    checked = 0
    for frame in range(spec.n_frames):
        here = truth.positions.take(truth.positions.frame == frame)
        lonely = len(here) == 1 and 12 < here.y[0] < 52 and 12 < here.x[0] < 52
        if lonely and here.mass[0] == pytest.approx(0.01 * 2e6):
            image = video.frames[frame].astype(float)
            image[np.hypot(rows - here.y[0], columns - here.x[0]) > 12] = 0
            assert image.sum() == pytest.approx(here.mass[0], rel=0.01)
            assert np.sum(rows * image) / image.sum() == pytest.approx(here.y[0], abs=0.02)
            assert np.sum(columns * image) / image.sum() == pytest.approx(here.x[0], abs=0.02)
            checked += 1
    assert checked >= 3


# --- camera: statistical -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.3, 4.0, 80.0, 3000.0])
def test_photoelectrons_are_poisson(mean):
    """90,000 pixels, half of them on the tabulated background and half above it, against the exact distribution."""
    spec = Simulation(frame_shape=(300, 300), background_dn=mean, gain_dn=1.0, offset_dn=0.0, read_noise_e=0.0,
                      bit_depth=16)  # fmt: skip
    expected = np.full((300, 300), mean)
    expected[150:] += 1.7
    frame = Camera(spec, np.random.default_rng(2)).expose(expected)
    for half, lam in ((frame[:150], mean), (frame[150:], mean + 1.7)):
        edges = np.unique(stats.poisson.ppf(np.linspace(0.02, 0.98, 25), lam)).astype(int)
        observed = np.bincount(np.searchsorted(edges, half.ravel()), minlength=len(edges) + 1)
        share = np.diff(np.concatenate([[0.0], stats.poisson.cdf(edges, lam), [1.0]]))
        assert stats.chisquare(observed, share * half.size).pvalue > 1e-3


def test_uneven_background_keeps_its_mean_and_its_noise():
    """76,800 pixels in 40 frames; variance of every column within 4 s.e. of shot plus read noise."""
    spec = Simulation(frame_shape=(240, 320), unevenness=0.5, background_dn=60.0, bit_depth=16, offset_dn=50.0)
    background = uneven_background(spec)
    assert background.mean() == pytest.approx(spec.background_e)
    assert np.ptp(background) == pytest.approx(0.5 * spec.background_e, rel=1e-4)  # no row lies quite in the middle
    camera = Camera(spec, np.random.default_rng(8))
    frames = np.stack([camera.expose(background) for _ in range(40)]).astype(float)
    mean = spec.offset_dn + spec.gain_dn * background
    variance = spec.gain_dn**2 * (background + spec.extra_variance_e2)
    z = (frames.mean(axis=0) - mean) / np.sqrt(variance / 40)
    assert z.std() == pytest.approx(1.0, abs=4 / math.sqrt(2 * z.size))
    assert abs(z.mean()) < 4 / math.sqrt(z.size)
    ratio = (frames.var(axis=0, ddof=1) / variance).mean(axis=0)
    np.testing.assert_allclose(ratio, 1.0, atol=5 * math.sqrt(2 / (39 * 240)))


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (12, np.uint16), (16, np.uint16)])
def test_bright_pixels_clip_at_the_bit_depth(bits, dtype):
    video, _ = simulate(**SMALL, bit_depth=bits, photons=1e8)
    assert video.dtype == dtype
    assert video.frames.max() == 2**bits - 1


def test_grey_levels_are_whole_and_clip_at_zero():
    spec = Simulation(frame_shape=(50, 50), background_dn=0.0, offset_dn=0.0, read_noise_e=8.0, gain_dn=0.5)
    frame = Camera(spec, np.random.default_rng(0)).expose(np.zeros((50, 50)))
    assert frame.min() == 0
    share = stats.norm.cdf(0.5 / 4.0)  # what rounds to zero or lies below it
    assert np.mean(frame == 0) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 2500))


def test_dark_particles_take_light_away():
    bright, truth = simulate(**SMALL, background_dn=100.0)
    dark, dark_truth = simulate(**SMALL, background_dn=100.0, polarity="dark")
    np.testing.assert_array_equal(truth.positions.y, dark_truth.positions.y)
    at = (truth.positions.frame, np.rint(truth.positions.y).astype(int), np.rint(truth.positions.x).astype(int))
    level = float(np.median(bright.frames))
    assert np.median(dark.frames[at].astype(float)) < level - 20
    assert np.median(bright.frames[at].astype(float)) > level + 20


def test_stuck_particles_stay_and_change_nothing_else():
    plain, truth = simulate(**SMALL)
    dusty, dusty_truth = simulate(**SMALL, stuck_particles=3, snr=40.0)
    np.testing.assert_array_equal(truth.positions.x, dusty_truth.positions.x)
    assert dusty_truth.stuck_yx_px.shape == (3, 2)
    y, x = np.rint(dusty_truth.stuck_yx_px).astype(int).T
    assert np.all(dusty.frames[:, y, x] > np.median(plain.frames) + 20)


# --- one specification, one result -------------------------------------------------------------------------------


@given(block_frames=st.integers(1, 9))
@settings(max_examples=9)
def test_blocks_do_not_change_a_byte(block_frames):
    whole, truth = simulate(**SMALL)
    blocks = list(frames_iter(Simulation(**SMALL), block_frames=block_frames))
    assert [b.first_frame for b in blocks] == list(range(0, 6, block_frames))
    np.testing.assert_array_equal(np.concatenate([b.frames for b in blocks]), whole.frames)
    joined = TruePositions.concat([b.positions for b in blocks])
    assert joined.to_arrow().equals(truth.positions.to_arrow())
    assert sum(len(b.particles) for b in blocks) == len(truth.particles)


def test_frames_are_made_when_asked_for():
    first = next(frames_iter(Simulation(frame_shape=(32, 32), n_frames=10**5), block_frames=2))
    assert first.frames.shape == (2, 32, 32)


def test_the_seed_decides_everything():
    one, again, other = simulate(**SMALL), simulate(**SMALL), simulate(**{**SMALL, "seed": 4})
    np.testing.assert_array_equal(one.video.frames, again.video.frames)
    assert one.truth.positions.to_arrow().equals(again.truth.positions.to_arrow())
    assert not np.array_equal(one.video.frames, other.video.frames)


def test_rows_are_ordered_and_within_the_frame():
    _, truth = simulate(**SMALL, profile="gaussian")
    p = truth.positions
    assert len(p) > 20
    order = np.lexsort((p.x, p.y, p.frame))
    np.testing.assert_array_equal(order, np.arange(len(p)))
    assert p.y.min() >= -0.5
    assert p.y.max() < 47.5
    assert p.x.min() >= -0.5
    assert p.x.max() < 63.5
    assert np.all(np.isfinite(p.y_crlb_px))
    assert np.all(p.y_crlb_px > 0)


def test_a_blank_has_no_particles():
    video, truth = simulate(**{**SMALL, "particles_per_frame": 0})
    assert len(truth.positions) == len(truth.particles) == 0
    assert truth.concentration_per_ml == 0
    assert video.frames.std() > 1


def test_video_reads_like_a_file():
    video, truth = simulate(**SMALL)
    assert video.shape == (6, 48, 64)
    assert len(video) == 6
    assert not video.sequential
    assert video.acquisition.depth_um == 10.0
    assert video.acquisition.frame_shape == (48, 64)
    blocks = list(video.blocks(4, 1))
    assert [(first, len(frames)) for first, frames in blocks] == [(1, 4), (5, 1)]
    np.testing.assert_array_equal(blocks[0][1], video.read(1, 5))
    with pytest.raises(InputError, match="not within the 6 frames"):
        video.read(3, 7)
    assert truth.sizes.d50_nm == pytest.approx(100.0)


@pytest.mark.parametrize(("bits", "name"), [(8, "v.avi"), (8, "v.tif"), (16, "v.tiff")])
def test_a_video_is_written_without_loss(tmp_path, bits, name):
    video, _ = simulate(**SMALL, bit_depth=bits)
    video.write(tmp_path / name)
    if name == "v.avi":
        with av.open(str(tmp_path / name)) as container:
            frames = np.stack([f.to_ndarray() for f in container.decode(video=0)])
    else:
        frames = tifffile.imread(tmp_path / name)
    np.testing.assert_array_equal(frames, video.frames)


@pytest.mark.parametrize(("bits", "name"), [(12, "v.avi"), (8, "v.mp4")])
def test_a_format_that_would_lose_is_refused(tmp_path, bits, name):
    video, _ = simulate(**SMALL, bit_depth=bits)
    with pytest.raises(InputError, match=rf"{name}: uint(8|16) frames are written as \.tif"):
        video.write(tmp_path / name)


# --- bad settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"fps": 30}, r"fps = 30: unknown setting; known here: frame_shape"),
        ({"n_frames": 0}, r"n_frames = 0: .*greater than or equal to 1"),
        ({"n_frames": 2.5}, r"n_frames = 2\.5: .*integer"),
        ({"exposure_s": 0.1}, r"exposure_s = 0\.1 is longer than the frame interval"),
        ({"medium": "beer"}, r"medium 'beer' is unknown"),
        ({"snr": 3.0, "photons": 10.0}, r"snr and photons state the same thing"),
        ({"concentration_per_ml": 1e8, "particles_per_frame": 3.0}, r"give one of the two"),
        ({"sizes": []}, r"sizes is empty"),
        ({"sizes": [{"diameter_nm": 100}, {"diameter_nm": -1}]}, r"sizes\.1\.diameter_nm = -1"),
        ({"sizes": [{"diameter_nm": 100, "sd": 3}]}, r"sizes\.0\.sd = 3: unknown setting; known here: diameter_nm, cv"),
        ({"brightness_exponent": 7.0}, r"brightness_exponent = 7\.0: .*less than or equal to 6"),
        ({"bit_depth": 10}, r"bit_depth = 10"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(overrides, message):
    with pytest.raises(InputError, match=message):
        simulate(**overrides)


def test_settings_survive_toml():
    import tomllib

    spec = Simulation(**SMALL, sizes=[{"diameter_nm": 80, "fraction": 2}, {"diameter_nm": 140}], snr=7.0)
    assert Simulation.from_dict(tomllib.loads(spec.to_toml())) == spec


# --- studies -----------------------------------------------------------------------------------------------------

SPECIFICATION = """
[simulation]
frame_shape = [40, 50]
n_frames = 70
particles_per_frame = 6

[[sample]]
batch = "A"
n_videos = 2
sizes = [{ diameter_nm = 100, cv = 0.04 }]

[[sample]]
batch = "B 1"
sample = "blank/1"
role = "blank"
concentration_per_ml = 1e7
dilution = 10
bit_depth = 12
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    (folder / "spec.toml").write_text(SPECIFICATION, encoding="utf-8")
    calls = []
    sheet = write(folder / "spec.toml", folder / "out", progress=lambda done, total: calls.append((done, total)))
    assert sheet == folder / "out" / "samplesheet.csv"
    assert calls[-1] == (210, 210)
    assert all(a[0] < b[0] for a, b in pairwise(calls))
    return folder


def test_the_sheet_is_one_that_run_takes(written):
    sheet = samplesheet.read(written / "out" / "samplesheet.csv")
    assert [(r.batch, r.sample, r.role) for r in sheet.rows] == [
        ("A", "A", "sample"), ("A", "A", "sample"), ("B 1", "blank/1", "blank"),
    ]  # fmt: skip
    assert sheet.rows[0].settings["frame_interval_s"] == 1 / 30
    assert sheet.rows[2].settings["dilution"] == 10
    header = (written / "out" / "samplesheet.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header == (
        "video,batch,sample,role,pixel_size_um,frame_interval_s,exposure_s,temperature_c,medium,dilution,depth_um"
    )


def test_files_hold_the_frames_and_their_truth(written):
    videos = list(Study.from_toml(written / "spec.toml").videos())
    assert len({v.simulation.seed for v in videos}) == 3
    for video in videos:
        expected, truth = simulate(video.simulation)
        if video.simulation.bit_depth == 8:
            with av.open(str(written / "out" / "videos" / f"{video.name}.avi")) as container:
                stream = container.streams.video[0]
                assert stream.average_rate == 30
                assert stream.frames == 70
                frames = np.stack([f.to_ndarray() for f in container.decode(video=0)])
        else:
            frames = tifffile.imread(written / "out" / "videos" / f"{video.name}.tif")
        np.testing.assert_array_equal(frames, expected.frames)
        stored = pq.read_table(written / "out" / "truth" / f"{video.name}.positions.parquet")
        assert TruePositions.from_arrow(stored).to_arrow().equals(truth.positions.to_arrow())
        assert stored.schema.field("z_um").metadata[b"unit"] == b"um"
        particles = pq.read_table(written / "out" / "truth" / f"{video.name}.particles.parquet")
        assert particles.equals(truth.particles.to_arrow())
    assert not list(written.rglob(".part-*"))


def test_the_truth_of_the_samples_is_stated(written):
    with (written / "out" / "truth" / "samples.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sample"] for row in rows] == ["A", "blank/1"]
    assert float(rows[0]["d50_nm"]) == pytest.approx(100.0)
    assert float(rows[1]["concentration_per_ml"]) == 1e7


def test_a_study_is_not_overwritten(written):
    with pytest.raises(InputError, match=r"samplesheet\.csv: there is a study already"):
        write(written / "spec.toml", written / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no sample to simulate; write at least one"),
        ("[sample]\nbatch = 'A'", r"sample: must be an array of tables; write \[\[sample\]\]"),
        ("[videos]\nbatch = 'A'", r"videos: unknown table"),
        ("[[sample]]\nn_videos = 2", r"sample 1: batch: Field required"),
        ("[[sample]]\nbatch = 'A'\nrole = 'positive'", r"sample 1: role = 'positive': "),
        ("[[sample]]\nbatch = 'A'\n[[sample]]\nbatch = 'B'\nsnr = -1", r"sample 2: snr = -1: .*greater than 0"),
        ("[simulation]\nexposure = 3\n[[sample]]\nbatch = 'A'", r"simulation: exposure = 3: unknown setting"),
        ("[[sample]]\nbatch = 'A'\n[[sample]]\nbatch = 'A'", r"would both write the video 'A_A_01'"),
        ("[[sample]\n", r"not a valid TOML file"),
        (None, r"cannot be read"),
    ],
)  # fmt: skip
def test_a_faulty_specification_is_refused_before_any_work(tmp_path, text, message):
    path = tmp_path / "spec.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        write(path, tmp_path / "out")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()
