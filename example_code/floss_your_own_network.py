"""Floss a torch network of your own: nn.RNN, nn.GRU or nn.LSTM on the delayed XOR task, in plain torch.

The target at step t is the XOR of the input bits `delay` and 2 * delay steps ago: gradients have to survive 2 * delay
steps. Four runs on the same data: from the weights that torch draws; from these, flossed before training; from orthogonal
recurrent weights, which cost nothing; and from these, flossed alongside training. A GRU's and an LSTM's gates begin open.

    python example_code/floss_your_own_network.py [--network GRU] [--delay 20]        (any folder; options: --help)

prints when each has learned and draws out/floss_your_own_network_GRU_delay20.png. More: experiments/own_network.py.
"""

import argparse
import itertools
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from extras.figures import COLOURS, new_figure  # noqa: E402
from extras.flossing import floss, flossing_loss, open_gates  # noqa: E402
from extras.record import epoch_learned  # noqa: E402

H, B, T = 80, 16, 300  # hidden units; trials and time steps of a training batch
LIMITS = {"delay": (1, (T - 1) // 2), "epochs": (1, 10**6), "steps": (0, 10**6)}


def floss_before_training(network, steps, spread=0.5):
    """75 exponents of one trial of random bits, over 55 time steps of which 16 are discarded, towards 0."""
    return floss(network, lambda: torch.randint(2, (55, 1, 1)).float(), 75, steps=steps, discard=16, spread=spread)


def delayed_xor(B, T, delay, generator):
    """Bits (T, B, 1), and the XOR of those delay and 2 * delay steps ago (T - 2 * delay, B, 1)."""
    bits = torch.randint(2, (T, B, 1), generator=generator).float()
    return bits, (bits[delay : T - delay] - bits[: T - 2 * delay]).abs()


def training(network, delay, seed, flossed=False):
    """Yields each epoch's loss and accuracy before its update, without end; flossed: every 4th adds a flossing loss."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    readout = nn.Linear(H, 1)
    parameters = [*network.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    for epoch in itertools.count():
        bits, target = delayed_xor(B, T, delay, generator)
        logits = readout(network(bits)[0])[2 * delay :]
        total = loss = nn.functional.binary_cross_entropy_with_logits(logits, target)
        if flossed and epoch % 4 == 0:
            total = loss + flossing_loss(network, bits[: max(55, 3 * delay), :1], H, discard=16)
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        yield loss.item(), ((logits > 0) == target.bool()).float().mean().item()


def main(argv=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", choices=["RNN", "GRU", "LSTM"], default="RNN")
    parser.add_argument("--delay", type=int, default=20, help="time steps; default 20")
    parser.add_argument("--epochs", type=int, default=400, help="of training; default 400")
    parser.add_argument("--steps", type=int, default=400, help="of flossing before training; default 400")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the figure; default out")
    args = parser.parse_args(argv)
    for name, (least, most) in LIMITS.items():
        if not least <= (value := getattr(args, name)) <= most:
            parser.error(f"--{name} {value}: must be from {least} to {most}")
    torch.set_num_threads(1)  # at this size threads only wait for each other
    args.out.mkdir(parents=True, exist_ok=True)
    with new_figure(4) as figure:
        axes = figure.subplots()
    for label, colour in zip(("as drawn", "flossed before training", "orthogonal", "orthogonal, flossed"), COLOURS):
        torch.manual_seed(args.seed)
        network = getattr(nn, args.network)(1, H)
        if args.network != "RNN":
            open_gates(network)
        if label == "flossed before training":
            floss_before_training(network, args.steps)
        if label.startswith("orthogonal"):
            for gate in network.weight_hh_l0.detach().split(H):
                nn.init.orthogonal_(gate)
        accuracies, epochs = [], training(network, args.delay, args.seed, label == "orthogonal, flossed")
        for epoch, (loss, accuracy) in zip(range(1, args.epochs + 1), epochs):
            accuracies.append(accuracy)
            if epoch % 50 == 0:
                print(f"{label}: epoch {epoch}/{args.epochs}  loss {loss:.4f}  accuracy {100 * accuracy:.1f} %", flush=True)
        print(f"{label}: learned at epoch {n}" if (n := epoch_learned(accuracies)) else f"{label}: not learned")
        axes.plot(range(1, args.epochs + 1), [100 * accuracy for accuracy in accuracies], color=colour, label=label)
    axes.set(xlabel="training epoch", ylabel="accuracy (%)", title=f"nn.{args.network}, delayed XOR, delay {args.delay}")
    axes.legend()
    figure.savefig(path := args.out / f"floss_your_own_network_{args.network}_delay{args.delay}.png")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
