"""How long a delay can be learned in equal time, without flossing, from an orthogonal J, and with flossing.

    python example_code/experiments/delay_sweep.py                        # all cores of this machine
    python example_code/experiments/delay_sweep.py --tasks xor --delays 10 20 --seeds 1 2 3 --epochs 1001 --jobs 2

Trains the network of the README call for every task, delay, seed and condition, then writes a table and a figure to
--out, beside a record file of every run. Stopped at any point, the same command goes on with what is missing.
On a cluster: `sbatch example_code/experiments/delay_sweep.sbatch`, or as a Kubernetes indexed job
`kubectl apply -f example_code/experiments/delay_sweep.yaml`.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from extras.figures import COLOURS, CONDITIONS as LABELLED, GREY, new_figure  # noqa: E402
from example_code.experiments.sweep import Job, make_parser, sweep, write_csv  # noqa: E402
from gradient_flossing_example import README_CALL  # noqa: E402

TASKS = {"xor": -1, "copy": 0, "parity of 4": -2}  # the parameter `task`
DELAYS = {"xor": (10, 20, 30, 40), "copy": (40,), "parity of 4": (10,)}
CONDITIONS = {  # flossing steps before training (times --preflossing), and of a block every Ef epochs
    "none": dict(),
    "orthogonal": dict(IC=3),
    "preflossing": dict(Ep=1),
    "during": dict(Ep=1, Ei=50),
}
Ef = 100
LABELS = {
    "none": "no flossing", "orthogonal": "no flossing, orthogonal J", "preflossing": "preflossing",
    "during": "flossing before and during training",
}  # fmt: skip
COLOUR = {
    "none": LABELLED["no flossing"], "orthogonal": COLOURS[2], "preflossing": LABELLED["preflossing"],
    "during": LABELLED["flossing during training"],
}  # fmt: skip
MARKER = {"none": "s", "orthogonal": "D", "preflossing": "^", "during": "o"}
FLOSSING_STEP = 2  # time of a flossing step over that of a training epoch, 1.5 to 2 by the benchmark
UNTIL = 0.75  # blocks during this share of the epochs: after a block the accuracy is lower for some time


def arguments_of(task, condition, delay, seed, time, Ep=500, N=80, T=300):
    """The 33 arguments: those of the README call, the epochs being what flossing leaves of `time` (in epochs)."""
    flossing = dict(Ep=0, Ei=0) | CONDITIONS[condition]
    flossing["Ep"] *= Ep
    E = int((time - FLOSSING_STEP * flossing["Ep"]) / (1 + UNTIL * FLOSSING_STEP * flossing["Ei"] / Ef))
    Ni = int(UNTIL * E / Ef) if flossing["Ei"] else 0
    return README_CALL._replace(
        N=N, E=E, Ef=Ef, Ni=Ni, T=T, sIC=seed, sIn=seed, sNet=seed, sONS=seed, delay=delay, nLE=min(75, N),
        task=TASKS[task], **flossing,
    )  # fmt: skip


def make_runs(args):
    """{(task, delay, seed, condition): Job}, seed by seed, so that a sweep that is stopped has whole seeds."""
    return {
        (task, delay, seed, condition): Job(
            f"{task.replace(' ', '_')}_{condition}_delay{delay}_seed{seed}",
            arguments_of(task, condition, delay, seed, args.epochs, args.preflossing, args.neurons, args.steps),
        )
        for seed in args.seeds
        for task in args.tasks
        for delay in args.delays or DELAYS[task]
        for condition in args.conditions
    }


def make_rows(records):
    """One row per run. d: time steps from the oldest bit asked for; time: in training epochs, flossing included."""
    rows = []
    for (task, delay, seed, condition), record in sorted(records.items()):
        learned = record.epoch_learned()
        before = 0 if learned is None else np.sum(record.flossing_epoch <= learned)
        rows.append({
            "task": task, "delay": delay, "d": delay * 2 ** abs(TASKS[task]), "condition": condition, "seed": seed,
            "epochs": len(record.loss), "flossing_steps": len(record.flossing_loss),
            "final_accuracy": record.final_accuracy(), "epoch_learned": learned,
            "time_learned": learned and int(learned + FLOSSING_STEP * before),
        })  # fmt: skip
    return rows


def median_table(rows):
    """Lines of a Markdown table: medians over the seeds, and how many of them learned; none: infinitely late."""
    conditions = [c for c in CONDITIONS if any(r["condition"] == c for r in rows)]
    lines = ["| task | delay (d) | " + " | ".join(LABELS[c] for c in conditions) + " |"]
    lines.append("|---" * (len(conditions) + 2) + "|")
    for task, delay, d in sorted({(r["task"], r["delay"], r["d"]) for r in rows}, key=lambda t: (list(TASKS).index(t[0]), t)):
        cells = [task, f"{delay} ({d})"]
        for c in conditions:
            at = [r for r in rows if (r["task"], r["delay"], r["condition"]) == (task, delay, c)]
            learned = [r["epoch_learned"] or np.inf for r in at]
            epoch, time = (np.median([r[name] or np.inf for r in at]) for name in ("epoch_learned", "time_learned"))
            text = f"epoch {epoch:.0f}, time {time:.0f}" if np.isfinite(epoch) else "never"
            final = 100 * np.median([r["final_accuracy"] for r in at])
            cells.append(f"{final:.1f} %, {text}, {np.isfinite(learned).sum()}/{len(at)}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw(rows, path):
    """Final accuracy, epochs and time to learn at every task and delay: a thin line per seed, a thick one for the median."""
    cells = sorted({(list(TASKS).index(r["task"]), r["delay"]) for r in rows})
    position = {cell: i + 0.6 * cell[0] for i, cell in enumerate(cells)}  # a gap between tasks
    latest = max(r["epochs"] for r in rows)
    never = 1.7 * latest  # where a run that does not learn is drawn
    panels = {
        "final accuracy (%)": lambda r: 100 * r["final_accuracy"],
        "epochs to learn": lambda r: r["epoch_learned"] or never,
        "time to learn (epochs)": lambda r: r["time_learned"] or never,
    }
    with new_figure(9) as figure:
        axes = figure.subplots(3, 1, sharex=True)
        for ax, (name, value) in zip(axes, panels.items()):
            for number, condition in enumerate(c for c in CONDITIONS if any(r["condition"] == c for r in rows)):
                for task in TASKS:
                    mine = [r for r in rows if (r["task"], r["condition"]) == (task, condition)]
                    draw_lines(ax, mine, value, position, condition, shift=0.13 * (number - 1.5))
            ax.set_ylabel(name)
        for ax in axes[1:]:
            label_never(ax, never, latest)
        axes[0].axhline(50, color=GREY, linestyle=":", linewidth=1)
        axes[2].set_xticks(list(position.values()), [f"{list(TASKS)[t]}\ndelay {delay}" for t, delay in cells])
        entries = dict(zip(*reversed(axes[0].get_legend_handles_labels())))  # label -> line, each once
        title = "thin: seeds, thick: median"
        figure.legend(entries.values(), entries, loc="outside upper center", ncols=2, title=title)
    figure.savefig(path)


def label_never(ax, never, latest):
    """Make the axis of epochs logarithmic, with ticks up to `latest` and "never" above them."""
    ax.set(yscale="log", ylim=(None, 1.3 * never))
    ticks = [t for t in (10, 30, 100, 300, 1000, 3000) if ax.get_ylim()[0] < t < latest]
    ax.set_yticks([*ticks, never], [*(f"{t:,}" for t in ticks), "never"])
    ax.set_yticks([], minor=True)


def draw_lines(ax, rows, value, position, condition, shift):
    """Of one task and condition."""
    style = dict(color=COLOUR[condition], marker=MARKER[condition])
    x = {r["delay"]: position[list(TASKS).index(r["task"]), r["delay"]] + shift for r in rows}
    for seed in {r["seed"] for r in rows}:
        points = sorted((x[r["delay"]], value(r)) for r in rows if r["seed"] == seed)
        ax.plot(*zip(*points), linewidth=0.6, markersize=2.5, alpha=0.45, **style)
    median = [np.median([value(r) for r in rows if r["delay"] == delay]) for delay in sorted(x)]
    ax.plot(sorted(x.values()), median, linewidth=2.2, markersize=6, label=LABELS[condition], **style)


def write(records, out):
    """Table and figure of {key: record}."""
    rows = make_rows(records)
    write_csv(rows, out / "delay_sweep.csv")
    draw(rows, out / "delay_sweep.png")
    print("\n".join(["", *median_table(rows)]))


def parse(argv=None):
    parser = make_parser(__doc__.split("\n\n")[0], "out/delay_sweep")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK", help="xor, copy, 'parity of 4'")
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), metavar="CONDITION")
    parser.add_argument("--delays", nargs="+", type=int, help="in time steps; default: those of the table")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(1, 11)))
    parser.add_argument("--epochs", type=int, default=4501, help="time of a run, in training epochs, flossing included")
    parser.add_argument("--preflossing", type=int, metavar="Ep", default=500, help="flossing steps before training")
    parser.add_argument("--neurons", type=int, default=80)
    parser.add_argument("--steps", type=int, default=300, help="time steps per trial")
    return parser.parse_args(argv)


def main(argv=None):
    """Returns the exit status: 0, 1 if a run failed, 130 after Ctrl-C."""
    args = parse(argv)
    return sweep(make_runs(args), args, write)


if __name__ == "__main__":
    sys.exit(main())
