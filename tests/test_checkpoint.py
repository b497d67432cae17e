"""Checkpoints: a run that was stopped in any way ends like one that was not, bit for bit; bad files are left alone."""

import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import extras.record
import gradient_flossing_example as port
from extras.checkpoint import CheckpointError
from extras.lyapunov import Diagnostics
from extras.record import load_record
from gradient_flossing_example import train_rnn_flossing
from tests.conftest import README_CALL, ROOT, short_call

CALL = short_call(E=120, Ef=30, Ei=10, Ep=20, Ni=3)
STEPS = 120 + 20 + 3 * 10


def train(path=None, every=7, **options):
    return train_rnn_flossing(**CALL, progress=False, checkpoint=path, checkpoint_every=every, **options)


@pytest.fixture(scope="module")
def uninterrupted():
    return train()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Content of a checkpoint in the middle of a run."""
    path = tmp_path_factory.mktemp("checkpoint") / "run.npz"
    interrupt_at(path, 60)
    return path.read_bytes()


def interrupt_at(path, call, **options):
    """Record of a run in which Ctrl-C is pressed at the given call of generate_input_output."""
    right, calls = port.generate_input_output, 0

    def pressing(*args):
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(signal.SIGINT)
        return right(*args)

    port.generate_input_output = pressing
    try:
        return train(path, **options)
    finally:
        port.generate_input_output = right


def test_checkpoints_change_no_number_and_a_finished_run_is_given_back_at_once(tmp_path, uninterrupted):
    path = tmp_path / "run.npz"
    assert train(path) == uninterrupted
    assert train(path) == uninterrupted
    assert list(tmp_path.iterdir()) == [path]


# one in preflossing, right after it, in training, in a block, in the last epoch
@pytest.mark.parametrize("call", [1, 5, 20, 21, 22, 40, 50, 53, 61, 100, STEPS - 1])
def test_ctrl_c_gives_the_record_so_far_and_the_same_call_goes_on(call, tmp_path, uninterrupted):
    path = tmp_path / "run.npz"
    part = interrupt_at(path, call)
    done = len(part.loss) + len(part.flossing_loss)
    assert part.interrupted and done == call
    np.testing.assert_array_equal(part.loss, uninterrupted.loss[: len(part.loss)])
    assert train(path) == uninterrupted


def test_ctrl_c_without_a_checkpoint_gives_the_record_so_far(uninterrupted):
    part = interrupt_at(None, 70)
    assert part.interrupted and 0 < len(part.loss) < 120
    assert part != uninterrupted and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_interrupted_again_and_again(tmp_path, uninterrupted):
    path = tmp_path / "run.npz"
    for _ in range(10):
        assert interrupt_at(path, 16).interrupted
    assert train(path) == uninterrupted


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_killed_at_twenty_random_moments_it_goes_on_to_the_same_end(tmp_path, uninterrupted):
    rng = np.random.default_rng()
    duration = max(uninterrupted.elapsed_time, 0.05)
    for attempt in range(20):
        path = tmp_path / f"{attempt}.npz"
        process = multiprocessing.get_context("fork").Process(target=train, args=(path, 2))
        process.start()
        time.sleep(rng.uniform(0.0, 1.5 * duration))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert train(path, 2) == uninterrupted
        assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("engine", ["adjoint", "autograd"])
def test_with_diagnostics_and_either_engine(engine, tmp_path):
    options = dict(engine=engine, diagnostics=Diagnostics(True, (5, 15), (3, 9)))
    small = short_call(E=20, Ef=5, Ei=2, Ep=4, Ni=3)
    whole = train_rnn_flossing(**small, progress=False, **options)
    right = CALL.copy()
    try:
        CALL.update(small)
        path = tmp_path / "run.npz"
        assert interrupt_at(path, 16, **options).interrupted
        assert train(path, **options) == whole
    finally:
        CALL.update(right)


# ------------------------------------------------------------------ files that are not this run's


def refused(path, message, **options):
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=message):
        train(path, **options)
    assert path.read_bytes() == before


def test_a_damaged_file_is_refused_and_left_alone(saved, tmp_path):
    """What damage is recognised: test_record.py."""
    path = tmp_path / "run.npz"
    middle = len(saved) // 2
    for damaged in (b"", saved[:middle], saved[:-1], saved[:middle] + bytes([saved[middle] ^ 1]) + saved[middle + 1 :]):
        path.write_bytes(damaged)
        refused(path, "damaged")


def test_a_foreign_file_is_refused_and_left_alone(tmp_path, uninterrupted):
    path = tmp_path / "run.npz"
    path.write_text("important notes\n")
    refused(path, "damaged, or not written by this program")
    np.savez(path, loss=np.ones(3))
    refused(path, "damaged, or not written by this program")
    uninterrupted.save(path)
    refused(path, "gradient flossing checkpoint")


def test_each_other_argument_is_named(saved, tmp_path):
    path = tmp_path / "run.npz"
    path.write_bytes(saved)
    for name, value in dict(E=121, delay=6, sIn=2, lr=0.002, g=1.1, Lwnt=0.1, nLE=9).items():
        with pytest.raises(CheckpointError, match=f"{name} = {CALL[name]} there, {value} here"):
            train_rnn_flossing(**CALL | {name: value}, progress=False, checkpoint=path)
    refused(path, "engine = 'adjoint' there, 'autograd' here", engine="autograd")
    refused(path, "diagnostics = .* there, .* here", diagnostics=Diagnostics(True))
    refused(path, "initial J given for one of the two only", initial={"J": np.ones((16, 16))})
    assert path.read_bytes() == saved


def test_other_initial_arrays_are_refused_and_the_same_go_on(tmp_path):
    path, b = tmp_path / "run.npz", np.full(16, 0.1)
    whole = train(initial={"b": b})
    assert interrupt_at(path, 60, initial={"b": b}).interrupted
    refused(path, "initial b differs in 16 of 16 entries", initial={"b": 2 * b})
    assert train(path, initial={"b": b}) == whole


# ------------------------------------------------------------------ disks


def test_a_disk_that_fills_up_during_the_run(tmp_path, uninterrupted, monkeypatch):
    right, calls = os.fsync, 0

    def full_after_three(descriptor):
        nonlocal calls
        calls += 1
        if calls > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return right(descriptor)

    path = tmp_path / "run.npz"
    monkeypatch.setattr(extras.record.os, "fsync", full_after_three)
    with pytest.warns(RuntimeWarning, match="No space left.*the run goes on") as warned:
        with pytest.raises(CheckpointError, match="No space left") as stopped:
            train(path)
    assert len(warned) == 1 and stopped.value.record == uninterrupted
    assert calls > 5 and list(tmp_path.iterdir()) == [path]  # it tried again, and left no temporary files
    monkeypatch.undo()
    assert train(path) == uninterrupted  # from the last save that there was room for


def test_a_disk_that_is_full_from_the_start_is_said_at_the_start(tmp_path, monkeypatch, capsys):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(extras.record.os, "fsync", full)
    with pytest.raises(CheckpointError, match="^checkpoint.*cannot be written.*No space left"):
        train_rnn_flossing(**CALL, checkpoint=tmp_path / "run.npz")
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())


def test_a_finished_run_says_so(tmp_path, capsys):
    path = tmp_path / "run.npz"
    train(path)
    train_rnn_flossing(**CALL, checkpoint=path)
    output = capsys.readouterr().out
    assert f"already finished: {path}" in output and "going on" not in output


def test_ctrl_c_says_how_far_the_run_came_and_how_to_go_on(tmp_path, capsys, monkeypatch):
    right = port.Run.step_done
    monkeypatch.setattr(port.Run, "step_done", lambda run, ei, i: (signal.raise_signal(signal.SIGINT) if ei == 5 else None, right(run, ei, i)))
    train_rnn_flossing(**CALL, checkpoint=tmp_path / "run.npz")
    assert f"interrupted after 4 of 120 epochs; the same call goes on from {tmp_path / 'run.npz'}" in capsys.readouterr().err
    assert train_rnn_flossing(**CALL).interrupted
    assert "interrupted after 4 of 120 epochs; with checkpoint=FILE the same call can go on" in capsys.readouterr().err


def test_ctrl_c_pressed_again_and_again_during_a_save_takes_effect_after_it(tmp_path, uninterrupted, monkeypatch):
    right, calls = os.fsync, 0

    def pressing(descriptor):
        nonlocal calls
        calls += 1
        if calls == 8:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return right(descriptor)

    path = tmp_path / "run.npz"
    monkeypatch.setattr(extras.record.os, "fsync", pressing)
    assert train(path).interrupted
    assert list(tmp_path.iterdir()) == [path]
    assert train(path) == uninterrupted
    calls = 7
    with pytest.raises(KeyboardInterrupt):
        uninterrupted.save(path)
    assert load_record(path) == uninterrupted and list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------ from the command line


def test_ctrl_c_on_the_command_line_exits_130_and_the_same_command_goes_on(tmp_path):
    small = "--N 16 --E 3000 --Ef 700 --Ei 5 --Ep 5 --B 4 --T 40 --Tp 30 --Ti 40 --delay 5 --nLE 10".split()
    command = [sys.executable, "-u", str(ROOT / "gradient_flossing_example.py"), *small, "--out", str(tmp_path / "out")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    whole = load_record(tmp_path / "out" / "record.npz")
    (tmp_path / "out" / "record.npz").unlink()

    command += ["--checkpoint", str(tmp_path / "run.npz")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 500/"):
            process.send_signal(signal.SIGINT)
            break
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert re.search(r"interrupted after \d+ of 3000 epochs; the same call goes on from", error)
    assert "Traceback" not in error
    assert load_record(tmp_path / "out" / "record_partial.npz").interrupted
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert "going on at epoch" in done.stdout
    assert load_record(tmp_path / "out" / "record.npz") == whole
    assert not (tmp_path / "out" / "record_partial.npz").exists()


def test_the_readme_call_with_everything_on_equals_that_with_everything_off(tmp_path):
    from extras.figures import overview_figure

    off = train_rnn_flossing(*README_CALL, progress=False)
    on = train_rnn_flossing(
        *README_CALL, checkpoint=tmp_path / "run.npz", checkpoint_every=10, diagnostics=Diagnostics(True, (1, 150, 301))
    )
    overview_figure(on)
    on.diagnostics.clear()
    assert on == off
