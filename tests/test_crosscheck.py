"""Checks that link nothing: DDM and PICCS against simulated truth and oracles, DLS against closed forms."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from brownian import FRAME_S, PIXEL_UM, WATER_25, acquisition, positions
from scipy import special
from scipy.spatial import cKDTree

from exotrack import backends
from exotrack.crosscheck import ddm, dls, piccs, region, rendered
from exotrack.crosscheck.decay import Decay, overlap, rings_of
from exotrack.crosscheck.dls import form_factor
from exotrack.errors import InputError
from exotrack.simulate import simulate

ONE_SIZE = [{"diameter_nm": 100.0, "cv": 0.0}]
SMALL = {"frame_shape": (256, 256), "n_frames": 512, "exposure_s": 1 / 60}
SHORT = {**SMALL, "n_frames": 256}


# The structure function


def change_oracle(frames, ring, moved, span, lag):
    """Mean squared change of all modes of the full transform, each ring as the half plane of `ring` describes it."""
    _, height, width = frames.shape
    window = np.outer(*(np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in (height, width)))
    window /= np.sqrt(np.sum(window**2))
    modes = np.fft.fft2((frames - frames.astype(float).mean(axis=0)) * window)
    ky, kx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    modes *= np.exp(2j * np.pi * (ky * moved[:, :1, None] + kx * moved[:, 1:, None]))
    rows, columns = np.indices((height, width))
    mirrored = columns > width // 2
    of_mode = ring[np.where(mirrored, -rows % height, rows), np.where(mirrored, width - columns, columns)]
    part = modes[span[0] : span[1]]
    change = np.mean(np.abs(part[lag:] - part[:-lag]) ** 2, axis=0)
    return [change[of_mode == k].mean() for k in range(ring.max() + 1)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(20, 16, 12), (21, 13, 15)])
def test_structure_function_equals_its_definition(backend, dtype, shape):
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 200, shape).astype(dtype)
    ring = rings_of((shape[1], shape[2]), 0.2).index
    q = np.hypot(np.fft.fftfreq(shape[1])[:, None], np.arange(shape[2] // 2 + 1) / shape[2])
    ring = np.where((q > 0.1) & (q < 0.5), (q * 10).astype(np.int64) - 1, -1)
    # Modes of one column come in conjugate pairs: a ring must not depend on which of the two it names.
    moved = np.cumsum(rng.normal(size=(shape[0], 2)), axis=0)
    spans = np.array([[0, shape[0]], [3, 15]])
    found = backends.load(backend).structure_function(frames, ring, moved, spans, lags=9)
    for s, span in enumerate(spans):
        for lag in (1, 2, 9):
            assert found[s, :, lag - 1] == pytest.approx(change_oracle(frames, ring, moved, span, lag), rel=1e-5)


def test_white_noise_changes_by_twice_its_variance(backend):
    """2·10⁵ modes per lag: standard error 0.3 % of each mean over rings."""
    noise = np.random.default_rng(1).normal(0.0, 3.0, (128, 64, 64))
    ring = np.where(np.hypot(np.fft.fftfreq(64)[:, None], np.arange(33) / 64) < 0.45, 0, -1)
    found = backends.load(backend).structure_function(noise, ring, np.zeros((128, 2)), np.array([[0, 128]]), lags=20)
    assert found == pytest.approx(np.full((1, 1, 20), 18.0), rel=0.02)


def test_a_scene_that_only_flows_does_not_change(backend):
    """Spots carried by 1.3 and −0.7 px per frame: what is left is what leaves the window."""
    rng = np.random.default_rng(2)
    step = np.array([1.3, -0.7])
    at = rng.uniform(-20, 148, (150, 2))
    frame = np.repeat(np.arange(20), len(at))
    path = (at[None] + step * np.arange(20)[:, None, None]).reshape(-1, 2)
    movie = rendered((20, 128, 128), path[:, 0], path[:, 1], frame, 2.0)
    index = rings_of((128, 128), 0.3).index
    moved = np.outer(np.arange(20), step)
    spans = np.array([[0, 20]])
    turned = backends.load(backend).structure_function(movie, index, moved, spans, lags=3)
    left = backends.load(backend).structure_function(movie, index, np.zeros_like(moved), spans, lags=3)
    assert turned.sum() < 0.05 * left.sum()


def test_overlap_is_the_autocorrelation_of_the_window():
    window = np.sin(np.pi * (np.arange(256) + 0.5) / 256) ** 2
    for shift in (0, 10, 100, 250):
        moved = np.array([[0.0, 0.0], [shift, 0.0]])
        expected = window[shift:] @ window[: 256 - shift] / (window @ window)
        assert overlap(moved, 1, (256, 256))[0] == pytest.approx(expected, abs=1e-4)


# DDM


@pytest.fixture(scope="module")
def videos():
    """Five videos of about 60 particles of 100 nm in a slab of 10 µm, exposed for half the frame interval."""
    return [simulate(sizes=ONE_SIZE, particles_per_frame=60.0, seed=seed, **SMALL) for seed in range(1, 6)]


def in_focus(truth):
    p = truth.positions.take(truth.positions.in_focus)
    return p.y, p.x, p.frame


def test_ddm_of_half_frame_exposures_is_unbiased(videos, backend):
    """D of one video scatters by 5 %, so the mean by 2 %; the stated errors cover that."""
    raw = [ddm(video.frames, video.acquisition, backend=backend) for video, _ in videos]
    ratio = np.array([r.diffusion_um2_s for r in raw]) * 100.0 / WATER_25
    error = np.array([r.diffusion_error_um2_s for r in raw]) * 100.0 / WATER_25
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.03)
    assert np.all(np.abs(ratio - 1.0) < 3.0 * error)
    assert np.all((error > 0.01) & (error < 0.12))
    assert all(r.diameter_nm == pytest.approx(WATER_25 / r.diffusion_um2_s, rel=1e-3) for r in raw)
    for r in raw:
        decay = r.diffusion_um2_s * r.q_per_um[r.used] ** 2 * FRAME_S
        assert decay.min() > 0.04
        assert decay.max() < 1.1
        assert "d^12" in r.statement


@pytest.mark.parametrize("exposure", [0.0, 0.5, 1.0])
def test_blur_leaves_the_decay_alone_and_takes_the_offset_below_zero(exposure):
    """Closed form of one size with an exposure of a share of the frame interval, without noise."""
    rings = rings_of((256, 256), 0.3)
    lag = FRAME_S * np.arange(1, 64)
    rate = WATER_25 / 100.0 * rings.square_mean[:, None]
    spread = 0.5 * rings.square_variance[:, None] * (WATER_25 / 100.0 * lag) ** 2
    x = np.maximum(exposure * FRAME_S * rate, 1e-3)
    amplitude = 2.0 * (np.cosh(x) - 1.0) / x**2
    offset = 2.0 * (x - 1.0 + np.exp(-x)) / x**2 - amplitude
    found = Decay(rings, FRAME_S, np.ones(63)).settle(amplitude * (1.0 - np.exp(spread - rate * lag)) + offset, 3.0)
    assert found.diffusion == pytest.approx(WATER_25 / 100.0, rel=2e-3)
    assert found.fits.amplitude[found.used] == pytest.approx(amplitude[found.used, 0], rel=0.01)
    assert found.fits.offset[found.used] == pytest.approx(offset[found.used, 0], abs=0.01)
    assert exposure == 0.0 or found.fits.offset[found.used].max() < 0.0


@pytest.mark.parametrize("axial", ["slab", "sheet"])
def test_particles_that_leave_the_depth_hardly_count(axial):
    """A slab of 10 µm and a Gaussian sheet as thick: the median over rings is 5 and 1 % off."""
    rings = rings_of((256, 256), 0.3)
    lag = FRAME_S * np.arange(1, 64)
    moved = WATER_25 / 100.0 * lag
    away = 10.0 / np.sqrt(4.0 * moved)
    slab = special.erf(away) - (1.0 - np.exp(-(away**2))) / (away * np.sqrt(np.pi))
    sheet = (1.0 + moved * 8.0 * np.log(2.0) / 10.0**2) ** -0.5
    spread = 0.5 * rings.square_variance[:, None] * moved**2
    memory = np.exp(spread - rings.square_mean[:, None] * moved) * (slab if axial == "slab" else sheet)
    found = Decay(rings, FRAME_S, np.ones(63)).settle(1.0 - memory, 3.0)
    assert found.diffusion == pytest.approx(WATER_25 / 100.0, rel=0.007)
    assert np.median(found.fits.diffusion[found.used]) > 1.008 * WATER_25 / 100.0


def test_ddm_of_detections_is_unbiased(videos):
    results = [
        ddm(rendered(video.shape, *in_focus(truth), 1.5), video.acquisition, weighting="frames")
        for video, truth in videos
    ]
    assert np.mean([r.diffusion_um2_s for r in results]) * 100.0 == pytest.approx(WATER_25, rel=0.03)
    assert {r.weighting for r in results} == {"frames"}
    assert "number of particles" in results[0].statement


def test_ddm_counts_squared_signals_and_detections_alike():
    """10 % of 200 nm among 80 nm with signals ∝ d⁶: the raw frames see 200 nm, the detections the harmonic 85 nm."""
    sizes = [{"diameter_nm": 80.0, "cv": 0.0, "fraction": 0.9}, {"diameter_nm": 200.0, "cv": 0.0, "fraction": 0.1}]
    video, truth = simulate(sizes=sizes, particles_per_frame=60.0, brightness_exponent=6.0, seed=4, **SHORT)
    raw = ddm(video.frames, video.acquisition)
    seen = ddm(rendered(video.shape, *in_focus(truth), 1.5), video.acquisition, weighting="frames")
    assert raw.diameter_nm == pytest.approx(200.0, abs=4.0 * raw.diameter_error_nm)
    assert seen.diameter_nm == pytest.approx(88.0, abs=4.0 * seen.diameter_error_nm)
    assert raw.diameter_nm > 1.6 * seen.diameter_nm


def test_ddm_follows_a_flow():
    """A flow of 2 px per frame over a still background: 256 frames scatter by 6 %."""
    video, _ = simulate(
        sizes=ONE_SIZE, particles_per_frame=60.0, seed=6, flow_x_um_s=18.0, unevenness=0.3, stuck_particles=10, **SHORT
    )
    flow = np.full(255, 18.0 * FRAME_S / 0.3)
    followed = ddm(video.frames, video.acquisition, flow_x_px=flow)
    ignored = ddm(video.frames, video.acquisition)
    true = WATER_25 / 100.0
    assert followed.diffusion_um2_s == pytest.approx(true, rel=0.15)
    assert not ignored.diffusion_um2_s < 1.3 * true


def test_ddm_looks_at_the_longest_stretch_and_the_centre(videos):
    video, _ = videos[0]
    frames = np.zeros((700, 300, 280), np.uint8)
    frames[100:612, 22:278, 12:268] = video.frames
    whole = ddm(frames, replace(video.acquisition, cuts=(100, 612)))
    part = ddm(video.frames, video.acquisition)
    assert whole.diffusion_um2_s == part.diffusion_um2_s
    assert region(frames.shape, cuts=(100, 612)) == (slice(100, 612), slice(22, 278), slice(12, 268))


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((20, 64, 64), np.uint8),
        np.zeros((100, 24, 300), np.uint8),
        np.zeros((100, 128, 128), np.float32),
        np.random.default_rng(0).integers(0, 9, (100, 128, 128), np.uint8),
        np.zeros((0, 128, 128), np.uint8),
    ],
    ids=["short", "narrow", "empty", "noise", "nothing"],
)
def test_ddm_says_why_there_is_no_result(frames):
    result = ddm(frames, acquisition())
    assert np.isnan([result.diffusion_um2_s, result.diffusion_error_um2_s, result.diameter_nm]).all()
    assert result.reason
    assert not result.used.any()


@pytest.mark.parametrize(
    ("frames", "options", "word"),
    [
        (np.zeros((9, 9)), {}, "stack of images"),
        (np.full((70, 64, 64), np.nan), {}, "not finite"),
        (np.zeros((70, 64, 64)), {"flow_y_px": np.zeros(70)}, "flow_y_px"),
        (np.zeros((70, 64, 64)), {"weighting": "tracks"}, "weighting"),
    ],
)
def test_ddm_refuses(frames, options, word):
    with pytest.raises(InputError, match=word):
        ddm(frames, acquisition(), **options)


def test_rendered_movie_is_the_sum_of_its_gaussians():
    rng = np.random.default_rng(5)
    y, x, frame = rng.uniform(-5, 305, 30), rng.uniform(-5, 280, 30), rng.integers(0, 4, 30)
    movie = rendered((4, 300, 270), y, x, frame, 1.7)
    rows, columns = np.arange(22, 278)[:, None], np.arange(7, 263)[None, :]
    expected = np.zeros((4, 256, 256))
    for v, u, t in zip(y, x, frame, strict=True):
        expected[t] += np.exp(-((rows - v) ** 2 + (columns - u) ** 2) / (2 * 1.7**2))
    assert movie.dtype == np.float32
    assert movie == pytest.approx(expected, abs=1e-4)
    with pytest.raises(InputError, match="sigma_px"):
        rendered((4, 300, 270), y, x, frame, 0.1)
    with pytest.raises(InputError, match="columns"):
        rendered((4, 300, 270), y[:3], x, frame, 1.0)


# PICCS


def seen_spots(
    rng, diameters, *, shape=(480, 640), n_frames=200, seen=0.9, blur=1 / 12, sigma_um=0.03, flow=(0.0, 0.0)
):
    """Positions in px of particles that start in or around the frame and are each seen with probability `seen`."""
    path = positions(rng, WATER_25 / diameters, n_frames, blur=blur, sigma_um=sigma_um) / PIXEL_UM
    start = rng.uniform(-0.5, 1.5, (len(path), 1, 2)) * shape
    at = start + path + np.arange(n_frames)[:, None] * np.asarray(flow)
    frame = np.broadcast_to(np.arange(n_frames), at.shape[:2])
    probability = seen(at[..., 1]) if callable(seen) else seen
    kept = (rng.random(at.shape[:2]) < probability) & np.all((at > -0.5) & (at < np.array(shape) - 0.5), axis=2)
    return at[kept][:, 0], at[kept][:, 1], frame[kept]


def test_piccs_of_tracks_is_unbiased():
    """Eight videos of about 100 particles: each factor has a standard error of about 1 %, their mean 0.4 %."""
    ratio, error, again = [], [], []
    for seed in range(8):
        spots = seen_spots(np.random.default_rng(seed), np.full(400, 100.0))
        result = piccs(*spots, acquisition(1 / 12), [100.0], [1.0], position_error_um=0.03)
        ratio.append(result.diffusion_ratio)
        error.append(result.diffusion_ratio_error)
        again.append(result.found_again)
        assert not result.disagrees
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.012)
    assert np.std(ratio) == pytest.approx(np.mean(error), rel=0.6)
    assert np.mean(again) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("n", [12, 4000])
def test_piccs_takes_off_other_particles_in_sparse_and_dense_fields(n):
    """Three spots per frame, where every one counts in its own density, and a thousand, four to a Brownian step."""
    rng = np.random.default_rng(n)
    spots = seen_spots(rng, np.full(n, 100.0), n_frames=600 if n < 100 else 60, seen=1.0)
    result = piccs(*spots, acquisition(1 / 12), [100.0], [1.0], position_error_um=0.03)
    assert result.diffusion_ratio == pytest.approx(1.0, abs=3.5 * result.diffusion_ratio_error)
    assert result.found_again == pytest.approx(np.ones(3), abs=0.03)
    outer = result.seen[:, -1] - result.found_again
    assert np.abs(outer) == pytest.approx(np.zeros(3), abs=0.05)


def test_piccs_takes_an_uneven_field_as_it_is():
    """Spots are seen with a probability that falls from 1 to 0.2 across: α is its mean square over its mean."""
    rng = np.random.default_rng(8)
    spots = seen_spots(rng, np.full(1600, 100.0), n_frames=100, seen=lambda x: np.clip(1.0 - 0.8 * x / 640, 0.0, 1.0))
    result = piccs(*spots, acquisition(1 / 12), [100.0], [1.0], position_error_um=0.03)
    assert result.diffusion_ratio == pytest.approx(1.0, abs=0.03)
    assert result.found_again == pytest.approx(np.full(3, 0.689), abs=0.03)


def hiding(y, x, frame, px):
    """Without the second of two spots of a frame that are nearer than `px`."""
    kept = np.ones(len(y), bool)
    for t in np.unique(frame):
        here = np.flatnonzero(frame == t)
        pairs = cKDTree(np.stack([y[here], x[here]], 1)).query_pairs(px, output_type="ndarray")
        kept[here[pairs[:, 1]]] = False
    return y[kept], x[kept], frame[kept]


@pytest.mark.parametrize("diameter", [100.0, 200.0])
def test_piccs_allows_for_spots_that_hide_others(diameter):
    """A spot hides what is nearer than 1 µm, 4.5 % of the particles; unheeded, D would be 5 to 7 % too small."""
    ratio = []
    for seed in range(3):
        rng = np.random.default_rng(20 + seed)
        spots = hiding(*seen_spots(rng, np.full(1000, diameter), n_frames=100, seen=1.0), 1.0 / PIXEL_UM)
        ratio.append(piccs(*spots, acquisition(1 / 12), [diameter], [1.0], position_error_um=0.03).diffusion_ratio)
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.025)


def test_piccs_follows_a_flow_and_does_without_the_exposure():
    rng = np.random.default_rng(9)
    spots = seen_spots(rng, np.full(400, 100.0), flow=(1.5, -3.0), n_frames=120)
    flow = {"flow_y_px": np.full(119, 1.5), "flow_x_px": np.full(119, -3.0)}
    known = piccs(*spots, acquisition(1 / 12), [100.0], [1.0], position_error_um=0.03, **flow)
    blind = piccs(*spots, acquisition(None), [100.0], [1.0], position_error_um=0.03, **flow)
    wrong = piccs(*spots, acquisition(1 / 12), [100.0], [1.0], position_error_um=0.03)
    for result in (known, blind):
        assert result.diffusion_ratio == pytest.approx(1.0, abs=3.0 * result.diffusion_ratio_error)
        assert result.diffusion_ratio_error < 0.04
    assert wrong.disagrees


def test_piccs_tells_a_right_distribution_from_wrong_ones():
    """Half 100 nm and half 200 nm: their curve is neither that of the smaller ones nor that of 120 nm."""
    rng = np.random.default_rng(10)
    spots = seen_spots(rng, np.repeat([100.0, 200.0], 400), n_frames=150)
    a = acquisition(1 / 12)
    right = piccs(*spots, a, [100.0, 200.0], [0.5, 0.5], position_error_um=0.03)
    small = piccs(*spots, a, [100.0], [1.0], position_error_um=0.03)
    large = piccs(*spots, a, [100.0, 200.0], [0.2, 0.8], position_error_um=0.03)
    assert right.diffusion_ratio == pytest.approx(1.0, abs=3.0 * right.diffusion_ratio_error)
    assert not right.disagrees
    assert small.disagrees
    assert large.disagrees
    assert small.diffusion_ratio < 0.85
    assert large.diffusion_ratio > 1.15
    pull = np.abs(right.seen - right.predicted) / right.seen_error
    assert np.mean(pull[:, 5:] < 3.0) > 0.9
    assert np.max(np.abs(small.seen - small.predicted)) > np.max(np.abs(right.seen - right.predicted)) * 3.0


def test_piccs_of_simulated_videos(videos):
    """Truth of 60 particles with axial exchange: standard error about 2 % per video, and 20 % too small is caught."""
    results = [piccs(*in_focus(truth), video.acquisition, [100.0], [1.0]) for video, truth in videos]
    assert np.mean([r.diffusion_ratio for r in results]) == pytest.approx(1.0, abs=0.03)
    assert not any(r.disagrees for r in results)
    assert np.all([(np.diff(r.found_again) < 0).all() and 0.85 < r.found_again[-1] < 0.99 for r in results])
    wrong = [piccs(*in_focus(truth), video.acquisition, [125.0], [1.0]) for video, truth in videos]
    assert all(r.disagrees for r in wrong)


def test_piccs_does_not_cross_cuts():
    rng = np.random.default_rng(12)
    spots = seen_spots(rng, np.full(200, 100.0), n_frames=60, shape=(480, 640))
    a = replace(acquisition(1 / 12), cuts=tuple(range(1, 60)))
    assert "pairs of frames" in piccs(*spots, a, [100.0], [1.0]).reason
    half = piccs(*spots, replace(a, cuts=(30,)), [100.0], [1.0])
    assert half.n_pairs == 58


def test_piccs_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(13)
    spots = seen_spots(rng, np.full(200, 100.0), n_frames=60)
    shuffled = rng.permutation(len(spots[0]))
    one = piccs(*spots, acquisition(), [100.0], [1.0])
    other = piccs(*(column[shuffled] for column in spots), acquisition(), [100.0], [1.0])
    assert one.diffusion_ratio == pytest.approx(other.diffusion_ratio, rel=1e-12)


def test_piccs_says_why_there_is_no_result():
    for spots in (([], [], []), ([100.0] * 3, [100.0] * 3, [0, 1, 2]), ([1.0] * 90, [1.0] * 90, range(90))):
        result = piccs(*spots, acquisition(), [100.0], [1.0])
        assert np.isnan(result.diffusion_ratio)
        assert result.reason
        assert not result.disagrees
    rng = np.random.default_rng(1)
    unrelated = rng.uniform(0, 480, 40_000), rng.uniform(0, 640, 40_000), np.arange(40_000) % 200
    assert "not seen again" in piccs(*unrelated, acquisition(), [100.0], [1.0]).reason


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"y": [np.nan, 1.0]}, "finite"),
        ({"frame": [0, -1]}, "negative frames"),
        ({"x": [1.0]}, "shapes"),
        ({"share": [-1.0]}, "share"),
        ({"diameter_nm": [0.0]}, "diameter"),
        ({"position_error_um": -1.0}, "position_error_um"),
        ({"flow_x_px": [np.inf]}, "flow_x_px"),
    ],
)
def test_piccs_refuses(change, word):
    good = {"y": [1.0, 2.0], "x": [1.0, 2.0], "frame": [0, 1], "diameter_nm": [100.0], "share": [1.0]}
    with pytest.raises(InputError, match=word):
        piccs(acquisition=acquisition(), **{**good, **change})


# DLS


def test_log_normal_numbers_have_their_closed_form():
    d = np.geomspace(10.0, 3000.0, 2000)
    result = dls(d, np.exp(-0.5 * (np.log(d / 100.0) / 0.3) ** 2), form="rayleigh")
    assert result.z_average_nm.value == pytest.approx(100.0 * np.exp(5.5 * 0.3**2), rel=1e-3)
    assert result.pdi.value == pytest.approx(np.exp(0.3**2) - 1.0, rel=1e-3)
    assert np.isnan([result.z_average_nm.lo, result.pdi.hi]).all()


def test_form_factor_is_that_of_a_sphere():
    r = (np.arange(20000) + 0.5) / 20000
    for u in (1e-6, 0.03, 0.0499, 0.0501, 1.0, 4.0, 9.0):
        amplitude = 3.0 * np.mean(r**2 * np.sinc(u * r / np.pi))
        assert form_factor(np.array([u]))[0] == pytest.approx(amplitude**2, rel=1e-6)


def test_large_spheres_scatter_less_backwards():
    d, share = np.array([100.0, 300.0]), np.array([0.9, 0.1])
    u = 4.0 * np.pi * 1.33 * np.sin(np.radians(86.5)) / 633.0 * d / 2.0
    intensity = share * d**6 * (3.0 * (np.sin(u) - u * np.cos(u)) / u**3) ** 2
    sphere, rayleigh = dls(d, share), dls(d, share, form="rayleigh")
    assert sphere.z_average_nm.value == pytest.approx(intensity.sum() / np.sum(intensity / d), rel=1e-9)
    assert sphere.z_average_nm.value < rayleigh.z_average_nm.value
    forward = dls(d, share, angle_deg=1.0)
    assert forward.z_average_nm.value == pytest.approx(rayleigh.z_average_nm.value, rel=1e-3)


def test_intervals_are_those_of_the_replicates():
    rng = np.random.default_rng(1)
    d = np.geomspace(40.0, 400.0, 80)
    share = np.exp(-0.5 * (np.log(d / 100.0) / 0.3) ** 2)
    replicates = share * rng.gamma(5.0, 0.2, (200, 80))
    result = dls(d, share, replicates)
    each = np.array([(r.z_average_nm.value, r.pdi.value) for r in (dls(d, row) for row in replicates)])
    assert result.z_average_nm[1:] == pytest.approx(np.quantile(each[:, 0], [0.025, 0.975]), rel=1e-9)
    assert result.pdi[1:] == pytest.approx(np.quantile(each[:, 1], [0.025, 0.975]), rel=1e-9)


def test_one_size_has_its_own_diameter():
    result = dls([150.0], [1.0])
    assert result.z_average_nm.value == pytest.approx(150.0)
    assert result.pdi.value == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "options", "word"),
    [
        (([100.0], [0.5, 0.5]), {}, "share"),
        (([100.0], [0.0]), {}, "all zero"),
        (([100.0], [1.0], [[1.0, 2.0]]), {}, "replicates"),
        (([100.0], [1.0]), {"form": "mie"}, "form"),
        (([100.0], [1.0]), {"angle_deg": 0.0}, "angle_deg"),
        (([100.0], [1.0]), {"wavelength_nm": -1.0}, "wavelength_nm"),
    ],
)
def test_dls_refuses(arguments, options, word):
    with pytest.raises(InputError, match=word):
        dls(*arguments, **options)


# All three


def test_results_can_be_stored(videos):
    video, truth = videos[0]
    results = (
        ddm(video.frames[:80], video.acquisition),
        piccs(*in_focus(truth), video.acquisition, [100.0], [1.0]),
        dls([80.0, 100.0], [0.5, 0.5], [[0.5, 0.5], [0.4, 0.6]]),
    )
    for result in results:
        assert json.loads(json.dumps(asdict(result), default=lambda array: array.tolist()))
