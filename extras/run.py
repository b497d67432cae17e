"""The seam between the trainer and everything around a training run: what is printed, kept, saved and watched.

Nothing here changes a number of the run or draws from a stream that it uses. The trainer makes one Run, loops over
its epochs and flossing steps, and hands each step's loss and gradients to it.
"""

import platform
import signal
import time
from collections import defaultdict
from contextlib import contextmanager
from hashlib import sha256

import numpy as np

from extras.check_parameters import check_engine, check_flag, check_initial, flossing_steps, interflossing_epochs
from extras.checkpoint import Checkpoint
from extras.lyapunov import check_diagnostics
from extras.progress import Progress
from extras.record import NonFiniteError, Terminated, TrainingRecord, described, members, norms
from extras.signals import handled


class Run:
    """One call of train_rnn_flossing; its keywords, see there, are checked here before anything is printed or drawn.

    initial: dict of the arrays given instead of drawn ones; blocks: interflossing blocks in the epochs already done.
    """

    def __init__(self, parameters, engine, progress, initial, checkpoint, checkpoint_every, diagnostics):
        p = self.parameters = parameters._asdict()
        check_engine(engine)
        check_flag("progress", progress)
        self.versions = {"engine": engine, "python": platform.python_version(), "numpy": np.__version__}
        self.initial = check_initial(initial, p)
        self.diagnostics = check_diagnostics(diagnostics, p)
        given = {name: sha256(x.tobytes()).hexdigest()[:16] for name, x in self.initial.items()}
        options = {"engine": engine, "diagnostics": self.diagnostics.description(), "initial": given}
        self.checkpoint = Checkpoint(checkpoint, checkpoint_every, p, options)
        self.columns = defaultdict(list)  # what grows by a value at each step
        self.fixed = {}  # what does not: the arrays initial/..., first_.../..., and final/... of a checkpoint
        self.signal, self.interrupted, self.steps, self.elapsed = None, False, 0, 0.0
        if self.checkpoint.saved:
            self.take_over(*self.checkpoint.saved)
        self.ei = len(self.columns["loss"]) + 1
        self.flossed = self.columns["flossing_epoch"].count(self.ei)  # steps of the present block that are done
        self.blocks = len(interflossing_epochs(p, self.ei - 1))
        self.progress = Progress(progress, p["E"], flossing_steps(p) - len(self.columns["flossing_loss"]))
        self.print = self.progress.status.line

    @contextmanager
    def started(self, ps, **optimisers):
        """Around the loops of the trainer. ps: dict of the live arrays, changed in place; optimisers: opt, optFlossing.

        Goes on from the checkpoint, if there is one; a signal ends the run after the step under way; saves at the end.
        """
        self.ps, self.optimisers = ps, optimisers
        self.fixed = members("initial", ps) | self.fixed
        self.since = time.perf_counter() - self.elapsed
        with self.checkpoint.held, handled(self.on_signal), np.errstate(all="ignore"):
            if self.checkpoint.saved:
                self.checkpoint.restore(ps, optimisers)
                self.print(f"going on after {len(self.columns['loss'])} of {self.parameters['E']} epochs")
            self.before = {name: x.copy() for name, x in ps.items()}
            self.save()  # so that a full disk is known before the work and not after
            try:
                yield
                self.keep_finite()
            except Terminated:
                self.interrupted = True
            finally:
                self.progress.status.erase()
            self.save()
        self.print(f"{time.perf_counter() - self.since:11.6f} seconds")
        if self.signal not in (None, signal.SIGINT):
            raise Terminated(128 + self.signal, self.record())

    def epochs(self, E):
        """Yields the epochs ei that are left, as `for ei = 1:E`."""
        self.progress.since = time.perf_counter()
        for ei in range(self.ei, E + 1):
            self.ei = ei
            yield ei
            self.progress.training(ei, self.columns["loss"][-1], self.columns["accuracy"][-1])
            self.step_done()

    def flossing_steps(self, steps):
        """Yields the flossing steps i of a block that are left, as `for i = 1:steps`."""
        since = time.perf_counter()
        for i in range(self.flossed + 1, steps + 1):
            yield i
            if self.columns["flossing_loss"]:
                self.progress.flossing(self.ei, i, steps, self.columns["flossing_loss"][-1])
            self.step_done()
        self.flossed = 0
        self.print(f"{time.perf_counter() - since:11.6f} seconds")  # as Julia's @time

    def training_step(self, loss, accuracy, gs):
        """Keep loss, accuracy and gradients gs of a training step, before the update."""
        self.keep_finite()
        step = {"loss": loss, "accuracy": accuracy} | norms("gradient_norm", gs)
        self.check_finite(step)
        looked_at = self.diagnostics.before_update(self.parameters, self.ps, self.ei)
        self.check_finite(looked_at)
        if not self.columns["loss"]:
            self.fixed |= members("first_training_parameters", self.ps) | members("first_training_gradient", gs)
        self.add(step | looked_at)

    def training_update(self, steps):
        """Look at the steps (dict of arrays) that the optimiser made of the gradients."""
        self.add(self.diagnostics.after_update(steps))

    def flossing_step(self, loss, spectrum, gs):
        """Keep loss, spectrum (nLE,) and gradients gs of a flossing step, before the update."""
        self.keep_finite()
        step = {"flossing_loss": loss, "flossing_epoch": self.ei, "lyapunov_spectrum": spectrum}
        step |= norms("flossing_gradient_norm", gs)
        self.check_finite(step)
        if not self.columns["flossing_loss"]:
            self.fixed |= members("first_flossing_gradient", gs)
        self.add(step)

    def record(self):
        """The TrainingRecord of the run so far."""
        metadata = {"parameters": dict(self.parameters), "interrupted": self.interrupted, "versions": dict(self.versions)}
        metadata["elapsed_time"] = time.perf_counter() - self.since
        arrays = self.fixed | members("final", self.ps)
        epochs, steps = len(self.columns["loss"]), len(self.columns["flossing_loss"])
        for name, (dtype, shape) in described(self.parameters, epochs, steps).items():
            if name not in arrays:
                arrays[name] = np.array(self.columns[name], dtype).reshape(shape)
        diagnostics = {name: np.array(rows) for name, rows in self.columns.items() if name not in arrays}
        return TrainingRecord.from_arrays(metadata, arrays | diagnostics)

    def add(self, values):
        """A value for each named column."""
        for name, value in values.items():
            self.columns[name].append(value.copy() if isinstance(value, np.ndarray) else value)

    def check_finite(self, values, where=""):
        """NonFiniteError, with the last finite parameters, unless all values (dict of numbers and arrays) are finite."""
        if bad := [name for name, value in values.items() if not np.isfinite(value).all()]:
            for name, x in self.ps.items():
                x[...] = self.before[name]
            what = f"{where}{', '.join(bad)} infinite or NaN"
            raise NonFiniteError(f"epoch {self.ei}, {what}; this error's .record is the run so far", self.record())

    def keep_finite(self):
        """Keep a copy of the parameters, unless the last update made one infinite or NaN."""
        self.check_finite(self.ps, "the last update: ")
        for name, x in self.ps.items():
            self.before[name][...] = x

    def on_signal(self, number, frame):
        if number == self.signal == signal.SIGINT:  # a second time: at once, whatever is half done
            raise KeyboardInterrupt
        self.signal = number

    def step_done(self):
        """Between two steps, where no array is half updated: the place to end the run, and to save it."""
        if self.signal is not None and len(self.columns["loss"]) < self.parameters["E"]:
            raise Terminated(128 + self.signal)  # caught in started()
        self.steps += 1
        if self.steps % self.checkpoint.every == 0:
            self.save()

    def save(self):
        if self.checkpoint.path is not None:
            self.checkpoint.save(self.record(), self.ps, self.optimisers)

    def take_over(self, metadata, arrays):
        """Go on with the record so far, which a checkpoint holds."""
        self.elapsed = metadata["elapsed_time"]
        self.fixed = {name: x for name, x in arrays.items() if name.startswith(("initial/", "final/", "first_"))}
        self.columns |= {name: list(x) for name, x in arrays.items() if name not in self.fixed}
