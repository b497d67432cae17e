"""What a run prints: the original's lines, and between them how far it is.

On a terminal one line is rewritten in place, several times a second, and never wider than the terminal. Elsewhere (a log
file, a notebook) a line is printed every so many epochs, and short runs print the lines of the original only.
"""

import os
import sys
import time

from extras.check_parameters import flossing_steps

REDRAW = 0.1  # seconds between two changes of the line on a terminal
SMOOTHING = 0.1  # weight of the newest step in the running mean of the time per step
EPOCHS_BETWEEN_LINES, STEPS_BETWEEN_LINES = 50, 100  # at least, when not on a terminal


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
                self.line("  ".join(text for _, text in parts))
        elif time.perf_counter() - self.drawn_at > REDRAW:
            text = fitting(parts, self.columns() - 1)
            print("\r" + text.ljust(min(self.width, self.columns() - 1)), end="", file=self.stream, flush=True)
            self.drawn_at, self.width = time.perf_counter(), len(text)

    def line(self, text):
        """A line of its own, which stays."""
        self.erase()
        print(text, file=self.stream, flush=True)

    def erase(self):
        if self.width:
            print("\r" + " " * min(self.width, self.columns() - 1), end="\r", file=self.stream, flush=True)
        self.width = 0

    def columns(self):
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80


def fitting(parts, width):
    parts = list(parts)
    while len(parts) > 1 and len("  ".join(text for _, text in parts)) > width:
        parts.remove(max(parts, key=lambda part: part[0]))
    return "  ".join(text for _, text in parts)[:width]


class Progress:
    """Prints to standard output if `enabled`. parameters: dict of the 33."""

    def __init__(self, enabled, parameters):
        self.enabled, self.E = enabled, parameters["E"]
        self.status = StatusLine(sys.stdout)
        self.flossing_left = flossing_steps(parameters)
        self.seconds_per = {}  # kind of step -> running mean
        self.since = None  # when the step that is under way began

    def line(self, text):
        """A line of its own: what the original prints."""
        if self.enabled:
            self.status.line(text)

    def epoch(self, done, loss, accuracy):
        """So many epochs are done, the last with this loss and accuracy."""
        if not self.enabled:
            return
        self.clock("training")
        parts = [(0, f"epoch {done}/{self.E}"), (2, f"loss {loss:.4f}"), (1, f"accuracy {100 * accuracy:5.1f} %")]
        due = done < self.E and done % interval(self.E, EPOCHS_BETWEEN_LINES) == 0
        self.show(parts, "training", self.E - done, due)

    def flossing(self, ei, done, steps, loss):
        """So many of the `steps` steps of the flossing block in epoch ei are done, the last with this loss."""
        if not self.enabled:
            return
        self.clock("flossing")
        self.flossing_left -= 1
        parts = [(0, f"epoch {ei}/{self.E}"), (1, f"flossing {done}/{steps}"), (2, f"loss {loss:.3g}")]
        due = done < steps and done % interval(steps, STEPS_BETWEEN_LINES) == 0
        self.show(parts, "flossing", self.E - ei + 1, due)

    def clock(self, kind):
        """A step of this kind ends now, and the next begins; kind None: only the latter."""
        now = time.perf_counter()
        if kind and self.since is not None:
            before = self.seconds_per.get(kind, now - self.since)
            self.seconds_per[kind] = before + SMOOTHING * (now - self.since - before)
        self.since = now

    def show(self, parts, kind, epochs_left, due):
        mean = self.seconds_per
        if kind not in mean:
            return
        training, flossing = (mean.get(k, mean[kind]) for k in ("training", "flossing"))
        left = int(epochs_left * training + self.flossing_left * flossing)
        rate = 1 / max(mean[kind], 1e-9)
        self.status.show([*parts, (4, f"{rate:.0f} steps/s"), (3, f"{left // 60}:{left % 60:02d} left")], due)


def interval(total, least):
    """A round number (1, 2 or 5 times a power of ten) of at least total/10 and at least `least`."""
    scale = 1
    while True:
        for factor in (1, 2, 5):
            if factor * scale >= max(total / 10, least):
                return factor * scale
        scale *= 10
