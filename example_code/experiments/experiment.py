"""What the experiments have in common: the call, the command line of a sweep, its table and figure, how seeds are drawn."""

import argparse
import csv
import io
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from example_code.experiments.sweep import Job, do_all  # noqa: F401  (scripts take Job from here)
from extras.figures import GREY, new_figure
from extras.files import write_atomically
from gradient_flossing_example import README_CALL


def readme_call(seed, **changes):
    """The 33 arguments of the README call with one seed for all four streams, and what else differs."""
    return README_CALL._replace(sIC=seed, sIn=seed, sNet=seed, sONS=seed, **changes)


@dataclass(frozen=True)
class Experiment:
    """A sweep with its options, table and figure; its script ends by sys.exit(EXPERIMENT.main())."""

    name: str  # of its folder and its files
    description: str | None  # the docstring of its script; None under python -OO
    options: dict  # "--option" -> keywords of add_argument
    quick: dict  # what --quick sets instead of the defaults
    make_jobs: Callable  # args -> dict key -> Job
    make_rows: Callable  # dict key -> record -> rows of the table, dicts
    summary: Callable  # rows -> lines of Markdown
    draw: Callable  # records, rows -> Figure

    def parse(self, argv=None):
        parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        parser.description = (self.description or self.name).split("\n\n")[0]
        for option, keywords in self.options.items():
            parser.add_argument(option, **keywords)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        parser.add_argument("--jobs", type=int, default=cores, help="runs at a time")
        parser.add_argument("--shard", type=shard, default=shard_of_array(os.environ), metavar="I/N",
                            help="the runs I, I + N, ... only; an array of Slurm or Kubernetes sets it")  # fmt: skip
        parser.add_argument("--out", type=Path, default=Path("out", self.name), help="folder of records, table and figure")
        parser.add_argument("--quick", action="store_true", help="small runs: less than two minutes, a folder of their own")
        if parser.parse_args(argv).quick:
            parser.set_defaults(out=Path("out", f"{self.name}_quick"), **self.quick)
        return parser.parse_args(argv)

    def main(self, argv=None):
        """Do this shard's jobs, write what they say; returns 0, 1 if a run failed, 2 if it cannot begin, 130 after Ctrl-C."""
        args = self.parse(argv)
        jobs, out, (index, count) = self.make_jobs(args), args.out.resolve(), args.shard
        listed = out / f"{self.name}_runs.txt"  # the runs of the table there
        try:
            if args.jobs < 1:
                raise ValueError(f"--jobs {args.jobs}: must be at least 1")
            out.mkdir(parents=True, exist_ok=True)
            there = set(listed.read_text().splitlines()) if listed.exists() else set()
            if others := there - {job.path(out).name for job in jobs.values()}:
                raise ValueError(f"--out {out}: its table has {len(others)} other runs, as {min(others)}; choose another")
        except (OSError, ValueError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception: the processes are ended before this one
        try:
            failed = do_all(list(jobs.values())[index::count], out, args.jobs)
        except KeyboardInterrupt:
            print("\nstopped: the same command goes on", file=sys.stderr)
            return 130
        for job, error in failed.items():
            print(f"FAILED {job.label}: {job.function}{tuple(job.arguments)}\n    {error}", file=sys.stderr)
        records = {key: record for key, job in jobs.items() if (record := job.record(out)) is not None}
        if records and (count == 1 or len(records) == len(jobs)):
            write_atomically(listed, "".join(f"{jobs[key].path(out).name}\n" for key in records).encode())
            self.write(records, out)
            print(f"wrote {len(records)} records, listed in {listed}")
        return 1 if failed else 0

    def write(self, records, out):
        """Write table and figure; print the summary."""
        table, figure = out / f"{self.name}.csv", out / f"{self.name}.png"
        rows, text = self.make_rows(records), io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")  # with all digits: sweeps can be compared bit for bit
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(table, text.getvalue().encode())
        self.draw(records, rows).savefig(figure)
        print("\n".join(["", *self.summary(rows), "", f"wrote {table}", f"wrote {figure}"]))


def shard(text):
    index, count = map(int, text.split("/"))
    if not 0 <= index < count:
        raise argparse.ArgumentTypeError(f"{text}: must be I/N with 0 <= I < N")
    return index, count


def shard_of_array(env):
    if "SLURM_ARRAY_TASK_ID" in env:
        return f"{int(env['SLURM_ARRAY_TASK_ID']) - int(env['SLURM_ARRAY_TASK_MIN'])}/{env['SLURM_ARRAY_TASK_COUNT']}"
    return f"{env.get('JOB_COMPLETION_INDEX', 0)}/{env.get('JOB_COMPLETIONS', 1)}"  # the count: by the job's file


def markdown(header, rows):
    """Lines of a Markdown table."""
    first, *others = ["| " + " | ".join(map(str, cells)) + " |" for cells in (header, *rows)]
    return [first, "|---" * len(header) + "|", *others]


def learned(rows):
    """The median of the epochs learned, "epoch 74", or "never" if half of the runs do not learn; and how many do, "9/10"."""
    epochs = [row["epoch_learned"] or np.inf for row in rows]
    median = np.median(epochs)
    return f"epoch {median:.0f}" if np.isfinite(median) else "never", f"{np.isfinite(epochs).sum()}/{len(epochs)}"


def outcomes(rows, names, line, column):
    """Lines of a Markdown table of medians over seeds, and how many learned: "99.8 %, epoch 74, time 1074, 9/10".

    line(row): the first cells, in columns called `names`; column(row): the header of the row's column.
    """
    cells = by(rows, line, column)
    for cell, mine in cells.items():
        epoch, count = learned(mine)
        if epoch != "never" and "time_learned" in mine[0]:
            epoch += f", time {np.median([r['time_learned'] or np.inf for r in mine]):.0f}"
        cells[cell] = f"{100 * np.median([r['final_accuracy'] for r in mine]):.1f} %, {epoch}, {count}"
    lines, columns = map(dict.fromkeys, zip(*cells))
    return markdown([*names, *columns], [[*i, *(cells.get((i, j), "-") for j in columns)] for i in lines])


def by(rows, *names):
    """{values of these columns, or of functions of a row: rows}, in the order of the rows."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(name(row) if callable(name) else row[name] for name in names), []).append(row)
    return groups


def draw_seeds(ax, x, curves, label, color, marker=None):
    """Thin lines for the seeds, and a thick one for their median."""
    for curve in curves:
        ax.plot(x, curve, color=color, marker=marker, linewidth=0.5, markersize=2.5, alpha=0.4)
    ax.plot(x, np.nanmedian(curves, axis=0), color=color, marker=marker, linewidth=1.8, markersize=5, label=label)


def draw_outcomes(rows, groups, x, **axis):
    """Figure of final accuracy, epochs and time to learn against x(row). groups: (rows, label, colour, marker)."""
    never = 1.7 * max(r["epochs"] for r in rows)  # where a run that does not learn is drawn
    names = dict(final_accuracy="final accuracy (%)", epoch_learned="epochs to learn", time_learned="time to learn (epochs)")
    names = {column: name for column, name in names.items() if column in rows[0]}
    with new_figure(3 * len(names)) as figure:
        axes = figure.subplots(len(names), 1, sharex=True)
        for (ax, (column, name)), (mine, *style) in product(zip(axes, names.items()), groups):
            found = {(r["seed"], x(r)): never if r[column] is None else r[column] for r in mine}
            at = sorted(set(map(x, mine)))
            curves = [[found.get((seed, i), np.nan) for i in at] for (seed,) in by(mine, "seed")]
            draw_seeds(ax, at, np.multiply(curves, 100 if ax is axes[0] else 1), *style)
            ax.set_ylabel(name)
        axes[0].axhline(50, color=GREY, linestyle=":", linewidth=1)
        for ax in axes[1:]:
            ax.set(yscale="log", ylim=(None, 1.3 * never))
            ticks = [t for t in (10, 30, 100, 300, 1000, 3000) if ax.get_ylim()[0] < t < never / 1.5]
            ax.set_yticks([*ticks, never], [*(f"{t:,}" for t in ticks), "never"])
            ax.set_yticks([], minor=True)
        axes[-1].set(**axis)
        entries = dict(zip(*reversed(axes[0].get_legend_handles_labels())))  # label -> line, each once
        figure.legend(entries.values(), entries, loc="outside upper center", ncols=2, title="thin: seeds, thick: median")
    return figure
