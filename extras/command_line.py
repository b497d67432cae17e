"""Command line of a training script: the 33 parameters as options, the record and its figures as files.

Options are generated from the signature of the trainer, their help from extras.check_parameters.PARAMETERS.
Exit status: 0; 1 the run stopped with an error; 2 bad options; 130 Ctrl-C.
"""

import argparse
import inspect
import re
import sys
from pathlib import Path

from extras.check_parameters import ENGINES, PARAMETERS, check_parameters
from extras.checkpoint import CheckpointError
from extras.record import NonFiniteError, load_record

PARTIAL = "_partial"  # ends the name of a record whose run did not


class Parser(argparse.ArgumentParser):
    """Says what is allowed when something is not."""

    def error(self, message):
        options = [action.option_strings[-1] for action in self._actions]
        print(f"{self.prog}: error: {message}\nallowed options: {' '.join(options)}", file=sys.stderr)
        print(f"{self.prog} --help explains them", file=sys.stderr)
        raise SystemExit(2)


def make_parser(train, defaults, description):
    """Parser with an option for each positional parameter of `train`; defaults: their values in order."""
    parser = Parser(
        usage="%(prog)s [--PARAMETER VALUE ...] [--out DIR] [--engine E] [--checkpoint FILE] [--show] [--quiet]",
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [
        name
        for name, parameter in inspect.signature(train).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    groups = {title: parser.add_argument_group(title) for title in dict.fromkeys(PARAMETERS[n].group for n in names)}
    for name, default in zip(names, defaults, strict=True):
        parameter = PARAMETERS[name]
        unit = f" [{parameter.unit}]" if parameter.unit else ""
        groups[parameter.group].add_argument(
            f"--{name}",
            type=parameter.kind,
            default=default,
            metavar="INTEGER" if parameter.kind is int else "NUMBER",
            help=f"{parameter.meaning}{unit}; default {default}",
        )
    group = parser.add_argument_group("output and engine (not in the original)")
    group.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder of the files; default out")
    group.add_argument("--engine", choices=ENGINES, default="adjoint", help="which code takes the gradients")
    group.add_argument("--checkpoint", metavar="FILE", help="save the run here, and go on from here if it exists")
    group.add_argument("--show", action="store_true", help="open the figure in a window")
    group.add_argument("--quiet", action="store_true", help="print errors only")
    return parser, names


def run(train, defaults, description, name="record", figure_name=None, argv=None):
    """Train as the options say, write the record and its figures; returns the record, or ends with SystemExit.

    train: train_rnn_flossing; defaults: its 33 positional arguments; name, figure_name: of the files,
    without suffix; argv: options, default sys.argv[1:].
    """
    parser, names = make_parser(train, defaults, description)
    options = parser.parse_args(join_negative_numbers(sys.argv[1:] if argv is None else argv))
    try:
        parameters = check_parameters({name: getattr(options, name) for name in names})
    except ValueError as error:
        parser.error(str(error))
    partial = options.out / f"{name}{PARTIAL}.npz"
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        record = train(
            *parameters.values(), engine=options.engine, progress=not options.quiet, checkpoint=options.checkpoint
        )
        if record.interrupted:
            record.save(partial)
            go_on = f"\ngo on with the same command ({options.checkpoint})" if options.checkpoint else ""
            print(f"interrupted after {len(record.loss)} epochs, the run so far: {partial}{go_on}", file=sys.stderr)
            raise SystemExit(130)
        partial.unlink(missing_ok=True)
        finish(record, options, name, figure_name or name)
        return record
    except NonFiniteError as error:
        error.record.save(partial)
        raise SystemExit(f"{parser.prog}: stopped: {error}\nthe run so far: {partial}") from None
    except (CheckpointError, OSError) as error:
        raise SystemExit(f"{parser.prog}: error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def finish(record, options, name, figure_name):
    """Print the result and write the record, its figure, and that of all finished records in the same folder."""
    say = (lambda *args: None) if options.quiet else print
    if len(record.loss):
        say(f"(addition) final loss {record.loss[-1]:.4f}, final accuracy {100 * record.accuracy[-1]:.2f} %")
    from extras.figures import overview_figure, training_figure  # here: matplotlib takes a while

    record_path, figure_path = options.out / f"{name}.npz", options.out / f"{figure_name}.png"
    record.save(record_path)
    figure = overview_figure(record)
    figure.savefig(figure_path)
    say(f"wrote {record_path} and {figure_path}")
    records = finished_records(options.out)
    if len(records) > 1:
        comparison = options.out / "comparison.png"
        training_figure(records).savefig(comparison)
        say(f"wrote {comparison}: {', '.join(records)}")
    if options.show:
        show(figure)


def finished_records(folder):
    """Dict name -> record of all files of finished runs in a folder; other files are passed over."""
    records = {}
    for path in sorted(Path(folder).glob("*.npz")):
        if not path.stem.endswith(PARTIAL):
            try:
                records[path.stem] = load_record(path)
            except (OSError, ValueError):  # a checkpoint, say
                continue
    return records


def show(figure):
    import matplotlib.pyplot as plt

    plt.figure(figure)
    plt.show()


def join_negative_numbers(argv):
    """--gbar -1e-3 as --gbar=-1e-3: argparse takes "-1e-3" for an option."""
    joined = []
    for argument in argv:
        if joined and re.fullmatch(r"--\w+", joined[-1]) and re.fullmatch(r"-[\d.][\d.eE+-]*", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
