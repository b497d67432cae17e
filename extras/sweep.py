"""Many independent runs, each in a process of its own: some at a time on one machine, or divided among a cluster's array.

A run is finished when its record lies in the output folder and was made by the same arguments; nothing else is
remembered. Until then a checkpoint lies there. So whatever ends a sweep, the same command goes on with what is missing.
"""

import argparse
import csv
import hashlib
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from extras.checkpoint import CheckpointError
from extras.record import load_record, write_atomically

ROOT = Path(__file__).resolve().parents[1]
ONE_BLAS_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")
CHECKPOINT_EVERY = 2000  # steps, some seconds
POLL = 0.1  # seconds between two looks at the running processes


@dataclass(frozen=True)
class Run:
    """A call of function(*arguments, progress=False, checkpoint=FILE, checkpoint_every=n).

    label: what the run is, in the name of its files; function: "module:name", returns a TrainingRecord whose parameters
    are the arguments.
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


def sweep(runs, args, write):
    """Do this shard's share of the runs, then write what they say; returns the exit status: 0, 1 failed, 130 Ctrl-C.

    runs: dict key -> Run; args: of make_parser's; write(records, folder): makes tables and figures of a dict
    key -> TrainingRecord, all of them, or if the sweep is not divided those there are.
    """
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    index, count = args.shard
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception: the processes are ended before this one
    try:
        failed = run_all(list(runs.values())[index::count], args.out, args.jobs)
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on", file=sys.stderr)
        return 130
    for run, error in failed.items():
        print(f"FAILED {run.label}: {run.function}{tuple(run.arguments)}\n    {error}", file=sys.stderr)
    records = {key: run.record(args.out) for key, run in runs.items()}
    finished = {key: record for key, record in records.items() if record is not None}
    if len(finished) == len(runs):
        for path in (run.path(args.out) for run in runs.values()):
            for left_by_killed in set(args.out.glob(f"*{path.stem}*")) - {path}:
                left_by_killed.unlink(missing_ok=True)
    if finished and (count == 1 or len(finished) == len(runs)):
        write(finished, args.out)
    return 1 if failed else 0


def run_all(runs, out, jobs):
    """Do the runs that are not finished, `jobs` at a time; returns dict run -> last line of its error, of those that fail."""
    waiting = [run for run in runs if run.record(out) is None]
    missing, failed, active, started, line = len(waiting), {}, {}, time.monotonic(), None
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                run = waiting.pop(0)
                if run.record(out) is None:  # another sweep in the same folder may have done it
                    active[run] = start(run, out)
            time.sleep(POLL)
            for run, (process, errors) in list(active.items()):
                if process.poll() is not None:
                    del active[run]
                    if run.record(out) is None:
                        failed[run] = last_line(process, errors)
            left = len(waiting) + len(active)
            line = show(line, len(runs), left, len(failed), missing - left - len(failed), time.monotonic() - started)
    finally:
        for process, _ in active.values():
            process.kill()
            process.wait()
    return failed


def start(run, out):
    """The new process, with one BLAS thread, and the file that takes its errors."""
    job = json.dumps([run.function, run.arguments, str(run.path(out))])
    errors = tempfile.TemporaryFile()
    # its standard input tells it whether this process lives; a session of its own: Ctrl-C reaches this process only
    process = subprocess.Popen(
        [sys.executable, "-m", "extras.sweep", job], cwd=ROOT, env=os.environ | ONE_BLAS_THREAD,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
    )  # fmt: skip
    return process, errors


def work(function, arguments, path):
    """In the new process: do the run and save its record."""
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()  # end when the parent does
    module, name = function.split(":")
    function, checkpoint = getattr(importlib.import_module(module), name), Path(path).with_suffix(".checkpoint")
    options = dict(progress=False, checkpoint=checkpoint, checkpoint_every=CHECKPOINT_EVERY)
    try:
        record = function(*arguments, **options)
    except CheckpointError:  # damaged: from the start
        checkpoint.unlink()
        record = function(*arguments, **options)
    record.save(path)
    checkpoint.unlink(missing_ok=True)


def last_line(process, errors):
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
    return f"{lines[-1]} (exit status {process.returncode})"


def show(before, total, left, failed, done, seconds):
    """Print how far the sweep is, on a terminal in place and elsewhere if it changed; done: since the start, in seconds."""
    line = f"{total - left - failed}/{total} done, {failed} failed"
    if done:
        line += f", {60 * done / seconds:.3g}/min, {int(seconds / done * left / 60)} min left"
    if sys.stderr.isatty():
        columns = shutil.get_terminal_size().columns - 1
        print("\r" + line[:columns].ljust(columns), end="", file=sys.stderr, flush=True)
    elif line != before:
        print(line, file=sys.stderr, flush=True)
    return line


def make_parser(description, out):
    """Parser with the options of every sweep; out: the default folder."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--jobs", type=positive, default=cores, help="runs at a time")
    parser.add_argument("--shard", type=shard, default=shard_of_array(os.environ), metavar="I/N", help="only the runs I, "
                        "I + N, ...; default: what a Slurm array or a Kubernetes indexed job says, or all")  # fmt: skip
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
    if "JOB_COMPLETION_INDEX" in env:  # the count is not set by Kubernetes but in the job's file
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
