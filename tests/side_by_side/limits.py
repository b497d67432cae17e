"""How far the port may be from a recording of the original: computed from the case itself, where it is compared.

One step, at the recorded parameters: the same quantity in Float64, and in Float32 with every input changed in the last
bit, DRAWS times. What these are apart (rms) is what Float32 lets anyone know of the quantity.
A whole run: NOISY_RUNS runs of the port with Float32's noise at every step. What they are apart at an epoch, or were
before, is what is left of agreement there.
The two factors and what they are made from: tests/side_by_side/README.md, "The limits".
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

import gradient_flossing_example as port
from extras.adjoints import FlossingAdjoint, TrainingAdjoint
from extras.record import FLOSSED
from gradient_flossing_example import first_loss_index, initial_orthonormal_system
from tests.side_by_side.recordings import Start, last_bit_changed, last_bits_changed, orthogonal_coupling, run_with_noise

DRAWS = 8
STEP_FACTOR, FLOSSING_FACTOR = 10, 40
NOISY_RUNS, DRAWN_EPOCHS = (8, 32), 3600  # the fewest and the most; between them, so many epochs altogether
SHORT = 50  # epochs of a run in which no other process is worth its start
RUN_FACTOR = 10

LARGEST_SHIFT = 5  # epochs
SHORTEST = 20  # epochs from which a shift is looked for
ALIGNED, SHIFTED = -0.4, 0.35  # see shift()

OK, NOT_JUDGED, WRONG = "ok", "not judged", "WRONG"


@dataclass(frozen=True)
class Line:
    """One quantity of the comparison: its relative difference, the limit of that, the verdict, and a word on it."""

    rung: str
    name: str
    difference: float
    limit: float
    verdict: str
    note: str = ""


def not_judged(rung, name, note):
    return Line(rung, name, np.nan, np.nan, NOT_JUDGED, note)


# ------------------------------------------------------------------ one step


def equal(rung, name, ours, recorded):
    """Equal to the last bit; a recording in Float64 (of Float64 arguments) equal when rounded to Float32."""
    if ours is None or ours.shape != recorded.shape:
        return Line(rung, name, np.inf, 0, WRONG, f"recorded {recorded.shape}, here {getattr(ours, 'shape', 'none')}")
    if recorded.dtype == np.float64:
        limit = 2 * np.finfo(np.float32).eps
        return within(rung, name, ours, recorded, norm(recorded), limit, "recorded in Float64")
    different = np.count_nonzero(ours != recorded)
    if different:
        return Line(rung, name, different, 0, WRONG, f"of {recorded.size} entries")
    return Line(rung, name, 0, 0, OK)


def within(rung, name, ours, recorded, scale, limit, note=""):
    """The 2-norm of the difference against `limit`, both in units of `scale`."""
    difference = norm(np.float64(ours) - np.float64(recorded)) / (scale or 1.0)
    if not limit <= 1:  # a quantity that is zero would be within it; or evaluations in Float32 are not finite
        return Line(rung, name, difference, limit, NOT_JUDGED, "Float32 keeps no digit of it here")
    return Line(rung, name, difference, limit, OK if difference <= limit else WRONG, note)


@dataclass
class Known:
    """A quantity in Float64, and what evaluations in Float32 differ from it: rms, as a share of its 2-norm."""

    exact: np.ndarray
    error: float

    @property
    def scale(self):
        return norm(self.exact)


def known(exact, errors):
    """Known of one quantity; errors: differences from its value in Float64, of as many evaluations in Float32."""
    scale = norm(exact) or 1.0
    return Known(exact, np.sqrt(np.mean([(norm(error) / scale) ** 2 for error in errors])))


def training_step(arguments, s, rtarg, ps, engine):
    """({name: value of the port}, {name: Known}) of loss and gradients at the parameters ps."""
    first = first_loss_index(arguments.delay, arguments.task)
    sizes = len(ps["J"]), *rtarg.shape[::2], first

    def formulae(ps, dtype):
        return named(port.training_gradient(s.astype(dtype), rtarg.astype(dtype), ps, first, "autograd"), "loss")

    def by_hand(ps, dtype):
        return named(TrainingAdjoint(*sizes, dtype)(s, rtarg, ps), "loss")

    ours = named(port.training_gradient(s, rtarg, in_type(ps, np.float32), first, engine), "loss")
    return ours, known_of_all(ps, formulae, by_hand if engine == "adjoint" else None)


def flossing_step(arguments, s, ps, engine):
    """The same of flossing loss, spectrum and gradients; ps: ws J b xInit."""
    N, Lwnt = len(ps["J"]), np.float32(arguments.Lwnt)
    settings = arguments.Tp, arguments.nLE, arguments.sONS, Lwnt

    def formulae(ps, dtype, engine="autograd"):
        flossed = {name: ps[name] for name in FLOSSED}
        step = port.flossing_gradient(s.astype(dtype), flossed, ps["xInit"], *settings, engine)
        return named(step, "loss", "spectrum")

    def by_hand(ps, dtype):
        Q = initial_orthonormal_system(arguments.sONS, N, arguments.nLE)
        gradient = FlossingAdjoint(N, arguments.Tp, arguments.nLE, Q, Lwnt, dtype)
        return named(gradient(s, ps, ps["xInit"]), "loss", "spectrum")

    ours = formulae(in_type(ps, np.float32), np.float32, engine)
    return ours, known_of_all(ps, formulae, by_hand if engine == "adjoint" else None)


def named(loss_and_gradients, *names):
    """Copies of (loss, spectrum or accuracy, gradients) as one dict."""
    *values, gs = loss_and_gradients
    return {name: np.array(x) for name, x in [*zip(names, values), *gs.items()]}


def known_of_all(ps, formulae, by_hand):
    """{name: Known}: of the formulae in torch, as the original has them, and of the hand-derived code if that is used.

    Each is compared with itself in Float64, so that a mistake in either does not pass for rounding.
    """
    float64, float32 = in_type(ps, np.float64), in_type(ps, np.float32)
    exact = formulae(float64, np.float64)
    squares = {name: [] for name in exact}
    for evaluate in (formulae, by_hand) if by_hand else (formulae,):
        own_exact = evaluate(float64, np.float64)
        changed = (last_bits_changed(float32, np.random.default_rng(seed)) for seed in range(DRAWS))
        samples = [evaluate(ps, np.float32) for ps in changed]
        for name in exact:
            squares[name].append(known(own_exact[name], [x[name] - own_exact[name] for x in samples]).error ** 2)
    return {name: Known(exact[name], np.sqrt(sum(squares[name]))) for name in exact}


def in_type(ps, dtype):
    return {name: np.asarray(x, dtype) for name, x in ps.items()}


def initial_state(arguments, J, b):
    """(xInit of the port, Known of it): 100 steps of relaxation from the drawn state, with the recorded J and b."""
    relax = lambda J, b: port.relax_ic(arguments.sIC, 100, J, b, arguments.B)
    rngs = (np.random.default_rng(seed) for seed in range(DRAWS))
    J, b = J.astype(np.float32), b.astype(np.float32)
    samples = [relax(last_bit_changed(J, rng), last_bit_changed(b, rng)) for rng in rngs]
    exact = relax(J.astype(np.float64), b.astype(np.float64))
    return relax(J, b), known(exact, [x - exact for x in samples])


def orthogonal_J(arguments):
    """Known of J for IC = 3."""
    rngs = (np.random.default_rng(seed) for seed in range(DRAWS))
    samples = [orthogonal_coupling(arguments, lambda A: last_bit_changed(A, rng)) for rng in rngs]
    exact = orthogonal_coupling(arguments, np.float64)
    return known(exact, [J - exact for J in samples])


# ------------------------------------------------------------------ whole runs


def noisy_runs(arguments, flossing_noise, start=Start({}), draws=None, first_seed=0, jobs=1, report=lambda done, of: None):
    """List of runs of the port, one in Float64 and `draws` with noise; `jobs` at a time; report(done, of) after each.

    draws None: as many as their length allows, since a few do not show how heavy the tail of Float32's errors is.
    """
    epochs = start.epochs or arguments.E
    draws = draws or int(np.clip(DRAWN_EPOCHS // max(epochs, 1), *NOISY_RUNS))
    seeds = [None, *range(first_seed, first_seed + draws)]
    calls = [(arguments, seed, flossing_noise, start) for seed in seeds]
    runs = []
    report(0, len(calls))
    with ProcessPoolExecutor(jobs, get_context("spawn")) if jobs > 1 and epochs > SHORT else nullcontext() as pool:
        for run in (pool.map if pool else map)(run_with_noise, *zip(*calls)):
            runs.append(run)
            report(len(runs), len(calls))
    return runs


@dataclass(frozen=True)
class Series:
    """A quantity of every step of a run: of(run) -> (steps,) or (steps, n), n of them, each judged on its own.

    resolution: what rounding at one step leaves open.
    """

    name: str
    unit: str
    of: Callable[[dict], np.ndarray]
    resolution: float

    def values(self, run):
        values = np.asarray(self.of(run), np.float64)
        return values[:, None] if values.ndim == 1 else values

    def limits(self, runs):
        """RUN_FACTOR times how far the runs, cut to the shortest, were apart at most up to each step: (steps, n)."""
        values = [self.values(run) for run in runs]
        shortest = min(len(x) for x in values)
        values = np.array([x[:shortest] for x in values])
        apart = values.max(axis=0) - values.min(axis=0)
        return RUN_FACTOR * np.maximum.accumulate(np.maximum(apart, self.resolution))

    def judged(self, port, runs):
        """(steps, n): where the limit, which only grows, is 0 or below a third of the range of the series here."""
        values, limits = self.values(port), self.limits(runs)
        return ((limits == 0) | (limits < np.ptp(values, axis=0) / 3))[: len(values)] if len(values) else limits < 0


def along(rung, series, port, recorded, runs):
    """The port's run against the recorded one, wherever it is judged; shown is what is nearest to its limit."""
    ours, theirs = series.values(port), series.values(recorded)
    if len(ours) > len(theirs):
        return Line(rung, series.name, np.inf, 0, WRONG, f"{len(theirs)} {series.unit} recorded, here {len(ours)}")
    judged = series.judged(port, runs)
    if not judged.any():
        note = f"the limit is above a third of its range in the first of {len(theirs)} {series.unit}"
        return not_judged(rung, series.name, note)
    steps = len(judged)
    limits = series.limits(runs)[:steps]
    difference = np.nan_to_num(np.abs(ours[:steps] - theirs[:steps]), nan=np.inf)
    share = difference / np.maximum(limits, np.finfo(float).eps)  # a limit may be 0
    worst = np.unravel_index(np.argmax(np.where(judged, share, 0)), judged.shape)
    verdict = OK if difference[worst] <= limits[worst] else WRONG
    note = f"{series.unit} 1 to {judged.any(axis=1).sum()} of {len(theirs)}, nearest to the limit at {worst[0] + 1}"
    note += f", number {worst[1] + 1}" if judged.shape[1] > 1 else ""
    return Line(rung, series.name, difference[worst], limits[worst], verdict, note)


def shift(rung, port, recorded, runs):
    """Whether the recorded losses are those of other epochs: seen also where drift moves all of them.

    Each epoch has a batch of its own, which makes losses jump from one to the next in the same way in all runs. The
    margin of a run is the rank correlation of its second differences with the port's at the best shift, minus that
    without a shift. Looked at is the longest start of the run (all, half, a quarter, ...) in which noisy runs have a
    median margin below ALIGNED. WRONG is a margin that is above theirs, and above 0, by more than SHIFTED.
    """
    name = "losses, shifted"
    epochs = min(len(run["loss"]) for run in (port, recorded, *runs))
    while epochs >= SHORTEST:
        apart = lambda run, epochs=epochs: shifted_correlations(run["loss"][:epochs], port["loss"][:epochs])
        margins = [others.max() - none for none, others in map(apart, runs)]
        if np.median(margins) < ALIGNED:
            none, others = apart(recorded)
            limit = max(0.0, *margins) + SHIFTED
            verdict = OK if others.max() - none <= limit else WRONG
            note = f"epochs 1 to {epochs}: correlation {none:.2f}"
            note += f", with a shift of {SHIFTS[others.argmax()]} {others.max():.2f}"
            return Line(rung, name, others.max() - none, limit, verdict, note)
        epochs //= 2
    return not_judged(rung, name, "noisy runs do not jump alike, or there are too few epochs")


SHIFTS = [lag for lag in range(-LARGEST_SHIFT, LARGEST_SHIFT + 1) if lag]


def shifted_correlations(x, y):
    """Rank correlation of the second differences of x and y: (without a shift, array with each of SHIFTS)."""
    x, y = np.diff(x, 2), np.diff(y, 2)

    def correlation(lag):
        pair = (x[lag:], y[: len(y) - lag]) if lag >= 0 else (x[:lag], y[-lag:])
        return np.corrcoef(*(np.argsort(np.argsort(values)) for values in pair))[0, 1]

    return correlation(0), np.array([correlation(lag) for lag in SHIFTS])


def at_the_end(rung, name, port, recorded, runs):
    """A parameter after the last epoch; limit: RUN_FACTOR times what noisy runs end apart (rms over their pairs)."""
    ours, theirs = port[f"final_{name}"], recorded[f"final_{name}"]
    values = [np.float64(run[f"final_{name}"]) for run in runs]
    apart = [norm(x - y) for i, x in enumerate(values) for y in values[:i]]
    scale = norm(ours) or 1.0
    limit = RUN_FACTOR * max(np.sqrt(np.mean(np.square(apart))) / scale, np.finfo(np.float32).eps)
    if limit > 1:
        return not_judged(rung, f"final {name}", "noisy runs end apart by a tenth of it or more")
    return within(rung, f"final {name}", ours, theirs, scale, limit)


def norm(x):
    return float(np.sqrt(np.sum(np.square(x, dtype=np.float64))))
