"""What a run prints on a terminal, in a log file, and when it should be silent."""

import io
import os
import re
import subprocess
import sys

import pytest

from extras.check_parameters import flossing_steps
from extras import progress
from extras.progress import Progress, StatusLine
from gradient_flossing_example import train_rnn_flossing
from tests.conftest import ROOT, short_call

CALL = short_call(E=200, Ef=50, Ei=5, Ep=130, Ni=2, N=8, T=12, Tp=13, Ti=13, nLE=4)
PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import extras.progress
from gradient_flossing_example import train_rnn_flossing
extras.progress.REDRAW = 0.002
train_rnn_flossing(**{CALL})"""
SECONDS = re.compile(r"^ *\d+\.\d+ seconds$")
STATUS = re.compile(
    r"^epoch \d+/200  (loss \d\.\d{4}  accuracy +\d+\.\d %|flossing \d+/\d+  loss [\d.e-]+)"
    r"  \d+ steps/s  \d+:\d\d left *$"
)
ORIGINALS = [
    "T:12", "generating weights", "preflossing now", "S", "interflossing now at 50", "S", "interflossing now at 100", "S", "S",
]  # fmt: skip


def originals_lines(lines):
    return ["S" if SECONDS.match(line) else line for line in lines if not line.startswith("epoch ")]


def on_a_terminal(columns):
    """Everything that the run writes to a terminal of so many columns."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    output = b""
    try:
        while chunk := os.read(ours, 65536):
            output += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0, output
    return output.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [80, 20])
def test_on_a_terminal_one_line_is_rewritten_in_place(columns):
    output = on_a_terminal(columns)
    drawn = [text for line in output.split("\n") for text in line.split("\r")]
    status = [text for text in drawn if text.startswith("epoch ")]
    assert max(map(len, status)) < columns
    assert len(status) > 2
    if columns >= 80:
        assert all(STATUS.match(text) for text in status), status
    screen = [line.split("\r")[-1].rstrip() for line in output.split("\n")]  # what remains to be seen
    assert originals_lines([line for line in screen if line]) == ORIGINALS
    assert not any(line.startswith("epoch ") for line in screen)


def test_in_a_log_a_line_every_so_many_epochs(capsys):
    train_rnn_flossing(**CALL)
    output = capsys.readouterr().out
    assert "\r" not in output
    lines = output.splitlines()
    status = [line for line in lines if line.startswith("epoch ")]
    assert all(STATUS.match(line) for line in status)
    assert [int(re.match(r"epoch (\d+)/200  loss", line)[1]) for line in status if " accuracy " in line] == [50, 100, 150]
    assert [re.search(r"flossing (\d+/130)", line)[1] for line in status if "flossing" in line] == ["50/130", "100/130"]
    assert originals_lines(lines) == ORIGINALS


def test_progress_false_is_silent(capsys):
    train_rnn_flossing(**CALL, progress=False)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


def test_progress_changes_no_number(monkeypatch):
    silent = train_rnn_flossing(**CALL, progress=False)
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stream)
        assert train_rnn_flossing(**CALL) == silent
    monkeypatch.setattr(sys, "stdout", None)  # as under pythonw
    assert train_rnn_flossing(**CALL) == silent


class Clock:
    """Stands for the clock; advances when told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "perf_counter", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def lines_of(capsys):
    return capsys.readouterr().out.splitlines()


def progress_of(E, flossing_left=0):
    return Progress(True, E, flossing_left)


def test_time_left_counts_all_steps_of_training_and_flossing(clock, capsys):
    """2 s a flossing step, of which 200 come before and 40 later; then 1 s an epoch: the running mean follows."""
    shown = progress_of(E=300, flossing_left=240)
    for step in range(1, 201):
        clock.now += 2
        shown.flossing(1, step, 200, 0.5)
    for epoch in range(1, 101):
        clock.now += 1
        shown.training(epoch, 0.25, 0.5)
    assert lines_of(capsys) == [
        "epoch 1/300  flossing 50/200  loss 0.5  0 steps/s  16:20 left",  # (300 + 190) * 2 s
        "epoch 1/300  flossing 100/200  loss 0.5  0 steps/s  14:40 left",
        "epoch 1/300  flossing 150/200  loss 0.5  0 steps/s  13:00 left",
        "epoch 50/300  loss 0.2500  accuracy  50.0 %  1 steps/s  4:51 left",  # (250 + 40) * 1.005 s
        "epoch 100/300  loss 0.2500  accuracy  50.0 %  1 steps/s  4:00 left",
    ]


def test_the_newest_step_counts_for_a_tenth(clock, capsys):
    shown = progress_of(E=300)
    for epoch in range(1, 51):
        clock.now += 1 if epoch < 50 else 0.1
        shown.training(epoch, 0.25, 0.5)
    assert lines_of(capsys)[0].endswith("  1 steps/s  3:47 left")  # 250 of 0.91 s


def test_a_clock_that_goes_back_gives_no_negative_times(clock, capsys):
    shown = progress_of(E=300)
    for epoch in range(1, 51):
        clock.now -= 7
        shown.training(epoch, 0.25, 0.5)
    assert lines_of(capsys)[0].endswith("  0:00 left")


def test_more_flossing_than_was_counted_gives_no_negative_times(clock, capsys):
    """As in example_code/experiments/longest_delay.py, which flosses between epochs, too."""
    shown = progress_of(E=300, flossing_left=-500)
    for epoch in range(1, 51):
        clock.now += 1
        shown.flossing(epoch, 1, 1, 0.5)
        clock.now += 1
        shown.training(epoch, 0.25, 0.5)
    assert lines_of(capsys)[-1].endswith("4:10 left")


def test_a_run_that_goes_on_counts_what_is_left(tmp_path, monkeypatch):
    left, right = [], Progress.__init__
    monkeypatch.setattr(Progress, "__init__", lambda self, *args: (left.append(args[2]), right(self, *args))[1])
    for _ in range(2):
        train_rnn_flossing(**CALL, progress=False, checkpoint=tmp_path / "run.npz")
    assert left == [130 + 2 * 5, 0]


def test_long_runs_do_not_flood(clock, capsys):
    for E, interval in ((100, 50), (301, 50), (1000, 100), (3001, 300), (20_000, 2000)):
        shown = progress_of(E)
        for epoch in range(1, E + 1):
            shown.training(epoch, 0.25, 0.5)
        assert [int(re.match(r"epoch (\d+)/", line)[1]) for line in lines_of(capsys)] == list(range(interval, E, interval))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_on_a_terminal_is_changed_ten_times_a_second_and_wiped_out(clock, monkeypatch):
    stream = Terminal()
    status = StatusLine(stream)
    for seconds, text in ((0, "a long line"), (0.05, "not shown"), (0.06, "short"), (0, "not shown")):
        clock.now += seconds
        status.show(text, due=False)
    assert stream.getvalue() == "\ra long line" + "\rshort      "
    status.line("stays")
    status.line("alone")
    assert stream.getvalue().removeprefix("\ra long line\rshort      ") == "\r     \rstays\nalone\n"
    clock.now -= 1000
    status.show("again and again")
    assert stream.getvalue().endswith("\ragain and again")
    monkeypatch.setenv("COLUMNS", "10")
    status.erase()
    clock.now += 1
    status.show("again and again")
    assert stream.getvalue().endswith("\r               \r" + "\ragain and")


# ------------------------------------------------------------------ standard output that is lost


class Lost(io.StringIO):
    """As a closed pipe or a full disk."""

    def write(self, text):
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [Lost, type("LostTerminal", (Lost,), {"isatty": lambda self: True})])
def test_a_run_whose_output_is_lost_goes_on(stream, monkeypatch):
    silent = train_rnn_flossing(**CALL, progress=False)
    monkeypatch.setattr(progress, "REDRAW", 0)
    monkeypatch.setattr(sys, "stdout", stream())
    assert train_rnn_flossing(**CALL) == silent


@pytest.mark.parametrize("change", [{}, dict(Ef=1), dict(Ep=0), dict(Ni=0), dict(E=0), dict(nLE=0), dict(Ef=3, E=7), dict(E=1)])
def test_remaining_time_counts_the_steps_that_will_be_done(change):
    call = short_call(Ef=2, Ei=2, Ep=3, Ni=4) | change
    assert flossing_steps(call) == len(train_rnn_flossing(**call, progress=False).flossing_loss)
