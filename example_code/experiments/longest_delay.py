"""Which flossing schedule learns a delay of 45 steps (d = 90), which that of the delay sweep does not?

    python example_code/experiments/longest_delay.py              # the best schedule that was found, five seeds
    python example_code/experiments/longest_delay.py --search     # every schedule that was tried, the failures too

Schedules are compared at equal time: the number of epochs is what a schedule's flossing leaves of its budget.
Everything else is the original's README call, with delay 45. Each finished run is a record file in --out, and the same
command goes on with what is missing. Writes a table (CSV), and without --search a figure of the accuracies.
"""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from extras.figures import BLACK, COLOURS, GREY, new_figure  # noqa: E402
from extras.record import FINAL_EPOCHS, LEARNED  # noqa: E402
from extras.sweep import Job, make_parser, sweep, write_csv  # noqa: E402
from gradient_flossing_example import README_CALL  # noqa: E402

DELAY = 45
# Time is counted in training epochs (3.4 ms here). A flossing step of 75 exponents over 55 steps takes as long as 1.5 of
# them (python example_code/experiments/benchmark.py), and its time grows with the number of steps and, more slowly, of exponents.
UNIT_BUDGET = 11501  # 4,001 epochs and 5,000 flossing steps


@dataclass(frozen=True)
class Schedule:
    """When and how to floss: parameters of train_rnn_flossing by their names, and two more.

    until: no block after this share of the epochs. budget: time of the whole run, in UNIT_BUDGETs.
    """

    Ep: int = 500
    Ef: int = 100
    Ei: int = 50
    until: float = 1.0
    Tp: int = 55
    nLE: int = 75
    Lwnt: float = 0.0
    budget: int = 1

    @property
    def step_cost(self):
        """Time of a flossing step over that of a training epoch."""
        return 1.5 * self.Tp / 55 * (0.15 + 0.85 * self.nLE / 75)

    @property
    def E(self):
        """Epochs that the flossing leaves of the budget."""
        per_epoch = 1 + self.until * self.Ei / self.Ef * self.step_cost
        return int((self.budget * UNIT_BUDGET - self.Ep * self.step_cost) / per_epoch)

    @property
    def Ni(self):
        """Number of blocks during training."""
        return int(self.until * self.E / self.Ef) if self.Ei else 0

    def run(self, seed):
        arguments = README_CALL._replace(
            E=self.E, Ef=self.Ef, Ei=self.Ei, Ep=self.Ep, Ni=self.Ni, Tp=self.Tp, nLE=self.nLE, Lwnt=self.Lwnt,
            delay=DELAY, sIC=seed, sIn=seed, sNet=seed, sONS=seed,
        )  # fmt: skip
        return Job(f"seed{seed}", arguments)


S = Schedule
REFERENCE = S(Ep=500, Ef=300, Ei=500)  # blocks of 500 steps every 300 epochs
FINE = S(Ep=1500, Ef=10, Ei=5)
# first round: one budget, seeds 1 and 2
SCREENED = [
    REFERENCE, S(Ei=100), S(), S(Ei=25), S(Ef=50, Ei=25), S(Ef=20, Ei=10), S(Ef=10, Ei=5),
    S(Ef=4, Ei=1), S(Ef=2, Ei=1), S(Ef=1, Ei=1), S(Ep=1500), S(Ep=3000), S(Ep=3000, Ei=0), FINE,
    replace(FINE, until=0.5), S(Ep=1500, until=0.5), replace(FINE, Tp=110), replace(FINE, nLE=40), replace(FINE, nLE=16),
    replace(FINE, nLE=80), replace(FINE, Lwnt=0.01), replace(FINE, Lwnt=-0.01), replace(FINE, Ei=1), replace(FINE, Ei=2),
]  # fmt: skip
# second round: three budgets, seeds 1 and 2; no blocks in the second half, since every block costs accuracy
LONGER = [replace(s, budget=3) for s in (
    REFERENCE, S(Ei=100, until=0.5), S(Ep=1500, until=0.5), S(Ef=4, Ei=1, until=0.5), S(Ep=1500, Ef=10, Ei=2, until=0.5),
    S(Ep=1500, Ei=100, until=0.25), S(Ep=1500, until=0.5, Tp=28), S(Ei=100),
)]  # fmt: skip
# third round: six budgets, five seeds for the two with the cheaper flossing steps, two for the reference
BEST = S(Ep=1500, Ei=50, until=0.25, Tp=28, budget=6)
LAST = [BEST, S(Ei=100, until=0.25, Tp=28, budget=6)]
SEARCH = (
    [(s, seed) for seed in (1, 2) for s in SCREENED + LONGER]
    + [(s, seed) for seed in (1, 2, 3, 4, 5) for s in LAST]
    + [(replace(REFERENCE, budget=6), seed) for seed in (1, 2)]
)


def result(schedule, seed, record):
    """One row of the table. best_accuracy: highest mean over FINAL_EPOCHS successive epochs."""
    return asdict(schedule) | {
        "E": schedule.E, "Ni": schedule.Ni, "seed": seed, "final_accuracy": round(record.final_accuracy(), 4),
        "best_accuracy": round(float(running_mean(record.accuracy).max()), 4),
    }  # fmt: skip


def running_mean(accuracy):
    """Mean over FINAL_EPOCHS successive epochs, the first at epoch FINAL_EPOCHS."""
    return np.convolve(accuracy, np.full(FINAL_EPOCHS, 1 / FINAL_EPOCHS), mode="valid")


def draw(records, path):
    """Accuracy over epochs for every seed; where flossing ends, a dotted line."""
    with new_figure(4) as figure:
        axes = figure.subplots()
        for (_, seed), record, colour in zip(records, records.values(), (BLACK, *COLOURS) * len(records)):
            mean = running_mean(record.accuracy)
            axes.plot(np.arange(len(mean)) + FINAL_EPOCHS, 100 * mean, linewidth=1, color=colour, label=f"seed {seed}")
        axes.axvline(record.flossing_epoch[-1], color=GREY, linestyle=":", linewidth=1)
        axes.axhline(100 * LEARNED, color=GREY, linestyle="--", linewidth=1)
        axes.set(xlabel="epoch", ylabel=f"accuracy, mean of {FINAL_EPOCHS} epochs (%)", ylim=(48, 101))
        figure.legend(loc="outside upper center", ncols=5)
    figure.savefig(path)


def parse(argv=None):
    parser = make_parser(__doc__.split("\n\n")[0], "out/longest_delay")
    parser.add_argument("--search", action="store_true", help="all schedules that were tried, not only the best")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5], help="of the best schedule")
    return parser.parse_args(argv)


def main(argv=None):
    """Returns the exit status: 0, 1 if a run failed, 130 after Ctrl-C."""
    args = parse(argv)
    name = "schedule_search" if args.search else "longest_delay"
    trials = SEARCH if args.search else [(BEST, seed) for seed in args.seeds]

    def write(records, out):
        rows = [result(schedule, seed, record) for (schedule, seed), record in records.items()]
        write_csv(rows, out / f"{name}.csv")
        for row in rows:
            print("  ".join(f"{key} {value}" for key, value in row.items()))
        if not args.search:
            draw(records, out / f"{name}.png")

    return sweep({(schedule, seed): schedule.run(seed) for schedule, seed in trials}, args, write)


if __name__ == "__main__":
    sys.exit(main())
