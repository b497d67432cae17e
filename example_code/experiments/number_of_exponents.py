"""How many Lyapunov exponents must be flossed: k = 1 to 80 of a network of 80 neurons, at three delays.

    python example_code/experiments/number_of_exponents.py        # all cores of this machine

Trains the networks of the delay sweep's condition "during" (500 flossing steps before training, a block of 50 every 100
epochs of the first three quarters), with as many epochs and flossing steps for every k. Writes a table and a figure to --out.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.delay_sweep import arguments_of, label_never  # noqa: E402
from extras.figures import COLOURS, GREY, new_figure  # noqa: E402
from example_code.experiments.sweep import Job, make_parser, sweep, write_csv  # noqa: E402

NAME = "number_of_exponents"
EXPONENTS = (1, 5, 10, 20, 40, 60, 75, 80)  # k, the parameter nLE
DELAYS = (10, 20, 30)
LAST_STEPS = 20  # of preflossing, over which the flossing loss is averaged


def make_runs(args):
    """{(delay, k, seed): Job}, seed by seed."""
    return {
        (delay, k, seed): Job(
            f"delay{delay}_k{k}_seed{seed}", arguments_of("xor", "during", delay, seed, args.epochs, args.preflossing)._replace(nLE=k)
        )
        for seed in args.seeds
        for delay in DELAYS
        for k in EXPONENTS
    }  # fmt: skip


def make_rows(records):
    """One row per run. flossing_loss: mean over the k exponents of their squares, at the end of preflossing."""
    rows = []
    for (delay, k, seed), record in sorted(records.items()):
        before_training = record.flossing_loss[record.flossing_epoch == 1]
        rows.append({
            "delay": delay, "k": k, "seed": seed, "epochs": len(record.loss), "flossing_steps": len(record.flossing_loss),
            "flossing_loss": float(before_training[-LAST_STEPS:].mean()), "final_accuracy": record.final_accuracy(),
            "epoch_learned": record.epoch_learned(),
        })  # fmt: skip
    return rows


def cells(rows):
    """{(delay, k): (final accuracies, epochs learned, never being infinite)} of the seeds."""
    found = {}
    for row in rows:
        final, learned = found.setdefault((row["delay"], row["k"]), ([], []))
        final.append(row["final_accuracy"])
        learned.append(row["epoch_learned"] or np.inf)
    return found


def median_table(rows):
    """Lines of a Markdown table: medians over the seeds, and how many of them learned."""
    found, delays = cells(rows), sorted({row["delay"] for row in rows})
    lines = ["| k | " + " | ".join(f"delay {delay}" for delay in delays) + " |", "|---" * (len(delays) + 1) + "|"]
    for k in sorted({row["k"] for row in rows}):
        texts = []
        for final, learned in (found[delay, k] for delay in delays if (delay, k) in found):
            epoch = f"epoch {np.median(learned):.0f}" if np.isfinite(np.median(learned)) else "never"
            texts.append(f"{100 * np.median(final):.1f} %, {epoch}, {np.isfinite(learned).sum()}/{len(learned)}")
        lines.append(f"| {k} | " + " | ".join(texts) + " |")
    return lines


def draw(rows, path):
    """Final accuracy and epoch learned against k: dots seeds, lines medians."""
    latest, found = max(row["epochs"] for row in rows), cells(rows)
    never = 1.7 * latest  # where a run that does not learn is drawn
    with new_figure(4.2) as figure:
        accuracy, epochs = figure.subplots(1, 2)
        for number, delay in enumerate(sorted({row["delay"] for row in rows})):
            style = dict(color=COLOURS[number], marker="os^"[number])
            for ax, values in ((accuracy, lambda cell: 100 * np.array(cell[0])), (epochs, lambda cell: np.minimum(cell[1], never))):
                points = {k: values(cell) for (d, k), cell in found.items() if d == delay}
                for k, seeds in points.items():
                    ax.plot(np.full(len(seeds), k), seeds, markersize=2.5, alpha=0.45, linestyle="", **style)
                ax.plot(*zip(*((k, np.median(seeds)) for k, seeds in points.items())), label=f"delay {delay}", **style)
                ax.set_xlabel("k, flossed exponents")
        accuracy.axhline(50, color=GREY, linestyle=":", linewidth=1)
        accuracy.set_ylabel("final accuracy (%)")
        epochs.set_ylabel("epochs to learn")
        label_never(epochs, never, latest)
        figure.legend(*accuracy.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.savefig(path)


def write(records, out):
    """Table and figure of {(delay, k, seed): record}."""
    rows = make_rows(records)
    write_csv(rows, out / f"{NAME}.csv")
    draw(rows, out / f"{NAME}.png")
    print("\n".join(["", *median_table(rows)]))


def parse(argv=None):
    parser = make_parser(__doc__.split("\n\n")[0], f"out/{NAME}")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(1, 11)))
    parser.add_argument("--epochs", type=int, default=4501, help="time of a run with k = 75, as in the delay sweep")
    parser.add_argument("--preflossing", type=int, metavar="Ep", default=500, help="flossing steps before training")
    return parser.parse_args(argv)


def main(argv=None):
    """Returns the exit status: 0, 1 if a run failed, 130 after Ctrl-C."""
    args = parse(argv)
    return sweep(make_runs(args), args, write)


if __name__ == "__main__":
    sys.exit(main())
