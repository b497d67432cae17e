"""What the target of the exponents does: how well it is reached, to learning, to gradients, to the long-term Jacobian.

    python example_code/experiments/targets_and_gradients.py        # all cores of this machine

Trains the network of the README call (delayed XOR, delay 10) for 1,001 epochs without flossing, and after 500 flossing
steps towards exponents of -1, -0.5, -0.1 and 0; ten seeds. Writes a table and a figure to --out.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from extras.figures import COLOURS, CONDITIONS, GREY, new_figure, running_mean  # noqa: E402
from extras.lyapunov import (  # noqa: E402
    Diagnostics, log_condition_number, log_singular_values, step_jacobians, trajectory,
)  # fmt: skip
from example_code.experiments.sweep import Job, make_parser, sweep, write_csv  # noqa: E402
from gf_task05spatialXORShort import generate_input_output  # noqa: E402
from gradient_flossing_example import README_CALL, train_rnn_flossing  # noqa: E402

NAME = "targets_and_gradients"
TARGETS = (None, -1.0, -0.5, -0.1, 0.0)  # None: no flossing
COLOUR = dict(zip(TARGETS, (CONDITIONS["no flossing"], *COLOURS[1:4], CONDITIONS["preflossing"])))
HORIZON = 2 * README_CALL.delay  # steps of the long-term Jacobian: d
BETWEEN = 100  # epochs between two looks at the condition number
EARLY = 50  # epochs over which the gradient norm is averaged, before any network learns


def make_runs(args):
    """{(target, seed): Job}."""
    jobs = {}
    for seed in args.seeds:
        for target in TARGETS:
            flossing = dict(Ep=0) if target is None else dict(Ep=args.flossing_steps, Lwnt=target)
            arguments = README_CALL._replace(E=args.epochs, Ni=0, sIC=seed, sIn=seed, sNet=seed, sONS=seed, **flossing)
            jobs[target, seed] = Job(f"target{target}_seed{seed}", arguments, f"example_code.experiments.{NAME}:run")
    return jobs


def run(*arguments, **options):
    """The record of train_rnn_flossing; its diagnostics: log_condition_number before flossing, at looked_at(E), at the end."""
    record = train_rnn_flossing(*arguments, diagnostics=ConditionNumber(), **options)
    before, after = (np.array([condition(ps, record.parameters)]) for ps in (record.initial, record.final))
    record.diagnostics["log_condition_number"] = np.concatenate([before, *record.diagnostics.values(), after])
    return record


class ConditionNumber(Diagnostics):
    """Of the long-term Jacobian, in the epochs of looked_at(E)."""

    def before_update(self, p, ps, epoch, gs):
        return {"diagnostics/log_condition_number": condition(ps, p)} if epoch in looked_at(p["E"]) else {}


def looked_at(E):
    """Epochs; at the first one flossing has just ended."""
    return range(1, E + 1, BETWEEN)


def condition(ps, p):
    """log(sigma_1 / sigma_nLE) of the long-term Jacobian over HORIZON steps, after as many; for an unseen input."""
    s, _ = generate_input_output(1, 2 * HORIZON, 999_999 + p["sIn"], 1, p["I1"], p["delay"], p["task"])
    jacobians = step_jacobians(trajectory(s, ps["ws"], ps["J"], ps["b"], ps["xInit"]), ps["J"])
    return log_condition_number(log_singular_values(jacobians[HORIZON:], [HORIZON])[0], p["nLE"])


def make_rows(records):
    """One row per run; exponents: at the last flossing step; gradient: norm with respect to xInit, base-10 logarithms."""
    rows = []
    for (target, seed), record in records.items():
        exponents = record.lyapunov_spectrum[-1].astype(float) if target is not None else np.full(1, np.nan)
        before, after, *_, trained = (record.diagnostics["log_condition_number"] / np.log(10)).tolist()
        rows.append({
            "target": "none" if target is None else target, "seed": seed, "mean_exponent": float(exponents.mean()),
            "largest_exponent": float(exponents.max()), "smallest_exponent": float(exponents.min()),
            "epoch_learned": record.epoch_learned(), "final_accuracy": record.final_accuracy(),
            "log10_gradient_norm": float(np.log10(record.gradient_norm["xInit"][:EARLY]).mean()),
            "log10_condition_before": before, "log10_condition_flossed": after, "log10_condition_trained": trained,
        })  # fmt: skip
    return rows


def median_table(rows):
    """Lines of a Markdown table: medians over seeds."""
    lines = [
        "| target | exponents reached: mean, largest, smallest | learned | final | gradient norm | condition before, flossed, trained |",
        "|---|---|---|---|---|---|",
    ]
    for target in dict.fromkeys(r["target"] for r in rows):
        mine = [r for r in rows if r["target"] == target]
        m = {name: np.median([r[name] for r in mine]) for name in mine[0] if name not in ("target", "epoch_learned")}
        epochs = [r["epoch_learned"] or np.inf for r in mine]
        learned = f"epoch {np.median(epochs):.0f}" if np.isfinite(np.median(epochs)) else "never"
        reached = ", ".join(f"{m[f'{name}_exponent']:.3f}" for name in ("mean", "largest", "smallest"))
        conditions = ", ".join(f"10^{m[f'log10_condition_{time}']:.1f}" for time in ("before", "flossed", "trained"))
        lines.append(
            f"| {target} | {'-' if target == 'none' else reached} | {learned}, {np.isfinite(epochs).sum()}/{len(mine)} | "
            f"{100 * m['final_accuracy']:.1f} % | 10^{m['log10_gradient_norm']:.1f} | {conditions} |"
        )
    return lines


def draw(records, path):
    """Spectra reached, accuracy, gradient norm and condition number: thin lines seeds, thick ones medians."""
    with new_figure(7) as figure:
        (spectra, accuracy), (gradients, conditions) = figure.subplots(2, 2)
        for target in dict.fromkeys(target for target, _ in records):
            mine = [record for (t, _), record in records.items() if t == target]
            label = "no flossing" if target is None else f"target {target:g}"
            if target is not None:
                lines(spectra, [r.lyapunov_spectrum[-1] for r in mine], COLOUR[target], label)
                spectra.axhline(target, color=COLOUR[target], linestyle=":", linewidth=1)
            lines(accuracy, [100 * running_mean(r.accuracy) for r in mine], COLOUR[target], label)
            lines(gradients, [running_mean(np.log10(r.gradient_norm["xInit"])) for r in mine], COLOUR[target], label)
            E = mine[0].parameters["E"]
            log10 = [r.diagnostics["log_condition_number"] / np.log(10) for r in mine]
            lines(conditions, log10, COLOUR[target], label, x=[-BETWEEN, *looked_at(E), E + 1], marker="o", markersize=3)
        spectra.set(xlabel="index of the exponent", ylabel="Lyapunov exponent (1/step)", title="A  after flossing")
        accuracy.axhline(50, color=GREY, linestyle="--", linewidth=1)
        accuracy.set(xlabel="epoch", ylabel="accuracy (%)", title="B  learning")
        gradients.set(xlabel="epoch", ylabel="log10 of the gradient norm", title="C  d loss / d initial state")
        conditions.set(xlabel="epoch; leftmost: before flossing", ylabel="log10 of sigma_1 / sigma_75")
        conditions.set_title(f"D  long-term Jacobian, {HORIZON} steps")
        handles, labels = accuracy.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=5)
    figure.savefig(path)


def lines(ax, curves, colour, label, x=None, **style):
    x = np.arange(1, len(curves[0]) + 1) if x is None else x
    for curve in curves:
        ax.plot(x, curve, color=colour, linewidth=0.5, alpha=0.35)
    ax.plot(x, np.median(curves, axis=0), color=colour, linewidth=1.8, label=label, **style)


def write(records, out):
    """Table and figure of {(target, seed): record}."""
    rows = make_rows(records)
    write_csv(rows, out / f"{NAME}.csv")
    draw(records, out / f"{NAME}.png")
    print("\n".join(["", *median_table(rows)]))


def main(argv=None):
    """Returns the exit status: 0, 1 if a run failed, 130 after Ctrl-C."""
    parser = make_parser(__doc__.split("\n\n")[0], f"out/{NAME}")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(1, 11)))
    parser.add_argument("--epochs", type=int, default=1001)
    parser.add_argument("--flossing-steps", type=int, default=500)
    args = parser.parse_args(argv)
    return sweep(make_runs(args), args, write)


if __name__ == "__main__":
    sys.exit(main())
