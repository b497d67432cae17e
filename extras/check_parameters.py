"""One place that describes the 33 parameters and checks them, and the keywords, before any work starts.

ValueErrors name the parameter, its value, what is allowed and why: mostly because the original dies. p: dict of the 33.
"""

import math
import os
from collections import namedtuple
from numbers import Real

import numpy as np

from julia_packages.checks import check_integer, shown

LARGEST = 1e34  # no normal number drawn is beyond 14, so that sums over all neurons stay within Float32, 3.4e38
ENGINES = ("adjoint", "autograd")

# What one parameter means: kind is int or float, unit "" for a pure number, minimum for integers.
Parameter = namedtuple("Parameter", "group kind unit meaning minimum", defaults=[None])

PARAMETERS = {  # in the order of the original's arguments (ex.jl:9)
    "N": Parameter("network", int, "neurons", "size of the network", 1),
    "E": Parameter("training", int, "epochs", "training epochs, one gradient step each", 0),
    "Ef": Parameter("flossing", int, "epochs", "an interflossing block runs when epoch mod Ef is 0", 1),
    "Ei": Parameter("flossing", int, "steps", "flossing steps of an interflossing block", 0),
    "Ep": Parameter("flossing", int, "steps", "flossing steps before training (0: no preflossing)", 0),
    "Ni": Parameter("flossing", int, "blocks", "at most this many interflossing blocks", 0),
    "B": Parameter("training", int, "trials", "batch size", 1),
    "S": Parameter("task", int, "channels", "input channels (1, as the original requires)"),
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
    "task": Parameter("task", int, "", "0: copy; h or -h: parity of 2^h bits (h = 1: delayed XOR)"),
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
    require(p, "lr", np.float32(p["lr"]) > 0, "must be > 0 (also when rounded to Float32), or nothing is learned")
    for name in ("b1", "b2"):
        require(p, name, 0 <= p[name] < 1, f"must be >= 0 and < 1: ADAM divides by 1 - {name}^t")
    require(p, "IC", p["IC"] in (1, 3), "must be 1 (Gaussian J) or 3 (orthogonal J): the original defines no other J")
    check_spectrum(p, flossed=flossing_steps(p) > 0)
    check_memory(p)
    check_input_seeds(p)
    return Parameters(**p)


def require(p, name, holds, allowed):
    if not holds:
        raise ValueError(f"{name} = {shown(p[name])}: {allowed}")


def check_value(name, value):
    """One value by itself: an integer not below its minimum and within Int64, or a number as in check_real()."""
    p = PARAMETERS[name]
    number = check_integer(name, value, p.minimum) if p.kind is int else check_real(name, value)
    within = p.kind is float or p.group == "seeds" or -(2**63) <= number < 2**63
    require({name: number}, name, within, "must lie within a 64-bit integer, as Julia's Int")
    return number


def check_real(name, value):
    """Return `value` as float; ValueError if it is no number (bool included) or beyond LARGEST."""
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except (OverflowError, TypeError):  # an exotic scalar is not a number, though it says that it is Real
        number = math.inf
    if not abs(number) <= LARGEST:
        raise ValueError(f"{name} must be a number from -{LARGEST:g} to {LARGEST:g}, got {shown(value)}")
    return number


def trainer():
    """The trainer's module, for facts that stand there; imported when it is needed, since it imports this one."""
    import gradient_flossing_example

    return gradient_flossing_example


def check_task(p):
    delay, task = p["delay"], p["task"]
    require(p, "S", p["S"] == 1, "must be 1: the original's target has a single channel (BoundsError)")
    require(p, "delay", delay > 0 or task == 0, f"must be >= 1 for task = {task}: the bits of a parity are a delay apart")
    counted = abs(task) <= 62 and delay * 2 ** abs(task) < 2**63
    require(p, "task", counted, f"delay * 2^|task| must be < 2^63 (delay = {delay}), as it is counted in 64-bit integers")
    first = trainer().first_loss_index(delay, task)
    scored = f"the first scored time step of delay = {delay}, task = {task} (AssertionError in the original)"
    require(p, "T", p["T"] > first, f"must be > {first}, {scored}")


def check_spectrum(p, flossed=True):
    """Tp and Ti matter only if something is flossed, or a spectrum is asked for."""
    require(p, "nLE", p["nLE"] <= p["N"], f"must be <= N = {p['N']}: N neurons have N Lyapunov exponents")
    if flossed:
        require(p, "Tp", p["Tp"] <= p["Ti"], f"must be <= Ti = {p['Ti']}, the length of the input (BoundsError in Julia)")
        check_averaged(p)


def check_averaged(p):
    discarded = trainer().discarded_steps(p["Tp"])
    not_averaged = f"the first 10 + ceil(Tp/10) = {discarded} steps are not averaged (NaN in the original)"
    require(p, "Tp", p["Tp"] > discarded, f"must be at least 13: {not_averaged}")


def check_spectrum_call(s, J, Tp, nLE):
    """ValueError unless the input s (T, S, 1) and J (N, N) have a spectrum of nLE exponents over Tp steps."""
    p = {"N": len(J), "Ti": len(s), "Tp": check_integer("Tp", Tp, 1), "nLE": check_integer("nLE", nLE, 1)}
    check_spectrum(p)


def check_input_seeds(p):
    """The batches are drawn with the seeds sIn, E*sIn + epoch and E*sIn + epoch + step; none may be 0."""
    first, last = p["E"] * p["sIn"] + 1, p["E"] * p["sIn"] + p["E"] + max(p["Ep"], p["Ei"])
    largest = max(abs(first), abs(last), abs(p["sIn"]))
    require(p, "sIn", largest < 2**63, "E*sIn + epoch + step must lie within 64-bit integers, where Julia's sums wrap")
    reached = p["sIn"] == 0 or first <= 0 <= last
    require(p, "sIn", not reached, f"must not be 0, nor E*sIn + epoch + step, from {first} to {last}; choose sIn > 0")


def interflossing_epochs(p, last):
    """The epochs up to `last` in which an interflossing block begins; a block at epoch 1 is preflossing."""
    return range(max(p["Ef"], 2), last + 1, p["Ef"])[: p["Ni"]]


def flossing_steps(p):
    return (p["Ep"] + p["Ei"] * len(interflossing_epochs(p, p["E"]))) * (p["nLE"] > 0 and p["E"] > 0)


def check_memory(p):
    """Refuse a run whose arrays do not fit into the memory of this machine."""
    N, B, nLE, T, steps = p["N"], p["B"], p["nLE"], p["T"] * (p["E"] > 0), flossing_steps(p)
    record = 64 * p["E"] + (4 * nLE + 48) * steps  # bytes
    flossing = (8 * p["Tp"] * nLE * (N + nLE) + 16 * (p["Ti"] + p["delay"])) * (steps > 0)
    if lack := memory_lack(40 * N * N + 12 * T * B * N + 16 * (T + p["delay"]) * B + flossing + record):
        sizes = ", ".join(f"{name} = {p[name]}" for name in ("N", "B", "nLE", "T", "Tp", "Ti", "E", "Ep", "Ei"))
        raise ValueError(f"{sizes}: the run {lack}")


def memory_lack(needed):
    """What to say if so many bytes are more than this machine has, else None: Windows does not tell."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if needed > available:
        return f"would need {needed / 2**30:,.1f} GiB of memory, this machine has {available / 2**30:,.1f} GiB"


def check_engine(engine):
    if not isinstance(engine, str) or engine not in ENGINES:
        raise ValueError(f"engine = {shown(engine)}: must be one of {', '.join(ENGINES)}")


def check_initial(initial, p):
    """Arrays that replace drawn ones, as float32 copies; ValueError for unknown names, shapes or non-finite entries.

    initial: dict with any of ws (N, S), J (N, N), wr (1, N), b (N,), offset (1,), xInit (N, B), or None; p: the 33.
    """
    expected, given = shapes(p), {} if initial is None else initial
    if not isinstance(given, dict) or not expected.keys() >= given.keys():
        what = list(given) if isinstance(given, dict) else given
        raise ValueError(f"initial = {shown(what)}: must be None or a dict with any of {', '.join(expected)}")
    return {name: check_array(f"initial[{name!r}]", value, expected[name]) for name, value in given.items()}


def shapes(p):
    """Dict name -> shape of the network's arrays."""
    N, S, B = p["N"], p["S"], p["B"]
    return dict(ws=(N, S), J=(N, N), wr=(1, N), b=(N,), offset=(1,), xInit=(N, B))


def check_array(name, value, shape):
    try:
        with np.errstate(over="ignore"):  # found to be infinite below
            array = np.array(value, np.float32)  # a copy: training changes it
    except Exception:
        raise ValueError(f"{name}: must be an array of numbers, got {shown(value)}") from None
    if array.shape != shape:
        raise ValueError(f"{name}: must have the shape {shape}, got {array.shape}")
    if not np.abs(array).max() <= LARGEST:
        raise ValueError(f"{name}: must be finite, no entry beyond {LARGEST:g}")
    return array


def check_flag(name, value):
    if not isinstance(value, bool):
        raise ValueError(f"{name} = {shown(value)}: must be True or False")
