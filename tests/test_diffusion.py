"""The diffusion coefficient of a track: exact likelihood against a dense oracle, known bias and spread, flags."""

from __future__ import annotations

import numpy as np
import pytest
from brownian import FRAME_S, WATER_25, acquisition, positions, simulated_tracks, to_tracks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats

from exotrack import backends
from exotrack.diffusion import measure
from exotrack.diffusion.goodness import goodness_of_fit
from exotrack.displacements import displacements, likelihood_rows
from exotrack.physics import diffusion_crlb
from exotrack.protocol import Protocol
from exotrack.tables import ParticleFlag, Tracks

D = 4.9
GRID = np.geomspace(0.05, 60.0, 40)
NO_FLOW = Protocol.from_dict({"link": {"flow": "none"}})
OWN = Protocol.from_dict({"link": {"flow": "none"}, "diffusion": {"velocity": "track"}})
STEP = np.sqrt(2 * D * FRAME_S)  # s.d. of a displacement along an axis


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


@pytest.mark.parametrize("n_steps", [2, 3, 16, 17, 40])
def test_own_velocity_leaves_the_likelihood_of_contrasts_without_it(backend, n_steps):
    """The residual likelihood is that of any N − 1 combinations of the displacements that no velocity changes."""
    track = random_track(n_steps, n_steps)
    row = backends.load(backend).likelihood(**track, diffusion_um2_s=GRID, frame_interval_s=FRAME_S, own_velocity=True)[
        0
    ]
    contrast = linalg.null_space(track["gap"][None].astype(float)).T
    dense = np.zeros(len(GRID))
    for k, diffusion in enumerate(GRID):
        for axis in "yx":
            c = dense_covariance(track["gap"], track[f"variance_{axis}"], track["blur"][0], diffusion)
            normal = stats.multivariate_normal(cov=contrast @ c @ contrast.T)
            dense[k] += normal.logpdf(contrast @ track[f"step_{axis}"])
    np.testing.assert_allclose(row, dense - dense.max(), rtol=1e-5, atol=1e-4)


def test_one_displacement_with_an_own_velocity_says_nothing(backend):
    track = random_track(1, 1, n_tracks=3)
    rows = backends.load(backend).likelihood(**track, diffusion_um2_s=GRID, frame_interval_s=FRAME_S, own_velocity=True)
    np.testing.assert_allclose(rows, 0.0, atol=1e-6)


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


def test_recursive_residuals_have_the_sums_of_squares_of_dense_regressions(backend):
    """Up to every displacement: the generalized least squares of what is there by then."""
    track = random_track(12, 12)
    e_y, _ = backends.load(backend).innovations(
        **track, diffusion_um2_s=np.array([D]), frame_interval_s=FRAME_S, own_velocity=True
    )
    c = dense_covariance(track["gap"], track["variance_y"], track["blur"][0], D)
    assert e_y[0] == 0.0
    for k in range(2, 13):
        root = np.linalg.cholesky(c[:k, :k])
        white, gap = np.linalg.solve(root, track["step_y"][:k]), np.linalg.solve(root, track["gap"][:k])
        residual = white - gap * (gap @ white) / (gap @ gap)
        assert np.sum(e_y[:k] ** 2) == pytest.approx(residual @ residual)


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


@pytest.mark.parametrize(("n_steps", "ratio", "blur"), [(10, 0.05, 1 / 6), (10, 1.0, 0.0), (20, 3.0, 0.0)])
def test_likelihood_is_as_precise_as_the_bound_and_unbiased(n_steps, ratio, blur):
    """6000 tracks: standard errors of about 1 % (of the s.d.) and 0.5 % (of D)."""
    rng = np.random.default_rng(21)
    wide = Protocol.from_dict({"link": {"flow": "none"}, "size": {"diameter_min_nm": 5.0, "diameter_max_nm": 5e4}})
    sigma = np.sqrt(ratio * D * FRAME_S)
    p = measure(
        simulated_tracks(rng, np.full(6000, D), n_steps + 1, blur=blur, sigma_um=sigma), acquisition(blur), wide
    )
    assert p.D_um2_s.std() / D == pytest.approx(diffusion_crlb(n_steps, ratio, blur), rel=0.05)
    assert p.D_um2_s.mean() == pytest.approx(D, rel=0.02)


def test_tracks_with_a_negative_covariance_based_estimate_are_kept():
    """N = 10, σ²/(DΔt) = 1: a tenth of them, without which the rest would be 12 % too large."""
    rng = np.random.default_rng(22)
    p = measure(simulated_tracks(rng, np.full(8000, D), 11, sigma_um=STEP / np.sqrt(2)), acquisition(), NO_FLOW)
    negative = p.D_cve_um2_s <= 0
    assert len(p) == 8000
    assert negative.mean() == pytest.approx(0.097, abs=0.012)
    assert p.D_cve_um2_s.mean() == pytest.approx(D, rel=0.03)  # standard error 0.9 %
    assert p.D_cve_um2_s[~negative].mean() > 1.1 * D


def test_own_velocities_cost_no_bias():
    """N = 10, σ²/(DΔt) = 0.3, R = 1/6: 21 % too small without the residual term, 150 % too large without velocities.

    6000 tracks: standard error 0.6 %.
    """
    rng = np.random.default_rng(23)
    sigma = np.sqrt(0.3 * D * FRAME_S)
    path = positions(rng, np.full(6000, D), 11, blur=1 / 6, sigma_um=sigma)
    moving = path + STEP * rng.normal(size=(6000, 1, 2)) * np.arange(11)[:, None]
    error = np.full(6000, sigma)
    p = measure(to_tracks(moving, np.full(6000, 5), error_um=error), acquisition(1 / 6), OWN)
    assert p.D_um2_s.mean() == pytest.approx(D, rel=0.02)
    assert p.D_um2_s.std() / D == pytest.approx(0.497, abs=0.02)
    assert p.D_cve_um2_s.mean() == pytest.approx(D, rel=0.025)  # standard error 0.9 %
    ignored = measure(to_tracks(moving, np.full(6000, 5), error_um=error), acquisition(1 / 6), NO_FLOW)
    assert ignored.D_um2_s.mean() > 2.0 * D


def test_own_velocities_change_nothing_where_they_are_allowed():
    rng = np.random.default_rng(24)
    path = positions(rng, np.full(300, D), 14, blur=0.1, sigma_um=0.1)
    keep = rng.random(path.shape[:2]) < 0.8
    keep[:, :3] = True
    moving = path + STEP * rng.normal(size=(300, 1, 2)) * np.arange(14)[:, None]
    p, q = (
        measure(to_tracks(at, np.full(300, 5), error_um=np.full(300, 0.1), keep=keep), acquisition(0.1), OWN)
        for at in (path, moving)
    )
    for name in ("D_um2_s", "D_err_um2_s", "diameter_lo_nm", "D_cve_um2_s", "D_msd_um2_s"):
        np.testing.assert_allclose(getattr(q, name), getattr(p, name), rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(q.flag & ~ParticleFlag.MOVING, p.flag & ~ParticleFlag.MOVING)


def test_likelihood_rows_follow_the_protocol():
    rng = np.random.default_rng(25)
    d = displacements(simulated_tracks(rng, np.full(20, D), 8), acquisition(), OWN)
    own, collective = (likelihood_rows(d, acquisition(), rules) for rules in (OWN, NO_FLOW))
    assert np.abs(own - collective).max() > 0.1


@pytest.mark.parametrize("n_steps", [5, 10])
def test_covariance_based_estimate_with_gaps_and_own_velocities_is_unbiased(n_steps):
    """4000 tracks: standard error 1 to 2 %; averages about the mean would be 58 and 30 % too small."""
    rng = np.random.default_rng(26)
    path = positions(rng, np.full(4000, D), 2 * n_steps, blur=0.1, sigma_um=0.1)
    keep = np.argsort(rng.random(path.shape[:2]), axis=1).argsort(axis=1) <= n_steps
    p = measure(to_tracks(path, np.full(4000, 5), error_um=np.full(4000, 0.1), keep=keep), acquisition(0.1), OWN)
    error = np.nanstd(p.D_cve_um2_s) / np.sqrt(4000)
    assert np.all(p.n_steps == n_steps)
    assert np.nanmean(p.D_cve_um2_s) == pytest.approx(D, abs=3.5 * error)
    assert error < 0.03 * D


def plain_msd_fit(frame, y, x):
    """Michalet & Berglund's procedure for one track, as written in the paper."""
    n = len(frame)
    lags, values = [], []
    for lag in range(1, max(int(0.8 + 0.564 * n), 2) + 1):
        i, j = np.nonzero(frame[None, :] - frame[:, None] == lag)
        if len(i):
            lags.append(lag)
            values.append(np.mean((y[j] - y[i]) ** 2 + (x[j] - x[i]) ** 2) / 2)
    p = max(n // 10, 2)
    for _ in range(20):
        if min(p, len(lags)) < 2:
            return np.nan
        slope, intercept = np.polyfit(lags[:p], values[:p], 1)
        ratio = max(intercept, 0.0) / slope if slope > 0 else np.inf
        f, many = 2 + 1.35 * ratio**0.6, 0.8 + 0.564 * n
        best = many if np.isinf(f) else f * many / (f**3 + many**3) ** (1 / 3)
        best = min(max(int(best), 2), len(lags))
        if best == p:
            break
        p = best
    return slope / (2 * FRAME_S)


def test_msd_based_estimate_equals_the_plain_procedure():
    rng = np.random.default_rng(27)
    path = positions(rng, np.full(60, D), 25, sigma_um=rng.uniform(0, 0.6, 60))
    keep = rng.random(path.shape[:2]) < rng.uniform(0.4, 1.0, (60, 1))
    keep[:, :3] = True
    tracks = to_tracks(path, np.full(60, 5), keep=keep)
    p = measure(tracks, acquisition(), NO_FLOW)
    plain = [plain_msd_fit(np.flatnonzero(k), *at[k].T) for k, at in zip(keep, path, strict=True)]
    np.testing.assert_allclose(p.D_msd_um2_s, plain, rtol=1e-8)


def test_msd_of_three_localizations_in_every_other_frame_has_one_point_only():
    path = np.random.default_rng(28).normal(size=(2, 6, 2))
    keep = np.tile([True, False], (2, 3))
    keep[1] = True
    p = measure(to_tracks(path, np.full(2, 5), keep=keep), acquisition(), NO_FLOW)
    assert np.isnan(p.D_msd_um2_s).tolist() == [True, False]


def test_msd_based_estimate_is_as_precise_as_covariances_without_noise():
    """5000 tracks of 20 displacements: standard error of the s.d. 1 %."""
    rng = np.random.default_rng(29)
    p = measure(simulated_tracks(rng, np.full(5000, D), 21), acquisition(), NO_FLOW)
    assert p.D_msd_um2_s.std() / D == pytest.approx(0.40, abs=0.015)
    assert p.D_msd_um2_s.mean() == pytest.approx(D, rel=0.025)
    assert p.D_um2_s.std() / D == pytest.approx(20**-0.5, abs=0.01)


@pytest.mark.parametrize(("rules", "tests"), [(NO_FLOW, 4), (OWN, 3)])
def test_p_values_of_free_diffusion_have_their_level(rules, tests):
    """One of so many nearly independent p-values is below 0.05. 6000 tracks: standard error 0.5 %."""
    rng = np.random.default_rng(15)
    n = 6000
    path = positions(rng, np.full(n, D), 61, blur=1 / 6, sigma_um=0.2)
    keep = rng.random(path.shape[:2]) < 0.9
    keep[:, :6] = True
    tracks = to_tracks(path, np.full(n, 5), error_um=np.full(n, 0.2), keep=keep)
    d = displacements(tracks, acquisition(1 / 6), rules)
    misfit, moving = goodness_of_fit(d, acquisition(1 / 6), np.full(n, D), "cpu", own_velocity=rules is OWN)
    assert np.mean(misfit < tests * 0.05) == pytest.approx(1 - 0.95**tests, abs=0.016)
    assert np.mean(moving < 0.05) == pytest.approx(0.05, abs=0.009)


def changed(kind, path, rng):
    """A path of free diffusion that is one no longer."""
    n_tracks, n_spots, _ = path.shape
    time = np.arange(n_spots)
    if kind == "at rest first":
        path = path.copy()
        path[:, : n_spots // 2] = path[:, n_spots // 2 : n_spots // 2 + 1]
    elif kind == "two particles":
        slow = positions(rng, np.full(n_tracks, D / 6), n_spots)
        path = np.where(time[:, None] < n_spots // 2, path, slow + (path - slow)[:, n_spots // 2 : n_spots // 2 + 1])
    elif kind == "turning velocity":
        path = path + 0.9 * STEP * np.abs(time - n_spots // 2)[:, None]
    elif kind == "oscillation":
        path = path + STEP * np.sin(2 * np.pi * 0.3 * time)[:, None]
    elif kind == "a far link":
        path = path + np.where(time[:, None] < n_spots // 2, 0.0, 6.0 * STEP)
    return path + 0.1 * rng.normal(size=path.shape)


@pytest.mark.parametrize("kind", ["at rest first", "two particles", "turning velocity", "oscillation", "a far link"])
@pytest.mark.parametrize("rules", [NO_FLOW, OWN])
def test_misfits_are_seen(kind, rules):
    """Of 80 displacements; one in a thousand if there is none."""
    rng = np.random.default_rng(30)
    path = changed(kind, positions(rng, np.full(30, D), 81), rng)
    free = changed("", positions(rng, np.full(900, D), 81), rng)
    mass = rng.uniform(1.0, 2.0, 930)  # so that no class of brightness is all misfits
    p = measure(to_tracks(np.concatenate([path, free]), np.full(930, 5), mass=mass), acquisition(), rules)
    seen = p.flag & ParticleFlag.NOT_BROWNIAN > 0
    assert seen[:30].mean() > 0.6
    assert seen[30:].mean() < 0.006


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


def test_a_track_with_a_velocity_of_its_own_is_flagged_and_fits_where_it_may_have_one():
    rng = np.random.default_rng(3)
    path = positions(rng, np.full(400, D), 60)
    path[:100, :, 0] += STEP * np.arange(60)
    tracks = to_tracks(path, np.full(400, 3))
    for rules, misfit in ((NO_FLOW, 1.0), (OWN, 0.0)):
        p = measure(tracks, acquisition(), rules)
        moving, wild = (p.flag & f > 0 for f in (ParticleFlag.MOVING, ParticleFlag.NOT_BROWNIAN))
        assert moving[:100].mean() > 0.99
        assert moving[100:].mean() < 0.01
        assert wild[:100].mean() == pytest.approx(misfit, abs=0.02)
        assert wild[100:].mean() < 0.01


@pytest.mark.parametrize("rules", [NO_FLOW, OWN])
@pytest.mark.parametrize("n_spots", [1, 2, 3, 4])
def test_tracks_of_very_few_localizations(rules, n_spots):
    path = np.random.default_rng(31).normal(size=(4, n_spots, 2))
    p = measure(to_tracks(path, np.full(4, 3)), acquisition(), rules)
    assert len(p) == (4 if n_spots > 2 else 0)
    assert np.all(np.isfinite(p.diameter_nm))
    assert np.all(np.isfinite(p.D_cve_um2_s)) == (rules is NO_FLOW or n_spots != 3)


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
