"""Which delays do nn.RNN, nn.GRU and nn.LSTM learn, with flossing before training and without, at equal time?

    python example_code/experiments/own_network.py              # trains what is missing in --out, then table and figure
    python example_code/experiments/own_network.py --times      # times of a flossing step against vmap(jvp), and memory

Networks, task and training are those of example_code/floss_your_own_network.py. Flossing does not know the delay: a network
is flossed once, and copies of it are trained at one delay after the other, until one is not learned. A run ends when it has
learned, or after EPOCHS; without flossing it gets as many epochs more as the flossing took. Every run is a row of the CSV.
"""

import argparse
import copy
import csv
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from example_code.floss_your_own_network import H, floss_before_training, training, vanilla_like  # noqa: E402
from extras.flossing import lyapunov_exponents  # noqa: E402
from extras.record import LEARNED, WINDOW  # noqa: E402

DELAYS = (10, 15, 20, 30, 40, 50, 60, 80)
EPOCHS, STEPS = 400, 500  # of training; of flossing
# Epochs that take as long as one flossing step (75 exponents, 55 steps): columns flossing_seconds and training_seconds
EPOCHS_PER_STEP = {"RNN": 1.2, "GRU": 0.5, "LSTM": 1.0}
FIELDS = ("network", "start", "delay", "seed", "flossing_steps", "k", "flossing_loss", "epochs", "epoch_learned",
          "best_accuracy", "flossing_seconds", "training_seconds")  # fmt: skip


# ------------------------------------------------------------------ networks to start from


def torch_default(network):
    return network


def strong_input(network):
    """torch's initial weights, but input weights N(0, 1)."""
    nn.init.normal_(network.weight_ih_l0)
    return network


def gate_that_holds(network):
    """As vanilla_like, but with a bias of +1 of the GRU's update gate and of the LSTM's forget gate, as is usual."""
    vanilla_like(network)
    with torch.no_grad():
        network.bias_ih_l0.view(-1, H)[1] = 1
    return network


STARTS = {"vanilla": vanilla_like, "torch": torch_default, "input": strong_input, "holding": gate_that_holds}
KINDS_OF = {"vanilla": ("RNN", "GRU", "LSTM"), "torch": ("RNN", "GRU", "LSTM"), "input": ("RNN",), "holding": ("GRU", "LSTM")}


# ------------------------------------------------------------------ runs


def conditions(seeds, starts):
    """(network, start, flossing steps, k, seed) of all runs."""
    for start in starts:
        for seed in seeds:
            for kind in KINDS_OF[start]:
                for steps in (STEPS, 0):
                    yield kind, start, steps, 75, seed
    if "vanilla" in starts:
        for seed in seeds:
            yield "LSTM", "vanilla", STEPS, 150, seed


def run_condition(kind, start, steps, k, seed, finished):
    """Rows of one condition, delay after delay; finished: {delay: row} of those that need not be run again."""
    network, loss, seconds = None, "", 0
    for delay in DELAYS:
        row = finished.get(delay)
        if row is None:
            if network is None:
                network, loss, seconds = flossed_network(kind, start, steps, k, seed)
            row = dict(network=kind, start=start, delay=delay, seed=seed, flossing_steps=steps, k=k, flossing_loss=loss,
                       flossing_seconds=round(seconds, 1), **train(copy.deepcopy(network), kind, delay, steps, seed))  # fmt: skip
            yield row
        if not row["epoch_learned"]:
            return


def flossed_network(kind, start, steps, k, seed):
    """Network, flossing loss (of the last 20 steps, which all have batches of their own) and processor seconds."""
    torch.manual_seed(seed)
    network = STARTS[start](getattr(nn, kind)(1, H))
    started = time.process_time()
    if not steps:
        return network, "", 0
    history = floss_before_training(network, steps, k, progress=False)
    return network, f"{history.loss[-20:].mean():.2g}", time.process_time() - started


def train(network, kind, delay, steps, seed):
    epochs = EPOCHS + int((STEPS - steps) * EPOCHS_PER_STEP[kind])
    started, window, best, learned = time.process_time(), deque(maxlen=WINDOW), 0, ""
    for epoch, (_, accuracy) in zip(range(1, epochs + 1), training(network, delay, seed)):
        window.append(accuracy)
        if len(window) == WINDOW:
            best = max(best, float(np.mean(window)))
        if best > LEARNED:
            learned = epoch
            break
    seconds = time.process_time() - started
    return dict(epochs=epoch, epoch_learned=learned, best_accuracy=f"{best:.3f}", training_seconds=round(seconds, 1))


def read(path):
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def condition_of(row):
    return row["network"], row["start"], int(row["flossing_steps"]), int(row["k"]), int(row["seed"])


def run_all(path, seeds, starts):
    rows = read(path)
    new = not rows
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        for condition in conditions(seeds, starts):
            finished = {int(row["delay"]): row for row in rows if condition_of(row) == condition}
            for row in run_condition(*condition, finished):
                writer.writerow(row)
                file.flush()
                print(*row.values(), flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS), help="initial weights; default all")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of own_network.csv and .png; default out")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # at this size threads only wait for each other
    args.out.mkdir(parents=True, exist_ok=True)
    run_all(args.out / "own_network.csv", args.seeds, args.starts)


if __name__ == "__main__":
    main()
