"""The command line: every parameter by its name, clear refusals, and the files that it leaves."""

import errno
import inspect
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import pytest

import gradient_flossing_example as port
from extras import command_line, figures
from extras.check_parameters import PARAMETERS, Parameters
from extras.command_line import make_parser, parameters_of, train_command
from extras.files import locked
from extras.record import TrainingRecord, load_record
from gradient_flossing_example import LONG_README_CALL, README_CALL, train_rnn_flossing
from tests.conftest import ROOT, short_call

pytestmark = pytest.mark.usefixtures("usual_signals")
CALLS = {"short": README_CALL, "long": LONG_README_CALL}
SHORT = Parameters(**short_call())
EXAMPLES = ("no_flossing", "preflossing", "flossing_during_training")


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch):
    """Figures that take no time; test_figures.py draws real ones."""
    figure = SimpleNamespace(savefig=lambda path: path.write_bytes(b""))
    monkeypatch.setattr(figures, "overview_figure", lambda record: figure)


def parsed(*argv):
    return parameters_of(make_parser(CALLS).parse_args(argv), CALLS)


def command(argv, tmp_path, **options):
    return train_command(train_rnn_flossing, {"default": SHORT}, argv=[*argv, "--out", str(tmp_path)], **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def refusal(argv, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        command(argv, tmp_path / "out")
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    error = capsys.readouterr().err
    usage, says = error.splitlines()
    assert usage.startswith("usage: ") and len(says) < 300
    return says


def test_the_two_calls_of_the_readme():
    assert parsed() == parsed("short") == README_CALL
    assert parsed("long") == LONG_README_CALL == README_CALL._replace(E=3001, Ef=100, Ei=500, Ep=500)
    assert parsed("long", "--E", "7") == LONG_README_CALL._replace(E=7)


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_parameter_is_an_option(name):
    default = getattr(README_CALL, name)
    value = {"S": 1, "IC": 3, "nLE": 20, "N": 90}.get(name, default + 1 if isinstance(default, int) else abs(default - 0.25))
    assert parsed(f"--{name}", str(value)) == README_CALL._replace(**{name: value})


def test_the_parameters_are_the_signature():
    assert list(inspect.signature(train_rnn_flossing).parameters)[:33] == list(PARAMETERS)


def test_help_explains_each_option(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = make_parser(CALLS).format_help()
    for name, parameter in PARAMETERS.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"  --{name} ")]
        assert parameter.meaning in line and (not parameter.unit or f"[{parameter.unit}]" in line)
        assert line.endswith(f"default {getattr(README_CALL, name)}")
    for title in {p.group for p in PARAMETERS.values()}:
        assert f"\n{title}:\n" in text
    for option in ("--out", "--engine", "--checkpoint", "--quiet"):
        assert option in text
    assert "short: the defaults; long: E = 3001, Ef = 100, Ei = 500, Ep = 500\n" in text
    assert max(map(len, text.splitlines())) <= 120
    for status in ("130 Ctrl-C", f"{128 + signal.SIGTERM} SIGTERM", f"{128 + signal.SIGHUP} SIGHUP"):
        assert status in text


@pytest.mark.parametrize("argv, says", [
    (["--epochs", "3"], "unrecognized arguments: --epochs"), (["--dela=3"], "unrecognized arguments: --dela"),
    (["longer"], "call = 'longer': must be one of default"),
    (["--E", "3.5"], "--E: invalid int value: '3.5'"), (["--lr", "fast"], "--lr: invalid float value: 'fast'"),
    (["--E"], "--E"), (["--engine", "jax"], "jax"), (["--E", "-1"], "E must be an integer >= 0, got -1"),
    (["--N", "nan"], "--N"), (["--T", "10"], "T = 10: must be > 10"),
    (["--S", "2"], "S = 2: must be 1"), (["--g", "nan"], "g must be a number from -1e+34 to 1e+34, got nan"),
])  # fmt: skip
def test_what_is_not_allowed_is_refused_below_the_usage(argv, says, tmp_path, capsys):
    assert says in refusal(argv, tmp_path, capsys)


def test_negative_numbers_are_values():
    given = parsed("--gbar", "-1e-3", "--task", "-2", "--bM", "-.5", "--wsM", "-1E+2", "--g", "-3")
    assert given == README_CALL._replace(gbar=-1e-3, task=-2, bM=-0.5, wsM=-100.0, g=-3.0)


def test_it_writes_record_and_figure_and_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    record = command(["--E", "4"], tmp_path, figure_name="figure")
    assert load_record(tmp_path / "record.npz") == record and record.parameters["E"] == 4
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    end = f"(addition) {record.summary()}\nwrote {tmp_path / 'record.npz'}\nwrote {tmp_path / 'figure.png'}\n"
    assert capsys.readouterr().out.endswith(end)
    assert names(tmp_path) == ["figure.png", "record.npz"]


def test_another_run_is_not_overwritten_and_the_same_one_is(tmp_path, capsys):
    first = command([], tmp_path)
    assert command([], tmp_path) == first
    for argv, differs in ((["--E", "4"], "E = 6"), (["--engine", "autograd"], "engine = 'adjoint'")):
        with pytest.raises(SystemExit) as ended:
            command(argv, tmp_path)
        assert ended.value.code == 2
        assert f"record.npz holds another run ({differs}): choose another --out, or remove it" in capsys.readouterr().err
    assert load_record(tmp_path / "record.npz") == first
    (tmp_path / "record.npz").write_text("notes")
    with pytest.raises(SystemExit):
        command([], tmp_path)
    assert (tmp_path / "record.npz").read_text() == "notes" and "record.npz: damaged, or not" in capsys.readouterr().err


def test_the_long_call_has_files_of_its_own(tmp_path):
    calls = {"short": SHORT, "long": SHORT._replace(E=7)}
    argv = ["--out", str(tmp_path), "--quiet"]
    assert train_command(train_rnn_flossing, calls, figure_name="figure", argv=argv).parameters["E"] == 6
    assert train_command(train_rnn_flossing, calls, figure_name="figure", argv=["long", *argv]).parameters["E"] == 7
    assert names(tmp_path) == ["figure.png", "figure_long.png", "record.npz", "record_long.npz"]


def test_a_figure_that_cannot_be_written_costs_the_figure_only(tmp_path, capsys):
    (tmp_path / "record.png").mkdir()
    with pytest.raises(SystemExit, match=r"error: --out .*record.png"):
        command([], tmp_path)
    assert capsys.readouterr().out.endswith(f"wrote {tmp_path / 'record.npz'}\n")
    assert load_record(tmp_path / "record.npz") == train_rnn_flossing(*SHORT, progress=False)


def test_a_place_that_cannot_be_written_is_said_before_the_work(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(SystemExit, match="--out"):
            command([], out)
    assert capsys.readouterr().out == ""


def test_a_fifo_is_refused_at_once(tmp_path, capsys):
    os.mkfifo(tmp_path / "record.npz")
    with pytest.raises(SystemExit, match="--out .*record.npz: is no regular file"):
        command([], tmp_path)
    assert capsys.readouterr().out == "" and names(tmp_path) == ["record.npz"]


def test_one_folder_serves_one_run_at_a_time(tmp_path, capsys):
    with locked(tmp_path / "record.npz"), pytest.raises(SystemExit, match="--out .*record.npz: another run is using it"):
        command([], tmp_path)
    assert capsys.readouterr().out == "" and names(tmp_path) == []
    command([], tmp_path)


def test_what_cannot_be_written_is_rescued_under_a_name_that_nobody_foresees(tmp_path, monkeypatch):
    record = train_rnn_flossing(*SHORT, progress=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for _ in range(2):
        with pytest.raises(SystemExit, match=r"^error: .*record.npz cannot be written \(.*\); the record is in .*npz$"):
            command_line.save(record, tmp_path / "none" / "record.npz")
    one, other = tmp_path.glob("*/record.npz")
    assert str(os.getpid()) not in one.parent.name and one != other
    assert one.parent.stat().st_mode & 0o777 == 0o700 and load_record(one) == record


def test_where_nothing_can_be_written_one_line_says_so(tmp_path, monkeypatch):
    def full(record, path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(TrainingRecord, "save", full)
    with pytest.raises(SystemExit) as ended:
        command([], tmp_path)
    message = r"\S+: error: --out \S+: \[Errno 28\] No space left on device: '\S+record.npz'"
    assert re.fullmatch(message, ended.value.code)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_last_save_costs_nothing(number, tmp_path, monkeypatch):
    right = os.fsync

    def pressing(descriptor):
        signal.raise_signal(number)
        signal.raise_signal(number)
        return right(descriptor)

    monkeypatch.setattr(os, "fsync", pressing)
    assert command([], tmp_path) == load_record(tmp_path / "record.npz")
    assert names(tmp_path) == ["record.npz", "record.png"]


def test_quiet_prints_nothing(tmp_path, capsys):
    command(["--quiet"], tmp_path)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


def test_a_run_that_explodes_keeps_what_it_has(tmp_path, capsys):
    with pytest.raises(SystemExit, match="stopped: epoch .* infinite or NaN"):
        command(["--lr", "1e34", "--E", "30", "--quiet"], tmp_path)
    assert capsys.readouterr().err == f"the run so far: {tmp_path / 'record_partial.npz'}\n"
    assert len(load_record(tmp_path / "record_partial.npz").loss) < 30 and names(tmp_path) == ["record_partial.npz"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_leaves_what_there_is_and_the_same_command_goes_on(name, tmp_path, capsys):
    """The run so far is of use to the next command only by its checkpoint; when that has ended, it goes."""
    number, checkpoint = getattr(signal, name), ["--checkpoint", str(tmp_path / "run.npz")]

    def interrupted(*parameters, **options):
        with pytest.MonkeyPatch.context() as patch:
            right = port.train_with_accuracy
            patch.setattr(port, "train_with_accuracy", lambda *args: (signal.raise_signal(number), right(*args)))
            return train_rnn_flossing(*parameters, **options)

    with pytest.raises(SystemExit) as ended:
        train_command(interrupted, {"default": SHORT}, argv=[*checkpoint, "--out", str(tmp_path / "out")])
    assert ended.value.code == 128 + number
    partial = tmp_path / "out" / "record_partial.npz"
    assert capsys.readouterr().err == f"the run so far: {partial}\n"
    assert load_record(partial).interrupted and names(tmp_path / "out") == ["record_partial.npz"]
    assert command(checkpoint, tmp_path / "out") == train_rnn_flossing(*SHORT, progress=False)
    assert names(tmp_path / "out") == ["record.npz", "record.png"]


def test_a_partial_record_of_another_run_is_not_overwritten(tmp_path, capsys):
    train_rnn_flossing(*SHORT._replace(E=3), progress=False).save(tmp_path / "record_partial.npz")
    with pytest.raises(SystemExit):
        command([], tmp_path)
    assert "record_partial.npz holds another run (E = 3): choose another --out, or remove it" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_an_error_in_one_line(tmp_path, capsys):
    train_rnn_flossing(*SHORT, progress=False, checkpoint=tmp_path / "run.npz")
    message = f"stopped: checkpoint = {tmp_path / 'run.npz'}: checkpoint of another run, left as it is: E = 6$"
    with pytest.raises(SystemExit, match=message):
        command(["--E", "7", "--checkpoint", str(tmp_path / "run.npz")], tmp_path)
    assert capsys.readouterr().out == "" and names(tmp_path) == ["run.npz"]


# ------------------------------------------------------------------ the scripts

SMALL = "--N 16 --E 3 --Ep 0 --Ni 0 --B 2 --T 40 --delay 5 --nLE 10 --out".split()
SCRIPT = ROOT / "gradient_flossing_example.py"


@pytest.mark.parametrize("script", [f"{name}.py" for name in EXAMPLES])
def test_the_examples_take_the_same_options(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--quiet", *SMALL, str(tmp_path)])
    runpy.run_path(str(ROOT / "example_code" / script), run_name="__main__")
    captured, name = capsys.readouterr(), script.removesuffix(".py")
    assert (captured.out, captured.err) == ("", "") and names(tmp_path) == [f"{name}.npz", f"{name}.png"]
    assert load_record(tmp_path / f"{name}.npz").parameters["E"] == 3


def test_without_docstrings(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *SMALL, str(tmp_path)])
    exec(compile(SCRIPT.read_text(), SCRIPT, "exec", optimize=2), {"__name__": "__main__"})
    assert names(tmp_path) == ["figure.png", "record.npz"]


@pytest.mark.long
def test_without_docstrings_and_assertions(tmp_path):
    done = subprocess.run([sys.executable, "-OO", SCRIPT, *SMALL, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", ["gradient_flossing_example.py", *(f"example_code/{name}.py" for name in EXAMPLES)])
def test_ctrl_c_during_the_imports_prints_no_traceback(script):
    program = f"""
import runpy, signal, sys
class Pressing:
    def find_spec(self, name, path=None, target=None):
        if name == "extras.record":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Pressing())
runpy.run_path({str(ROOT / script)!r}, run_name="__main__")"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_imported_the_scripts_leave_ctrl_c_alone():
    program = "import signal, gradient_flossing_example as _; print(signal.getsignal(signal.SIGINT))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert "default_int_handler" in done.stdout


def test_lost_output_costs_nothing(tmp_path):
    """A full disk, and `| head -1`; a terminal that is closed: test_progress.py."""
    command, streams = [sys.executable, SCRIPT, *SMALL], dict(stderr=subprocess.PIPE, text=True)
    piped = subprocess.Popen([*command, str(tmp_path / "pipe")], stdout=subprocess.PIPE, **streams)
    with open("/dev/full", "w") as full:
        done = subprocess.run([*command, str(tmp_path / "full")], stdout=full, **streams)
    assert (done.returncode, done.stderr) == (0, "")
    assert piped.stdout.readline() == "T:40\n"
    piped.stdout.close()
    assert piped.stderr.read() == "" and piped.wait() == 0
    for name in ("full", "pipe"):
        assert len(load_record(tmp_path / name / "record.npz").loss) == 3 and (tmp_path / name / "figure.png").exists()


STOPS_ITSELF = """
import os, signal, sys
import gradient_flossing_example as port

right, calls = port.train_with_accuracy, []
def train_with_accuracy(*arguments):
    calls.append(1)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGSTOP)
    right(*arguments)
port.train_with_accuracy = train_with_accuracy
port.main()"""


def test_the_second_of_two_commands_is_refused_and_a_terminated_one_goes_on(tmp_path):
    argv = [f"--{name}={value}" for name, value in SHORT._asdict().items()] + ["--checkpoint", str(tmp_path / "run.npz")]
    out = ["--out", str(tmp_path / "out")]
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = subprocess.Popen([sys.executable, "-c", STOPS_ITSELF, *argv, *out], cwd=ROOT, **streams)
    os.waitpid(first.pid, os.WUNTRACED)  # until it has stopped
    second = lambda *out: train_command(train_rnn_flossing, {"short": README_CALL}, figure_name="figure", argv=[*argv, *out])  # noqa: E731
    for elsewhere, file in ((out, "out/record.npz"), (["--out", str(tmp_path)], "run.npz")):
        with pytest.raises(SystemExit, match=f"{file}: another run is using it"):
            second(*elsewhere)
    first.send_signal(signal.SIGTERM)
    first.send_signal(signal.SIGCONT)
    _, error = first.communicate()
    assert first.returncode == 143 and error.startswith("the run so far: ") and error.count("\n") == 1
    assert load_record(tmp_path / "out" / "record_partial.npz").interrupted
    assert second(*out) == load_record(tmp_path / "out" / "record.npz") == train_rnn_flossing(*SHORT, progress=False)
    assert names(tmp_path) == ["out", "run.npz"] and names(tmp_path / "out") == ["figure.png", "record.npz"]
