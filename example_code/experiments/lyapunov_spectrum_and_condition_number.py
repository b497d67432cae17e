"""What flossing does to random networks: Lyapunov spectrum, condition number of the long-term Jacobian, gradient norm.

    python example_code/experiments/lyapunov_spectrum_and_condition_number.py        # all cores; one figure and one table in out/

Random driven networks (N = 80, several gains g and seeds) are flossed for 500 steps towards k exponents of 0 and
compared with themselves before. Spectra are measured over 500 steps with an input that flossing has not seen, after
100 steps of transient; the condition number sigma_1 / sigma_k at the horizon t is computed stably
(extras.lyapunov.py) and set against exp((lambda_1 - lambda_k) t); the gradient norm is |d r_t / d x_0| of the
readout r_t.
"""

import argparse
import csv
import multiprocessing
import os
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from extras.lyapunov import (  # noqa: E402
    log_condition_number, log_gradient_norm, log_singular_values, lyapunov_spectrum, step_jacobians, trajectory,
)  # fmt: skip
from extras.sweep import exit_with_parent, one_blas_thread  # noqa: E402
from gf_task05spatialXORShort import generate_input_output  # noqa: E402
from gradient_flossing_example import flossing_engine, relax_ic  # noqa: E402
from julia_packages.flux import ADAMW, update  # noqa: E402
from julia_packages.random import MersenneTwister  # noqa: E402

N, TP, TRANSIENT, AVERAGED = 80, 55, 100, 500
GAINS = (0.5, 1.0, 1.5)
FLOSSED = (1, 16, 32, 75)  # number k of exponents
HORIZONS = (1, 3, 6, 10, 20, 35, 50, 75, 100, 150, 200)
TABLE_HORIZON = 100
COLOURS = {0: "#000000", 1: "#56B4E9", 16: "#E69F00", 32: "#009E73", 75: "#CC79A7"}  # Okabe and Ito; 0: before


def random_network(g, seed):
    """Parameters drawn in the order and with the README call's values of the original, ex.jl:42-55 and 162-163."""
    rng = MersenneTwister(seed)
    ws, wr = rng.randn_float32(N, 1), rng.randn_float32(1, N)
    b = np.float32(0.1) * rng.rand_float32(N)
    J = np.float32(g) * rng.randn_float32(N, N) / np.float32(np.sqrt(N))
    return dict(ws=ws, J=J, wr=wr, b=b, xInit=relax_ic(seed, 100, J, b, 1))


def floss(ps, k, steps, seed):
    """The network after `steps` flossing steps of k exponents, and the loss of each step."""
    ps = {name: array.copy() for name, array in ps.items()}
    flossed = {name: ps[name] for name in ("ws", "J", "b")}
    gradient = flossing_engine("adjoint", N, TP, k, seed, np.float32(0))
    opt, losses = ADAMW(np.float32(0.001), (0.9, 0.999), 0), []
    for i in range(1, steps + 1):
        s, _ = generate_input_output(1, TP, 1000 * seed + i, 1, 1.0, 10, -1)
        loss, _, gs = gradient(s, flossed, ps["xInit"])
        update(opt, flossed, gs)
        losses.append(loss)
    return ps, losses


def measure(ps, seed):
    """Spectrum (N,), log singular values (horizons, N), log gradient norm (horizons,) of one network."""
    T = TRANSIENT + max(AVERAGED, *HORIZONS)
    s, _ = generate_input_output(1, T, 999_999 + seed, 1, 1.0, 10, -1)
    x = trajectory(s, ps["ws"], ps["J"], ps["b"], ps["xInit"])
    D = step_jacobians(x, ps["J"])
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((N, N)))[0]
    spectrum = lyapunov_spectrum(D[: TRANSIENT + AVERAGED], Q, discard=TRANSIENT)
    log_sigma = log_singular_values(D[TRANSIENT:], HORIZONS)
    return spectrum, log_sigma, log_gradient_norm(x[TRANSIENT:], ps["J"], ps["wr"], HORIZONS)


def one_network(task):
    """(g, seed, k) -> what measure() gives, k = 0 without flossing; the losses of flossing."""
    g, seed, k, steps = task
    ps, losses = random_network(g, seed), []
    if k > 0:
        ps, losses = floss(ps, k, steps, seed)
    return (*measure(ps, seed), losses)


def measure_all(seeds, steps, jobs):
    """{(g, seed, k): result} of all networks, in `jobs` processes of one BLAS thread."""
    # longest first
    tasks = [(g, seed, k, steps) for k, g, seed in product(sorted((0, *FLOSSED), reverse=True), GAINS, seeds)]
    with one_blas_thread(), multiprocessing.get_context("spawn").Pool(jobs, initializer=exit_with_parent) as pool:
        results = {}
        for task, result in zip(tasks, pool.imap(one_network, tasks)):
            results[task[:3]] = result
            print(f"\r{len(results)}/{len(tasks)} networks", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return results


def table_rows(results):
    """One row per network: exponents, condition number measured and predicted, gradient norm (base-10 logarithms)."""
    at, log10 = HORIZONS.index(TABLE_HORIZON), np.log(10)
    rows = []
    for (g, seed, k), (spectrum, log_sigma, log_norm, losses) in sorted(results.items()):
        row = dict(g=g, seed=seed, flossed_exponents=k, lambda_1=spectrum[0])
        for m in FLOSSED[1:]:
            row[f"lambda_{m}"] = spectrum[m - 1]
            row[f"log10_condition_number_{m}"] = log_condition_number(log_sigma[at], m) / log10
            row[f"log10_prediction_{m}"] = (spectrum[0] - spectrum[m - 1]) * TABLE_HORIZON / log10
        row["log10_gradient_norm"] = log_norm[at] / log10
        row["last_flossing_loss"] = losses[-1] if losses else np.nan
        rows.append({name: v if isinstance(v, int) else float(f"{v:.6g}") for name, v in row.items()})
    return rows


def write_csv(rows, path):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def print_medians(rows):
    """Markdown table of the medians over seeds."""
    print(f"\nmedians over seeds; condition numbers and gradient norm at t = {TABLE_HORIZON}, as powers of 10")
    print("| g | k | lambda_1 | lambda_16 | lambda_32 | lambda_75 | sigma_1/sigma_16 (predicted) "
          "| sigma_1/sigma_32 | sigma_1/sigma_75 | gradient norm |")  # fmt: skip
    print("|---" * 10 + "|")
    for g, k in product(GAINS, (0, *FLOSSED)):
        mine = [row for row in rows if (row["g"], row["flossed_exponents"]) == (g, k)]
        m = {name: np.median([row[name] for row in mine]) for name in mine[0]}
        conditions = " | ".join(
            f"{m[f'log10_condition_number_{i}']:.1f} ({m[f'log10_prediction_{i}']:.1f})" for i in FLOSSED[1:]
        )
        exponents = " | ".join(f"{m[f'lambda_{i}']:.3f}" for i in FLOSSED)
        print(f"| {g} | {k or 'before'} | {exponents} | {conditions} | {m['log10_gradient_norm']:.1f} |")


def draw(results, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7.6), layout="constrained")
    t, log10, seeds = np.array(HORIZONS), np.log(10), sorted({seed for _, seed, _ in results})
    label = {k: f"k = {k}" if k else "before flossing" for k in COLOURS}
    median = lambda g, k, value: np.median([value(results[g, seed, k]) for seed in seeds], axis=0)  # noqa: E731

    ax = axes[0, 0]
    for k in FLOSSED:
        for seed in seeds:
            ax.semilogy(results[1.0, seed, k][3], color=COLOURS[k], lw=0.6, alpha=0.5)
        ax.semilogy(median(1.0, k, lambda r: r[3]), color=COLOURS[k], lw=1.8, label=label[k])
    ax.set(xlabel="flossing step", ylabel="flossing loss (1/step²)", title="A  flossing k exponents, g = 1")
    ax.legend(fontsize=8, ncols=2)

    index = np.arange(1, N + 1)
    ax = axes[0, 1]
    for k in COLOURS:
        for seed in seeds:
            ax.plot(index, results[1.0, seed, k][0], color=COLOURS[k], lw=0.6, alpha=0.5)
        ax.plot(index, median(1.0, k, lambda r: r[0]), color=COLOURS[k], lw=1.8, label=label[k])
    ax.axhline(0, color="0.6", lw=0.8, ls=":")
    ax.set(xlabel="index i", ylabel="Lyapunov exponent λᵢ (1/step)", ylim=(-4, 0.4), title="B  spectra, g = 1")
    ax.legend(fontsize=8, loc="lower left")

    ax = axes[0, 2]
    for g, style in zip(GAINS, ("-", "--", ":")):
        for k in (0, 75):
            ax.plot(index, median(g, k, lambda r: r[0]), style, color=COLOURS[k], lw=1.8, label=f"g = {g}, {label[k]}")
    ax.axhline(0, color="0.6", lw=0.8, ls=":")
    ax.set(xlabel="index i", ylabel="Lyapunov exponent λᵢ (1/step)", ylim=(-4, 0.4), title="C  spectra, all gains")
    ax.legend(fontsize=8, loc="lower left")

    ax = axes[1, 0]
    for k in (0, 16, 32, 75):
        measured = median(1.0, k, lambda r: log_condition_number(r[1], 32)) / log10
        predicted = median(1.0, k, lambda r: (r[0][0] - r[0][31]) * t) / log10
        ax.plot(t, measured, "o", color=COLOURS[k], ms=4, label=label[k])
        ax.plot(t, predicted, color=COLOURS[k], lw=1.2)
    ax.plot([], [], color="0.4", lw=1.2, label="exp((λ₁ - λ₃₂) t)")
    ax.set(xlabel="horizon t (steps)", ylabel="log₁₀ σ₁ / σ₃₂", title="D  condition number, first 32 values, g = 1")
    ax.legend(fontsize=8)

    ax = axes[1, 1]
    gaps = [-np.inf, np.inf]
    for k in COLOURS:
        predicted, measured = [], []
        for g, seed, m in product(GAINS, seeds, (16, 32, 75)):
            spectrum, log_sigma, _, _ = results[g, seed, k]
            predicted += [*(spectrum[0] - spectrum[m - 1]) * t / log10]
            measured += [*log_condition_number(log_sigma, m) / log10]
        ax.plot(predicted, measured, ".", color=COLOURS[k], ms=3, label=label[k])
        gaps = [min(gaps[1], *predicted), max(gaps[0], *predicted)]
    ax.plot([0.05, 500], [0.05, 500], color="0.4", lw=0.8)
    ax.set(xscale="log", yscale="log", xlim=(0.03, 600), ylim=(0.03, 600), xlabel="predicted log₁₀ κ: (λ₁ - λₘ) t / ln 10",
           ylabel="measured log₁₀ σ₁ / σₘ", title="E  all networks and horizons, m = 16, 32, 75")  # fmt: skip
    ax.legend(fontsize=8, loc="upper left")

    ax = axes[1, 2]
    for k in COLOURS:
        for seed in seeds:
            ax.plot(t, results[1.0, seed, k][2] / log10, color=COLOURS[k], lw=0.6, alpha=0.5)
        ax.plot(t, median(1.0, k, lambda r: r[2]) / log10, color=COLOURS[k], lw=1.8, label=label[k])
    ax.set(xlabel="horizon t (steps)", ylabel="log₁₀ ‖∂rₜ / ∂x₀‖", title="F  gradient norm, initial state, g = 1")
    ax.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--flossing-steps", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the figure and the table")
    args = parser.parse_args(argv)
    started = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    results = measure_all(args.seeds, args.flossing_steps, args.jobs)
    rows = table_rows(results)
    write_csv(rows, args.out / "lyapunov_spectrum_and_condition_number.csv")
    draw(results, args.out / "lyapunov_spectrum_and_condition_number.png")
    print_medians(rows)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
