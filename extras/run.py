"""The seam between the trainer and all that hangs off a training run: what is printed, kept, saved and watched.

Nothing here changes a number of the run or draws from a stream that it uses. The trainer makes one Run, loops over
its epochs and flossing steps, and hands each step's loss and gradients to it.
"""

import math
import signal
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np

from extras.check_parameters import check_engine, check_flag, check_initial, interflossing_blocks
from extras.checkpoint import Checkpoint, CheckpointError, adam_state, part, set_adam_state
from extras.lyapunov import check_diagnostics
from extras.progress import Progress
from extras.record import FLOSSED, TRAINED, NonFiniteError, TrainingRecord, members, norm, versions


class Interrupted(Exception):
    """Ctrl-C was pressed; raised between two steps only, so that no array is half updated."""


class Run:
    """One call of train_rnn_flossing; its keywords, see there, are checked here before anything is printed or drawn.

    parameters: the 33, checked. initial: dict of the arrays given instead of drawn ones. blocks: interflossing blocks
    already begun, 0 unless the run goes on from a checkpoint.
    """

    def __init__(self, parameters, engine, progress, initial, checkpoint, checkpoint_every, diagnostics):
        p = self.parameters = parameters._asdict()
        check_engine(engine)
        check_flag("progress", progress)
        self.engine = engine
        self.initial = check_initial(initial, p)
        self.diagnostics = check_diagnostics(diagnostics, p)
        identity = p | {"engine": engine, "diagnostics": self.diagnostics.description()}
        given = {name: x.copy() for name, x in self.initial.items()}  # the trainer changes the arrays in place
        self.checkpoint = Checkpoint(checkpoint, checkpoint_every, identity, given)
        self.progress = Progress(progress, p)
        self.print = self.progress.line
        names = ["loss", "accuracy", *(f"gradient_norm/{name}" for name in TRAINED), "flossing_loss"]
        self.columns = {name: Column(float) for name in names + [f"flossing_gradient_norm/{name}" for name in FLOSSED]}
        self.columns |= {"flossing_epoch": Column(int), "lyapunov_spectrum": Column(np.float32, (p["nLE"],))}
        self.first = {}  # the fields first_* of the record, as "name/member"
        self.interrupted, self.pressed = False, False
        self.ei, self.flossed = self.checkpoint.saved[0]["position"] if self.checkpoint.saved else (1, 0)
        self.blocks = interflossing_blocks(p, self.ei - 1)

    # ---- what the trainer calls

    @contextmanager
    def started(self, ps, **optimisers):
        """Around the loops of the trainer. ps: dict of the live arrays, changed in place; optimisers: by name.

        Goes on from the checkpoint, if there is one; on Ctrl-C ends the run after the step under way; saves at the end.
        """
        self.ps, self.optimisers = ps, optimisers
        self.drawn = members("initial", ps)
        self.before = {name: x.copy() for name, x in ps.items()}
        self.since = time.perf_counter()
        if self.checkpoint.path is not None:
            self.resume()
            self.save(last=True)  # so that a full disk is known before the work and not after
        with self.interrupt_watched(), np.errstate(all="ignore"):
            try:
                yield
                self.check_parameters_finite()
            except Interrupted:
                self.interrupted = True
            finally:
                self.progress.status.erase()
        if self.interrupted:
            self.say_interrupted()
        self.save(last=True)
        self.print(f"{time.perf_counter() - self.since:11.6f} seconds")

    def epochs(self, E):
        """Yields the epochs ei that are left, as `for ei = 1:E`."""
        self.progress.clock(None)
        for ei in range(self.ei, E + 1):
            self.ei = ei
            yield ei
            loss, accuracy = (self.columns[name].last() for name in ("loss", "accuracy"))
            self.progress.epoch(ei, loss, accuracy)
            self.step_done(ei + 1, 0)

    def flossing_steps(self, steps):
        """Yields the flossing steps i of a block that are left, as `for i = 1:steps`."""
        since = time.perf_counter()
        self.progress.clock(None)
        for i in range(self.flossed + 1, steps + 1):
            yield i
            if len(self.columns["flossing_loss"]):
                self.progress.flossing(self.ei, i, steps, self.columns["flossing_loss"].last())
            self.step_done(self.ei, i)
        self.flossed = 0
        self.progress.clock(None)
        self.print(f"{time.perf_counter() - since:11.6f} seconds")  # as Julia's @time

    def training_step(self, loss, accuracy, gs):
        """Keep loss, accuracy and gradients gs of a training step, before the update."""
        self.check_parameters_finite()
        norms = {f"gradient_norm/{name}": norm(gs[name]) for name in TRAINED}
        step = {"loss": loss, "accuracy": accuracy} | norms
        self.check_finite("training", step)
        looked_at = self.diagnostics.before_update(self.parameters, self.ps, self.ei, gs)
        self.check_finite("training", looked_at)
        if not len(self.columns["loss"]):
            self.first |= members("first_training_parameters", self.ps) | members("first_training_gradient", gs)
        self.add(step | looked_at)

    def training_update(self, steps):
        """Look at the steps (dict of arrays) that the optimiser made of the gradients."""
        self.add(self.diagnostics.after_update(steps))

    def flossing_step(self, loss, spectrum, gs):
        """Keep loss, spectrum (nLE,) and gradients gs of a flossing step, before the update."""
        self.check_parameters_finite()
        norms = {f"flossing_gradient_norm/{name}": norm(gs[name]) for name in FLOSSED}
        step = {"flossing_loss": loss, "flossing_epoch": self.ei, "lyapunov_spectrum": spectrum}
        self.check_finite("flossing", step | norms)
        if not len(self.columns["flossing_loss"]):
            self.first |= members("first_flossing_gradient", gs)
        self.add(step | norms)

    def record(self):
        """The TrainingRecord of the run so far."""
        metadata, arrays = self.to_arrays()
        return TrainingRecord.from_arrays(metadata, {name: x.copy() for name, x in arrays.items()})

    # ---- keeping

    def to_arrays(self):
        metadata = {
            "parameters": dict(self.parameters),
            "interrupted": self.interrupted,
            "elapsed_time": time.perf_counter() - self.since,
            "versions": versions(self.engine),
        }
        arrays = {name: column.array() for name, column in self.columns.items()}
        return metadata, arrays | self.first | self.drawn | members("final", self.ps)

    def check_finite(self, kind, values):
        """NonFiniteError unless all values (dict of numbers and arrays) of this step are finite."""
        bad = [f"{name} = {shortened(value)}" for name, value in values.items() if not is_finite(value)]
        if bad:
            raise self.non_finite(f"{kind} step {self.steps_of_epoch(kind) + 1}: {', '.join(bad)}")

    def add(self, values):
        """A value for each named column."""
        for name, value in values.items():
            if name not in self.columns:
                self.columns[name] = Column(np.asarray(value).dtype, np.shape(value))
            self.columns[name].append(value)

    def check_parameters_finite(self):
        """Keep a copy of the parameters; if the last update made one infinite or NaN, return to the copy and say so."""
        bad = [name for name, x in self.ps.items() if not np.isfinite(x).all()]
        source, destination = (self.before, self.ps) if bad else (self.ps, self.before)
        for name, x in destination.items():
            x[...] = source[name]
        if bad:
            raise self.non_finite(f"the last update made {', '.join(bad)} infinite or NaN")

    def non_finite(self, what):
        """The NonFiniteError to raise."""
        finite = []
        if len(losses := self.columns["loss"]):
            finite.append(f"training loss {losses.last():.6g} at epoch {len(losses)}")
        if len(losses := self.columns["flossing_loss"]):
            epoch = self.columns["flossing_epoch"].last()
            finite.append(f"flossing loss {losses.last():.6g} at epoch {epoch}, step {self.steps_of_epoch('flossing', epoch)}")
        return NonFiniteError(
            f"epoch {self.ei}, {what}; last finite: {' and '.join(finite) or 'nothing'}. "
            "This error's .record holds the run so far, with the last finite parameters.",
            self.record(),
        )

    def steps_of_epoch(self, kind, epoch=None):
        """How many flossing steps are kept of an epoch, by default the present one; of training: how many epochs."""
        if kind == "training":
            return len(self.columns["loss"])
        return int(np.sum(self.columns["flossing_epoch"].array() == (epoch or self.ei)))

    # ---- saving and going on

    def step_done(self, ei, flossed):
        """A step is over: next comes epoch ei after so many of its flossing steps."""
        self.position = ei, flossed
        self.checkpoint.steps += 1
        if self.pressed and ei <= self.parameters["E"]:
            raise Interrupted
        if self.checkpoint.steps % self.checkpoint.every == 0:
            self.save()

    def save(self, last=False):
        if self.checkpoint.path is None:
            return
        record, arrays = self.to_arrays()
        arrays = {f"record/{name}": x for name, x in arrays.items()}
        for name, optimiser in self.optimisers.items():
            arrays |= {f"{name}/{key}": x for key, x in adam_state(optimiser, self.ps).items()}
        try:
            self.checkpoint.save({"position": self.position, "record": record}, arrays, last)
        except CheckpointError as error:
            error.record = self.record()
            raise

    def resume(self):
        """Take over what the checkpoint holds; without a file there is nothing to take over."""
        self.position = self.ei, self.flossed
        self.checkpoint.remove_leftovers()
        if not self.checkpoint.saved:
            return
        metadata, arrays = self.checkpoint.saved
        for name, x in part(arrays, "record").items():
            outer, _, inner = name.partition("/")
            if outer == "initial":
                self.drawn[name] = x
            elif outer == "final":
                self.ps[inner][...] = self.before[inner][...] = x
            elif outer.startswith("first_"):
                self.first[name] = x
            else:
                self.columns[name] = Column.of(x)
        for name, optimiser in self.optimisers.items():
            set_adam_state(optimiser, self.ps, part(arrays, name))
        self.since -= metadata["record"]["elapsed_time"]
        self.progress.flossing_left -= len(self.columns["flossing_loss"])
        E = self.parameters["E"]
        self.print(f"already finished: {self.checkpoint.path}" if self.ei > E else f"going on at epoch {self.ei} of {E}")

    # ---- Ctrl-C

    @contextmanager
    def interrupt_watched(self):
        in_main_thread = threading.current_thread() is threading.main_thread()
        if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self.on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_interrupt(self, number, frame):
        if self.pressed:  # a second time: at once, whatever is half done
            raise KeyboardInterrupt
        self.pressed = True

    def say_interrupted(self):
        path = self.checkpoint.path
        go_on = f"the same call goes on from {path}" if path else "with checkpoint=FILE the same call can go on"
        if self.progress.enabled:
            self.progress.status.erase()
            epochs = f"{len(self.columns['loss'])} of {self.parameters['E']} epochs"
            print(f"interrupted after {epochs}; {go_on}", file=sys.stderr, flush=True)


class Column:
    """A growing array: to append and to look at all of it costs the same, however long it is."""

    def __init__(self, dtype, shape=()):
        self.data, self.n = np.empty((64, *shape), dtype), 0

    @classmethod
    def of(cls, rows):
        column = cls(rows.dtype, rows.shape[1:])
        column.data, column.n = rows, len(rows)
        return column

    def append(self, value):
        if self.n == len(self.data):
            more = np.empty((max(64, self.n), *self.data.shape[1:]), self.data.dtype)
            self.data = np.concatenate([self.data, more])
        self.data[self.n] = value
        self.n += 1

    def array(self):
        """The rows so far, (n, ...): a view."""
        return self.data[: self.n]

    def last(self):
        return self.data[self.n - 1]

    def __len__(self):
        return self.n


def is_finite(value):
    return np.isfinite(value).all() if isinstance(value, np.ndarray) else math.isfinite(value)  # NumPy is slow for a number


def shortened(value):
    """A number, or which entry of an array is the first that is not finite."""
    if np.ndim(value) == 0:
        return f"{value}"
    index = np.flatnonzero(~np.isfinite(np.ravel(value)))[0]
    return f"{np.ravel(value)[index]} at index {index}"
