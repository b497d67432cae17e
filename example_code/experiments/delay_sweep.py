"""How long a delay can be learned in equal time, without flossing, from an orthogonal J, and with flossing."""

import sys
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.experiment import Experiment, Job, by, draw_outcomes, outcomes, readme_call  # noqa: E402
from extras.figures import COLOURS, CONDITIONS as LABELLED  # noqa: E402

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


def arguments_of(task, condition, delay, seed, time, Ep, N=80, T=300):
    """The 33 arguments: those of the README call, the epochs being what flossing leaves of `time` (in epochs)."""
    flossing = dict(Ep=0, Ei=0) | CONDITIONS[condition][0]
    flossing["Ep"] *= Ep
    E = int((time - FLOSSING_STEP * flossing["Ep"]) / (1 + UNTIL * FLOSSING_STEP * flossing["Ei"] / Ef))
    Ni = int(UNTIL * E / Ef) if flossing["Ei"] else 0
    return readme_call(seed, N=N, E=E, Ef=Ef, Ni=Ni, T=T, delay=delay, nLE=min(75, N), task=TASKS[task], **flossing)


def make_jobs(args):
    """{(task, delay, seed, condition): Job}, seed by seed, so that a sweep that is stopped has whole seeds."""
    jobs = {}
    for seed, task in product(args.seeds, args.tasks):
        for delay, condition in product(args.delays or DELAYS[task], args.conditions):
            call = arguments_of(task, condition, delay, seed, args.epochs, args.preflossing, args.neurons, args.steps)
            label = f"{task.replace(' ', '_')}_{condition}_delay{delay}_seed{seed}"
            jobs[task, delay, seed, condition] = Job(label, call)
    return jobs


def make_rows(records):
    """One row per run. d: time steps from the oldest bit asked for; time: in training epochs, flossing included."""
    return [
        dict(task=task, delay=delay, d=delay * 2 ** abs(TASKS[task]), condition=condition, seed=seed,
             epochs=len(record.loss), flossing_steps=len(record.flossing_loss),
             final_accuracy=record.final_accuracy(), epoch_learned=(epoch := record.epoch_learned()),
             time_learned=epoch and epoch + FLOSSING_STEP * int(np.sum(record.flossing_epoch <= epoch)))
        for (task, delay, seed, condition), record in records.items()
    ]  # fmt: skip


def summary(rows):
    line = lambda r: (r["task"], f"{r['delay']} ({r['d']})")  # noqa: E731
    return outcomes(rows, ["task", "delay (d)"], line, lambda r: CONDITIONS[r["condition"]][1])


def draw(records, rows):
    tasks, conditions = list(TASKS), list(CONDITIONS)
    cells = sorted(by(rows, "task", "delay"), key=lambda cell: (tasks.index(cell[0]), cell[1]))
    position = {cell: i + 0.6 * tasks.index(cell[0]) for i, cell in enumerate(cells)}  # a gap between tasks
    x = lambda r: position[r["task"], r["delay"]] + 0.13 * (conditions.index(r["condition"]) - 1.5)  # noqa: E731
    groups = [(mine, *CONDITIONS[condition][1:]) for (condition, _), mine in by(rows, "condition", "task").items()]
    ticks = dict(xticks=list(position.values()), xticklabels=[f"{task}\ndelay {delay}" for task, delay in cells])
    return draw_outcomes(rows, groups, x, **ticks)


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
