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


def delayed_xor(B, T, delay, generator):
    """Bits (T, B, 1) and, from step 2 * delay on, the XOR of those of delay and 2 * delay steps ago."""
    bits = torch.randint(2, (T, B, 1), generator=generator).float()
    return bits, (bits[delay : T - delay] - bits[: T - 2 * delay]).abs()


def vanilla_like(network):
    """Weights of order 1, and gates that let GRU and LSTM start out as a vanilla network: open to the new, not the old.

    A gate that holds the state gives exponents near 0 for nothing: a memory that never mixes two bits.
    """
    gates, candidate, biases = {
        nn.RNN: ([], 0, []),
        nn.GRU: ([0, 1], 2, [3.0, -3.0]),  # reset, update; new
        nn.LSTM: ([0, 1, 3], 2, [3.0, -3.0, 3.0]),  # input, forget, output; cell
    }[type(network)]
    with torch.no_grad():
        W_ih, W_hh = network.weight_ih_l0.view(-1, H, 1), network.weight_hh_l0.view(-1, H, H)
        W_ih[candidate].normal_()
        W_hh[candidate].normal_(std=H**-0.5)
        for gate, bias in zip(gates, biases):
            W_ih[gate].normal_(std=0.1)
            W_hh[gate].normal_(std=0.3 * H**-0.5)
            network.bias_ih_l0.view(-1, H)[gate] = bias
            network.bias_hh_l0.view(-1, H)[gate] = 0
    return network


def floss_before_training(network, steps, k=75, **options):
    """75 exponents of one trial of random bits, over 55 time steps of which 16 are discarded, towards 0."""
    return floss(network, lambda: torch.randint(2, (55, 1, 1)).float(), k, steps=steps, discard=16, **options)


def training(network, delay, seed):
    """Loss and accuracy of one epoch after the other, each a new batch, before its update; the network changes in place."""
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=["RNN", "GRU", "LSTM"], default="RNN")
    parser.add_argument("--delay", type=int, default=10, help="time steps; default 10")
    parser.add_argument("--epochs", type=int, default=300, help="of training; default 300")
    parser.add_argument("--steps", type=int, default=500, help="flossing steps before training; default 500")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the figure; default out")
    args = parser.parse_args()
    torch.set_num_threads(1)  # at this size threads only wait for each other
    torch.manual_seed(args.seed)
    network = vanilla_like(getattr(nn, args.network)(1, H))
    networks = {"flossed before training": copy.deepcopy(network), "not flossed": network}
    floss_before_training(networks["flossed before training"], args.steps)
    accuracies = {}
    for label, network in networks.items():
        accuracies[label] = []
        for epoch, (loss, accuracy) in zip(range(1, args.epochs + 1), training(network, args.delay, args.seed)):
            accuracies[label].append(accuracy)
            if epoch % 50 == 0:
                print(f"{label}: epoch {epoch}/{args.epochs}  loss {loss:.4f}  accuracy {100 * accuracy:.1f} %", flush=True)
    draw(accuracies, f"nn.{args.network}, delayed XOR, delay {args.delay}", args.out)


def draw(accuracies, title, out):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for (label, accuracy), colour in zip(accuracies.items(), ("#0072B2", "#D55E00")):
        axes.plot(range(1, len(accuracy) + 1), [100 * a for a in accuracy], color=colour, label=label)
    axes.axhline(50, color="0.6", ls=":", lw=1, label="chance")
    axes.set(xlabel="training epoch", ylabel="accuracy (%)", title=title)
    axes.legend(frameon=False)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "floss_your_own_network.png", dpi=100)
    print(f"wrote {out / 'floss_your_own_network.png'}")


if __name__ == "__main__":
    main()
