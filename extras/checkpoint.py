"""Checkpoints: save a run, go on with it later to the same end bit for bit, and end it cleanly on Ctrl-C.

What a run depends on is its arguments, the parameters, the state of both optimisers, how many steps are done and the
record so far. Random streams need not be saved: each epoch and each flossing step seeds its own.
"""

import glob
import signal
import threading
import warnings
from pathlib import Path

import numpy as np

from extras.record import TrainingRecord, equal_arrays, load_arrays, save_arrays, versions
from julia_packages.flux import ADAM
from julia_packages.random import check_integer

FORMAT = "gradient flossing checkpoint 1"
ON_ERROR = ("warn", "stop")


class CheckpointError(ValueError):
    """A checkpoint file is damaged, or of another run; it is left as it is."""


class Interrupted(Exception):
    """Ctrl-C was pressed; raised between two steps only, so that no array is half updated."""


class Checkpoint:
    """Use as a context around the loops of the trainer, and call step_done after every step.

    path: file, or None: nothing is saved, only Ctrl-C is watched. every: steps (of training and flossing) between
    saves. on_error: what to do if a file cannot be written, "warn" (and go on) or "stop". recorder:
    extras.record.Recorder; optimisers: dict of the optimisers of the run, by name.
    """

    def __init__(self, path, every, on_error, recorder, optimisers):
        if on_error not in ON_ERROR:
            raise ValueError(f"checkpoint_errors = {on_error!r}: must be one of {', '.join(ON_ERROR)}")
        self.path = None if path is None else Path(path)
        self.every = check_integer("checkpoint_every", every, minimum=1)
        self.on_error = on_error
        self.recorder, self.optimisers = recorder, optimisers
        self.steps, self.warned, self.pressed = 0, False, False
        self.position = 1, 0, 0

    def resume(self):
        """Where to go on: (epoch ei, flossing steps of ei already done, blocks before ei); (1, 0, 0) without a file.

        CheckpointError for a file that is damaged or belongs to another run. OSError if it cannot be read.
        """
        if self.path is None:
            return self.position
        try:
            metadata, arrays = load_arrays(self.path, FORMAT)
        except FileNotFoundError:
            self.remove_leftovers()
            self.save()  # so that an unwritable place is known before the work and not after
            return self.position
        except ValueError as error:
            raise CheckpointError(f"cannot resume, file left as it is: {error}") from None
        record = TrainingRecord.from_arrays(metadata["record"], part(arrays, "record"))
        self.refuse_other_run(record, metadata["diagnostics"])
        self.remove_leftovers()
        for name, x in self.recorder.ps.items():
            x[...] = record.final[name]
        for name, optimiser in self.optimisers.items():
            set_adam_state(optimiser, self.recorder.ps, part(arrays, name))
        self.recorder.resume(record)
        self.position = tuple(metadata["position"])
        return self.position

    def remove_leftovers(self):
        """Delete the temporary files of saves during which the process was killed."""
        for leftover in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.tmp"):
            leftover.unlink(missing_ok=True)

    def refuse_other_run(self, record, diagnostics):
        here = self.recorder
        made_by = versions(here.engine)
        differences = [
            f"{name} = {record.parameters.get(name)!r} there, {value!r} here"
            for name, value in here.parameters.items()
            if record.parameters.get(name) != value
        ]
        if record.versions["engine"] != here.engine:
            differences.append(f"engine = {record.versions['engine']!r} there, {here.engine!r} here")
        if diagnostics != here.diagnostics.description():
            differences.append(f"diagnostics = {diagnostics} there, {here.diagnostics.description()} here")
        if not differences:
            differences = [
                f"initial {name} differs in {np.sum(record.initial[name] != x)} of {x.size} entries"
                for name, x in here.initial.items()
                if not equal_arrays(record.initial[name], x)
            ]
        if differences:
            raise CheckpointError(f"{self.path}: checkpoint of another run, left as it is: {'; '.join(differences)}")
        for name in ("python", "numpy", "scipy"):
            if record.versions[name] != made_by[name]:
                change = f"{name} {record.versions[name]}, now {made_by[name]}"
                warnings.warn(f"{self.path} was made by {change}: the last bits may differ", stacklevel=4)

    def __enter__(self):
        self.previous_handler = None
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self.previous_handler = signal.signal(signal.SIGINT, self.on_interrupt)
        return self

    def on_interrupt(self, number, frame):
        if self.pressed:  # a second time: at once, whatever is half done
            raise KeyboardInterrupt
        self.pressed = True

    def __exit__(self, kind, error, traceback):
        if self.previous_handler is not None:
            signal.signal(signal.SIGINT, self.previous_handler)
        if kind is None or kind is Interrupted:
            self.save()
        self.recorder.interrupted = kind is Interrupted
        return kind is Interrupted

    def step_done(self, ei, i, ni):
        """A step is over: next come epoch ei after i of its flossing steps; ni blocks were begun before epoch ei."""
        self.position = ei, i, ni
        self.steps += 1
        if self.pressed and ei <= self.recorder.parameters["E"]:
            raise Interrupted
        if self.steps % self.every == 0:
            self.save()

    def save(self):
        if self.path is None:
            return
        record, arrays = self.recorder.record().to_arrays()
        arrays = {f"record/{name}": x for name, x in arrays.items()}
        for name, optimiser in self.optimisers.items():
            arrays |= {f"{name}/{key}": x for key, x in adam_state(optimiser, self.recorder.ps).items()}
        metadata = {
            "position": self.position,
            "diagnostics": self.recorder.diagnostics.description(),
            "record": record,
        }
        try:
            save_arrays(self.path, FORMAT, metadata, arrays)
        except OSError as error:
            if self.on_error == "stop":
                raise
            if not self.warned:
                message = f"checkpoint {self.path} cannot be written ({error}): the run goes on, and tries again"
                warnings.warn(message, RuntimeWarning, stacklevel=2)
            self.warned = True


def part(arrays, name):
    """What lies under "name/" in a flat dict of arrays."""
    return {key[len(name) + 1 :]: x for key, x in arrays.items() if key.startswith(f"{name}/")}


def adam_of(optimiser):
    """The ADAM among nested Optimisers."""
    if isinstance(optimiser, ADAM):
        return optimiser
    found = [adam_of(o) for o in getattr(optimiser, "os", [])]
    return next(filter(None, found), None)


def adam_state(optimiser, ps):
    """Moments and powers of beta of every array that had a step: dict "name/mt", "name/vt", "name/powers"."""
    state = adam_of(optimiser).state
    flat = {}
    for name, x in ps.items():
        if id(x) in state:
            mt, vt, powers = state[id(x)]
            flat |= {f"{name}/mt": mt, f"{name}/vt": vt, f"{name}/powers": np.array(powers, np.float64)}
    return flat


def set_adam_state(optimiser, ps, flat):
    state = adam_of(optimiser).state
    for name, x in ps.items():
        if f"{name}/mt" in flat:
            state[id(x)] = flat[f"{name}/mt"], flat[f"{name}/vt"], tuple(flat[f"{name}/powers"].tolist())
