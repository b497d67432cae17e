"""Every command of the README and every example runs as a process of its own and prints what it should."""

import re
import subprocess
import sys

import pytest

from gradient_flossing_example import train_rnn_flossing
from tests.conftest import ROOT, short_call


def run(tmp_path, *command):
    """Standard output of a command, started in a folder that is not the repository's."""
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def final_accuracy(output):
    return float(re.search(r"final accuracy ([\d.]+) %", output)[1])


def test_the_main_job(tmp_path):
    output = run(tmp_path, str(ROOT / "gradient_flossing_example.py"), "--out", str(tmp_path / "out"))
    assert final_accuracy(output) > 97  # chance is 50; 99.49 here, and drift decides the rest
    positions = [output.index(line) for line in (
        "T:300", "generating weights", "preflossing now", "interflossing now at 10", "interflossing now at 20",
        "(addition) final loss", "wrote ",
    )]  # fmt: skip
    assert positions == sorted(positions)
    assert len(re.findall(r"^ *\d+\.\d+ seconds$", output, re.M)) == 4  # three blocks and the whole
    assert (tmp_path / "out" / "record.npz").exists() and (tmp_path / "out" / "figure.png").exists()


@pytest.mark.parametrize(
    "script, low, high",
    [("no_flossing.py", 40, 60), ("preflossing.py", 99, 100), ("flossing_during_training.py", 99, 100)],
)
def test_the_examples(tmp_path, script, low, high):
    output = run(tmp_path, str(ROOT / "example_code" / script), "--out", str(tmp_path / "out"))
    assert low < final_accuracy(output) <= high


def test_a_short_run_prints_the_lines_of_the_original(capsys):
    train_rnn_flossing(**short_call(E=5, Ef=2, Ei=2, Ep=3, Ni=2))
    lines = [line for line in re.split(r"[\r\n]", capsys.readouterr().out) if line.strip()]
    seconds = re.compile(r"^ *\d+\.\d+ seconds$")
    kept = ["S seconds" if seconds.match(line) else line for line in lines if not line.startswith("epoch")]
    assert kept == [
        "T:40", "generating weights", "preflossing now", "S seconds", "interflossing now at 2", "S seconds",
        "interflossing now at 4", "S seconds", "S seconds",
    ]  # fmt: skip


def test_ci_runs_the_test_command_of_the_readme():
    command = ".venv/bin/python -m pytest -q"
    assert command in (ROOT / "README.md").read_text() and command in (ROOT / ".ci" / "run").read_text()


def test_the_readme_names_only_files_that_exist():
    text = (ROOT / "README.md").read_text()
    names = set(re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|txt|md|jl))`", text))
    written_by_julia = {"GradientFlossing_ExampleCode.jl", "GradientFlossing_XOR.jl", "gf_task05spatialXORShort.jl", "ex.jl", "xor.jl"}
    tree = {str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if ".venv" not in p.parts}
    missing = {n for n in names - written_by_julia if n not in tree and not any(t.endswith("/" + n) for t in tree)}
    assert not missing


def test_the_tests_that_the_readme_names_exist():
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for name in re.findall(r"`(test_[a-z0-9_]+)`", (ROOT / "README.md").read_text()):
        assert f"def {name}(" in tests, name
