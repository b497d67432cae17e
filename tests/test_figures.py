"""Figures: they show the numbers of the records, have labels with units, and no text runs into another."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from extras import figures
from gradient_flossing_example import train_rnn_flossing
from tests.conftest import ROOT, short_call

@pytest.fixture(scope="module")
def records():
    calls = {"no flossing": dict(Ep=0, Ni=0), "preflossing": dict(Ni=0), "flossing during training": {}}
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


def test_comparison_of_one_record_and_of_several(records):
    check_readable(figures.training_figure(records))
    check_readable(figures.training_figure({"a name that is nobody's": records["no flossing"]}))


def test_overview(records):
    for record in records.values():
        check_readable(figures.overview_figure(record))


def test_the_command_compares_named_records(records, tmp_path):
    for name in ("no flossing", "preflossing"):
        records[name].save(tmp_path / f"{name.replace(' ', '_')}.npz")
    command = [sys.executable, "-m", "extras.figures", *map(str, sorted(tmp_path.glob("*.npz"))), "--out", str(tmp_path / "c.png")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"wrote {tmp_path / 'c.png'}\n" and (tmp_path / "c.png").stat().st_size > 10_000
    done = subprocess.run([*command[:3], str(tmp_path / "c.png")], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "damaged, or not written by this program" in done.stderr


def test_the_title_says_what_differs_from_the_readme_call(records):
    title = figures.title(records["preflossing"])
    assert title.startswith("README call with N = 16, E = 40") and "Ni = 0" in title and "B = 4" in title and "sIC" not in title


def line(ax, label):
    (found,) = [li for li in ax.lines if li.get_label() == label]
    return found.get_xdata(), found.get_ydata()


def test_the_curves_are_the_records_numbers(records):
    record = records["flossing during training"]
    accuracy, loss, spectrum, flossing, norms, eigenvalues = figures.overview_figure(record).axes
    np.testing.assert_array_equal(accuracy.lines[0].get_ydata(), 100 * record.accuracy)
    np.testing.assert_array_equal(loss.lines[0].get_ydata(), record.loss)
    shaded = [p.get_x() + p.get_width() / 2 for p in accuracy.patches]
    np.testing.assert_allclose(shaded, [1, 10, 20, 30])
    np.testing.assert_array_equal(flossing.lines[0].get_ydata(), record.flossing_loss)
    np.testing.assert_array_equal(line(spectrum, "before flossing")[1], record.lyapunov_spectrum[0])
    np.testing.assert_array_equal(line(spectrum, "after the block at epoch 1")[1], record.lyapunov_spectrum[19])
    np.testing.assert_array_equal(line(spectrum, "after the block at epoch 30")[1], record.lyapunov_spectrum[-1])
    x, y = line(eigenvalues, "after")
    np.testing.assert_allclose(np.prod(x + 1j * y).real, np.linalg.det(record.final["J"].astype(float)), rtol=1e-6)
    np.testing.assert_array_equal(line(norms, "J")[1], record.gradient_norm["J"])


def test_labels_have_units(records):
    labels = {ax.get_ylabel() for ax in figures.overview_figure(records["preflossing"]).axes}
    assert {"accuracy (%)", "cross-entropy loss (nats)", "flossing loss (1/step²)"} <= labels
    assert any("(1/step)" in label for label in labels)


def test_a_record_without_epochs_can_be_drawn():
    record = train_rnn_flossing(**short_call(E=0), progress=False)
    assert isinstance(figures.training_figure({"none": record}), Figure)
    assert isinstance(figures.overview_figure(record), Figure)


def test_figures_choose_no_backend_and_leave_the_style_alone(records):
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.overview_figure(records["preflossing"])
    assert dict(matplotlib.rcParams) == before
