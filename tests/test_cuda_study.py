"""Whole videos and a whole study on CUDA against the CPU backend, and what happens when the device is full or fails."""

import logging
from collections import Counter

import numpy as np
import pytest
from conftest import use_cuda
from host_device import FailureError, HostRuntime, NoMemoryError

import exotrack as et
from exotrack import backends
from exotrack.backends.cuda import device
from exotrack.errors import DeviceError, DeviceLostError, DeviceMemoryError
from exotrack.localize import localize
from exotrack.localize.pieces import in_pieces

COLUMNS = ("y", "x", "mass", "background", "noise", "snr", "sigma", "y_err", "x_err")


@pytest.fixture(scope="module")
def video():
    """60 frames of 96×112 px with about 20 particles, and its spots on the CPU."""
    seen, _ = et.simulate(frame_shape=(96, 112), n_frames=60, particles_per_frame=20.0, snr=9.0, seed=3)
    return seen, localize(seen, backend="cpu")


def unchecked():
    """A protocol without injected spots: for them videos are localized again and again, too slow without a device."""
    protocol = et.Protocol()
    return protocol.model_copy(update={"check": protocol.check.model_copy(update={"detection_limit": False})})


def same(ours, theirs):
    """Whether two tables of localizations are the same bytes."""
    return all(np.array_equal(getattr(ours, c), getattr(theirs, c)) for c in ("frame", "flag", *COLUMNS))


def assert_agree(ours, theirs):
    """The same detections, positions to a thousandth of a pixel.

    One fit in some thousand, of a spot beside a brighter one or at the border, does not converge in 15 steps and
    magnifies the last bit of a sum; it moves as much on the CPU when the last bit of the background changes. Such spots
    agree to a fifth of their own stated error.
    """
    assert np.array_equal(ours.frame, theirs.frame)
    assert np.array_equal(ours.flag, theirs.flag)
    apart = np.maximum(np.abs(ours.y - theirs.y), np.abs(ours.x - theirs.x))
    well = apart < 1e-3
    assert np.mean(~well) < 1e-3
    assert (apart < 0.2 * np.minimum(theirs.y_err, theirs.x_err))[~well].all()
    for column in COLUMNS[2:]:
        one, other = getattr(ours, column)[well], getattr(theirs, column)[well]
        assert np.mean(~np.isclose(one, other, rtol=2e-3, atol=2e-3)) < 1e-3, column


def test_a_study(study, tmp_path, monkeypatch):
    use_cuda(monkeypatch)
    ours = et.run(study, tmp_path / "cuda", unchecked(), backend="cuda", workers=2)
    theirs = et.run(study, tmp_path / "cpu", unchecked(), backend="cpu", workers=2)
    assert ours.run["backend"] == "cuda"
    n_spots = n_tracks = 0
    for name in theirs.video_ids:
        assert_agree(ours.localizations(name), theirs.localizations(name))
        one, other = ours.tracks(name), theirs.tracks(name)
        assert np.array_equal(one.particle, other.particle)  # the same links
        assert np.array_equal(one.frame, other.frame)
        one, other = ours.particles(name), theirs.particles(name)
        assert np.allclose(one["D_um2_s"], other["D_um2_s"], rtol=1e-3, atol=0)
        n_spots, n_tracks = n_spots + len(theirs.localizations(name)), n_tracks + len(other)
    assert n_spots > 5000
    assert n_tracks > 200


def test_blocks_and_threads_do_not_change_a_byte(video, monkeypatch):
    seen, theirs = video
    use_cuda(monkeypatch)
    whole = localize(seen, backend="cuda", model=theirs.model)
    assert_agree(whole, theirs)
    for block_frames, threads in ((7, 1), (1, 4), (60, 2)):
        again = localize(seen, backend="cuda", model=theirs.model, block_frames=block_frames, threads=threads)
        assert same(whole, again)


def test_frames_are_uploaded_once(video, host, monkeypatch):
    seen, theirs = video
    host()
    uploaded = []
    put = device.Lane.put

    def counted(lane, array):
        if isinstance(array, np.ndarray) and array.dtype == np.uint8 and array.shape[1:] == seen.shape[1:]:
            uploaded.append(len(array))
        return put(lane, array)

    monkeypatch.setattr(device.Lane, "put", counted)
    localize(seen, backend="cuda", model=theirs.model, block_frames=25)
    assert [n for n in uploaded if n > 1] == [25, 25, 10]  # the noise is learned from single ones


def test_a_full_device_takes_less_at_a_time(video, host, caplog):
    seen, theirs = video
    roomy = host()
    whole = localize(seen, backend="cuda", model=theirs.model, threads=1, block_frames=60)
    room = roomy.most_used // 2
    narrow = host(room=room)
    with caplog.at_level(logging.INFO, "exotrack"):
        again = localize(seen, backend="cuda", model=theirs.model, threads=1, block_frames=60)
    assert same(whole, again)
    assert narrow.most_used <= room
    assert "in halves" in caplog.text


def test_a_device_without_room_for_a_frame(video, host):
    seen, theirs = video
    host(room=30_000)
    with pytest.raises(DeviceMemoryError, match="has no memory left"):
        localize(seen, backend="cuda", model=theirs.model)


def test_a_failure_is_tried_again_on_the_device_once(video, host, caplog, monkeypatch):
    seen, theirs = video
    host()
    whole = localize(seen, backend="cuda", model=theirs.model)
    counts = Counter()

    def fail_once(operation, entry):
        counts[entry] += 1
        if (entry, counts[entry]) in (("fit", 1), ("fit", 7)):  # of the noise, and of a block
            raise FailureError("an illegal memory access")

    host(fail=fail_once)
    monkeypatch.setattr("exotrack.backends.cpu.detect", None)  # never on the CPU
    again = localize(seen, backend="cuda", model=theirs.model)
    assert same(whole, again)
    words = "once more: refine failed on host build: an illegal memory access"
    assert [record.message.split(words)[0] for record in caplog.records] == [
        "noise of frames 0 to 59 ",
        "frames 0 to 59 ",
    ]


def test_a_second_failure_is_final(video, host):
    seen, theirs = video

    def fail(operation, entry):
        if operation == "detect":
            raise FailureError("the device is lost")

    host(fail=fail)
    with pytest.raises(DeviceError, match="detect failed on host build: the device is lost; see what nvidia-smi says"):
        localize(seen, backend="cuda", model=theirs.model)


def test_a_lost_device_is_not_asked_again(video, host):
    seen, theirs = video
    runtime, asked = host(), Counter()

    def lose(operation, entry):
        asked[operation] += 1
        if operation == "detect":
            runtime.lost = True
            raise FailureError("an illegal memory access")

    runtime.fail = lose
    words = "detect failed on host build: an illegal memory access; see what nvidia-smi says, and start again"
    for _ in range(2):
        with pytest.raises(DeviceLostError, match=words):
            localize(seen, backend="cuda", model=theirs.model)
    assert asked["detect"] == 1


def test_a_video_fails_alone(study, tmp_path, host):
    calls = []

    def fail(operation, entry):
        if operation == "likelihood":
            calls.append(entry)
            if len(calls) == 1:
                raise FailureError("an uncorrectable memory error")

    host(fail=fail)
    results = et.run(study, tmp_path / "out", unchecked(), backend="cuda", workers=1)
    assert len(results.failures) == 1
    assert "an uncorrectable memory error" in next(iter(results.failures.values()))["reason"]


def test_pieces_in_order():
    done, room = [], []

    def work(first, last):
        if last - first > 3:
            raise DeviceMemoryError("full")
        done.append((first, last))
        return first

    assert in_pieces(work, 0, 10, make_room=lambda: room.append(1)) == [0, 2, 5, 7]
    assert done == [(0, 2), (2, 5), (5, 7), (7, 10)]
    assert room


def test_backends_offer_the_same(monkeypatch):
    use_cuda(monkeypatch)
    names = {name for name in vars(backends.contract.Backend) if not name.startswith("_")}
    for backend in ("cpu", "cuda"):
        module = backends.load(backend)
        offered = {n for n, value in vars(module).items() if not n.startswith("_") and not hasattr(value, "__path__")}
        offered = {n for n in offered if type(vars(module)[n]).__name__ != "module"}
        assert offered == names


def test_auto_is_the_device_where_there_is_one(monkeypatch):
    monkeypatch.setattr(backends, "why_no_cuda", lambda: None)
    assert backends.resolve("auto") == "cuda"
    monkeypatch.setattr(backends, "why_no_cuda", lambda: "there is none")
    assert backends.resolve("auto") == "cpu"


def test_no_memory_is_an_error_of_memory():
    assert HostRuntime().short_of_memory(NoMemoryError())
    assert not HostRuntime().short_of_memory(FailureError())
