"""Every experiment's jobs, rows, tables and figures; and the tables in results/ are those of the scripts."""

import csv
import re
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest

from example_code.experiments import delay_sweep, experiment, number_of_exponents, own_network, sweep, targets_and_gradients
from example_code.experiments import lyapunov_spectrum_and_condition_number as lyapunov
from extras.check_parameters import flossing_steps
from extras.record import TrainingRecord
from gradient_flossing_example import README_CALL
from tests.conftest import ROOT

FOLDER = ROOT / "example_code" / "experiments"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if "EXPERIMENT = " in path.read_text())
MODULES = {name: import_module(f"example_code.experiments.{name}") for name in NAMES}


def table(name, folder=FOLDER / "results"):
    with open(folder / f"{name}.csv") as file:
        return list(csv.DictReader(file))


def jobs_of(module, *options):
    return module.EXPERIMENT.make_jobs(module.EXPERIMENT.parse(options))


def made(accuracy, flossing_epoch=(), **fields):
    """A TrainingRecord with these accuracies, and flossing in these epochs."""
    F, parameters = len(flossing_epoch), README_CALL._replace(E=len(accuracy))._asdict()
    fields = dict(flossing_loss=np.zeros(F), lyapunov_spectrum=np.zeros((F, 75)), gradient_norm={}) | fields
    return TrainingRecord(
        parameters=parameters, initial={}, final={}, loss=np.zeros(len(accuracy)), accuracy=np.array(accuracy),
        flossing_epoch=np.array(flossing_epoch, int), flossing_gradient_norm={}, **fields,
    )  # fmt: skip


LEARNS = np.repeat([0.4, 1.0, 0.98], [20, 80, 50])  # above 95 % over ten epochs: from the 30th on
FAILS = np.full(150, 0.5)


# ------------------------------------------------------------------ the command line of all of them


def test_there_are_six_experiments_and_a_benchmark():
    assert len(NAMES) == 6 and "--quick" in (FOLDER / "benchmark.py").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_quick_is_small_in_a_folder_of_its_own_and_gives_way_to_what_is_said(name):
    parse = MODULES[name].EXPERIMENT.parse
    normal, quick = parse([]), parse(["--quick"])
    assert (str(normal.out), str(quick.out)) == (f"out/{name}", f"out/{name}_quick")
    make_jobs = MODULES[name].make_jobs
    assert 2 <= len(make_jobs(quick)) < len(make_jobs(normal)) and len(make_jobs(quick)) <= 24
    assert str(parse(["--quick", "--out", "elsewhere"]).out) == "elsewhere"


@pytest.mark.parametrize("name", NAMES)
def test_all_jobs_have_names_of_their_own_and_functions_that_exist(name):
    jobs = jobs_of(MODULES[name]).values()
    assert len({job.path("") for job in jobs}) == len(jobs)
    for function in {text for job in jobs for text in (job.function, job.load)}:
        assert callable(sweep.named(function))


def test_shards_are_those_of_the_array():
    array = dict(SLURM_ARRAY_TASK_ID="13", SLURM_ARRAY_TASK_MIN="10", SLURM_ARRAY_TASK_COUNT="8")
    assert experiment.shard_of_array(array) == "3/8"
    assert experiment.shard_of_array(dict(JOB_COMPLETION_INDEX="2", JOB_COMPLETIONS="4")) == "2/4"
    assert experiment.shard_of_array({}) == "0/1"


@pytest.mark.parametrize("options", (["--shard", "4/4"], ["--shard", "-1/2"], ["--shard", "1"], ["--jobs", "0"]))
def test_impossible_options_are_refused(options, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        delay_sweep.EXPERIMENT.main([*options, "--out", str(tmp_path / "none")])
    assert options[0] in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_possible_options():
    parse = delay_sweep.EXPERIMENT.parse
    assert parse(["--shard", "3/4", "--jobs", "1"]).shard == (3, 4) and parse(["--shard", "0/1"]).shard == (0, 1)
    assert parse(["--jobs", "1"]).jobs == 1
    keys = jobs_of(delay_sweep, "--tasks", "copy", "--conditions", "none", "--delays", "3", "4", "--seeds", "7").keys()
    assert list(keys) == [("copy", 3, 7, "none"), ("copy", 4, 7, "none")]


def test_the_kubernetes_job_counts_its_pods_right():
    text = (FOLDER / "delay_sweep.yaml").read_text()
    (completions,), (value,) = re.findall(r"^  completions: (\d+)$", text, re.M), re.findall(r'JOB_COMPLETIONS, value: "(\d+)"', text)
    assert completions == value and "completionMode: Indexed" in text
    words = re.search(r"command: \[(.*)\]", text)[1].replace('"', "").split(", ")
    assert (ROOT / words[1]).exists()
    delay_sweep.EXPERIMENT.parse(words[2:])


def test_a_call_with_fewer_or_other_runs_does_not_replace_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "do_all", lambda jobs, out, at_a_time: done.append(len(jobs)) or {})
    main, done, out = delay_sweep.EXPERIMENT.main, [], ["--out", str(tmp_path / "new")]
    assert main(["--seeds", "1", "2", *out]) == 0
    assert main(["--seeds", "1", "2", "3", *out]) == 0  # more of them
    for fewer in (["--seeds", "1", "2"], ["--quick"], ["--seeds", "1", "2", "3", "--epochs", "4500"]):
        assert main([*fewer, *out]) == 2
    assert done == [48, 72]
    assert "new: holds 24 of another call, copy_during_delay40_seed3_" in capsys.readouterr().err
    (tmp_path / "number_of_exponents.csv").write_text("of unknown runs")
    assert number_of_exponents.EXPERIMENT.main(["--out", str(tmp_path)]) == 2
    assert "number_of_exponents.csv for one" in capsys.readouterr().err


def test_a_folder_that_cannot_be_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert delay_sweep.EXPERIMENT.main(["--out", str(tmp_path / "file")]) == 2
    assert f"error: --out {tmp_path / 'file'}: " in capsys.readouterr().err


SCRIPTS = [path for path in FOLDER.glob("*.py") if "__main__" in path.read_text() and path.stem != "sweep"]
SCRIPTS.append(ROOT / "example_code" / "floss_your_own_network.py")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_start_without_docstrings_and_without_modules_of_unix_only(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    for module in ("fcntl", "resource"):
        monkeypatch.setitem(sys.modules, module, None)  # as on Windows
    text = script.read_text()
    for optimize in (0, 2):
        with pytest.raises(SystemExit, match="0"):
            exec(compile(text, script, "exec", optimize=optimize), {"__name__": "__main__", "__file__": str(script)})
        described = text.split("\n")[0].strip('"') in " ".join(capsys.readouterr().out.split())
        assert described == (optimize == 0)


@pytest.mark.long
def test_scripts_start_under_python_OO():
    for script in SCRIPTS:
        assert subprocess.run([sys.executable, "-OO", script, "--help"], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_quick_form_for_real(name, tmp_path):
    command = [sys.executable, FOLDER / f"{name}.py", "--quick"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out" / f"{name}_quick"
    written = {out / f"{name}.csv", out / f"{name}.png", out / f"{name}_runs.txt"}
    assert all(str(path) in done.stdout for path in written)
    assert {*out.iterdir()} == written | {out / line for line in (out / f"{name}_runs.txt").read_text().splitlines()}
    for text, value in table(name, out)[0].items():
        assert text and value is not None
