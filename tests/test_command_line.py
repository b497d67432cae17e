"""The command line: every parameter by its name, clear refusals, and the files that it leaves."""

import inspect
import subprocess
import sys

import pytest

from extras.check_parameters import PARAMETERS
from extras.command_line import join_negative_numbers, make_parser, run
from extras.record import load_record
from gradient_flossing_example import train_rnn_flossing
from tests.conftest import ROOT
from tests.test_gradient_flossing_example import ORIGINAL_ORDER, README_CALL, short_call

SHORT = tuple(short_call().values())


@pytest.fixture
def parser():
    return make_parser(train_rnn_flossing, README_CALL, "what it does")[0]


def command(argv, tmp_path, **options):
    return run(train_rnn_flossing, SHORT, "what it does", argv=[*argv, "--out", str(tmp_path)], **options)


def refusal(argv, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        command(argv, tmp_path / "out")
    assert ended.value.code == 2 and not (tmp_path / "out").exists()
    return capsys.readouterr().err


def test_defaults_are_the_readme_call(parser):
    options = parser.parse_args([])
    assert tuple(getattr(options, name) for name in ORIGINAL_ORDER) == README_CALL


@pytest.mark.parametrize("name", ORIGINAL_ORDER)
def test_each_parameter_is_an_option(name, parser):
    default = dict(zip(ORIGINAL_ORDER, README_CALL))[name]
    value = default + 1 if isinstance(default, int) else default + 0.25
    options = parser.parse_args([f"--{name}", str(value)])
    assert getattr(options, name) == value and type(getattr(options, name)) is type(default)
    others = set(ORIGINAL_ORDER) - {name}
    assert all(getattr(options, n) == dict(zip(ORIGINAL_ORDER, README_CALL))[n] for n in others)


def test_the_options_come_from_the_signature():
    def train(N, lr, *, engine="adjoint"): ...

    parser, names = make_parser(train, (3, 0.5), "two parameters")
    assert names == ["N", "lr"] and not hasattr(parser.parse_args([]), "E")
    assert list(inspect.signature(train_rnn_flossing).parameters)[:33] == list(PARAMETERS)


def test_help_explains_each_option(parser):
    text = " ".join(parser.format_help().split())
    for name, default in zip(ORIGINAL_ORDER, README_CALL):
        p = PARAMETERS[name]
        assert f"--{name} " in text and p.meaning in text and (not p.unit or f"[{p.unit}]" in text)
        assert f"default {default}" in text
    for title in {p.group for p in PARAMETERS.values()}:
        assert title in text
    for option in ("--out", "--engine", "--checkpoint", "--show", "--quiet"):
        assert option in text
    assert max(map(len, parser.format_help().splitlines())) <= 120


@pytest.mark.parametrize("argv, says", [
    (["--epochs", "3"], "--epochs"), (["--dela", "3"], "--dela"), (["--E", "3.5"], "--E"), (["--lr", "fast"], "--lr"),
    (["--E"], "--E"), (["--engine", "jax"], "jax"), (["301"], "301"), (["--E", "-1"], "E must be an integer >= 0, got -1"),
    (["--N", "nan"], "--N"), (["--g", "nan"], "g must be a finite number"), (["--T", "10"], "T = 10: must be > 10"), (["--S", "2"], "S = 2: must be 1"),
])  # fmt: skip
def test_what_is_not_allowed_is_refused_with_what_is(argv, says, tmp_path, capsys):
    error = refusal(argv, tmp_path, capsys)
    assert says in error and "allowed options: " in error and "--delay" in error and "--checkpoint" in error


def test_negative_numbers_are_values(parser):
    argv = join_negative_numbers(["--gbar", "-1e-3", "--task", "-2", "--quiet", "--bM", "-.5"])
    options = parser.parse_args(argv)
    assert (options.gbar, options.task, options.bM, options.quiet) == (-1e-3, -2, -0.5, True)


def test_it_writes_record_and_figure_and_says_so(tmp_path, capsys):
    record = command(["--E", "4"], tmp_path, figure_name="figure")
    assert load_record(tmp_path / "record.npz") == record and record.parameters["E"] == 4
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    output = capsys.readouterr().out
    assert f"wrote {tmp_path / 'record.npz'} and {tmp_path / 'figure.png'}" in output
    assert not (tmp_path / "comparison.png").exists()


def test_a_second_record_adds_the_comparison(tmp_path, capsys):
    command([], tmp_path, name="first")
    (tmp_path / "no_record.npz").write_text("something else")
    command(["--Ep", "0"], tmp_path, name="second")
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    assert capsys.readouterr().out.endswith(f"wrote {tmp_path / 'comparison.png'}: first, second\n")


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
