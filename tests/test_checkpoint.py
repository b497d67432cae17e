"""Checkpoints: a run that was stopped in any way ends like one that was not, bit for bit; bad files are left alone."""

import contextlib
import errno
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gradient_flossing_example as port
from extras.checkpoint import FORMAT, CheckpointError
from extras.files import load_arrays, save_arrays
from extras.lyapunov import Diagnostics
from extras.record import Terminated
from gradient_flossing_example import train_rnn_flossing
from tests.conftest import short_call

pytestmark = pytest.mark.usefixtures("usual_signals")
CALL = short_call(E=120, Ef=30, Ei=10, Ep=20, Ni=3, T=24, Tp=16, Ti=16)
STEPS = 120 + 20 + 3 * 10


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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


def interrupt_at(path, call, number=signal.SIGINT, **options):
    """Record of a run that gets a signal, by default Ctrl-C, at the given call of generate_input_output."""
    right, calls = port.generate_input_output, 0

    def pressing(*args):
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(number)
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
    assert names(tmp_path) == ["run.npz"]


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_end_it_too_and_the_same_call_goes_on(number, tmp_path, uninterrupted, capsys):
    path = tmp_path / "run.npz"
    with pytest.raises(Terminated) as ended:
        interrupt_at(path, 70, number)
    record = ended.value.record
    assert ended.value.code == 128 + number and record.interrupted
    assert len(record.loss) + len(record.flossing_loss) == 70
    assert signal.getsignal(number) is signal.SIG_DFL and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert names(tmp_path) == ["run.npz"]
    assert train(path) == uninterrupted


def test_a_signal_in_the_last_epoch_costs_nothing(uninterrupted):
    assert interrupt_at(None, STEPS) == uninterrupted
    with pytest.raises(Terminated) as ended:
        interrupt_at(None, STEPS, signal.SIGTERM)
    assert ended.value.record == uninterrupted


def test_ctrl_c_twice_ends_it_at_once_and_sigterm_twice_does_not(tmp_path, uninterrupted):
    path = tmp_path / "run.npz"

    def twice(number):
        right, calls = port.generate_input_output, []

        def pressing(*args):
            calls.append(1)
            if len(calls) == 60:
                signal.raise_signal(number)
                signal.raise_signal(number)
                calls.append("done")
            return right(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(port, "generate_input_output", pressing)
            train(path)
        return calls

    with pytest.raises(KeyboardInterrupt):
        twice(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and names(tmp_path) == ["run.npz"]
    assert len(load_arrays(path, FORMAT)[1]["record/flossing_loss"]) == 56 - 29  # saved every 7 steps; no save at the end
    with pytest.raises(Terminated) as ended:
        twice(signal.SIGTERM)
    assert len(ended.value.record.loss) > 60
    assert train(path) == uninterrupted


def test_handlers_that_are_not_the_usual_ones_are_left_alone():
    received = []
    before = {n: signal.signal(n, lambda number, frame: received.append(number)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert not interrupt_at(None, 5).interrupted and not interrupt_at(None, 5, signal.SIGTERM).interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert received == [signal.SIGINT, signal.SIGTERM]


def test_in_a_thread_no_signal_is_taken(uninterrupted):
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(train).result() == uninterrupted


def test_one_file_serves_one_run_at_a_time(tmp_path, uninterrupted, capsys):
    path = tmp_path / "run.npz"
    right, refusals = port.generate_input_output, []

    def second(*args):
        if not refusals:
            refusals.append(1)
            with pytest.raises(CheckpointError, match=f"^checkpoint = {path}: another run is using it"):
                train_rnn_flossing(**CALL, checkpoint=path)
        return right(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(port, "generate_input_output", second)
        assert train(path) == uninterrupted
    assert refusals and capsys.readouterr().out == "" and names(tmp_path) == ["run.npz"]


def test_a_refused_file_is_free_again(saved, tmp_path):
    """Though the error, which a REPL keeps, still knows the frame that had it locked."""
    path = tmp_path / "run.npz"
    path.write_bytes(saved)
    with pytest.raises(CheckpointError, match="another run, left as it is: E = 120$") as kept:
        train_rnn_flossing(**CALL | dict(E=121), progress=False, checkpoint=path)
    assert kept.tb and not train(path).interrupted and str(kept.value).count(str(path)) == 1


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_killed_at_random_moments_it_goes_on_to_the_same_end(tmp_path, uninterrupted):
    rng = np.random.default_rng()
    duration = max(uninterrupted.elapsed_time, 0.05)
    for attempt in range(5):
        path = tmp_path / f"{attempt}.npz"
        process = multiprocessing.get_context("fork").Process(target=train, args=(path, 2))
        process.start()
        time.sleep(rng.uniform(0.0, 1.5 * duration))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert train(path, 20) == uninterrupted
    assert names(tmp_path) == sorted(f"{attempt}.npz" for attempt in range(5))


def test_what_a_killed_save_leaves_is_removed(tmp_path, uninterrupted):
    (tmp_path / ".run.npz.0123456789abcdef.tmp").write_bytes(b"half")
    assert train(tmp_path / "run.npz") == uninterrupted
    assert names(tmp_path) == ["run.npz"]


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
    for damaged in (b"", saved[: len(saved) // 2], saved[:-1]):
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
        with pytest.raises(CheckpointError, match=f"another run, left as it is: {name} = {CALL[name]}$"):
            train_rnn_flossing(**CALL | {name: value}, progress=False, checkpoint=path)
    refused(path, "left as it is: engine = 'adjoint'$", engine="autograd")
    refused(path, "left as it is: diagnostics = .*False", diagnostics=Diagnostics(True))
    refused(path, "left as it is: initial = {}$", initial={"J": np.ones((16, 16))})
    assert path.read_bytes() == saved


def test_other_initial_arrays_are_refused_and_the_same_go_on(tmp_path):
    path, b = tmp_path / "run.npz", np.full(16, 0.1)
    whole = train(initial={"b": b})
    assert interrupt_at(path, 60, initial={"b": b}).interrupted
    refused(path, "left as it is: initial = {'b': '[0-9a-f]*'}$", initial={"b": 2 * b})
    refused(path, "left as it is: initial = {'b': '[0-9a-f]*'}$")
    assert train(path, initial={"b": b}) == whole


def with_nan(x):
    return np.where(np.arange(x.size).reshape(x.shape) == 1, np.nan, x).astype(x.dtype)


def replaced(name, change):
    return lambda metadata, arrays: arrays.update({name: change(arrays[name])})


WRONG = {  # what is wrong with a file that is whole -> how it became so, what must be said
    "no J": (lambda _, a: a.pop("record/final/J"), "missing or unknown: final/J"),
    "NaN in J": (replaced("record/final/J", with_nan), "final/J: must be finite"),
    "no optimiser": (lambda _, a: [a.pop(name) for name in list(a) if name.startswith("opt/")], "unknown: opt/J/mt, "),
    "half an optimiser": (lambda _, a: a.pop("optFlossing/b/vt"), "unknown: optFlossing/b/vt"),
    "another moment": (replaced("opt/J/mt", lambda x: x[:-1]), r"opt/J/mt: must be finite float32 of shape \(16, 16\)"),
    "a NaN moment": (replaced("opt/J/vt", with_nan), "opt/J/vt: must be finite"),
    "one power": (replaced("opt/b/powers", lambda x: x[:1]), r"opt/b/powers: must be finite float64 of shape \(2,\)"),
    "more than there is": (lambda _, a: a.update({"opt/K/mt": np.ones(2)}), "unknown: opt/K/mt"),
    "99 steps of flossing at epoch 4": (lambda _, a: a.update(at_epoch_4(a, 99)), "more epochs or flossing steps"),
    "no record": (lambda m, _: m.pop("record"), "not of a checkpoint"),
    "no record in it": (lambda m, _: m.update(record=[1]), "not of a checkpoint"),
    "a list of options": (lambda m, _: m.update(options=[1]), "not of a checkpoint"),
    "a part too many": (lambda m, _: m.update(more={}), "not of a checkpoint"),
}


def at_epoch_4(arrays, steps):
    """The arrays of a checkpoint that says that epoch 4 begins with so many steps of flossing."""
    part = {name: np.resize(arrays[name], (20 + steps, *arrays[name].shape[1:])) for name in arrays if "/flossing_" in name}
    part["record/lyapunov_spectrum"] = np.resize(arrays["record/lyapunov_spectrum"], (20 + steps, 10))
    part["record/flossing_epoch"] = np.r_[np.ones(20, int), np.full(steps, 4)]
    of_epochs = [name for name in arrays if "/gradient_norm/" in name] + ["record/loss", "record/accuracy"]
    return part | {name: arrays[name][:3] for name in of_epochs}


@pytest.mark.parametrize("wrong", WRONG)
def test_whole_files_with_wrong_content_are_refused(wrong, saved, tmp_path, capsys):
    path, (spoil, says) = tmp_path / "run.npz", WRONG[wrong]
    path.write_bytes(saved)
    metadata, arrays = load_arrays(path, FORMAT)
    spoil(metadata, arrays)
    save_arrays(path, FORMAT, metadata, arrays)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=f"^checkpoint = {path}: (?!/).*{says}"):
        train_rnn_flossing(**CALL, checkpoint=path)
    assert path.read_bytes() == before and capsys.readouterr().out == ""


def test_what_is_no_file_is_refused_at_once(tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo")
    folders = ("/dev/null", tmp_path, tmp_path / "no" / "folder")
    for path in (tmp_path / "fifo", *folders, tmp_path / ("x" * 300), "", "\0", True, b"run"):
        with pytest.raises(ValueError, match="^checkpoint = "):
            train_rnn_flossing(**CALL, checkpoint=path)
    assert capsys.readouterr().out == "" and names(tmp_path) == ["fifo"]


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
    monkeypatch.setattr(os, "fsync", full_after_three)
    with pytest.raises(CheckpointError, match="run.npz cannot be written .*No space left") as stopped:
        train(path)
    record = stopped.value.record  # all that was computed
    assert len(record.flossing_loss) == 20 and np.array_equal(record.loss, uninterrupted.loss[:1])
    assert calls == 4 and names(tmp_path) == ["run.npz"]  # no temporary files
    monkeypatch.undo()
    assert train(path) == uninterrupted  # from the last save that there was room for


def test_a_disk_that_is_full_from_the_start_is_said_before_the_work(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="^checkpoint.*cannot be written.*No space left") as stopped:
        train(tmp_path / "run.npz")
    assert len(stopped.value.record.flossing_loss) == 0 and not names(tmp_path)


def test_a_run_that_goes_on_says_where(tmp_path, capsys):
    path = tmp_path / "run.npz"
    train_rnn_flossing(**CALL, checkpoint=path)
    assert "going on" not in capsys.readouterr().out
    train_rnn_flossing(**CALL, checkpoint=path)
    assert "\ngoing on after 120 of 120 epochs\n" in capsys.readouterr().out


def test_time_adds_up(tmp_path):
    path = tmp_path / "run.npz"
    first = interrupt_at(path, 100)
    metadata, arrays = load_arrays(path, FORMAT)
    metadata["record"]["elapsed_time"] += 1e6
    save_arrays(path, FORMAT, metadata, arrays)
    assert 1e6 + first.elapsed_time < train(path).elapsed_time < 2e6


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_during_a_save(times, tmp_path, uninterrupted, monkeypatch):
    """Once: the save is finished, and the run ends. Twice: at once, and the last checkpoint stays."""
    right, calls = os.fsync, 0

    def pressing(descriptor):
        nonlocal calls
        calls += 1
        for _ in range(times if calls == 8 else 0):
            signal.raise_signal(signal.SIGINT)
        return right(descriptor)

    path = tmp_path / "run.npz"
    monkeypatch.setattr(os, "fsync", pressing)
    with pytest.raises(KeyboardInterrupt) if times == 2 else contextlib.nullcontext():
        assert train(path).interrupted
    assert names(tmp_path) == ["run.npz"]
    assert train(path) == uninterrupted


def test_a_run_with_everything_on_equals_that_with_everything_off(tmp_path):
    from extras.figures import overview_figure

    call = short_call(E=30, Ef=10, Ei=5, Ep=20, Ni=3)
    off = train_rnn_flossing(**call, progress=False)
    watched = dict(checkpoint=tmp_path / "run.npz", checkpoint_every=10, diagnostics=Diagnostics(True, (1, 15, 30)))
    on = train_rnn_flossing(**call, **watched)
    overview_figure(on)
    on.diagnostics.clear()
    assert on == off
