"""What flossing does to random networks: Lyapunov spectrum, condition number of the long-term Jacobian, gradient norm."""

import sys
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.experiment import Experiment, Job, draw_seeds, readme_call  # noqa: E402
from extras.figures import BLACK, COLOURS, GREY, new_figure  # noqa: E402
from extras.lyapunov import log_condition_number, log_gradient_norm, log_singular_values  # noqa: E402
from extras.lyapunov import lyapunov_spectrum, step_jacobians, trajectory  # noqa: E402
from gf_task05spatialXORShort import generate_input_output  # noqa: E402
from gradient_flossing_example import train_rnn_flossing  # noqa: E402

NAME = "lyapunov_spectrum_and_condition_number"
N, TRANSIENT, AVERAGED = 80, 100, 500  # neurons; time steps before, and in which the spectrum is measured
GAINS = {0.5: "-", 1.0: "--", 1.5: ":"}  # and their lines
FLOSSED = (1, 16, 32, 75)  # number k of exponents
HORIZONS = (1, 3, 6, 10, 20, 35, 50, 75, 100, 150, 200)
COLOUR = dict(zip((0, *FLOSSED), (BLACK, COLOURS[5], COLOURS[4], COLOURS[2], COLOURS[3])))  # 0: before flossing


def make_jobs(args):
    """Pairs of (g, seed, k) and Job, k = 0 without flossing. One epoch of training follows, which is not looked at."""
    for g, seed, k in product(GAINS, args.seeds, (0, *FLOSSED)):
        call = readme_call(seed, E=1, Ep=args.preflossing if k else 0, Ni=0, B=1, Ti=55, N=N, nLE=k, g=g)
        call = call._replace(sIn=1000 * seed - 1)  # so that step i of flossing draws its input with seed 1000 * seed + i
        yield (g, seed, k), Job(f"g{g}_k{k}_seed{seed}", call, f"example_code.experiments.{NAME}:floss_and_measure")


def floss_and_measure(*arguments, **options):
    """The record, with measured spectrum (N,), log_sigma (horizons, N) and log_norm (horizons,) of the flossed network."""
    record = train_rnn_flossing(*arguments, **options)
    ps, seed, T = record.first_training_parameters, record.parameters["sNet"], TRANSIENT + max(AVERAGED, *HORIZONS)
    s, _ = generate_input_output(1, T, 999_999 + seed, 1, 1.0, 10, -1)
    x = trajectory(s, ps["ws"], ps["J"], ps["b"], ps["xInit"])
    D = step_jacobians(x, ps["J"])
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((N, N)))[0]
    spectrum = lyapunov_spectrum(D[: TRANSIENT + AVERAGED], Q, discard=TRANSIENT)
    log_norm = log_gradient_norm(x[TRANSIENT:], ps["J"], ps["wr"], HORIZONS)
    record.diagnostics |= dict(spectrum=spectrum, log_sigma=log_singular_values(D[TRANSIENT:], HORIZONS), log_norm=log_norm)
    return record


def log10_condition(record, m):
    """log10(sigma_1 / sigma_m) (2, horizons): measured, and predicted from exp((lambda_1 - lambda_m) t)."""
    spectrum, log_sigma = record.diagnostics["spectrum"], record.diagnostics["log_sigma"]
    return np.array([log_condition_number(log_sigma, m), (spectrum[0] - spectrum[m - 1]) * np.array(HORIZONS)]) / np.log(10)


def make_rows(key, record):
    """One row: exponents, condition number measured and predicted, gradient norm (base-10 logarithms)."""
    at, spectrum = HORIZONS.index(100), record.diagnostics["spectrum"]
    row = dict(zip(("g", "seed", "flossed_exponents"), key), lambda_1=spectrum[0])
    for m in FLOSSED[1:]:
        row[f"lambda_{m}"] = spectrum[m - 1]
        row[f"log10_condition_number_{m}"], row[f"log10_prediction_{m}"] = log10_condition(record, m)[:, at]
    row["log10_gradient_norm"] = record.diagnostics["log_norm"][at] / np.log(10)
    yield {name: v if isinstance(v, int) else float(f"{v:.6g}") for name, v in row.items()}


def draw(records, rows):
    """Spectra, condition numbers and gradient norms, and spectra of all gains; thick: medians, thin: seeds."""
    index, t, networks = np.arange(1, N + 1), np.array(HORIZONS), {}
    for (g, _, k), record in sorted(records.items()):
        networks.setdefault((k, g), []).append(record)
    with new_figure(7) as figure:
        (spectra, gains), (conditions, gradients) = axes = figure.subplots(2, 2)
        for (k, g), mine in sorted(networks.items()):
            label, colour = f"k = {k}" if k else "before flossing", COLOUR[k]
            exponents = [r.diagnostics["spectrum"] for r in mine]
            if k in (0, 75):
                gains.plot(index, np.median(exponents, axis=0), GAINS[g], lw=1.8, color=colour, label=f"g = {g}, {label}")
            if g == 1.0:
                draw_seeds(spectra, index, exponents, label, colour)
                draw_seeds(gradients, t, [r.diagnostics["log_norm"] / np.log(10) for r in mine], label, colour)
                measured, predicted = np.median([log10_condition(r, 32) for r in mine], axis=0)
                conditions.plot(t, measured, "o", ms=4, color=colour, label=label)
                conditions.plot(t, predicted, color=colour, lw=1.2)
        conditions.plot([], [], color="0.4", lw=1.2, label="exp((λ₁ - λ₃₂) t)")
        for ax, title in ((spectra, "A  spectra, g = 1"), (gains, "B  spectra, all gains")):
            ax.axhline(0, color=GREY, lw=0.8, ls=":")
            ax.set(xlabel="index i", ylabel="Lyapunov exponent λᵢ (1/step)", ylim=(-4, 0.4), title=title)
        conditions.set(xlabel="horizon t (steps)", ylabel="log₁₀ σ₁ / σ₃₂", title="C  condition number, g = 1")
        gradients.set(xlabel="horizon t (steps)", ylabel="log₁₀ ‖∂rₜ / ∂x₀‖", title="D  gradient norm, g = 1")
        for ax in axes.flat:
            ax.legend(fontsize=8)
    return figure


SETTINGS = dict(seeds=[1, 2, 3, 4, 5], preflossing=500)
QUICK = dict(seeds=[1], preflossing=50)
EXPERIMENT = Experiment(NAME, __doc__, SETTINGS, QUICK, make_jobs, make_rows, lambda rows: [], draw)  # too wide to print

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
