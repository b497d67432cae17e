"""Floss a torch network of your own before training: nn.RNN, nn.GRU or nn.LSTM on the delayed XOR task, in plain torch.

Two runs, with flossing and without, same initial weights and data. The target at step t is the XOR of the input bits
`delay` and 2 * delay steps ago: gradients have to survive 2 * delay steps.

    python example_code/floss_your_own_network.py [--network GRU] [--delay 10]        (any folder; options: --help)

It writes floss_your_own_network.png to out/. More seeds and delays: example_code/experiments/own_network.py.
"""

import argparse
import copy
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from extras.flossing import floss  # noqa: E402

H = 80  # hidden units
B, T = 16, 300  # trials and time steps of a training batch


def make_network(kind):
    """nn.RNN, nn.GRU or nn.LSTM with strong input, and gates that are open to the new and closed to the old at first.

    A gate that holds the state gives exponents near 0 for nothing: a memory that never mixes two bits.
    """
    network = getattr(nn, kind)(1, H)
    biases = {"RNN": {0: 0}, "GRU": {2: 0, 0: 3, 1: -3}, "LSTM": {2: 0, 0: 3, 1: -3, 3: 3}}[kind]  # r z n; i f g o
    W_ih, W_hh = network.weight_ih_l0.view(-1, H, 1), network.weight_hh_l0.view(-1, H, H)
    with torch.no_grad():
        for gate, bias in biases.items():
            W_ih[gate].normal_(std=0.1 if bias else 1)
            if kind != "RNN":
                W_hh[gate].normal_(std=(0.3 if bias else 1) * H**-0.5)
            if bias:
                network.bias_ih_l0.view(-1, H)[gate] = bias
                network.bias_hh_l0.view(-1, H)[gate] = 0
    return network


def floss_before_training(network, steps, k=75, **options):
    """75 exponents of one trial of random bits, over 55 time steps of which 16 are discarded, towards 0."""
    return floss(network, lambda: torch.randint(2, (55, 1, 1)).float(), k, steps=steps, discard=16, **options)


def delayed_xor(B, T, delay, generator):
    """Bits (T, B, 1) and, from step 2 * delay on, the XOR of those of delay and 2 * delay steps ago."""
    bits = torch.randint(2, (T, B, 1), generator=generator).float()
    return bits, (bits[delay : T - delay] - bits[: T - 2 * delay]).abs()


def training(network, delay, seed):
    """Loss and accuracy of one epoch after the other, each a new batch, before its update. Changes the network."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    readout = nn.Linear(H, 1)
    parameters = [*network.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    while True:
        bits, target = delayed_xor(B, T, delay, generator)
        logits = readout(network(bits)[0])[2 * delay :]
        loss = binary_cross_entropy_with_logits(logits, target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        yield loss.item(), ((logits > 0) == target.bool()).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", choices=["RNN", "GRU", "LSTM"], default="RNN")
    parser.add_argument("--delay", type=int, default=10, help="time steps; default 10")
    parser.add_argument("--epochs", type=int, default=200, help="of training; default 200")
    parser.add_argument("--steps", type=int, default=500, help="flossing steps before training; default 500")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the figure; default out")
    args = parser.parse_args()
    torch.set_num_threads(1)  # at this size threads only wait for each other
    torch.manual_seed(args.seed)
    network = make_network(args.network)
    networks = {"flossed": copy.deepcopy(network), "not flossed": network}
    floss_before_training(networks["flossed"], args.steps)
    accuracies = {label: [] for label in networks}
    for label, network in networks.items():
        for epoch, (loss, accuracy) in zip(range(1, args.epochs + 1), training(network, args.delay, args.seed)):
            accuracies[label].append(100 * accuracy)
            if epoch % 50 == 0:
                print(f"{label}: epoch {epoch}/{args.epochs}  loss {loss:.4f}  accuracy {100 * accuracy:.1f} %")
    draw(accuracies, f"nn.{args.network}, delayed XOR, delay {args.delay}", args.out)


def draw(accuracies, title, out):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for (label, accuracy), colour in zip(accuracies.items(), ("#0072B2", "#D55E00")):
        axes.plot(range(1, len(accuracy) + 1), accuracy, color=colour, label=label)
    axes.axhline(50, color="0.6", ls=":", lw=1, label="chance")
    axes.set(xlabel="training epoch", ylabel="accuracy (%)", title=title)
    axes.legend(frameon=False)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "floss_your_own_network.png", dpi=100)
    print(f"wrote {out / 'floss_your_own_network.png'}")


if __name__ == "__main__":
    main()
