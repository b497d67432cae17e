"""How well a target of the exponents is reached, and what it does to learning, gradients and the long-term Jacobian."""

import sys
from itertools import product
from pathlib import Path

import numpy as np
from scipy.ndimage import uniform_filter1d

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.experiment import Experiment, Job, by, draw_seeds, markdown, outcome, readme_call  # noqa: E402
from extras.figures import COLOURS, CONDITIONS, GREY, new_figure  # noqa: E402
from extras.lyapunov import Diagnostics, log_condition_number, log_singular_values, step_jacobians, trajectory  # noqa: E402
from gf_task05spatialXORShort import generate_input_output  # noqa: E402
from gradient_flossing_example import README_CALL, train_rnn_flossing  # noqa: E402

NAME = "targets_and_gradients"
TARGETS = (None, -1.0, -0.5, -0.1, 0.0)  # None: no flossing
COLOUR = dict(zip(TARGETS, (CONDITIONS["no flossing"], *COLOURS[1:4], CONDITIONS["preflossing"])))
HORIZON = 2 * README_CALL.delay  # steps of the long-term Jacobian: d
BETWEEN = 100  # epochs between two looks at the condition number


def make_jobs(args):
    """Pairs of (target, seed) and Job."""
    for seed, target in product(args.seeds, TARGETS):
        call = readme_call(seed, E=args.epochs, Ni=0, Ep=0 if target is None else args.preflossing, Lwnt=target or 0.0)
        yield (target, seed), Job(f"target{target}_seed{seed}", call, f"example_code.experiments.{NAME}:train_and_look")


def train_and_look(*arguments, **options):
    """The record of train_rnn_flossing, with the log_condition_number before flossing, in some epochs and at the end."""
    record = train_rnn_flossing(*arguments, diagnostics=ConditionNumber(), **options)
    before, after = (np.array([condition(ps, record.parameters)]) for ps in (record.initial, record.final))
    record.diagnostics["log_condition_number"] = np.concatenate([before, *record.diagnostics.values(), after])
    return record


class ConditionNumber(Diagnostics):
    """Of the long-term Jacobian, in the epochs 1, where flossing has just ended, 1 + BETWEEN, ..."""

    def before_update(self, p, ps, epoch):
        return {"diagnostics/log_condition_number": condition(ps, p)} if epoch % BETWEEN == 1 else {}


def condition(ps, p):
    """log(sigma_1 / sigma_nLE) of the long-term Jacobian over HORIZON steps, after as many; for an unseen input."""
    s, _ = generate_input_output(1, 2 * HORIZON, 999_999 + p["sIn"], 1, p["I1"], p["delay"], p["task"])
    jacobians = step_jacobians(trajectory(s, ps["ws"], ps["J"], ps["b"], ps["xInit"]), ps["J"])
    return log_condition_number(log_singular_values(jacobians[HORIZON:], [HORIZON])[0], p["nLE"])


def make_rows(key, record):
    """One row. Exponents: at the last flossing step; gradient: norm with respect to xInit, in the first 50 epochs."""
    target, seed = key
    exponents = np.full(1, np.nan) if target is None else record.lyapunov_spectrum[-1].astype(float)
    before, after, *_, trained = (record.diagnostics["log_condition_number"] / np.log(10)).tolist()
    yield {
        "target": "none" if target is None else target, "seed": seed, "mean_exponent": float(exponents.mean()),
        "largest_exponent": float(exponents.max()), "smallest_exponent": float(exponents.min()),
        "epoch_learned": record.epoch_learned(), "final_accuracy": record.final_accuracy(),
        "log10_gradient_norm": float(np.log10(record.gradient_norm["xInit"][:50]).mean()),
        "log10_condition_before": before, "log10_condition_flossed": after, "log10_condition_trained": trained,
    }  # fmt: skip


def summary(rows):
    lines = []
    for (target,), mine in by(rows, "target").items():
        m = {name: np.median([r[name] for r in mine]) for name in mine[0] if "_exponent" in name or "log10" in name}
        reached = [f"{m[f'{name}_exponent']:.3f}" for name in ("mean", "largest", "smallest")]
        gradient, *conditions = (f"10^{value:.1f}" for name, value in m.items() if "log10" in name)
        lines.append([target, ", ".join(reached), outcome(mine), gradient, ", ".join(conditions)])
    names = "target; exponents reached: mean, largest, smallest; outcome; gradient norm; condition before, flossed, trained"
    return markdown(names.split("; "), lines)


def draw(records, rows):
    """Accuracy and condition number: thin lines seeds, thick ones medians."""
    with new_figure(4.2) as figure:
        accuracy, conditions = figure.subplots(1, 2)
        for target in dict.fromkeys(target for target, _ in records):
            mine = [record for (t, _), record in records.items() if t == target]
            style = "no flossing" if target is None else f"target {target:g}", COLOUR[target]
            epochs = np.arange(1, mine[0].parameters["E"] + 1)
            draw_seeds(accuracy, epochs, [100 * uniform_filter1d(r.accuracy, 10, mode="nearest") for r in mine], *style)
            log10 = [r.diagnostics["log_condition_number"] / np.log(10) for r in mine]
            draw_seeds(conditions, [-BETWEEN, *epochs[::BETWEEN], epochs[-1] + 1], log10, *style, marker="o")
        accuracy.axhline(50, color=GREY, linestyle="--", linewidth=1)
        accuracy.set(xlabel="epoch (means of 10)", ylabel="accuracy (%)")
        conditions.set(xlabel="epoch; leftmost: before flossing", ylabel=f"log10 of sigma_1 / sigma_75, {HORIZON} steps")
        figure.legend(*accuracy.get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return figure


SETTINGS = dict(seeds=[*range(1, 11)], epochs=1001, preflossing=500)
QUICK = dict(seeds=[1], epochs=201, preflossing=100)
EXPERIMENT = Experiment(NAME, __doc__, SETTINGS, QUICK, make_jobs, make_rows, summary, draw)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
