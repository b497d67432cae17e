"""Figures of training records; and a command that draws one record in six panels, or compares several:

    python -m extras.figures out/record.npz --out out/overview.png
    python -m extras.figures out/no_flossing.npz out/preflossing.npz --out out/comparison.png

Figures are made without pyplot: no backend is chosen and no window opens. Colours are those of Okabe and Ito (2008), which
colour-blind readers can tell apart; line styles tell them apart in grey.
"""

import argparse
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from extras.lyapunov import long_term_diagnostics
from extras.record import load_record

BLACK = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
CONDITIONS = {"no flossing": BLACK, "preflossing": "#E69F00", "flossing during training": "#0072B2"}  # label -> colour
DASHES = ("-", "--", "-.", ":")
GREY = "0.55"
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 9}


@contextmanager
def new_figure(height):
    """Context with a Figure 800 pixels wide and `height` inches high, in STYLE."""
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(8, height), dpi=100, layout="constrained")


def training_figure(records):
    """Accuracy and loss over epochs of several runs, a dict label -> TrainingRecord. Returns the Figure."""
    with new_figure(5.6) as figure:
        accuracy, loss = figure.subplots(2, 1, sharex=True)
        draw_training(accuracy, loss, records)
        accuracy.set_xlabel("")
        figure.legend(*accuracy.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def overview_figure(record):
    """One run in six panels: accuracy, loss, Lyapunov spectrum, flossing loss, gradient norms, eigenvalues of J."""
    with new_figure(9.2) as figure:
        axes = figure.subplots(3, 2).ravel()
        draw_training(*axes[:2], {"this run": record})
        for ax, draw in zip(axes[2:], (draw_spectrum, draw_flossing_loss, draw_gradient_norms, draw_eigenvalues)):
            draw(ax, record)
        for ax in (*axes[:3], *axes[4:]):
            ax.legend(fontsize=8, ncols=2 if ax is axes[2] else 4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        figure.suptitle(repr(record).removeprefix("TrainingRecord: "), fontsize=11)
    return figure


def draw_curves(ax, curves, level=None, log=False, **labels):
    """Each curve of a dict label -> values (n,) over 1..n, and a horizontal line: level, a pair of label and value."""
    for i, (label, values) in enumerate(curves.items()):
        colour = CONDITIONS.get(label, COLOURS[i % len(COLOURS)])
        ax.plot(np.arange(1, len(values) + 1), values, color=colour, linewidth=1.2, linestyle=DASHES[i % 4], label=label)
    if level:
        ax.axhline(level[1], color=GREY, linestyle="--", linewidth=1, label=level[0])
    ax.set(**labels)
    if log:
        ax.set_yscale("log", nonpositive="mask")


def draw_training(accuracy, loss, records):
    """Accuracy and loss over epochs, a band at each flossing block, and what chance gives."""
    percent = {label: 100 * record.accuracy for label, record in records.items()}
    losses = {label: record.loss for label, record in records.items()}
    draw_curves(accuracy, percent, ("chance", 50), xlabel="epoch", ylabel="accuracy (%)")
    draw_curves(loss, losses, ("chance", np.log(2)), log=True, xlabel="epoch", ylabel="cross-entropy loss (nats)")
    accuracy.set_ylim(min(40, accuracy.get_ylim()[0]), 102)
    band = "flossing block"
    for record in records.values():
        half = max(1, record.parameters["E"] / 120) / 2  # epochs: wide enough to be seen
        for epoch in np.unique(record.flossing_epoch):
            for ax in (accuracy, loss):
                ax.axvspan(epoch - half, epoch + half, color=GREY, alpha=0.3, linewidth=0, label=band)
            band = "_"  # one entry in the legend


def draw_spectrum(ax, record):
    """Spectra at the first flossing step and the last of the first and last blocks; else of initial and final weights."""
    if len(epochs := record.flossing_epoch):
        last = {f"after the block at epoch {ei}": record.lyapunov_spectrum[epochs == ei][-1] for ei in epochs[[0, -1]]}
        spectra = {"before flossing": record.lyapunov_spectrum[0]} | last
    else:
        weights = {"initial weights": record.initial, "final weights": record.final}
        spectra = {name: long_term_diagnostics(record.parameters, ps)["lyapunov_spectrum"] for name, ps in weights.items()}
    target = ("target", record.parameters["Lwnt"])
    draw_curves(ax, spectra, target, xlabel="index i of the exponent", ylabel="exponent λᵢ (1/step)")


def draw_flossing_loss(ax, record):
    if not len(record.flossing_loss):
        ax.set(xlabel="no flossing", xticks=[], yticks=[])
        return
    draw_curves(ax, {"loss": record.flossing_loss}, log=True, ylabel="flossing loss (1/step²)")
    ax.set_xlabel("flossing step (dotted: a new block)")
    for last in np.flatnonzero(np.diff(record.flossing_epoch)) + 1:  # step of a block, counted from 1
        ax.axvline(last + 0.5, color=GREY, linestyle=":", linewidth=1)


def draw_gradient_norms(ax, record):
    clip = ("clipped above", 0.03)  # ex.jl:164
    draw_curves(ax, record.gradient_norm, clip, log=True, xlabel="epoch", ylabel="gradient norm")


def draw_eigenvalues(ax, record):
    before, after = (np.linalg.eigvals(ps["J"].astype(float)) for ps in (record.initial, record.final))
    circle = record.parameters["g"] * np.exp(2j * np.pi * np.linspace(0, 1, 200))
    ax.plot(circle.real, circle.imag, color=GREY, linewidth=1, label="radius g")
    ax.plot(before.real, before.imag, "o", color=COLOURS[5], markersize=5, fillstyle="none", label="before")
    ax.plot(after.real, after.imag, ".", color=COLOURS[1], markersize=5, label="after")
    ax.set(xlabel="real part of eigenvalue of J", ylabel="imaginary part", aspect="equal")


def main():
    parser = argparse.ArgumentParser(prog="python -m extras.figures", description="Draw one record, or compare several.")
    parser.add_argument("records", nargs="+", type=Path, help="files of records; their names label the lines")
    parser.add_argument("--out", type=Path, default=Path("out/comparison.png"), help="default out/comparison.png")
    args = parser.parse_args()
    try:
        records = {path: load_record(path) for path in args.records}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    stems = {path.stem.replace("_", " "): record for path, record in records.items()}
    labelled = stems if len(stems) == len(records) else {str(path): record for path, record in records.items()}
    figure = training_figure(labelled) if len(labelled) > 1 else overview_figure(*labelled.values())
    figure.savefig(args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
