"""How many Lyapunov exponents must be flossed: k = 1 to 80 of a network of 80 neurons, at three delays.

    python example_code/experiments/number_of_exponents.py        # all cores of this machine

Trains the networks of the delay sweep's condition "during" (500 flossing steps before training, a block of 50 every 100
epochs of the first three quarters), with as many epochs and flossing steps for every k. Writes a table and a figure.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.delay_sweep import TRAINING, arguments_of  # noqa: E402
from example_code.experiments.experiment import Experiment, Job, by_seed, draw_seeds, label_never, markdown, outcome  # noqa: E402
from extras.figures import COLOURS, GREY, new_figure  # noqa: E402

EXPONENTS = (1, 5, 10, 20, 40, 60, 75, 80)  # k, the parameter nLE
DELAYS = (10, 20, 30)
LAST_STEPS = 20  # of preflossing, over which the flossing loss is averaged


def make_jobs(args):
    """{(delay, k, seed): Job}, seed by seed."""
    jobs = {}
    for seed in args.seeds:
        for delay in DELAYS:
            arguments = arguments_of("xor", "during", delay, seed, args.epochs, args.preflossing)
            jobs |= {(delay, k, seed): Job(f"delay{delay}_k{k}_seed{seed}", arguments._replace(nLE=k)) for k in EXPONENTS}
    return jobs


def make_rows(records):
    """One row per run. flossing_loss: mean over the k exponents of their squares, at the end of preflossing."""
    rows = []
    for (delay, k, seed), record in records.items():
        before_training = record.flossing_loss[record.flossing_epoch == 1]
        rows.append({
            "delay": delay, "k": k, "seed": seed, "epochs": len(record.loss), "flossing_steps": len(record.flossing_loss),
            "flossing_loss": float(before_training[-LAST_STEPS:].mean()), "final_accuracy": record.final_accuracy(),
            "epoch_learned": record.epoch_learned(),
        })  # fmt: skip
    return rows


def summary(rows):
    """Lines of a Markdown table: medians over the seeds, and how many of them learned."""
    delays, lines = sorted({r["delay"] for r in rows}), []
    for k in sorted({r["k"] for r in rows}):
        lines.append([k, *(outcome([r for r in rows if (r["delay"], r["k"]) == (delay, k)]) for delay in delays)])
    return markdown(["k", *(f"delay {delay}" for delay in delays)], lines)


def draw(records, rows):
    """Final accuracy and epoch learned against k."""
    never = 1.7 * max(r["epochs"] for r in rows)  # where a run that does not learn is drawn
    with new_figure(4.2) as figure:
        accuracy, epochs = figure.subplots(1, 2)
        for number, delay in enumerate(sorted({r["delay"] for r in rows})):
            mine, style = [r for r in rows if r["delay"] == delay], (f"delay {delay}", COLOURS[number], "os^"[number])
            draw_seeds(accuracy, *by_seed(mine, "k", lambda r: 100 * r["final_accuracy"]), *style)
            draw_seeds(epochs, *by_seed(mine, "k", lambda r: r["epoch_learned"] or never), *style)
        accuracy.axhline(50, color=GREY, linestyle=":", linewidth=1)
        accuracy.set(xlabel="k, flossed exponents", ylabel="final accuracy (%)")
        epochs.set(xlabel="k, flossed exponents", ylabel="epochs to learn")
        label_never(epochs, never)
        figure.legend(*accuracy.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


QUICK = dict(seeds=[1], epochs=601, preflossing=100)
EXPERIMENT = Experiment("number_of_exponents", __doc__, TRAINING, QUICK, make_jobs, make_rows, summary, draw)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
