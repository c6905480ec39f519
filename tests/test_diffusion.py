"""The diffusion coefficient of a track: exact likelihood against a dense oracle, known bias and spread, flags."""

from __future__ import annotations

import numpy as np
import pytest
from brownian import FRAME_S, WATER_25, acquisition, positions, simulated_tracks, to_tracks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from exotrack import backends
from exotrack.diffusion import _goodness_p, measure
from exotrack.displacements import displacements
from exotrack.physics import diffusion_crlb
from exotrack.protocol import Protocol
from exotrack.tables import ParticleFlag, Tracks

D = 4.9
GRID = np.geomspace(0.05, 60.0, 40)
NO_FLOW = Protocol.from_dict({"link": {"flow": "none"}})


def random_track(seed, n_steps, n_tracks=1):
    """Arguments of the likelihood for tracks with gaps and a different error at every localization."""
    rng = np.random.default_rng(seed)
    n = n_tracks * n_steps
    variance = rng.uniform(0.0, 0.3, (2, n_tracks * (n_steps + 1)))
    variance[:, rng.random(variance.shape[1]) < 0.2] = 0.0
    return {
        "step_y": rng.normal(size=n),
        "step_x": rng.normal(size=n),
        "gap": rng.integers(1, 4, n).astype(np.int32),
        "variance_y": variance[0],
        "variance_x": variance[1],
        "blur": rng.uniform(0.0, 1 / 6, n_tracks),
        "offsets": np.arange(n_tracks + 1, dtype=np.int64) * (n_steps + 1),
    }


def dense_covariance(gap, variance, blur, diffusion):
    n = len(gap)
    c = np.diag(2 * diffusion * FRAME_S * (gap - 2 * blur) + variance[:-1] + variance[1:])
    for i in range(n - 1):
        c[i, i + 1] = c[i + 1, i] = 2 * blur * diffusion * FRAME_S - variance[i + 1]
    return c


def dense_log_likelihood(track, diffusion):
    total = 0.0
    for axis in "yx":
        c = dense_covariance(track["gap"], track[f"variance_{axis}"], track["blur"][0], diffusion)
        total += stats.multivariate_normal(cov=c).logpdf(track[f"step_{axis}"])
    return total


@pytest.mark.parametrize("n_steps", [1, 2, 5, 16, 17, 40])
def test_likelihood_equals_the_dense_multivariate_normal(backend, n_steps):
    track = random_track(n_steps, n_steps)
    row = backends.load(backend).likelihood(**track, diffusion_um2_s=GRID, frame_interval_s=FRAME_S)[0]
    dense = np.array([dense_log_likelihood(track, d) for d in GRID])
    np.testing.assert_allclose(row, dense - dense.max(), rtol=1e-5, atol=1e-4)


def test_likelihood_of_a_track_does_not_depend_on_its_neighbours(backend):
    engine = backends.load(backend)
    many = random_track(3, 7, n_tracks=9)
    rows = engine.likelihood(**many, diffusion_um2_s=GRID, frame_interval_s=FRAME_S)
    for i in (0, 4, 8):
        spots, steps = slice(i * 8, i * 8 + 8), slice(i * 7, i * 7 + 7)
        one = {k: v[steps] for k, v in many.items() if k in ("step_y", "step_x", "gap")}
        one |= {k: many[k][spots] for k in ("variance_y", "variance_x")}
        one |= {"blur": many["blur"][i : i + 1], "offsets": np.array([0, 8])}
        alone = engine.likelihood(**one, diffusion_um2_s=GRID, frame_interval_s=FRAME_S)
        np.testing.assert_array_equal(rows[i], alone[0])


def test_likelihood_without_tracks_or_steps(backend):
    engine = backends.load(backend)
    none = random_track(0, 3, n_tracks=0)
    assert engine.likelihood(**none, diffusion_um2_s=GRID, frame_interval_s=FRAME_S).shape == (0, 40)
    lone = random_track(0, 0, n_tracks=2)
    assert not engine.likelihood(**lone, diffusion_um2_s=GRID, frame_interval_s=FRAME_S).any()


@given(
    st.lists(st.tuples(st.integers(1, 6), st.floats(0.0, 10.0)), min_size=1, max_size=8),
    st.floats(0.0, 1 / 6),
    st.floats(1e-3, 1e3),
)
@settings(max_examples=60)
def test_covariance_is_positive_definite_for_every_track(steps, blur, diffusion):
    gap = np.array([g for g, _ in steps])
    variance = np.array([0.0] + [v for _, v in steps])
    c = dense_covariance(gap, variance, blur, diffusion)
    assert np.linalg.eigvalsh(c).min() > 0


@pytest.mark.parametrize("n_steps", [3, 30])
def test_innovations_whiten_the_dense_covariance(backend, n_steps):
    track = random_track(11, n_steps)
    e_y, _ = backends.load(backend).innovations(**track, diffusion_um2_s=np.array([D]), frame_interval_s=FRAME_S)
    c = dense_covariance(track["gap"], track["variance_y"], track["blur"][0], D)
    np.testing.assert_allclose(e_y, np.linalg.solve(np.linalg.cholesky(c), track["step_y"]), rtol=1e-9)


def test_maximum_likelihood_reaches_its_bound_and_covariances_do_not():
    """N = 20, σ²/(DΔt) = 0.3, R = 1/6: 10,000 tracks give standard errors of 0.3 % (bias) and 0.7 % (of the s.d.)."""
    rng = np.random.default_rng(0)
    n, sigma = 10_000, np.sqrt(0.3 * D * FRAME_S)
    conditions = acquisition(1 / 6)
    p = measure(simulated_tracks(rng, np.full(n, D), 21, blur=1 / 6, sigma_um=sigma), conditions)
    truth = conditions.stokes_einstein_um2_s_nm / D
    assert p.D_um2_s.mean() == pytest.approx(D, rel=0.015)
    assert p.D_um2_s.std() / D == pytest.approx(0.31, abs=0.015)
    assert p.D_cve_um2_s.std() / D == pytest.approx(0.389, abs=0.01)
    assert np.median(p.D_err_um2_s / p.D_um2_s) == pytest.approx(diffusion_crlb(20, 0.3, 1 / 6), rel=0.03)
    inside = (p.diameter_lo_nm < truth) & (truth < p.diameter_hi_nm)
    assert inside.mean() == pytest.approx(0.95, abs=0.012)
    assert np.mean(p.flag & ParticleFlag.NOT_BROWNIAN > 0) < 0.002


def test_error_and_interval_of_long_tracks_are_those_of_a_normal():
    """2000 tracks of 300 steps: the s.d. of z has a standard error of 1.6 %."""
    rng = np.random.default_rng(14)
    p = measure(simulated_tracks(rng, np.full(2000, D), 301), acquisition(), NO_FLOW)
    z = np.log(p.D_um2_s / D) * p.D_um2_s / p.D_err_um2_s
    assert z.std() == pytest.approx(1.0, abs=0.05)
    half_width = np.log(p.diameter_hi_nm / p.diameter_lo_nm) / 2 * p.D_um2_s / p.D_err_um2_s
    # Of a gamma likelihood: 1.96 (1 + O(1/n)); the grid adds a scatter of tenths of a per cent.
    assert half_width.mean() == pytest.approx(1.96, rel=0.01)


def test_p_values_of_free_diffusion_have_their_level():
    """One of three nearly independent p-values is below 0.05 in 14.3 %. 10,000 tracks: standard error 0.35 %."""
    rng = np.random.default_rng(15)
    n = 10_000
    d = displacements(simulated_tracks(rng, np.full(n, D), 101), acquisition(), NO_FLOW)
    p = _goodness_p(d, acquisition(), np.full(n, D), "cpu")
    assert np.mean(p < 3 * 0.05) == pytest.approx(1 - 0.95**3, abs=0.01)


def test_missing_localizations_do_not_bias():
    rng = np.random.default_rng(1)
    path = positions(rng, np.full(2500, D), 20, blur=0.1, sigma_um=0.1)
    keep = rng.random(path.shape[:2]) < 0.75
    keep[:, 0] = keep[:, -1] = True
    tracks = to_tracks(path, rng.integers(1, 870, 2500), error_um=np.full(2500, 0.1), keep=keep)
    p = measure(tracks, acquisition(0.1))
    assert p.n_frames.min() < 14
    assert p.D_um2_s.mean() == pytest.approx(D, rel=0.02)  # standard error 0.6 %
    assert p.D_cve_um2_s.mean() == pytest.approx(D, rel=0.03)  # standard error 0.9 %


def test_rows_flags_and_columns():
    rng = np.random.default_rng(2)
    long = positions(rng, np.full(200, D), 60)
    still = 0.02 * rng.normal(size=(5, 60, 2))
    jump = positions(rng, np.full(5, D), 60)
    jump[:, 30:] += 15.0
    path = np.concatenate([long, still, jump])
    keep = np.ones(path.shape[:2], bool)
    keep[0, 2:] = False  # one displacement: no row
    keep[1, 9:] = False  # eight displacements: short
    tracks = to_tracks(path, np.full(210, 3), keep=keep, mass=np.arange(210) + 1.0)
    p = measure(tracks, acquisition(), NO_FLOW)
    assert p.particle.tolist() == list(range(1, 210))
    assert p.n_steps[0] == 8
    assert p.mass[:2].tolist() == [2.0, 3.0]
    assert p.y[1] == pytest.approx(tracks.y[tracks.particle == 2].mean(), rel=1e-5)
    short, stuck, wild = (p.flag & f > 0 for f in (ParticleFlag.SHORT, ParticleFlag.STUCK, ParticleFlag.NOT_BROWNIAN))
    assert short.tolist() == [True] + [False] * 208
    assert np.flatnonzero(stuck).tolist() == list(range(199, 204))
    assert wild[204:].all()
    assert wild[:199].sum() <= 2
    assert np.all((p.diameter_lo_nm <= p.diameter_nm) & (p.diameter_nm <= p.diameter_hi_nm))
    outside = p.flag & ParticleFlag.OUTSIDE_GRID > 0
    assert outside[199:204].all()
    assert not outside[:199].any()


def test_a_track_with_a_velocity_of_its_own_is_not_brownian():
    rng = np.random.default_rng(3)
    path = positions(rng, np.full(40, D), 60)
    path[:10, :, 0] += 0.5 * np.arange(60)
    p = measure(to_tracks(path, np.full(40, 3)), acquisition(), NO_FLOW)
    assert (p.flag[:10] & ParticleFlag.NOT_BROWNIAN).astype(bool).mean() > 0.8
    assert not (p.flag[10:] & ParticleFlag.NOT_BROWNIAN).any()


def test_no_tracks_give_no_particles():
    assert len(measure(Tracks.empty(), acquisition())) == 0


def test_diameter_scales_with_the_square_of_the_pixel_and_the_temperature_of_the_sample():
    rng = np.random.default_rng(4)
    tracks = simulated_tracks(rng, np.full(30, D), 30)
    base = measure(tracks, acquisition(pixel_size_um=0.166))
    larger = measure(tracks, acquisition(pixel_size_um=0.166 * 1.1))
    warmer = measure(tracks, acquisition(temperature_c=35.0))
    np.testing.assert_allclose(larger.diameter_nm, base.diameter_nm / 1.21, rtol=2e-3)
    np.testing.assert_allclose(warmer.D_um2_s, base.D_um2_s, rtol=2e-3)
    assert acquisition().stokes_einstein_um2_s_nm == pytest.approx(WATER_25, rel=1e-3)
