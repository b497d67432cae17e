"""The record of a training run, everything that the original computes and drops; and its file, an .npz without pickle.

A file is what numpy.savez writes: a damaged one is recognised by the CRC-32 of its members and by the list of their names.
"""

import io
import json
import math
import os
import platform
import secrets
import signal
import sys
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import scipy

TRAINED = ("ws", "J", "wr", "b", "offset", "xInit")
FLOSSED = ("ws", "J", "b")
FORMAT = "gradient flossing record 2"
LEARNED, WINDOW = 0.95, 10  # learned: a mean accuracy above LEARNED over WINDOW epochs
FINAL_EPOCHS = 100  # over which the final accuracy is averaged


class NonFiniteError(ArithmeticError):
    """A number of the run is infinite or NaN. `record`: the run so far, finite, with the last finite parameters."""

    def __init__(self, message, record=None):
        super().__init__(message)
        self.record = record


@dataclass(eq=False, repr=False)
class TrainingRecord:
    """What a run of E epochs and F flossing steps computed.

    parameters             dict of the 33 arguments
    loss, accuracy         (E,) before each update
    gradient_norm          dict of (E,) for ws J wr b offset xInit: 2-norms before clipping
    flossing_loss          (F,) of every flossing step in the order run
    flossing_epoch         (F,) the epoch ei in which each flossing step ran
    lyapunov_spectrum      (F, nLE) 1/step, natural logarithm
    flossing_gradient_norm dict of (F,) for ws J b
    initial, final         dicts of float32 arrays ws (N, S), J (N, N), wr (1, N), b (N,), offset (1,), xInit (N, B)
    first_training_parameters, first_training_gradient: dicts of arrays at the first training step, before clipping
    first_flossing_gradient dict of arrays; empty without flossing
    diagnostics            dict of arrays, empty unless asked for (extras/lyapunov.py)
    interrupted            whether Ctrl-C ended the run: then there are fewer than E epochs
    elapsed_time           seconds of the training loop; versions: dict of what made it, strings

    Two records are equal (==) if all of this is, exactly, NaN equal to NaN, except elapsed_time and versions.
    """

    parameters: dict
    initial: dict
    final: dict
    loss: np.ndarray
    accuracy: np.ndarray
    gradient_norm: dict
    flossing_loss: np.ndarray
    flossing_epoch: np.ndarray
    lyapunov_spectrum: np.ndarray
    flossing_gradient_norm: dict
    first_training_parameters: dict = field(default_factory=dict)
    first_training_gradient: dict = field(default_factory=dict)
    first_flossing_gradient: dict = field(default_factory=dict)
    diagnostics: dict = field(default_factory=dict)
    interrupted: bool = False
    elapsed_time: float = 0.0
    versions: dict = field(default_factory=dict)

    def epoch_learned(self):
        """First epoch up to which the last WINDOW epochs have a mean accuracy above LEARNED; None if none."""
        if len(self.accuracy) < WINDOW:
            return None
        mean = np.convolve(self.accuracy, np.full(WINDOW, 1 / WINDOW), mode="valid")
        above = np.flatnonzero(mean > LEARNED)
        return int(above[0]) + WINDOW if len(above) else None

    def final_accuracy(self):
        """Mean accuracy of the last FINAL_EPOCHS epochs (each a new batch); NaN without epochs."""
        return float(np.mean(self.accuracy[-FINAL_EPOCHS:])) if len(self.accuracy) else math.nan

    def flossing_blocks(self):
        """List of (epoch, number of flossing steps)."""
        epochs, steps = np.unique(self.flossing_epoch, return_counts=True)
        return list(zip(epochs.tolist(), steps.tolist()))

    def save(self, path):
        """Write the record to `path` (.npz); the file is replaced at once or stays as it was. OSError if it cannot."""
        save_arrays(path, FORMAT, *self.to_arrays())

    def to_arrays(self):
        """(metadata that JSON can hold, flat dict of arrays), what a file holds; members of dicts as "name/member"."""
        metadata, arrays = {}, {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                arrays[f.name] = value
            elif f.name in ("parameters", "versions", "interrupted", "elapsed_time"):
                metadata[f.name] = value
            else:
                arrays.update({f"{f.name}/{name}": x for name, x in value.items()})
        return metadata, arrays

    @classmethod
    def from_arrays(cls, metadata, arrays):
        """The inverse of to_arrays."""
        values = {f.name: {} for f in fields(cls)} | metadata
        for name, x in arrays.items():
            outer, _, inner = name.partition("/")
            if inner:
                values[outer][inner] = x
            else:
                values[outer] = x
        return cls(**values)

    def __eq__(self, other):
        if not isinstance(other, TrainingRecord):
            return NotImplemented
        (metadata, arrays), (other_metadata, other_arrays) = self.to_arrays(), other.to_arrays()
        return (
            all(metadata[name] == other_metadata[name] for name in ("parameters", "interrupted"))
            and arrays.keys() == other_arrays.keys()
            and all(equal_arrays(x, other_arrays[name]) for name, x in arrays.items())
        )

    __hash__ = None

    def __repr__(self):
        p, epochs = self.parameters, len(self.loss)
        of_all = f"{epochs} epochs" if epochs == p["E"] else f"{epochs} of {p['E']} epochs"
        lines = [
            f"TrainingRecord: {p['N']} neurons, {of_all} of {p['B']} trials x {p['T']} steps, "
            f"task {p['task']}, delay {p['delay']}" + (", interrupted" if self.interrupted else "")
        ]
        if epochs:
            above = self.epoch_learned()
            lines += [
                f"  final loss        {self.loss[-1]:.4f}",
                f"  final accuracy    {100 * self.accuracy[-1]:.2f} %",
                f"  accuracy > 95 %   {f'from epoch {above} on' if above else 'not reached'} (mean of {WINDOW} epochs)",
            ]
        blocks = [f"{steps} steps at epoch {epoch}" for epoch, steps in self.flossing_blocks()]
        shown = blocks[:3] + ([f"... ({len(blocks)} blocks)"] if len(blocks) > 3 else [])
        lines += [f"  flossing          {', '.join(shown) or 'none'}", f"  elapsed time      {self.elapsed_time:.1f} s"]
        return "\n".join(lines)


def load_record(path):
    """The TrainingRecord that record.save(path) wrote. OSError if unreadable, ValueError if damaged or no record."""
    return TrainingRecord.from_arrays(*load_arrays(path, FORMAT))


# ------------------------------------------------------------------ files


def save_arrays(path, format, metadata, arrays):
    """Write metadata (what JSON can hold) and arrays to `path`: atomically, by way of a file beside it."""
    header = {"format": format, "members": list(arrays)} | metadata
    data = io.BytesIO()
    with interrupt_deferred():
        np.savez(data, metadata=np.array(json.dumps(header)), **arrays)
        write_atomically(path, data.getbuffer())


def write_atomically(path, data):
    """Replace the file `path` by `data` (bytes): after a crash at any time it is the old or the new one."""
    with written_beside(path, data) as temporary:
        os.replace(temporary, path)


def probe(path):
    """OSError, before the work and not after it, if no file can be written to the place of `path`."""
    with written_beside(path, b""):
        pass


@contextmanager
def written_beside(path, data):
    """Yields the Path of a new file beside `path` that holds `data`, and removes it unless it was moved."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def interrupt_deferred():
    """Ctrl-C, however often, takes effect at the end of the block: a file is not left half written."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    pressed = []
    signal.signal(signal.SIGINT, lambda *args: pressed.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            before(*pressed[-1])


def load_arrays(path, format):
    """(metadata, arrays) of a file that save_arrays wrote with the same `format`; ValueError if it is none."""
    content = Path(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # read() checks the CRC-32 of a whole member
            members = {name: io.BytesIO(archive.read(name)) for name in archive.namelist()}
        arrays = {name.removesuffix(".npy"): np.lib.format.read_array(data) for name, data in members.items()}
        metadata = json.loads(str(arrays.pop("metadata")))
        found, names = metadata.pop("format"), metadata.pop("members")
        complete = names == list(arrays)
    except Exception:  # damage shows in many ways
        complete = False
    if not complete:
        raise ValueError(f"{path}: damaged, or not written by this program")
    if found != format:
        raise ValueError(f"{path}: is a {found!r}, not a {format!r}")
    return metadata, arrays


# ------------------------------------------------------------------ small things


def members(name, arrays):
    return {f"{name}/{member}": np.array(x) for member, x in arrays.items()}


def equal_arrays(x, y):
    return x.dtype == y.dtype and np.array_equal(x, y, equal_nan=x.dtype.kind == "f")


def norm(x):
    return float(np.sqrt(np.sum(np.square(x, dtype=np.float64))))


def versions(engine):
    made_by = {"engine": engine, "python": platform.python_version(), "numpy": np.__version__}
    made_by["scipy"] = scipy.__version__
    if "torch" in sys.modules:
        made_by["torch"] = sys.modules["torch"].__version__
    return made_by
