"""How long a training step, a flossing step and the README call take, and how the time grows with the sizes.

    python example_code/experiments/benchmark.py                 # a few minutes; table on the screen, figure in out/benchmark.png
    python example_code/experiments/benchmark.py --quick         # the same with few repetitions and small sizes, to see that it works

Engines: "adjoint" and "autograd" of the trainer and, if jax is installed, a jitted lax.scan ("jax", below), on the same
numbers at the sizes of the README call. The engines take turns, so that a slow moment of the machine meets all of them;
times are medians. The bound is the time that the matrix products of a step would take at the rate of a large Float32
product on one core, measured in the same run: nothing that computes the same gradients on one core is faster.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from extras.figures import BLACK, COLOURS  # noqa: E402
from gradient_flossing_example import first_loss_index, flossing_engine, initial_orthonormal_system, training_engine  # noqa: E402
from julia_packages.linear_algebra import blas_threads  # noqa: E402

README_SIZES = dict(N=80, T=300, B=16, Tp=55, nLE=75)  # of the README call
FIRST_SCORED = first_loss_index(delay=10, task=-1)
GROWTH = {  # what is varied, from the README sizes
    "training": {"N": (80, 160, 320, 640), "T": (150, 300, 600, 1200), "B": (16, 32, 64, 128, 256)},
    "flossing": {"N": (80, 160, 320, 640), "Tp": (55, 110, 220, 440), "nLE": (1, 10, 40, 80)},
}
QUICK_GROWTH = {"training": {"N": (20, 40), "T": (30, 60), "B": (4, 8)}, "flossing": {"N": (20, 40), "nLE": (1, 10)}}
SEED = 1


# ------------------------------------------------------------------ what is timed


def random_call(N, T, B, Tp, nLE):
    """Random float32 arrays of one step: training input and target, flossing input, parameters."""
    rng = np.random.default_rng(SEED)
    ps = dict(
        ws=rng.normal(size=(N, 1)), J=rng.normal(size=(N, N)) / np.sqrt(N), wr=rng.normal(size=(1, N)),
        b=0.1 * rng.random(N), offset=np.array([0.001]), xInit=rng.normal(size=(N, B)),
    )  # fmt: skip
    s, target = rng.integers(0, 2, (2, T, 1, B)).astype(np.float32)
    s1 = rng.integers(0, 2, (Tp, 1, 1)).astype(np.float32)
    return s, target, s1, {name: p.astype(np.float32) for name, p in ps.items()}


def training_step(engine, sizes):
    """Function without arguments that takes one training gradient."""
    s, target, _, ps = random_call(**sizes)
    if engine == "jax":
        return jax_training_step(s, target, ps)
    gradient = training_engine(engine, sizes["N"], sizes["T"], sizes["B"], FIRST_SCORED)
    return lambda: gradient(s, target, ps)


def flossing_step(engine, sizes):
    """Function without arguments that takes one flossing gradient."""
    _, _, s, ps = random_call(**sizes)
    flossed = {name: ps[name] for name in ("ws", "J", "b")}
    if engine == "jax":
        return jax_flossing_step(s, flossed, ps["xInit"], initial_orthonormal_system(SEED, sizes["N"], sizes["nLE"]))
    gradient = flossing_engine(engine, sizes["N"], sizes["Tp"], sizes["nLE"], SEED, np.float32(0))
    return lambda: gradient(s, flossed, ps["xInit"])


STEPS = {"training": training_step, "flossing": flossing_step}


def jax_training_step(s, target, ps):
    """Loss, accuracy and gradients in Float32, as one writes it in JAX: value_and_grad of a lax.scan, jitted."""
    import jax
    import jax.numpy as jnp

    def loss(ps, s, target):
        def step(x, now):
            x = ps["J"] @ jnp.tanh(x) + ps["b"][:, None] + ps["ws"] @ now
            return x, ps["wr"] @ x + ps["offset"]

        _, r = jax.lax.scan(step, ps["xInit"], s)
        r, y = r[FIRST_SCORED - 1 :], target[FIRST_SCORED - 1 :]
        return jnp.mean((1 - y) * r + jax.nn.softplus(-r)), jnp.mean((jax.nn.sigmoid(r) >= 0.5) == y)

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return lambda: jax.block_until_ready(gradient(ps, s, target))


def jax_flossing_step(s, ps, xInit, Q):
    """Flossing loss, spectrum and gradients in Float32: jnp.linalg.qr inside a lax.scan, jitted."""
    import jax
    import jax.numpy as jnp

    Tp, discarded = len(s), 10 - (-len(s) // 10)

    def loss(ps, s):
        def step(carry, now):
            x, Q = carry
            x = ps["J"] @ jnp.tanh(x) + ps["b"] + ps["ws"] @ now
            Q, R = jnp.linalg.qr((1 / jnp.cosh(x) ** 2)[:, None] * ps["J"] @ Q)
            return (x, Q), jnp.log(jnp.abs(jnp.diagonal(R)))

        _, log_R = jax.lax.scan(step, (xInit[:, 0], Q), s[:, :, 0])
        spectrum = log_R[discarded:].sum(axis=0) / (Tp - discarded)
        return jnp.mean(spectrum**2), spectrum

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return lambda: jax.block_until_ready(gradient(ps, s))


def matrix_product_flops(kind, N, T, B, Tp, nLE):
    """Floating-point operations of a step's matrix products and, for flossing, of a QR and its adjoint at every step."""
    if kind == "training":
        return 6 * T * B * N**2  # forward, backward, gradient of J
    factorisation = 2 * (2 * N * nLE**2 - 2 / 3 * nLE**3)  # R and reflectors, then Q
    adjoint = 2 * N * nLE**2 + 2 * N * nLE**2 + N * nLE**2  # M, Q sym(M), R^-T
    return Tp * (6 * N**2 * nLE + factorisation + adjoint)


# ------------------------------------------------------------------ timing


def median_times(functions, rounds):
    """Median seconds of each function in a dict; they take turns, and the first round, which compiles, is dropped."""
    times = {name: [] for name in functions}
    for _ in range(rounds + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - started)
    return {name: float(np.median(seconds[1:])) for name, seconds in times.items()}


def product_rate(rounds, n=1024):
    """Floating-point operations per second of a Float32 product of two n x n matrices, the best of the rounds."""
    a = np.random.default_rng(SEED).normal(size=(n, n)).astype(np.float32)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - started)
    return 2 * n**3 / min(seconds)


def time_steps(sizes, engines, rounds):
    """{kind: {engine: seconds}} at the given sizes."""
    return {kind: median_times({e: step(e, sizes) for e in engines}, rounds) for kind, step in STEPS.items()}


def time_growth(growth, rounds):
    """{(kind, varied size): [(value, seconds, operations), ...]} of the adjoint engine."""
    results = {}
    for kind, variations in growth.items():
        for name, values in variations.items():
            for value in values:
                sizes = README_SIZES | {name: value}
                sizes["nLE"] = min(sizes["nLE"], sizes["N"])
                if (kind, name) == ("flossing", "N"):
                    sizes["nLE"] = value  # the whole spectrum
                with blas_threads(sizes["N"]):
                    seconds = median_times({"adjoint": STEPS[kind]("adjoint", sizes)}, rounds)["adjoint"]
                results.setdefault((kind, name), []).append((value, seconds, matrix_product_flops(kind, **sizes)))
    return results


def exponents(points):
    """Exponents with which time and operations grow from the first to the last point."""
    (value, seconds, operations), (value_end, seconds_end, operations_end) = points[0], points[-1]
    scale = np.log(value_end / value)
    return np.log(seconds_end / seconds) / scale, np.log(operations_end / operations) / scale


def time_readme_call(rounds):
    """Median seconds and largest resident memory (MB) of `python gradient_flossing_example.py`, a process of its own."""
    seconds, memory = [], []
    with tempfile.TemporaryDirectory() as out:
        for _ in range(rounds):
            started = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "gradient_flossing_example.py"), "--out", out, "--quiet"]
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                raise RuntimeError(f"the README call ended with exit status {process.returncode}")
            seconds.append(time.perf_counter() - started)
            memory.append(usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2))
    return float(np.median(seconds)), max(memory)


def installed_engines():
    try:
        import jax  # noqa: F401
    except ImportError:
        return ("adjoint", "autograd")
    return ("adjoint", "autograd", "jax")


# ------------------------------------------------------------------ what is shown


def step_table(times, rate, sizes):
    """Markdown lines: times in ms, relative to the adjoint engine, and the bound."""
    lines = ["| step | engine | median time (ms) | times the adjoint engine |", "|---|---|---|---|"]
    for kind, seconds in times.items():
        for engine, t in seconds.items():
            lines.append(f"| {kind} | {engine} | {1e3 * t:.2f} | {t / seconds['adjoint']:.2f} |")
        bound = matrix_product_flops(kind, **sizes) / rate
        lines.append(f"| {kind} | bound: matrix products | {1e3 * bound:.2f} | {bound / seconds['adjoint']:.2f} |")
    return lines


def growth_table(growth):
    lines = ["| step | varied | from, to | time (ms) | exponent of time | of the arithmetic |", "|---|---|---|---|---|---|"]
    for (kind, name), points in growth.items():
        of_time, of_arithmetic = exponents(points)
        varied = "N = nLE" if (kind, name) == ("flossing", "N") else name
        lines.append(
            f"| {kind} | {varied} | {points[0][0]}, {points[-1][0]} | {1e3 * points[0][1]:.2f}, {1e3 * points[-1][1]:.1f} "
            f"| {of_time:.2f} | {of_arithmetic:.2f} |"
        )
    return lines


def draw(growth, path):
    """Time of a step against each size, and the arithmetic scaled to the first point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = {"N": "neurons N", "T": "time steps T", "B": "batch size B", "Tp": "time steps Tp", "nLE": "exponents nLE"}
    kinds = list(growth_kinds(growth))
    columns = max(len(names) for names in growth_kinds(growth).values())
    figure, axes = plt.subplots(len(kinds), columns, figsize=(9, 5.4), layout="constrained", squeeze=False)
    for row, (kind, names) in zip(axes, growth_kinds(growth).items()):
        for ax, name in zip(row, names):
            values, seconds, operations = map(np.array, zip(*growth[kind, name]))
            ax.loglog(values, 1e3 * seconds, "o-", color=COLOURS[kind == "flossing"], label="adjoint engine")
            ax.loglog(values, 1e3 * seconds[0] * operations / operations[0], "--", color=BLACK, lw=1, label="arithmetic")
            ax.set_xticks(values, values)
            ax.set_xticks([], minor=True)
            ax.set(xlabel="N = nLE" if (kind, name) == ("flossing", "N") else labels[name])
        for ax in row[len(names) :]:
            ax.remove()
        row[0].set_ylabel(f"{kind} step (ms)")
        row[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def growth_kinds(growth):
    """{kind: [varied sizes]} in order."""
    kinds = {}
    for kind, name in growth:
        kinds.setdefault(kind, []).append(name)
    return kinds


def processor():
    """Name of the processor, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line] \
        if cpuinfo.exists() else []  # fmt: skip
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions, small sizes, no README call")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the figure; default out")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    engines, rounds = installed_engines(), 3 if args.quick else 40
    sizes = dict(N=20, T=40, B=4, Tp=30, nLE=10) if args.quick else README_SIZES
    print(f"{processor()}; Python {platform.python_version()}, NumPy {np.__version__}; sizes {sizes}\n")
    with blas_threads(sizes["N"]):
        rate = product_rate(rounds)
        times = time_steps(sizes, engines, rounds)
    print("\n".join(step_table(times, rate, sizes)))
    print(f"\nlarge Float32 product on one core: {rate / 1e9:.0f} GFLOP/s\n", flush=True)
    if not args.quick:
        seconds, memory = time_readme_call(3)
        print(f"README call, whole process: {seconds:.1f} s, {memory:.0f} MB\n", flush=True)
    growth = time_growth(QUICK_GROWTH if args.quick else GROWTH, 3 if args.quick else 7)
    print("\n".join(growth_table(growth)))
    draw(growth, args.out / "benchmark.png")
    print(f"\nwrote {args.out / 'benchmark.png'}")


if __name__ == "__main__":
    main()
