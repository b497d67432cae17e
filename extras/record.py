"""The record of a training run: everything that the original computes and drops."""

import math
from dataclasses import dataclass, field, fields

import numpy as np

from extras.check_parameters import PARAMETERS, check_engine, check_real, check_value, shapes
from extras.files import load_arrays, save_arrays

TRAINED = ("ws", "J", "wr", "b", "offset", "xInit")
FLOSSED = ("ws", "J", "b")
FORMAT = "gradient flossing record 2"
LEARNED, WINDOW = 0.95, 10  # learned: a mean accuracy above LEARNED over WINDOW epochs
FINAL_EPOCHS = 100  # over which the final loss and accuracy are averaged
METADATA = {"parameters": dict, "interrupted": bool, "elapsed_time": float, "versions": dict}  # what is no array


class Stopped(BaseException):
    """What ends a run early: `record` is the run so far, None if it had not begun."""

    def __init__(self, message, record=None):
        super().__init__(message)
        self.record = record


class NonFiniteError(Stopped, ArithmeticError):
    """A number of the run is infinite or NaN. The record is finite and has the last finite parameters."""


class Terminated(Stopped, SystemExit):
    """SIGTERM or SIGHUP has ended the run. The message is the exit status, 128 + the number of the signal."""


@dataclass
class TrainingRecord:
    """What a run of E epochs and F flossing steps computed; norms are 2-norms, gradients those before clipping.

    Two records are equal (==) if all of this is, exactly, NaN equal to NaN, except elapsed_time and versions.
    """

    parameters: dict  # the 33 arguments
    initial: dict  # of float32 arrays ws (N, S), J (N, N), wr (1, N), b (N,), offset (1,), xInit (N, B)
    final: dict  # the same after the run
    loss: np.ndarray  # (E,) before each update
    accuracy: np.ndarray  # (E,) before each update
    gradient_norm: dict  # of (E,) for ws J wr b offset xInit
    flossing_loss: np.ndarray  # (F,) of every flossing step in the order run
    flossing_epoch: np.ndarray  # (F,) the epoch in which each flossing step ran
    lyapunov_spectrum: np.ndarray  # (F, nLE), 1/step
    flossing_gradient_norm: dict  # of (F,) for ws J b
    first_training_parameters: dict = field(default_factory=dict)  # of arrays, at the first training step
    first_training_gradient: dict = field(default_factory=dict)
    first_flossing_gradient: dict = field(default_factory=dict)  # empty without flossing
    diagnostics: dict = field(default_factory=dict)  # of arrays; empty unless asked for (extras/lyapunov.py)
    interrupted: bool = False  # Ctrl-C or another signal ended the run: then there are fewer than E epochs
    elapsed_time: float = 0.0  # seconds of the training loop
    versions: dict = field(default_factory=dict)  # what made it: engine, python, numpy

    def epoch_learned(self):
        return epoch_learned(self.accuracy)

    def final_accuracy(self):
        """Mean accuracy of the last FINAL_EPOCHS epochs (each a new batch); NaN without epochs."""
        return mean_of_last(self.accuracy)

    def summary(self):
        """How the run ended, in one line."""
        last, learned = min(FINAL_EPOCHS, len(self.loss)), self.epoch_learned()
        means = f"final loss {mean_of_last(self.loss):.4f}, final accuracy {100 * self.final_accuracy():.2f} %"
        return f"{means} (means of the last {last} epochs), " + (f"learned at epoch {learned}" if learned else "not learned")

    def save(self, path):
        """Write the record to `path` (.npz); the file is replaced at once or stays as it was. OSError if it cannot."""
        save_arrays(path, FORMAT, *self.to_arrays())

    def to_arrays(self):
        """(metadata that JSON can hold, flat dict of arrays), what a file holds; members of dicts as "name/member"."""
        metadata, arrays = {name: getattr(self, name) for name in METADATA}, {}
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                arrays[name] = value
            elif name not in METADATA:
                arrays |= {f"{name}/{member}": x for member, x in value.items()}
        return metadata, arrays

    @classmethod
    def from_arrays(cls, metadata, arrays):
        """The inverse of to_arrays."""
        values = {f.name: {} for f in fields(cls)} | metadata
        for name, x in arrays.items():
            outer, _, member = name.partition("/")
            values[outer] = values[outer] | {member: x} if member else x
        return cls(**values)

    def __eq__(self, other):
        return isinstance(other, TrainingRecord) and exact(self) == exact(other)

    def __repr__(self):
        p, end = self.parameters, ", interrupted" if self.interrupted else ""
        what = f"{p['N']} neurons, task {p['task']}, delay {p['delay']}, {len(self.loss)} of {p['E']} epochs{end}"
        return f"TrainingRecord: {what}\n  {self.summary()}"


def load_record(path):
    """The TrainingRecord that record.save(path) wrote. OSError if unreadable, ValueError if damaged or no record."""
    return TrainingRecord.from_arrays(*load_arrays(path, FORMAT, check_record))


def described(p, epochs, steps):
    """Dict name -> (dtype, shape) of a record's arrays after so many epochs and flossing steps; p: dict of the 33."""
    of_epochs, of_steps = (np.float64, (epochs,)), (np.float64, (steps,))
    arrays = {"loss": of_epochs, "accuracy": of_epochs, "flossing_loss": of_steps}
    arrays |= {"flossing_epoch": (np.int64, (steps,)), "lyapunov_spectrum": (np.float32, (steps, p["nLE"]))}
    for name, shape in shapes(p).items():
        arrays |= dict.fromkeys((f"initial/{name}", f"final/{name}"), (np.float32, shape))
        arrays[f"gradient_norm/{name}"] = of_epochs
        if epochs:
            arrays[f"first_training_parameters/{name}"] = np.float32, shape
            arrays[f"first_training_gradient/{name}"] = np.floating, shape
        if name in FLOSSED:
            arrays[f"flossing_gradient_norm/{name}"] = of_steps
        if name in FLOSSED and steps:
            arrays[f"first_flossing_gradient/{name}"] = np.floating, shape
    return arrays


def check_record(metadata, arrays):
    """ValueError unless these are of a record: metadata of the right types, arrays as described and finite."""
    if {name: type(value) for name, value in metadata.items()} != METADATA:
        raise ValueError(f"{', '.join(METADATA)}: missing, or of another type")
    p = metadata["parameters"]
    for name in PARAMETERS:
        check_value(name, p.get(name))
    check_engine(metadata["versions"].get("engine"))
    check_real("elapsed_time", metadata["elapsed_time"])
    epochs, steps = (arrays[name].size if name in arrays else 0 for name in ("loss", "flossing_loss"))
    diagnostics = {name: (np.number, x.shape) for name, x in arrays.items() if name.startswith("diagnostics/")}
    check_arrays(arrays, described(p, epochs, steps) | diagnostics)
    ascending = np.diff(arrays["flossing_epoch"], prepend=1, append=epochs + 1) >= 0
    most = np.unique(arrays["flossing_epoch"], return_counts=True)[1].max(initial=0)
    if epochs > p["E"] or not ascending.all() or most > max(p["Ep"], p["Ei"], 1):
        raise ValueError("more epochs or flossing steps than its parameters allow, or in another order")


def check_arrays(arrays, expected):
    """ValueError unless the names are those of `expected`, dict name -> (dtype, shape), and all entries are finite."""
    if different := sorted(expected.keys() ^ arrays.keys()):
        raise ValueError(f"arrays missing or unknown: {', '.join(different)}")
    for name, (dtype, shape) in expected.items():
        x = arrays[name]
        if not np.issubdtype(x.dtype, dtype) or x.shape != shape or not np.isfinite(x).all():
            raise ValueError(f"{name}: must be finite {dtype.__name__} of shape {shape}, is {x.dtype} of {x.shape}")


def epoch_learned(accuracy):
    """First epoch at which the mean of the last WINDOW accuracies (of E,) exceeds LEARNED; None if never."""
    if len(accuracy) < WINDOW:
        return None
    above = np.flatnonzero(np.convolve(accuracy, np.full(WINDOW, 1 / WINDOW), mode="valid") > LEARNED)
    return int(above[0]) + WINDOW if len(above) else None


def mean_of_last(values):
    return float(np.mean(values[-FINAL_EPOCHS:])) if len(values) else math.nan


def members(name, arrays):
    return {f"{name}/{member}": np.array(x) for member, x in arrays.items()}


def exact(record):
    arrays = {name: (x.dtype, x.shape, x.tobytes()) for name, x in record.to_arrays()[1].items()}
    return record.parameters, record.interrupted, arrays


def norms(name, arrays):
    return {f"{name}/{member}": float(np.sqrt(np.sum(np.square(x, dtype=np.float64)))) for member, x in arrays.items()}
