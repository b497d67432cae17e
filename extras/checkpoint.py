"""Checkpoint files: all that a run depends on, from which it goes on to the same end bit for bit.

That is its arguments, the parameters, the state of both optimisers, how many steps are done and the record so far. Random
streams need not be saved: each epoch and each flossing step seeds its own.
"""

import glob
import os
import warnings
from pathlib import Path

import numpy as np

from extras.record import load_arrays, probe, save_arrays, versions
from julia_packages.flux import ADAM
from julia_packages.checks import check_integer, shown

FORMAT = "gradient flossing checkpoint 2"


class CheckpointError(ValueError):
    """A checkpoint cannot be written, is damaged, or is that of another run; such a file is left as it is.

    record: the run so far, if it was a save that failed.
    """

    record = None


class Checkpoint:
    """The file `path` of a run, or None. every: steps (of training and flossing) between two saves.

    identity: dict of what makes two runs the same, for JSON; initial: dict of the arrays given instead of drawn ones.
    `saved` is None, or what the file holds: (metadata, arrays). CheckpointError if the place or the file will not do.
    """

    def __init__(self, path, every, identity, initial):
        self.every = check_integer("checkpoint_every", every, minimum=1)
        self.path = None if path is None else checked_path(path)
        self.identity, self.initial = identity, initial
        self.steps, self.failed, self.saved = 0, None, None
        if self.path is not None and self.path.exists():
            self.saved = self.load()
        elif self.path is not None:
            try:
                probe(self.path)
            except OSError as error:
                raise CheckpointError(f"checkpoint = {shown(str(self.path))}: cannot be written ({error})") from None

    def load(self):
        try:
            metadata, arrays = load_arrays(self.path, FORMAT)
        except (ValueError, OSError) as error:
            raise CheckpointError(f"checkpoint, left as it is: {error}") from None
        differences = differing(metadata["identity"], self.identity) or differing_arrays(
            part(arrays, "given"), self.initial
        )
        if differences:
            raise CheckpointError(f"{self.path}: checkpoint of another run, left as it is: {'; '.join(differences)}")
        made_by, now = metadata["record"]["versions"], versions(self.identity["engine"])
        changed = [f"{name} {made_by[name]}, now {now[name]}" for name in made_by if name in now and made_by[name] != now[name]]
        if changed:
            warnings.warn(f"{self.path} was made by {', '.join(changed)}: the last bits may differ", stacklevel=5)
        return metadata, arrays

    def remove_leftovers(self):
        """Delete the temporary files of saves during which the process was killed."""
        for leftover in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.tmp"):
            leftover.unlink(missing_ok=True)

    def save(self, metadata, arrays, last=False):
        """Write the file. If it cannot be written, warn once and try again at the next save; the last one must succeed."""
        given = {f"given/{name}": x for name, x in self.initial.items()}
        try:
            save_arrays(self.path, FORMAT, metadata | {"identity": self.identity}, given | arrays)
        except OSError as error:
            message = f"checkpoint {self.path} cannot be written ({error})"
            if last:
                raise CheckpointError(message) from None
            if self.failed is None:
                warnings.warn(f"{message}: the run goes on, and tries again", RuntimeWarning, stacklevel=2)
            self.failed = error


def checked_path(path):
    """A Path in a folder that exists; ValueError for what cannot be the name of a file."""
    if not isinstance(path, (str, os.PathLike)) or "\0" in str(path) or not str(path):
        raise ValueError(f"checkpoint = {shown(path)}: must be None or the path of a file")
    try:
        path = Path(path)
        if path.is_dir():
            raise ValueError(f"checkpoint = {shown(str(path))}: is a folder, must be a file in it")
        if not path.parent.is_dir():
            raise ValueError(f"checkpoint = {shown(str(path))}: there is no folder {shown(str(path.parent))}")
    except OSError as error:  # a name that is too long, say
        raise ValueError(f"checkpoint = {shown(str(path))}: cannot be a file ({error.strerror})") from None
    return path


def differing(there, here):
    return [
        f"{name} = {there.get(name)!r} there, {value!r} here" for name, value in here.items() if there.get(name) != value
    ]


def differing_arrays(there, here):
    """initial given for one run and not for the other, or with other entries."""
    differences = [f"initial {name} given for one of the two only" for name in sorted(there.keys() ^ here.keys())]
    for name in there.keys() & here.keys():
        if not np.array_equal(there[name], here[name]):
            differences.append(f"initial {name} differs in {np.sum(there[name] != here[name])} of {here[name].size} entries")
    return differences


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
