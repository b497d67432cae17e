"""Run the port on the arguments of a recording of the original, and say how far apart the two are.

    python tests/side_by_side/compare_with_original.py                      the recordings in tests/reference
    python tests/side_by_side/compare_with_original.py FOLDER               what record_original.jl wrote
    python tests/side_by_side/compare_with_original.py RUN.npz --second FOLDER_OR_NPZ

Prints a ladder, from the task data up to the whole run: the difference of each quantity, its limit and the verdict: ok,
not judged (with the reason) or WRONG. The first rung with a WRONG is where to look. Limits are computed here, from the
case itself (limits.py). Draws losses and their differences to out/. --second: another recording of the same call, to
see how far the original is from itself. Exit status 1 if anything is WRONG, else 0; 2 if there is nothing to compare.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

# read when the libraries are loaded, also by the processes of the noisy runs: more threads only wait for each other
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from extras.record import FLOSSED, TRAINED
from gradient_flossing_example import first_loss_index
from gf_task05spatialXORShort import generate_input_output
from julia_packages import flux
from tests.side_by_side import limits
from tests.side_by_side.limits import FLOSSING_FACTOR, OK, RUN_FACTOR, STEP_FACTOR, WRONG, Line, Series
from tests.side_by_side.limits import equal, not_judged, within
from tests.side_by_side.recordings import REFERENCE, Start, after_preflossing, read_arguments, read_recording, run_port

WHY = {
    "task data": "the same generators: bits, not rounding (difference: how many entries)",
    "initial weights": "the same draws; J of IC 3 passes a QR, xInit 100 steps of Float32 products",
    "first loss": "at the recorded parameters and batch",
    "first gradient": "at the same parameters, before clipping",
    "first update": "singular values of the clipped ADAM step that the recorded gradient gives",
    "first flossing step": "a chain of QRs, at the recorded parameters",
    "after preflossing": "the port from the recorded parameters up to the next flossing; limit as for a whole run",
    "whole run": f"limit: {RUN_FACTOR} times what runs of the port with Float32's noise are apart",
}


class Comparison:
    """One recording and one run of the port.

    lines: the ladder (limits.Line). port, recorded: dicts under the recordings' names; runs: the noisy runs of the
    port, which noisy_runs(arguments, flossing_noise, start) makes (limits.noisy_runs). None: whole runs are not compared.
    """

    def __init__(self, recorded, engine="adjoint", noisy_runs=limits.noisy_runs):
        self.recorded, self.engine = recorded, engine
        a = self.arguments = read_arguments(recorded)
        up_to = (1 if a.Ep > 0 else a.Ef) if noisy_runs is None else None  # the first flossing
        self.port = run_port(a, engine, Start({}, up_to))
        self.flossing_noise, self.runs, self.errors = 1.0, [], {}
        self.lines = [*self.task_data(), *self.initial_weights(), *self.first_steps()]
        if noisy_runs is not None:
            if a.Ep > 0 and "train1_s" in recorded:
                arguments, start, cut = after_preflossing(recorded)
                restarted, runs = run_port(arguments, engine, start), noisy_runs(arguments, 1.0, start)
                self.lines += self.along_a_run("after preflossing", restarted, cut, runs)
            self.runs = noisy_runs(a, self.flossing_noise)
            self.lines += self.along_a_run("whole run", self.port, recorded, self.runs)

    def task_data(self):
        a = self.arguments
        s0, r0 = generate_input_output(a.B, a.T, a.sIn, a.S, a.I1, a.delay, a.task)
        ours = self.port | {"s0": s0, "r0": r0}
        for name in ("s0", "r0", "train1_s", "train1_r", "floss1_s"):
            if name in self.recorded:
                yield equal("task data", name, ours.get(name), self.recorded[name])

    def initial_weights(self):
        rung, recorded, ours = "initial weights", self.recorded, self.port
        for name in TRAINED:
            if f"init_{name}" not in recorded:
                yield not_judged(rung, name, "not in the recording")
                continue
            pair = ours[f"init_{name}"], recorded[f"init_{name}"]
            if name == "xInit":
                x, known = limits.initial_state(self.arguments, recorded["init_J"], recorded["init_b"])
                pair = x, recorded["init_xInit"]
            elif name == "J" and self.arguments.IC == 3:
                known = limits.orthogonal_J(self.arguments)
            else:
                yield equal(rung, name, *pair)
                continue
            yield within(rung, name, *pair, known.scale, STEP_FACTOR * known.error)

    def first_steps(self):
        recorded = self.recorded
        if "train1_s" in recorded:
            ps = {name: recorded[f"train1_param_{name}"] for name in TRAINED}
            batch = recorded["train1_s"], recorded["train1_r"]
            ours, known = limits.training_step(self.arguments, *batch, ps, self.engine)
            yield self.one_step("first loss", "loss", ours["loss"], recorded["loss"][0], known["loss"])
            for name in TRAINED:
                yield self.one_step("first gradient", name, ours[name], recorded[f"train1_grad_{name}"], known[name])
            yield from self.first_update()
        if "floss1_s" not in recorded:
            return
        if (ps := self.first_flossing_parameters()) is None:
            yield not_judged("first flossing step", "all of it", "the parameters before it are not in the recording")
            return
        ours, known = limits.flossing_step(self.arguments, recorded["floss1_s"], ps, self.engine)
        theirs = {name: recorded[f"floss1_grad_{name}"] for name in FLOSSED}
        theirs |= {"loss": recorded["floss_loss"][0], "spectrum": recorded["floss_spectrum"][:, 0]}
        for name in ("loss", "spectrum", *FLOSSED):
            yield self.one_step("first flossing step", name, ours[name], theirs[name], known[name])
        # how much noisier this recording is than the port in Float32, for the noisy runs
        errors = [limits.norm(theirs[name] - known[name].exact) / (known[name].scale or 1) for name in FLOSSED]
        ratios = [error / known[name].error for name, error in zip(FLOSSED, errors) if known[name].error]
        self.flossing_noise = round(float(np.clip(max(ratios, default=1.0), 1.0, FLOSSING_FACTOR)), 1)

    def one_step(self, rung, name, ours, theirs, known):
        factor = FLOSSING_FACTOR if rung == "first flossing step" else STEP_FACTOR
        self.errors[f"{rung}, {name}"] = factor / RUN_FACTOR * known.error
        return within(rung, name, ours, theirs, known.scale, factor * known.error)

    def first_update(self):
        """Singular values that the original takes after update!, when gs holds the step."""
        a, recorded = self.arguments, self.recorded
        ps = {name: recorded[f"train1_param_{name}"].astype(np.float32) for name in TRAINED}
        gs = {name: recorded[f"train1_grad_{name}"].copy() for name in TRAINED}
        opt = flux.Optimiser(flux.ClipNorm(0.03), flux.ADAMW(np.float32(a.lr), (a.b1, a.b2), 0))
        flux.update(opt, ps, gs)
        for name in ("J", "xInit"):
            ours, theirs = np.linalg.svd(gs[name], compute_uv=False), recorded[f"svd{name}"][:, 0]
            # ADAM's two moments are stored in Float32: an entry of the step has two units in its last place
            yield within("first update", name, ours, theirs, limits.norm(gs[name]), 2 * np.finfo(np.float32).eps)

    def first_flossing_parameters(self):
        """{ws, J, b, xInit} before the first flossing step, or None if they are not in the recording."""
        names = (*FLOSSED, "xInit")
        kinds = ("floss1_param", "init") if self.arguments.Ep > 0 else ("floss1_param",)  # nothing has changed them yet
        for kind in kinds:
            if all(f"{kind}_{name}" in self.recorded for name in names):
                return {name: self.recorded[f"{kind}_{name}"] for name in names}
        return None

    def along_a_run(self, rung, port, recorded, runs):
        """A run of the port against the recorded one, or against a part of it."""
        pair = port, recorded
        if len(recorded["loss"]) == 0:
            yield not_judged(rung, "all of it", "no epoch was recorded")
            return
        for series in self.series(*pair, runs):
            yield limits.along(rung, series, *pair, runs)
        yield limits.shift(rung, *pair, runs)
        stopped, steps = len(port["loss"]), [flossing_steps(run) for run in pair]
        if stopped == len(recorded["loss"]) and steps[0] != steps[1]:
            yield Line(rung, "flossing steps", np.inf, 0, WRONG, f"{steps[1]} recorded, here {steps[0]}")
        if stopped < len(recorded["loss"]):  # a loss, spectrum or gradient is not finite
            alone = all(len(run["loss"]) > stopped for run in runs) and np.isfinite(recorded["loss"][stopped])
            note = f"the port stopped after {stopped} epochs, as a number was not finite"
            yield Line(rung, "the end", np.inf, 0, WRONG, note) if alone else not_judged(rung, "the end", note)
            return
        for name in TRAINED:
            if f"final_{name}" in recorded:
                yield limits.at_the_end(rung, name, *pair, runs)

    def series(self, port, recorded, runs):
        """What is compared at every step of a run; relative quantities by their logarithms."""
        a, error = self.arguments, lambda name: max(self.errors.get(name, 0.0), np.finfo(np.float32).eps)
        loss = error("first loss, loss") * np.max(port["loss"], initial=0.0)
        yield Series("losses", "epochs", lambda run: run["loss"], loss)
        scored = a.B * (a.T - first_loss_index(a.delay, a.task) + 1)
        answers = lambda run: np.rint(scored * run["accuracy"])
        # where noisy runs give the same answers in all epochs, so must the recording; else any may be the first to err
        agreed = all(np.array_equal(answers(run), answers(runs[0])) for run in runs)
        yield Series("right answers", "epochs", answers, 0 if agreed else 1 / RUN_FACTOR)
        for i, name in enumerate(TRAINED):
            of = lambda run, i=i: logarithm(run["gradnorm"][i])
            yield Series(f"log gradient of {name}", "epochs", of, error(f"first gradient, {name}"))
        smallest = SMALLEST * a.lr / flux.EPSILON  # the step that ADAM makes of the smallest gradient
        for name in ("J", "xInit"):
            of = lambda run, name=name: logarithm(norms_of_largest(run[f"svd{name}"]), smallest)
            yield Series(f"log step of {name}", "epochs", of, error(None))
        if flossing_steps(port) and flossing_steps(recorded):
            of = lambda run: logarithm(run["floss_loss"])
            yield Series("log flossing losses", "steps", of, error("first flossing step, loss"))
            of = lambda run: np.cumsum(np.float64(run["floss_spectrum"]), axis=0).T  # known better than each exponent
            first = limits.norm(port["floss_spectrum"][:, 0])
            yield Series("sums of exponents", "steps", of, error("first flossing step, spectrum") * first)
            for i, name in enumerate(FLOSSED):
                of = lambda run, i=i: logarithm(run["floss_gradnorm"][i])
                yield Series(f"log flossing gradient of {name}", "steps", of, error(None))

    @property
    def passed(self):
        return not self.wrong_rungs

    @property
    def wrong_rungs(self):
        """Rungs with a WRONG, in the order of the ladder."""
        return list(dict.fromkeys(line.rung for line in self.lines if line.verdict == WRONG))

    def line(self, rung, name):
        return next((line for line in self.lines if (line.rung, line.name) == (rung, name)), None)

    def judged_epochs(self):
        """Epochs up to which the losses are judged: before the noisy runs part."""
        return int(self.losses().judged(self.port, self.runs).sum()) if self.runs else 0

    def losses(self):
        return next(self.series(self.port, self.recorded, self.runs))

    def table(self):
        text, rung = [f"{'':28}{'difference':>11}{'limit':>10}  verdict"], None
        for line in self.lines:
            if line.rung != rung:
                rung = line.rung
                text += [f"{rung}: {WHY[rung]}"]
            note = f" ({line.note})" if line.note else ""
            text += [f"  {line.name:26}{number(line.difference):>11}{number(line.limit):>10}  {line.verdict}{note}"]
        return "\n".join(text)

    def summary(self):
        """One sentence: what was shown."""
        if self.wrong_rungs:
            where = ", ".join(f"{line.rung} ({line.name})" for line in self.lines if line.verdict == WRONG)
            return f"WRONG, where the difference is beyond the limit: {where}."
        judged = [line for line in self.lines if line.verdict == OK]
        rungs = [rung for rung in dict.fromkeys(line.rung for line in judged) if rung != "whole run"]
        epochs, E = self.judged_epochs(), len(self.recorded["loss"])
        run = f"of the {E} losses of the whole run {epochs} can be judged"
        if epochs:
            run += ", and are as near as runs of the port with Float32's noise are to each other"
        if any((line.rung, line.name, line.verdict) == ("whole run", "losses, shifted", OK) for line in self.lines):
            run += "; the losses jump from epoch to epoch as the recorded ones do"
        left = sum(line.verdict not in (OK, WRONG) for line in self.lines)
        shown = f"Shown: {', '.join(rungs)} agree to the bit or to Float32's rounding; {run}"
        return f"{shown} ({len(judged)} quantities ok, {left} not judged)."


def flossing_steps(run):
    return len(run.get("floss_loss", ()))


SMALLEST = 1e-30  # norm of a gradient; Float32 loses digits of what is smaller, as its entries underflow


def logarithm(x, smallest=SMALLEST):
    return np.log(np.maximum(x, smallest))


def norms_of_largest(singular_values):
    """(n, steps) of descending values -> (steps, n): the norm of the i largest, which the smallest cannot blur."""
    return np.sqrt(np.cumsum(singular_values**2, axis=0)).T


def number(x):
    return "-" if np.isnan(x) else f"{x:.2g}"


# --- the figure ---------------------------------------------------------------------------------


def draw(comparison, path, second=None):
    """Losses, accuracies and differences over the epochs, with the noisy runs, and the limit where it judges."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ours, recorded, runs = comparison.port, comparison.recorded, comparison.runs
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(8, 8), sharex=True, layout="constrained")
    for axes, name, label in ((top, "loss", "training loss"), (middle, "accuracy", "accuracy")):
        for i, run in enumerate(runs[1:]):  # the first is the one in Float64
            noisy = f"port, {len(runs) - 1} runs with Float32's noise" if i == 0 else None
            axes.plot(epochs(run[name]), run[name], color="0.8", lw=0.8, label=noisy)
        axes.plot(epochs(recorded[name]), recorded[name], color="#0072B2", lw=2, label="original (Julia)")
        if second is not None:
            axes.plot(epochs(second[name]), second[name], color="#009E73", lw=1, ls=":", label="original, second run")
        axes.plot(epochs(ours[name]), ours[name], color="#D55E00", lw=1, ls="--", label="port")
        axes.set_ylabel(label)
    top.legend(frameon=False)

    against = [(ours, "#D55E00", "-", "port - original"), (second, "#009E73", ":", "second run - original")]
    for run, color, style, label in against if second is not None else against[:1]:
        shortest = min(len(run["loss"]), len(recorded["loss"]))
        apart = np.abs(run["loss"][:shortest] - recorded["loss"][:shortest])
        bottom.semilogy(epochs(apart), np.maximum(apart, 1e-8), color=color, ls=style, label=label)
    judged = comparison.judged_epochs()
    if judged:
        limit = comparison.losses().limits(runs)[:judged, 0]
        bottom.semilogy(epochs(limit), limit, color="k", lw=0.8, label="limit")
    for axes in (top, middle, bottom):
        axes.axvspan(judged + 0.5, len(recorded["loss"]) + 0.5, color="0.96", zorder=-1)
    shaded = "shaded: not judged, the runs have parted" if judged < len(recorded["loss"]) else "all epochs judged"
    bottom.set(xlabel=f"epoch ({shaded})", ylabel="|difference of losses|")
    bottom.legend(frameon=False)
    top.set_title("WRONG at: " + ", ".join(comparison.wrong_rungs) if comparison.wrong_rungs else "nothing WRONG")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def epochs(series):
    return np.arange(1, len(series) + 1)


# --- the command --------------------------------------------------------------------------------


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", nargs="?", help="folder of record_original.jl, or .npz; default: tests/reference")
    parser.add_argument("--second", help="another recording of the same call")
    parser.add_argument("--engine", default="adjoint", choices=("adjoint", "autograd"))
    parser.add_argument("--out", default="out", help="folder for the figures")
    options = parser.parse_args(argv)
    if options.second and not options.recording:
        parser.error("--second needs the first recording")
    paths = [Path(options.recording)] if options.recording else sorted(REFERENCE.glob("run_*.npz"))
    try:
        recordings = [read_recording(path) for path in paths]
        second = read_recording(options.second) if options.second else None
        if second is not None and read_arguments(second) != read_arguments(recordings[0]):
            parser.error("the second recording is of another call")
        passed = [compare(path, recorded, second, options) for path, recorded in zip(paths, recordings)]
    except (OSError, KeyError, ValueError) as error:
        parser.error(f"{options.recording or REFERENCE}: {error}")
    return 0 if all(passed) else 1


def compare(path, recorded, second, options):
    """Print and draw one comparison; whether nothing is WRONG."""
    name = path.resolve().stem
    noisy_runs = partial(limits.noisy_runs, jobs=min(os.cpu_count() or 1, 8), report=partial(show, name))
    comparison = Comparison(recorded, options.engine, noisy_runs)
    figure = Path(options.out) / f"side_by_side_{path.resolve().parent.name}_{name}_{options.engine}.png"
    draw(comparison, figure, second)
    print(f"{name}: {len(recorded['loss'])} epochs, engine {options.engine}")
    print(comparison.table())
    if second is not None:
        print(f"the original from itself, losses: {np.max(np.abs(second['loss'] - recorded['loss'])):.2g} at most")
    print(f"{comparison.summary()}\nfigure: {figure}\n", flush=True)
    return comparison.passed


def show(name, done, of):
    """How many noisy runs are done, on standard error: in place on a terminal, else one line at the start."""
    if sys.stderr.isatty():
        line = f"{name}: {done} of {of} noisy runs of the port done, for the limits" if done < of else ""
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
    elif done == 0:
        print(f"{name}: {of} noisy runs of the port, for the limits", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
