"""How long a delay can be learned, without flossing, with preflossing, and with flossing during training as well.

Trains the delayed XOR network for every condition, delay and seed, then writes a table and a figure:

    python example_code/experiments/delay_sweep.py                        # all cores of this machine
    python example_code/experiments/delay_sweep.py --delays 10 20 --seeds 1 2 3 --epochs 1001 --jobs 2 --out out/short

Every finished run is a record file in --out. Stopped at any point (Ctrl-C, a crash, a full night), the same command
goes on with what is missing; runs that fail are listed with their arguments at the end and tried again next time.

On more machines with a common file system, start it under torchrun on each: the ranks share one list of runs.
Under Slurm, for 4 nodes of 32 cores (one rank and no more than one run per core):

    #SBATCH --nodes=4 --ntasks-per-node=1 --cpus-per-task=32 --mem-per-cpu=400M
    srun torchrun --nnodes=$SLURM_NNODES --nproc-per-node=32 --max-restarts=3 --rdzv-backend=c10d \
        --rdzv-id=$SLURM_JOB_ID --rdzv-endpoint=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -1):29400 \
        example_code/experiments/delay_sweep.py --out out/delay_sweep
"""

import argparse
import csv
import hashlib
import os
import signal
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from extras.sweep import Progress, Run, launcher_claims, load_finished, print_failures, run_sweep  # noqa: E402

# with preflossing or not; then epochs between two blocks during training, their steps, and at most how many (the last at
# epoch 2,500: right after a block the accuracy is lower for some time)
CONDITIONS = {
    "none": dict(pre=0, Ef=100, Ei=0, Ni=0),
    "preflossing": dict(pre=1, Ef=100, Ei=0, Ni=0),
    "during": dict(pre=1, Ef=100, Ei=50, Ni=25),
}
LABELS = {"none": "no flossing", "preflossing": "preflossing", "during": "preflossing and during training"}
COLOURS = {"none": "#000000", "preflossing": "#E69F00", "during": "#0072B2"}  # Okabe and Ito, colour-blind safe
MARKERS = {"none": "s", "preflossing": "^", "during": "o"}
LEARNED = 0.95  # accuracy that counts as learned
FINAL_EPOCHS = 100  # final accuracy: mean over the last epochs; every batch is new data


def arguments_of(condition, delay, seed, epochs, N=80, T=300, Ep=500):
    """The 33 arguments of one run: the original's README call with another delay, seed and flossing schedule."""
    c = CONDITIONS[condition]
    return (
        N, epochs, c["Ef"], c["Ei"], Ep * c["pre"], c["Ni"], 16, 1, T, 55, 300, seed, seed, seed, seed, 0.001, 0.9, 0.999,
        1, 1.0, 0.0, 1.0, delay, 1.0, 0.0, 1.0, 0.0, 0.1, 0.0, min(75, N), -1, 3, 0.0,
    )  # fmt: skip


def make_runs(args):
    """{(condition, delay, seed): Run}, seed by seed, so that a sweep that is stopped has whole seeds."""
    runs = {}
    for seed in args.seeds:
        for delay in args.delays:
            for condition in args.conditions:
                arguments = arguments_of(condition, delay, seed, args.epochs, args.neurons, args.steps, args.preflossing)
                digest = hashlib.sha256(repr(arguments).encode()).hexdigest()[:8]
                name = f"{condition}_delay{delay}_seed{seed}_{digest}"
                runs[condition, delay, seed] = Run(name, arguments)
    return runs


def final_accuracy(accuracy):
    return float(np.mean(accuracy[-FINAL_EPOCHS:]))


def epochs_to_learn(accuracy):
    """First epoch (from 1) with at least 95 % accuracy, or None."""
    learned = np.flatnonzero(np.asarray(accuracy) >= LEARNED)
    return int(learned[0]) + 1 if len(learned) else None


def collect(runs, out):
    """One row per finished run."""
    rows = []
    for (condition, delay, seed), run in runs.items():
        record = load_finished(run, out)
        if record is not None:
            rows.append(
                dict(
                    condition=condition, delay=delay, seed=seed, epochs=len(record.loss),
                    flossing_steps=len(record.flossing_loss), final_accuracy=final_accuracy(record.accuracy),
                    epochs_to_95_percent=epochs_to_learn(record.accuracy), final_loss=float(record.loss[-1]),
                )
            )  # fmt: skip
    return rows


def write_csv(rows, path):
    """All digits of the floats, so that two sweeps can be compared bit for bit; nothing in it depends on time."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def median_table(rows):
    """Lines of a Markdown table: medians over the seeds, and how many of them learned."""
    conditions = [c for c in CONDITIONS if any(r["condition"] == c for r in rows)]
    lines = ["| delay (d) | " + " | ".join(f"{LABELS[c]}" for c in conditions) + " |"]
    lines.append("|---" * (len(conditions) + 1) + "|")
    for delay in sorted({r["delay"] for r in rows}):
        cells = [f"{delay} ({2 * delay})"]
        for c in conditions:
            at = [r for r in rows if (r["condition"], r["delay"]) == (c, delay)]
            epochs = [r["epochs_to_95_percent"] or np.inf for r in at]
            median = np.median(epochs) if epochs else np.inf
            text = f"{100 * np.median([r['final_accuracy'] for r in at]):.1f} %" if at else "-"
            text += f", {median:.0f}" if np.isfinite(median) else ", never"
            cells.append(f"{text}, {np.isfinite(epochs).sum()}/{len(at)}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw(rows, epochs, path):
    """Final accuracy and epochs to 95 % against delay: a thin line per seed, a thick one for the median."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    never = 1.6 * epochs  # where a run that does not get there is drawn
    for number, condition in enumerate(c for c in CONDITIONS if any(r["condition"] == c for r in rows)):
        mine = [r for r in rows if r["condition"] == condition]
        delays = sorted({r["delay"] for r in mine})
        shift = 0.35 * (number - 1)  # conditions side by side where they coincide
        for axes, value in (
            (left, lambda r: 100 * r["final_accuracy"]),
            (right, lambda r: r["epochs_to_95_percent"] or never),
        ):
            style = dict(color=COLOURS[condition], marker=MARKERS[condition])
            for seed in sorted({r["seed"] for r in mine}):
                points = sorted((r["delay"] + shift, value(r)) for r in mine if r["seed"] == seed)
                axes.plot(*zip(*points), lw=0.6, ms=2.5, alpha=0.45, **style)
            median = [np.median([value(r) for r in mine if r["delay"] == delay]) for delay in delays]
            axes.plot(np.array(delays) + shift, median, lw=2.4, ms=6, label=LABELS[condition], **style)
    left.axhline(50, color="0.6", lw=0.8, ls=":")
    left.axhline(100 * LEARNED, color="0.6", lw=0.8, ls=":")
    left.set(xlabel="delay (time steps)", ylabel=f"accuracy, last {min(FINAL_EPOCHS, epochs)} epochs (%)", ylim=(45, 102))
    handles, labels = left.get_legend_handles_labels()
    title = "thin: seeds, thick: median"
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=8, title=title, title_fontsize=8)
    right.axhline(epochs, color="0.6", lw=0.8, ls=":")
    right.set(xlabel="delay (time steps)", ylabel="epochs to 95 % accuracy", yscale="log", ylim=(None, 2.2 * epochs))
    fastest = min(r["epochs_to_95_percent"] or never for r in rows)
    ticks = [t for t in (1, 10, 30, 100, 300, 1000, 3000, 10000) if fastest / 3 <= t <= epochs]
    right.set_yticks([*ticks, never], [*(f"{t:,}" for t in ticks), "never"])
    right.set_yticks([], minor=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def parse(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), metavar="CONDITION")
    parser.add_argument("--delays", nargs="+", type=int, default=[5, 10, 15, 20, 25, 30, 35, 40, 45])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--epochs", type=int, default=3001)
    parser.add_argument("--preflossing", type=int, metavar="Ep", default=500, help="flossing steps before training")
    parser.add_argument("--neurons", type=int, default=80)
    parser.add_argument("--steps", type=int, default=300, help="time steps per trial")
    parser.add_argument("--jobs", type=int, default=None, help="runs at a time; default: all cores, under torchrun 1")
    parser.add_argument("--out", type=Path, default=Path("out/delay_sweep"), help="record files, table and figure")
    args = parser.parse_args(argv)
    if args.jobs is not None and args.jobs < 1:
        parser.error("--jobs must be at least 1")
    return args


def usable_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def main(argv=None):
    """Returns the exit code: 0, 1 if a run failed, 130 after Ctrl-C."""
    args = parse(argv)
    runs = make_runs(args)
    args.out.mkdir(parents=True, exist_ok=True)
    claims, rank = launcher_claims(list(runs.values()), args.out)
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    jobs = args.jobs or (1 if under_torchrun else usable_cores())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # end the running processes before this one
    try:
        run_sweep(claims, args.out, jobs, Progress(len(runs)) if rank == 0 else lambda claims: None)
    except KeyboardInterrupt:
        print(f"\nstopped: {len(claims.finished)} of {len(runs)} runs finished; the same command goes on", file=sys.stderr)
        return 130
    if rank > 0:
        return 0
    print_failures(claims.failures)
    rows = collect(runs, args.out)
    if rows:
        write_csv(rows, args.out / "delay_sweep.csv")
        draw(rows, args.epochs, args.out / "delay_sweep.png")
        print("\nmedian over seeds: final accuracy, epochs to 95 %, seeds that reached it")
        print("\n".join(median_table(rows)))
    return 1 if claims.failures else 0


if __name__ == "__main__":
    sys.exit(main())
