"""What flossing does to random networks: Lyapunov spectrum, condition number of the long-term Jacobian, gradient norm.

    python example_code/experiments/lyapunov_spectrum_and_condition_number.py        # all cores of this machine

Random driven networks (N = 80, several gains g and seeds) are flossed for 500 steps towards k exponents of 0 and
compared with themselves before. Spectra are measured over 500 steps with an input that flossing has not seen, after
100 steps of transient; the condition number sigma_1 / sigma_k at the horizon t is computed stably
(extras.lyapunov.py) and set against exp((lambda_1 - lambda_k) t); the gradient norm is |d r_t / d x_0| of the
readout r_t.
"""

import sys
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from extras.figures import BLACK, COLOURS as PALETTE  # noqa: E402
from extras.lyapunov import (  # noqa: E402
    log_condition_number, log_gradient_norm, log_singular_values, lyapunov_spectrum, step_jacobians, trajectory,
)  # fmt: skip
from extras.record import TrainingRecord  # noqa: E402
from example_code.experiments.sweep import Job, make_parser, sweep, write_csv  # noqa: E402
from gf_task05spatialXORShort import generate_input_output  # noqa: E402
from gradient_flossing_example import flossing_engine, relax_ic  # noqa: E402
from julia_packages.flux import ADAMW, update  # noqa: E402
from julia_packages.random import MersenneTwister  # noqa: E402

NAME = "lyapunov_spectrum_and_condition_number"
N, TP, TRANSIENT, AVERAGED = 80, 55, 100, 500
GAINS = (0.5, 1.0, 1.5)
FLOSSED = (1, 16, 32, 75)  # number k of exponents
HORIZONS = (1, 3, 6, 10, 20, 35, 50, 75, 100, 150, 200)
TABLE_HORIZON = 100
COLOURS = dict(zip((0, 1, 16, 32, 75), (BLACK, PALETTE[5], PALETTE[4], PALETTE[2], PALETTE[3])))  # 0: before flossing


def make_runs(args):
    """{(g, seed, k): Job}, k = 0 without flossing; longest first."""
    return {
        (g, seed, k): Job(f"g{g}_k{k}_seed{seed}", (g, seed, k, args.flossing_steps), f"example_code.experiments.{NAME}:run")
        for k, g, seed in product(sorted((0, *FLOSSED), reverse=True), GAINS, args.seeds)
    }


def run(g, seed, k, steps, **_):
    """The record of a network before and after flossing; its diagnostics are what measure() says of it at the end."""
    initial, losses = random_network(g, seed), []
    final = initial
    if k > 0:
        final, losses = floss(initial, k, steps, seed)
    none = np.empty(0)
    return TrainingRecord(
        parameters=dict(g=g, seed=seed, k=k, steps=steps), initial=initial, final=final, loss=none, accuracy=none,
        gradient_norm={}, flossing_loss=np.array(losses), flossing_epoch=np.ones(len(losses), int),
        lyapunov_spectrum=none, flossing_gradient_norm={}, diagnostics=measure(final, seed),
    )  # fmt: skip


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
    """Dict of spectrum (N,), log_sigma (horizons, N), the singular values, log_norm (horizons,) of the gradient."""
    T = TRANSIENT + max(AVERAGED, *HORIZONS)
    s, _ = generate_input_output(1, T, 999_999 + seed, 1, 1.0, 10, -1)
    x = trajectory(s, ps["ws"], ps["J"], ps["b"], ps["xInit"])
    D = step_jacobians(x, ps["J"])
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((N, N)))[0]
    spectrum = lyapunov_spectrum(D[: TRANSIENT + AVERAGED], Q, discard=TRANSIENT)
    log_norm = log_gradient_norm(x[TRANSIENT:], ps["J"], ps["wr"], HORIZONS)
    return dict(spectrum=spectrum, log_sigma=log_singular_values(D[TRANSIENT:], HORIZONS), log_norm=log_norm)


def table_rows(results):
    """One row per network: exponents, condition number measured and predicted, gradient norm (base-10 logarithms)."""
    at, log10 = HORIZONS.index(TABLE_HORIZON), np.log(10)
    rows = []
    for (g, seed, k), record in sorted(results.items()):
        spectrum, log_sigma, log_norm = (record.diagnostics[name] for name in ("spectrum", "log_sigma", "log_norm"))
        losses = record.flossing_loss
        row = dict(g=g, seed=seed, flossed_exponents=k, lambda_1=spectrum[0])
        for m in FLOSSED[1:]:
            row[f"lambda_{m}"] = spectrum[m - 1]
            row[f"log10_condition_number_{m}"] = log_condition_number(log_sigma[at], m) / log10
            row[f"log10_prediction_{m}"] = (spectrum[0] - spectrum[m - 1]) * TABLE_HORIZON / log10
        row["log10_gradient_norm"] = log_norm[at] / log10
        row["last_flossing_loss"] = losses[-1] if len(losses) else np.nan
        rows.append({name: v if isinstance(v, int) else float(f"{v:.6g}") for name, v in row.items()})
    return rows


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
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    axes = figure.subplots(2, 3)
    t, log10, seeds = np.array(HORIZONS), np.log(10), sorted({seed for _, seed, _ in results})
    label = {k: f"k = {k}" if k else "before flossing" for k in COLOURS}
    median = lambda g, k, value: np.median([value(results[g, seed, k].diagnostics) for seed in seeds], axis=0)  # noqa: E731

    ax = axes[0, 0]
    for k in FLOSSED:
        for seed in seeds:
            ax.semilogy(results[1.0, seed, k].flossing_loss, color=COLOURS[k], lw=0.6, alpha=0.5)
        ax.semilogy(np.median([results[1.0, seed, k].flossing_loss for seed in seeds], axis=0), color=COLOURS[k], lw=1.8, label=label[k])
    ax.set(xlabel="flossing step", ylabel="flossing loss (1/step²)", title="A  flossing k exponents, g = 1")
    ax.legend(fontsize=8, ncols=2)

    index = np.arange(1, N + 1)
    ax = axes[0, 1]
    for k in COLOURS:
        for seed in seeds:
            ax.plot(index, results[1.0, seed, k].diagnostics["spectrum"], color=COLOURS[k], lw=0.6, alpha=0.5)
        ax.plot(index, median(1.0, k, lambda r: r["spectrum"]), color=COLOURS[k], lw=1.8, label=label[k])
    ax.axhline(0, color="0.6", lw=0.8, ls=":")
    ax.set(xlabel="index i", ylabel="Lyapunov exponent λᵢ (1/step)", ylim=(-4, 0.4), title="B  spectra, g = 1")
    ax.legend(fontsize=8, loc="lower left")

    ax = axes[0, 2]
    for g, style in zip(GAINS, ("-", "--", ":")):
        for k in (0, 75):
            ax.plot(index, median(g, k, lambda r: r["spectrum"]), style, color=COLOURS[k], lw=1.8, label=f"g = {g}, {label[k]}")
    ax.axhline(0, color="0.6", lw=0.8, ls=":")
    ax.set(xlabel="index i", ylabel="Lyapunov exponent λᵢ (1/step)", ylim=(-4, 0.4), title="C  spectra, all gains")
    ax.legend(fontsize=8, loc="lower left")

    ax = axes[1, 0]
    for k in (0, 16, 32, 75):
        measured = median(1.0, k, lambda r: log_condition_number(r["log_sigma"], 32)) / log10
        predicted = median(1.0, k, lambda r: (r["spectrum"][0] - r["spectrum"][31]) * t) / log10
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
            spectrum, log_sigma = (results[g, seed, k].diagnostics[name] for name in ("spectrum", "log_sigma"))
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
            ax.plot(t, results[1.0, seed, k].diagnostics["log_norm"] / log10, color=COLOURS[k], lw=0.6, alpha=0.5)
        ax.plot(t, median(1.0, k, lambda r: r["log_norm"]) / log10, color=COLOURS[k], lw=1.8, label=label[k])
    ax.set(xlabel="horizon t (steps)", ylabel="log₁₀ ‖∂rₜ / ∂x₀‖", title="F  gradient norm, initial state, g = 1")
    ax.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=110)


def write(results, out):
    """Table and figure of {(g, seed, k): record}."""
    rows = table_rows(results)
    write_csv(rows, out / f"{NAME}.csv")
    print_medians(rows)
    draw(results, out / f"{NAME}.png")


def main(argv=None):
    """Returns the exit status: 0, 1 if a run failed, 130 after Ctrl-C."""
    parser = make_parser(__doc__.split("\n\n")[0], f"out/{NAME}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--flossing-steps", type=int, default=500)
    args = parser.parse_args(argv)
    return sweep(make_runs(args), args, write)


if __name__ == "__main__":
    sys.exit(main())
