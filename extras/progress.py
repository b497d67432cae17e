"""What a run prints: the original's lines, and between them how far it is.

On a terminal one line is rewritten in place, several times a second. Elsewhere (a log file, a notebook) a line is
printed every so many epochs, and short runs print the lines of the original only.
"""

import shutil
import sys
import time

REDRAW = 0.1  # seconds between two changes of the line on a terminal
SMOOTHING = 0.1  # weight of the newest step in the running mean of the time per step
EPOCHS_BETWEEN_LINES, STEPS_BETWEEN_LINES = 50, 100  # at least, when not on a terminal


class Progress:
    """Prints to standard output if `enabled`. E, Ep, ...: `parameters` of the run; recorder: extras.record.Recorder."""

    def __init__(self, enabled, parameters):
        self.enabled = enabled
        self.parameters = parameters
        self.terminal = enabled and sys.stdout is not None and sys.stdout.isatty()
        self.flossing_steps = flossing_steps(parameters)
        self.seconds_per = {}  # kind of step -> running mean
        self.since = None  # when the step that is under way began
        self.drawn_at, self.width = 0.0, 0

    def line(self, text):
        """A line of its own: what the original prints."""
        if self.enabled:
            self.erase()
            print(text, flush=True)

    def epoch(self, ei, recorder):
        """Epoch ei begins."""
        self.clock("training")
        done, E = ei - 1, self.parameters["E"]
        if self.enabled and recorder.rows["loss"]:
            loss, accuracy = recorder.rows["loss"][-1], recorder.rows["accuracy"][-1]
            text = f"epoch {done}/{E}  loss {loss:.4f}  accuracy {100 * accuracy:5.1f} %"
            self.show(text, "training", E - done, recorder, done % interval(E, EPOCHS_BETWEEN_LINES) == 0)

    def flossing(self, ei, i, steps, recorder):
        """Step i of the `steps` steps of the flossing block in epoch ei begins."""
        self.clock("flossing" if i > 1 else None)
        done = i - 1
        if self.enabled and done and recorder.rows["flossing_loss"]:
            E = self.parameters["E"]
            loss = recorder.rows["flossing_loss"][-1]
            text = f"epoch {ei}/{E}  flossing {done}/{steps}  loss {loss:.3g}"
            self.show(text, "flossing", E - ei + 1, recorder, done % interval(steps, STEPS_BETWEEN_LINES) == 0)

    def block_done(self, seconds):
        """The time of a flossing block, as Julia's @time gives it."""
        self.clock("flossing")
        self.line(f"{seconds:11.6f} seconds")

    def clock(self, kind):
        """A step of this kind ends now, and the next begins."""
        now = time.perf_counter()
        if kind and self.since is not None:
            before = self.seconds_per.get(kind, now - self.since)
            self.seconds_per[kind] = before + SMOOTHING * (now - self.since - before)
        self.since = now

    def show(self, text, kind, epochs_left, recorder, due):
        """The status line: always on a terminal, else when due."""
        now = time.perf_counter()
        if not (now - self.drawn_at > REDRAW if self.terminal else due) or kind not in self.seconds_per:
            return
        mean = self.seconds_per
        training, flossing = (mean.get(k, mean[kind]) for k in ("training", "flossing"))
        flossing_left = self.flossing_steps - len(recorder.rows["flossing_loss"])
        left = epochs_left * training + flossing_left * flossing
        text += f"  {1 / max(mean[kind], 1e-9):.0f} steps/s  {int(left) // 60}:{int(left) % 60:02d} left"
        if self.terminal:
            text = text[: shutil.get_terminal_size().columns - 1]
            print("\r" + text.ljust(self.width), end="", flush=True)
            self.drawn_at, self.width = now, len(text)
        else:
            print(text, flush=True)

    def erase(self):
        if self.width:
            print("\r" + " " * self.width, end="\r")
        self.width = 0


def flossing_steps(p):
    """How many flossing steps a run has, for the 33 parameters p."""
    if p["nLE"] == 0 or p["E"] == 0:
        return 0
    multiples = p["E"] // p["Ef"] - (p["Ef"] == 1)  # a block at epoch 1 is preflossing
    return p["Ep"] + p["Ei"] * min(p["Ni"], max(multiples, 0))


def interval(total, least):
    """A round number (1, 2 or 5 times a power of ten) of at least total/10 and at least `least`."""
    scale = 1
    while True:
        for factor in (1, 2, 5):
            if factor * scale >= max(total / 10, least):
                return factor * scale
        scale *= 10
