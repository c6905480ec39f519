"""Concentration: exchange with the surroundings, scatter of counts, blanks, calibration, and arrivals as a check."""

from __future__ import annotations

import numpy as np
import pytest
from brownian import FRAME_S, PIXEL_UM, WATER_25, acquisition, positions, simulated_tracks, to_tracks
from scipy import special, stats
from test_sizing import counted, gamma_rows, protocol, slab_tracks, without_gaps

from exotrack import backends
from exotrack.depth import DepthPoint, DepthTable
from exotrack.errors import InputError
from exotrack.pipeline import outcome
from exotrack.pipeline.pool import _ratio
from exotrack.protocol import Protocol
from exotrack.sizing import TrackRows, concentration, track_rows
from exotrack.sizing.calibration import BeadVideo, calibrate_depth
from exotrack.sizing.concentration import Concentration
from exotrack.sizing.count import class_shares
from exotrack.sizing.counting import counting_fano, overlap, poisson_factors
from exotrack.sizing.exchange import confirmed_starts_um, unconfirmed_depth_um
from exotrack.tables import Estimate, Tracks

STEP = np.sqrt(2.0 * 4.907 * FRAME_S)


def rows_of(count) -> TrackRows:
    """A video of which only the count matters."""
    return TrackRows(**{**vars(gamma_rows(np.random.default_rng(13), np.full(5, 100.0))), "count": count})


# Exchange


def tracks_through_a_slab(rng, depth, gap, shortest, n=60_000, n_frames=45):
    """Localizations in short tracks, and starts of long ones, per frame and unit concentration; steps have s.d. 1."""
    length = depth + 50.0
    z = np.cumsum(np.vstack([length * rng.random(n), rng.normal(size=(n_frames - 1, n))]), axis=0) % length
    lost = starts = 0
    for path in (z < depth).T:
        frames = np.flatnonzero(path)
        for part in np.split(frames, np.flatnonzero(np.diff(frames) > gap + 1) + 1):
            if len(part) and 12 <= part[0] < 32:
                short = part[-1] - part[0] + 1 < shortest
                lost, starts = lost + short * len(part), starts + (not short)
    return np.array([lost, starts]) / (n / length) / 20.0


@pytest.mark.parametrize(("depth", "gap", "shortest"), [(10.0, 0, 5), (10.0, 1, 5), (3.0, 1, 5), (10.0, 2, 8)])
def test_short_tracks_and_starts_are_those_of_walkers(depth, gap, shortest):
    """60,000 walkers: standard errors of about 2 %."""
    lost, starts = tracks_through_a_slab(np.random.default_rng(1), depth, gap, shortest)
    assert unconfirmed_depth_um(np.array(1.0), np.array(depth), shortest, gap) == pytest.approx(lost, rel=0.06)
    if depth > 5.0:
        assert confirmed_starts_um(np.array(1.0), shortest, gap) == pytest.approx(starts, rel=0.06)


def test_exchange_without_gaps_follows_the_sparre_andersen_law():
    k = np.arange(1, 8)
    lost = np.sqrt(2.0 / np.pi) * (np.sum(k**-0.5) - 7 * 8**-0.5)
    assert unconfirmed_depth_um(np.array(0.3), np.array(30.0), 8, 0) == pytest.approx(0.3 * lost, rel=3e-3)
    assert confirmed_starts_um(np.array(0.3), 8, 0) == pytest.approx(0.3 * np.sqrt(2 / np.pi) * 8**-0.5, rel=3e-3)


def test_nothing_is_confirmed_in_a_depth_of_a_tenth_of_a_step():
    thin = unconfirmed_depth_um(np.array([1.0]), np.array([0.1]), 5, 0)
    assert 0.08 < thin[0] <= 0.1


# Counting statistics


@pytest.mark.parametrize(("diameter", "fano"), [(50, 0.26), (100, 0.34), (200, 0.44)])
def test_counting_statistics_of_a_static_slab(diameter, fano):
    assert counting_fano(WATER_25 / diameter, 10.0, 60.0) == pytest.approx(fano, abs=0.01)


def test_overlap_of_an_interval_with_itself_has_its_closed_form():
    spread = np.array([0.1, 1.0, 7.0])
    a = 3.0 / (np.sqrt(2.0) * spread)
    still = special.erf(a) - (1.0 - np.exp(-(a**2))) / (a * np.sqrt(np.pi))
    np.testing.assert_allclose(overlap(3.0, 0.0 * spread, spread), still, rtol=1e-9)
    np.testing.assert_allclose(overlap(3.0, np.array([1.0, 2.0, 4.0]), np.zeros(3)), [2 / 3, 1 / 3, 0.0], atol=1e-6)


def test_counting_fano_with_flow_and_borders_is_that_of_simulated_counts():
    """Variance of the mean number over its mean, of 3,000 boxes: standard error 2.6 %."""
    rng = np.random.default_rng(3)
    box, length, frames, speed = np.array([4.0, 6.0, 8.0]), 30.0, 120, 3.0
    means = np.empty(3000)
    for i in range(len(means)):
        n = rng.poisson(0.002 * length**3)
        at = length * rng.random((n, 3))
        inside = 0
        for _ in range(frames):
            inside += np.count_nonzero(np.all(at % length < box, axis=1))
            at = at + STEP * rng.normal(size=at.shape) + [0.0, 0.0, speed * FRAME_S]
        means[i] = inside / frames
    found = means.var() / (0.002 * box.prod())
    expected = counting_fano(4.907, 4.0, frames * FRAME_S, frame_um=(6.0, 8.0), flow_um_s=(0.0, speed))
    assert means.mean() == pytest.approx(0.002 * box.prod(), rel=0.05)
    assert expected == pytest.approx(found, rel=0.1)


def test_interval_of_a_count_is_garwoods():
    low, high = poisson_factors(4.0)
    assert 4.0 * low == pytest.approx(stats.chi2.ppf(0.025, 8) / 2)
    assert 4.0 * high == pytest.approx(stats.chi2.ppf(0.975, 10) / 2)


# One video


def test_concentration_of_an_exchanging_slab_with_and_without_its_depth():
    """1200 particles in 79.7 × 106.2 × 40 µm, 700 frames: the count has an s.d. of about 5 %, arrivals of 7 %."""
    tracks = slab_tracks(np.random.default_rng(8), np.repeat([80.0, 180.0], 300), minimum=1)
    truth = 600 / (480 * 640 * PIXEL_UM**2 * 40.0) * 1e12
    rows = track_rows(tracks, acquisition(n_frames=700, depth_um=8.0, dilution=10.0), without_gaps())
    found = concentration([rows])
    assert found.gross.value == pytest.approx(10 * truth, rel=0.12)
    assert found.gross.lo < 10 * truth < found.gross.hi
    assert found.flux.value == pytest.approx(10 * truth, rel=0.16)
    assert found.flux.lo < 10 * truth < found.flux.hi
    assert found.net == found.gross
    unknown = concentration([track_rows(tracks, acquisition(n_frames=700, dilution=10.0), without_gaps())])
    assert np.isnan(unknown.gross.value)
    assert unknown.flux.value == pytest.approx(found.flux.value)


def test_a_video_that_is_stepped_through_counts_every_localization_once():
    """Tracks that carry images over are taken apart into every k-th frame; the particles in view stay the same."""
    rng = np.random.default_rng(17)
    path = positions(rng, np.full(150, 4.907), 60)
    for i in range(1, 60):
        path[:, i] = 0.6 * path[:, i] + 0.4 * path[:, i - 1]
    tracks = to_tracks(path, rng.integers(1, 830, 150))
    rows = track_rows(tracks, acquisition(None), protocol())
    assert len(np.unique(rows.particle)) < len(rows)
    field = rows.count.side_um[0] * rows.count.side_um[1]
    assert rows.count.confirmed_per_um2 * field * 900 == pytest.approx(150 * 60)


def test_particles_that_part_do_not_arrive():
    """A second particle, first seen beside another one, is no arrival; one that comes in far from all others is."""
    rng = np.random.default_rng(5)
    rows = []
    for distance_um in (2.0, 20.0):
        path = positions(rng, np.full(12, 4.907), 40)
        path[1::2] += (path[::2, 19] - path[1::2, 0])[:, None] + [0.0, distance_um]
        first = np.repeat(100 * np.arange(6), 2) + np.tile([20, 40], 6)
        rows.append(track_rows(to_tracks(path, first), acquisition(), protocol()))
    beside, apart = (r.start_seen for r in rows)
    assert not beside[1::2].any()
    assert apart.sum() >= 10


def test_a_video_without_particles_has_an_upper_limit():
    empty = simulated_tracks(np.random.default_rng(2), np.full(1, 4.9), 10)
    rows = track_rows(empty.take(np.zeros(len(empty), bool)), acquisition(depth_um=10.0), protocol())
    found = concentration([rows]).gross
    assert (found.value, found.lo) == (0.0, 0.0)
    volume = 480 * 640 * PIXEL_UM**2 * 10.0 * 1e-12
    assert 0.5 / volume < found.hi < 5.0 / volume


# Samples


def test_concentration_is_the_mean_with_the_wider_of_two_intervals():
    found = concentration([rows_of(counted(c, depth_error=0.05)) for c in (1e8, 2e8, 4e8)]).gross
    spread = stats.t.ppf(0.975, 2) * np.std([1, 2, 4], ddof=1) / np.sqrt(3) / (7 / 3)
    assert found.value == pytest.approx(7e8 / 3)
    assert np.log(found.hi / found.value) == pytest.approx(np.hypot(np.log1p(spread), 1.96 * 0.05), rel=1e-4)
    alike = concentration([rows_of(counted(2e8)), rows_of(counted(2e8))]).gross
    assert alike.hi / alike.value == pytest.approx(poisson_factors(200.0)[1])
    assert np.isnan(concentration([rows_of(counted(1e8)), rows_of(counted())]).gross.value)
    assert np.isnan(concentration([]).gross.value)


def test_blanks_are_subtracted_with_their_errors_and_give_the_limit_of_detection():
    """Undiluted blanks of 1.0, 1.2 and 1.4e6 per ml under a sample that was diluted 100-fold."""
    blanks = [rows_of(counted(c, independent=1000.0)) for c in (1.0e6, 1.2e6, 1.4e6)]
    sample = [rows_of(counted(5e8, dilution=100.0, independent=1e6)) for _ in range(3)]
    found = concentration(sample, blanks)
    assert found.blank.value == pytest.approx(1.2e8)
    assert found.net.value == pytest.approx(3.8e8)
    assert found.gross.value == pytest.approx(5e8)
    half = 1.2e8 * stats.t.ppf(0.975, 2) * 0.2e6 / np.sqrt(3) / 1.2e6
    assert found.net.value - found.net.lo == pytest.approx(half, rel=0.03)
    assert found.lod_per_ml == pytest.approx(1.2e8 + 3.3 * 0.2e8)


def test_blanks_without_particles_leave_the_sample_as_it_is_but_limit_what_can_be_told():
    """Nothing seen in three blanks: the mean is below 3.7/3 particles, one blank might have shown one or a few."""
    blank = rows_of(counted(0.0, independent=0.0))
    found = concentration([rows_of(counted(5e8))], [blank] * 3)
    assert found.net.value == found.gross.value
    assert found.net.lo < found.gross.lo
    assert found.blank.hi == pytest.approx(3.689 * 1e6 / 3, rel=1e-3)
    assert found.lod_per_ml == pytest.approx(3.3 * 1e6)


def test_blanks_of_unknown_depth_are_not_subtracted_and_that_is_said():
    found = concentration([rows_of(counted(5e8))], [rows_of(counted())] * 2)
    assert found.net == found.gross
    assert np.isnan(found.blank.value)
    assert found.n_unsubtracted == 2


def test_videos_without_arrivals_count_as_zero_in_the_check():
    busy, quiet = counted(1e9, flux=1e9), counted(1e9, flux=0.0, starts=0.0)
    found = concentration([rows_of(busy), *[rows_of(quiet)] * 3])
    assert found.flux.value == pytest.approx(2.5e8)
    nothing = concentration([rows_of(quiet)] * 2).flux
    assert (nothing.value, nothing.lo) == (0.0, 0.0)
    assert nothing.hi == pytest.approx(3.689 * 5e6 / 2, rel=1e-3)


def test_unknown_signals_leave_the_means_of_the_others_alone():
    """Two sizes, of which one has no signal: its depth is looked up by diameter."""
    grid = np.geomspace(50.0, 400.0, 40)
    rows = np.zeros((4, 40), np.float32)
    rows[[0, 1], 10] = rows[[2, 3], 30] = 1.0
    mass = np.array([100.0, np.nan, np.nan, np.nan])
    share, of_class = class_shares(rows, np.ones(4), mass, grid, backends.load("cpu"))
    assert share[[10, 30]] == pytest.approx([0.5, 0.5])
    assert of_class[10] == pytest.approx(100.0)
    assert np.isnan(of_class[30])
    table = DepthTable((DepthPoint(60.0, 8.0, 0.03, 100.0), DepthPoint(grid[30], 16.0, 0.04, 10_000.0)))
    assert table.depth_um(grid, of_class)[[10, 30]] == pytest.approx([8.0, 16.0])


def test_no_tracks_and_an_unknown_field_give_nothing():
    rows = track_rows(Tracks.empty(), acquisition(frame_shape=None), protocol())
    assert len(rows) == 0
    assert rows.count.particles_per_frame == 0.0


def test_one_track_of_two_localizations_is_no_reason_to_fail():
    tracks = simulated_tracks(np.random.default_rng(3), np.full(1, 4.9), 2)
    rows = track_rows(tracks, acquisition(depth_um=10.0), Protocol())
    assert len(rows) == 0
    assert np.isfinite(rows.count.concentration_per_ml)


# Calibration


def test_depth_is_recovered_from_beads_and_gives_back_their_concentration():
    """300 beads of each size in a slab of 8 µm: counts have an s.d. of about 6 %."""
    beads, truth = [], 300 / (480 * 640 * PIXEL_UM**2 * 40.0) * 1e12
    for i, diameter in enumerate((80.0, 180.0)):
        tracks = slab_tracks(np.random.default_rng(20 + i), np.full(300, diameter), minimum=1)
        rows = track_rows(tracks, acquisition(n_frames=700, dilution=5.0), without_gaps())
        step = np.sqrt(2.0 * WATER_25 / diameter * FRAME_S)
        beads.append(BeadVideo(f"bead{i}", rows, float(step), diameter, 5.0 * truth))
    table = calibrate_depth(beads, 0.05, 0)
    assert [p.diameter_nm for p in table.points] == [80.0, 180.0]
    assert [p.depth_um for p in table.points] == pytest.approx([8.0, 8.0], rel=0.15)
    assert all(0.05 < p.relative_error < 0.15 for p in table.points)
    tracks = slab_tracks(np.random.default_rng(20), np.full(300, 80.0), minimum=1)
    by_size = DepthTable(tuple(DepthPoint(p.diameter_nm, p.depth_um, p.relative_error) for p in table.points))
    again = track_rows(tracks, acquisition(n_frames=700, dilution=5.0, depth_table=by_size), without_gaps())
    assert again.count.concentration_per_ml == pytest.approx(5.0 * truth, rel=0.02)
    assert again.count.depth_error == pytest.approx(table.relative_error)


def test_beads_that_cannot_calibrate_are_named():
    rows = rows_of(counted(1e8))
    with pytest.raises(InputError, match="no bead videos"):
        calibrate_depth([], 0.05, 1)
    with pytest.raises(InputError, match=r"b1: .* check reference_per_ml"):
        calibrate_depth([BeadVideo("b1", rows, 0.5, 100.0, 1e-3)], 0.05, 1)
    with pytest.raises(InputError, match=r"b2: it shows 2\.0 independent particles"):
        calibrate_depth([BeadVideo("b2", rows_of(counted(1e8, independent=2.0)), 0.5, 100.0, 1e8)], 0.05, 1)


def test_depths_are_looked_up_by_brightness_where_the_table_has_it(tmp_path):
    table = DepthTable((DepthPoint(60.0, 8.0, 0.03, 100.0), DepthPoint(200.0, 16.0, 0.04, 10_000.0)))
    sizes = np.array([60.0, 60.0, 60.0, 60.0])
    depths = table.depth_um(sizes, np.array([100.0, 1000.0, 1e6, np.nan]))
    assert depths.tolist() == pytest.approx([8.0, 12.0, 16.0, 8.0])  # of unknown signal, that of 60 nm
    path = tmp_path / "depth.csv"
    path.write_text(table.to_csv(), encoding="utf-8")
    assert DepthTable.from_csv(path) == table
    path.write_text(table.to_csv().replace(",", ";").replace(".", ","), encoding="utf-8")
    assert DepthTable.from_csv(path) == table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("diameter_nm,depth_um\n100,10\n", "relative_error missing"),
        ("diameter_nm,depth_um,relative_error\n", "no rows"),
        ("diameter_nm,depth_um,relative_error\n100,ten,0.1\n", "not a number"),
        ("diameter_nm,depth_um,relative_error\n100,-1,0.1\n", "out of range"),
        ("diameter_nm,depth_um,relative_error\n100,8\n", "line 2, relative_error = ''"),
        ("diameter_nm,mass_dn,depth_um,relative_error\n100,,10,0.1\n200,5,10,0.1\n", "some rows only"),
    ],
)
def test_wrong_depth_tables_are_named(tmp_path, text, message):
    path = tmp_path / "depth.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"depth\.csv.*{message}"):
        DepthTable.from_csv(path)


# Remarks on samples


def remarks(**changes):
    """Remarks of a healthy sample with changes to its concentration."""
    healthy = {
        "net": Estimate(9e8, 8e8, 1e9),
        "gross": Estimate(9.5e8, 8.5e8, 1.05e9),
        "blank": Estimate(5e7, 4e7, 6e7),
        "lod_per_ml": 1e8,
        "flux": Estimate(9e8, 8e8, 1e9),
        "n_unsubtracted": 0,
        "fields": 5,
        "independent": 300.0,
    }
    return list(outcome.remarks_on_concentration(Concentration(**{**healthy, **changes})))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fields": 3}, "3 field"),
        ({"lod_per_ml": 1e9}, "below the limit of detection"),
        ({"blank": Estimate(2e8, 1e8, 3e8)}, "blank is 21%"),
        ({"flux": Estimate(1.5e9, 1.4e9, 1.6e9)}, "arrivals give 1.58 times"),
        ({"n_unsubtracted": 2}, "2 blank"),
    ],
)
def test_each_remark_on_a_concentration_appears_when_it_should_and_alone(changes, words):
    assert remarks() == []
    (remark,) = remarks(**changes)
    assert words in remark


def test_a_check_without_arrivals_is_no_check():
    assert remarks(flux=Estimate(0.0, 0.0, 1e8)) == []
    assert remarks(flux=Estimate(1e7, 0.0, 1e8)) == []
    assert remarks(flux=Estimate(np.nan, np.nan, np.nan)) == []


def test_nothing_is_said_of_a_concentration_that_is_not_known():
    nothing = Estimate(np.nan, np.nan, np.nan)
    assert remarks(gross=nothing, net=nothing, fields=1) == []


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((1e8, 8e7, 1.2e8), (2e8, 1.6e8, 2.4e8), (2.0, 1.49, 2.67)),
        ((1e8, 0.0, 3e8), (2e8, 1.8e8, 2.2e8), (2.0, 0.66, np.inf)),
        ((1e8, 8e7, 1.2e8), (2e8, 0.0, 4e8), (2.0, 0.0, 4.14)),
        ((-1e7, -5e7, 3e7), (2e8, 1.8e8, 2.2e8), (np.nan,) * 3),
        ((0.0, 0.0, 1e7), (2e8, 1.8e8, 2.2e8), (np.nan,) * 3),
    ],
)
def test_ratio_of_concentrations_knows_zeros(a, b, expected):
    assert _ratio(Estimate(*a), Estimate(*b)) == pytest.approx(expected, rel=0.01, nan_ok=True)
