"""How many Lyapunov exponents must be flossed: k = 1 to 80, in networks of the delay sweep's condition "during"."""

import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.delay_sweep import TRAINING, arguments_of  # noqa: E402
from example_code.experiments.experiment import Experiment, Job, draw_dots, outcome, pivot  # noqa: E402


def make_jobs(args):
    """Pairs of (delay, k, seed) and Job."""
    for seed, delay, k in product(args.seeds, (10, 20, 30), (1, 5, 10, 20, 40, 60, 75, 80)):
        call = arguments_of("xor", "during", delay, seed, args.epochs, args.preflossing)._replace(nLE=k)
        yield (delay, k, seed), Job(f"delay{delay}_k{k}_seed{seed}", call)


def make_rows(key, record):
    """One row. flossing_loss: mean over the k exponents of their squares, in the last 20 steps of preflossing."""
    yield dict(zip(("delay", "k", "seed"), key), epochs=len(record.loss), flossing_steps=len(record.flossing_loss),
               flossing_loss=float(record.flossing_loss[record.flossing_epoch == 1][-20:].mean()),
               final_accuracy=record.final_accuracy(), epoch_learned=record.epoch_learned())  # fmt: skip


delay = lambda r: f"delay {r['delay']}"  # noqa: E731
summary = lambda rows: pivot(rows, ["k"], lambda r: (r["k"],), delay, outcome)  # noqa: E731
draw = lambda _, rows: draw_dots({"final accuracy (%)": rows}, lambda r: (f"k = {r['k']}",), delay)  # noqa: E731
QUICK = dict(seeds=[1], epochs=301, preflossing=50)
EXPERIMENT = Experiment("number_of_exponents", __doc__, TRAINING, QUICK, make_jobs, make_rows, summary, draw)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
