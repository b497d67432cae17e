"""Figures of training records, matplotlib; every function takes one TrainingRecord or several and returns the Figure.

Several records are given as a dict, label -> record, or as a sequence. Colours are those of Okabe and Ito (2008),
which colour-blind readers can tell apart. Figures are made without pyplot: no backend is chosen and no window opens.
"""

from contextlib import contextmanager

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from extras.diagnostics import long_term_diagnostics
from extras.record import TRAINED, TrainingRecord

BLACK = "#000000"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
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
    """Accuracy and loss over epochs, thin lines each epoch and thick ones the mean of ten; flossing blocks shaded."""
    records = labelled(records)
    with new_figure(5.6) as figure:
        accuracy, loss = figure.subplots(2, 1, sharex=True)
        draw_accuracy(accuracy, records)
        draw_loss(loss, records)
        accuracy.set_xlabel("")
        legend_above(figure, accuracy, loss)
    return figure


def spectrum_figure(records):
    """Lyapunov spectrum before and after flossing; of a run without flossing that of its initial and final weights."""
    records = labelled(records)
    with new_figure(4.4) as figure:
        ax = figure.subplots()
        draw_spectrum(ax, records)
        figure.legend(*legend_entries(ax), loc="outside upper center", ncols=2)
    return figure


def flossing_loss_figure(records):
    """Flossing loss over flossing steps; dotted lines where a new block begins."""
    records = labelled(records)
    with new_figure(4.0) as figure:
        ax = figure.subplots()
        draw_flossing_loss(ax, records)
        if len(records) > 1:
            legend_above(figure, ax)
    return figure


def gradient_norm_figure(records):
    """Norms of the gradients of all trained arrays over epochs, one panel for each record."""
    records = labelled(records)
    with new_figure(1.0 + 3.0 * rows_of(records)) as figure:
        axes = panels(figure, records)
        for ax, (label, record) in zip(axes, records.items()):
            draw_gradient_norms(ax, record)
            ax.set_title(label)
        legend_above(figure, axes[0])
    return figure


def eigenvalue_figure(records):
    """Eigenvalues of the recurrent weights J before and after the run, one panel for each record."""
    records = labelled(records)
    with new_figure(1.0 + (5.0 if len(records) == 1 else 4.0 * rows_of(records))) as figure:
        axes = panels(figure, records)
        for ax, (label, record) in zip(axes, records.items()):
            draw_eigenvalues(ax, record)
            ax.set_title(label)
        legend_above(figure, axes[0])
    return figure


def overview_figure(record):
    """All of the above for one record in six panels."""
    records = {"": record}
    with new_figure(9.0) as figure:
        axes = figure.subplots(3, 2).ravel()
        draw_accuracy(axes[0], records)
        draw_loss(axes[1], records)
        draw_spectrum(axes[2], records)
        draw_flossing_loss(axes[3], records)
        draw_gradient_norms(axes[4], record)
        draw_eigenvalues(axes[5], record)
        p = record.parameters
        title = f"N = {p['N']}, task {p['task']}, delay {p['delay']} steps: final accuracy {final_percent(record)}"
        figure.suptitle(title, fontsize=11)
        axes[2].legend(fontsize=8)
        axes[4].legend(fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        axes[5].legend(fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


# ------------------------------------------------------------------ what is drawn into one pair of axes


def draw_accuracy(ax, records):
    for i, (label, record) in enumerate(records.items()):
        draw_smoothed(ax, 100 * record.accuracy, record, label, i)
    shade_blocks(ax, records)
    ax.axhline(50, color=GREY, linestyle="--", linewidth=1, label="chance")
    ax.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(min(40, 100 * lowest(records) - 2), 102))


def draw_loss(ax, records):
    for i, (label, record) in enumerate(records.items()):
        draw_smoothed(ax, record.loss, record, label, i)
    shade_blocks(ax, records)
    ax.axhline(np.log(2), color=GREY, linestyle="--", linewidth=1)
    ax.set(xlabel="epoch", ylabel="cross-entropy loss (nats)")
    plain_log_axis(ax)


def draw_smoothed(ax, values, record, label, i):
    """Thin line: every epoch; thick line: running mean, which does not reach across a flossing block."""
    epochs = np.arange(1, len(values) + 1)
    ax.plot(epochs, values, color=colour(i), linewidth=0.6, alpha=0.45)
    starts = [0] + [epoch - 1 for epoch, _ in record.flossing_blocks() if 1 < epoch <= len(values)]
    for start, end in zip(starts, starts[1:] + [len(values)]):
        mean = running_mean(values[start:end])
        ax.plot(epochs[start:end], mean, color=colour(i), linestyle=dashes(i), label=label)
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
    band = "flossing block"
    for i, record in enumerate(records.values()):
        width = max(1, record.parameters["E"] / 120)
        for epoch, _ in record.flossing_blocks():
            shade = GREY if len(records) == 1 else colour(i)
            ax.axvspan(epoch - width / 2, epoch + width / 2, color=shade, alpha=0.3, linewidth=0, label=band)
            band = "_"


def draw_spectrum(ax, records):
    for i, (label, record) in enumerate(records.items()):
        spectra = spectra_of(record)
        for j, (name, spectrum) in enumerate(spectra.items()):
            index = np.arange(1, len(spectrum) + 1)
            if len(records) > 1:
                style = dict(color=colour(i), linestyle="-" if j == len(spectra) - 1 else ":")
            else:
                style = dict(color=BLACK if j == 0 else colour(j - 1), linestyle="--" if j == 0 else "-")
            if len(records) == 1 or j in (0, len(spectra) - 1):
                ax.plot(index, spectrum, label=f"{label}: {name}" if label else name, **style)
    target = next(iter(records.values())).parameters["Lwnt"]
    ax.axhline(target, color=GREY, linewidth=1, zorder=0)
    ax.set(xlabel="index $i$ of the exponent", ylabel=r"Lyapunov exponent $\lambda_i$ (1/step)")


def spectra_of(record):
    """Dict of spectra (k,): what flossing saw at its first step, and at the last step of some blocks."""
    blocks = record.flossing_blocks()
    if not blocks:
        p = record.parameters
        first, last = (long_term_diagnostics(p, ps)["lyapunov_spectrum"] for ps in (record.initial, record.final))
        return {"initial weights": first, "final weights": last}
    spectra = {"before flossing": record.lyapunov_spectrum[0]}
    ends = np.cumsum([steps for _, steps in blocks])
    for (epoch, steps), end in list(zip(blocks, ends))[:1] + list(zip(blocks, ends))[1:][-2:]:
        spectra[f"after {steps} steps at epoch {epoch}"] = record.lyapunov_spectrum[end - 1]
    return spectra


def draw_flossing_loss(ax, records):
    shown = False
    for i, (label, record) in enumerate(records.items()):
        steps = np.arange(1, len(record.flossing_loss) + 1)
        if len(steps):
            ax.plot(steps, record.flossing_loss, color=colour(i), linestyle=dashes(i), label=label)
            shown = True
        ends = np.cumsum([n for _, n in record.flossing_blocks()])[:-1]
        for end in ends:
            ax.axvline(end + 0.5, color=colour(i) if len(records) > 1 else GREY, linestyle=":", linewidth=1)
    ax.set(xlabel="flossing step", ylabel="flossing loss (1/step$^2$)")
    if shown:
        plain_log_axis(ax)
    else:
        ax.text(0.5, 0.5, "no flossing", transform=ax.transAxes, ha="center", color=GREY)
        ax.set(xticks=[], yticks=[])


def draw_gradient_norms(ax, record):
    epochs = np.arange(1, len(record.loss) + 1)
    for i, name in enumerate(TRAINED):
        ax.plot(epochs, positive(record.gradient_norm[name]), color=colour(i), linewidth=1, label=name)
    ax.axhline(CLIP, color=GREY, linestyle="--", linewidth=1, label="clipped above")
    ax.set(xlabel="epoch", ylabel="gradient norm", yscale="log")


def draw_eigenvalues(ax, record):
    before, after = (np.linalg.eigvals(ps["J"].astype(float)) for ps in (record.initial, record.final))
    angle = np.linspace(0, 2 * np.pi, 200)
    g = record.parameters["g"]
    ax.plot(g * np.cos(angle), g * np.sin(angle), color=GREY, linewidth=1, label="radius $g$")
    ax.plot(before.real, before.imag, "o", color=COLOURS[5], markersize=5, fillstyle="none", label="before")
    ax.plot(after.real, after.imag, ".", color=COLOURS[1], markersize=5, label="after")
    ax.set(xlabel="real part of eigenvalue of $J$", ylabel="imaginary part")
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
def new_figure(height):
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(WIDTH, height), dpi=100, layout="constrained")


def labelled(records):
    """Dict label -> record of what the functions accept."""
    if isinstance(records, TrainingRecord):
        return {"": records}
    if isinstance(records, dict):
        return {label.replace("_", " "): record for label, record in records.items()}
    return {f"run {i}": record for i, record in enumerate(records, 1)}


def rows_of(records):
    return -(-len(records) // 2)


def panels(figure, records):
    """One pair of axes for each record, in two columns."""
    columns = min(2, len(records))
    axes = figure.subplots(rows_of(records), columns, squeeze=False, sharey=True).ravel()
    for ax in axes[len(records) :]:
        ax.set_visible(False)
    return axes


def legend_entries(*axes):
    """Handles and labels of all axes, every label once."""
    entries = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels()):
            entries.setdefault(label, handle)
    return list(entries.values()), list(entries)


def legend_above(figure, *axes):
    handles, labels = legend_entries(*axes)
    if labels:
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4))


def colour(i):
    return COLOURS[i % len(COLOURS)]


def dashes(i):
    return ("-", "--", "-.", ":")[i % 4]


def lowest(records):
    values = [record.accuracy.min() for record in records.values() if len(record.accuracy)]
    return min(values, default=0.5)


def positive(values):
    """Zeros as NaN: a log axis leaves them out."""
    return np.where(values > 0, values, np.nan)


def final_percent(record):
    return f"{100 * record.accuracy[-1]:.1f} %" if len(record.accuracy) else "none"
