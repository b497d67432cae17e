"""What a run prints: the original's lines, and between them how far it is.

On a terminal one line is rewritten in place, several times a second. Elsewhere (a log file, a notebook) a line is printed
every so many steps, and short runs print the lines of the original only.
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
    """A line that is rewritten in place if `stream` is a terminal, otherwise printed when it is due; None: nothing is."""

    def __init__(self, stream):
        self.stream, self.terminal = stream, stream is not None and stream.isatty()
        self.drawn_at, self.width = 0.0, 0

    def show(self, text, due=True):
        """On a terminal as much of the text as one line holds."""
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
    """Prints to standard output if `enabled`. parameters: dict of the 33; flossed: flossing steps that are done already."""

    def __init__(self, enabled, parameters, flossed=0):
        self.status = StatusLine(sys.stdout if enabled else None)
        self.line, self.E = self.status.line, parameters["E"]
        self.flossing_left = flossing_steps(parameters) - flossed
        self.seconds = {}  # kind of step -> running mean of its time
        self.since = time.perf_counter()  # when the step under way began

    def epoch(self, done, loss, accuracy):
        """So many epochs are done, the last with this loss and accuracy."""
        text = f"epoch {done}/{self.E}  loss {loss:.4f}  accuracy {100 * accuracy:5.1f} %"
        self.step("training", text, done, self.E, 50, self.E - done)

    def flossing(self, ei, done, steps, loss):
        """So many of the `steps` steps of the flossing block in epoch ei are done, the last with this loss."""
        self.flossing_left -= 1
        text = f"epoch {ei}/{self.E}  flossing {done}/{steps}  loss {loss:.3g}"
        self.step("flossing", text, done, steps, 100, self.E - ei + 1)

    def step(self, kind, text, done, total, interval, epochs_left):
        """A step of this kind ends. In a log a line is due every `interval` steps, or every tenth of the total."""
        now = time.perf_counter()
        took, self.since = max(now - self.since, 1e-9), now  # a clock may go back
        mean = self.seconds.get(kind, took)
        mean = self.seconds[kind] = mean + SMOOTHING * (took - mean)
        training, flossing = (self.seconds.get(k, mean) for k in ("training", "flossing"))
        left = int(epochs_left * training + max(self.flossing_left, 0) * flossing)
        text += f"  {1 / mean:.0f} steps/s  {left // 60}:{left % 60:02d} left"
        self.status.show(text, done < total and done % max(total // 10, interval) == 0)
