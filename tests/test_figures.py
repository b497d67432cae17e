"""Figures: they show the numbers of the records, have labels with units, and no text runs into another."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from extras import figures
from gradient_flossing_example import train_rnn_flossing
from tests.test_gradient_flossing_example import short_call

ALL = [
    figures.training_figure, figures.spectrum_figure, figures.flossing_loss_figure, figures.gradient_norm_figure,
    figures.eigenvalue_figure,
]  # fmt: skip


@pytest.fixture(scope="module")
def records():
    calls = dict(no_flossing=dict(Ep=0, Ni=0), preflossing=dict(Ni=0), during_training={})
    big = dict(E=40, Ef=10, Ei=5, Ep=20, Ni=3)
    return {name: train_rnn_flossing(**short_call(**big | change), progress=False) for name, change in calls.items()}


def visible_texts(figure):
    """(text, bounding box) of everything written; of the labels of ticks only those within the axes' limits."""
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    ticks, shown = set(), set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                labels = {tick.label1, tick.label2}
                ticks |= labels
                shown |= labels if low <= tick.get_loc() <= high else set()
    for text in figure.findobj(Text):
        hidden = not text.get_visible() or (text.axes is not None and not text.axes.get_visible())
        if text.get_text().strip() and not hidden and (text not in ticks or text in shown):
            yield text.get_text(), text.get_window_extent(renderer)


def check_readable(figure):
    assert isinstance(figure, Figure)
    texts = list(visible_texts(figure))
    width, height = figure.get_size_inches() * figure.dpi
    assert width == 800
    for text, box in texts:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, f"{text!r} is cut off"
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        overlap = min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
        assert not overlap, f"{one!r} runs into {other!r}"
    for ax in figure.axes:
        if ax.get_visible():
            assert ax.get_ylabel() or ax.get_subplotspec().colspan.start > 0


@pytest.mark.parametrize("make", ALL, ids=lambda f: f.__name__)
def test_one_record_and_several(make, records):
    for record in records.values():
        check_readable(make(record))
    check_readable(make(records))
    check_readable(make(list(records.values())[:2]))


def test_overview(records):
    for record in records.values():
        check_readable(figures.overview_figure(record))


def line(ax, label):
    (found,) = [li for li in ax.lines if li.get_label() == label]
    return found.get_xdata(), found.get_ydata()


def test_the_curves_are_the_records_numbers(records):
    record = records["during_training"]
    accuracy, loss = figures.training_figure(record).axes
    np.testing.assert_array_equal(accuracy.lines[0].get_ydata(), 100 * record.accuracy)
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), record.loss)
    shaded = [p.get_x() + p.get_width() / 2 for p in accuracy.patches]
    np.testing.assert_allclose(shaded, [1, 10, 20, 30])
    (ax,) = figures.flossing_loss_figure(record).axes
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), record.flossing_loss)
    (ax,) = figures.spectrum_figure(record).axes
    np.testing.assert_array_equal(line(ax, "before flossing")[1], record.lyapunov_spectrum[0])
    np.testing.assert_array_equal(line(ax, "after 5 steps at epoch 30")[1], record.lyapunov_spectrum[-1])
    (ax,) = figures.eigenvalue_figure(record).axes
    x, y = line(ax, "after")
    np.testing.assert_allclose(np.prod(x + 1j * y).real, np.linalg.det(record.final["J"].astype(float)), rtol=1e-6)
    (ax,) = figures.gradient_norm_figure(record).axes
    np.testing.assert_array_equal(line(ax, "J")[1], record.gradient_norm["J"])


def test_labels_have_units(records):
    labels = {ax.get_ylabel() for make in ALL for ax in make(records["during_training"]).axes}
    assert {"accuracy (%)", "cross-entropy loss (nats)", "flossing loss (1/step$^2$)"} <= labels
    assert any("(1/step)" in label for label in labels)


def test_a_record_without_epochs_can_be_drawn():
    record = train_rnn_flossing(**short_call(E=0), progress=False)
    for make in [*ALL, figures.overview_figure]:
        assert isinstance(make(record), Figure)


def test_figures_choose_no_backend_and_leave_the_style_alone(records):
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.overview_figure(records["preflossing"])
    assert dict(matplotlib.rcParams) == before
