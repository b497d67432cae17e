"""What does a network know of its past input before flossing, after it and after training? Does that predict learning?

The port's network and nn.RNN, nn.GRU and nn.LSTM of 80 units: memory of bits and of XORs of pairs (memory.py), the
input's gain, and the gradient over 2 * delay steps; delayed XOR, delay 10. --steps: of flossing.
"""

import copy
import sys
from itertools import accumulate, product
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.experiment import Experiment, Job, markdown, readme_call  # noqa: E402
from example_code.experiments.memory import gradient_norm, memory, xor_memory  # noqa: E402
from example_code.experiments.own_network import Trainings, make_rows  # noqa: E402
from example_code.experiments.tasks import KINDS, SPREAD  # noqa: E402
from example_code.floss_your_own_network import H, floss_before_training, training  # noqa: E402
from extras.figures import COLOURS, new_figure  # noqa: E402
from extras.flossing import open_gates  # noqa: E402
from gradient_flossing_example import train_rnn_flossing  # noqa: E402

DELAY, LAGS, DELAYS = 10, range(41), range(1, 21)
TRANSIENT, T, B = 100, 600, 4  # steps not looked at, steps looked at, and trials
NETWORKS, FLOSSING = ("port", *KINDS), ("none", "alone", "with spread")  # with spread: gates are opened first


def make_jobs(args):
    """Pairs of (network, flossing, seed) and Job."""
    function, load = "example_code.experiments.what_it_knows:look_at_stages", "example_code.experiments.own_network:load"
    for key in product(NETWORKS, FLOSSING, args.seeds):
        if key[:2] != ("port", "with spread"):
            yield key, Job("_".join(map(str, key)).replace(" ", "_"), (*key, args.steps, args.epochs), function, load)


def look_at_stages(network, flossing, seed, steps, epochs, **_):
    """One network as drawn, after the flossing steps if there are any, and after the epochs of training: a row for each."""
    same, stages = dict(network=network, flossing=flossing, seed=seed), port_stages if network == "port" else torch_stages
    rows = [
        same | dict(stage=stage, accuracy=accuracy) | look(net)
        for stage, net, accuracy in stages(*same.values(), 0 if flossing == "none" else steps, epochs)
        if (stage, flossing) != ("flossed", "none")
    ]
    return Trainings(parameters=same | dict(steps=steps, epochs=epochs), rows=rows)


def port_stages(_, flossing, seed, steps, epochs):
    """(stage, network, accuracy of the last ten epochs) of the README call, as nn.RNN: h = tanh(x) has the same weights."""
    record = train_rnn_flossing(*readme_call(seed, E=epochs, Ep=steps, Ni=0), progress=False)
    stages = {"drawn": record.initial, "flossed": record.first_training_parameters, "trained": record.final}
    for stage, ps in stages.items():
        network, weights = nn.RNN(1, H), (ps["ws"], ps["J"], ps["b"], 0 * ps["b"])
        network.load_state_dict({name: torch.from_numpy(x) for name, x in zip(network.state_dict(), weights)})
        yield stage, network, record.accuracy[-10:].mean().item() if stage == "trained" else None


def torch_stages(kind, flossing, seed, steps, epochs):
    """The same of nn.RNN, nn.GRU or nn.LSTM as torch draws it."""
    torch.manual_seed(seed)
    network = getattr(nn, kind)(1, H)
    yield "drawn", network, None
    if flossing == "with spread" and kind != "RNN":
        open_gates(network)
    floss_before_training(network, steps, spread=SPREAD if flossing == "with spread" else None)
    yield "flossed", network, None
    accuracies = [accuracy for _, (_, accuracy) in zip(range(epochs), training(network, DELAY, seed))]
    yield "trained", network, float(np.mean(accuracies[-10:]))


@torch.no_grad()
def look(network):
    """What the network knows, a dict of numbers: R^2 of bits by lag and of XORs by delay among them."""
    network = copy.deepcopy(network).double()
    bits = torch.randint(2, (TRANSIENT + T, B, 1), generator=torch.Generator().manual_seed(1)).double()
    states, inputs = network(bits)[0][TRANSIENT:].numpy(), bits[TRANSIENT:, :, 0].numpy()
    known, xors = memory(states, inputs, LAGS), xor_memory(states, inputs, DELAYS)
    gains, jacobians = (d[TRANSIENT:] for d in derivatives(network, bits[: 2 * TRANSIENT, 0]))
    numbers = dict(memory=known.sum(), gain=np.sqrt((gains[:, :H] ** 2).mean()), gradient=gradient_norm(jacobians, 2 * DELAY))
    numbers |= {f"bit_{lag}": r for lag, r in zip(LAGS, known)} | {f"xor_{delay}": r for delay, r in zip(DELAYS, xors)}
    return {name: float(value) for name, value in numbers.items()}


def derivatives(network, inputs):
    """d h_t / d x_t (t, n, 1) and d h_t / d h_(t-1) (t, n, n) under the inputs (t, 1); of an LSTM h is (h, c), n = 2 H."""
    weights, lstm = list(network.parameters()), isinstance(network, nn.LSTM)
    cell = {nn.RNN: torch.rnn_tanh_cell, nn.GRU: torch.gru_cell, nn.LSTM: torch.lstm_cell}[type(network)]

    def step(state, x):
        new = cell(x[None], [part[None] for part in state.chunk(2)] if lstm else state[None], *weights)
        return torch.cat(new, -1)[0] if lstm else new[0]

    *before, _ = accumulate(inputs, step, initial=torch.zeros(H * (1 + lstm), dtype=inputs.dtype))
    return [d.numpy() for d in torch.func.vmap(torch.func.jacrev(step, argnums=(1, 0)))(torch.stack(before), inputs)]


def summary(rows):
    """Lines of a Markdown table, one a network and stage."""
    texts = ("network", "flossing", "seed", "stage")
    numbers = ("memory", "bit_0", f"bit_{2 * DELAY}", f"xor_{DELAY}", "gain", "gradient")
    accuracies = ["-" if r["accuracy"] is None else f"{100 * r['accuracy']:.1f}" for r in rows]
    lines = [[*(r[i] for i in texts), *(f"{r[i]:.2g}" for i in numbers), a] for r, a in zip(rows, accuracies)]
    return markdown([*texts, *numbers, "accuracy (%)"], lines)


def draw(records, rows):
    """R^2 of bits against the lag and of XORs against the delay, a column a network; the first seed's."""
    shown = [r for r in rows if r["seed"] == rows[0]["seed"] and (r["stage"] != "drawn" or r["flossing"] == "none")]
    with new_figure(6) as figure:
        axes = figure.subplots(2, len(NETWORKS), sharey=True, sharex="row")
        for r, (ax, name, steps) in product(shown, ((axes[0], "bit", LAGS), (axes[1], "xor", DELAYS))):
            style = dict(color=COLOURS[FLOSSING.index(r["flossing"])], linestyle="-" if r["stage"] == "trained" else "--")
            one = ax[NETWORKS.index(r["network"])]
            one.plot(steps, [r[f"{name}_{i}"] for i in steps], label=f"flossing {r['flossing']}: {r['stage']}", **style)
            one.set(title=r["network"], xlabel="lag (steps)" if name == "bit" else "delay (steps)")
        axes[0, 0].set_ylabel("R² of a bit")
        axes[1, 0].set_ylabel("R² of an XOR")
        figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


SETTINGS = dict(seeds=[1, 2], steps=400, epochs=150)
QUICK = dict(seeds=[1], steps=50, epochs=30)
EXPERIMENT = Experiment("what_it_knows", __doc__, SETTINGS, QUICK, make_jobs, make_rows, summary, draw)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
