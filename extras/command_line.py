"""Command line of a training script: the 33 parameters as options, the record and its figure as files.

Exit status: 0; 1 the run stopped with an error; 2 bad options; 130 Ctrl-C.
"""

import argparse
import difflib
import os
import re
import sys
import tempfile
from pathlib import Path

from extras.check_parameters import ENGINES, PARAMETERS, Parameters, check_parameters
from extras.checkpoint import CheckpointError
from extras.record import NonFiniteError, load_record, probe
from julia_packages.checks import shown

SEEDS = [name for name, parameter in PARAMETERS.items() if parameter.group == "seeds"]
EXAMPLES = """three commands:
  python {prog} --out out/delay20 --E 3001 --delay 20 --Ep 500
  python {prog} --out out/seed2 --seed 2 --checkpoint out/seed2.npz
  python {prog} --out out/copy --task 0 --delay 40 --quiet"""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message):
        print(f"{self.prog}: error: {message} (see --help)", file=sys.stderr)
        raise SystemExit(2)

    def parse(self, argv):
        argv = join_negative_numbers(argv)
        known = [option for action in self._actions for option in action.option_strings]
        for option in [argument.partition("=")[0] for argument in argv if argument.startswith("--")]:
            if option not in known:
                near = difflib.get_close_matches(option, known, n=1, cutoff=0.3)
                self.error(f"unknown option {shown(option)}" + (f", did you mean {near[0]}?" if near else ""))
        return self.parse_args(argv)


def make_parser(calls, description=None):
    """Parser with an option for each of the 33 parameters. calls: dict word -> Parameters; the first is the default."""
    parser = Parser(
        usage=f"%(prog)s [{'|'.join(calls)}] [--PARAMETER VALUE ...] [--seed N] [--out DIR] [--checkpoint FILE] [--quiet]",
        description=description,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=24, width=110),
    )
    parser.epilog = EXAMPLES.format(prog=parser.prog)
    default_word, defaults = next(iter(calls.items()))
    if len(calls) > 1:
        explained = "; ".join(f"{word}: {differences(call, defaults) or 'the defaults below'}" for word, call in calls.items())
        parser.add_argument("call", nargs="?", choices=list(calls), default=default_word, help=explained)
    for title in dict.fromkeys(parameter.group for parameter in PARAMETERS.values()):
        group = parser.add_argument_group(title)
        for name, parameter in PARAMETERS.items():
            if parameter.group == title:
                add_parameter(group, name, parameter, getattr(defaults, name))
        if title == "seeds":
            group.add_argument("--seed", type=integer, metavar="INTEGER", help="all four of them")
    group = parser.add_argument_group("output and engine (not in the original)")
    group.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder of the files; default out")
    group.add_argument("--engine", choices=ENGINES, default="adjoint", help="which code takes the gradients")
    group.add_argument("--checkpoint", metavar="FILE", help="save the run here, and go on from here if it exists")
    group.add_argument("--show", action="store_true", help="open the figure in a window")
    group.add_argument("--quiet", action="store_true", help="print errors only")
    return parser


def add_parameter(group, name, parameter, default):
    unit = f" [{parameter.unit}]" if parameter.unit else ""
    kind, metavar = (integer, "INTEGER") if parameter.kind is int else (number, "NUMBER")
    group.add_argument(f"--{name}", type=kind, metavar=metavar, help=f"{parameter.meaning}{unit}; default {default}")


def differences(call, other):
    """What differs in a call from another, as text: "E = 3001, Ef = 100"."""
    changed = [f"{name} = {value}" for name, value in call._asdict().items() if value != getattr(other, name)]
    return ", ".join(changed)


def parameters_of(options, calls):
    """The Parameters that the options say: by name, else by --seed, else those of the call."""
    call = calls[getattr(options, "call", next(iter(calls)))]
    if options.seed is not None:
        call = call._replace(**dict.fromkeys(SEEDS, options.seed))
    given = {name: getattr(options, name) for name in Parameters._fields}
    return check_parameters(call._replace(**{name: value for name, value in given.items() if value is not None}))


def run(train, calls, name="record", figure_name=None, description=None, argv=None):
    """Train as the options say, write the record and its figure; returns the record, or ends with SystemExit.

    train: train_rnn_flossing; calls: dict word -> Parameters, the first is the default; name, figure_name: of the
    files, without suffix; argv: options, default sys.argv[1:].
    """
    parser = make_parser(calls, description)
    try:
        return run_parsed(train, calls, name, figure_name, parser, sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def run_parsed(train, calls, name, figure_name, parser, argv):
    options = parser.parse(argv)
    if len(calls) > 1 and options.call != next(iter(calls)):
        name, figure_name = f"{name}_{options.call}", f"{figure_name or name}_{options.call}"
    path, partial = options.out / f"{name}.npz", options.out / f"{name}_partial.npz"
    try:
        parameters = parameters_of(options, calls)
        for file in (path, partial):
            check_not_another_run(file, parameters, options.engine)
        options.out.mkdir(parents=True, exist_ok=True)
        probe(path)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        raise SystemExit(f"{parser.prog}: error: --out {options.out}: {error}") from None
    try:
        record = train(*parameters, engine=options.engine, progress=not options.quiet, checkpoint=options.checkpoint)
        if record.interrupted:
            print(f"the run so far: {save(record, partial)}", file=sys.stderr)
            raise SystemExit(130)
    except (NonFiniteError, CheckpointError) as error:
        kept = f"\nthe run so far: {save(error.record, partial)}" if error.record else ""
        raise SystemExit(f"{parser.prog}: stopped: {error}{kept}") from None
    except ValueError as error:
        parser.error(str(error))
    say = (lambda *args: None) if options.quiet else print
    if len(record.loss):
        say(f"(addition) final loss {record.loss[-1]:.4f}, final accuracy {100 * record.accuracy[-1]:.2f} %")
    say(f"wrote {save(record, path)}")
    partial.unlink(missing_ok=True)
    draw(record, options.out / f"{figure_name or name}.png", say, options.show)
    return record


def check_not_another_run(path, parameters, engine):
    """ValueError if a file lies under `path` that is not the record of a run with the same arguments."""
    if not path.exists():
        return
    how = "choose another --out, or remove it"
    try:
        there = load_record(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} exists and is no record ({error}): {how}") from None
    different = differences(Parameters(**there.parameters), parameters)
    if there.versions["engine"] != engine:
        different += f" engine = {there.versions['engine']}"
    if different:
        raise ValueError(f"{path} holds another run ({different.strip()}): {how}")


def save(record, path):
    """Write the record and return its path; if that fails, into the folder for temporary files, and end."""
    try:
        record.save(path)
        return path
    except OSError as error:
        rescue = Path(tempfile.gettempdir()) / f"{path.stem}_{os.getpid()}.npz"
        record.save(rescue)
        raise SystemExit(f"error: {path} cannot be written ({error}); the record is in {rescue}") from None


def draw(record, path, say, show):
    """The figure of a record that is saved already: whatever goes wrong here costs the figure only."""
    try:
        from extras.figures import overview_figure  # here: matplotlib takes a while

        figure = overview_figure(record)
        figure.savefig(path)
        say(f"wrote {path}")
        if show:
            show_window(figure, path)
    except Exception as error:
        print(f"no figure: {type(error).__name__}: {error}", file=sys.stderr)


def show_window(figure, path):
    import matplotlib.pyplot as plt
    from matplotlib.backends import BackendFilter, backend_registry

    plt.figure(figure)
    if plt.get_backend().lower() in backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE):
        print(f"--show: there is no display; the figure is in {path}", file=sys.stderr)
    plt.show()


def integer(text):
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no integer") from None


def number(text):
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no number") from None


def join_negative_numbers(argv):
    """--gbar -1e-3 as --gbar=-1e-3: argparse takes "-1e-3" for an option."""
    joined = []
    for argument in argv:
        if joined and re.fullmatch(r"--\w+", joined[-1]) and re.fullmatch(r"-[\d.][\d.eE+-]*", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
