"""The command line: every parameter by its name, clear refusals, and the files that it leaves."""

import inspect
import signal
import subprocess
import sys

import pytest

import extras.command_line
import extras.record
from extras.check_parameters import PARAMETERS, Parameters
from extras.command_line import join_negative_numbers, make_parser, parameters_of, run
from extras.record import load_record
from gradient_flossing_example import LONG_README_CALL, README_CALL, train_rnn_flossing
from tests.conftest import ROOT, short_call

CALLS = {"short": README_CALL, "long": LONG_README_CALL}
SHORT = Parameters(**short_call())


def parsed(*argv):
    return parameters_of(make_parser(CALLS).parse(list(argv)), CALLS)


def command(argv, tmp_path, **options):
    return run(train_rnn_flossing, {"default": SHORT}, argv=[*argv, "--out", str(tmp_path)], **options)


def refusal(argv, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        command(argv, tmp_path / "out")
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and len(error) < 300 and "--help" in error
    return error


def test_the_two_calls_of_the_readme():
    assert parsed() == parsed("short") == README_CALL
    assert parsed("long") == LONG_README_CALL == README_CALL._replace(E=3001, Ef=100, Ei=500, Ep=500)
    assert parsed("long", "--E", "7") == LONG_README_CALL._replace(E=7)


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_parameter_is_an_option(name):
    default = getattr(README_CALL, name)
    value = {"S": 1, "IC": 3, "nLE": 20, "N": 90}.get(name, default + 1 if isinstance(default, int) else abs(default - 0.25))
    assert parsed(f"--{name}", str(value)) == README_CALL._replace(**{name: value})


def test_one_seed_sets_all_four_and_a_named_one_stays():
    assert parsed("--seed", "5") == README_CALL._replace(sIC=5, sIn=5, sNet=5, sONS=5)
    assert parsed("--seed", "5", "--sIn", "2") == README_CALL._replace(sIC=5, sIn=2, sNet=5, sONS=5)


def test_the_parameters_are_the_signature():
    assert list(inspect.signature(train_rnn_flossing).parameters)[:33] == list(PARAMETERS)


def test_help_explains_each_option():
    text = make_parser(CALLS).format_help()
    for name, parameter in PARAMETERS.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"  --{name} ")]
        assert parameter.meaning in line and (not parameter.unit or f"[{parameter.unit}]" in line)
        assert line.endswith(f"default {getattr(README_CALL, name)}")
    for title in {p.group for p in PARAMETERS.values()}:
        assert f"\n{title}:\n" in text
    for option in ("--out", "--engine", "--checkpoint", "--show", "--quiet", "--seed"):
        assert option in text
    assert text.count("  python ") == 3 and max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("argv, says", [
    (["--epochs", "3"], "--epochs"), (["--dela", "3"], "did you mean --delay?"), (["--E", "3.5"], "--E: '3.5' is no integer"),
    (["--lr", "fast"], "--lr: 'fast' is no number"), (["--E"], "--E"), (["--engine", "jax"], "jax"), (["301"], "301"),
    (["--E", "-1"], "E must be an integer >= 0, got -1"), (["--N", "nan"], "--N"), (["--g", "nan"], "g must be a finite number"),
    (["--T", "10"], "T = 10: must be > 10"), (["--S", "2"], "S = 2: must be 1"), (["--E", "9" * 5000], "5002 characters"),
    (["--checkpoin=x"], "did you mean --checkpoint?"), (["--sNet", "9" * 4000, "--E", "x"], "--E"),
])  # fmt: skip
def test_what_is_not_allowed_is_refused_in_one_line(argv, says, tmp_path, capsys):
    assert says in refusal(argv, tmp_path, capsys)


def test_negative_numbers_are_values():
    assert parsed("--gbar", "-1e-3", "--task", "-2", "--bM", "-.5") == README_CALL._replace(gbar=-1e-3, task=-2, bM=-0.5)
    assert join_negative_numbers(["--E", "3", "-h"]) == ["--E", "3", "-h"]


def test_it_writes_record_and_figure_and_says_so(tmp_path, capsys):
    record = command(["--E", "4"], tmp_path, figure_name="figure")
    assert load_record(tmp_path / "record.npz") == record and record.parameters["E"] == 4
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert capsys.readouterr().out.endswith(f"wrote {tmp_path / 'record.npz'}\nwrote {tmp_path / 'figure.png'}\n")


def test_another_run_is_not_overwritten_and_the_same_one_is(tmp_path, capsys):
    first = command([], tmp_path)
    assert command([], tmp_path) == first
    for argv, differs in ((["--E", "4"], "E = 6"), (["--engine", "autograd"], "engine = adjoint")):
        with pytest.raises(SystemExit) as ended:
            command(argv, tmp_path)
        assert ended.value.code == 2
        assert f"record.npz holds another run ({differs}): choose another --out, or remove it" in capsys.readouterr().err
    assert load_record(tmp_path / "record.npz") == first
    (tmp_path / "record.npz").write_text("notes")
    with pytest.raises(SystemExit):
        command([], tmp_path)
    assert (tmp_path / "record.npz").read_text() == "notes" and "is no record" in capsys.readouterr().err


def test_the_long_call_has_files_of_its_own(tmp_path):
    calls = {"short": SHORT, "long": SHORT._replace(E=7)}
    argv = ["--out", str(tmp_path), "--quiet"]
    run(train_rnn_flossing, calls, figure_name="figure", argv=argv)
    run(train_rnn_flossing, calls, figure_name="figure", argv=["long", *argv])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figure.png", "figure_long.png", "record.npz", "record_long.npz"]


def test_a_figure_that_cannot_be_drawn_costs_the_figure_only(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "extras.figures", None)
    record = command([], tmp_path)
    assert load_record(tmp_path / "record.npz") == record
    assert capsys.readouterr().err.startswith("no figure: ")


def test_a_place_that_cannot_be_written_is_said_before_the_work(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(SystemExit, match="--out"):
            command([], out)
    assert capsys.readouterr().out == ""


def test_a_disk_that_fills_up_at_the_end_leaves_the_record_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(extras.command_line.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(extras.command_line, "probe", lambda path: (tmp_path / "out" / "record.npz").mkdir())
    monkeypatch.setattr(extras.command_line, "check_not_another_run", lambda *args: None)
    with pytest.raises(SystemExit, match="cannot be written .*; the record is in"):
        command([], tmp_path / "out")
    (rescued,) = tmp_path.glob("record_*.npz")
    assert len(load_record(rescued).loss) == 6


def test_ctrl_c_pressed_twice_during_the_last_save_ends_with_the_file_and_status_130(tmp_path, capsys, monkeypatch):
    right = extras.record.os.fsync

    def pressing(descriptor):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return right(descriptor)

    monkeypatch.setattr(extras.command_line, "probe", lambda path: monkeypatch.setattr(extras.record.os, "fsync", pressing))
    with pytest.raises(SystemExit) as ended:
        command([], tmp_path)
    assert ended.value.code == 130 and capsys.readouterr().err == ""
    assert len(load_record(tmp_path / "record.npz").loss) == 6 and len(list(tmp_path.iterdir())) == 1


def test_show_without_a_display_says_so(tmp_path, capsys):
    command(["--show"], tmp_path)
    assert "there is no display" in capsys.readouterr().err


def test_quiet_prints_nothing(tmp_path, capsys):
    command(["--quiet"], tmp_path)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


def test_a_run_that_explodes_keeps_what_it_has(tmp_path, capsys):
    with pytest.raises(SystemExit, match="stopped: epoch .* last finite") as ended:
        command(["--lr", "1e38", "--E", "30", "--quiet"], tmp_path)
    assert "record_partial.npz" in str(ended.value)
    assert len(load_record(tmp_path / "record_partial.npz").loss) < 30
    assert not (tmp_path / "record.npz").exists()


@pytest.mark.parametrize("script", ["no_flossing", "preflossing", "flossing_during_training"])
def test_the_examples_take_the_same_options(script, tmp_path):
    small = "--N 16 --E 3 --Ep 0 --Ni 0 --B 2 --T 40 --delay 5 --nLE 10 --quiet --out".split()
    call = [sys.executable, str(ROOT / "example_code" / f"{script}.py"), *small, str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert load_record(tmp_path / f"{script}.npz").parameters["E"] == 3 and (tmp_path / f"{script}.png").exists()


def test_without_docstrings_and_assertions(tmp_path):
    small = "--N 16 --E 3 --Ep 0 --Ni 0 --B 2 --T 40 --delay 5 --nLE 10 --out".split()
    call = [sys.executable, "-OO", str(ROOT / "gradient_flossing_example.py"), *small, str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
