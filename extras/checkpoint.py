"""Checkpoint files, from which a run goes on to the same end bit for bit: its record so far, and both optimisers' state.

Random streams need not be saved: each epoch and each flossing step seeds its own.
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from extras.check_parameters import shapes
from extras.files import load_arrays, locked, save_arrays
from extras.record import Stopped, check_arrays, check_record, members
from julia_packages.checks import check_integer, shown
from julia_packages.flux import ADAM

FORMAT = "gradient flossing checkpoint 3"


class CheckpointError(Stopped, ValueError):
    """A checkpoint cannot be read or written, is damaged, in use, or another run's; the file is left alone."""


class Checkpoint:
    """The file `path` of a run, or None. every: steps (of training and flossing) between two saves.

    parameters, options: two dicts, for JSON, of what makes two runs the same. `saved` is None, or (metadata, arrays) of
    the record so far. `held` is a context: at its end others may use the file.
    """

    def __init__(self, path, every, parameters, options):
        self.every = check_integer("checkpoint_every", every, minimum=1)
        self.path, self.parameters, self.options, self.saved = path, parameters, options, None
        with ExitStack() as held:
            if path is not None:
                try:
                    held.enter_context(locked(path))
                    self.path = Path(path)
                    self.saved = self.load() if self.path.exists() else None
                except (OSError, TypeError, ValueError) as error:
                    place = path if isinstance(path, (str, Path)) else shown(path)
                    raise CheckpointError(f"checkpoint = {place}: {str(error).removeprefix(f'{place}: ')}") from None
            self.held = held.pop_all()

    def load(self):
        metadata, self.arrays = load_arrays(self.path, FORMAT, check_checkpoint)
        record = metadata["record"]
        if different := differing(record["parameters"] | metadata["options"], self.parameters | self.options):
            raise ValueError(f"checkpoint of another run, left as it is: {different}")
        return record, part(self.arrays, "record")

    def restore(self, ps, optimisers):
        """Put what was saved into the parameters ps (dict of arrays, in place) and into the optimisers (dict)."""
        for name, x in ps.items():
            x[...] = self.arrays[f"record/final/{name}"]
            for outer, optimiser in optimisers.items():
                mt, vt, powers = (self.arrays[f"{outer}/{name}/{kind}"] for kind in ("mt", "vt", "powers"))
                adam_of(optimiser).state[id(x)] = mt, vt, tuple(powers.tolist())

    def save(self, record, ps, optimisers):
        """Write the file; CheckpointError with the record, which is the run so far, if that fails."""
        metadata, arrays = record.to_arrays()
        arrays = {f"record/{name}": x for name, x in arrays.items()}  # members() would copy the whole record
        for outer, optimiser in optimisers.items():
            adam = adam_of(optimiser)
            for name, x in ps.items():
                mt, vt, powers = adam.state.get(id(x)) or (np.zeros_like(x), np.zeros_like(x), adam.beta)  # as at first
                arrays |= members(f"{outer}/{name}", {"mt": mt, "vt": vt, "powers": powers})
        try:
            save_arrays(self.path, FORMAT, {"record": metadata, "options": self.options}, arrays)
        except OSError as error:
            raise CheckpointError(f"checkpoint {self.path} cannot be written ({error})", record) from None


def check_checkpoint(metadata, arrays):
    """ValueError unless these are of a checkpoint: a record, options, and the state of both optimisers."""
    if {name: type(value) for name, value in metadata.items()} != {"record": dict, "options": dict}:
        raise ValueError("record, options: these are not of a checkpoint")
    check_record(metadata["record"], part(arrays, "record"))
    expected = {name: (np.number, x.shape) for name, x in arrays.items() if name.startswith("record/")}
    for name, shape in shapes(metadata["record"]["parameters"]).items():
        for outer in ("opt", "optFlossing"):
            expected |= dict.fromkeys((f"{outer}/{name}/mt", f"{outer}/{name}/vt"), (np.float32, shape))
            expected[f"{outer}/{name}/powers"] = np.float64, (2,)
    check_arrays(arrays, expected)


def differing(there, here):
    """What is there and differs from here, two dicts, as text: "E = 3001, Ef = 100"."""
    return ", ".join(f"{name} = {there.get(name)!r}" for name, value in here.items() if there.get(name) != value)


def part(arrays, name):
    """What lies under "name/" in a flat dict of arrays."""
    return {key.removeprefix(f"{name}/"): x for key, x in arrays.items() if key.startswith(f"{name}/")}


def adam_of(optimiser):
    """The ADAM among nested Optimisers."""
    return optimiser if isinstance(optimiser, ADAM) else next(filter(None, map(adam_of, getattr(optimiser, "os", []))), None)
