"""How long a training step and a flossing step take, against torch's own differentiation.

    python example_code/experiments/benchmark.py             # 14 sizes, some minutes
    python example_code/experiments/benchmark.py --quick     # few sizes, to see that it works

"ours" and "torch" are the trainer's engines "adjoint" and "autograd", on the same numbers and with one thread. For
networks of torch "ours" is extras/flossing.py, and "callable" the same given torch's cell as a function, whose Jacobians
come by vmap(jvp). All sizes and engines take turns. Times are medians of processor time, which other processes do not
lengthen; in brackets the distance of the quartiles. As on a processor without AVX512:

    OPENBLAS_CORETYPE=Haswell NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR" ATEN_CPU_CAPABILITY=avx2
    MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2
"""

import argparse
import os
import platform
import sys
import time
from pathlib import Path

os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")  # read by the imports
import numpy as np  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.experiment import markdown  # noqa: E402
import gradient_flossing_example as example  # noqa: E402
from gradient_flossing_example import discarded_steps  # noqa: E402

README_SIZES = dict(N=80, T=300, B=16, Tp=55, nLE=75)  # of the README call
SIZES = {  # what differs from them
    "training": [{}, dict(N=160), dict(N=320), dict(N=640), dict(T=1200), dict(B=128)],
    "flossing": [{}, dict(nLE=16), dict(N=160), dict(N=320, nLE=320), dict(Tp=440)],
    "own network": [dict(network="RNN"), dict(network="GRU"), dict(network="LSTM")],
}
FIRST_SCORED = example.first_loss_index(delay=10, task=-1)
SEED = 1


def step(kind, engine, N, T, B, Tp, nLE, network=None):
    """Function without arguments that takes one gradient of random float32 arrays."""
    if kind == "own network":
        return network_step(network, engine, Tp, nLE)
    rng = np.random.default_rng(SEED)
    call = example.README_CALL._replace(N=N, T=T, B=B, nLE=nLE, E=0)
    ps = example.train_rnn_flossing(*call, progress=False).initial
    s, target = rng.integers(0, 2, (2, T, 1, B)).astype(np.float32)
    if kind == "flossing":
        s, flossed = rng.integers(0, 2, (Tp, 1, 1)).astype(np.float32), {name: ps[name] for name in ("ws", "J", "b")}
    engine = {"ours": "adjoint", "torch": "autograd"}[engine]
    if kind == "training":
        gradient = example.training_engine(engine, N, T, B, FIRST_SCORED)
        return lambda: gradient(s, target, ps)
    gradient = example.flossing_engine(engine, N, Tp, nLE, SEED, np.float32(0))
    return lambda: gradient(s, flossed, ps["xInit"])


def network_step(network, engine, Tp, nLE):
    """The same for a network of example_code/floss_your_own_network.py, of one trial of random bits."""
    import torch

    from example_code.floss_your_own_network import H, make_network
    from extras.flossing import lyapunov_exponents

    torch.manual_seed(SEED)
    bits, given, state = torch.randint(2, (Tp, 1, 1)).float(), make_network(network), None
    if engine == "callable":
        cell = getattr(torch.nn, f"{network}Cell")(1, H)
        cell.load_state_dict({name.removesuffix("_l0"): p for name, p in given.named_parameters()})
        state = torch.zeros(1, 2 * H if network == "LSTM" else H)
        given = (lambda x, hc: torch.cat(cell(x, hc.split(H, 1)), 1)) if network == "LSTM" else (lambda x, h: cell(x, h))

    def gradient():
        exponents = lyapunov_exponents(given, bits, nLE, state=state, discard=discarded_steps(Tp))
        exponents.square().mean().backward()
        return exponents

    return gradient


def measure(functions, rounds):
    """Processor seconds of each function of a dict, an array; in each round all take turns, short ones several times."""
    times = {key: [] for key in functions}
    for _ in range(rounds + 1):
        for key, function in functions.items():
            for _ in range(min(10, 1 + int(0.03 / times[key][-1])) if times[key] else 1):
                started = time.process_time()
                function()
                times[key].append(time.process_time() - started)
    return {key: np.array(seconds[1:]) for key, seconds in times.items()}  # without the first, which prepares


def report(kind, sizes, other, rounds):
    """Print a table of our times and those of the other engine: medians, distances of the quartiles, ratios."""
    steps = {(i, e): step(kind, e, **README_SIZES | size) for i, size in enumerate(sizes) for e in ("ours", other)}
    ms = {key: 1e3 * np.quantile(times, [0.5, 0.25, 0.75]) for key, times in measure(steps, rounds).items()}
    rows = []
    for i, size in enumerate(sizes):
        cells = [f"{ms[i, e][0]:.4g} ({ms[i, e][2] - ms[i, e][1]:.1g})" for e in ("ours", other)]
        name = ", ".join(f"{key} {value}" for key, value in size.items()) or "README"
        rows.append([name, *cells, f"{ms[i, other][0] / ms[i, 'ours'][0]:.2f}"])
    print("\n".join(["", *markdown([kind, "ours (ms)", f"{other} (ms)", f"{other} / ours"], rows)]), flush=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="few sizes and rounds")
    quick = parser.parse_args(argv).quick
    print(f"{platform.platform()}, {os.cpu_count()} cores; Python {platform.python_version()}, NumPy {np.__version__}")
    for kind, sizes in SIZES.items():
        other = "callable" if kind == "own network" else "torch"
        report(kind, sizes[: 2 if quick else None], other, 2 if quick else 12)


if __name__ == "__main__":
    main()
