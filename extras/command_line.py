"""Command line of a training script: the 33 parameters as options, the record and its figure as files."""

import argparse
import re
import signal
import sys
import tempfile
from pathlib import Path

from extras.check_parameters import ENGINES, PARAMETERS, Parameters, check_parameters
from extras.checkpoint import CheckpointError, differing
from extras.files import locked
from extras.progress import say
from extras.record import NonFiniteError, Stopped, Terminated, load_record
from extras.signals import ctrl_c_ends_at_once, handled
from julia_packages.checks import shown

EPILOG = """\
Ctrl-C, SIGTERM and SIGHUP end a run after the step under way: the record so far is written to --out, and with
--checkpoint the same command goes on from there.
Exit status: 0; 1 the run stopped with an error; 2 bad options; 130 Ctrl-C; 143 SIGTERM; 129 SIGHUP."""


def make_parser(calls, description=None):
    """Parser with an option for each of the 33 parameters. calls: dict word -> Parameters; the first is the default."""
    parser = argparse.ArgumentParser(
        description=description, epilog=EPILOG, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.usage = f"%(prog)s [{'|'.join(calls)}] [--PARAMETER VALUE ...] [--out DIR] [--checkpoint FILE] [--quiet]"
    parser._negative_number_matcher = re.compile(r"-[\d.]")  # else -1e-3 is taken for an option
    default, defaults = next(iter(calls.items()))
    words = [f"{word}: {differing(call._asdict(), defaults._asdict()) or 'the defaults'}" for word, call in calls.items()]
    parser.add_argument("call", nargs="?", default=default, help="; ".join(words))
    groups = {title: parser.add_argument_group(title) for title in dict.fromkeys(p.group for p in PARAMETERS.values())}
    for name, p in PARAMETERS.items():
        text = f"{p.meaning}{f' [{p.unit}]' if p.unit else ''}; default {getattr(defaults, name)}"
        groups[p.group].add_argument(f"--{name}", type=p.kind, metavar=p.kind.__name__.upper(), help=text)
    group = parser.add_argument_group("output and engine (not in the original)")
    group.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="folder of the files; default out")
    group.add_argument("--engine", choices=ENGINES, default="adjoint", help="which code takes the gradients")
    group.add_argument("--checkpoint", metavar="FILE", help="save the run here, and go on from here if it exists")
    group.add_argument("--quiet", action="store_true", help="print errors only")
    return parser


def parameters_of(options, calls):
    """The Parameters that the options say: by name, else those of the call."""
    if options.call not in calls:
        raise ValueError(f"call = {shown(options.call)}: must be one of {', '.join(calls)}")
    given = {name: value for name in PARAMETERS if (value := getattr(options, name)) is not None}
    return check_parameters(calls[options.call]._replace(**given))


def train_command(train, calls, name="record", figure_name=None, description=None, argv=None):
    """Train as the options say, write the record and its figure; returns the record, or ends with SystemExit.

    train: train_rnn_flossing; calls: dict word -> Parameters, the first is the default; name, figure_name: of the
    files, without suffix; argv: options, default sys.argv[1:].
    """
    ctrl_c_ends_at_once(False)
    parser = make_parser(calls, description)
    options = parser.parse_args(argv)
    word = "" if options.call == next(iter(calls)) else f"_{options.call}"
    path, figure = options.out / f"{name}{word}.npz", options.out / f"{figure_name or name}{word}.png"
    tell = (lambda text: None) if options.quiet else say
    try:
        parameters = parameters_of(options, calls)
        options.out.mkdir(parents=True, exist_ok=True)
        with locked(path):
            record = train_and_save(train, parameters, options, path)
            tell(f"(addition) {record.summary()}\nwrote {path}")
            from extras.figures import overview_figure  # here: matplotlib takes a while

            overview_figure(record).savefig(figure)
            tell(f"wrote {figure}")
            return record
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (NonFiniteError, CheckpointError) as error:
        raise SystemExit(f"{parser.prog}: stopped: {error}") from None
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        raise SystemExit(f"{parser.prog}: error: --out {options.out}: {error}") from None


def train_and_save(train, parameters, options, path):
    """The record, written to `path`; what there is of it, if the run ends early, is written beside it.

    ValueError if there is a file already, unless it is a record of the same run: that is replaced.
    """
    partial = path.with_stem(f"{path.stem}_partial")
    for file in filter(Path.exists, (path, partial)):
        there, here = load_record(file), parameters._asdict() | {"engine": options.engine}
        if different := differing(there.parameters | {"engine": there.versions["engine"]}, here):
            raise ValueError(f"{file} holds another run ({different}): choose another --out, or remove it")
    try:
        record = train(*parameters, engine=options.engine, progress=not options.quiet, checkpoint=options.checkpoint)
        if record.interrupted:
            raise Terminated(128 + signal.SIGINT, record)
    except Stopped as error:
        if error.record is not None:
            say(f"the run so far: {save(error.record, partial)}", sys.stderr)
        raise
    save(record, path)
    partial.unlink(missing_ok=True)
    return record


def save(record, path):
    """Write the record and return its path, whatever signals come; if that fails, write it elsewhere, and end."""
    with handled(lambda number, frame: None):
        try:
            record.save(path)
            return path
        except OSError as error:
            reason = f"error: {path} cannot be written ({error})"
        rescue = Path(tempfile.mkdtemp(), path.name)  # a folder that is this user's only
        record.save(rescue)
        raise SystemExit(f"{reason}; the record is in {rescue}")
