"""Run the port on the arguments of a recording of the original, and say how far apart the two are.

    python tests/side_by_side/compare_with_original.py                      the recordings in tests/reference
    python tests/side_by_side/compare_with_original.py FOLDER               what record_original.jl wrote
    python tests/side_by_side/compare_with_original.py RUN.npz --drift 8    one recording, and the port's drift

Prints a ladder, from the task data up to the whole run: the largest absolute difference, the largest
difference relative to the largest recorded entry, what is expected (tolerances.py) and the verdict. The first
rung that fails is where to look. Draws losses, accuracies and their difference to out/side_by_side_<case>.png.

--second: another recording of the same call, to see how far the original is from itself.
--drift n: n runs of the port from an initial J changed by one unit in the last place; the recording has to lie
in their band. Exit status 0 only if every judged quantity is as expected.
"""

import argparse
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import gradient_flossing_example as port
from gf_task05spatialXORShort import generate_input_output
from julia_packages import flux
from tests.side_by_side import tolerances
from tests.side_by_side.tolerances import FLOSSED, TRAINED, Quantity, distance, entry

REFERENCE = ROOT / "tests" / "reference"
CASES = ("readme_seed1", "no_flossing", "preflossing", "copy_small", "orthogonal_parity4")
PARAMETERS = (
    "N E Ef Ei Ep Ni B S T Tp Ti sIC sIn sNet sONS lr b1 b2 IC g gbar I1 delay wsS wsM wrS wrM bS bM nLE task intype Lwnt"
).split()

# --- the original -------------------------------------------------------------------------------


def read_recording(path):
    """Dict of arrays from an .npz of tests/reference or from a folder that record_original.jl wrote.

    Arrays have Julia's shapes: a[i-1, j-1] here is a[i, j] there. "julia_arguments" is text.
    """
    path = Path(path)
    if path.suffix == ".npz":
        with np.load(path) as arrays:
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
        data = np.fromfile(path / f"{name}.bin", dtype=eltype.lower())
        recording[name] = data.reshape(shape, order="F")
    return recording


def read_arguments(text):
    """The 33 arguments of a recording as Python numbers; a Julia Float32 keeps its Float32 value."""

    def number(literal):
        if re.fullmatch(r"[+-]?\d+", literal):
            return int(literal)
        if "f" in literal:
            return float(np.float32(literal.replace("f", "e")))
        return float(literal)

    arguments = [number(literal.strip()) for literal in str(text).strip("() \n").split(",")]
    if len(arguments) != len(PARAMETERS):
        raise ValueError(f"{len(arguments)} arguments in the recording, expected {len(PARAMETERS)}")
    return arguments


def known_case(arguments):
    """Name of the recording in tests/reference that has these arguments, or None."""
    for case in CASES:
        if read_arguments(read_recording(REFERENCE / f"run_{case}.npz")["julia_arguments"]) == arguments:
            return case
    return None


def shortened(arguments, epochs):
    """Arguments of a run whose epochs are the first ones of the given call; at most `epochs` of them.

    The seed of an epoch's batch is E * sIn + ei, so that E may only be exchanged for a divisor of E * sIn.
    """
    E, sIn = arguments[1], arguments[12]
    if epochs is None or epochs >= E:
        return list(arguments)
    new_E = max(n for n in range(1, epochs + 1) if (E * sIn) % n == 0)
    changed = list(arguments)
    changed[1], changed[12] = new_E, E * sIn // new_E
    return changed


def cut_to(recording, epochs, steps):
    """The recording's first epochs and flossing steps."""
    lengths = {"loss": epochs, "accuracy": epochs, "gradnorm": epochs, "svdJ": epochs, "svdxInit": epochs}
    lengths |= {"floss_loss": steps, "floss_spectrum": steps, "floss_gradnorm": steps}
    return {name: array[..., : lengths[name]] if name in lengths else array for name, array in recording.items()}


# --- the port, under the names of the recordings ------------------------------------------------


@contextmanager
def first_batches():
    """Dict that gets the first batch the trainer takes a "training" and a "flossing" gradient of, seen from outside."""
    seen = {}

    def watched(kind, make_engine):
        def make(*args):
            gradient = make_engine(*args)

            def call(*batch_and_parameters):
                seen.setdefault(kind, [np.array(arg) for arg in batch_and_parameters if isinstance(arg, np.ndarray)])
                return gradient(*batch_and_parameters)

            return call

        return make

    engines = port.training_engine, port.flossing_engine
    port.training_engine, port.flossing_engine = watched("training", engines[0]), watched("flossing", engines[1])
    try:
        yield seen
    finally:
        port.training_engine, port.flossing_engine = engines


def run_port(arguments, engine, initial=None):
    """One run of the port, as a dict under the recordings' names."""
    with first_batches() as seen:
        record = port.train_rnn_flossing(*arguments, engine=engine, progress=False, initial=initial)
    run = {"loss": record.loss, "accuracy": record.accuracy}
    run["train1_s"], run["train1_r"] = seen["training"]
    if "flossing" in seen:
        run["floss1_s"] = seen["flossing"][0]
        run["floss_loss"], run["floss_spectrum"] = record.flossing_loss, record.lyapunov_spectrum.T
    for name in TRAINED:
        run[f"init_{name}"], run[f"final_{name}"] = record.initial[name], record.final[name]
    return run


def at_recorded_parameters(recording, arguments, engine):
    """What the port computes from the recording's own parameters and batches: one step, no drift."""
    a = dict(zip(PARAMETERS, arguments))
    found = {}
    found["s0"], found["r0"] = generate_input_output(*(a[name] for name in ("B", "T", "sIn", "S", "I1", "delay", "task")))

    firstlossidx = port.first_loss_index(a["delay"], a["task"])
    ps = {name: recording[f"train1_param_{name}"].copy() for name in TRAINED}
    loss, _, gs = port.training_gradient(recording["train1_s"], recording["train1_r"], ps, firstlossidx, engine)
    found["loss_at_train1"] = np.array([loss])
    found |= {f"train1_grad_{name}": np.array(gs[name]) for name in TRAINED}

    opt = flux.Optimiser(flux.ClipNorm(0.03), flux.ADAMW(a["lr"], (a["b1"], a["b2"]), 0))
    gs = {name: recording[f"train1_grad_{name}"].copy() for name in TRAINED}
    flux.update(opt, ps, gs)  # leaves the step in gs, as Flux does
    for name in ("J", "xInit"):
        found[f"svd{name}"] = np.linalg.svd(gs[name], compute_uv=False)[:, None]

    if "floss1_s" in recording:
        ps = {name: recording[f"init_{name}"].copy() for name in FLOSSED}
        settings = (a[name] for name in ("Tp", "nLE", "sONS", "Lwnt"))
        loss, _, gs = port.flossing_gradient(recording["floss1_s"], ps, recording["init_xInit"], *settings, engine)
        found["loss_at_floss1"] = np.array([loss])
        found |= {f"floss1_grad_{name}": np.array(gs[name]) for name in FLOSSED}
    return found


# --- the ladder ---------------------------------------------------------------------------------


class Comparison:
    """One recording and one run of the port.

    lines: (quantity, absolute difference, relative difference, passed: True, False or None) each.
    port, original: the two as dicts under the recordings' names; arguments: the 33 that the port ran with.
    """

    def __init__(self, recording, engine="adjoint", epochs=None, drift=0):
        arguments = read_arguments(recording["julia_arguments"])
        self.case = known_case(arguments)
        self.arguments = shortened(arguments, epochs)
        self.whole = self.arguments == arguments
        at_recorded = at_recorded_parameters(recording, arguments, engine)
        self.port = run_port(self.arguments, engine) | at_recorded
        self.original = cut_to(recording, len(self.port["loss"]), len(self.port.get("floss_loss", [])))
        self.original["loss_at_train1"] = recording["loss"]
        self.original["loss_at_floss1"] = recording.get("floss_loss")
        self.lines = [self.judged(quantity) for quantity in self.quantities(*arguments[18:20])]
        changed = (last_bit_changed(self.port["init_J"], seed) for seed in range(drift))
        self.drift_runs = [run_port(self.arguments, engine, {"J": J}) for J in changed]
        self.lines += self.drift_lines() if drift else []

    def quantities(self, IC, g):
        quantities = tolerances.ladder(IC, g, self.case) + tolerances.WHOLE_RUN.get(self.case, tolerances.OTHER_CALL)
        with_flossing = "floss1_s" in self.original and "floss1_s" in self.port
        for quantity in quantities:
            if (with_flossing or "floss" not in quantity.rung + quantity.name) and (self.whole or not quantity.whole_run):
                yield quantity

    def judged(self, quantity):
        return judge(quantity, quantity.of(self.port), quantity.of(self.original))

    def drift_lines(self):
        """Does the recording lie in the band of the drift runs? Shown: its largest distance from the bare band."""
        for name in ("loss", "accuracy"):
            low, high = self.band(name)
            recorded = self.original[name]
            quantity = Quantity("drift", f"{name}: outside the band", entry(name), tolerances.Band(low, high))
            yield judge(quantity, np.clip(recorded, low, high), recorded)

    def band(self, name):
        """Lowest and highest value of the port's runs, the undisturbed one among them, at each epoch: two arrays (E,)."""
        runs = np.array([self.port[name]] + [run[name] for run in self.drift_runs])
        return runs.min(axis=0), runs.max(axis=0)

    @property
    def passed(self):
        return all(verdict is not False for *_, verdict in self.lines)

    @property
    def failed_rungs(self):
        """Rungs with a failure, in the order of the ladder."""
        return list(dict.fromkeys(quantity.rung for quantity, *_, verdict in self.lines if verdict is False))

    def table(self):
        text, rung = [f"{'':28}{'largest difference':^24}", f"{'':28}{'absolute':>10}{'relative':>12}  {'expected':34}verdict"], None
        for quantity, absolute, relative, verdict in self.lines:
            if quantity.rung != rung:
                rung = quantity.rung
                text += [f"{rung}: {tolerances.WHY[rung]}"]
            expected = "not judged: drift" if quantity.tolerance is None else str(quantity.tolerance)
            word = {None: "", True: "ok", False: "DIFFERENT"}[verdict]
            text += [f"  {quantity.name:26}{absolute:10.2g}{relative:12.2g}  {expected:34}{word}".rstrip()]
        return "\n".join(text)


def judge(quantity, ours, original):
    """(quantity, largest absolute difference, the same relative to the largest entry, True or False or None)."""
    original = np.asarray(original)
    absolute = np.max(distance(ours, original))
    largest = np.nanmax(np.abs(original.astype(np.float64)))
    relative = absolute / largest if largest > 0 else absolute
    return quantity, absolute, relative, quantity.tolerance and quantity.tolerance.allows(ours, original)


def last_bit_changed(J, seed):
    """J (N, N) with every entry moved to the next Float32, up or down at random."""
    up = np.random.default_rng(seed).integers(0, 2, J.shape).astype(bool)
    return np.nextafter(J, np.where(up, np.inf, -np.inf).astype(np.float32))


# --- the figure ---------------------------------------------------------------------------------


def draw(comparison, path, second=None):
    """Losses, accuracies and their differences over the epochs."""
    ours, original = comparison.port, comparison.original
    epochs = np.arange(1, len(ours["loss"]) + 1)
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(8, 8), sharex=True, layout="constrained")
    for axes, name, label in ((top, "loss", "training loss"), (middle, "accuracy", "accuracy")):
        if comparison.drift_runs:
            low, high = comparison.band(name)
            label_of_band = f"port, {len(comparison.drift_runs)} runs, last bit of J changed"
            axes.fill_between(epochs, low, high, color="0.85", label=label_of_band)
        axes.plot(epochs, original[name], color="#0072B2", lw=2, label="original (Julia)")
        if second is not None:
            axes.plot(epochs, second[name], color="#009E73", lw=1, ls=":", label="original, second run")
        axes.plot(epochs, ours[name], color="#D55E00", lw=1, ls="--", label="port")
        axes.set_ylabel(label)
    top.legend(frameon=False)
    smallest = 1e-8  # below the resolution of Float32: also stands for equality, which a log axis cannot show
    bottom.semilogy(epochs, np.maximum(distance(ours["loss"], original["loss"]), smallest), color="#D55E00", label="port - original")
    if second is not None:
        own = distance(second["loss"], original["loss"])
        bottom.semilogy(epochs, np.maximum(own, smallest), color="#009E73", ls=":", label="second run - original")
    bottom.set(xlabel="epoch", ylabel="|difference of losses|")
    bottom.legend(frameon=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


# --- the command --------------------------------------------------------------------------------


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", nargs="?", help="folder of record_original.jl, or an .npz of tests/reference; default: all of the latter")
    parser.add_argument("--second", help="another recording of the same call")
    parser.add_argument("--drift", type=int, default=0, metavar="n", help="runs with the last bit of the initial J changed")
    parser.add_argument("--epochs", type=int, help="only about so many epochs (the largest divisor of E * sIn up to it)")
    parser.add_argument("--engine", default="adjoint", choices=("adjoint", "autograd"))
    parser.add_argument("--out", default="out", help="folder for the figures")
    options = parser.parse_args(argv)
    if options.second and not options.recording:
        parser.error("--second needs the first recording")

    paths = [options.recording] if options.recording else [REFERENCE / f"run_{case}.npz" for case in CASES]
    passed = True
    for path in paths:
        recording = read_recording(path)
        comparison = Comparison(recording, options.engine, options.epochs, options.drift)
        name = comparison.case or "this_call"
        second = read_recording(options.second) if options.second else None
        figure = Path(options.out) / f"side_by_side_{name}.png"
        if second is not None:
            if read_arguments(second["julia_arguments"]) != read_arguments(recording["julia_arguments"]):
                parser.error("the second recording is of another call")
            second = cut_to(second, len(comparison.port["loss"]), len(comparison.port.get("floss_loss", [])))
        draw(comparison, figure, second)
        print(f"{name}: {len(comparison.port['loss'])} epochs, engine {options.engine}")
        print(comparison.table())
        if second is not None:
            print(f"the original from itself: losses {np.max(distance(second['loss'], comparison.original['loss'])):.2g}")
        print(f"{'as expected' if comparison.passed else 'NOT as expected: ' + ', '.join(comparison.failed_rungs)}; figure: {figure}\n")
        passed &= comparison.passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
