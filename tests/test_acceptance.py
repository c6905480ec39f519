"""The whole path at full size: accuracy on a simulated instrument video, and a real video with a known diameter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

import exotrack as et

BULK_WATER = Path(__file__).parents[2] / "shared" / "data" / "bulk_water_120frames.tif"


@pytest.fixture(scope="module")
def analysed():
    """400 frames of 640×480 px, 60 particles of 100 nm, signal-to-noise ratios from about 5 to 30."""
    video, truth = et.simulate(
        n_frames=400, snr=12.0, brightness_cv=0.5, sizes=[{"diameter_nm": 100.0, "cv": 0.0}], seed=23
    )
    spots = et.localize(video)
    return video, truth, spots, et.link(spots, video.acquisition)


def test_particles_in_focus_are_found_near_the_cramer_rao_bound(analysed):
    """24,000 particles: recall and precision have standard errors below 0.1 %, the median error about 1 %."""
    video, truth, spots, _ = analysed
    p = truth.positions
    found = wanted = right = 0
    ratios = []
    for t in range(video.shape[0]):
        here, there = p.frame == t, spots.frame == t
        places, at = np.stack([p.y[here], p.x[here]], 1), np.stack([spots.y[there], spots.x[there]], 1)
        inside = (places > 0).all(axis=1) & (places < np.array(video.shape[1:]) - 1).all(axis=1)
        distance, nearest = cKDTree(at).query(places)
        clear = p.in_focus[here] & inside & (p.snr[here] >= 5.0)
        hit = clear & (distance < 3.0)
        found, wanted = found + hit.sum(), wanted + clear.sum()
        right += np.sum(cKDTree(places).query(at)[0] < 3.0)
        bound = np.stack([p.y_crlb_px[here], p.x_crlb_px[here]], 1)
        ratios.append(np.abs(at[nearest[hit]] - places[hit]) / bound[hit])
    assert found / wanted >= 0.95
    assert right / len(spots) >= 0.98
    assert np.median(np.concatenate(ratios)) / 0.6745 <= 1.15


def test_ensemble_diffusion_is_right(analysed):
    """About 550 tracks of 28 steps: standard error 1.1 %."""
    video, _, _, tracks = analysed
    particles = et.measure(tracks, video.acquisition)
    used = particles.n_steps >= 4
    ensemble = np.average(particles.D_um2_s[used], weights=particles.n_steps[used])
    assert ensemble * 100.0 == pytest.approx(video.acquisition.stokes_einstein_um2_s_nm, rel=0.02)


@pytest.mark.filterwarnings("ignore")  # trackpy's own
def test_trackpys_emsd_takes_the_tracks_and_agrees(analysed):
    trackpy = pytest.importorskip("trackpy")
    video, _, _, tracks = analysed
    a = video.acquisition
    msd = trackpy.emsd(tracks.to_pandas(), a.pixel_size_um, 1 / a.frame_interval_s, max_lagtime=3)
    slope = float(np.polyfit(msd.index, msd.to_numpy(), 1)[0]) / 4  # blur and noise are in the intercept
    assert slope == pytest.approx(a.stokes_einstein_um2_s_nm / 100.0, rel=0.05)


@pytest.mark.skipif(not BULK_WATER.exists(), reason="the real video is kept beside the project, not in it")
def test_real_latex_spheres_have_their_diameter(tmp_path):
    """1 µm spheres, dark on an uneven background, dense, compressed, exposure unknown; 20 °C."""
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(
        f"video,batch,sample,pixel_size_um,fps,temperature_c\n{BULK_WATER},latex,a,{1 / 2.85},24,20\n", encoding="utf-8"
    )
    results = et.run(sheet, out=tmp_path / "out")
    batch = results.batches.iloc[0]
    for name in ("pooled_nm", "d50_nm"):
        assert batch[name] == pytest.approx(1000.0, rel=0.05)
        assert batch[f"{name}_lo"] <= 1000.0 <= batch[f"{name}_hi"]
