"""The record of a training run: everything that the original computes and drops."""

import json
import platform
from dataclasses import dataclass, field

import numpy as np

TRAINED = ("ws", "J", "wr", "b", "offset", "xInit")
FLOSSED = ("ws", "J", "b")


@dataclass(eq=False, repr=False)
class TrainingRecord:
    """Parameters, loss, accuracy and gradients of a run (E epochs, F flossing steps); what DESIGN names.

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
    elapsed_time           seconds of the training loop; versions: dict of what made it
    """

    parameters: dict
    initial: dict
    versions: dict
    loss: np.ndarray = None
    accuracy: np.ndarray = None
    gradient_norm: dict = None
    flossing_loss: np.ndarray = None
    flossing_epoch: np.ndarray = None
    lyapunov_spectrum: np.ndarray = None
    flossing_gradient_norm: dict = None
    final: dict = None
    first_training_parameters: dict = field(default_factory=dict)
    first_training_gradient: dict = field(default_factory=dict)
    first_flossing_gradient: dict = field(default_factory=dict)
    elapsed_time: float = 0.0

    @classmethod
    def start(cls, parameters, ps):
        """An empty record with the initial parameters ps (copied)."""
        record = cls(parameters=dict(parameters), initial=copied(ps), versions=versions())
        record._rows = {"loss": [], "accuracy": [], "flossing_loss": [], "flossing_epoch": [], "lyapunov_spectrum": []}
        record._norms = {name: [] for name in TRAINED}
        record._flossing_norms = {name: [] for name in FLOSSED}
        return record

    def add_training_step(self, loss, accuracy, gs, ps):
        if not self._rows["loss"]:
            self.first_training_parameters, self.first_training_gradient = copied(ps), copied(gs)
        self._rows["loss"].append(loss)
        self._rows["accuracy"].append(accuracy)
        for name in TRAINED:
            self._norms[name].append(norm(gs[name]))

    def add_flossing_step(self, ei, loss, spectrum, gs):
        if not self._rows["flossing_loss"]:
            self.first_flossing_gradient = copied(gs)
        self._rows["flossing_loss"].append(loss)
        self._rows["flossing_epoch"].append(ei)
        self._rows["lyapunov_spectrum"].append(np.array(spectrum))
        for name in FLOSSED:
            self._flossing_norms[name].append(norm(gs[name]))

    def finish(self, ps, elapsed_time):
        """Turn what was added so far into arrays, and keep the parameters ps as the final ones."""
        nLE = self.parameters["nLE"]
        self.loss = np.array(self._rows["loss"], float)
        self.accuracy = np.array(self._rows["accuracy"], float)
        self.flossing_loss = np.array(self._rows["flossing_loss"], float)
        self.flossing_epoch = np.array(self._rows["flossing_epoch"], int)
        self.lyapunov_spectrum = np.array(self._rows["lyapunov_spectrum"], np.float32).reshape(-1, nLE)
        self.gradient_norm = {name: np.array(v) for name, v in self._norms.items()}
        self.flossing_gradient_norm = {name: np.array(v) for name, v in self._flossing_norms.items()}
        self.final = copied(ps)
        self.elapsed_time = elapsed_time


def copied(arrays):
    return {name: np.array(a) for name, a in arrays.items()}


def norm(x):
    return float(np.sqrt(np.sum(np.square(x, dtype=np.float64))))


def versions():
    return {"python": platform.python_version(), "numpy": np.__version__}
