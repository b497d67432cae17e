"""The README is one page, and what it says is so: its commands, snippets, numbers, names and links."""

import os
import re
import subprocess
import sys

import pytest

from extras.check_parameters import Parameters
from extras.record import LEARNED, load_record
from gradient_flossing_example import README_CALL, train_rnn_flossing
from tests.conftest import ROOT, short_call

README = (ROOT / "README.md").read_text()
SHAPE = r"(\w+\.\w+) (\(.*?\))"
EXAMPLES = {"no_flossing.py": False, "preflossing.py": True, "flossing_during_training.py": True}  # whether it learns


def run(folder, *command):
    """Standard output of Python at work in a folder that is not the repository's."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def words(line):
    """A line of output as far as the processor does not change it: up to its first number."""
    return re.match(r"\D*", line.strip())[0]


def test_the_readme_is_one_page():
    assert len(README.splitlines()) <= 130 and max(map(len, README.splitlines())) <= 120


def test_the_main_job_prints_what_the_readme_shows_and_learns(tmp_path):
    output = run(tmp_path, ROOT / "gradient_flossing_example.py")
    shown = re.search(r"```\n(T:300\n.*?)```", README, re.S)[1].splitlines()
    shown.remove("...")
    printed = [words(line) for line in output.splitlines()]
    for line in shown:  # in this order
        printed = printed[printed.index(words(line)) + 1 :]
    assert not printed
    assert len(re.findall(r"^ *\d+\.\d+ seconds$", output, re.M)) == 4  # three blocks and the whole
    assert load_record(tmp_path / "out" / "record.npz").epoch_learned()  # when, and so how well at the end, drift decides
    assert (tmp_path / "out" / "figure.png").exists()


@pytest.mark.long
def test_the_examples_learn_as_the_readme_says_and_the_command_beside_them_draws_them(tmp_path):
    for script, learns in EXAMPLES.items():
        run(tmp_path, ROOT / "example_code" / script)
        record = load_record((tmp_path / "out" / script).with_suffix(".npz"))
        final, epoch = re.search(rf"/{script}`.*\| (\S+) % \| (\w+) \|$", README, re.M).groups()
        assert learns == (record.final_accuracy() > LEARNED) == (float(final) / 100 > LEARNED) == (epoch != "never")
        assert learns == (record.epoch_learned() is not None)
        assert learns or abs(record.final_accuracy() - 0.5) < 0.03
    figures = re.search(r"python (-m extras\.figures .*?)`", README)[1].split()
    assert run(tmp_path, *figures) == "wrote out/comparison.png\n"


@pytest.mark.long
def test_the_snippets_run_and_give_arrays_of_the_shapes_beside_them(tmp_path):
    snippets = re.findall(r"```python\n(.*?)```", README, re.S)
    shapes = 0
    for snippet in snippets:  # "x  # (3,)" and "... # x (3,)" say the shape of x
        code, checked = re.subn(r"^(.*?) +# (\(.*?\)).*", r"\1\nassert (\1).shape == \2", snippet, flags=re.M)
        code, named = re.subn(rf"# {SHAPE}, {SHAPE}", r"; assert (\1.shape, \3.shape) == (\2, \4)", code)
        shapes += checked + 2 * named
        run(tmp_path, "-c", code)
    assert shapes >= 5


def test_a_short_run_prints_the_lines_of_the_original(capsys):
    train_rnn_flossing(**short_call(E=5, Ef=2, Ei=2, Ep=3, Ni=2))
    lines = [line for line in re.split(r"[\r\n]", capsys.readouterr().out) if line.strip()]
    seconds = re.compile(r"^ *\d+\.\d+ seconds$")
    kept = ["S seconds" if seconds.match(line) else line for line in lines if not line.startswith("epoch")]
    assert kept == [
        "T:40", "generating weights", "preflossing now", "S seconds", "interflossing now at 2", "S seconds",
        "interflossing now at 4", "S seconds", "S seconds",
    ]  # fmt: skip


def test_the_table_has_the_parameters_in_their_order_with_their_values():
    rows = re.findall(r"^\| [\d, -]+ \| (.*?) \| .* \| (.*?) \|$", README, re.M)
    names = [name for row, _ in rows for name in re.findall(r"`(\w+)`", row)]
    values = [float(value) for _, row in rows for value in row.split(",")]
    assert Parameters(**dict(zip(names, values, strict=True))) == README_CALL and tuple(names) == Parameters._fields


def test_the_call_in_the_readme_is_the_readme_call():
    call = re.search(r"train_rnn_flossing\(\n(.*?)\)", README, re.S)[1]
    assert Parameters(*map(float, call.split(","))) == README_CALL


def test_ci_runs_the_test_command_of_the_readme():
    command = ".venv/bin/python -m pytest -q"
    assert f"{command} tests\n" in README and command in (ROOT / ".ci" / "run").read_text()


def test_the_files_that_the_readme_names_exist():
    linked = re.findall(r"\]\(([^:)#]+)[^:)]*\)", README)
    named = re.findall(r"[\w/-]+\.(?:py|txt)\b|\b[\w/]+/(?=`)", README)
    assert len(linked) >= 3 and len(named) >= 8
    for name in [*linked, *named]:
        assert (ROOT / name).exists(), name
