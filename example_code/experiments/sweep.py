"""Many independent runs, each in a process of its own, some at a time; divided among machines, each does its share.

A run is finished when its record is there, made by the same arguments; until then it has a folder of its own beside it.
"""

import contextlib
import hashlib
import json
import os
import pkgutil
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import astuple, dataclass
from pathlib import Path

from extras.files import fcntl
from extras.progress import StatusLine

ONE_BLAS_THREAD = {f"{name}_THREADS": "1" for name in ("OPENBLAS_NUM", "MKL_NUM", "OMP_NUM", "VECLIB_MAXIMUM")}


@dataclass(frozen=True)
class Job:
    """A run to do: function(*arguments, progress=False, checkpoint=FILE, checkpoint_every=n), which returns its record.

    label: for the name of its file. function, load: names, "module:name"; load(path) reads what record.save(path) wrote.
    record.parameters: dict of the arguments, in their order.
    """

    label: str
    arguments: tuple
    function: str = "gradient_flossing_example:train_rnn_flossing"
    load: str = "extras.record:load_record"

    def path(self, out):
        digest = hashlib.sha256(repr((self.function, *self.arguments)).encode()).hexdigest()[:8]
        return Path(out) / f"{self.label}_{digest}.npz"

    def unfinished(self, out):
        """The folder of all that the run writes until it is finished."""
        return self.path(out).with_suffix(".unfinished")

    def record(self, out):
        """The record of the finished run, else None: a damaged file, or that of other arguments, is no obstacle."""
        try:
            record = pkgutil.resolve_name(self.load)(self.path(out))
        except Exception:  # whatever is wrong with it: the run is done again and replaces it
            return None
        same = tuple(record.parameters.values()) == tuple(self.arguments)
        return record if same and not record.interrupted else None


def do_all(jobs, out, at_a_time):
    """Do the jobs that are not finished; returns dict job -> last line of its error, of those that fail."""
    missing, failed = [job for job in jobs if job.record(out) is None or job.unfinished(out).exists()], {}
    status, found = StatusLine(sys.stderr), len(jobs) - len(missing)
    status.show(f"{found}/{len(jobs)} done, 0 failed")
    end, lifeline = os.pipe()  # the processes end when this one closes its side, or ends, however that is
    pool = ThreadPoolExecutor(at_a_time)
    futures = {pool.submit(do_in_new_process, job, out, end): job for job in missing}
    try:
        for count, future in enumerate(as_completed(futures), 1):
            if error := future.result():
                failed[futures[future]] = error
            status.show(f"{found + count - len(failed)}/{len(jobs)} done, {len(failed)} failed")
    finally:
        status.erase()
        os.close(lifeline)
        pool.shutdown(cancel_futures=True)
        os.close(end)
    return failed


def do_in_new_process(job, out, end):
    """Do the job with one BLAS thread; returns the last line of its error, None if there is a record."""
    process = subprocess.Popen(
        [sys.executable, "-m", "example_code.experiments.sweep", json.dumps([*astuple(job), str(out)])],
        cwd=Path(__file__).resolve().parents[2], env=os.environ | ONE_BLAS_THREAD,
        stdin=end, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C reaches this process only
    )  # fmt: skip
    lines = process.communicate()[1].decode(errors="replace").strip().splitlines() or ["no message"]
    return None if job.record(out) is not None else f"{lines[-1]} (exit status {process.returncode})"


def do(job, out):
    """Do the run and save its record, unless another sweep in the same folder does."""
    folder = job.unfinished(out)
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        with contextlib.suppress(AttributeError, OSError):  # Windows, or a file system without locks: both may do it
            fcntl.flock(lock, fcntl.LOCK_EX)  # waits; given back when the process ends, however that is
        if job.record(out) is None:
            options = dict(progress=False, checkpoint=folder / "checkpoint", checkpoint_every=1000)  # steps, some seconds
            pkgutil.resolve_name(job.function)(*job.arguments, **options).save(folder / "record.npz")
            os.replace(folder / "record.npz", job.path(out))
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":  # in a new process
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()  # end when the parent does
    *fields, out = json.loads(sys.argv[1])
    do(Job(*fields), out)
