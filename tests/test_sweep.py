"""Sweeps of tiny networks: complete, the same in every way of running them, and whole after every fault."""

import dataclasses
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from example_code.experiments import sweep
from extras.checkpoint import FORMAT
from extras.files import load_arrays, save_arrays
from gradient_flossing_example import README_CALL, train_rnn_flossing
from tests.conftest import ROOT, long

SCRIPT = ROOT / "example_code" / "experiments" / "delay_sweep.py"  # imported when needed: it draws, and processes start faster
TINY = ["--tasks", "xor", "--neurons", "8", "--steps", "30", "--preflossing", "20", "--delays", "5", "--seeds", "1"]
SHORT = [*TINY, "--epochs", "100"]  # four runs: the conditions
ENDLESS = [*TINY, "--conditions", "none", "during", "--epochs", "1000000"]  # to be killed
TINY_CALL = README_CALL._replace(N=8, E=3, Ep=0, Ni=0, T=30, delay=5, nLE=8)
JOB = sweep.Job("tiny", TINY_CALL)
WAITS = "waits"  # name of a folder: runs in it wait until the file "go" is there


# ------------------------------------------------------------------ functions that jobs name; a folder's log tells of them


def logs(*arguments, checkpoint, **options):
    """train_rnn_flossing; then a line in the output folder's log: seed, epochs in the checkpoint before, BLAS threads."""
    out = checkpoint.parent.parent
    epochs = len(load_arrays(checkpoint, FORMAT)[1]["record/loss"]) if checkpoint.exists() else 0
    threads = {os.environ.get(name) for name in sweep.ONE_BLAS_THREAD}
    record = train_rnn_flossing(*arguments, checkpoint=checkpoint, **options)
    with open(out / "log", "a") as log:
        log.write(f"{record.parameters['sNet']} {epochs} {','.join(sorted(map(str, threads)))}\n")
    if out.name == WAITS:
        wait_until((out / "go").exists)
    return record


def logged(out):
    return (out / "log").read_text().splitlines() if (out / "log").exists() else []


def jobs_that_log(*seeds, **changes):
    call = TINY_CALL._replace(**changes)
    return [sweep.Job(f"seed{seed}", call._replace(sNet=seed), "tests.test_sweep:logs") for seed in seeds]


# ------------------------------------------------------------------ processes


def command(out, *options):
    return [sys.executable, str(SCRIPT), *options, "--jobs", "2", "--out", str(out)]


def succeed(argv):
    """Standard output and error of a command that must succeed."""
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


needs_ps = pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps, to see what processes there are")


def processes(pattern, **parents):
    """Process ids that have not ended whose command line matches, of a parent ppid if one is given."""
    listing = subprocess.run(["ps", "-e", "-ww", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True).stdout
    rows = [line.split(maxsplit=3) for line in listing.splitlines()]
    return [
        int(pid) for pid, ppid, stat, args in rows
        if re.search(pattern, args) and not stat.startswith("Z") and int(ppid) == parents.get("ppid", int(ppid))
    ]  # fmt: skip


def wait_until(condition, seconds=900):
    """Returns when the condition holds; on a busy machine that may take long, so only a hanging one fails."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


# ------------------------------------------------------------------ a job


def test_a_record_counts_if_it_is_whole_of_these_arguments_and_not_interrupted(tmp_path):
    path, record = JOB.path(tmp_path), train_rnn_flossing(*TINY_CALL, progress=False)
    assert JOB.record(tmp_path) is None
    record.save(path)
    assert JOB.record(tmp_path) == record
    path.write_bytes(path.read_bytes()[:-1])
    assert JOB.record(tmp_path) is None
    dataclasses.replace(record, interrupted=True).save(path)
    assert JOB.record(tmp_path) is None
    dataclasses.replace(record, parameters=record.parameters | {"delay": 6}).save(path)
    assert JOB.record(tmp_path) is None


def test_files_are_named_by_label_and_by_all_that_makes_the_run():
    arguments, function, label = (dict(arguments=TINY_CALL._replace(E=4)), dict(function="other:function"), dict(label="b"))
    assert len({dataclasses.replace(JOB, **changes).path("out") for changes in ({}, arguments, function, label)}) == 4
    assert re.fullmatch(r"tiny_[0-9a-f]{8}\.npz", JOB.path("out").name)
    assert sweep.Job("tiny", list(TINY_CALL)).path("out") == JOB.path("out")  # as it comes out of JSON


def test_a_run_that_another_process_has_begun_is_waited_for_and_not_done_again(tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="the lock needs fcntl")
    (job,) = jobs_that_log(1)
    job.unfinished(tmp_path).mkdir()
    with open(job.unfinished(tmp_path) / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=sweep.do, args=(job, tmp_path))
        second.start()
        second.join(0.5)
        assert second.is_alive() and not logged(tmp_path)
        train_rnn_flossing(*job.arguments, progress=False).save(job.path(tmp_path))
    second.join()
    assert not logged(tmp_path) and not job.unfinished(tmp_path).exists()


def test_without_locks_a_run_is_done_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "fcntl", None)  # as on Windows
    sweep.do(JOB, tmp_path)
    assert JOB.record(tmp_path) is not None


def test_the_checkpoint_stays_until_the_record_is_saved(tmp_path, monkeypatch):
    (job,) = jobs_that_log(1)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr("extras.record.TrainingRecord.save", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        sweep.do(job, tmp_path)
    sweep.do(job, tmp_path)
    assert [line.split()[1] for line in logged(tmp_path)] == ["0", "3"]
    assert job.record(tmp_path) == train_rnn_flossing(*job.arguments, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"log", job.path(tmp_path).name}


# ------------------------------------------------------------------ many jobs


def test_every_job_is_done_once_and_with_one_thread(tmp_path, monkeypatch, capsys):
    for name in sweep.ONE_BLAS_THREAD:
        monkeypatch.setenv(name, "2")
    jobs = jobs_that_log(1, 2, 3)
    sweep.do(jobs[2], tmp_path)
    assert not sweep.do_all(jobs, tmp_path, 2)
    seeds_threads = [line.split()[::2] for line in logged(tmp_path)]
    assert sorted(seeds_threads[1:]) == [["1", "1"], ["2", "1"]]
    assert capsys.readouterr().err.splitlines() == [f"{n}/3 done, 0 failed" for n in (1, 2, 3)]


def test_the_line_counts_what_failed_and_goes_at_the_end(tmp_path, monkeypatch):
    (done,), shown = jobs_that_log(9), []
    sweep.do(done, tmp_path)
    line = SimpleNamespace(show=shown.append, erase=lambda: shown.append("erased"))
    monkeypatch.setattr(sweep, "StatusLine", lambda stream: line)
    monkeypatch.setattr(sweep, "do_in_new_process", lambda job, out, end: "error")
    failed = sweep.do_all([done, *jobs_that_log(1, 2, 3)], tmp_path, 1)
    assert {job.label: error for job, error in failed.items()} == dict.fromkeys(["seed1", "seed2", "seed3"], "error")
    assert shown == [*(f"1/4 done, {n} failed" for n in range(4)), "erased"]


def test_after_ctrl_c_no_other_job_is_begun(tmp_path, monkeypatch):
    def begin(job, out, end):
        begun.append(job)
        if len(begun) == 1:
            raise KeyboardInterrupt  # where the sweep waits for it
        time.sleep(0.2)

    begun, jobs = [], jobs_that_log(*range(50))
    monkeypatch.setattr(sweep, "do_in_new_process", begin)
    with pytest.raises(KeyboardInterrupt):
        sweep.do_all(jobs, tmp_path, 1)
    assert len(begun) < 50


@pytest.fixture
def waits(tmp_path):
    """A folder in which runs wait, with all that they write but the record written."""
    (tmp_path / WAITS).mkdir()
    return tmp_path / WAITS


def workers(parent):
    return processes("example_code.experiments.sweep", ppid=parent)


@needs_ps
def test_two_sweeps_in_one_folder_do_each_run_once(waits):
    jobs, errors = jobs_that_log(1, 2), []
    both = [threading.Thread(target=lambda: errors.append(sweep.do_all(jobs, waits, 2))) for _ in range(2)]
    for thread in both:
        thread.start()
    wait_until(lambda: len(workers(os.getpid())) == 4 and len(logged(waits)) >= 2)
    (waits / "go").touch()
    for thread in both:
        thread.join()
    assert errors == [{}, {}]
    assert sorted(logged(waits)) == ["1 0 1", "2 0 1"]


@needs_ps
def test_killed_workers_are_listed_and_go_on_from_their_checkpoints(waits):
    jobs, errors = jobs_that_log(1, 2), []
    thread = threading.Thread(target=lambda: errors.append(sweep.do_all(jobs, waits, 2)))
    thread.start()
    wait_until(lambda: len(logged(waits)) == 2)
    for pid in workers(os.getpid()):
        os.kill(pid, signal.SIGKILL)
    thread.join()
    assert errors == [dict.fromkeys(jobs, "no message (exit status -9)")]
    (waits / "go").touch()
    assert not sweep.do_all(jobs, waits, 2)
    assert sorted(logged(waits)[2:]) == ["1 3 1", "2 3 1"]
    for job in jobs:
        assert job.record(waits) == train_rnn_flossing(*job.arguments, progress=False)


def test_a_failing_run_is_listed_with_its_last_words_and_stops_nothing(tmp_path):
    bad = sweep.Job("bad", TINY_CALL._replace(delay=1000))
    silent = sweep.Job("silent", (), "os:abort")
    failed = sweep.do_all([bad, silent, JOB], tmp_path, 2)
    assert set(failed) == {bad, silent} and JOB.record(tmp_path) is not None
    assert re.match(r"ValueError: T = 30.*\(exit status 1\)$", failed[bad])
    assert re.search(r"\(exit status 1\)$", failed[silent])  # a TypeError: abort takes no keywords


# ------------------------------------------------------------------ the whole command


def delay_sweep():
    return importlib.import_module("example_code.experiments.delay_sweep").EXPERIMENT


def jobs_of(argv):
    return [job for _, job in delay_sweep().make_jobs(delay_sweep().parse(argv))]


def assert_same(argv, out, other):
    """All runs are finished in both folders, with equal records, and the tables are the same."""
    for job in jobs_of(argv):
        assert job.record(out) is not None and job.record(out) == job.record(other)
    assert (out / "delay_sweep.csv").read_bytes() == (other / "delay_sweep.csv").read_bytes()
    files = {"delay_sweep.csv", "delay_sweep.png"} | {job.path(out).name for job in jobs_of(argv)}
    assert {path.name for path in out.iterdir()} == files  # no checkpoint and no half-written file is left


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Folder, standard output and error of the short sweep."""
    out = tmp_path_factory.mktemp("short")
    return out, *succeed(command(out, *SHORT))


def test_a_sweep_is_complete_and_names_what_it_wrote(short):
    out, printed, err = short
    assert_same(SHORT, out, out)
    assert "4/4 done, 0 failed" in err
    assert "| xor | 5 (10) | " in printed
    assert printed.endswith(f"wrote {out}/delay_sweep.csv\nwrote {out}/delay_sweep.png\n")


def test_started_again_only_the_missing_and_the_damaged_is_done_and_what_is_the_users_stays(short):
    out, *_ = short
    table = (out / "delay_sweep.csv").read_bytes()
    missing, damaged, *kept = jobs_of(SHORT)
    missing.path(out).unlink()
    damaged.path(out).write_bytes(damaged.path(out).read_bytes()[:-1])
    kept[0].unfinished(out).mkdir()  # of a process that was killed after it had saved the record
    stem = kept[0].path(out).stem
    users = [out / name for name in (f"my_copy_of_{stem}.npz", f"{stem}.txt", f"{stem}.npz.bak", f".{stem}.npz.mine.tmp")]
    for path in users:
        path.touch()
    before = {job: job.path(out).stat().st_mtime_ns for job in kept}
    assert delay_sweep().main([*SHORT, "--out", str(out)]) == 0
    assert {job: job.path(out).stat().st_mtime_ns for job in kept} == before
    assert (out / "delay_sweep.csv").read_bytes() == table
    for path in users:
        path.unlink()  # an error if it is gone
    assert_same(SHORT, out, out)


def test_shards_give_the_same_and_the_last_one_writes_the_table(short, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")  # the third way to say it: a Kubernetes indexed job
    monkeypatch.setenv("JOB_COMPLETIONS", "3")
    for done, options in zip((2, 3, 4), ([], ["--shard", "2/3"], ["--shard", "1/3"])):
        assert not (tmp_path / "delay_sweep.csv").exists()
        assert delay_sweep().main([*SHORT, "--out", str(tmp_path), *options]) == 0
        assert sum(job.record(tmp_path) is not None for job in jobs_of(SHORT)) == done
    assert_same(SHORT, tmp_path, short[0])


@needs_ps
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGKILL, -9), *long((signal.SIGTERM, 143))])
def test_a_killed_parent_leaves_no_process(number, status, tmp_path):
    parent = subprocess.Popen(command(tmp_path, *ENDLESS), stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_until(lambda: len(list(tmp_path.glob("*/checkpoint"))) == 2)  # both train
        pids = set(workers(parent.pid))
        assert all(os.getsid(pid) == pid for pid in pids)  # so that Ctrl-C in a terminal reaches the sweep only
        os.killpg(parent.pid, number)
        _, err = parent.communicate()
    finally:
        parent.kill()  # should the test have failed so far
    wait_until(lambda: not pids & set(processes("example_code.experiments.sweep")))
    assert len(pids) == 2 and parent.returncode == status
    assert "Traceback" not in err and ("the same command goes on" in err) == (number == signal.SIGINT)


@pytest.mark.long
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
        succeed(command(tmp_path, *SHORT))
        assert_same(SHORT, tmp_path, short[0])
    finally:
        subprocess.run(["umount", str(tmp_path)])
