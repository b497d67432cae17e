"""How many Lyapunov exponents must be flossed: k = 1 to 80 of a network of 80 neurons, at three delays.

The networks are those of the delay sweep's condition "during", with as many epochs and flossing steps for every k.
"""

import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.delay_sweep import TRAINING, arguments_of  # noqa: E402
from example_code.experiments.experiment import Experiment, Job, by, draw_outcomes, outcomes  # noqa: E402
from extras.figures import COLOURS  # noqa: E402

EXPONENTS = (1, 5, 10, 20, 40, 60, 75, 80)  # k, the parameter nLE
DELAYS = (10, 20, 30)
LAST_STEPS = 20  # of preflossing, over which the flossing loss is averaged


def make_jobs(args):
    jobs = {}
    for seed, delay, k in product(args.seeds, DELAYS, EXPONENTS):
        call = arguments_of("xor", "during", delay, seed, args.epochs, args.preflossing)._replace(nLE=k)
        jobs[delay, k, seed] = Job(f"delay{delay}_k{k}_seed{seed}", call)
    return jobs


def make_rows(records):
    """One row per run. flossing_loss: mean over the k exponents of their squares, at the end of preflossing."""
    return [
        dict(delay=delay, k=k, seed=seed, epochs=len(record.loss), flossing_steps=len(record.flossing_loss),
             flossing_loss=float(record.flossing_loss[record.flossing_epoch == 1][-LAST_STEPS:].mean()),
             final_accuracy=record.final_accuracy(), epoch_learned=record.epoch_learned())
        for (delay, k, seed), record in records.items()
    ]  # fmt: skip


def summary(rows):
    ascending = sorted(rows, key=lambda r: (r["k"], r["delay"]))
    return outcomes(ascending, ["k"], lambda r: (r["k"],), lambda r: f"delay {r['delay']}")


def draw(records, rows):
    groups = [(mine, f"delay {d}", *style) for ((d,), mine), *style in zip(by(rows, "delay").items(), COLOURS, "os^")]
    return draw_outcomes(rows, groups, lambda r: r["k"], xlabel="k, flossed exponents")


QUICK = dict(seeds=[1], epochs=601, preflossing=100)
EXPERIMENT = Experiment("number_of_exponents", __doc__, TRAINING, QUICK, make_jobs, make_rows, summary, draw)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
