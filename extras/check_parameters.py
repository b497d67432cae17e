"""One place that describes the 33 parameters and checks them before any work starts.

PARAMETERS is the table behind the checks and behind the help of the command line. A refused value raises ValueError
with the parameter, the value, what is allowed and why: mostly because the original (RainerEngelken/GradientFlossing,
commit 324d2a0) dies on it, or silently computes NaN.
"""

import math
from collections import namedtuple
from dataclasses import dataclass
from numbers import Real

import numpy as np

from julia_packages.random import check_integer

FLOAT32_MAX = float(np.finfo(np.float32).max)
INT64_END = 2**63  # Julia's Int is an Int64
nStepTransient = 10  # ex.jl:26: steps before the orthonormal system is taken to follow the dynamics
ENGINES = ("adjoint", "autograd")


@dataclass(frozen=True)
class Parameter:
    """What one parameter means: `kind` is int or float, `unit` "" for a pure number, `minimum` for integers."""

    group: str
    kind: type
    unit: str
    meaning: str
    minimum: int = None


PARAMETERS = {  # in the order of the original's arguments (ex.jl:9)
    "N": Parameter("network", int, "neurons", "size of the network", 1),
    "E": Parameter("training", int, "epochs", "training epochs, one gradient step each", 0),
    "Ef": Parameter("flossing", int, "epochs", "an interflossing block runs when epoch mod Ef is 0", 1),
    "Ei": Parameter("flossing", int, "steps", "flossing steps of an interflossing block", 0),
    "Ep": Parameter("flossing", int, "steps", "flossing steps before training (0: no preflossing)", 0),
    "Ni": Parameter("flossing", int, "blocks", "at most this many interflossing blocks", 0),
    "B": Parameter("training", int, "trials", "batch size", 1),
    "S": Parameter("task", int, "channels", "input channels (only 1 works in the original)"),
    "T": Parameter("training", int, "time steps", "length of a training trial", 1),
    "Tp": Parameter("flossing", int, "time steps", "length of a Lyapunov-spectrum simulation", 1),
    "Ti": Parameter("flossing", int, "time steps", "length of the generated flossing input, at least Tp", 1),
    "sIC": Parameter("seeds", int, "", "seed of the initial state", 0),
    "sIn": Parameter("seeds", int, "", "seed of the input"),
    "sNet": Parameter("seeds", int, "", "seed of the weights", 0),
    "sONS": Parameter("seeds", int, "", "seed of the orthonormal system", 0),
    "lr": Parameter("training", float, "", "step size of ADAM"),
    "b1": Parameter("training", float, "", "decay rate of ADAM's first moment"),
    "b2": Parameter("training", float, "", "decay rate of ADAM's second moment"),
    "IC": Parameter("network", int, "", "recurrent weights J: 1 Gaussian, 3 orthogonal"),
    "g": Parameter("network", float, "", "gain of J"),
    "gbar": Parameter("network", float, "", "the mean of J is gbar/N"),
    "I1": Parameter("task", float, "", "input amplitude"),
    "delay": Parameter("task", int, "time steps", "delay of the task", 0),
    "wsS": Parameter("network", float, "", "input weights: standard deviation"),
    "wsM": Parameter("network", float, "", "input weights: mean"),
    "wrS": Parameter("network", float, "", "readout weights: standard deviation"),
    "wrM": Parameter("network", float, "", "readout weights: mean"),
    "bS": Parameter("network", float, "", "biases are bM + bS * uniform[0, 1)"),
    "bM": Parameter("network", float, "", "smallest bias"),
    "nLE": Parameter("flossing", int, "exponents", "number of Lyapunov exponents flossed", 0),
    "task": Parameter("task", int, "", "0: copy; h or -h: parity of 2^h bits (|h| = 1: delayed XOR)"),
    "intype": Parameter("task", int, "", "accepted, never used"),
    "Lwnt": Parameter("flossing", float, "1/step", "target value of every flossed exponent"),
}

Parameters = namedtuple("Parameters", PARAMETERS)  # the 33 values of a call, by name or in their order


def check_parameters(parameters):
    """The 33 parameters as plain ints and floats, in the original's order; ValueError if a run is impossible.

    parameters: dict of the 33 values by name; NumPy scalars are accepted, bools and strings are not.
    """
    if set(parameters) != set(PARAMETERS):
        wrong = ", ".join(sorted(set(parameters) ^ set(PARAMETERS), key=str))
        raise ValueError(f"missing or unknown parameters: {wrong}; needed are {', '.join(PARAMETERS)}")
    p = {name: check_value(name, parameters[name]) for name in PARAMETERS}
    check_task(p)
    check_optimiser(p)
    if p["IC"] not in (1, 3):
        refuse(p, "IC", "must be 1 (Gaussian J) or 3 (orthogonal J): the original defines no other J")
    if p["nLE"] > p["N"]:
        refuse(p, "nLE", f"must be <= N = {p['N']}: N neurons have N Lyapunov exponents")
    if flosses(p):
        check_spectrum(p)
    check_input_seeds(p)
    return p


def refuse(p, name, allowed):
    raise ValueError(f"{name} = {p[name]!r}: {allowed}")


def check_value(name, value):
    """One value by itself: an integer not below its minimum and within Int64, or a number finite in Float32."""
    parameter = PARAMETERS[name]
    if parameter.kind is float:
        return check_real(name, value)
    try:
        number = check_integer(name, value, minimum=parameter.minimum)
    except ValueError as error:
        raise ValueError(f"{error} ({parameter.meaning})") from None
    if name == "E" and number >= 2**32:
        raise ValueError(f"E = {number}: must be < 2^32 = 4294967296, since each epoch is a 32-bit seed")
    if parameter.group != "seeds" and not -INT64_END <= number < INT64_END:
        raise ValueError(f"{name} = {number}: must lie within a 64-bit integer, as Julia's Int")
    return number


def check_real(name, value):
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, (bool, np.bool_)):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not abs(number) <= FLOAT32_MAX:
        meaning = PARAMETERS[name].meaning
        raise ValueError(f"{name} must be a finite number within Float32, at most 3.4e38, got {value!r} ({meaning})")
    return number


def check_task(p):
    delay, task = p["delay"], p["task"]
    if p["S"] != 1:
        refuse(p, "S", "must be 1: the original's target has a single channel (BoundsError)")
    if abs(task) > 62:
        refuse(p, "task", "must lie in -62..62: parity is taken over 2^|task| bits, counted in 64-bit integers")
    if delay == 0 and task != 0:
        refuse(p, "delay", f"must be >= 1 for task = {task}: the bits whose parity is asked for are a delay apart")
    if delay * 2 ** abs(task) >= INT64_END:
        refuse(p, "delay", f"delay * 2^|task| must be < 2^63 (task = {task}), as it is counted in 64-bit integers")
    first, formula = (2 * delay, "2*delay") if task > 0 else (delay * 2 ** abs(task), "delay * 2^|task|")
    if p["T"] <= first:
        why = f"the first scored time step {formula} (delay = {delay}, task = {task}; AssertionError in the original)"
        refuse(p, "T", f"must be > {first}, {why}")


def check_optimiser(p):
    if not np.float32(p["lr"]) > 0:
        refuse(p, "lr", "must be > 0 (also when rounded to Float32), or nothing is learned")
    for name in ("b1", "b2"):
        if not 0 <= p[name] < 1:
            refuse(p, name, f"must be >= 0 and < 1: ADAM divides by 1 - {name}^t")


def flosses(p):
    """Whether any flossing step is run: only then do Tp and Ti matter."""
    first_interflossing = max(p["Ef"], 2)  # a block at epoch 1 has Ep steps
    interflossing = p["Ei"] > 0 and p["Ni"] > 0 and p["E"] >= first_interflossing
    return p["nLE"] > 0 and p["E"] > 0 and (p["Ep"] > 0 or interflossing)


def check_spectrum(p):
    Tp, Ti = p["Tp"], p["Ti"]
    if Tp > Ti:
        refuse(p, "Tp", f"must be <= Ti = {Ti}, the length of the flossing input (BoundsError in the original)")
    discarded = discarded_steps(Tp)
    if Tp <= discarded:
        refuse(p, "Tp", f"must be at least 13: the first 10 + ceil(Tp/10) = {discarded} steps are not averaged (NaN)")


def discarded_steps(Tp):
    """Steps of a spectrum over Tp steps that are not averaged: nStepTransient + ceil(Tp/10) (ex.jl:26-29)."""
    return nStepTransient + -(-Tp // 10)


def check_input_seeds(p):
    """The batches are drawn with the seeds sIn, E*sIn + epoch and E*sIn + epoch + step; none may be 0."""
    E, sIn = p["E"], p["sIn"]
    if sIn == 0:
        refuse(p, "sIn", "must not be 0: it seeds Xoroshiro128Star, whose state must not be all 0")
    largest = abs(E * sIn) + E + max(p["Ep"], p["Ei"])
    if max(largest, abs(sIn)) >= INT64_END:
        refuse(p, "sIn", f"E*sIn + epoch + step must lie within 64-bit integers (E = {E}), where Julia's sums wrap")
    zero = -E * sIn  # the epoch, or epoch + step, at which the seed is 0
    if 1 <= zero <= E or flosses(p) and flossing_reaches(p, zero):
        why = f"is 0 at epoch (+ step) {zero}, and Xoroshiro128Star's state must not be all 0"
        refuse(p, "sIn", f"the input seed E*sIn + epoch (+ flossing step) {why}; choose sIn > 0")


def flossing_reaches(p, total):
    """Whether some flossing step i of some block at epoch ei has ei + i == total."""
    Ef, Ei = p["Ef"], p["Ei"]
    if 1 <= total - 1 <= p["Ep"]:
        return True
    first = max(Ef, 2)
    last = min(p["E"], first + (p["Ni"] - 1) * Ef, total - 1)
    return last // Ef * Ef >= max(first, total - Ei)


def check_engine(engine):
    if engine not in ENGINES:
        raise ValueError(f"engine = {engine!r}: must be one of {', '.join(ENGINES)}")


def check_initial(initial, shapes):
    """Arrays that replace drawn ones, as float32 copies; ValueError for unknown names, shapes or non-finite entries.

    initial: dict or None; shapes: dict of what is allowed, name -> shape.
    """
    checked = {}
    for name, value in (initial or {}).items():
        if name not in shapes:
            raise ValueError(f"initial[{name!r}]: unknown, allowed are {', '.join(shapes)}")
        try:
            with np.errstate(over="ignore"):  # found to be infinite below
                array = np.array(value, np.float32)
        except (TypeError, ValueError):
            raise ValueError(f"initial[{name!r}]: must be an array of numbers") from None
        if array.shape != shapes[name]:
            raise ValueError(f"initial[{name!r}]: must have the shape {shapes[name]}, got {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"initial[{name!r}]: must be finite in Float32")
        checked[name] = array
    return checked
