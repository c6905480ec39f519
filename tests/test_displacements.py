"""Preparation of displacements: flow, stride, noise, stuck particles, starts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from brownian import FRAME_S, PIXEL_UM, acquisition, positions, simulated_tracks, to_tracks

from exotrack.diffusion import measure
from exotrack.displacements import displacements
from exotrack.displacements.flow import Flow, no_flow
from exotrack.displacements.noise import Steps, measure_noise
from exotrack.displacements.velocity import FlowBesideVelocities, without_mean_velocity
from exotrack.protocol import Protocol
from exotrack.tables import Tracks

D = 4.9
NO_FLOW = Protocol.from_dict({"link": {"flow": "none"}})
OWN = Protocol.from_dict({"diffusion": {"velocity": "track"}})
STEP = np.sqrt(2 * D * FRAME_S)  # s.d. of a displacement along an axis


def steps_per_track(d, axis):
    return np.split(axis, np.cumsum(d.n_steps)[:-1])


def test_steps_are_differences_in_micrometres_and_gaps_are_frames():
    rng = np.random.default_rng(0)
    path = positions(rng, [D, D], 6)
    keep = np.ones((2, 6), bool)
    keep[1, 2] = False
    d = displacements(to_tracks(path, [3, 7], keep=keep), acquisition(), NO_FLOW)
    assert d.first_frame.tolist() == [3, 7]
    assert d.n_steps.tolist() == [5, 4]
    assert d.gap.tolist() == [1] * 5 + [1, 2, 1, 1]
    np.testing.assert_allclose(steps_per_track(d, d.step_y_um)[0], np.diff(path[0, :, 0]), atol=1e-9)
    np.testing.assert_allclose(steps_per_track(d, d.step_x_um)[1], np.diff(path[1, [0, 1, 3, 4, 5], 1]), atol=1e-9)


@pytest.mark.parametrize("n_spots", [0, 1])
def test_no_track_gives_empty_arrays(n_spots):
    tracks = Tracks.empty() if n_spots == 0 else to_tracks(np.zeros((3, 1, 2)), [0, 1, 2])
    d = displacements(tracks, acquisition())
    assert len(d) == 0
    assert d.offsets.tolist() == [0]
    assert np.isnan(d.D_um2_s)


def test_flow_is_found_and_subtracted_and_costs_nothing_in_a_long_video():
    rng = np.random.default_rng(1)
    flow = np.cumsum(np.full((900, 2), [0.5, -0.2]), axis=0)
    d = displacements(simulated_tracks(rng, np.full(4000, D), 15, flow=flow), acquisition())
    assert d.flow.window == 899
    np.testing.assert_allclose([d.flow.y_um.mean(), d.flow.x_um.mean()], [0.5, -0.2], atol=0.02)
    assert d.D_um2_s == pytest.approx(D, rel=0.025)  # standard error 0.8 %
    assert d.diffusion_scale == pytest.approx(1.0, abs=1e-3)


def test_flow_none_leaves_displacements_alone():
    rng = np.random.default_rng(2)
    flow = np.cumsum(np.full((900, 2), 0.5), axis=0)
    d = displacements(simulated_tracks(rng, np.full(300, D), 15, flow=flow), acquisition(), NO_FLOW)
    assert not d.flow.y_um.any()
    assert d.step_y_um.mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("period", [6, 40])
def test_pulsating_flow_is_followed_and_its_subtraction_is_unbiased(period):
    """12 tracks in view: without correction, windows of 1 and 3–5 frames cost 8 and 2–6 % of D."""
    rng = np.random.default_rng(3)
    n_frames, n_spots, in_view = 900, 20, 12
    t = np.arange(n_frames)
    flow = np.stack([1.5 * np.sin(2 * np.pi * t / period), 0.3 * t], axis=1)
    first = np.repeat(np.arange(0, n_frames - n_spots + 1, n_spots), in_view)
    path = positions(rng, np.full(len(first), D), n_spots)
    d = displacements(to_tracks(path, first, flow=flow), acquisition())
    assert d.flow.window < 20
    raw = np.mean(d.step_y_um**2 + d.step_x_um**2) / (4 * FRAME_S)
    truth = np.mean(np.diff(path, axis=1) ** 2) / (2 * FRAME_S)  # of these very displacements: no sampling error
    assert raw < 0.993 * truth
    assert raw + d.flow.lost_covariance(0, raw, 0.0) == pytest.approx(truth, rel=0.005)
    assert d.D_um2_s == pytest.approx(D, rel=0.06)  # standard error 1.9 %


@pytest.mark.parametrize("window", [1, 3, 9])
def test_loss_to_the_flow_without_noise_is_the_own_share(window):
    flow = Flow(y_um=np.zeros(1000), x_um=np.zeros(1000), window=window, own_share=0.1 / window)
    assert flow.lost_diffusion(0.0, 0.0) == pytest.approx(0.1 / window)
    assert flow.lost_diffusion(1.0, 0.0) > flow.lost_diffusion(0.0, 0.0)


@pytest.mark.parametrize(("noise_ratio", "window"), [(0.0, 1), (1.0, 1), (0.3, 9)])
def test_likelihood_after_subtraction_of_the_flow_is_unbiased(noise_ratio, window):
    """Eight tracks per frame: the loss is up to 20 %, and the correction leaves under 2 %."""
    rng = np.random.default_rng(12)
    first = np.repeat(np.arange(0, 861, 41), 8)
    sigma = np.sqrt(noise_ratio * D * FRAME_S)
    error = np.where(sigma > 0, np.full(len(first), sigma), np.nan)
    ratio = []
    for _ in range(6):
        kicks = rng.normal(0, 1.5, (902 + window, 2))
        shake = np.apply_along_axis(np.convolve, 0, kicks, np.ones(window) / window, "valid").cumsum(axis=0)
        path = positions(rng, np.full(len(first), D), 41, sigma_um=sigma)
        still = measure(to_tracks(path, first, error_um=error), acquisition(), NO_FLOW)
        moving = measure(to_tracks(path, first, error_um=error, flow=shake), acquisition())
        ratio.append(np.mean(moving.D_um2_s) / np.mean(still.D_um2_s))
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("window", [1, 9])
def test_velocities_do_not_shake_the_flow(window):
    """Eight tracks in view that come and go: a flow fitted without their velocities left D 14 and 92 % too large."""
    rng = np.random.default_rng(18)
    ratio = []
    for _ in range(4):
        kicks = rng.normal(0, 1.5, (902 + window, 2))
        shake = np.apply_along_axis(np.convolve, 0, kicks, np.ones(window) / window, "valid").cumsum(axis=0)
        first = np.clip(np.repeat(np.arange(0, 859, 41), 8) + rng.integers(0, 41, 168), 0, 859)
        path = positions(rng, np.full(168, D), 41)
        moving = path + STEP * rng.normal(size=(168, 1, 2)) * np.arange(41)[:, None]
        still = displacements(to_tracks(path, first), acquisition(), NO_FLOW)
        d = displacements(to_tracks(moving, first, flow=shake), acquisition(), OWN)
        assert d.stride == 1
        ratio.append(d.D_um2_s / still.D_um2_s)
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.03)


def test_what_is_constant_over_a_track_costs_no_diffusion_where_velocities_are_fitted():
    flow = {"y_um": np.zeros(1000), "x_um": np.zeros(1000), "own_share": 0.01}
    whole = FlowBesideVelocities(**flow, window=1000, n_steps=20)
    frame = FlowBesideVelocities(**flow, window=1, n_steps=20)
    assert whole.lost_diffusion(0.3, 0.1) == pytest.approx(0.0, abs=1e-12)
    assert whole.lost_covariance(0, 1.0, 0.1) == pytest.approx(0.0, abs=1e-12)
    assert frame.lost_diffusion(0.0, 0.0) == pytest.approx(0.01)
    assert frame.lost_covariance(0, 1.0, 0.0) == pytest.approx(0.95 * 0.01 / 0.99)


@pytest.mark.parametrize("n_steps", [2, 3, 5, 20])
def test_covariances_about_the_mean_velocity_are_those_of_dense_algebra(n_steps):
    rng = np.random.default_rng(n_steps)
    gap = rng.integers(1, 4, n_steps)
    used = gap < 3
    a, b = 1.7, -0.4
    c = np.diag(a + (gap - 1) * (a + 2 * b)) + b * (np.eye(n_steps, k=1) + np.eye(n_steps, k=-1))
    about = np.eye(n_steps) - np.outer(gap, np.ones(n_steps)) / gap.sum()
    expected = about @ c @ about.T
    both = used[1:] & used[:-1]
    step = rng.normal(size=n_steps)
    y, x, matrix = without_mean_velocity(step, -step, gap, np.zeros(n_steps, int), 1, used)
    np.testing.assert_allclose(y, about @ step, atol=1e-12)
    np.testing.assert_allclose(x, -y, atol=1e-12)
    square, product = matrix[0] @ [a, b]
    assert square == pytest.approx(np.diag(expected)[used].sum())
    assert product == pytest.approx(np.diag(expected, 1)[both].sum())


@pytest.mark.parametrize("speed", [0.0, 1.0])
def test_noise_and_pooled_diffusion_are_free_of_own_velocities(speed):
    """6000 tracks of 10 displacements, σ²/(DΔt) = 0.3, R = 1/6: standard errors 0.9 % of D, 1.3 % of the variance."""
    rng = np.random.default_rng(19)
    sigma = np.sqrt(0.3 * D * FRAME_S)
    path = positions(rng, np.full(6000, D), 11, blur=1 / 6, sigma_um=sigma)
    path = path + speed * STEP * rng.normal(size=(6000, 1, 2)) * np.arange(11)[:, None]
    d = displacements(to_tracks(path, rng.integers(1, 880, 6000)), acquisition(1 / 6), OWN)
    assert d.stride == 1
    assert d.D_um2_s == pytest.approx(D, abs=3.5 * d.D_err_um2_s)
    assert d.D_err_um2_s < 0.011 * D
    assert d.noise.variance_y.mean() == pytest.approx(sigma**2, rel=0.05)
    assert d.anisotropy == pytest.approx(1.0, abs=0.06)


def test_images_carried_over_are_found_beside_velocities():
    rng = np.random.default_rng(20)
    seen = positions(rng, np.full(700, D), 90)
    for i in range(1, seen.shape[1]):
        seen[:, i] = 0.4 * seen[:, i - 1] + 0.6 * seen[:, i]
    moving = seen[:, 10:] + 0.3 * STEP * rng.normal(size=(700, 1, 2)) * np.arange(80)[:, None]
    d = displacements(to_tracks(moving, rng.integers(1, 800, 700)), acquisition(None), OWN)
    assert 3 <= d.stride <= 8
    assert d.D_um2_s == pytest.approx(D, rel=0.05)  # standard error 1.5 %


def test_localization_error_is_recovered_per_brightness_class():
    rng = np.random.default_rng(4)
    n = 3000
    true, claimed = np.repeat([0.15, 0.05], n), np.repeat([0.10, 0.05], n)
    path = positions(rng, np.full(2 * n, 1.0), 15, sigma_um=true)
    tracks = to_tracks(path, rng.integers(1, 880, 2 * n), error_um=claimed, mass=np.repeat([50.0, 500.0], n))
    d = displacements(tracks, acquisition())
    half = len(d.noise.error_scale) // 2
    assert half == 5
    np.testing.assert_allclose(d.noise.error_scale[:half], 2.25, rtol=0.15)  # standard error 4 % per class
    np.testing.assert_allclose(d.noise.error_scale[half:], 1.0, atol=0.6)  # standard error 20 %
    spots = np.arange(d.offsets[-1]) < d.offsets[n]
    assert np.sqrt(d.noise.variance_y[spots].mean()) == pytest.approx(0.15, rel=0.03)  # standard error 0.9 %


@pytest.mark.parametrize(("sigma", "blur"), [(0.0, 1 / 6), (0.25, 1 / 6), (0.5, 0.05)])
def test_unknown_exposure_reproduces_the_covariance_that_is_there(sigma, blur):
    rng = np.random.default_rng(5)
    tracks = simulated_tracks(rng, np.full(2500, D), 20, blur=blur, sigma_um=sigma)
    d = displacements(tracks, acquisition(None))
    expected = 2 * blur * D * FRAME_S - sigma**2
    modelled = 2 * d.noise.blur.mean() * D * FRAME_S - d.noise.variance_y.mean()
    assert modelled == pytest.approx(expected, abs=0.06 * D * FRAME_S)  # standard error 0.01 to 0.02
    assert d.D_um2_s == pytest.approx(D, rel=0.04)  # standard error 0.9 to 1.5 %
    assert np.all(d.noise.blur <= 1 / 6)
    assert np.all(d.noise.variance_y >= 0)


def steps_with_covariance(c0, c1):
    """One track of two displacements whose mean square and mean product per axis are exactly these."""
    total, apart = np.sqrt(2 * (c0 + c1)), np.sqrt(2 * (c0 - c1))
    a, b = (total + apart) / 2, (total - apart) / 2
    return Steps(np.array([a, b]), np.array([b, a]), np.arange(2), np.zeros(2, int), 1)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize(("blur", "variance"), [(0.03, 0.0), (0.12, 0.0), (1 / 6, 0.0), (0.0, 0.0), (0.0, 0.2)])
def test_unknown_exposure_without_sampling_error_is_solved_exactly(stride, blur, variance):
    scale = D * FRAME_S
    c0, c1 = 2 * scale * (stride - 2 * blur) + 2 * variance, 2 * blur * scale - variance
    unknown = np.full(3, np.nan)
    noise = measure_noise(
        steps_with_covariance(c0, c1),
        unknown,
        unknown,
        np.ones(1),
        np.array([0, 3]),
        no_flow(3),
        blur=None,
        stride=stride,
    )
    np.testing.assert_allclose(noise.blur, blur, atol=1e-12)
    np.testing.assert_allclose(noise.variance_y, variance, atol=1e-12)
    np.testing.assert_allclose(noise.variance_x, variance, atol=1e-12)


def test_pooled_error_and_anisotropy_of_tracks_of_equal_length_are_plain_statistics():
    """The pooled D is then the mean over tracks, its error the s.d. over the root of their number."""
    rng = np.random.default_rng(16)
    path = positions(rng, rng.uniform(2.0, 8.0, 150), 12, sigma_um=0.1)
    path[..., 0] = 1.2 * path[..., 1]
    d = displacements(to_tracks(path, rng.integers(1, 800, 150)), acquisition(), NO_FLOW)
    step = np.diff(path, axis=1)
    of_track = (np.mean(step**2, axis=(1, 2)) / 2 + np.mean(step[:, 1:] * step[:, :-1], axis=(1, 2))) / FRAME_S
    assert d.D_um2_s == pytest.approx(of_track.mean())
    assert d.D_err_um2_s == pytest.approx(of_track.std() / np.sqrt(150))
    assert d.anisotropy == pytest.approx(1.2**2)


def test_pooled_error_is_the_spread_of_independent_videos():
    """1500 videos: the s.d. of z has a standard error of 1.8 %."""
    rng = np.random.default_rng(17)
    z = []
    for _ in range(1500):
        d = displacements(simulated_tracks(rng, np.full(60, D), 12, sigma_um=0.1), acquisition(), NO_FLOW)
        z.append((d.D_um2_s - D) / d.D_err_um2_s)
    assert np.std(z) == pytest.approx(1.0, abs=0.06)


def test_images_carried_over_are_found_and_stepped_over():
    """A recursive temporal filter hides half of the motion from short lags; its gain at frequency zero is one."""
    rng = np.random.default_rng(6)
    seen = positions(rng, np.full(700, D), 60)
    for i in range(1, seen.shape[1]):
        seen[:, i] = 0.4 * seen[:, i - 1] + 0.6 * seen[:, i]
    tracks = to_tracks(seen[:, 10:], rng.integers(1, 800, 700))
    d = displacements(tracks, acquisition(None))
    assert 3 <= d.stride <= 8  # 0.4³ of a displacement is left after three frames, 0.4⁸ is beyond notice
    assert d.D_um2_s == pytest.approx(D, rel=0.04)  # standard error 1 %
    assert d.D_err_um2_s < 0.02 * D
    assert d.n_frames.sum() == len(tracks)
    assert np.all(np.diff(d.particle) >= 0)
    assert np.all(d.gap % d.stride == 0)


@pytest.mark.parametrize("blur", [0.0, 1 / 6])
def test_otherwise_every_frame_is_used(blur):
    rng = np.random.default_rng(7)
    d = displacements(simulated_tracks(rng, np.full(700, D), 50, blur=blur, sigma_um=0.05), acquisition(blur))
    assert d.stride == 1
    assert len(np.unique(d.particle)) == len(d)


def test_stuck_particles_are_told_from_slow_ones():
    rng = np.random.default_rng(8)
    still = np.zeros((50, 60, 2)) + 0.03 * rng.normal(size=(50, 60, 2))
    slow = positions(rng, np.full(500, 0.1), 60, sigma_um=0.03)  # σ²/(DΔt) = 0.27
    d = displacements(to_tracks(np.concatenate([still, slow]), np.full(550, 5)), acquisition())
    assert d.stuck[:50].mean() > 0.95
    assert not d.stuck[50:].any()


def test_starts_count_inside_the_frame_and_not_at_the_beginning():
    path = np.zeros((4, 5, 2))
    path[2] += [-35.0, 0.0]  # near the upper border: 5 µm inside
    d = displacements(to_tracks(path, [0, 10, 10, 450]), acquisition(cuts=(450,)), NO_FLOW)
    assert d.start_margin_um[0] == -1.0
    assert d.start_margin_um[1] == pytest.approx(479 * PIXEL_UM - 40.0, abs=1e-6)
    assert d.start_margin_um[2] == pytest.approx(5.0)
    assert d.start_margin_um[3] == -1.0


def test_pieces_of_one_identity_share_start_and_span():
    tracks = to_tracks(np.zeros((2, 5, 2)), [10, 15])
    one = Tracks(
        **{name: getattr(tracks, name) for name in Tracks.columns() if name != "identity"}, identity=np.zeros(10, int)
    )
    d = displacements(one, acquisition(), NO_FLOW)
    assert d.span.tolist() == [10, 10]
    assert d.start_margin_um[0] == d.start_margin_um[1] > 0


def test_tables_from_trackpy_are_put_in_order():
    frame = pd.DataFrame(
        {"frame": [1, 0, 0, 1], "particle": [0, 0, 3, 3], "y": [2.0, 1.0, 9.0, 9.5], "x": [0.0, 0.0, 5.0, 5.5]}
    )
    frame.index = pd.Index([1, 0, 0, 1], name="frame")  # as trackpy leaves it
    tracks = Tracks.from_pandas(frame)
    assert tracks.identity.tolist() == [0, 0, 3, 3]
    assert tracks.y.tolist() == [1.0, 2.0, 9.0, 9.5]
    d = displacements(tracks, acquisition(), NO_FLOW)
    np.testing.assert_allclose(d.step_y_um, [PIXEL_UM, 0.5 * PIXEL_UM])
