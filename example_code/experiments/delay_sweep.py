"""How long a delay can be learned in equal time, without flossing, from an orthogonal J, and with flossing.

    python example_code/experiments/delay_sweep.py                        # all cores of this machine
    python example_code/experiments/delay_sweep.py --tasks xor --delays 10 20 --seeds 1 2 3 --epochs 1001 --jobs 2

Trains the network of the README call for every task, delay, seed and condition, then writes a table and a figure to
--out, beside a record file of every run. Stopped at any point, the same command goes on with what is missing.
On a cluster of Slurm or Kubernetes: delay_sweep.sbatch, delay_sweep.yaml.
"""

import sys
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.experiment import (  # noqa: E402
    Experiment, Job, by_seed, draw_seeds, label_never, markdown, outcome, readme_call,
)  # fmt: skip
from extras.figures import COLOURS, CONDITIONS as LABELLED, GREY, new_figure  # noqa: E402

TASKS = {"xor": -1, "copy": 0, "parity of 4": -2}  # the parameter `task`
DELAYS = {"xor": (10, 20, 30, 40), "copy": (40,), "parity of 4": (10,)}
CONDITIONS = {  # flossing steps before training (times --preflossing), and of a block every Ef epochs; label, colour, marker
    "none": (dict(), "no flossing", LABELLED["no flossing"], "s"),
    "orthogonal": (dict(IC=3), "no flossing, orthogonal J", COLOURS[2], "D"),
    "preflossing": (dict(Ep=1), "preflossing", LABELLED["preflossing"], "^"),
    "during": (dict(Ep=1, Ei=50), "flossing before and during training", LABELLED["flossing during training"], "o"),
}
Ef = 100
FLOSSING_STEP = 2  # time of a flossing step over that of a training epoch, 1.5 to 2 by the benchmark
UNTIL = 0.75  # blocks during this share of the epochs: after a block the accuracy is lower for some time


def arguments_of(task, condition, delay, seed, time, Ep=500, N=80, T=300):
    """The 33 arguments: those of the README call, the epochs being what flossing leaves of `time` (in epochs)."""
    flossing = dict(Ep=0, Ei=0) | CONDITIONS[condition][0]
    flossing["Ep"] *= Ep
    E = int((time - FLOSSING_STEP * flossing["Ep"]) / (1 + UNTIL * FLOSSING_STEP * flossing["Ei"] / Ef))
    Ni = int(UNTIL * E / Ef) if flossing["Ei"] else 0
    return readme_call(seed, N=N, E=E, Ef=Ef, Ni=Ni, T=T, delay=delay, nLE=min(75, N), task=TASKS[task], **flossing)


def make_jobs(args):
    """{(task, delay, seed, condition): Job}, seed by seed, so that a sweep that is stopped has whole seeds."""
    return {
        (task, delay, seed, condition): Job(
            f"{task.replace(' ', '_')}_{condition}_delay{delay}_seed{seed}",
            arguments_of(task, condition, delay, seed, args.epochs, args.preflossing, args.neurons, args.steps),
        )
        for seed in args.seeds
        for task in args.tasks
        for delay in args.delays or DELAYS[task]
        for condition in args.conditions
    }


def make_rows(records):
    """One row per run. d: time steps from the oldest bit asked for; time: in training epochs, flossing included."""
    rows = []
    for (task, delay, seed, condition), record in records.items():
        epoch = record.epoch_learned()
        rows.append({
            "task": task, "delay": delay, "d": delay * 2 ** abs(TASKS[task]), "condition": condition, "seed": seed,
            "epochs": len(record.loss), "flossing_steps": len(record.flossing_loss),
            "final_accuracy": record.final_accuracy(), "epoch_learned": epoch,
            "time_learned": epoch and epoch + FLOSSING_STEP * int(np.sum(record.flossing_epoch <= epoch)),
        })  # fmt: skip
    return rows


def summary(rows):
    """Lines of a Markdown table: medians over the seeds, and how many of them learned."""
    conditions, lines = list(dict.fromkeys(r["condition"] for r in rows)), []
    for task, delay, d in dict.fromkeys((r["task"], r["delay"], r["d"]) for r in rows):
        at = [[r for r in rows if (r["task"], r["delay"], r["condition"]) == (task, delay, c)] for c in conditions]
        lines.append([task, f"{delay} ({d})", *map(outcome, at)])
    return markdown(["task", "delay (d)", *(CONDITIONS[c][1] for c in conditions)], lines)


def draw(records, rows):
    """Final accuracy, epochs and time to learn at every task and delay."""
    never = 1.7 * max(r["epochs"] for r in rows)  # where a run that does not learn is drawn
    panels = {
        "final accuracy (%)": lambda r: 100 * r["final_accuracy"],
        "epochs to learn": lambda r: r["epoch_learned"] or never,
        "time to learn (epochs)": lambda r: r["time_learned"] or never,
    }
    tasks = list(dict.fromkeys(r["task"] for r in rows))
    cells = [(task, delay) for task in tasks for delay in sorted({r["delay"] for r in rows if r["task"] == task})]
    position = {cell: i + 0.6 * tasks.index(cell[0]) for i, cell in enumerate(cells)}  # a gap between tasks
    with new_figure(9) as figure:
        axes = figure.subplots(3, 1, sharex=True)
        for number, condition in enumerate(c for c in CONDITIONS if any(r["condition"] == c for r in rows)):
            for task, (ax, value) in product(tasks, zip(axes, panels.values())):
                mine = [r for r in rows if (r["task"], r["condition"]) == (task, condition)]
                delays, curves = by_seed(mine, "delay", value)
                x = [position[task, delay] + 0.13 * (number - 1.5) for delay in delays]
                draw_seeds(ax, x, curves, *CONDITIONS[condition][1:])
        for ax, name in zip(axes, panels):
            ax.set_ylabel(name)
        for ax in axes[1:]:
            label_never(ax, never)
        axes[0].axhline(50, color=GREY, linestyle=":", linewidth=1)
        axes[2].set_xticks(list(position.values()), [f"{task}\ndelay {delay}" for task, delay in cells])
        entries = dict(zip(*reversed(axes[0].get_legend_handles_labels())))  # label -> line, each once
        title = "thin: seeds, thick: median"
        figure.legend(entries.values(), entries, loc="outside upper center", ncols=2, title=title)
    return figure


TRAINING = {  # options that number_of_exponents.py has, too
    "--seeds": dict(nargs="+", type=int, default=list(range(1, 11)), help="one network each"),
    "--epochs": dict(type=int, default=4501, help="time of a run, in training epochs, flossing included"),
    "--preflossing": dict(type=int, metavar="Ep", default=500, help="flossing steps before training"),
}
OPTIONS = {
    "--tasks": dict(nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help="xor, copy, 'parity of 4'"),
    "--conditions": dict(nargs="+", choices=CONDITIONS, default=list(CONDITIONS), help="flossing, or what stands for it"),
    "--delays": dict(nargs="+", type=int, help="in time steps; without it those of the table in README.md"),
    "--neurons": dict(type=int, default=80, help="of the network"),
    "--steps": dict(type=int, default=300, help="time steps per trial"),
}
QUICK = dict(tasks=["xor"], delays=[10, 20], seeds=[1], epochs=1001, preflossing=200)
EXPERIMENT = Experiment("delay_sweep", __doc__, TRAINING | OPTIONS, QUICK, make_jobs, make_rows, summary, draw)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
