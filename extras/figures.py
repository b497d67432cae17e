"""Figures of training records; and a command that draws one record in six panels, or compares several:

    python -m extras.figures out/record.npz --out out/overview.png
    python -m extras.figures out/no_flossing.npz out/preflossing.npz --out out/comparison.png

Figures are made without pyplot: no backend is chosen and no window opens, and a notebook shows the value of a cell. Colours
are those of Okabe and Ito (2008), which colour-blind readers can tell apart; line styles tell them apart in grey.
"""

import argparse
import io
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from extras.lyapunov import long_term_diagnostics
from extras.record import TRAINED, load_record

BLACK = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
CONDITIONS = {"no flossing": BLACK, "preflossing": "#E69F00", "flossing during training": "#0072B2"}  # label -> colour
DASHES = ("-", "--", "-.", ":")
GREY = "0.55"
CLIP = 0.03  # ClipNorm of the training steps, ex.jl:164
STYLE = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "legend.fontsize": 9}


class NotebookFigure(Figure):
    def _repr_png_(self):
        """What a notebook shows: without this method it shows the figures of pyplot only."""
        png = io.BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()


@contextmanager
def new_figure(height, layout="constrained"):
    """A figure 800 pixels wide, in inches high, drawn in the STYLE of these pages."""
    with matplotlib.rc_context(STYLE):
        yield NotebookFigure(figsize=(8, height), dpi=100, layout=layout)


def training_figure(records):
    """Accuracy and loss over epochs of several runs.

    records: dict label -> TrainingRecord. Returns the Figure.
    """
    with new_figure(5.6) as figure:
        accuracy, loss = figure.subplots(2, 1, sharex=True)
        draw_accuracy(accuracy, records)
        draw_loss(loss, records)
        accuracy.set_xlabel("")
        figure.legend(*accuracy.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def overview_figure(record):
    """One run in six panels: accuracy, loss, Lyapunov spectrum, flossing loss, gradient norms, eigenvalues of J."""
    with new_figure(9.2, layout=None) as figure:  # placed by hand: an automatic layout takes as long as the drawing
        figure.subplots_adjust(left=0.1, right=0.98, bottom=0.06, top=0.87, hspace=0.55, wspace=0.36)
        axes = figure.subplots(3, 2).ravel()
        draw_accuracy(axes[0], {"accuracy": record})
        draw_loss(axes[1], {"loss": record})
        for ax, draw in zip(axes[2:], (draw_spectrum, draw_flossing_loss, draw_gradient_norms, draw_eigenvalues)):
            draw(ax, record)
        for ax in (*axes[:3], *axes[4:]):
            ax.legend(fontsize=8, ncols=2 if ax in axes[:3] else 4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        figure.suptitle(repr(record).removeprefix("TrainingRecord: "), fontsize=11, y=0.985)
    return figure


def draw_accuracy(ax, records):
    draw_curves(ax, records, lambda record: 100 * record.accuracy, chance=50)
    ax.set(ylabel="accuracy (%)", ylim=(min(40, ax.get_ylim()[0]), 102))


def draw_loss(ax, records):
    draw_curves(ax, records, lambda record: record.loss, chance=np.log(2))
    ax.set_ylabel("cross-entropy loss (nats)")
    ax.set_yscale("log", nonpositive="mask")


def draw_curves(ax, records, values_of, chance):
    """The values (E,) of each record over epochs, a band at each flossing block, and what chance gives."""
    for i, (label, record) in enumerate(records.items()):
        values, colour = values_of(record), CONDITIONS.get(label, COLOURS[i % len(COLOURS)])
        epochs = np.arange(1, len(values) + 1)
        ax.plot(epochs, values, color=colour, linewidth=1.2, linestyle=DASHES[i % 4], label=label)
    band = "flossing block"
    for record in records.values():
        half = max(1, record.parameters["E"] / 120) / 2  # epochs: wide enough to be seen
        for epoch, _ in record.flossing_blocks():
            ax.axvspan(epoch - half, epoch + half, color=GREY, alpha=0.3, linewidth=0, label=band)
            band = "_"  # one entry in the legend
    ax.axhline(chance, color=GREY, linestyle="--", linewidth=1, label="chance")
    ax.set_xlabel("epoch")


def draw_spectrum(ax, record):
    """What flossing saw at its first step and at the last step of the first and last blocks; without it, of the weights."""
    if blocks := record.flossing_blocks():
        spectra, after = {"before flossing": record.lyapunov_spectrum[0]}, np.cumsum([steps for _, steps in blocks])
        spectra |= {f"after the block at epoch {blocks[i][0]}": record.lyapunov_spectrum[after[i] - 1] for i in (0, -1)}
    else:
        weights = {"initial weights": record.initial, "final weights": record.final}
        spectra = {name: long_term_diagnostics(record.parameters, ps)["lyapunov_spectrum"] for name, ps in weights.items()}
    for i, (label, spectrum) in enumerate(spectra.items()):
        ax.plot(np.arange(1, len(spectrum) + 1), spectrum, color=(BLACK, *COLOURS)[i], linestyle=DASHES[i + 1], label=label)
    ax.axhline(record.parameters["Lwnt"], color=GREY, linewidth=1, zorder=0, label="target")
    ax.set(xlabel="index i of the exponent", ylabel="exponent λᵢ (1/step)")


def draw_flossing_loss(ax, record):
    ax.set(xlabel="flossing step (dotted: a new block)", ylabel="flossing loss (1/step²)")
    if not len(record.flossing_loss):
        ax.text(0.5, 0.5, "no flossing", transform=ax.transAxes, ha="center", color=GREY)
        ax.set(xticks=[], yticks=[])
        return
    ax.plot(np.arange(1, len(record.flossing_loss) + 1), record.flossing_loss, color=COLOURS[0])
    for end in np.cumsum([steps for _, steps in record.flossing_blocks()])[:-1]:
        ax.axvline(end + 0.5, color=GREY, linestyle=":", linewidth=1)
    ax.set_yscale("log", nonpositive="mask")


def draw_gradient_norms(ax, record):
    for i, name in enumerate(TRAINED):
        norms = record.gradient_norm[name]
        ax.plot(np.arange(1, len(norms) + 1), norms, color=COLOURS[i], linewidth=1, linestyle=DASHES[i % 4], label=name)
    ax.axhline(CLIP, color=GREY, linestyle="--", linewidth=1, label="clipped above")
    ax.set(xlabel="epoch", ylabel="gradient norm")
    ax.set_yscale("log", nonpositive="mask")


def draw_eigenvalues(ax, record):
    before, after = (np.linalg.eigvals(ps["J"].astype(float)) for ps in (record.initial, record.final))
    circle = record.parameters["g"] * np.exp(2j * np.pi * np.linspace(0, 1, 200))
    ax.plot(circle.real, circle.imag, color=GREY, linewidth=1, label="radius g")
    ax.plot(before.real, before.imag, "o", color=COLOURS[5], markersize=5, fillstyle="none", label="before")
    ax.plot(after.real, after.imag, ".", color=COLOURS[1], markersize=5, label="after")
    ax.set(xlabel="real part of eigenvalue of J", ylabel="imaginary part")
    ax.set_aspect("equal")


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
