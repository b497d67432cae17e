"""Which delays do nn.RNN, nn.GRU and nn.LSTM learn, with flossing before training and without, at equal time?

    python example_code/experiments/own_network.py        # all cores of this machine

Networks, task and training are those of example_code/floss_your_own_network.py. Flossing does not know the delay: a
network is flossed once, and copies of it are trained at one delay after the other, until one is not learned. Training
ends when the delay is learned, or after --epochs; without flossing it gets as many epochs more as flossing takes time.
Writes a table, with a row for each training, and a figure to --out. Times against vmap(jvp): benchmark.py.
"""

import copy
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.experiment import Experiment, Job, markdown  # noqa: E402
from example_code.floss_your_own_network import H, floss_before_training, make_network, training  # noqa: E402
from extras.figures import COLOURS, new_figure  # noqa: E402
from extras.files import load_arrays, save_arrays  # noqa: E402
from extras.record import LEARNED, WINDOW  # noqa: E402

MODULE = "example_code.experiments.own_network"
DELAYS = (10, 15, 20, 30, 40, 50, 60, 80)
# Epochs that take as long as one flossing step (75 exponents, 55 steps): columns flossing_seconds and training_seconds
EPOCHS_PER_STEP = {"RNN": 1.2, "GRU": 0.5, "LSTM": 2.7}
LAST_STEPS = 20  # of flossing, over which the loss is averaged: each has a batch of its own


def as_in_the_paper(kind):
    """Recurrent weights N(0, 1) / sqrt(H) too: torch's are 0.58 times as large."""
    network = make_network(kind)
    nn.init.normal_(network.weight_hh_l0, std=H**-0.5)
    return network


def gate_that_holds(kind):
    """A bias of +1 of the GRU's update gate and of the LSTM's forget gate, as is usual."""
    network = make_network(kind)
    with torch.no_grad():
        network.bias_ih_l0.view(-1, H)[1] = 1
    return network


KINDS = ("RNN", "GRU", "LSTM")
STARTS = {  # name: function kind -> network, kinds
    "example": (make_network, KINDS),
    "torch": (lambda kind: getattr(nn, kind)(1, H), KINDS),
    "paper": (as_in_the_paper, ("RNN",)),
    "holding": (gate_that_holds, ("GRU", "LSTM")),
}


def make_jobs(args):
    """{(network, start, flossing steps, k, seed): Job}."""
    jobs = {}
    for start, seed in product(args.starts, args.seeds):
        for kind in STARTS[start][1]:
            for steps, k in [(args.steps, 75), (0, 75)] + [(args.steps, 150)] * ((start, kind) == ("example", "LSTM")):
                epochs = args.epochs + int((args.steps - steps) * EPOCHS_PER_STEP[kind])
                label = f"{kind}_{start}_steps{steps}_k{k}_seed{seed}"
                arguments = (kind, start, steps, k, seed, epochs)
                jobs[arguments[:-1]] = Job(label, arguments, f"{MODULE}:floss_and_train", f"{MODULE}:load")
    return jobs


@dataclass
class Trainings:
    """What became of one network: rows of the table, one for each delay. It is done as a whole, never interrupted."""

    parameters: dict
    rows: list
    interrupted: bool = False

    def save(self, path):
        save_arrays(path, MODULE, asdict(self), {})


def load(path):
    return Trainings(**load_arrays(path, MODULE)[0])


def floss_and_train(kind, start, steps, k, seed, epochs, **_):
    """The Trainings of one network: flossed once, copies of it trained at one delay after the other."""
    parameters = dict(kind=kind, start=start, steps=steps, k=k, seed=seed, epochs=epochs)
    torch.manual_seed(seed)
    network = STARTS[start][0](kind)
    started, loss, seconds, rows = time.process_time(), None, 0, []
    if steps:
        history = floss_before_training(network, steps, k, progress=False)
        loss, seconds = f"{history.loss[-LAST_STEPS:].mean():.2g}", round(time.process_time() - started, 1)
    for delay in DELAYS:
        taken, learned, best, training_seconds = train(copy.deepcopy(network), delay, seed, epochs)
        rows.append({
            "network": kind, "start": start, "delay": delay, "seed": seed, "flossing_steps": steps, "k": k,
            "flossing_loss": loss, "epochs": taken, "epoch_learned": learned, "best_accuracy": f"{best:.3f}",
            "flossing_seconds": seconds, "training_seconds": training_seconds,
        })  # fmt: skip
        if learned is None:
            break
    return Trainings(parameters, rows)


def train(network, delay, seed, epochs):
    """Train until the delay is learned: (epochs taken, epoch learned or None, best mean accuracy, seconds)."""
    started, window, best, learned = time.process_time(), deque(maxlen=WINDOW), 0, None
    for epoch, (_, accuracy) in zip(range(1, epochs + 1), training(network, delay, seed)):
        window.append(accuracy)
        if len(window) == WINDOW:
            best = max(best, float(np.mean(window)))
        if best > LEARNED:
            learned = epoch
            break
    return epoch, learned, best, round(time.process_time() - started, 1)


def summary(rows):
    """Lines of a Markdown table: one for each network, kind of initial weights, with and without flossing."""
    groups = {}
    for row in rows:
        groups.setdefault((row["network"], row["start"], row["flossing_steps"], row["k"]), []).append(row)
    lines = []
    for (kind, start, steps, k), mine in groups.items():
        losses = [float(row["flossing_loss"]) for row in mine if steps]
        loss = f"{min(losses):g} to {max(losses):g}" if losses else "-"
        epochs = [row["epoch_learned"] for row in mine if row["delay"] == DELAYS[0] and row["epoch_learned"]]
        longest = dict.fromkeys((row["seed"] for row in mine), "none")
        longest |= {row["seed"]: row["delay"] for row in mine if row["epoch_learned"]}  # ascending: the last one stays
        lines.append([f"nn.{kind}", start, f"{steps} steps, k = {k}" if steps else "none", loss,
                      ", ".join(map(str, epochs)) or "-", ", ".join(map(str, longest.values()))])  # fmt: skip
    learned = "epochs to learn delay 10", "longest delay learned"
    return markdown(["network", "initial weights", "flossing", "loss it reached", *learned], lines)


def draw(records, rows):
    """Epochs until a delay is learned, each seed a point, with flossing and without; crosses: not learned."""
    rows = [row for row in rows if row["start"] == "example" and row["k"] == 75]
    delays = sorted({row["delay"] for row in rows})
    what = lambda row: (row["network"], row["flossing_steps"] > 0, row["epoch_learned"] is not None)  # noqa: E731
    with new_figure(3.6) as figure:
        axes = figure.subplots(1, 3, sharey=True)
        for ax, kind in zip(axes, KINDS):
            for flossed, learned in product((True, False), repeat=2):
                mine = [row for row in rows if what(row) == (kind, flossed, learned)]
                x = [delays.index(row["delay"]) + (-0.12 if flossed else 0.12) for row in mine]
                style = dict(marker="o" if learned else "x", color=COLOURS[0 if flossed else 1], fillstyle="none", ms=5)
                label = ("flossed" if flossed else "not flossed") + ("" if learned else ", not learned by then")
                ax.plot(x, [row["epochs"] for row in mine], linestyle="", label=label, **style)
            ax.set(title=f"nn.{kind}", xlabel="delay (time steps)", yscale="log", xlim=(-0.5, max(1, len(delays)) - 0.5))
            ax.set_xticks(range(len(delays)), delays)
            ax.set_yticks((50, 100, 200, 500, 1000, 2000), (50, 100, 200, 500, 1000, 2000))
            ax.minorticks_off()
        axes[0].set_ylabel(f"training epochs to {100 * LEARNED:.0f} %")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


OPTIONS = {
    "--seeds": dict(nargs="+", type=int, default=[1, 2, 3, 4, 5], help="one network of each kind"),
    "--starts": dict(nargs="+", choices=STARTS, default=list(STARTS), metavar="START", help="initial weights"),
    "--epochs": dict(type=int, default=400, help="of training after flossing"),
    "--steps": dict(type=int, default=500, help="of flossing"),
}
make_rows = lambda records: [row for record in records.values() for row in record.rows]  # noqa: E731
QUICK = dict(seeds=[1], starts=["example"], epochs=100, steps=100)
EXPERIMENT = Experiment("own_network", __doc__, OPTIONS, QUICK, make_jobs, make_rows, summary, draw)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
