"""Size distributions: deconvolution against an oracle, weighting, honest intervals, concentration."""

from __future__ import annotations

import numpy as np
import pytest
from brownian import FRAME_S, PIXEL_UM, WATER_25, acquisition, positions, simulated_tracks, to_tracks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from exotrack import backends
from exotrack.acquisition import Acquisition
from exotrack.errors import InputError
from exotrack.protocol import Protocol
from exotrack.sizing import TrackRows, pool, pooled_diameter, size_distribution, track_rows
from exotrack.sizing.bootstrap import Spread, between_videos, replicate_counts, widened
from exotrack.sizing.budget import BudgetLine, combined, systematic_budget
from exotrack.sizing.count import Count
from exotrack.sizing.crowding import mislink_nm
from exotrack.sizing.sample import Sample
from exotrack.sizing.summary import class_edges, describe, quantile_nm, summarize
from exotrack.tables import LinkSummary, Tracks

GRID = np.geomspace(20.0, 1000.0, 160)


def protocol(**size):
    values = {"weighting": "tracks", "bootstrap": 60, "grid_points": 160, "diameter_max_nm": 1000.0, **size}
    return Protocol.from_dict({"size": values})


def without_gaps(**size):
    """For tracks that no gap was closed in."""
    return Protocol.from_dict({**protocol(**size).model_dump(), "link": {"gap_frames": 0}})


def gamma_rows(rng, diameters, mean_steps=15, systematic=0.0) -> TrackRows:
    """Rows of noise-free tracks, whose mean squared displacement is gamma-distributed, of geometric lengths."""
    n = len(diameters)
    steps = 3 + rng.geometric(1.0 / (mean_steps - 3), n)
    diffusion = rng.gamma(steps, WATER_25 / diameters / steps)
    log_l = steps[:, None] * (np.log(GRID) - diffusion[:, None] * GRID / WATER_25)
    return TrackRows(
        diameter_nm=GRID,
        likelihood=np.exp(log_l - log_l.max(axis=1, keepdims=True)).astype(np.float32),
        particle=np.arange(n),
        pooled_nm=float(np.mean(diameters)),
        pooled_relative_error=0.01,
        identity=np.arange(n),
        n_frames=steps + 1,
        identity_share=np.ones(n),
        start_seen=np.ones(n, bool),
        from_beginning=np.zeros(n, bool),
        n_steps_median=float(np.median(steps)),
        budget=budget(systematic),
        mislink_nm=1.0,
        frame_share=np.full(len(GRID), 1.0 / len(GRID)),
        detected=None,
        mass=np.full(n, 100.0),
        count=counted(),
    )


def budget(relative):
    return (BudgetLine("pixel_size", relative / 2.0, "relative", -2.0),)


def counted(
    per_ml=np.nan, *, independent=100.0, depth_error=0.0, pixel_error=0.0, dilution=1.0, flux=np.nan, starts=200.0
) -> Count:
    return Count(
        confirmed_per_um2=0.01,
        particles_per_frame=50.0,
        concentration_per_ml=per_ml,
        independent=independent,
        unit_per_ml=per_ml / independent if independent else 1e6,
        flux_per_ml=flux,
        arrival_per_ml=5e6,
        starts=starts,
        fields=1,
        dilution=dilution,
        side_um=(60.0, 80.0),
        shortest=5,
        depth_error=depth_error,
        pixel_error=pixel_error,
    )


def share_of(distribution):
    return distribution.density_per_nm * np.diff(class_edges(distribution.diameter_nm))


def crowded(rows, mislink_nm):
    """The same tracks in a video of another density."""
    return TrackRows(**{**vars(rows), "mislink_nm": mislink_nm})


def log_normal(rng, n, median=120.0, sigma=0.3):
    return median * np.exp(sigma * rng.normal(size=n))


# Expectation–maximization


def em_oracle(rows, weight, start, iterations):
    f = start.copy()
    for _ in range(iterations):
        new = np.zeros_like(f)
        for likelihood, w in zip(rows.astype(float), weight, strict=True):
            new += w * f * likelihood / (f @ likelihood)
        f = new / weight.sum()
    return f


@pytest.mark.parametrize("iterations", [0, 1, 30])
def test_deconvolution_equals_the_loop_over_tracks(backend, iterations):
    rng = np.random.default_rng(0)
    rows = gamma_rows(rng, log_normal(rng, 60)).likelihood
    weights = rng.integers(0, 3, (4, 60)).astype(float)
    start = np.full((4, len(GRID)), 1 / len(GRID))
    fast = backends.load(backend).deconvolve(rows, weights, start, iterations=iterations)
    slow = np.array([em_oracle(rows, w, f, iterations) for w, f in zip(weights, start, strict=True)])
    np.testing.assert_allclose(fast, slow, atol=2e-6)


def test_deconvolution_raises_the_likelihood_with_every_iteration(backend):
    rng = np.random.default_rng(1)
    rows = gamma_rows(rng, log_normal(rng, 200)).likelihood
    f = np.full((1, len(GRID)), 1 / len(GRID))
    scores = []
    for _ in range(12):
        scores.append(np.sum(np.log(rows @ f[0])))
        f = backends.load(backend).deconvolve(rows, np.ones((1, 200)), f, iterations=7)
    assert np.all(np.diff(scores) > 0)


def test_deconvolution_refuses_shapes_that_do_not_agree(backend):
    with pytest.raises(ValueError, match="differ"):
        backends.load(backend).deconvolve(np.ones((3, 5), np.float32), np.ones((1, 4)), np.ones((1, 5)), iterations=1)


def test_two_populations_are_resolved():
    """100 and 200 nm, 2000 tracks of 15 steps on average: the distance to the truth was 3.0 nm over six seeds."""
    distances = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        d = np.where(rng.random(2000) < 0.5, 100.0, 200.0) * (1 + 0.03 * rng.normal(size=2000))
        share = share_of(pool([gamma_rows(rng, d)], protocol(bootstrap=50)))
        distances.append(stats.wasserstein_distance(GRID, d, share))
        assert share[(GRID > 80) & (GRID < 125)].sum() == pytest.approx(0.5, abs=0.07)
        assert share[(GRID > 160) & (GRID < 250)].sum() == pytest.approx(0.5, abs=0.07)
        assert share[(GRID > 130) & (GRID < 155)].sum() < 0.05
    assert np.mean(distances) < 7.0


def test_narrow_population_has_its_mode_within_two_percent():
    rng = np.random.default_rng(2)
    result = pool([gamma_rows(rng, 100.0 * (1 + 0.03 * rng.normal(size=1500)))], protocol())
    assert result.summary["mode_nm"].value == pytest.approx(100.0, rel=0.02)
    assert result.summary["cv"].value < 0.12
    assert result.summary["d50_nm"].value == pytest.approx(100.0, rel=0.02)  # standard error 0.6 %


def test_density_integrates_to_one_and_lies_in_its_band():
    rng = np.random.default_rng(3)
    result = pool([gamma_rows(rng, log_normal(rng, 400)) for _ in range(3)], protocol())
    assert share_of(result).sum() == pytest.approx(1.0)
    assert np.all((result.lo <= result.density_per_nm) & (result.density_per_nm <= result.hi))
    assert (result.n_tracks, result.n_videos, result.weighting) == (1200, 3, "tracks")
    assert result.replicates.shape == (60, len(GRID))
    assert all(e.lo <= e.value <= e.hi for e in result.summary.values())


def test_result_depends_on_the_seed_alone():
    rng = np.random.default_rng(4)
    rows = [gamma_rows(rng, log_normal(rng, 150)) for _ in range(2)]
    first, second = pool(rows, protocol()), pool(rows, protocol())
    np.testing.assert_array_equal(first.density_per_nm, second.density_per_nm)
    assert first.summary == second.summary


# Intervals


@pytest.mark.parametrize("between", [0.0, 0.06])
def test_interval_of_d50_over_four_videos_is_honest(between):
    """80 simulated samples: 95 % nominal, 90–98 % wanted, standard error of the count 2.4 %."""
    rng = np.random.default_rng(5)
    settings = protocol(grid_points=80, bootstrap=60)
    hits = 0
    for _ in range(80):
        videos = []
        for _ in range(4):
            r = gamma_rows(rng, log_normal(rng, 150, 120.0 * np.exp(between * rng.normal())))
            videos.append(coarser(r))
        e = pool(videos, settings).summary["d50_nm"]
        hits += e.lo <= 120.0 <= e.hi
    assert hits / 80 >= 0.86


def test_intervals_of_the_width_of_a_narrow_sample_are_honest():
    """40 samples of 300 tracks with a CV of 5 %: 33 or more of 40 hold in 98 of 100 runs at a coverage of 0.92."""
    rng = np.random.default_rng(21)
    hits = {"cv": 0, "span": 0, "d10_nm": 0, "d50_nm": 0, "d90_nm": 0}
    truth = {"d50_nm": 100.0, "cv": 0.05, "span": 2 * 1.2816 * 0.05, "d10_nm": 100 - 6.408, "d90_nm": 100 + 6.408}
    for _ in range(40):
        summary = pool([gamma_rows(rng, rng.normal(100.0, 5.0, 150)) for _ in range(2)], protocol()).summary
        for name, value in truth.items():
            hits[name] += summary[name].lo <= value <= summary[name].hi
    assert min(hits.values()) >= 33, hits


def coarser(r: TrackRows) -> TrackRows:
    return TrackRows(**{**vars(r), "diameter_nm": r.diameter_nm[::2], "likelihood": r.likelihood[:, ::2]})


def test_videos_that_differ_widen_the_interval():
    rng = np.random.default_rng(6)
    same = pool([gamma_rows(rng, log_normal(rng, 300)) for _ in range(4)], protocol()).summary["d50_nm"]
    apart = pool([gamma_rows(rng, log_normal(rng, 300, m)) for m in (95, 110, 130, 150)], protocol()).summary["d50_nm"]
    student = stats.t.ppf(0.975, 3) * np.std(np.log([95, 110, 130, 150]), ddof=1) / 2
    assert np.log(apart.hi / apart.lo) / 2 == pytest.approx(student, rel=0.35)
    assert np.log(same.hi / same.lo) < 0.5 * np.log(apart.hi / apart.lo)


def sharp_sample(classes_of_video) -> Sample:
    """Videos of tracks that are certain of their class."""
    classes = np.concatenate(classes_of_video)
    return Sample(
        rows=np.eye(len(GRID), dtype=np.float32)[classes],
        row=np.arange(len(classes)),
        weight=np.ones(len(classes)),
        video=np.repeat(np.arange(len(classes_of_video)), [len(c) for c in classes_of_video]),
        unit=np.arange(len(classes)),
    )


def test_between_videos_of_equal_precision_is_what_their_spread_leaves_and_the_interval_is_students():
    """The moment estimate is then s² − w, so that the replicates explain s² and lack just t over the normal's 1.96."""
    step = np.log(GRID[1] / GRID[0])
    within_video, means = np.array([-6, -2, 0, 1, 7]), np.array([60, 67, 71, 82])
    spread = between_videos(sharp_sample([m + within_video for m in means]), GRID)
    total = np.var(means * step, ddof=1)
    within = np.sum((within_video * step) ** 2) / 5**2
    assert spread.between_share == pytest.approx(1 - within / total)
    assert spread.widening == pytest.approx(stats.t.ppf(0.975, 3) / stats.norm.ppf(0.975), rel=1e-6)


@pytest.mark.parametrize(("n", "share"), [(3, 0.3), (6, 0.7)])
def test_weights_of_videos_in_replicates_vary_by_the_sharebetween_videos(n, share):
    """The variance of n·Dirichlet(α) is (n − 1)/(nα + 1), the share; 20,000 replicates: standard error about 1 %."""
    sample = sharp_sample([np.full(4, 50)] * n)
    drawn = replicate_counts(sample, Spread(share, 1.0), np.random.default_rng(18), 20_000)
    of_video = drawn.reshape(20_000, n, 4).mean(axis=2)
    np.testing.assert_allclose(of_video.mean(), 1.0)
    assert of_video.var() == pytest.approx(share, rel=0.04)


def test_widening_multiplies_the_distance_of_each_median():
    def bell(shift):
        bells = np.exp(-0.5 * ((np.log(GRID / 120.0) - shift) / 0.2) ** 2)
        return bells / bells.sum()

    shift = np.array([-0.08, 0.03, 0.1])
    moved = widened(bell(0.0), np.array([bell(s) for s in shift]), GRID, 1.7)
    medians = np.log([quantile_nm(m, GRID, 0.5) / 120.0 for m in moved])
    np.testing.assert_allclose(medians, 1.7 * shift, atol=2e-3)  # interpolation on classes of 2.5 %
    np.testing.assert_allclose(moved.sum(axis=1), 1.0)


def test_what_is_moved_beyond_the_grid_stays_in_its_outermost_classes():
    narrow = np.zeros((2, len(GRID)))
    narrow[0, 3] = narrow[1, -3] = 1.0
    moved = widened(np.full(len(GRID), 1 / len(GRID)), narrow, GRID, 3.0)
    np.testing.assert_allclose(moved.sum(axis=1), 1.0)
    assert moved[0, 0] == pytest.approx(1.0)
    assert moved[1, -1] == pytest.approx(1.0)


def test_no_share_is_negative_by_rounding():
    drawn = np.random.default_rng(1).dirichlet(np.full(len(GRID), 0.05), 2000)
    assert widened(drawn[0], drawn, GRID, 1.7).min() >= 0.0


@pytest.mark.parametrize("n", [1, 2, 4])
def test_interval_of_a_handful_of_particles_is_as_wide_as_their_tracks_are_uncertain(n):
    """60 samples of n tracks of 30 steps: 50 or more hold in 99 of 100 runs at a coverage of 0.92."""
    rng, hits = np.random.default_rng(23), 0
    for _ in range(60):
        rows = gamma_rows(rng, np.full(n, 100.0), mean_steps=30)
        e = pool([rows], protocol(bootstrap=200)).summary["d50_nm"]
        hits += e.lo <= 100.0 <= e.hi
    assert hits >= 50


# Detection limit


def detected(rows, probability):
    return TrackRows(**{**vars(rows), "detected": probability})


def test_distribution_is_cut_where_less_than_half_are_detected():
    rng = np.random.default_rng(24)
    seen = 1.0 / (1.0 + (GRID / 90.0) ** -8)
    videos = [detected(gamma_rows(rng, log_normal(rng, 300, 110.0, 0.35)), seen) for _ in range(2)]
    found = pool(videos, protocol())
    assert found.limit_nm == pytest.approx(90.0, rel=0.03)
    assert share_of(found)[found.limit_nm > GRID].sum() == 0.0
    assert share_of(found).sum() == pytest.approx(1.0)
    np.testing.assert_allclose(found.replicates.sum(axis=1), 1.0)
    assert not found.replicates[:, found.limit_nm > GRID].any()
    assert np.isnan(found.summary["fraction_below_50_nm"].value)
    assert found.summary["d10_nm"].value > found.limit_nm
    assert pool([videos[0], detected(videos[1], None)], protocol()).limit_nm == found.limit_nm


def test_a_video_that_shows_half_of_no_size_is_not_cut_but_has_no_limit():
    rng = np.random.default_rng(25)
    rows = gamma_rows(rng, log_normal(rng, 200))
    assert np.isnan(pool([detected(rows, np.full(len(GRID), 0.3))], protocol()).limit_nm)
    assert pool([detected(rows, np.full(len(GRID), 0.9))], protocol()).limit_nm == 0.0
    assert pool([rows], protocol()).limit_nm == 0.0


def test_populations_below_the_limit_are_left_out_and_the_others_are_shares_of_what_is_above():
    rng = np.random.default_rng(26)
    d = np.array([60.0, 150.0, 300.0])[rng.integers(0, 3, 3000)] * np.exp(0.03 * rng.normal(size=3000))
    rows = gamma_rows(rng, d, mean_steps=30)
    everything = pool([rows], protocol()).populations
    above = pool([detected(rows, np.where(GRID > 90.0, 0.9, 0.1))], protocol()).populations
    assert len(everything) == 3
    assert [round(p.median_nm.value, -1) for p in above] == [150.0, 300.0]
    assert sum(p.fraction.value for p in above) == pytest.approx(1.0)
    assert above[0].fraction.value == pytest.approx(0.5, abs=0.05)


def test_a_weighting_that_could_not_be_had_is_explained():
    rng = np.random.default_rng(27)
    few = pool([gamma_rows(rng, log_normal(rng, 60))], protocol(weighting="number"))
    assert few.weighting == "frames"
    assert few.weighting_reason == "only 60 particles arrive during the recording"
    assert pool([gamma_rows(rng, log_normal(rng, 150))], protocol(weighting="number")).weighting_reason == ""


def test_common_uncertainty_enters_sizes_and_fractions_but_not_shape():
    rng = np.random.default_rng(7)
    rows = gamma_rows(rng, log_normal(rng, 300))
    exact, uncertain = pool([rows], protocol()), pool([TrackRows(**{**vars(rows), "budget": budget(0.05)})], protocol())
    for name in ("d10_nm", "d50_nm", "mean_nm"):
        e, u = exact.summary[name], uncertain.summary[name]
        assert np.log(u.hi / u.value) == pytest.approx(np.hypot(np.log(e.hi / e.value), 1.96 * 0.05), rel=1e-3)
    assert uncertain.summary["span"] == exact.summary["span"]
    name = "fraction_50_150_nm"
    assert uncertain.summary[name].hi - uncertain.summary[name].lo > exact.summary[name].hi - exact.summary[name].lo


def test_uncertainty_budget_in_water_at_25_degrees():
    rest = 0.01**2 + 0.005**2 + 0.001**2
    stated = combined(systematic_budget(acquisition(), Protocol()))
    assert stated == pytest.approx(np.sqrt((0.0261 * 0.3) ** 2 + rest), rel=2e-3)
    assumed = combined(systematic_budget(acquisition(origins={"temperature_c": "protocol default"}), Protocol()))
    assert assumed == pytest.approx(np.sqrt((0.0261 * 2.0) ** 2 + rest), rel=2e-3)
    given_viscosity = combined(systematic_budget(acquisition(viscosity_mpa_s=0.9), Protocol()))
    assert given_viscosity == pytest.approx(np.sqrt((0.3 / 298.15) ** 2 + rest), rel=2e-3)
    noisy = systematic_budget(acquisition(), Protocol(), noise_error=0.5, noise_sensitivity=0.02)
    assert combined(noisy) == pytest.approx(np.hypot(stated, 0.01), rel=1e-6)


# Description


def test_description_of_a_log_normal_has_its_closed_forms():
    grid = np.geomspace(10.0, 2000.0, 600)
    share = np.exp(-0.5 * (np.log(grid / 100.0) / 0.3) ** 2)
    v = describe(share / share.sum(), grid, (50.0, 150.0), 0.1)
    z = stats.norm.ppf(0.9975)
    first, second = (  # moments of the central 99.5 %
        100**k * np.exp((0.3 * k) ** 2 / 2) * (stats.norm.cdf(z - 0.3 * k) - stats.norm.cdf(-z - 0.3 * k)) / 0.995
        for k in (1, 2)
    )
    assert v["mean_nm"] == pytest.approx(first, rel=1e-3)
    assert v["mode_nm"] == pytest.approx(100 * np.exp(-0.09), rel=1e-3)
    assert v["d50_nm"] == pytest.approx(100.0, rel=1e-4)
    assert v["d90_nm"] == pytest.approx(100 * np.exp(1.2816 * 0.3), rel=1e-3)
    assert v["cv"] == pytest.approx(np.sqrt(second / first**2 - 1), rel=5e-3)
    assert v["cv"] == pytest.approx(np.sqrt(np.exp(0.09) - 1), rel=0.03)
    assert v["pdi"] == pytest.approx(v["cv"] ** 2)
    assert v["span"] == pytest.approx((v["d90_nm"] - v["d10_nm"]) / v["d50_nm"])
    below = stats.norm.cdf(np.log(0.5) / 0.3)
    above = stats.norm.sf(np.log(1.5) / 0.3)
    assert v["fraction_below_50_nm"] == pytest.approx(below, abs=1e-4)
    assert v["fraction_50_150_nm"] == pytest.approx(1 - below - above, abs=1e-4)
    assert v["fraction_above_150_nm"] == pytest.approx(above, abs=1e-4)


@given(st.lists(st.floats(0.0, 1.0), min_size=40, max_size=40).filter(lambda w: sum(w) > 0.1))
@settings(max_examples=40)
def test_fractions_sum_to_one_and_percentiles_are_ordered(weights):
    grid = np.geomspace(20.0, 1000.0, 40)
    share = np.array(weights) / sum(weights)
    s = summarize(share, share[None], grid, (50.0, 150.0, 200.0), width=0.1, systematic=0.02)
    assert sum(e.value for name, e in s.items() if name.startswith("fraction")) == pytest.approx(1.0)
    assert s["d10_nm"].value <= s["d50_nm"].value <= s["d90_nm"].value
    assert all(e.lo <= e.value + 1e-12 and e.value <= e.hi + 1e-12 for e in s.values())


# Weighting


def slab_tracks(rng, diameters, n_frames=700, depth=8.0, reservoir=40.0, minimum=2) -> Tracks:
    """Particles diffuse through a periodic box; a track is the time that one spends between two planes."""
    size = np.array([480 * PIXEL_UM, 640 * PIXEL_UM, reservoir])
    step = np.sqrt(2 * WATER_25 / diameters * FRAME_S)[:, None]
    at = rng.random((len(diameters), 3)) * size
    path = np.empty((n_frames, len(diameters), 3), np.float32)
    for t in range(n_frames):
        path[t] = at
        at = at + step * rng.normal(size=at.shape)
    within = np.mod(path, size)
    # Leaving over a border of the periodic field ends a track as leaving the slab does.
    cell = np.floor(path[..., :2] / size[:2]).sum(axis=2) * 1000 + np.floor(path[..., 0] / size[0])
    visible = within[..., 2] < depth
    goes_on = np.zeros_like(visible)
    goes_on[1:] = visible[1:] & visible[:-1] & (cell[1:] == cell[:-1])
    begins = visible & ~goes_on
    particle = np.cumsum(begins.T.ravel()) - 1
    shown = visible.T.ravel()
    frame = np.tile(np.arange(n_frames, dtype=np.int32), len(diameters))[shown]
    particle = particle[shown]
    keep = np.bincount(particle)[particle] >= minimum
    y, x = (within[..., i].T.ravel()[shown][keep].astype(float) / PIXEL_UM for i in (0, 1))
    one = np.ones(len(y), np.float32)
    return Tracks(
        frame=frame[keep], y=y, x=x, mass=100 * one, background=one, noise=one, snr=one, sigma=one,
        y_err=np.nan * one, x_err=np.nan * one, flag=np.zeros(len(y), np.uint16),
        particle=particle[keep], identity=particle[keep],
    )  # fmt: skip


@pytest.fixture(scope="module")
def mixture_tracks():
    return slab_tracks(np.random.default_rng(8), np.repeat([80.0, 180.0], 300))


def small_share(distribution):
    return share_of(distribution)[distribution.diameter_nm < 120.0].sum()


def test_axial_exchange_is_undone_in_the_number_distribution(mixture_tracks):
    """1:1 of 80 and 180 nm: small particles make √(180/80) = 1.5 times as many tracks."""
    a = acquisition(n_frames=700)
    number = size_distribution(mixture_tracks, a, without_gaps(weighting="number", grid_points=100))
    tracks = size_distribution(mixture_tracks, a, without_gaps(weighting="tracks", grid_points=100))
    assert number.weighting == "number"
    assert small_share(number) == pytest.approx(0.5, abs=0.05)
    assert small_share(tracks) == pytest.approx(0.6, abs=0.05)
    assert small_share(tracks) - small_share(number) > 0.03


def test_number_over_tracks_is_the_root_of_the_diameter_where_every_track_is_a_start():
    rng = np.random.default_rng(19)
    rows = [gamma_rows(rng, log_normal(rng, 150))]
    number, tracks = (pool(rows, protocol(weighting=w)) for w in ("number", "tracks"))
    seen = share_of(tracks) > 1e-9
    ratio = share_of(number)[seen] / share_of(tracks)[seen]
    np.testing.assert_allclose(ratio / np.sqrt(GRID[seen]), ratio[0] / np.sqrt(GRID[seen][0]), rtol=1e-6)


def test_a_particle_first_seen_nearer_to_the_border_than_the_margin_is_no_start():
    rng = np.random.default_rng(20)
    inside = np.linspace(1.0, 9.0, 81)
    path = positions(rng, np.full(81, 4.9), 60)
    path[..., 0] += (inside - path[:, 0, 0])[:, None]
    tracks = to_tracks(path, np.full(81, 5), centre_um=(0.0, 53.0))
    rows = track_rows(tracks, acquisition(), Protocol.from_dict({"link": {"flow": "none"}}))
    fast = np.quantile(acquisition().stokes_einstein_um2_s_nm / rows.diameter_nm[rows.likelihood.argmax(axis=1)], 0.9)
    assert 4.9 < fast < 1.5 * 4.9
    margin = 4.0 * np.sqrt(2.0 * fast * FRAME_S * 5)  # the shortest track has four displacements
    np.testing.assert_array_equal(rows.start_seen, inside >= margin)


def test_pieces_of_a_cut_track_count_as_one_particle():
    rng = np.random.default_rng(9)
    whole = simulated_tracks(rng, np.full(200, 4.9), 21)
    half = whole.frame - np.repeat(whole.frame[::21], 21) > 10
    columns = {name: getattr(whole, name) for name in Tracks.columns()}
    cut = Tracks(**{**columns, "particle": 2 * whole.particle + half})
    rows = track_rows(cut, acquisition(), protocol())
    assert len(rows) == 400
    np.testing.assert_allclose(rows.identity_share.reshape(200, 2).sum(axis=1), 1.0)
    assert pool([rows], protocol()).summary["d50_nm"].value == pytest.approx(100.0, rel=0.05)


def test_a_sample_that_does_not_exchange_is_counted_per_frame():
    rng = np.random.default_rng(10)
    tracks = simulated_tracks(rng, np.full(90, 4.9), 40)
    assert size_distribution(tracks, acquisition(), protocol(weighting="number")).weighting == "frames"
    rows = gamma_rows(rng, log_normal(rng, 300))
    slow = TrackRows(**{**vars(rows), "from_beginning": np.arange(300) < 200, "start_seen": np.arange(300) >= 200})
    assert pool([slow], protocol(weighting="number")).weighting == "frames"
    assert pool([rows], protocol(weighting="number")).weighting == "number"


def test_nothing_to_size():
    empty = size_distribution(Tracks.empty(), acquisition(), protocol())
    assert len(empty) == 0
    assert empty.summary == {}
    few = size_distribution(simulated_tracks(np.random.default_rng(11), [4.9, 4.9], 8), acquisition(), protocol())
    assert few.n_tracks == 2
    assert few.summary["d50_nm"].lo < few.summary["d50_nm"].hi


def test_different_grids_are_refused():
    rng = np.random.default_rng(12)
    rows = gamma_rows(rng, log_normal(rng, 50))
    with pytest.raises(InputError, match="same protocol"):
        pool([rows, coarser(rows)], protocol())


def test_pooled_diameter_of_one_size_lies_in_its_interval():
    """40 videos: at least 34 intervals contain the truth in 99 of 100 runs with a coverage of 0.95."""
    a = acquisition(1 / 6)
    hits, exact = 0, Protocol.from_dict({"conditions": {"pixel_size_relative": 0.0, "viscosity_relative": 0.0}})
    for seed in range(40):
        tracks = simulated_tracks(np.random.default_rng(seed), np.full(150, 4.9), 20, blur=1 / 6, sigma_um=0.1)
        e = pooled_diameter([track_rows(tracks, a, exact)])
        hits += e.lo <= a.stokes_einstein_um2_s_nm / 4.9 <= e.hi
        assert np.log(e.hi / e.lo) < 0.3
    assert hits >= 34
    assert np.isnan(pooled_diameter([track_rows(Tracks.empty(), a)]).value)


# --- crowding -----------------------------------------------------------------------------------------------------


def test_share_of_a_size_class_is_not_reported_where_its_mislink_index_exceeds_the_limit():
    """Edges 50, 150 and 200 nm on a grid from 20 to 1000 nm: middles at 31.6, 86.6, 173 and 447 nm."""
    rows = gamma_rows(np.random.default_rng(1), log_normal(np.random.default_rng(2), 300))
    fractions = ("fraction_below_50_nm", "fraction_50_150_nm", "fraction_150_200_nm", "fraction_above_200_nm")
    for index_nm, n_refused in ((4.7, 0), (4.8, 1), (12.9, 1), (13.1, 2)):
        sizes = pool([crowded(rows, index_nm)], protocol())
        assert [np.isnan(sizes.summary[name].value) for name in fractions] == [k < n_refused for k in range(4)]
        expected = index_nm / np.sqrt([20 * 50, 50 * 150, 150 * 200, 200 * 1000])
        assert [sizes.mislink_index[name] for name in fractions] == pytest.approx(expected.tolist())
        assert np.isfinite(sizes.summary["d50_nm"].value)


def test_crowding_of_pooled_videos_is_that_of_their_localizations():
    rng = np.random.default_rng(3)
    few, many = gamma_rows(rng, log_normal(rng, 100)), gamma_rows(rng, log_normal(rng, 300))
    sizes = pool([crowded(few, 8.0), crowded(many, 2.0)], protocol())
    weights = few.n_frames.sum(), many.n_frames.sum()
    expected = np.average([8.0, 2.0], weights=weights) / np.sqrt(20 * 50)
    assert sizes.mislink_index["fraction_below_50_nm"] == pytest.approx(expected)


def test_mislink_index_of_a_diameter_is_that_of_its_diffusion_coefficient_among_all_spots():
    """0.002 spots per px² at 0.2 µm per px are 0.05 per µm²; a 100 nm sphere in water at 25 °C has 4.907 µm²/s."""
    acquisition = Acquisition(pixel_size_um=0.2, frame_interval_s=0.02, frame_shape=(100, 200), n_frames=10)
    flow = {"flow_y_px": np.zeros(9), "flow_x_px": np.zeros(9), "flow_centre_px": (0.0, 0.0), "flow_gradient": None}
    numbers = {"n_links": 0, "gate_px": 5.0, "mislink_index": 0.0, "density_px2": 0.002, "shear_px": 0.0, "n_shrunk": 0}
    linking = LinkSummary(**numbers, **flow)
    empty = Tracks.empty()
    tracks = Tracks(**{name: getattr(empty, name) for name in Tracks.columns()}, linking=linking)
    expected = np.pi * 0.05 * 4 * 4.907 * 0.02
    assert mislink_nm(tracks, acquisition) / 100.0 == pytest.approx(expected, rel=1e-3)
    columns = {name: np.zeros(400, spec["dtype"]) for name, spec in Tracks.columns().items()}
    assert mislink_nm(Tracks(**columns), acquisition) / 100.0 == pytest.approx(expected, rel=1e-3)
