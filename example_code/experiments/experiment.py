"""What the experiments have in common: the call, the command line of a sweep, tables, and how seeds are drawn."""

import argparse
import csv
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from example_code.experiments.sweep import Job, do_all  # noqa: F401  (scripts take Job from here)
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
        args = parser.parse_args(argv)
        if args.quick:
            parser.set_defaults(out=Path("out", f"{self.name}_quick"), **self.quick)
            args = parser.parse_args(argv)
        return args

    def main(self, argv=None):
        """Do this shard's share of the jobs, then write what they say.

        Returns the exit status: 0; 1 if a run failed; 2 if --jobs or --out will not do; 130 after Ctrl-C.
        """
        args = self.parse(argv)
        jobs, out, (index, count) = self.make_jobs(args), args.out.resolve(), args.shard
        try:
            if args.jobs < 1:
                raise ValueError(f"--jobs {args.jobs}: must be at least 1")
            out.mkdir(parents=True, exist_ok=True)
            self.check_table(jobs, out)
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
        for key in records:  # left there if a process was killed between saving and cleaning up
            shutil.rmtree(jobs[key].unfinished(out), ignore_errors=True)
        if records and (count == 1 or len(records) == len(jobs)):
            self.write(jobs, records, out)
        return 1 if failed else 0

    def check_table(self, jobs, out):
        """ValueError if the table there has runs that are not among the jobs: it would be replaced by one without them."""
        listed, table = out / f"{self.name}_runs.txt", out / f"{self.name}.csv"
        if table.exists():
            there = listed.read_text().splitlines() if listed.exists() else ["unknown ones"]
            if others := set(there) - {job.path(out).name for job in jobs.values()}:
                raise ValueError(f"--out: {table} is of {len(others)} other runs, as {min(others)}; choose another")

    def write(self, jobs, records, out):
        listed, table, figure = (out / f"{self.name}{ending}" for ending in ("_runs.txt", ".csv", ".png"))
        rows = self.make_rows(records)
        write_atomically(listed, "".join(f"{jobs[key].path(out).name}\n" for key in records).encode())
        write_csv(rows, table)
        self.draw(records, rows).savefig(figure)
        print("\n".join(["", *self.summary(rows), ""]))
        print(f"wrote {table}\nwrote {figure}\nwrote {len(records)} records, listed in {listed}")


def shard(text):
    index, count = map(int, text.split("/"))
    if not 0 <= index < count:
        raise argparse.ArgumentTypeError(f"{text}: must be I/N with 0 <= I < N")
    return index, count


def shard_of_array(env):
    if "SLURM_ARRAY_TASK_ID" in env:
        return f"{int(env['SLURM_ARRAY_TASK_ID']) - int(env['SLURM_ARRAY_TASK_MIN'])}/{env['SLURM_ARRAY_TASK_COUNT']}"
    return f"{env.get('JOB_COMPLETION_INDEX', 0)}/{env.get('JOB_COMPLETIONS', 1)}"  # the count: by the job's file


def write_csv(rows, path):
    """Rows (dicts) with all digits of the floats, so that two sweeps can be compared bit for bit."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def markdown(header, rows):
    """Lines of a Markdown table."""
    first, *others = ["| " + " | ".join(map(str, cells)) + " |" for cells in (header, *rows)]
    return [first, "|---" * len(header) + "|", *others]


def learned(rows):
    """The median of the epochs learned, "epoch 74", or "never" if half of the runs do not learn; and how many do, "9/10"."""
    epochs = [row["epoch_learned"] or np.inf for row in rows]
    median = np.median(epochs)
    return f"epoch {median:.0f}" if np.isfinite(median) else "never", f"{np.isfinite(epochs).sum()}/{len(epochs)}"


def outcome(rows):
    """Of the runs of all seeds, medians and how many learned: "99.8 %, epoch 74, time 1074, 9/10"; "-" without runs."""
    if not rows:
        return "-"
    epoch, count = learned(rows)
    if epoch != "never" and "time_learned" in rows[0]:
        epoch += f", time {np.median([r['time_learned'] or np.inf for r in rows]):.0f}"
    return f"{100 * np.median([r['final_accuracy'] for r in rows]):.1f} %, {epoch}, {count}"


def by_seed(rows, name, value):
    """The values of a column, and for each seed the curve of value(row) against them; NaN where there is no row."""
    x, found = sorted({row[name] for row in rows}), {(row["seed"], row[name]): value(row) for row in rows}
    return x, [[found.get((seed, at), np.nan) for at in x] for seed in dict.fromkeys(row["seed"] for row in rows)]


def by(rows, *names):
    """{values of these columns: rows}, in the order of the rows."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row)
    return groups


def draw_seeds(ax, x, curves, label, color, marker=None):
    """Thin lines for the seeds, if there are any, and a thick one for their median."""
    for curve in curves:
        ax.plot(x, curve, color=color, marker=marker, linewidth=0.5, markersize=2.5, alpha=0.4)
    if curves:
        ax.plot(x, np.nanmedian(curves, axis=0), color=color, marker=marker, linewidth=1.8, markersize=5, label=label)


def label_never(ax, never):
    """Make the axis of epochs logarithmic, with ticks and above them, at the number `never`, the word."""
    ax.set(yscale="log", ylim=(None, 1.3 * never))
    ticks = [t for t in (10, 30, 100, 300, 1000, 3000) if ax.get_ylim()[0] < t < never / 1.5]
    ax.set_yticks([*ticks, never], [*(f"{t:,}" for t in ticks), "never"])
    ax.set_yticks([], minor=True)
