"""Recordings of the original, and runs of the port brought to the names of the recordings.

A recording is a dict of arrays in Julia's shapes: a[i-1, j-1] here is a[i, j] there. Its names are explained in
tests/side_by_side/README.md; "julia_arguments" is text.
"""

import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import gradient_flossing_example as port
from extras.check_parameters import Parameters
from extras.lyapunov import Diagnostics
from extras.record import FLOSSED, TRAINED, NonFiniteError
from julia_packages.random import MersenneTwister

REFERENCE = ROOT / "tests" / "reference"


def read_recording(path):
    """Dict of arrays from a folder that record_original.jl wrote, or from an .npz as in tests/reference."""
    path = Path(path)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    recording = {}
    for line in (path / "manifest.txt").read_text().splitlines():
        if line.startswith("#"):
            key, _, value = line[1:].partition(":")
            if key.strip() == "julia_arguments":
                recording["julia_arguments"] = np.array(value.strip())
            continue
        name, eltype, sizes = line.split()
        shape = tuple(int(size) for size in sizes.split(","))
        recording[name] = np.fromfile(path / f"{name}.bin", eltype.lower()).reshape(shape, order="F")
    return recording


def read_arguments(recording):
    """The 33 arguments of a recording (Parameters); a Julia Float32 such as 0.001f0 keeps its Float32 value."""

    def number(literal):
        if re.fullmatch(r"[+-]?\d+", literal):
            return int(literal)
        if "f" in literal:
            return float(np.float32(literal.replace("f", "e")))
        return float(literal)

    arguments = [number(literal.strip()) for literal in str(recording["julia_arguments"]).strip("() \n").split(",")]
    if len(arguments) != len(Parameters._fields):
        raise ValueError(f"{len(arguments)} arguments in the recording, expected {len(Parameters._fields)}")
    return Parameters(*arguments)


@contextmanager
def patched(**functions):
    """Within the block the port's module uses these functions instead of its own ones of the same names."""
    own = {name: getattr(port, name) for name in functions}
    vars(port).update(functions)
    try:
        yield
    finally:
        vars(port).update(own)


@dataclass(eq=False)
class Start:
    """Where a run begins: initial, dict of arrays in place of drawn ones; epochs: how many of the E it does, None: all."""

    initial: dict
    epochs: int | None = None


def run_port(arguments, engine="adjoint", start=Start({})):
    """A run of the port under the recordings' names, with the first batch of each kind that it trained and flossed with.

    If a number becomes infinite or NaN: what it did before.
    """
    run = {}

    def watched(engines, *names, epochs=None):
        def make(*settings):
            gradient, steps = engines(*settings), count(1)

            def call(*batch_and_parameters):
                for name, batch in zip(names, batch_and_parameters):
                    run.setdefault(name, np.array(batch))
                loss, accuracy_or_spectrum, gs = gradient(*batch_and_parameters)
                # E, which is part of the seeds, stays: a loss that is not finite ends the run
                over = epochs is not None and next(steps) > epochs
                return np.nan if over else loss, accuracy_or_spectrum, gs

            return call

        return make

    training = watched(port.training_engine, "train1_s", "train1_r", epochs=start.epochs)
    options = {"progress": False, "initial": start.initial, "diagnostics": Diagnostics(singular_values=True)}
    try:
        with patched(training_engine=training, flossing_engine=watched(port.flossing_engine, "floss1_s")):
            record = port.train_rnn_flossing(*arguments, engine=engine, **options)
    except NonFiniteError as error:
        record = error.record
    run |= {"loss": record.loss, "accuracy": record.accuracy}
    run["gradnorm"] = np.array([record.gradient_norm[name] for name in TRAINED])
    for name in ("J", "xInit"):
        run[f"svd{name}"] = record.diagnostics.get(f"singular_values_step_{name}", np.zeros((0, 0))).T
    run["floss_loss"], run["floss_spectrum"] = record.flossing_loss, record.lyapunov_spectrum.T
    run["floss_gradnorm"] = np.array([record.flossing_gradient_norm[name] for name in FLOSSED])
    for name in TRAINED:
        run[f"init_{name}"], run[f"final_{name}"] = record.initial[name], record.final[name]
    return run


def after_preflossing(recording):
    """The part of a recording from its first training step up to the next flossing, if it begins with flossing.

    (arguments, Start) of the run of the port that begins there, at the recorded parameters, and the recording cut to it.
    """
    a = read_arguments(recording)
    blocks_follow = a.Ni > 0 and a.Ei > 0 and a.nLE > 0
    epochs = min(a.E, max(a.Ef, 2) - 1) if blocks_follow else a.E
    cut = {name: recording[name][..., :epochs] for name in ("loss", "accuracy", "gradnorm", "svdJ", "svdxInit")}
    if epochs == a.E:
        cut |= {f"final_{name}": recording[f"final_{name}"] for name in TRAINED}
    start = Start({name: recording[f"train1_param_{name}"] for name in TRAINED}, epochs)
    return a._replace(Ep=0, Ni=0), start, cut


def run_with_noise(arguments, seed, flossing_noise=1.0, start=Start({})):
    """A run of the port with the noise that Float32 makes at every step, of training and of flossing.

    Before each gradient every entry of the parameters moves by one unit in the last place, up or down at random, for
    this one evaluation; so do those of the initial state's relaxation and of an orthogonal J's QR. Training takes
    the default engine, which is Float32. Flossing takes the formulae in Float32, since the default engine is
    Float64 there; the error of its gradients is multiplied by flossing_noise, for a recording that has a larger one.
    seed None: no noise, and the formulae in Float64 for flossing. Float32's errors need not be zero on average.
    """
    rng = None if seed is None else np.random.default_rng(seed)
    own_training, own_flossing, own_relax_ic = port.training_engine, port.flossing_engine, port.relax_ic

    def training_engine(_, *settings):
        gradient = own_training("adjoint", *settings)
        return lambda s, rtarg, ps: gradient(s, rtarg, last_bits_changed(ps, rng))

    def flossing_engine(_, *settings):
        gradient, by_hand = own_flossing("autograd", *settings), own_flossing("adjoint", *settings)

        def in_float64(s, ps, xInit):
            ps = {name: np.float64(x) for name, x in ps.items()}
            loss, spectrum, gs = gradient(np.float64(s), ps, np.float64(xInit))
            return loss, np.float32(spectrum), {name: np.float32(g) for name, g in gs.items()}

        def in_float32(s, ps, xInit):
            loss, spectrum, gs = gradient(s, last_bits_changed(ps, rng), last_bit_changed(xInit, rng))
            if flossing_noise > 1:
                exact = by_hand(s, ps, xInit)[2]
                gs = {name: exact[name] + np.float32(flossing_noise) * (g - exact[name]) for name, g in gs.items()}
            return loss, spectrum, gs

        return in_float64 if rng is None else in_float32

    def relax_ic(sIC, steps, J, b, B):
        return own_relax_ic(sIC, steps, last_bit_changed(J, rng), last_bit_changed(b, rng), B)

    if rng is None:
        with patched(flossing_engine=flossing_engine):
            return run_port(arguments, start=start)
    if "J" not in start.initial and arguments.IC == 3:
        start = Start({"J": orthogonal_coupling(arguments, lambda A: last_bit_changed(A, rng))})
    with patched(training_engine=training_engine, flossing_engine=flossing_engine, relax_ic=relax_ic):
        return run_port(arguments, start=start)


def orthogonal_coupling(arguments, change):
    """J of IC = 3, from the QR of change(A), where A is the Gaussian matrix that the trainer draws."""
    rng = MersenneTwister(arguments.sNet)
    rng.randn_float32(arguments.N, arguments.S), rng.randn_float32(1, arguments.N), rng.rand_float32(arguments.N)
    A = np.float32(arguments.g) * rng.randn_float32(arguments.N, arguments.N) / np.float32(np.sqrt(arguments.N))
    Q = np.linalg.qr(change(A))[0]
    return Q.dtype.type(np.float32(arguments.g)) * Q


def last_bit_changed(x, rng):
    """x (Float32) with every entry moved to the next Float32, up or down at random."""
    x = np.asarray(x, np.float32)
    up = rng.integers(0, 2, x.shape, np.int8).astype(bool)
    return np.nextafter(x, np.where(up, np.float32(np.inf), np.float32(-np.inf)))


def last_bits_changed(ps, rng):
    return {name: last_bit_changed(x, rng) for name, x in ps.items()}
