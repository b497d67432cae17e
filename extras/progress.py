"""What a run prints: the original's lines, and between them how far it is.

On a terminal one line is rewritten in place, several times a second, and never wider than the terminal. Elsewhere (a log
file, a notebook) a line is printed every so many steps, and short runs print the lines of the original only.
"""

import shutil
import sys
import time
from contextlib import suppress

from extras.check_parameters import flossing_steps

REDRAW = 0.1  # seconds between two changes of the line on a terminal
SMOOTHING = 0.1  # weight of the newest step in the running mean of the time per step


def say(text, stream=None, end="\n"):
    """Print to a stream, by default standard output; that it is lost (a closed pipe or terminal) ends no run."""
    with suppress(OSError):
        print(text, file=stream, end=end, flush=True)


class StatusLine:
    """A line that is rewritten in place if `stream` is a terminal, and otherwise printed when it is due."""

    def __init__(self, stream):
        self.stream = stream
        self.terminal = stream is not None and stream.isatty()
        self.drawn_at, self.width = 0.0, 0

    def show(self, parts, due=True):
        """parts: [(rank, text), ...] in the order shown; where they do not fit, those of the highest rank are left out."""
        if not self.terminal:
            if due:
                self.line(fitting(parts, sys.maxsize))
        elif abs(time.perf_counter() - self.drawn_at) > REDRAW:
            text = fitting(parts, self.columns() - 1)
            say("\r" + text.ljust(min(self.width, self.columns() - 1)), self.stream, end="")
            self.drawn_at, self.width = time.perf_counter(), len(text)

    def line(self, text):
        """A line of its own, which stays."""
        self.erase()
        say(text, self.stream)

    def erase(self):
        if self.width:
            say("\r" + " " * min(self.width, self.columns() - 1), self.stream, end="\r")
        self.width = 0

    def columns(self):
        return shutil.get_terminal_size().columns  # of standard output, or the variable COLUMNS; 80 if there is neither


def fitting(parts, width):
    while len(text := "  ".join(text for _, text in parts)) > width and len(parts) > 1:
        parts = [part for part in parts if part != max(parts)]
    return text[:width]


class Progress:
    """Prints to standard output if `enabled`. parameters: dict of the 33; flossed: flossing steps that are done already."""

    def __init__(self, enabled, parameters, flossed=0):
        self.enabled, self.E = enabled, parameters["E"]
        self.status = StatusLine(sys.stdout)
        self.flossing_left = flossing_steps(parameters) - flossed
        self.seconds = {}  # kind of step -> running mean of its time
        self.since = time.perf_counter()  # when the step under way began

    def line(self, text):
        """A line of its own: what the original prints."""
        if self.enabled:
            self.status.line(text)

    def epoch(self, done, loss, accuracy):
        """So many epochs are done, the last with this loss and accuracy."""
        parts = [(0, f"epoch {done}/{self.E}"), (2, f"loss {loss:.4f}"), (1, f"accuracy {100 * accuracy:5.1f} %")]
        self.step("training", parts, done, self.E, 50, self.E - done)

    def flossing(self, ei, done, steps, loss):
        """So many of the `steps` steps of the flossing block in epoch ei are done, the last with this loss."""
        self.flossing_left -= 1
        parts = [(0, f"epoch {ei}/{self.E}"), (1, f"flossing {done}/{steps}"), (2, f"loss {loss:.3g}")]
        self.step("flossing", parts, done, steps, 100, self.E - ei + 1)

    def step(self, kind, parts, done, total, interval, epochs_left):
        """A step of this kind ends. In a log a line is due every `interval` steps, or every tenth of the total."""
        now = time.perf_counter()
        took, self.since = max(now - self.since, 1e-9), now  # a clock may go back
        mean = self.seconds.get(kind, took)
        mean = self.seconds[kind] = mean + SMOOTHING * (took - mean)
        training, flossing = (self.seconds.get(k, mean) for k in ("training", "flossing"))
        left = int(epochs_left * training + max(self.flossing_left, 0) * flossing)
        parts += [(4, f"{1 / mean:.0f} steps/s"), (3, f"{left // 60}:{left % 60:02d} left")]
        if self.enabled:
            self.status.show(parts, done < total and done % max(total // 10, interval) == 0)
