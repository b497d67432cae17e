"""How long a delay can be learned in equal time, without flossing, from an orthogonal J, and with flossing.

--epochs: time of a run, flossing included; --preflossing: steps; --delays 0: each task's own; --steps: of a trial.
"""

import sys
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.experiment import Experiment, Job, draw_dots, outcome, pivot, readme_call  # noqa: E402

TASKS = {"xor": -1, "copy": 0, "parity of 4": -2}  # the parameter `task`
DELAYS = {"xor": (10, 20, 30, 40), "copy": (40,), "parity of 4": (10,)}
CONDITIONS = {  # Ep: times --preflossing; Ei: steps of a block every Ef epochs
    "none": (dict(), "no flossing"),
    "orthogonal": (dict(IC=3), "no flossing, orthogonal J"),
    "preflossing": (dict(Ep=1), "preflossing"),
    "during": (dict(Ep=1, Ei=50), "flossing before and during training"),
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
    """Pairs of (task, delay, seed, condition) and Job, seed by seed, so that a sweep that is stopped has whole seeds."""
    for seed, task in product(args.seeds, args.tasks):
        for delay, condition in product(DELAYS[task] if args.delays == [0] else args.delays, args.conditions):
            call = arguments_of(task, condition, delay, seed, args.epochs, args.preflossing, args.neurons, args.steps)
            label = f"{task.replace(' ', '_')}_{condition}_delay{delay}_seed{seed}"
            yield (task, delay, seed, condition), Job(label, call)


def make_rows(key, record):
    """One row. d: time steps from the oldest bit asked for; time: in training epochs, flossing included."""
    (task, delay, seed, condition), epoch = key, record.epoch_learned()
    time = epoch and epoch + FLOSSING_STEP * int(np.sum(record.flossing_epoch <= epoch))
    yield dict(task=task, delay=delay, d=delay * 2 ** abs(TASKS[task]), condition=condition, seed=seed,
               epochs=len(record.loss), flossing_steps=len(record.flossing_loss),
               final_accuracy=record.final_accuracy(), epoch_learned=epoch, time_learned=time)  # fmt: skip


line = lambda r: (r["task"], f"{r['delay']} ({r['d']})")  # noqa: E731
condition = lambda r: CONDITIONS[r["condition"]][1]  # noqa: E731
summary = lambda rows: pivot(rows, ["task", "delay (d)"], line, condition, outcome)  # noqa: E731
draw = lambda _, rows: draw_dots({"final accuracy (%)": rows}, line, condition)  # noqa: E731

TRAINING = dict(seeds=[*range(1, 11)], epochs=4501, preflossing=500)  # settings of number_of_exponents.py, too
SETTINGS = TRAINING | dict(tasks=[*TASKS], conditions=[*CONDITIONS], delays=[0], neurons=80, steps=300)
QUICK = dict(tasks=["xor"], delays=[10, 20], seeds=[1], epochs=501, preflossing=100)
EXPERIMENT = Experiment("delay_sweep", __doc__, SETTINGS, QUICK, make_jobs, make_rows, summary, draw)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
