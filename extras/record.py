"""The record of a training run, everything that the original computes and drops; and its file, an .npz without pickle.

A file is a zip archive of .npy members, which numpy.load reads, whose zip comment is the SHA-256 of all bytes
before it: a damaged file is recognised before anything in it is used.
"""

import hashlib
import io
import json
import math
import os
import platform
import secrets
import sys
import time
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import scipy

TRAINED = ("ws", "J", "wr", "b", "offset", "xInit")
FLOSSED = ("ws", "J", "b")
FORMAT = "gradient flossing record 1"
LEARNED, WINDOW = 0.95, 10  # learned: a mean accuracy above LEARNED over WINDOW epochs
FINAL_EPOCHS = 100  # over which the final accuracy is averaged


class NonFiniteError(ArithmeticError):
    """A loss, spectrum or gradient is infinite or NaN. `record`: the run so far, with the last finite parameters."""

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
    diagnostics            dict of arrays, empty unless asked for (extras/diagnostics.py)
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


class Recorder:
    """Gathers a TrainingRecord during a run.

    parameters: dict of the 33; ps: the live arrays, which the trainer updates in place; engine: its name;
    diagnostics: extras.diagnostics.Diagnostics.
    """

    def __init__(self, parameters, ps, engine, diagnostics):
        self.parameters, self.ps, self.engine, self.diagnostics = parameters, ps, engine, diagnostics
        self.initial = copied(ps)
        scalars = ["loss", "accuracy", "flossing_loss", "flossing_epoch", "lyapunov_spectrum"]
        norms = [f"gradient_norm/{name}" for name in TRAINED] + [f"flossing_gradient_norm/{name}" for name in FLOSSED]
        self.rows = {name: [] for name in scalars + norms}
        self.first = {}  # the fields first_*, as "name/member"
        self.interrupted = False
        self.started = time.perf_counter()

    def add_training_step(self, loss, accuracy, gs):
        """Keep loss, accuracy and gradients gs of a training step; NonFiniteError if not all are finite."""
        epoch = len(self.rows["loss"]) + 1
        norms = {name: norm(gs[name]) for name in TRAINED}
        self.check_finite("training", epoch, {"loss": loss}, norms)
        if epoch == 1:
            self.first |= members("first_training_parameters", self.ps) | members("first_training_gradient", gs)
        self.add("loss", loss)
        self.add("accuracy", accuracy)
        for name in TRAINED:
            self.add(f"gradient_norm/{name}", norms[name])
        self.diagnostics.before_update(self, epoch, gs)

    def add_update(self, steps):
        """Look at the steps (dict of arrays) that the optimiser made of the gradients of a training step."""
        self.diagnostics.after_update(self, steps)

    def add_flossing_step(self, ei, loss, spectrum, gs):
        """Keep loss, spectrum (nLE,) and gradients gs of a flossing step in epoch ei; NonFiniteError as above."""
        norms = {name: norm(gs[name]) for name in FLOSSED}
        exponents = {"largest exponent": np.max(spectrum), "smallest exponent": np.min(spectrum)}
        self.check_finite("flossing", ei, {"flossing loss": loss} | exponents, norms)
        if not self.rows["flossing_loss"]:
            self.first |= members("first_flossing_gradient", gs)
        self.add("flossing_loss", loss)
        self.add("flossing_epoch", ei)
        self.add("lyapunov_spectrum", np.array(spectrum, np.float32))
        for name in FLOSSED:
            self.add(f"flossing_gradient_norm/{name}", norms[name])

    def add(self, name, value):
        self.rows.setdefault(name, []).append(value)

    def check_finite(self, kind, epoch, values, gradient_norms):
        values = values | {f"gradient norm of {name}": value for name, value in gradient_norms.items()}
        bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            return
        losses, flossing_losses, epochs = (self.rows[name] for name in ("loss", "flossing_loss", "flossing_epoch"))
        step = epochs.count(epoch) + 1 if kind == "flossing" else epoch
        finite = [f"training loss {losses[-1]:.6g} at epoch {len(losses)}"] if losses else []
        if flossing_losses:
            where = f"epoch {epochs[-1]}, step {epochs.count(epochs[-1])}"
            finite.append(f"flossing loss {flossing_losses[-1]:.6g} at {where}")
        raise NonFiniteError(
            f"epoch {epoch}, {kind} step {step}: {', '.join(bad)}; last finite: {' and '.join(finite) or 'nothing'}. "
            "This error's .record holds the run so far, with the parameters before this step.",
            self.record(),
        )

    def record(self):
        """The TrainingRecord of the run so far."""
        steps, nLE = len(self.rows["flossing_epoch"]), self.parameters["nLE"]
        arrays = {name: np.array(row) for name, row in self.rows.items()}
        arrays["flossing_epoch"] = np.array(self.rows["flossing_epoch"], int)  # int and float32 also if empty
        arrays["lyapunov_spectrum"] = np.array(self.rows["lyapunov_spectrum"], np.float32).reshape(steps, nLE)
        metadata = {
            "parameters": dict(self.parameters),
            "interrupted": self.interrupted,
            "elapsed_time": time.perf_counter() - self.started,
            "versions": versions(self.engine),
        }
        arrays |= self.first | members("initial", self.initial) | members("final", self.ps)
        return TrainingRecord.from_arrays(metadata, arrays)

    def resume(self, record):
        """Go on after `record`."""
        _, arrays = record.to_arrays()
        for name, x in arrays.items():
            outer = name.partition("/")[0]
            if outer.startswith("first_"):
                self.first[name] = x
            elif outer not in ("initial", "final"):
                self.rows[name] = list(x) if x.ndim > 1 else x.tolist()
        self.started = time.perf_counter() - record.elapsed_time


def load_record(path):
    """The TrainingRecord that record.save(path) wrote. OSError if unreadable, ValueError if damaged or no record."""
    return TrainingRecord.from_arrays(*load_arrays(path, FORMAT))


# ------------------------------------------------------------------ files


def save_arrays(path, format, metadata, arrays):
    """Write metadata (what JSON can hold) and arrays to `path`: atomically, by way of a file beside it."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        header = np.array(json.dumps({"format": format} | metadata))
        for name, x in ({"metadata": header} | arrays).items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, np.asarray(x), allow_pickle=False)
        archive.comment = b"0" * 64
    content = data.getvalue()[:-64]
    write_atomically(path, content + hashlib.sha256(content).hexdigest().encode())


def write_atomically(path, data):
    """Replace the file `path` by `data` (bytes): after a crash at any time it is the old or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_arrays(path, format):
    """(metadata, arrays) of a file that save_arrays wrote with the same `format`; ValueError if it is none."""
    content = Path(path).read_bytes()
    if hashlib.sha256(content[:-64]).hexdigest().encode() != content[-64:]:
        raise ValueError(f"{path}: damaged, or not written by this program (its checksum does not fit)")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    metadata = json.loads(str(arrays.pop("metadata")))
    found = metadata.pop("format")
    if found != format:
        raise ValueError(f"{path}: is a {found!r}, not a {format!r}")
    return metadata, arrays


# ------------------------------------------------------------------ small things


def members(name, arrays):
    return {f"{name}/{member}": np.array(x) for member, x in arrays.items()}


def copied(arrays):
    return {name: np.array(x) for name, x in arrays.items()}


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
