"""Which delays do nn.RNN, nn.GRU and nn.LSTM learn, with flossing before training and without, at equal time?

    python example_code/experiments/own_network.py              # trains what is missing in --out, then table and figure
    python example_code/experiments/own_network.py --times      # times of a flossing step against vmap(jvp), and memory

Networks, task and training are those of example_code/floss_your_own_network.py. Flossing does not know the delay: a
network is flossed once, and copies of it are trained at one delay after the other, until one is not learned. A run ends
when it has learned, or after EPOCHS; without flossing it gets as many epochs more as flossing takes time. Every run is
a row of the CSV.
"""

import argparse
import copy
import csv
import multiprocessing
import resource
import sys
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from example_code.floss_your_own_network import H, floss_before_training, make_network, training  # noqa: E402
from extras.flossing import lyapunov_exponents  # noqa: E402
from extras.record import LEARNED, WINDOW  # noqa: E402
from example_code.experiments.sweep import write_csv  # noqa: E402

DELAYS = (10, 15, 20, 30, 40, 50, 60, 80)
EPOCHS, STEPS = 400, 500  # of training; of flossing
# Epochs that take as long as one flossing step (75 exponents, 55 steps): columns flossing_seconds and training_seconds
EPOCHS_PER_STEP = {"RNN": 1.2, "GRU": 0.5, "LSTM": 2.7}
FIELDS = ("network", "start", "delay", "seed", "flossing_steps", "k", "flossing_loss", "epochs", "epoch_learned",
          "best_accuracy", "flossing_seconds", "training_seconds")  # fmt: skip


# ------------------------------------------------------------------ networks to start from


def torch_default(kind):
    return getattr(nn, kind)(1, H)


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
    "torch": (torch_default, KINDS),
    "paper": (as_in_the_paper, ("RNN",)),
    "holding": (gate_that_holds, ("GRU", "LSTM")),
}


# ------------------------------------------------------------------ runs


def conditions(seeds, starts):
    """(network, start, flossing steps, k, seed) of all runs."""
    for start in starts:
        for seed in seeds:
            for kind in STARTS[start][1]:
                for steps in (STEPS, 0):
                    yield kind, start, steps, 75, seed
    if "example" in starts:
        for seed in seeds:
            yield "LSTM", "example", STEPS, 150, seed


def run_condition(kind, start, steps, k, seed, finished):
    """Rows of one condition, delay after delay; finished: {delay: row} of those that need not be run again."""
    network, loss, seconds = None, "", 0
    for delay in DELAYS:
        row = finished.get(delay)
        if row is None:
            if network is None:
                network, loss, seconds = flossed_network(kind, start, steps, k, seed)
            row = dict(network=kind, start=start, delay=delay, seed=seed, flossing_steps=steps, k=k,
                       flossing_loss=loss, flossing_seconds=round(seconds, 1))  # fmt: skip
            row |= train(copy.deepcopy(network), kind, delay, steps, seed)
            yield row
        if not row["epoch_learned"]:
            return


def flossed_network(kind, start, steps, k, seed):
    """Network, flossing loss (of the last 20 steps, which all have batches of their own) and processor seconds."""
    torch.manual_seed(seed)
    network = STARTS[start][0](kind)
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
    for condition in conditions(seeds, starts):
        finished = {int(row["delay"]): row for row in rows if condition_of(row) == condition}
        for row in run_condition(*condition, finished):
            rows.append({name: row[name] for name in FIELDS})
            write_csv(rows, path)
            print(*row.values(), flush=True)


# ------------------------------------------------------------------ table and figure of the runs


def longest(rows, start, kind, flossed, k=75):
    """Rows of one line of the table, the longest delay that each seed learned (0: none), its epochs at the shortest."""
    rows = [row for row in rows if (row["network"], row["start"], int(row["k"])) == (kind, start, k)
            and (int(row["flossing_steps"]) > 0) == flossed]  # fmt: skip
    seeds = sorted({int(row["seed"]) for row in rows})
    learned = {seed: [row for row in rows if int(row["seed"]) == seed and row["epoch_learned"]] for seed in seeds}
    delays = [max((int(row["delay"]) for row in learned[seed]), default=0) for seed in seeds]
    epochs = [int(row["epoch_learned"]) for seed in seeds for row in learned[seed] if int(row["delay"]) == DELAYS[0]]
    return rows, delays, epochs


def table(rows):
    """Markdown: one line for each network, kind of initial weights, with and without flossing."""
    lines = [
        "| network | initial weights | flossing | loss it reached | epochs to learn delay 10 | longest delay learned |",
        "|---|---|---|---|---|---|",
    ]
    for start in STARTS:
        for kind in STARTS[start][1]:
            for flossed, k in ((True, 75), (True, 150), (False, 75)):
                chosen, delays, epochs = longest(rows, start, kind, flossed, k)
                if not chosen:
                    continue
                losses = [float(row["flossing_loss"]) for row in chosen if row["flossing_loss"]]
                loss = f"{min(losses):g} to {max(losses):g}" if losses else "-"
                flossing = f"{STEPS} steps, k = {k}" if flossed else "none"
                lines.append(f"| nn.{kind} | {start} | {flossing} | {loss} | {', '.join(map(str, epochs)) or '-'} "
                             f"| {', '.join(str(d) if d else 'none' for d in delays)} |")  # fmt: skip
    return lines


def draw(rows, path):
    """Epochs until a delay is learned, each seed a point, with flossing and without; crosses: not learned."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(8, 3.6), sharey=True, layout="constrained")
    for ax, kind in zip(axes, KINDS):
        for flossed, colour, shift in ((True, "#0072B2", -0.12), (False, "#D55E00", 0.12)):
            chosen, _, _ = longest(rows, "example", kind, flossed)
            for learned, marker in ((True, "o"), (False, "x")):
                points = [(DELAYS.index(int(row["delay"])), int(row["epochs"]))
                          for row in chosen if bool(row["epoch_learned"]) == learned]  # fmt: skip
                label = ("flossed" if flossed else "not flossed") + ("" if learned else ", not learned by then")
                x, y = np.array(points).reshape(-1, 2).T
                ax.plot(x + shift, y, marker, color=colour, ms=5, fillstyle="none", label=label)
        used = {int(row["delay"]) for row in rows if row["start"] == "example"}
        ticks = [i for i, delay in enumerate(DELAYS) if delay in used]
        ax.set(title=f"nn.{kind}", xlabel="delay (time steps)", yscale="log", xlim=(-0.5, ticks[-1] + 0.5))
        ax.set_xticks(ticks, [DELAYS[i] for i in ticks])
        ax.set_yticks((50, 100, 200, 500, 1000, 2000), (50, 100, 200, 500, 1000, 2000))
        ax.minorticks_off()
    axes[0].set_ylabel(f"training epochs to {100 * LEARNED:.0f} %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


# ------------------------------------------------------------------ times and memory


def flossing_gradient(network, k, T, state=None, discard=0):
    """Function without arguments: exponents of one trial, forward and backward."""
    inputs = torch.randint(2, (T, 1, 1)).float()
    return lambda: lyapunov_exponents(network, inputs, k, state=state, discard=discard).square().mean().backward()


def callable_cell(kind, network):
    """torch's own cell with the weights of the network, as a callable: its Jacobians come by vmap(jvp)."""
    cell = getattr(nn, kind + "Cell")(1, H)
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in network.named_parameters()})
    if kind == "LSTM":
        return (lambda x, state: torch.cat(cell(x, (state[:, :H], state[:, H:])), 1)), torch.zeros(1, 2 * H)
    return (lambda x, state: cell(x, state)), torch.zeros(1, H)


def time_table(rounds=20, k=75, T=55, discard=16):
    """Markdown: milliseconds of a flossing gradient, medians of processor time; the two take turns."""
    from example_code.experiments.benchmark import measure  # here: it imports JAX where that is installed

    lines = ["| network | closed form (ms) | vmap(jvp) (ms) | ratio |", "|---|---|---|---|"]
    for kind in KINDS:
        network = make_network(kind)
        cell, state = callable_cell(kind, network)
        seconds = measure({"closed": flossing_gradient(network, k, T, discard=discard),
                           "jvp": flossing_gradient(cell, k, T, state, discard)}, rounds)  # fmt: skip
        closed, jvp = (1e3 * float(np.median(seconds[name])) for name in ("closed", "jvp"))
        lines.append(f"| nn.{kind} | {closed:.1f} | {jvp:.0f} | {jvp / closed:.1f} |")
    return lines


def peak_memory(kind, T=1000, hidden=256, k=32):
    """Largest resident memory (MB) of this process before and after one gradient, and its seconds."""
    torch.set_num_threads(1)
    network = getattr(nn, kind)(1, hidden)
    flossing_gradient(network, k, 2)()  # libraries are loaded
    before = resident_memory()
    started = time.perf_counter()
    flossing_gradient(network, k, T)()
    return before, resident_memory(), time.perf_counter() - started


def resident_memory():
    """The most so far, MB. Linux: of this program only; ru_maxrss would count what its parent had before it started."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def memory_table():
    """Markdown; each network in a process of its own."""
    lines = ["| network | memory before (MB) | at most (MB) | seconds |", "|---|---|---|---|"]
    for kind in KINDS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            before, most, seconds = pool.apply(peak_memory, (kind,))
        lines.append(f"| nn.{kind} | {before:.0f} | {most:.0f} | {seconds:.1f} |")
    return lines


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS), help="default all")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of own_network.csv and .png; default out")
    parser.add_argument("--times", action="store_true", help="no training: times against vmap(jvp), and memory")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # at this size threads only wait for each other
    if args.times:
        print(f"H = {H}, 75 exponents, 55 steps, forward and backward; processor time of one thread\n")
        print("\n".join(time_table()))
        print("\nT = 1000, H = 256, k = 32, forward and backward\n")
        print("\n".join(memory_table()))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "own_network.csv"
    run_all(path, args.seeds, args.starts)
    rows = read(path)
    print("\n".join(table(rows)))
    draw(rows, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
