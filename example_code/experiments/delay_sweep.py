"""How long a delay can be learned in equal time, without flossing, from an orthogonal J, and with flossing.

    python example_code/experiments/delay_sweep.py                        # all cores of this machine
    python example_code/experiments/delay_sweep.py --tasks xor --delays 10 20 --seeds 1 2 3 --epochs 1001 --jobs 2

Trains the network of the README call for every task, delay, seed and condition, then writes a table and a figure to
--out, beside a record file of every run. Stopped at any point, the same command goes on with what is missing.
On a cluster: `sbatch example_code/experiments/delay_sweep.sbatch`, or as a Kubernetes indexed job
`kubectl apply -f example_code/experiments/delay_sweep.yaml`.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.experiment import Experiment, label_never, markdown, outcome, readme_call  # noqa: E402
from example_code.experiments.sweep import Job  # noqa: E402
from extras.figures import BLACK, COLOURS, GREY, new_figure  # noqa: E402

TASKS = {"xor": -1, "copy": 0, "parity of 4": -2}  # the parameter `task`
DELAYS = {"xor": (10, 20, 30, 40), "copy": (40,), "parity of 4": (10,)}
CONDITIONS = {  # flossing steps before training (times --preflossing), and of a block every Ef epochs
    "none": dict(),
    "orthogonal": dict(IC=3),
    "preflossing": dict(Ep=1),
    "during": dict(Ep=1, Ei=50),
}
Ef = 100
DRAWN = {  # label, colour, marker
    "none": ("no flossing", BLACK, "s"),
    "orthogonal": ("no flossing, orthogonal J", COLOURS[2], "D"),
    "preflossing": ("preflossing", COLOURS[4], "^"),
    "during": ("flossing before and during training", COLOURS[0], "o"),
}
FLOSSING_STEP = 2  # time of a flossing step over that of a training epoch, 1.5 to 2 by the benchmark
UNTIL = 0.75  # blocks during this share of the epochs: after a block the accuracy is lower for some time


def arguments_of(task, condition, delay, seed, time, Ep=500, N=80, T=300):
    """The 33 arguments: those of the README call, the epochs being what flossing leaves of `time` (in epochs)."""
    flossing = dict(Ep=0, Ei=0) | CONDITIONS[condition]
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
    for (task, delay, seed, condition), record in sorted(records.items()):
        epoch = record.epoch_learned()
        rows.append({
            "task": task, "delay": delay, "d": delay * 2 ** abs(TASKS[task]), "condition": condition, "seed": seed,
            "epochs": len(record.loss), "flossing_steps": len(record.flossing_loss),
            "final_accuracy": record.final_accuracy(), "epoch_learned": epoch,
            "time_learned": epoch and epoch + FLOSSING_STEP * int(np.sum(record.flossing_epoch <= epoch)),
        })  # fmt: skip
    return rows


def summary(rows):
    """Lines of a Markdown table: medians over the seeds, and how many of them learned; none: infinitely late."""
    conditions = [c for c in CONDITIONS if any(r["condition"] == c for r in rows)]
    lines = []
    for task, delay, d in dict.fromkeys((r["task"], r["delay"], r["d"]) for r in in_order(rows)):
        at = [[r for r in rows if (r["task"], r["delay"], r["condition"]) == (task, delay, c)] for c in conditions]
        lines.append([task, f"{delay} ({d})", *map(outcome, at)])
    return markdown(["task", "delay (d)", *(DRAWN[c][0] for c in conditions)], lines)


def in_order(rows):
    """Sorted by the tasks as they stand in TASKS, and by delay."""
    return sorted(rows, key=lambda r: (list(TASKS).index(r["task"]), r["delay"]))


def draw(records, rows):
    """Final accuracy, epochs and time to learn at every task and delay: a thin line per seed, a thick one for the median."""
    cells = list(dict.fromkeys((r["task"], r["delay"]) for r in in_order(rows)))
    position = {cell: i + 0.6 * list(TASKS).index(cell[0]) for i, cell in enumerate(cells)}  # a gap between tasks
    latest = max(r["epochs"] for r in rows)
    never = 1.7 * latest  # where a run that does not learn is drawn
    panels = {
        "final accuracy (%)": lambda r: 100 * r["final_accuracy"],
        "epochs to learn": lambda r: r["epoch_learned"] or never,
        "time to learn (epochs)": lambda r: r["time_learned"] or never,
    }
    with new_figure(9) as figure:
        axes = figure.subplots(3, 1, sharex=True)
        for ax, (name, value) in zip(axes, panels.items()):
            for number, condition in enumerate(c for c in CONDITIONS if any(r["condition"] == c for r in rows)):
                for task in TASKS:
                    mine = [r for r in rows if (r["task"], r["condition"]) == (task, condition)]
                    draw_lines(ax, mine, value, position, condition, shift=0.13 * (number - 1.5))
            ax.set_ylabel(name)
        for ax in axes[1:]:
            label_never(ax, never, latest)
        axes[0].axhline(50, color=GREY, linestyle=":", linewidth=1)
        axes[2].set_xticks(list(position.values()), [f"{task}\ndelay {delay}" for task, delay in cells])
        entries = dict(zip(*reversed(axes[0].get_legend_handles_labels())))  # label -> line, each once
        title = "thin: seeds, thick: median"
        figure.legend(entries.values(), entries, loc="outside upper center", ncols=2, title=title)
    return figure


def draw_lines(ax, rows, value, position, condition, shift):
    """Of one task and condition."""
    label, colour, marker = DRAWN[condition]
    style = dict(color=colour, marker=marker)
    x = {r["delay"]: position[r["task"], r["delay"]] + shift for r in rows}
    for seed in {r["seed"] for r in rows}:
        points = sorted((x[r["delay"]], value(r)) for r in rows if r["seed"] == seed)
        ax.plot(*zip(*points), linewidth=0.6, markersize=2.5, alpha=0.45, **style)
    median = [np.median([value(r) for r in rows if r["delay"] == delay]) for delay in sorted(x)]
    ax.plot(sorted(x.values()), median, linewidth=2.2, markersize=6, label=label, **style)


TRAINING = {  # options that number_of_exponents.py has, too
    "--seeds": dict(nargs="+", type=int, default=list(range(1, 11)), help="one network each"),
    "--epochs": dict(type=int, default=4501, help="time of a run, in training epochs, flossing included"),
    "--preflossing": dict(type=int, metavar="Ep", default=500, help="flossing steps before training"),
}
OPTIONS = {
    "--tasks": dict(nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help="xor, copy, 'parity of 4'"),
    "--conditions": dict(nargs="+", choices=CONDITIONS, default=list(CONDITIONS), metavar="CONDITION", help=", ".join(CONDITIONS)),
    "--delays": dict(nargs="+", type=int, help="in time steps; without it those of the table in README.md"),
    "--neurons": dict(type=int, default=80, help="of the network"),
    "--steps": dict(type=int, default=300, help="time steps per trial"),
}
QUICK = dict(tasks=["xor"], delays=[10, 20], seeds=[1], epochs=1001, preflossing=200)
EXPERIMENT = Experiment("delay_sweep", __doc__, TRAINING | OPTIONS, QUICK, make_jobs, make_rows, summary, draw)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
