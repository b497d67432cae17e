"""Sweeps of tiny networks: complete, the same in every way of running them, and whole after every fault."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from example_code.experiments import delay_sweep, sweep
from extras.checkpoint import FORMAT
from extras.record import load_arrays, save_arrays
from gradient_flossing_example import README_CALL
from tests.conftest import ROOT

SCRIPT = ROOT / "example_code" / "experiments" / "delay_sweep.py"
TINY = ["--tasks", "xor", "--neurons", "8", "--steps", "30", "--preflossing", "20", "--delays", "5", "--seeds", "1"]
SHORT = [*TINY, "--epochs", "200"]  # four runs: the conditions
LONG = [*TINY, "--conditions", "none", "during", "--epochs", "1400"]  # with a checkpoint at 1,000 steps, of over 18 kB
TINY_CALL = README_CALL._replace(N=8, E=3, Ep=0, Ni=0, T=30, delay=5, nLE=8)


def command(out, *options):
    return [sys.executable, str(SCRIPT), *options, "--jobs", "2", "--out", str(out)]


def start(argv):
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def do(argv):
    """Standard error of a command that must succeed."""
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def processes(pattern, **parents):
    """Process ids that have not ended whose command line matches, of a parent ppid if one is given."""
    listing = subprocess.run(["ps", "-e", "-ww", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True).stdout
    rows = [line.split(maxsplit=3) for line in listing.splitlines()]
    return [
        int(pid) for pid, ppid, stat, args in rows
        if re.search(pattern, args) and not stat.startswith("Z") and int(ppid) == parents.get("ppid", int(ppid))
    ]  # fmt: skip


def workers(parent):
    return processes("example_code.experiments.sweep", ppid=parent)


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def runs_of(argv):
    return list(delay_sweep.make_runs(delay_sweep.parse(argv)).values())


def assert_same(argv, out, other):
    """All runs are finished in both folders, with equal records, and the tables are the same."""
    for run in runs_of(argv):
        assert run.record(out) is not None and run.record(out) == run.record(other)
    assert (out / "delay_sweep.csv").read_bytes() == (other / "delay_sweep.csv").read_bytes()
    files = {run.path(out).name for run in runs_of(argv)} | {"delay_sweep.csv", "delay_sweep.png"}
    assert {path.name for path in out.iterdir()} == files  # no checkpoint and no half-written file is left


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Folder and standard error of the short sweep."""
    out = tmp_path_factory.mktemp("short")
    return out, do(command(out, *SHORT))


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    out = tmp_path_factory.mktemp("long")
    do(command(out, *LONG))
    return out


def test_a_sweep_is_complete_and_says_how_far_it_is(short):
    out, err = short
    assert_same(SHORT, out, out)
    assert len((out / "delay_sweep.csv").read_text().splitlines()) == 5
    assert "4/4 done, 0 failed" in err and "/min" in err and "left" in err


def test_one_cell_again_is_the_same_bit_for_bit(short, tmp_path):
    out, _ = short
    run = runs_of(SHORT)[-1]
    assert "during" in run.label
    assert not sweep.run_all([run], tmp_path, 1)
    assert run.record(tmp_path) == run.record(out)


def test_started_again_only_the_missing_and_the_damaged_is_done(short):
    out, _ = short
    table = (out / "delay_sweep.csv").read_bytes()
    missing, damaged, *kept = runs_of(SHORT)
    missing.path(out).unlink()
    missing.path(out).with_suffix(".checkpoint").write_bytes(b"damaged")
    damaged.path(out).write_bytes(damaged.path(out).read_bytes()[:-1])
    before = {run: run.path(out).stat().st_mtime_ns for run in kept}
    assert delay_sweep.main([*SHORT, "--out", str(out)]) == 0
    assert {run: run.path(out).stat().st_mtime_ns for run in kept} == before
    assert (out / "delay_sweep.csv").read_bytes() == table
    assert_same(SHORT, out, out)


def test_a_record_of_other_arguments_does_not_count(short, tmp_path):
    out, _ = short
    run, other = runs_of(SHORT)[:2]
    other.path(tmp_path).write_bytes(run.path(out).read_bytes())
    assert other.record(tmp_path) is None


def test_shards_give_the_same_and_the_last_one_writes_the_table(short, tmp_path, monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")  # the third way to say it: a Kubernetes indexed job
    monkeypatch.setenv("JOB_COMPLETIONS", "3")
    for options in ([], ["--shard", "2/3"], ["--shard", "1/3"]):
        assert not (tmp_path / "delay_sweep.csv").exists()
        assert delay_sweep.main([*SHORT, "--out", str(tmp_path), *options]) == 0
    assert_same(SHORT, tmp_path, short[0])


def test_shards_are_those_of_the_array():
    array = dict(SLURM_ARRAY_TASK_ID="13", SLURM_ARRAY_TASK_MIN="10", SLURM_ARRAY_TASK_COUNT="8")
    assert sweep.shard_of_array(array) == "3/8"
    assert sweep.shard_of_array(dict(JOB_COMPLETION_INDEX="2", JOB_COMPLETIONS="4")) == "2/4"
    assert sweep.shard_of_array({}) == "0/1"


@pytest.mark.parametrize("options", (["--shard", "4/4"], ["--shard", "-1/2"], ["--shard", "1"], ["--jobs", "0"]))
def test_impossible_options_are_refused(options, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        delay_sweep.main([*SHORT, *options, "--out", str(tmp_path / "none")])
    assert options[0] in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_the_kubernetes_job_counts_its_pods_right():
    text = SCRIPT.with_suffix(".yaml").read_text()
    (completions,), (value,) = re.findall(r"^  completions: (\d+)$", text, re.M), re.findall(r'JOB_COMPLETIONS, value: "(\d+)"', text)
    assert completions == value and "completionMode: Indexed" in text
    words = re.search(r"command: \[(.*)\]", text)[1].replace('"', "").split(", ")
    assert (ROOT / words[1]).exists()
    delay_sweep.parse(words[2:])


def test_a_failing_run_is_listed_and_stops_nothing(tmp_path, capsys):
    good, bad = sweep.Job("good", TINY_CALL), sweep.Job("bad", TINY_CALL._replace(delay=1000))
    args = sweep.make_parser("", tmp_path).parse_args(["--jobs", "1"])
    written = []
    assert sweep.sweep({"bad": bad, "good": good}, args, lambda records, out: written.extend(records)) == 1
    assert written == ["good"]
    name, error = capsys.readouterr().err.strip().splitlines()[-2:]
    assert name == f"FAILED bad: {bad.function}{tuple(bad.arguments)}"
    assert "ValueError: T = 30" in error


def killed(out, ready, kill):
    """Start the long sweep and call kill(parent, workers) when ready() says so; the parent and its errors."""
    parent = start(command(out, *LONG))
    wait_until(ready)
    pids = workers(parent.pid)
    kill(parent, pids)
    _, err = parent.communicate()
    wait_until(lambda: not set(pids) & set(processes("example_code.experiments.sweep")), seconds=5)
    return parent, err


def test_a_killed_parent_leaves_no_process_and_loses_nothing(long, tmp_path):
    """Killed once in each way while its workers train, then left to end."""
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)):
        for path in tmp_path.iterdir():
            path.unlink()
        both_train = lambda: len(list(tmp_path.glob("*.checkpoint"))) == 2  # noqa: E731
        parent, err = killed(tmp_path, both_train, lambda parent, _: os.killpg(parent.pid, number))
        assert parent.returncode == status
        assert "Traceback" not in err
        assert ("the same command goes on" in err) == (number == signal.SIGINT)
    do(command(tmp_path, *LONG))
    assert_same(LONG, tmp_path, long)


def test_killed_workers_are_listed_and_go_on_from_their_checkpoints(long, tmp_path):
    big = lambda: [path for path in tmp_path.glob("*.checkpoint") if path.stat().st_size > 18_000]  # noqa: E731
    parent, err = killed(tmp_path, big, lambda _, pids: [os.kill(pid, signal.SIGKILL) for pid in pids])
    assert parent.returncode == 1
    assert 1 <= err.count("FAILED xor_") == err.count("(exit status -9)") <= 2
    for path in (checkpoints := big()):  # a mark that only a run that goes on from there carries to its end
        metadata, arrays = load_arrays(path, FORMAT)
        metadata["record"]["elapsed_time"] = 1e6
        save_arrays(path, FORMAT, metadata, arrays)
    do(command(tmp_path, *LONG))
    assert_same(LONG, tmp_path, long)
    assert sum(run.record(tmp_path).elapsed_time > 1e6 for run in runs_of(LONG)) == len(checkpoints) > 0


def test_two_sweeps_in_one_folder_do_each_run_once(long, tmp_path):
    both = [start(command(tmp_path, *LONG)) for _ in range(2)]
    for process in both:
        _, err = process.communicate()
        assert process.returncode == 0, err
    do(command(tmp_path, *LONG))  # the first to end may have left the other's lock
    assert_same(LONG, tmp_path, long)


def test_a_full_disk(short, tmp_path):
    def mount(*options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(tmp_path)], capture_output=True)

    if mount("size=32k").returncode != 0:
        pytest.skip("needs the right to mount a small disk")
    try:
        done = subprocess.run(command(tmp_path, *SHORT), capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr.count("FAILED xor_") >= 2 and "No space left on device" in done.stderr
        mount("remount", "size=8m")
        do(command(tmp_path, *SHORT))
        assert_same(SHORT, tmp_path, short[0])
    finally:
        subprocess.run(["umount", str(tmp_path)])
