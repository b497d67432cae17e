"""How long a training step and a flossing step take, against torch's own differentiation.

"ours" and "torch" are the trainer's engines "adjoint" and "autograd", on the same numbers and with one thread. For
networks of torch "ours" is extras/flossing.py, "jvp" is vmap(jvp) of a cell, and "plain" writes the tangents of an nn.RNN
by hand, both with a QR in every step. All take turns. Times are medians of processor time, with --device cuda (networks
only) of the clock; in brackets the interquartile range.
"""

import argparse
import os
import sys
import time
from itertools import product
from pathlib import Path

os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # read by the imports
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.nn.functional import linear  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import gradient_flossing_example as example  # noqa: E402
from example_code.experiments.experiment import pivot  # noqa: E402
from extras.flossing import _orthonormal_system, lyapunov_exponents  # noqa: E402

SIZES = {  # what differs from the README call
    "training": [{}, dict(N=160), dict(N=320), dict(N=640), dict(T=1200), dict(B=128)],
    "flossing": [{}, dict(nLE=16), dict(N=160), dict(N=320, nLE=320), dict(Tp=440)],
}
NETWORK_SIZES = [(80, 75, 55, 1), (80, 75, 55, 16), (256, 32, 200, 1), (256, 32, 200, 16)]  # H, k, T, B
OURS, TORCH, SEED = "ours (ms)", "torch (ms)", 1


def step(kind, engine, **sizes):
    """Function without arguments that takes one gradient of random float32 arrays."""
    p, rng = example.README_CALL._replace(E=0, **sizes), np.random.default_rng(SEED)
    ps = example.train_rnn_flossing(*p, progress=False).initial
    engine = {OURS: "adjoint", TORCH: "autograd"}[engine]
    if kind == "training":
        s, target = rng.integers(0, 2, (2, p.T, 1, p.B)).astype(np.float32)
        gradient = example.training_engine(engine, p.N, p.T, p.B, example.first_loss_index(p.delay, p.task))
        return lambda: gradient(s, target, ps)
    s, flossed = rng.integers(0, 2, (p.Tp, 1, 1)).astype(np.float32), {name: ps[name] for name in ("ws", "J", "b")}
    gradient = example.flossing_engine(engine, p.N, p.Tp, p.nLE, SEED, np.float32(0))
    return lambda: gradient(s, flossed, ps["xInit"])


def written_out(network, cell, x, state):
    """The next state of a cell by formulae: torch cannot differentiate its own GRU and LSTM forwards on a GPU."""
    x, h = linear(x, cell.weight_ih, cell.bias_ih), linear(state[:, : cell.hidden_size], cell.weight_hh, cell.bias_hh)
    if network == "GRU":
        (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, 1), h.chunk(3, 1)
        n = torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        return n + torch.sigmoid(x_z + h_z) * (state - n)
    if network == "LSTM":
        i, f, g, o = (x + h).chunk(4, 1)
        c = torch.sigmoid(f) * state[:, cell.hidden_size :] + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat([torch.sigmoid(o) * torch.tanh(c), c], 1)
    return torch.tanh(x + h)


def network_step(network, engine, dtype, H, k, T, B, device="cpu"):
    """Function without arguments that takes the gradient of the mean squared exponents (B, k), and returns these."""
    dtype = getattr(torch, dtype)
    torch.manual_seed(SEED)
    bits, cell = torch.randint(2, (T, B, 1)).to(device, dtype), getattr(torch.nn, f"{network}Cell")(1, H).to(device, dtype)
    n = 2 * H if network == "LSTM" else H

    def by_hand():
        V = _orthonormal_system(n, k, seed=0).to(bits).T.expand(B, k, n)
        state, log_R = bits.new_zeros(B, n), 0
        for x in bits:
            if engine == "plain":
                state = cell(x, state)
                V = (V @ cell.weight_hh.T) * (1 - state * state)[:, None]
            else:
                new = lambda s: written_out(network, cell, x, s)  # noqa: E731, B023
                state, V = torch.func.vmap(lambda v: torch.func.jvp(new, (state,), (v,)), 1, (None, 1))(V)
            Q, R = torch.linalg.qr(V.mT)
            V, log_R = Q.mT, log_R + R.diagonal(dim1=-2, dim2=-1).abs().log()
        return log_R / T

    def gradient():
        exponents = lyapunov_exponents(cell, bits, k, dtype=dtype) if engine == "ours" else by_hand()
        exponents.square().mean().backward()
        if exponents.is_cuda:
            torch.cuda.synchronize()
        return exponents

    return gradient


def measure(functions, rounds, device="cpu"):
    """Seconds of each function of a dict, an array; in each round all take turns, short ones several times."""
    times, now = {key: [] for key in functions}, time.process_time if device == "cpu" else time.perf_counter
    for _ in range(rounds + 1):
        for key, function in functions.items():
            for _ in range(min(10, 1 + int(0.3 / times[key][-1])) if times[key] else 1):
                started = now()
                function()
                times[key].append(now() - started)
    return {key: np.array(seconds[1:]) for key, seconds in times.items()}  # without the first, which prepares


def report(names, steps, rounds, device="cpu"):
    """Print a table of medians in ms, in brackets the interquartile range. steps: {(first cells, column): function}."""
    ms = {key: 1e3 * np.quantile(times, [0.5, 0.25, 0.75]) for key, times in measure(steps, rounds, device).items()}
    cells = {key: f"{median:.4g} ({high - low:.1g})" for key, (median, low, high) in ms.items()}
    cells |= {(row, "torch / ours"): f"{ms[row, TORCH][0] / ms[row, OURS][0]:.2f}" for row, column in ms if column == TORCH}
    lines = pivot(cells, names, lambda key: key[0], lambda key: key[1], lambda keys: cells[keys[0]])
    print("\n".join(["", *lines]), flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="few sizes and rounds")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="of the networks; default cpu")
    args = parser.parse_args(argv)
    quick, device = args.quick, args.device
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, NumPy {np.__version__}, torch {torch.__version__}")
    named = lambda size: ", ".join(f"{key} {value}" for key, value in size.items()) or "README"  # noqa: E731
    for kind, sizes in SIZES.items() if device == "cpu" else ():
        some = product(sizes[: 2 if quick else None], (OURS, TORCH))
        report([kind], {((named(size),), engine): step(kind, engine, **size) for size, engine in some}, 2 if quick else 12)
    networks = product(("RNN", "GRU", "LSTM"), NETWORK_SIZES[: 1 if quick else None])
    steps = {
        ((f"nn.{network}", ", ".join(map(str, size))), f"{engine} {dtype}"): network_step(network, engine, dtype, *size, device)
        for (network, size), dtype, engine in product(networks, ("float64", "float32"), ("ours", "jvp", "plain"))
        if network == "RNN" or engine != "plain"
    }
    report(["network", "H, k, T, B"], steps, 1 if quick else 3, device)


if __name__ == "__main__":
    main()
