"""What the experiments have in common: the call, the command line of a sweep, its table and figure, plots of seeds."""

import argparse
import csv
import io
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from example_code.experiments.sweep import Job, do_all  # noqa: F401  (scripts take Job from here)
from extras.figures import COLOURS, new_figure
from extras.files import write_atomically
from gradient_flossing_example import README_CALL


def readme_call(seed, **changes):
    """The 33 arguments of the README call with one seed for all four streams, and what else differs."""
    return README_CALL._replace(sIC=seed, sIn=seed, sNet=seed, sONS=seed, **changes)


@dataclass(frozen=True)
class Experiment:
    """A sweep with its settings, table and figure; its script ends by sys.exit(EXPERIMENT.main())."""

    name: str  # of its folder and its files
    description: str | None  # the docstring of its script; None under python -OO
    settings: dict  # option -> default: a number, a list of integers, or the list of all words that can be chosen
    quick: dict  # what --quick sets instead
    make_jobs: Callable  # args -> pairs of key and Job
    make_rows: Callable  # key, record -> rows of the table, dicts
    summary: Callable  # rows -> lines of Markdown
    draw: Callable  # dict key -> record, rows -> Figure

    def parse(self, argv=None):
        parser = argparse.ArgumentParser(description=self.description, formatter_class=argparse.RawDescriptionHelpFormatter)
        for name, default in self.settings.items():
            first, nargs = (default[0], "+") if isinstance(default, list) else (default, None)
            keywords = dict(type=type(first), nargs=nargs, choices=default if isinstance(first, str) else None)
            parser.add_argument(f"--{name}", default=default, help=f"default: {default}", **keywords)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        parser.add_argument("--jobs", type=int, default=cores, help="runs at a time")
        parser.add_argument("--shard", type=shard, default=shard_of_array(os.environ), metavar="I/N",
                            help="the runs I, I + N, ... only; an array of Slurm or Kubernetes sets it")  # fmt: skip
        parser.add_argument("--out", type=Path, default=Path("out", self.name), help="folder of records, table and figure")
        parser.add_argument("--quick", action="store_true", help="small runs: less than two minutes, a folder of their own")
        if parser.parse_args(argv).quick:
            parser.set_defaults(out=Path("out", f"{self.name}_quick"), **self.quick)
        args = parser.parse_args(argv)
        if args.jobs < 1:
            parser.error(f"--jobs {args.jobs}: must be at least 1")
        if args.out.is_file():
            parser.error(f"--out {args.out}: must be a folder")
        return args

    def main(self, argv=None):
        """Do this shard's jobs, write what they say; returns 0, 1 if a run failed, 130 after Ctrl-C."""
        args = self.parse(argv)
        jobs, out, (index, count) = dict(self.make_jobs(args)), args.out.resolve(), args.shard
        out.mkdir(parents=True, exist_ok=True)
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
            self.write(records, out)
        return 1 if failed else 0

    def write(self, records, out):
        """Write table and figure; print the summary."""
        table, figure = out / f"{self.name}.csv", out / f"{self.name}.png"
        rows, text = [row for key, record in records.items() for row in self.make_rows(key, record)], io.StringIO()
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


def by(rows, *names):
    """{values of these columns, or of functions of a row: rows}, in the order of the rows."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(name(row) if callable(name) else row[name] for name in names), []).append(row)
    return groups


def pivot(rows, names, line, column, cell):
    """Lines of a Markdown table of cell(rows), by line(row), the first cells, under `names`, and column(row), the header."""
    groups = by(rows, line, column)
    lines, columns = map(dict.fromkeys, zip(*groups))
    cells = [[cell(groups[i, j]) if (i, j) in groups else "-" for j in columns] for i in lines]
    return markdown([*names, *columns], [[*line, *mine] for line, mine in zip(lines, cells)])


def outcome(rows):
    """Medians, and how many learned: "99.8 %, epoch 74, time 1074, 9/10"; "never": half of the runs do not learn."""
    median = lambda name: np.median([np.inf if row[name] is None else row[name] for row in rows])  # noqa: E731
    at = [f"{name} {median(f'{name}_learned'):.0f}" for name in ("epoch", "time") if f"{name}_learned" in rows[0]]
    when = ["never"] if np.isinf(median("epoch_learned")) else at
    count = sum(row["epoch_learned"] is not None for row in rows)
    return ", ".join([f"{100 * median('final_accuracy'):.1f} %", *when, f"{count}/{len(rows)}"])


def draw_dots(panels, line, colour, x=lambda r: 100 * r["final_accuracy"]):
    """Figure of a panel for each of a dict title -> rows: a dot for each row, or a cross if it has not learned.

    line(row): texts of its line; colour(row): what has a colour of its own; x(row): by default the final accuracy in percent.
    """
    lines = list(by([r for rows in panels.values() for r in rows], line))
    with new_figure(1.6 + 0.2 * len(lines)) as figure:
        for ax, (title, rows) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items()):
            for i, (((label,), mine), color) in enumerate(zip(by(rows, colour).items(), COLOURS)):
                for r in mine:
                    marker, y = "x" if r["epoch_learned"] is None else "o", lines.index((line(r),)) + i / 8
                    ax.plot(x(r), y, marker, color=color, fillstyle="none", markersize=4)
                ax.plot([], [], "o", color=color, label=label)
            ax.set_title(title, fontsize=8)
            ax.set_yticks(range(len(lines)), [", ".join(texts) for (texts,) in lines])
            ax.tick_params(labelsize=7)
            ax.locator_params(axis="x", nbins=8 // len(panels))
            ax.legend(fontsize=7, ncols=8 // len(panels), loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=3)
        ax.invert_yaxis()
    return figure


def draw_seeds(ax, x, curves, label, color, marker=None):
    """Thin lines for the seeds, and a thick one for their median."""
    for curve in curves:
        ax.plot(x, curve, color=color, marker=marker, linewidth=0.5, markersize=2.5, alpha=0.4)
    ax.plot(x, np.nanmedian(curves, axis=0), color=color, marker=marker, linewidth=1.8, markersize=5, label=label)
