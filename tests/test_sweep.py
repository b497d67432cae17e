"""Sweeps of tiny networks: complete, resumable, the same in every way of running them, and clean when killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from example_code.experiments import delay_sweep
from extras import sweep
from extras.record import load_record

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "example_code" / "experiments" / "delay_sweep.py"
TINY = ["--neurons", "16", "--steps", "30", "--preflossing", "3", "--epochs", "5"]
LIST = ["--delays", "5", "8", "--seeds", "1"]
LONG = ["--neurons", "16", "--steps", "300", "--conditions", "none", "--delays", "5", "6"]


def command(out, *options):
    return [sys.executable, str(SCRIPT), *options, "--out", str(out)]


def start(argv):
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def processes_of(session):
    """Processes (pids) of a session that have not ended."""
    listing = subprocess.run(["ps", "-e", "-o", "pid=,sess=,stat="], capture_output=True, text=True).stdout
    rows = [line.split() for line in listing.splitlines()]
    return [int(pid) for pid, sess, stat in rows if int(sess) == session and not stat.startswith("Z")]


def workers(session):
    return [pid for pid in processes_of(session) if is_worker(pid)]


def is_worker(pid):
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def runs_of(argv):
    return list(delay_sweep.make_runs(delay_sweep.parse(argv)).values())


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The tiny sweep, done by two local processes."""
    out = tmp_path_factory.mktemp("local")
    done = subprocess.run(command(out, *TINY, *LIST, "--jobs", "2"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, done


def test_local_sweep_is_complete(local):
    out, done = local
    assert len(list(out.glob("*.npz"))) == 6
    assert not [p for p in out.iterdir() if p.suffix not in (".npz", ".csv", ".png")]  # no temporary file is left
    assert len((out / "delay_sweep.csv").read_text().splitlines()) == 7
    assert "6/6 runs finished" in done.stderr and "runs/min" in done.stderr and "remaining" in done.stderr
    assert "| 5 (10) |" in done.stdout


def test_one_cell_again_is_the_same_bit_for_bit(local, tmp_path):
    out, _ = local
    (run,) = runs_of([*TINY, "--conditions", "during", "--delays", "8", "--seeds", "1"])
    sweep.run_sweep(claims := sweep.LocalClaims([run], tmp_path), tmp_path, jobs=1)
    assert not claims.failures
    again, before = load_record(run.path(tmp_path)), load_record(run.path(out))
    assert again.parameters == before.parameters
    np.testing.assert_array_equal(again.loss, before.loss)
    np.testing.assert_array_equal(again.lyapunov_spectrum, before.lyapunov_spectrum)
    for name, array in before.final.items():
        np.testing.assert_array_equal(again.final[name], array)


def test_started_again_only_the_missing_is_done(local):
    out, _ = local
    table = (out / "delay_sweep.csv").read_bytes()
    runs = runs_of([*TINY, *LIST])
    missing, damaged, *kept = runs
    missing.path(out).unlink()
    damaged.path(out).write_bytes(b"cut off")
    before = {run: run.path(out).stat().st_mtime_ns for run in kept}
    assert sweep.LocalClaims(runs, out).waiting == [missing, damaged]
    assert delay_sweep.main([*TINY, *LIST, "--jobs", "2", "--out", str(out)]) == 0
    assert {run: run.path(out).stat().st_mtime_ns for run in kept} == before
    assert (out / "delay_sweep.csv").read_bytes() == table


def test_a_failing_run_is_reported_and_stops_nothing(tmp_path, capsys):
    good = sweep.Run("good", delay_sweep.arguments_of("none", 5, 1, 3, 8, 30))
    bad = sweep.Run("bad", good.arguments[:22] + (1000,) + good.arguments[23:])  # a delay longer than the trial
    sweep.run_sweep(claims := sweep.LocalClaims([bad, good], tmp_path), tmp_path, jobs=1)
    assert claims.finished == {good} and set(claims.failures) == {bad}
    sweep.print_failures(claims.failures)
    message = capsys.readouterr().err
    assert f"FAILED bad: train_rnn_flossing{bad.arguments}" in message and "Error" in message


def test_a_record_of_other_arguments_does_not_count(local, tmp_path):
    out, _ = local
    run, other = runs_of([*TINY, *LIST])[:2]
    other.path(tmp_path).write_bytes(run.path(out).read_bytes())
    assert sweep.load_finished(other, tmp_path) is None


def torchrun(out, *options, launcher=("--standalone",)):
    pytest.importorskip("torch")
    return [
        sys.executable, "-m", "torch.distributed.run", *launcher, str(SCRIPT), *TINY, *options, "--out", str(out),
    ]  # fmt: skip


def test_two_torchrun_ranks_give_the_same_table(local, tmp_path):
    argv = torchrun(tmp_path, *LIST, launcher=("--standalone", "--nproc-per-node=2"))
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "delay_sweep.csv").read_bytes() == (local[0] / "delay_sweep.csv").read_bytes()


class Store(dict):
    """What StoreClaims uses of a torch.distributed store."""

    def add(self, key, amount):
        self[key] = self.get(key, 0) + amount
        return self[key]

    def set(self, key, value):
        self[key] = value.encode()

    def check(self, keys):
        return all(key in self for key in keys)


def test_ranks_share_the_list_and_a_dead_one_is_replaced(tmp_path):
    runs = [sweep.Run(name, (name,)) for name in "abc"]
    store = Store()
    first, second = (sweep.StoreClaims(runs, tmp_path, store, patience=0.2) for _ in range(2))
    assert [first.claim().name, second.claim().name, first.claim().name] == ["a", "b", "c"]
    assert first.claim() is None and second.claim() is None and not second.exhausted()
    first.finish(runs[2], "an error")  # first fails at c, then dies with a undone; second fails at b
    second.finish(runs[1], "an error")
    assert second.claim() is None
    for _ in range(3):
        time.sleep(0.1)
        store.add("beat/a/0", 1)
        assert second.claim() is None  # still alive
    time.sleep(0.3)
    second.claim()
    assert second.claim().name == "a"
    second.finish(runs[0], "an error")
    assert second.exhausted() and set(second.failures) == set(runs)


def test_killed_worker_is_reported_and_made_up_for(tmp_path):
    argv = command(tmp_path, *LONG, "--epochs", "200", "--seeds", "1", "--jobs", "1")
    parent = start(argv)
    wait_until(lambda: workers(parent.pid))
    os.kill(workers(parent.pid)[0], signal.SIGKILL)
    _, err = parent.communicate(timeout=30)
    assert parent.returncode == 1
    assert "FAILED none_delay5" in err and "exit code -9" in err
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.startswith("1/2 runs finished"), done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_parent_leaves_no_process(tmp_path, number):
    parent = start(command(tmp_path, *LONG, "--epochs", "1000000", "--seeds", "1", "--jobs", "2"))
    wait_until(lambda: len(workers(parent.pid)) == 2)
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)  # as a terminal does
    else:
        os.kill(parent.pid, number)
    wait_until(lambda: not processes_of(parent.pid))
    _, err = parent.communicate()
    assert parent.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert "Traceback" not in err
    if number == signal.SIGINT:
        assert "stopped: 0 of 2 runs finished" in err


def test_worker_memory_is_below_400_megabytes(tmp_path):
    if not Path("/proc/self/status").exists():
        pytest.skip("reads /proc")
    parent = start(command(tmp_path, "--epochs", "1000000", "--preflossing", "1", "--delays", "5", "--seeds", "1", "--jobs", "1"))
    wait_until(lambda: workers(parent.pid))
    time.sleep(2)
    status = [Path(f"/proc/{pid}/status").read_text() for pid in workers(parent.pid)]
    parent.terminate()
    parent.communicate()
    peak = [int(line.split()[1]) / 1024 for text in status for line in text.splitlines() if line.startswith("VmHWM")]
    assert max(peak) < 400
