"""What a run prints on a terminal, in a log file, and when it should be silent."""

import io
import os
import re
import subprocess
import sys

import pytest

from extras.check_parameters import flossing_steps
from extras.progress import fitting, interval
from gradient_flossing_example import train_rnn_flossing
from tests.conftest import ROOT, short_call

CALL = short_call(E=200, Ef=50, Ei=30, Ep=130, Ni=2)
PROGRAM = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import extras.progress; extras.progress.REDRAW = 0.002; from gradient_flossing_example import train_rnn_flossing as t; t(**{CALL})"
SECONDS = re.compile(r"^ *\d+\.\d+ seconds$")
STATUS = re.compile(
    r"^epoch \d+/200  (loss \d\.\d{4}  accuracy +\d+\.\d %|flossing \d+/\d+  loss [\d.e-]+)"
    r"  \d+ steps/s  \d+:\d\d left *$"
)
ORIGINALS = [
    "T:40", "generating weights", "preflossing now", "S", "interflossing now at 50", "S", "interflossing now at 100", "S", "S",
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
    assert process.wait(timeout=60) == 0, output
    return output.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [160, 80, 40, 20])
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
    assert sum("flossing 100/130" in line for line in status) == 1
    assert originals_lines(lines) == ORIGINALS


def test_progress_false_is_silent(capsys):
    train_rnn_flossing(**CALL, progress=False)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


def test_a_line_that_does_not_fit_loses_the_least_important_parts():
    parts = [(0, "epoch 7/9"), (2, "loss 0.5"), (1, "accuracy 50 %"), (4, "3 steps/s"), (3, "0:01 left")]
    shown = [fitting(parts, width) for width in (80, 49, 40, 30, 20, 9, 5)]
    assert shown == [
        "epoch 7/9  loss 0.5  accuracy 50 %  3 steps/s  0:01 left", "epoch 7/9  loss 0.5  accuracy 50 %  0:01 left",
        "epoch 7/9  loss 0.5  accuracy 50 %", "epoch 7/9  accuracy 50 %", "epoch 7/9", "epoch 7/9", "epoch",
    ]  # fmt: skip


def test_progress_changes_no_number(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    silent = train_rnn_flossing(**CALL, progress=False)
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stream)
        assert train_rnn_flossing(**CALL) == silent
    monkeypatch.setattr(sys, "stdout", None)  # as under pythonw
    assert train_rnn_flossing(**CALL, progress=False) == silent


def test_long_runs_do_not_flood():
    assert [interval(total, 50) for total in (1, 301, 1000, 3001, 100_000)] == [50, 50, 100, 500, 10_000]


@pytest.mark.parametrize("change", [{}, dict(Ef=1), dict(Ep=0), dict(Ni=0), dict(E=0), dict(nLE=0), dict(Ef=3, E=7), dict(E=1)])
def test_remaining_time_counts_the_steps_that_will_be_done(change):
    call = short_call(Ef=2, Ei=2, Ep=3, Ni=4) | change
    assert flossing_steps(call) == len(train_rnn_flossing(**call, progress=False).flossing_loss)
