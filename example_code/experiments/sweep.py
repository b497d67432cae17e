"""Many independent runs, each in a process of its own: some at a time on one machine, or divided among a cluster's array.

A run is finished when its record lies in the output folder and was made by the same arguments; nothing else is
remembered. Until then a checkpoint lies there. So whatever ends a sweep, the same command goes on with what is missing.
"""

import argparse
import contextlib
import csv
import hashlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from extras.checkpoint import FORMAT
from extras.progress import StatusLine
from extras.record import load_arrays, load_record, write_atomically

ROOT = Path(__file__).resolve().parents[2]
MODULE = "example_code.experiments.sweep"
ONE_BLAS_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")
CHECKPOINT_EVERY = 1000  # steps, some seconds


@dataclass(frozen=True)
class Job:
    """A run: function(*arguments, progress=False, checkpoint=FILE, checkpoint_every=n).

    label: what it is, in the name of its files; function: "module:name", returns a TrainingRecord whose parameters are
    the arguments.
    """

    label: str
    arguments: tuple
    function: str = "gradient_flossing_example:train_rnn_flossing"

    def path(self, out):
        digest = hashlib.sha256(repr((self.function, *self.arguments)).encode()).hexdigest()[:8]
        return Path(out) / f"{self.label}_{digest}.npz"

    def record(self, out):
        """The record of the finished run, else None: a damaged file, or that of other arguments, is no obstacle."""
        try:
            record = load_record(self.path(out))
        except Exception:  # whatever is wrong with it: the run is done again and replaces it
            return None
        same = tuple(record.parameters.values()) == tuple(self.arguments)
        return record if same and not record.interrupted else None


def sweep(jobs, args, write):
    """Do this shard's share of the jobs, then write what they say; returns the exit status: 0, 1 failed, 130 Ctrl-C.

    jobs: dict key -> Job; args: of make_parser's; write(records, folder): makes tables and figures of a dict
    key -> TrainingRecord, of all jobs, or if the sweep is not divided of those that are finished.
    """
    out, (index, count) = args.out.resolve(), args.shard
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception: the processes are ended before this one
    try:
        failed = run_all(list(jobs.values())[index::count], out, args.jobs)
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on", file=sys.stderr)
        return 130
    for job, error in failed.items():
        print(f"FAILED {job.label}: {job.function}{tuple(job.arguments)}\n    {error}", file=sys.stderr)
    records = {key: record for key, job in jobs.items() if (record := job.record(out)) is not None}
    if len(records) == len(jobs):
        for path in (job.path(out) for job in jobs.values()):
            for left_by_killed in set(out.glob(f"*{path.stem}*")) - {path}:
                left_by_killed.unlink(missing_ok=True)
    if records and (count == 1 or len(records) == len(jobs)):
        write(records, out)
    return 1 if failed else 0


def run_all(jobs, out, at_a_time):
    """Do the jobs that are not finished; returns dict job -> last line of its error, of those that fail."""
    missing, failed, started = [job for job in jobs if job.record(out) is None], {}, time.monotonic()
    status, counts = StatusLine(sys.stderr), "{}/{} done, {} failed".format
    status.show([(0, counts(len(jobs) - len(missing), len(jobs), 0))])
    end, lifeline = os.pipe()  # the processes end when this one closes its side, or ends, however that is
    pool = ThreadPoolExecutor(at_a_time)
    runs = {pool.submit(run, job, out, end): job for job in missing}
    try:
        for left, finished in zip(reversed(range(len(runs))), as_completed(runs)):
            if error := finished.result():
                failed[runs[finished]] = error
            rate = (len(missing) - left) / (time.monotonic() - started) * 60  # per minute
            done = counts(len(jobs) - left - len(failed), len(jobs), len(failed))
            status.show([(0, done), (1, f"{left / rate:.0f} min left"), (2, f"{rate:.3g}/min")])
    finally:
        status.erase()
        os.close(lifeline)
        pool.shutdown(cancel_futures=True)
        os.close(end)
    return failed


def run(job, out, end):
    """Do the job in a new process, with one BLAS thread; returns the last line of its error, None if there is a record."""
    process = subprocess.Popen(
        [sys.executable, "-m", MODULE, json.dumps([job.label, job.arguments, job.function, str(out)])],
        cwd=ROOT, env=os.environ | ONE_BLAS_THREAD, stdin=end, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches this process only
    )  # fmt: skip
    lines = process.communicate()[1].decode(errors="replace").strip().splitlines() or ["no message"]
    return None if job.record(out) is not None else f"{lines[-1]} (exit status {process.returncode})"


def work(label, arguments, function, out):
    """In the new process: do the run and save its record, unless another sweep in the same folder does."""
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()  # end when the parent does
    job = Job(label, tuple(arguments), function)
    checkpoint = job.path(out).with_suffix(".checkpoint")
    with open(job.path(out).with_suffix(".lock"), "w") as lock:
        with contextlib.suppress(OSError, AttributeError):  # a file system without locks, or Windows: do it twice
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits; given back when the process ends, however that is
        if job.record(out) is not None:
            return
        try:
            load_arrays(checkpoint, FORMAT)
        except (OSError, ValueError):  # none, or damaged: from the start
            checkpoint.unlink(missing_ok=True)
        module, name = function.split(":")
        function = getattr(importlib.import_module(module), name)
        record = function(*arguments, progress=False, checkpoint=checkpoint, checkpoint_every=CHECKPOINT_EVERY)
        record.save(job.path(out))
        checkpoint.unlink(missing_ok=True)


def make_parser(description, out):
    """Parser with the options of every sweep; out: the default folder."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--jobs", type=positive, default=cores, help="runs at a time")
    parser.add_argument("--shard", type=shard, default=shard_of_array(os.environ), metavar="I/N",
                        help="the runs I, I + N, ... only; default: as an array of Slurm or Kubernetes says")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of records, tables and figures")
    return parser


def positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return int(text)


def shard(text):
    index, count = map(int, text.split("/"))
    if not 0 <= index < count:
        raise argparse.ArgumentTypeError(f"{text}: must be I/N with 0 <= I < N")
    return index, count


def shard_of_array(env):
    if "SLURM_ARRAY_TASK_ID" in env:
        index = int(env["SLURM_ARRAY_TASK_ID"]) - int(env["SLURM_ARRAY_TASK_MIN"])
        return f"{index}/{env['SLURM_ARRAY_TASK_COUNT']}"
    if "JOB_COMPLETION_INDEX" in env:  # Kubernetes sets no count: the job's file does
        return f"{env['JOB_COMPLETION_INDEX']}/{env['JOB_COMPLETIONS']}"
    return "0/1"


def write_csv(rows, path):
    """Rows (dicts) with all digits of the floats, so that two sweeps can be compared bit for bit."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


if __name__ == "__main__":
    work(*json.loads(sys.argv[1]))
