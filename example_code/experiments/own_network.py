"""Where does flossing help nn.RNN, nn.GRU and nn.LSTM? Four tasks, against what costs nothing, at equal time.

A network is flossed once, if at all; copies of it are trained at one size of the task (delay, time steps) after the
other, until one is not learned. Each has the same processor time, flossing included: --seconds (0: the default of the
task). The digits are scikit-learn's (pip install scikit-learn).
"""

import copy
import sys
import time
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.experiment import Experiment, Job, by, draw_dots, pivot  # noqa: E402
from example_code.experiments.tasks import CONDITIONS, KINDS, SPREAD, TASKS, start  # noqa: E402
from extras.files import load_arrays, save_arrays  # noqa: E402
from extras.flossing import floss, flossing_loss  # noqa: E402
from extras.record import WINDOW  # noqa: E402

MODULE = "example_code.experiments.own_network"
EVERY, NORM, FADED = 4, 1.0, 0.4  # alongside training: epochs between, largest norm, score from which 0


def make_jobs(args):
    """Pairs of (task, network, condition, seed) and Job."""
    for task, seed, kind, (condition, kinds) in product(args.tasks, args.seeds, args.networks, CONDITIONS.items()):
        if kind in kinds:
            key = (task, kind, condition, seed)
            label = "_".join(map(str, key)).replace(", ", "_").replace(" ", "_")
            yield key, Job(label, (*key, args.seconds or TASKS[task].seconds), f"{MODULE}:floss_and_train", f"{MODULE}:load")


class Trainings(SimpleNamespace):
    """What became of one network: its parameters, and rows of the table. It is done as a whole, never interrupted."""

    def save(self, path):
        save_arrays(path, MODULE, vars(self) | dict(interrupted=False), {})


load = lambda path: Trainings(**load_arrays(path, MODULE)[0])  # noqa: E731


def floss_and_train(name, kind, condition, seed, seconds, **_):
    """The Trainings of one network: flossed once, copies of it trained at one size after the other."""
    same, task, how = dict(task=name, network=kind, condition=condition, seed=seed), TASKS[name], condition.split(", ")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: task.batch(task.sizes[0], generator)[0][: task.window, :1]  # noqa: E731
    inputs = draw()
    network = getattr(nn, kind)(inputs.shape[-1], task.H)
    start(network, how, task.memory)
    started, steps, loss = time.process_time(), task.steps if "flossed" in how else 0, None
    if steps:
        history = floss(network, draw, task.k, steps=steps, discard=16, spread=SPREAD if "spread" in how else None)
        loss = float(f"{(history.exponents[-20:] ** 2).mean():.2g}")
    flossing_seconds = time.process_time() - started
    flossing, rows = dict(flossing_steps=steps, flossing_loss=loss, flossing_seconds=round(flossing_seconds, 1)), []
    for size in task.sizes:
        row = train(copy.deepcopy(network), task, how, size, seed, seconds - flossing_seconds)
        rows.append(dict(task=name, size=size) | same | flossing | row)
        if row["epoch_learned"] is None:
            break
    return Trainings(parameters=same | dict(seconds=seconds), rows=rows)


def train(network, task, how, size, seed, seconds):
    """Train until the task is learned or the time is over; returns columns of a row.

    score: the best mean over WINDOW epochs; for digits the accuracy on the test set at the end.
    """
    torch.manual_seed(seed)
    generator, started = torch.Generator().manual_seed(seed), time.process_time()
    readout, best, learned, scores = nn.Linear(task.H, task.outputs), -np.inf, None, []
    parameters = [*network.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    judge = lambda inputs, target: task.score(readout(network(inputs)[0][-len(target) :]), target)  # noqa: E731
    while learned is None and time.process_time() - started < seconds:
        inputs, target = task.batch(size, generator)
        loss, score = judge(inputs, target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        scores.append(score)
        if "flossed alongside training" in how and len(scores) % EVERY == 0:
            add_flossing_gradient(network, inputs[: max(task.window, 3 * size), :1], np.mean(scores[-20:]))
        optimizer.step()
        if len(scores) >= WINDOW:
            best = max(best, float(np.mean(scores[-WINDOW:])))
            learned = len(scores) if best > task.learned else None
    taken = round(time.process_time() - started, 1)
    if task is TASKS["digits"]:
        best = 0.1 + 0.9 * judge(*task.batch(size, None))[1]
    return {"epochs": len(scores), "epoch_learned": learned, "score": round(best, 3), "training_seconds": taken}


def add_flossing_gradient(network, inputs, score):
    """Add the flossing gradient of one trial, H exponents, clipped to a norm falling from NORM at score 0 to 0 at FADED."""
    weight = NORM * min(max(1 - score / FADED, 0), 1)
    if weight:
        parameters = list(network.parameters())
        loss = flossing_loss(network, inputs, network.hidden_size, discard=16)
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        for p, g in zip(parameters, gradients):
            p.grad += g * (weight / max(norm, weight))


make_rows = lambda key, record: record.rows  # noqa: E731
line = lambda r: (f"nn.{r['network']}", r["condition"])  # noqa: E731


def summary(rows):
    """A caption, and lines of a Markdown table: what came of each seed, by network, condition and task."""
    table = pivot(rows, ["network", "condition"], line, lambda r: r["task"], result)
    return ["Epochs to learn the first size; the longest size learned. Digits: test accuracy.", "", *table]


def result(rows):
    """Text of a cell, a number per seed: epochs to learn the first size; longest size learned. Digits: accuracy only."""
    seeds = by(rows, "seed").values()
    if rows[0]["task"] == "digits":
        return ", ".join(f"{first['score']:.3f}" for first, *_ in seeds)
    longest = [max((row["size"] for row in mine if row["epoch_learned"]), default="-") for mine in seeds]
    return ", ".join(str(first["epoch_learned"] or "-") for first, *_ in seeds) + "; " + ", ".join(map(str, longest))


def draw(_, rows):
    """Seconds until a size was learned; of digits the test accuracy."""
    x = lambda r: r["score"] if r["task"] == "digits" else r["flossing_seconds"] + r["training_seconds"]  # noqa: E731
    return draw_dots({task: mine for (task,), mine in by(rows, "task").items()}, line, lambda r: r["size"], x)


SETTINGS = dict(tasks=[*TASKS], networks=[*KINDS], seeds=[11, 12, 13, 14, 15], seconds=0.0)
QUICK = dict(tasks=["xor"], networks=["RNN"], seeds=[1], seconds=4.0)
EXPERIMENT = Experiment("own_network", __doc__, SETTINGS, QUICK, make_jobs, make_rows, summary, draw)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
