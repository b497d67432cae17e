"""Figures of training records, matplotlib; and a command that compares named records:

    python -m extras.figures out/no_flossing.npz out/preflossing.npz --out out/comparison.png

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; line styles tell them apart in
grey. Figures are made without pyplot: no backend is chosen and no window opens.
"""

import argparse
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from gradient_flossing_example import README_CALL
from extras.lyapunov import long_term_diagnostics
from extras.record import TRAINED, load_record

BLACK = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
CONDITIONS = {"no flossing": BLACK, "preflossing": "#E69F00", "flossing during training": "#0072B2"}  # label -> colour
DASHES = ("-", "--", "-.", ":")
GREY = "0.55"
WIDTH = 8.0  # inches: 800 px at the 100 dots per inch of a screen
SMOOTHING = 10  # epochs of the running mean, even
CLIP = 0.03  # ClipNorm of the training steps, ex.jl:164
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.5,
}


def training_figure(records):
    """Accuracy and loss over epochs of several runs; thin lines every epoch, thick ones the mean of ten.

    records: dict label -> TrainingRecord. Returns the Figure.
    """
    with new_figure(5.6) as figure:
        accuracy, loss = figure.subplots(2, 1, sharex=True)
        draw_accuracy(accuracy, records)
        draw_loss(loss, records)
        accuracy.set_xlabel("")
        handles, labels = accuracy.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def overview_figure(record):
    """One run in six panels: accuracy, loss, Lyapunov spectrum, flossing loss, gradient norms, eigenvalues of J."""
    heading = title(record)
    top = 0.89 - 0.02 * heading.count("\n")
    with new_figure(9.2, layout=None) as figure:  # placed by hand: an automatic layout takes as long as the drawing
        figure.subplots_adjust(left=0.1, right=0.98, bottom=0.06, top=top, hspace=0.55, wspace=0.26)
        axes = figure.subplots(3, 2).ravel()
        draw_accuracy(axes[0], {"accuracy": record})
        draw_loss(axes[1], {"loss": record})
        draw_spectrum(axes[2], record)
        draw_flossing_loss(axes[3], record)
        draw_gradient_norms(axes[4], record)
        draw_eigenvalues(axes[5], record)
        for ax in (*axes[:3], *axes[4:]):
            ax.legend(fontsize=8, ncols=2 if ax in axes[:3] else 4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        figure.suptitle(heading, fontsize=11, y=0.985)
    return figure


def title(record):
    """What differs from the README call, and how the run ended."""
    changed = [f"{name} = {value:g}" for name, value in record.parameters.items() if value != getattr(README_CALL, name)]
    lines = [", ".join(changed[i : i + 9]) for i in range(0, len(changed), 9)]
    called = "README call" + (" with " + ",\n".join(lines) if changed else "")
    return f"{called}: {100 * record.accuracy[-1]:.1f} % at the end" if len(record.accuracy) else called


# ------------------------------------------------------------------ what is drawn into one pair of axes


def draw_accuracy(ax, records):
    for i, (label, record) in enumerate(records.items()):
        draw_smoothed(ax, 100 * record.accuracy, record, label, i)
    shade_blocks(ax, records)
    lowest = min((100 * record.accuracy.min() for record in records.values() if len(record.accuracy)), default=50)
    ax.axhline(50, color=GREY, linestyle="--", linewidth=1, label="chance")
    ax.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(min(40, lowest - 2), 102))


def draw_loss(ax, records):
    for i, (label, record) in enumerate(records.items()):
        draw_smoothed(ax, record.loss, record, label, i)
    shade_blocks(ax, records)
    ax.axhline(np.log(2), color=GREY, linestyle="--", linewidth=1, label="chance")
    ax.set(xlabel="epoch", ylabel="cross-entropy loss (nats)")
    plain_log_axis(ax)


def draw_smoothed(ax, values, record, label, i):
    """Thin line: every epoch; thick line: running mean, which does not reach across a flossing block."""
    epochs = np.arange(1, len(values) + 1)
    colour = CONDITIONS.get(label, COLOURS[i % len(COLOURS)])
    ax.plot(epochs, values, color=colour, linewidth=0.6, alpha=0.45)
    starts = [0] + [epoch - 1 for epoch, _ in record.flossing_blocks() if 1 < epoch <= len(values)]
    for start, end in zip(starts, starts[1:] + [len(values)]):
        mean = running_mean(values[start:end])
        ax.plot(epochs[start:end], mean, color=colour, linestyle=DASHES[i % 4], label=label)
        label = "_"  # one entry in the legend


def running_mean(values):
    """Mean over SMOOTHING values around each one, fewer at the ends."""
    centre = np.arange(len(values))
    first = np.maximum(centre - SMOOTHING // 2, 0)
    last = np.minimum(centre + SMOOTHING // 2, len(values))
    sums = np.concatenate([[0], np.cumsum(values)])
    return (sums[last] - sums[first]) / (last - first)


def shade_blocks(ax, records):
    """A vertical band at each flossing block, wide enough to be seen."""
    label = "flossing block"
    for record in records.values():
        width = max(1, record.parameters["E"] / 120)
        for epoch, _ in record.flossing_blocks():
            ax.axvspan(epoch - width / 2, epoch + width / 2, color=GREY, alpha=0.3, linewidth=0, label=label)
            label = "_"


def draw_spectrum(ax, record):
    for i, (label, spectrum) in enumerate(spectra_of(record).items()):
        colour = BLACK if i == 0 else COLOURS[i - 1]
        ax.plot(np.arange(1, len(spectrum) + 1), spectrum, color=colour, linestyle=DASHES[(i + 1) % 4], label=label)
    ax.axhline(record.parameters["Lwnt"], color=GREY, linewidth=1, zorder=0, label="target")
    ax.set(xlabel="index i of the exponent", ylabel="Lyapunov exponent λᵢ (1/step)")


def spectra_of(record):
    """Dict of spectra (k,): what flossing saw at its first step and at the last step of the first and last blocks.

    Of a run without flossing those of its initial and final weights.
    """
    blocks = record.flossing_blocks()
    if not blocks:
        p = record.parameters
        first, last = (long_term_diagnostics(p, ps)["lyapunov_spectrum"] for ps in (record.initial, record.final))
        return {"initial weights": first, "final weights": last}
    spectra = {"before flossing": record.lyapunov_spectrum[0]}
    ends = np.cumsum([steps for _, steps in blocks])
    for (epoch, _), end in {0: (blocks[0], ends[0]), len(blocks): (blocks[-1], ends[-1])}.values():
        spectra[f"after the block at epoch {epoch}"] = record.lyapunov_spectrum[end - 1]
    return spectra


def draw_flossing_loss(ax, record):
    if not len(record.flossing_loss):
        ax.text(0.5, 0.5, "no flossing", transform=ax.transAxes, ha="center", color=GREY)
        ax.set(xticks=[], yticks=[], xlabel="flossing step", ylabel="flossing loss (1/step²)")
        return
    ax.plot(np.arange(1, len(record.flossing_loss) + 1), record.flossing_loss, color=COLOURS[0])
    for end in np.cumsum([steps for _, steps in record.flossing_blocks()])[:-1]:
        ax.axvline(end + 0.5, color=GREY, linestyle=":", linewidth=1)
    ax.set(xlabel="flossing step (dotted: a new block)", ylabel="flossing loss (1/step²)")
    plain_log_axis(ax)


def draw_gradient_norms(ax, record):
    epochs = np.arange(1, len(record.loss) + 1)
    for i, name in enumerate(TRAINED):
        values = np.where(record.gradient_norm[name] > 0, record.gradient_norm[name], np.nan)  # no log of 0
        ax.plot(epochs, values, color=COLOURS[i], linewidth=1, linestyle=DASHES[i % 4], label=name)
    ax.axhline(CLIP, color=GREY, linestyle="--", linewidth=1, label="clipped above")
    ax.set(xlabel="epoch", ylabel="gradient norm")
    plain_log_axis(ax)


def draw_eigenvalues(ax, record):
    before, after = (np.linalg.eigvals(ps["J"].astype(float)) for ps in (record.initial, record.final))
    angle = np.linspace(0, 2 * np.pi, 200)
    g = record.parameters["g"]
    ax.plot(g * np.cos(angle), g * np.sin(angle), color=GREY, linewidth=1, label="radius g")
    ax.plot(before.real, before.imag, "o", color=COLOURS[5], markersize=5, fillstyle="none", label="before")
    ax.plot(after.real, after.imag, ".", color=COLOURS[1], markersize=5, label="after")
    ax.set(xlabel="real part of eigenvalue of J", ylabel="imaginary part")
    ax.set_aspect("equal")


# ------------------------------------------------------------------ small things


class PlainLogFormatter(LogFormatter):
    """Labels like 0.5 on a log axis, between the powers of ten only where these are few."""

    def __call__(self, x, pos=None):
        return f"{x:g}" if super().__call__(x, pos) else ""


def plain_log_axis(ax):
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(PlainLogFormatter())
    ax.yaxis.set_minor_formatter(PlainLogFormatter(minor_thresholds=(1.5, 0.5)))


@contextmanager
def new_figure(height, layout="constrained"):
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(WIDTH, height), dpi=100, layout=layout)


def main():
    parser = argparse.ArgumentParser(prog="python -m extras.figures", description="Compare records by accuracy and loss.")
    parser.add_argument("records", nargs="+", type=Path, help="files of records; their names label the lines")
    parser.add_argument("--out", type=Path, default=Path("out/comparison.png"), help="default out/comparison.png")
    args = parser.parse_args()
    try:
        records = {path.stem.replace("_", " "): load_record(path) for path in args.records}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    training_figure(records).savefig(args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
