"""One place that describes the 33 parameters and checks them, and the keywords, before any work starts.

PARAMETERS is the table behind the checks and behind the help of the command line. A refused value raises ValueError with the parameter, the value, what is allowed and why: mostly because
the original (RainerEngelken/GradientFlossing, commit 324d2a0) dies on it, or silently computes NaN.
"""

import math
import os
from collections import namedtuple
from dataclasses import dataclass
from numbers import Real

import numpy as np

from julia_packages.checks import check_integer, shown

FLOAT32_MAX = float(np.finfo(np.float32).max)
INT64_END = 2**63  # Julia's Int is an Int64
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


def check_parameters(arguments):
    """The 33 Parameters as plain ints and floats; ValueError if a run is impossible.

    arguments: Parameters, or a dict with these names and any others. NumPy scalars are accepted, bools and strings not.
    """
    given = arguments if isinstance(arguments, dict) else arguments._asdict()
    p = {name: check_value(name, given[name]) for name in PARAMETERS}
    check_task(p)
    check_optimiser(p)
    if p["IC"] not in (1, 3):
        refuse(p, "IC", "must be 1 (Gaussian J) or 3 (orthogonal J): the original defines no other J")
    check_exponents(p)
    if flosses(p):
        check_spectrum(p)
    check_input_seeds(p)
    check_memory(p)
    check_overflow(p)
    return Parameters(**p)


def refuse(p, name, allowed):
    raise ValueError(f"{name} = {shown(p[name])}: {allowed}")


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
        raise ValueError(f"E = {shown(number)}: must be < 2^32 = 4294967296, since each epoch is a 32-bit seed")
    if parameter.group != "seeds" and not -INT64_END <= number < INT64_END:
        raise ValueError(f"{name} = {shown(number)}: must lie within a 64-bit integer, as Julia's Int")
    return number


def check_real(name, value):
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, (bool, np.bool_)):
        try:
            number = float(value)
        except Exception:  # too large, or an exotic scalar
            number = math.inf
    if not abs(number) <= FLOAT32_MAX:
        allowed = "must be a finite number within Float32, at most 3.4e38"
        raise ValueError(f"{name} {allowed}, got {shown(value)} ({PARAMETERS[name].meaning})")
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
    return flossing_steps(p) > 0


def check_exponents(p):
    if p["nLE"] > p["N"]:
        refuse(p, "nLE", f"must be <= N = {p['N']}: N neurons have N Lyapunov exponents")


def check_spectrum(p):
    Tp, Ti = p["Tp"], p["Ti"]
    if Tp > Ti:
        refuse(p, "Tp", f"must be <= Ti = {Ti}, the length of the flossing input (BoundsError in the original)")
    discarded = discarded_steps(Tp)
    if Tp <= discarded:
        refuse(p, "Tp", f"must be at least 13: the first 10 + ceil(Tp/10) = {discarded} steps are not averaged (NaN)")


def check_spectrum_call(s, J, Tp, nLE):
    """ValueError if no spectrum of nLE exponents over Tp steps can be had of the input s (T, S, 1) and J (N, N)."""
    p = {"N": len(J), "Ti": len(s)} | {
        name: check_integer(name, value, minimum=1) for name, value in (("Tp", Tp), ("nLE", nLE))
    }
    check_exponents(p)
    check_spectrum(p)


def discarded_steps(Tp):
    """The trainer's, for what the trainer imports itself."""
    import gradient_flossing_example

    return gradient_flossing_example.discarded_steps(Tp)


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


def interflossing_blocks(p, epochs):
    """How many interflossing blocks begin in the first `epochs` epochs; a block at epoch 1 is preflossing."""
    multiples = epochs // p["Ef"] - (p["Ef"] == 1 and epochs > 0)
    return min(p["Ni"], multiples)


def flossing_steps(p):
    """How many flossing steps a run has."""
    if p["nLE"] == 0 or p["E"] == 0:
        return 0
    return p["Ep"] + p["Ei"] * interflossing_blocks(p, p["E"])


def check_memory(p):
    """Refuse a run whose arrays do not fit into the memory of this machine."""
    N, B, nLE, Tp = p["N"], p["B"], p["nLE"], p["Tp"]
    inputs = 16 * (p["T"] + p["delay"]) * B
    needed = {
        "N": 40 * N * N,
        "T": (12 * p["T"] * B * N + inputs) * (p["E"] > 0),
        "Tp": 8 * Tp * nLE * (N + nLE) * flosses(p),
        "Ti": 16 * (p["Ti"] + p["delay"]) * flosses(p),
        "E": 64 * p["E"] + (4 * nLE + 48) * flossing_steps(p),
    }
    if lack := memory_lack(sum(needed.values())):
        refuse(p, max(needed, key=needed.get), f"the run {lack}")


def memory_lack(needed):
    """What to say if so many bytes are more than this machine has, else None."""
    available = memory()
    if needed > available:
        return f"would need {needed / 2**30:,.1f} GiB of memory, this machine has {available / 2**30:,.1f} GiB"


def memory():
    """Bytes of this machine's memory; infinity where they cannot be asked for."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return math.inf


def check_overflow(p):
    """Refuse what would overflow Float32 in the initial parameters: no normal number drawn is beyond 14."""
    for mean, spread in (("wsM", "wsS"), ("wrM", "wrS"), ("bM", "bS")):
        if abs(p[mean]) + 14 * abs(p[spread]) > FLOAT32_MAX:
            name = max(mean, spread, key=lambda name: abs(p[name]))
            refuse(p, name, f"|{mean}| + 14 |{spread}| must be within Float32, at most 3.4e38")
    state = 14 * abs(p["g"]) * math.sqrt(p["N"]) + abs(p["gbar"]) + abs(p["bM"]) + abs(p["bS"])
    if state > FLOAT32_MAX:
        name = max("g", "gbar", "bM", "bS", key=lambda name: abs(p[name]))
        refuse(p, name, "14 |g| sqrt(N) + |gbar| + |bM| + |bS| must be within Float32: the initial state reaches it")


def check_engine(engine):
    if not isinstance(engine, str) or engine not in ENGINES:
        raise ValueError(f"engine = {shown(engine)}: must be one of {', '.join(ENGINES)}")


def check_initial(initial, p):
    """Arrays that replace drawn ones, as float32 copies; ValueError for unknown names, shapes or non-finite entries.

    initial: dict with any of ws (N, S), J (N, N), wr (1, N), b (N,), offset (1,), xInit (N, B), or None; p: the 33.
    """
    N, S, B = p["N"], p["S"], p["B"]
    shapes = dict(ws=(N, S), J=(N, N), wr=(1, N), b=(N,), offset=(1,), xInit=(N, B))
    if initial is None:
        return {}
    if not isinstance(initial, dict):
        raise ValueError(f"initial = {shown(initial)}: must be None or a dict with any of {', '.join(shapes)}")
    checked = {name: check_array(name, value, shapes) for name, value in initial.items()}
    if "J" in checked:  # the drawn initial state is J tanh(x) + b
        largest = np.abs(checked["J"]).sum(axis=1, dtype=float).max() + np.abs(checked.get("b", 0.0)).max()
        if largest > FLOAT32_MAX:
            raise ValueError("initial['J']: a row sum is beyond Float32, and with it the initial state")
    return checked


def check_array(name, value, shapes):
    if name not in shapes:
        raise ValueError(f"initial[{shown(name)}]: unknown, allowed are {', '.join(shapes)}")
    try:
        with np.errstate(over="ignore"):  # found to be infinite below
            array = np.array(value, np.float32)
    except Exception:
        raise ValueError(f"initial[{name!r}]: must be an array of numbers, got {shown(value)}") from None
    if array.shape != shapes[name]:
        raise ValueError(f"initial[{name!r}]: must have the shape {shapes[name]}, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"initial[{name!r}]: must be finite in Float32")
    return array


def check_flag(name, value):
    if not isinstance(value, bool):
        raise ValueError(f"{name} = {shown(value)}: must be True or False")
