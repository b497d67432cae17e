"""What a run prints: the original's lines, and how far it is, in a line that changes on a terminal and lines in a log."""

import shutil
import sys
import time
from contextlib import suppress

REDRAW = 0.1  # seconds between two changes of the line on a terminal
SMOOTHING = 0.1  # weight of the newest step in the running mean of the time per step


def say(text, stream=None, end="\n"):
    """Print to a stream, by default standard output; that it is lost (a closed pipe or terminal) ends no run."""
    with suppress(OSError):
        print(text, file=stream, end=end, flush=True)


class StatusLine:
    """A line that is rewritten in place if `stream` is a terminal, otherwise printed when it is due; None: nothing is."""

    def __init__(self, stream):
        self.stream, self.terminal = stream, stream is not None and stream.isatty()
        self.drawn_at, self.width = 0.0, 0

    def show(self, text, due=True):
        if not self.terminal and due:
            self.line(text)
        elif self.terminal and abs(time.perf_counter() - self.drawn_at) > REDRAW:
            text = text[: shutil.get_terminal_size().columns - 1]
            say("\r" + text.ljust(self.width), self.stream, end="")
            self.drawn_at, self.width = time.perf_counter(), len(text)

    def line(self, text):
        """A line of its own, which stays."""
        self.erase()
        if self.stream is not None:
            say(text, self.stream)

    def erase(self):
        if self.width:
            say("\r" + " " * self.width, self.stream, end="\r")
        self.width = 0


class Progress:
    """Prints to standard output if `enabled`. E: epochs of the run; flossing_left: its flossing steps that are not done."""

    def __init__(self, enabled, E, flossing_left):
        self.status, self.E, self.flossing_left = StatusLine(sys.stdout if enabled else None), E, flossing_left
        self.mean, self.since = None, time.perf_counter()  # seconds that a step takes; when the one under way began

    def training(self, ei, loss, accuracy):
        self.step(f"epoch {ei}/{self.E}  loss {loss:.4f}  accuracy {100 * accuracy:5.1f} %", self.E - ei, ei, self.E)

    def flossing(self, ei, i, steps, loss):
        self.flossing_left -= 1
        self.step(f"epoch {ei}/{self.E}  flossing {i}/{steps}  loss {loss:.3g}", self.E - ei + 1, i, steps)

    def step(self, text, epochs_left, done, total):
        """A step is done. In a log a line is due after every tenth of the total, but not within 50 steps."""
        now = time.perf_counter()
        took, self.since = now - self.since, now
        mean = took if self.mean is None else self.mean + SMOOTHING * (took - self.mean)
        self.mean = max(mean, 1e-9)  # a clock may go back
        left = int(self.mean * (epochs_left + max(self.flossing_left, 0)))
        text += f"  {1 / self.mean:.0f} steps/s  {left // 60}:{left % 60:02d} left"
        self.status.show(text, done < total and done % max(total // 10, 50) == 0)
