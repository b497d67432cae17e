"""Many independent training runs: on all cores of one machine, or shared by the ranks of a `torchrun` job.

A sweep is a list of runs. A run is finished when its record lies under its name in the output folder and was made by
the same arguments: nothing else is remembered, so that a sweep started again does what is missing. Each run gets a
process of its own with one BLAS thread, which ends when its parent does, however that ends.

Which process does which run is decided by a list of claims: LocalClaims for one parent with `jobs` processes,
StoreClaims for one parent per rank. The latter counts in the launcher's own store, through atomic additions only:

    claim/<run>/<generation>   the first to add to it has the run
    beat/<run>/<generation>    grows while its owner lives; if it stands still for PATIENCE seconds, the owner is taken
                               for dead and the run is free again in the next generation
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

POLL = 0.5  # seconds between two looks at the running processes; each look is a heartbeat
PATIENCE = 20.0  # seconds without a heartbeat after which an owner counts as dead
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Run:
    """One call of train_rnn_flossing with its 33 positional arguments; name: that of the record file."""

    name: str
    arguments: tuple

    def path(self, out):
        return Path(out) / f"{self.name}.npz"


def load_finished(run, out):
    """The record of a run, or None if it is missing, damaged or made by other arguments."""
    from extras.record import load_record

    try:
        record = load_record(run.path(out))
    except Exception:  # a file in any state is not an obstacle: the run is done again and replaces it
        return None
    return record if tuple(record.parameters.values()) == run.arguments else None


# ------------------------------------------------------------------ who does which run


class LocalClaims:
    """The runs that are missing, handed out in order to the one parent there is."""

    def __init__(self, runs, out):
        self.finished = {run for run in runs if load_finished(run, out)}
        self.waiting = [run for run in runs if run not in self.finished]
        self.failures = {}

    def claim(self):
        return self.waiting.pop(0) if self.waiting else None

    def keep(self, run):
        """A sign of life for a claimed run."""

    def finish(self, run, error):
        if error is None:
            self.finished.add(run)
        else:
            self.failures[run] = error

    def exhausted(self):
        return not self.waiting


class StoreClaims:
    """The same for one of many ranks: every rank holds all runs and claims them in `store`, see above.

    store: a torch.distributed store, of which add, set, get and check are used.
    """

    def __init__(self, runs, out, store, patience=PATIENCE):
        self.out, self.store, self.patience = out, store, patience
        self.finished, self.failures = set(), {}
        self.open = list(runs)
        self.generation = dict.fromkeys(runs, 0)
        self.last_beat = {}

    def claim(self):
        self.look_around()
        for run in self.open:
            if self.store.add(self.key("claim", run), 1) == 1:
                if not load_finished(run, self.out):  # it may have ended since the look
                    return run
            elif self.stands_still(run):
                self.generation[run] += 1
        return None

    def look_around(self):
        """Drop from the open runs what any rank has finished or seen fail."""
        for run in list(self.open):
            if load_finished(run, self.out):
                self.finished.add(run)
            elif self.store.check([f"failed/{run.name}"]):
                self.failures[run] = self.store.get(f"failed/{run.name}").decode()
            else:
                continue
            self.open.remove(run)

    def stands_still(self, run):
        beat = self.generation[run], self.store.add(self.key("beat", run), 0)
        since = self.last_beat.get(run, (None, 0))
        if since[0] != beat:
            self.last_beat[run] = since = beat, time.monotonic()
        return time.monotonic() - since[1] > self.patience

    def key(self, kind, run):
        return f"{kind}/{run.name}/{self.generation[run]}"

    def keep(self, run):
        self.store.add(self.key("beat", run), 1)

    def finish(self, run, error):
        if error is not None:
            self.store.set(f"failed/{run.name}", error)
        self.look_around()

    def exhausted(self):
        return not self.open


def launcher_claims(runs, out):
    """(claims, rank): StoreClaims under torchrun, else LocalClaims and rank 0."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return LocalClaims(runs, out), 0
    from torch.distributed import rendezvous  # here, so that a sweep on one machine needs no torch

    store, rank, _ = next(rendezvous("env://"))
    exit_with_parent()
    return StoreClaims(runs, out, store), rank


# ------------------------------------------------------------------ doing them


def run_sweep(claims, out, jobs, report=lambda claims: None):
    """Do every run of the claims, `jobs` at a time; claims.failures then says what failed, run -> traceback.

    report(claims) is called whenever something has ended. On any exception, KeyboardInterrupt among them, the
    processes still running are ended: what they were doing is missing, and is done when the sweep is started again.
    """
    Path(out).mkdir(parents=True, exist_ok=True)
    active = {}  # sentinel -> (process, receiving end, run)
    next_claim = 0.0
    report(claims)
    try:
        while active or not claims.exhausted():
            while len(active) < jobs and time.monotonic() >= next_claim:
                run = claims.claim()
                if run is None:
                    next_claim = time.monotonic() + POLL
                    break
                process, receiver = start(run, out)
                active[process.sentinel] = process, receiver, run
            ended = multiprocessing.connection.wait(list(active), timeout=POLL) if active else time.sleep(POLL) or []
            for sentinel in ended:
                process, receiver, run = active.pop(sentinel)
                claims.finish(run, error_of(process, receiver, run))
                next_claim = 0.0
                report(claims)
            for _, _, run in active.values():
                claims.keep(run)
    finally:
        for process, _, _ in active.values():
            process.terminate()
        for process, _, _ in active.values():
            process.join()
    report(claims)


def start(run, out):
    context = multiprocessing.get_context("spawn")  # a forked copy of a process with BLAS threads may hang
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=execute, args=(run, str(out), sender), name=run.name)
    with one_blas_thread(), interrupt_blocked():
        process.start()
    sender.close()
    return process, receiver


def error_of(process, receiver, run):
    """None after a clean end, else what there is to say."""
    process.join()
    try:
        error = receiver.recv() if receiver.poll() else None
    except EOFError:
        error = None
    receiver.close()
    if error is None and process.exitcode != 0:
        error = f"process ended with exit code {process.exitcode} (-n: signal n)"
    return error


def execute(run, out, sender):
    """In the new process: train and save, or send the traceback."""
    exit_with_parent()
    try:
        from gradient_flossing_example import train_rnn_flossing

        train_rnn_flossing(*run.arguments, progress=False).save(run.path(out))
    except Exception:
        sender.send(traceback.format_exc())


def exit_with_parent():
    """End this process as soon as the one that started it is gone, even if that was killed."""
    parent, ppid = multiprocessing.parent_process(), os.getppid()

    def watch():
        if parent is not None:
            parent.join()
        while parent is None and os.getppid() == ppid:
            time.sleep(POLL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def one_blas_thread():
    """New processes get one BLAS thread each: the libraries read these variables when they are loaded."""
    before = {name: os.environ.get(name) for name in BLAS_THREADS}
    os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def interrupt_blocked():
    """New processes inherit a blocked SIGINT: Ctrl-C reaches the whole group, and ending them is the parent's job."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ------------------------------------------------------------------ saying how far it is


class Progress:
    """Prints finished/total, rate and remaining time; the rate counts what was finished since the start."""

    def __init__(self, total, stream=None):
        self.total, self.stream = total, stream or sys.stderr
        self.started, self.at_start, self.shown = time.monotonic(), None, None

    def __call__(self, claims):
        finished, failed = len(claims.finished), len(claims.failures)
        if self.at_start is None:
            self.at_start = finished
        line = f"{finished}/{self.total} runs finished"
        if failed:
            line += f", {failed} failed"
        elapsed, done = time.monotonic() - self.started, finished - self.at_start
        if done:
            rate = done / elapsed
            line += f", {60 * rate:.2f} runs/min, {(self.total - finished - failed) / rate / 60:.1f} min remaining"
        if line != self.shown:
            terminal = self.stream.isatty()
            print(f"\r{line:<78}" if terminal else line, end="" if terminal else "\n", file=self.stream, flush=True)
        self.shown = line


def print_failures(failures, stream=None):
    """Each failed run with its arguments and traceback."""
    stream = stream or sys.stderr
    for run, error in failures.items():
        print(f"\nFAILED {run.name}: train_rnn_flossing{run.arguments}\n{error.rstrip()}", file=stream)
