"""What does a network know of its past input before flossing, after it and after training? Does that predict learning?

Networks of 80 units, delayed XOR at delay 10. What is known is what a linear readout, fitted to the first half of the time
steps, gives of the second: R^2 = 1 - (mean squared error) / (variance), or 0 where that is negative. --steps: of flossing.
"""

import copy
import sys
from itertools import accumulate, product
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.experiment import Experiment, Job, readme_call  # noqa: E402
from example_code.experiments.own_network import Trainings, make_rows, train  # noqa: E402
from example_code.experiments.tasks import GATED, KINDS, SPREAD, TASKS, start  # noqa: E402
from example_code.floss_your_own_network import H, floss_before_training, training  # noqa: E402
from extras.figures import COLOURS, new_figure  # noqa: E402
from extras.flossing import open_gates  # noqa: E402
from gradient_flossing_example import train_rnn_flossing  # noqa: E402

DELAY, LAGS = 10, range(41)
TRANSIENT, T, B = 100, 600, 4  # steps not looked at, steps looked at, and trials
NOISE = 1e-3  # standard deviation of noise at each unit that a readout must bear: without it 1e-15 of a state could be read
NETWORKS, FLOSSING = ("port", *KINDS), ("none", "alone", "with spread", "alongside training")  # the last two: with open gates


def make_jobs(args):
    """Pairs of (network, flossing, seed) and Job."""
    function, load = "example_code.experiments.what_it_knows:look_at_stages", "example_code.experiments.own_network:load"
    for key in product(args.networks, FLOSSING, args.seeds):
        if key[0] != "port" or key[1] in ("none", "alone"):
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
    if flossing == "alongside training":  # from orthogonal weights, until the task is learned
        words = [*(["open gates"] if kind in GATED else []), "orthogonal", "flossed alongside training"]
        start(network, words, None)
        yield "drawn", network, None
        yield "trained", network, (1 + train(network, TASKS["xor"], words, DELAY, seed, seconds=600)["score"]) / 2
        return
    yield "drawn", network, None
    if flossing == "with spread" and kind != "RNN":
        open_gates(network)
    floss_before_training(network, steps, spread=SPREAD if flossing == "with spread" else None)
    yield "flossed", network, None
    accuracies = [accuracy for _, (_, accuracy) in zip(range(epochs), training(network, DELAY, seed))]
    yield "trained", network, float(np.mean(accuracies[-10:]))


@torch.no_grad()
def look(network):
    """What the network knows, a dict of numbers: R^2 of the bits by lag and of the XOR of the task among them."""
    network = copy.deepcopy(network).double()
    bits = torch.randint(2, (TRANSIENT + T, B, 1), generator=torch.Generator().manual_seed(1)).double()
    states, inputs = network(bits)[0][TRANSIENT:].numpy(), bits[TRANSIENT:, :, 0].numpy()
    same = slice(LAGS[-1] - 2 * DELAY, None)  # so that bits and XOR are read from the same steps
    known, xor = memory(states, inputs, LAGS), xor_memory(states[same], inputs[same], DELAY)
    gains, jacobians = (d[TRANSIENT:] for d in derivatives(network, bits[: 2 * TRANSIENT, 0]))
    numbers = dict(memory=known.sum(), gain=np.sqrt((gains[:, :H] ** 2).mean()), gradient=gradient_norm(jacobians, 2 * DELAY))
    numbers |= {f"bit_{lag}": r for lag, r in zip(LAGS, known)} | {f"xor_{DELAY}": xor}
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


def memory(states, inputs, lags):
    """R^2 (len(lags),) of the input (T, B) of each lag in states (T, B, n): their sum is the memory, in inputs (bits)."""
    return r_squared(states, past(states, inputs, lags))


def xor_memory(states, inputs, delay):
    """R^2 of the XOR of the bits delay and 2 * delay steps ago; else as for memory()."""
    recent, earlier = np.split(past(states, inputs, [delay, 2 * delay]), 2, axis=-1)
    return r_squared(states, np.abs(recent - earlier))[0]


def gradient_norm(jacobians, steps):
    """Root mean square of the singular values of d h_t / d h_(t - steps), from the jacobians (T, n, n) of each step."""
    product, T = jacobians, len(jacobians)
    for step in range(1, steps):
        product = jacobians[step:] @ product[: T - step]
    return np.sqrt((product**2).sum(axis=(1, 2)).mean() / product.shape[1])


def past(states, inputs, lags):
    """The inputs of each lag, (t, B, len(lags)), seen from the last t steps: those before which all of them were shown."""
    (T, B, n), first = states.shape, max(lags)
    if (T - first) // 2 * B <= n:
        raise ValueError(f"states: {T} steps of {B} trials are too few for a lag of {first} and {n} units")
    return np.stack([inputs[first - lag : T - lag] for lag in lags], axis=-1)


def r_squared(states, targets):
    """R^2 (m,) of linear readouts of the targets (t, B, m) from the last t of the states (T, B, n)."""
    t, B, _ = targets.shape
    fitted = t // 2 * B
    (X, X_new), (y, y_new) = (np.split(a[-t:].reshape(t * B, -1), [fitted]) for a in (states, targets))
    if not (np.isfinite(states).all() and y_new.std(axis=0).all()):
        raise ValueError("states, inputs: states must be finite, and what is to be read must vary")
    mean, level = X.mean(axis=0), y.mean(axis=0)
    U, s, Vt = np.linalg.svd(X - mean, full_matrices=False)
    weights = Vt.T @ ((s / (s**2 + NOISE**2 * fitted))[:, None] * (U.T @ (y - level)))
    error = y_new - level - (X_new - mean) @ weights
    return np.maximum(1 - (error**2).mean(axis=0) / y_new.var(axis=0), 0)


def draw(_, rows):
    """R^2 of bits against the lag, a panel a network; the first seed's."""
    with new_figure(3.5) as figure:
        axes = dict(zip(NETWORKS, figure.subplots(1, len(NETWORKS), sharey=True)))
        for r in rows:
            if r["seed"] == rows[0]["seed"] and (r["stage"] != "drawn" or r["flossing"] in ("none", "alongside training")):
                style = dict(color=COLOURS[FLOSSING.index(r["flossing"])], linestyle="-" if r["stage"] == "trained" else "--")
                values, label = [r[f"bit_{lag}"] for lag in LAGS], f"{r['flossing']}: {r['stage']}"
                axes[r["network"]].plot(LAGS, values, label=label, **style)
                axes[r["network"]].set(title=r["network"], xlabel="lag (steps)")
        axes["port"].set_ylabel("R² of a bit")
        figure.legend(*axes["RNN"].get_legend_handles_labels(), loc="outside upper center", ncols=4, title="flossing")
    return figure


SETTINGS = dict(networks=[*NETWORKS], seeds=[1, 2], steps=400, epochs=150)
QUICK = dict(networks=["port", "RNN"], seeds=[1], steps=50, epochs=30)
EXPERIMENT = Experiment("what_it_knows", __doc__, SETTINGS, QUICK, make_jobs, make_rows, lambda rows: [], draw)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
