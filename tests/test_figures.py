"""Figures: they show the numbers of the records, have labels with units, and no text runs into another."""

import itertools
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from extras import figures
from extras.lyapunov import long_term_diagnostics
from extras.record import TRAINED
from gradient_flossing_example import README_CALL, train_rnn_flossing
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
        assert not ax.spines["top"].get_visible() and not ax.spines["right"].get_visible()
        if ax.get_visible():
            assert ax.get_ylabel() or ax.get_subplotspec().colspan.start > 0


def test_comparison_of_one_record_and_of_several(records):
    check_readable(figures.training_figure(records))
    check_readable(figures.training_figure({"a name that is nobody's": records["no flossing"]}))


def test_overview(records):
    for record in records.values():
        check_readable(figures.overview_figure(record))


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Function of the names of records: what the command prints, at work in the folder in which they lie."""

    def draw(*names):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["figures", *names, "--out", "figures/new.png"])
        figures.main()
        return capsys.readouterr().out

    return draw


def test_the_command_draws_one_record_or_compares_several(records, command, tmp_path):
    for name in ("no flossing", "preflossing"):
        records[name].save(tmp_path / f"{name}.npz")
    for names, height in ((["no flossing.npz"], 920), (["no flossing.npz", "preflossing.npz"], 560)):
        assert command(*names) == "wrote figures/new.png\n"
        assert imread("figures/new.png").shape == (height, 800, 4)


@pytest.mark.parametrize("name, what", [("notes.npz", "damaged, or not written by this program"), ("none.npz", "No such file")])
def test_the_command_refuses_what_is_no_record(command, tmp_path, capsys, name, what):
    (tmp_path / "notes.npz").write_text("notes")
    with pytest.raises(SystemExit, match="2"):
        command(name)
    assert what in capsys.readouterr().err


def test_records_of_the_same_file_name_are_labelled_by_their_paths(records, command, tmp_path, monkeypatch):
    for name in ("a/record", "b/record", "a_record"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        records["preflossing"].save(tmp_path / f"{name}.npz")
    labels = []
    monkeypatch.setattr(figures, "training_figure", lambda records: labels.append(list(records)) or Figure())
    command("a/record.npz", "b/record.npz")
    command("a_record.npz", "a/record.npz")
    assert labels == [["a/record.npz", "b/record.npz"], ["a record", "record"]]


def test_the_title_says_of_which_network_and_how_it_ended(records):
    title = figures.overview_figure(records["preflossing"]).get_suptitle()
    assert title.startswith("16 neurons, task -1, delay 5, 40 of 40 epochs\n") and "final accuracy" in title


def line(ax, label):
    (found,) = [li for li in ax.lines if li.get_label() == label]
    return found.get_xdata(), found.get_ydata()


def test_the_curves_of_training_are_the_records_numbers(records):
    figure = figures.training_figure(records)
    bands = [1, 1, 10, 20, 30]  # epochs of the blocks of all records
    scaled = {"accuracy": lambda record: 100 * record.accuracy, "loss": lambda record: record.loss}
    for ax, of, chance in zip(figure.axes, scaled.values(), (50, np.log(2))):
        lines = list(ax.lines)
        for name, record in records.items():
            curve = lines.pop(0)
            np.testing.assert_array_equal(curve.get_data(), [np.arange(1, 41), of(record)])
            assert curve.get_color() == figures.CONDITIONS[name]
        assert len(lines) == 1 and set(line(ax, "chance")[1]) == {chance}
        assert [(p.get_x() + p.get_width() / 2, p.get_width()) for p in ax.patches] == [(epoch, 1) for epoch in bands]
        assert figure.axes[1].get_xlabel() == "epoch" and not figure.axes[0].get_xlabel()
    entries = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(entries) == sorted([*records, "flossing block", "chance"])


def test_a_band_of_a_long_run_is_wide_enough_to_be_seen(records):
    axes = Figure().subplots(2)
    figures.draw_training(*axes, {"": replace(records["preflossing"], parameters=README_CALL._replace(E=1200)._asdict())})
    assert [(p.get_x(), p.get_width()) for ax in axes for p in ax.patches] == [(-4, 10)] * 2


def test_all_accuracies_are_within_the_axis(records):
    for accuracy, lowest in ((np.full(40, 0.6), 40), (np.linspace(0.1, 0.6, 40), 10)):
        ax, loss = Figure().subplots(2)
        figures.draw_training(ax, loss, {"": replace(records["preflossing"], accuracy=accuracy)})
        assert lowest - 5 < ax.get_ylim()[0] <= lowest and ax.get_ylim()[1] == 102


def test_the_other_panels_are_the_records_numbers(records):
    record = records["flossing during training"]
    accuracy, loss, spectrum, flossing, norms, eigenvalues = figures.overview_figure(record).axes
    np.testing.assert_array_equal(line(accuracy, "this run"), [np.arange(1, 41), 100 * record.accuracy])
    np.testing.assert_array_equal(line(loss, "this run"), [np.arange(1, 41), record.loss])
    shown = {"before flossing": 0, "after the block at epoch 1": 19, "after the block at epoch 30": 34}
    for label, step in shown.items():
        np.testing.assert_array_equal(line(spectrum, label), [np.arange(1, 11), record.lyapunov_spectrum[step]])
    assert set(line(spectrum, "target")[1]) == {0.0} and len(spectrum.lines) == 4
    np.testing.assert_array_equal(flossing.lines[0].get_data(), [np.arange(1, 36), record.flossing_loss])
    assert [li.get_xdata()[0] for li in flossing.lines[1:]] == [20.5, 25.5, 30.5]
    for name in TRAINED:
        np.testing.assert_array_equal(line(norms, name), [np.arange(1, 41), record.gradient_norm[name]])
    assert [li.get_linestyle() for li in norms.lines[:6]] == ["-", "--", "-.", ":", "-", "--"]  # told apart in grey
    clipped = re.search(r"ClipNorm\(np.float32\((.+?)\)", (ROOT / "gradient_flossing_example.py").read_text())[1]
    assert set(line(norms, "clipped above")[1]) == {float(clipped)}
    for label, weights in (("before", record.initial), ("after", record.final)):
        x, y = line(eigenvalues, label)
        np.testing.assert_allclose(np.poly(x + 1j * y).real, np.poly(weights["J"].astype(float)), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(np.hypot(*line(eigenvalues, "radius g")), record.parameters["g"])
    assert np.ptp(line(eigenvalues, "radius g")[0]) > 1.99 * record.parameters["g"] and eigenvalues.get_aspect() == 1
    for ax in (loss, flossing, norms):
        assert ax.get_yscale() == "log"
    assert [ax.get_legend() is None for ax in (accuracy, loss, spectrum, flossing, norms, eigenvalues)].index(True) == 3


def test_without_flossing_the_spectra_are_those_of_the_weights(records):
    record = records["no flossing"]
    _, _, spectrum, flossing, _, _ = figures.overview_figure(record).axes
    for label, weights in (("initial weights", record.initial), ("final weights", record.final)):
        expected = long_term_diagnostics(record.parameters, weights)["lyapunov_spectrum"]
        np.testing.assert_array_equal(line(spectrum, label)[1], expected)
    assert not flossing.lines and flossing.get_xlabel() == "no flossing" and not len(flossing.get_yticks())


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
