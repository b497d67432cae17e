"""Every experiment's jobs, rows, tables and figures; and the tables in results/ are those of the scripts."""

import contextlib
import csv
import pkgutil
import re
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
from matplotlib.image import imread

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


def numbers(rows):
    """The rows of a table with numbers for texts, None where there is nothing."""
    return [{name: number(text) for name, text in row.items()} for row in rows]


def number(text):
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text or None


def jobs_of(module, *options):
    return dict(module.EXPERIMENT.make_jobs(module.EXPERIMENT.parse(options)))


def rows_of(module, records):
    return [row for key, record in records.items() for row in module.make_rows(key, record)]


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


def test_there_are_seven_experiments_and_a_benchmark():
    assert len(NAMES) == 7 and "--quick" in (FOLDER / "benchmark.py").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_quick_is_small_in_a_folder_of_its_own_and_gives_way_to_what_is_said(name):
    parse = MODULES[name].EXPERIMENT.parse
    normal, quick = parse([]), parse(["--quick"])
    assert (str(normal.out), str(quick.out)) == (f"out/{name}", f"out/{name}_quick")
    few, many = (len(dict(MODULES[name].make_jobs(args))) for args in (quick, normal))
    assert 2 <= few < many and few <= 24
    assert str(parse(["--quick", "--out", "elsewhere"]).out) == "elsewhere"


@pytest.mark.parametrize("name", NAMES)
def test_all_jobs_have_names_of_their_own_and_functions_that_exist(name):
    jobs = jobs_of(MODULES[name]).values()
    assert len({job.path("") for job in jobs}) == len(jobs)
    for function in {text for job in jobs for text in (job.function, job.load)}:
        assert callable(pkgutil.resolve_name(function))


def test_shards_are_those_of_the_array():
    array = dict(SLURM_ARRAY_TASK_ID="13", SLURM_ARRAY_TASK_MIN="10", SLURM_ARRAY_TASK_COUNT="8")
    assert experiment.shard_of_array(array) == "3/8"
    assert experiment.shard_of_array(dict(JOB_COMPLETION_INDEX="2", JOB_COMPLETIONS="4")) == "2/4"
    assert experiment.shard_of_array({}) == "0/1"


@pytest.mark.parametrize("options", (
    ["--shard", "4/4"], ["--shard", "-1/2"], ["--shard", "1"], ["--jobs", "0"], ["--tasks", "xor", "or"], ["--seeds", "1.5"],
))  # fmt: skip
def test_impossible_options_are_refused(options, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        delay_sweep.EXPERIMENT.main([*options, "--out", str(tmp_path / "none")])
    assert options[0] in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_possible_options():
    parse = delay_sweep.EXPERIMENT.parse
    assert parse(["--shard", "3/4", "--jobs", "1"]).shard == (3, 4) and parse(["--shard", "0/1"]).shard == (0, 1)
    assert parse(["--jobs", "1"]).jobs == 1
    seconds = own_network.EXPERIMENT.parse(["--seconds", "2.5", "--tasks", "xor", "copy"])
    assert (seconds.seconds, seconds.tasks, seconds.networks) == (2.5, ["xor", "copy"], ["RNN", "GRU", "LSTM"])
    keys = jobs_of(delay_sweep, "--tasks", "copy", "--conditions", "none", "--delays", "3", "4", "--seeds", "7").keys()
    assert list(keys) == [("copy", 3, 7, "none"), ("copy", 4, 7, "none")]


def test_the_kubernetes_job_counts_its_pods_right():
    text = (FOLDER / "delay_sweep.yaml").read_text()
    (completions,) = re.findall(r"^  completions: (\d+)$", text, re.M)
    (value,) = re.findall(r'JOB_COMPLETIONS, value: "(\d+)"', text)
    assert completions == value and "completionMode: Indexed" in text
    words = re.search(r"command: \[(.*)\]", text)[1].replace('"', "").split(", ")
    assert (ROOT / words[1]).exists()
    delay_sweep.EXPERIMENT.parse(words[2:])


def test_a_folder_that_cannot_be_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="2"):
        delay_sweep.EXPERIMENT.main(["--out", str(tmp_path / "file")])
    assert f"--out {tmp_path / 'file'}: must be a folder" in capsys.readouterr().err


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


@pytest.mark.parametrize("name", ["delay_sweep", "number_of_exponents", "own_network", "what_it_knows"])
def test_the_committed_figure_shows_the_committed_table(name, tmp_path):
    MODULES[name].EXPERIMENT.draw({}, numbers(table(name))).savefig(tmp_path / "drawn.png")
    drawn, committed = (imread(path) for path in (tmp_path / "drawn.png", FOLDER / "figures" / f"{name}.png"))
    assert drawn.shape == committed.shape
    changed = np.mean(np.abs(drawn - committed).max(axis=2) > 0.02)  # elsewhere the last bit may move a marker by a pixel
    assert changed < 1e-3, f"{100 * changed:.3f} % of the pixels differ: draw it again from results/{name}.csv"


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_quick_form_for_real(name, tmp_path):
    command = [sys.executable, FOLDER / f"{name}.py", "--quick"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out" / f"{name}_quick"
    written = {out / f"{name}.csv", out / f"{name}.png"}
    assert all(str(path) in done.stdout for path in written)
    assert {*out.iterdir()} == written | {job.path(out) for job in jobs_of(MODULES[name], "--quick").values()}
    for text, value in table(name, out)[0].items():
        assert text and value is not None


# ------------------------------------------------------------------ the delay sweep


def test_the_committed_delay_sweep_is_that_of_the_script():
    rows = {(r["task"], int(r["delay"]), int(r["seed"]), r["condition"]): r for r in table("delay_sweep")}
    jobs = jobs_of(delay_sweep)
    assert rows.keys() == jobs.keys()
    for key, row in rows.items():
        p = jobs[key].arguments
        assert (row["epochs"], row["flossing_steps"]) == (str(p.E), str(flossing_steps(p._asdict())))
        assert (p.delay, p.sIC, p.sIn, p.sNet, p.sONS) == (key[1], *[key[2]] * 4)
        assert (p.task, p.IC) == ({"xor": -1, "copy": 0, "parity of 4": -2}[key[0]], 3 if key[3] == "orthogonal" else 1)


def test_all_conditions_of_the_delay_sweep_take_the_same_time():
    for job in jobs_of(delay_sweep, "--seeds", "1").values():
        time = job.arguments.E + delay_sweep.FLOSSING_STEP * flossing_steps(job.arguments._asdict())
        assert 0.99 * 4501 < time <= 4501


def test_options_of_the_delay_sweep_are_those_of_its_runs():
    options = "--tasks xor --conditions during --delays 5 --seeds 2 --epochs 900 --preflossing 30 --neurons 12 --steps 90"
    (job,) = jobs_of(delay_sweep, *options.split()).values()
    p = job.arguments
    assert (p.delay, p.sNet, p.Ep, p.N, p.nLE, p.T, p.Ei, p.Ef) == (5, 2, 30, 12, 12, 90, 50, 100)
    assert p.E == (900 - 2 * 30) / (1 + 0.75 * 2 * 50 / 100) and p.Ni == 3


RECORDS = {
    ("xor", 10, 2, "during"): made(LEARNS, [1, 1, 1, 30, 30, 31, 31, 31]),
    ("xor", 10, 1, "during"): made(LEARNS),
    ("xor", 10, 1, "none"): made(FAILS),
    ("copy", 40, 1, "none"): made(LEARNS),
    ("parity of 4", 10, 1, "none"): made(FAILS),
}


def test_rows_and_summary_of_the_delay_sweep():
    rows = rows_of(delay_sweep, RECORDS)
    assert rows[2] == {
        "task": "xor", "delay": 10, "d": 20, "condition": "none", "seed": 1, "epochs": 150, "flossing_steps": 0,
        "final_accuracy": 0.5, "epoch_learned": None, "time_learned": None,
    }  # fmt: skip
    names = ("seed", "d", "flossing_steps", "epoch_learned", "time_learned")
    assert [tuple(r[name] for name in names) for r in rows[:2]] == [(2, 20, 8, 30, 40), (1, 20, 0, 30, 30)]
    assert [r["d"] for r in rows[3:]] == [40, 40] and rows[0]["final_accuracy"] == pytest.approx(0.99)
    assert delay_sweep.summary(rows) == [
        "| task | delay (d) | flossing before and during training | no flossing |",
        "|---|---|---|---|",
        "| xor | 10 (20) | 99.0 %, epoch 30, time 35, 2/2 | 50.0 %, never, 0/1 |",
        "| copy | 40 (40) | - | 99.0 %, epoch 30, time 30, 1/1 |",
        "| parity of 4 | 10 (40) | - | 50.0 %, never, 0/1 |",
    ]


# ------------------------------------------------------------------ the number of exponents


def test_the_committed_numbers_of_exponents_are_those_of_the_script():
    """And k = 75 is the delay sweep's run: same arguments, so same numbers."""
    rows = {(int(r["delay"]), int(r["k"]), int(r["seed"])): r for r in table("number_of_exponents")}
    jobs, of_sweep = jobs_of(number_of_exponents), jobs_of(delay_sweep)
    assert rows.keys() == jobs.keys()
    for (delay, k, seed), job in jobs.items():
        assert job.arguments == of_sweep["xor", delay, seed, "during"].arguments._replace(nLE=k)
    during = [r for r in table("delay_sweep") if (r["task"], r["condition"]) == ("xor", "during") and r["delay"] != "40"]
    assert len(during) == 30
    for row in during:
        other = rows[int(row["delay"]), 75, int(row["seed"])]
        assert all(row[name] == other[name] for name in ("epochs", "flossing_steps", "final_accuracy", "epoch_learned"))


def test_rows_and_summary_of_the_numbers_of_exponents():
    losses = np.repeat([9.0, 0.375, 0.125, 7.0], [5, 10, 10, 5])  # 25 steps before training, 5 later
    flossed = made(LEARNS, [1] * 25 + [100] * 5, flossing_loss=losses)
    never = made(FAILS, [1] * 25, flossing_loss=losses[:25])
    records = {(10, 5, 1): flossed, (10, 5, 2): never, (10, 75, 1): flossed, (20, 75, 1): never}
    rows = rows_of(number_of_exponents, records)
    assert rows[0] == {
        "delay": 10, "k": 5, "seed": 1, "epochs": 150, "flossing_steps": 30, "flossing_loss": 0.25,
        "final_accuracy": pytest.approx(0.99), "epoch_learned": 30,
    }  # fmt: skip
    assert number_of_exponents.summary(rows) == [
        "| k | delay 10 | delay 20 |",
        "|---|---|---|",
        "| 5 | 74.5 %, never, 1/2 | - |",
        "| 75 | 99.0 %, epoch 30, 1/1 | 50.0 %, never, 0/1 |",
    ]


# ------------------------------------------------------------------ targets and gradients


def test_rows_and_summary_of_targets_and_gradients():
    log10 = np.array([24.0, 3.0, 5.0, 6.0, 7.0])  # before, flossed, between, trained
    fields = dict(
        gradient_norm={"xInit": np.repeat([1e-2, 1.0], [50, 100]), "J": np.full(150, 1e-7)},
        diagnostics={"log_condition_number": log10 * np.log(10)},
    )
    spectrum = np.array([[9.0, 9.0, 9.0], [-0.1, -0.3, -0.2]], np.float32)
    flossed = made(LEARNS, [1, 1], lyapunov_spectrum=spectrum, **fields)
    rows = rows_of(targets_and_gradients, {(None, 1): made(FAILS, **fields), (0.0, 1): flossed, (0.0, 2): flossed})
    assert rows[1] == {
        "target": 0.0, "seed": 1, "mean_exponent": pytest.approx(-0.2), "largest_exponent": pytest.approx(-0.1),
        "smallest_exponent": pytest.approx(-0.3), "epoch_learned": 30, "final_accuracy": pytest.approx(0.99),
        "log10_gradient_norm": pytest.approx(-2), "log10_condition_before": pytest.approx(24),
        "log10_condition_flossed": pytest.approx(3), "log10_condition_trained": pytest.approx(7),
    }  # fmt: skip
    assert rows[0]["target"] == "none" and np.isnan(rows[0]["mean_exponent"])
    assert targets_and_gradients.summary(rows)[2:] == [
        "| none | nan, nan, nan | 50.0 %, never, 0/1 | 10^-2.0 | 10^24.0, 10^3.0, 10^7.0 |",
        "| 0.0 | -0.200, -0.100, -0.300 | 99.0 %, epoch 30, 2/2 | 10^-2.0 | 10^24.0, 10^3.0, 10^7.0 |",
    ]


def test_jobs_of_targets_and_gradients():
    jobs = jobs_of(targets_and_gradients, "--seeds", "3", "--epochs", "250", "--preflossing", "7")
    assert [(target, seed) for target, seed in jobs] == [(target, 3) for target in (None, -1.0, -0.5, -0.1, 0.0)]
    calls = [job.arguments for job in jobs.values()]
    assert [(p.Ep, p.Lwnt) for p in calls] == [(0, 0.0), (7, -1.0), (7, -0.5), (7, -0.1), (7, 0.0)]
    assert {(p.E, p.Ni, p.sNet, p.sIn) for p in calls} == {(250, 0, 3, 3)}
    keys = {("none" if target is None else str(target), str(seed)) for target, seed in jobs_of(targets_and_gradients)}
    assert {(r["target"], r["seed"]) for r in table("targets_and_gradients")} == keys


def test_the_condition_number_is_looked_at_before_flossing_every_100_epochs_and_at_the_end(tmp_path):
    job = jobs_of(targets_and_gradients, "--epochs", "101", "--seeds", "1")[0.0, 1]
    job = sweep.Job(job.label, job.arguments._replace(Ep=2, N=80), job.function)
    sweep.do(job, tmp_path)
    record = job.record(tmp_path)
    looks = record.diagnostics["log_condition_number"]
    p = record.parameters
    before, flossed = (targets_and_gradients.condition(ps, p) for ps in (record.initial, record.first_training_parameters))
    trained = targets_and_gradients.condition(record.final, p)
    assert looks[[0, 1, 3]].tolist() == pytest.approx([before, flossed, trained], rel=1e-9)
    assert len(set(looks.round(6))) == 4
    (committed,) = [r for r in table("targets_and_gradients") if (r["target"], r["seed"]) == ("0.0", "1")]
    np.testing.assert_allclose(before / np.log(10), float(committed["log10_condition_before"]), rtol=1e-3)


# ------------------------------------------------------------------ random networks


def test_a_random_network_is_flossed_with_inputs_of_its_own_and_the_committed_one_before(tmp_path):
    jobs = jobs_of(lyapunov, "--seeds", "2", "--preflossing", "4")
    assert list(jobs)[4] == (0.5, 2, 75) and len(jobs) == 15
    p = jobs[1.0, 2, 16].arguments
    assert (p.nLE, p.Ep, p.E, p.B, p.Tp, p.Ti, p.Ni, p.sNet) == (16, 4, 1, 1, 55, 55, 0, 2)
    assert p.E * p.sIn + 1 + 1 == 2001 and jobs[1.0, 2, 0].arguments.Ep == 0
    assert {job.arguments.Ep for job in jobs_of(lyapunov).values()} == {0, 500} and len(set(lyapunov.COLOUR.values())) == 5
    sweep.do(jobs[1.5, 2, 0], tmp_path)
    record = jobs[1.5, 2, 0].record(tmp_path)
    (row,) = lyapunov.make_rows((1.5, 2, 0), record)
    (committed,) = [r for r in table(lyapunov.NAME) if (r["g"], r["seed"], r["flossed_exponents"]) == ("1.5", "2", "0")]
    for name, value in row.items():
        np.testing.assert_allclose(value, float(committed[name]), rtol=1e-3)


def test_what_is_measured_is_the_flossed_network(monkeypatch):
    seen, trajectory = [], lyapunov.trajectory
    monkeypatch.setattr(lyapunov, "trajectory", lambda s, ws, J, *others: seen.append(J.copy()) or trajectory(s, ws, J, *others))
    (job,) = [job for key, job in jobs_of(lyapunov, "--preflossing", "2").items() if key == (1.0, 3, 16)]
    record = lyapunov.floss_and_measure(*job.arguments, progress=False)
    assert len(record.flossing_loss) == 2
    np.testing.assert_array_equal(seen, [record.first_training_parameters["J"]])
    assert not np.array_equal(seen[0], record.initial["J"]) and not np.array_equal(seen[0], record.final["J"])


def measured(factor):
    """Diagnostics of an invented network: exponent i is -factor * i / 100, and log10 of sigma_i at t just twice as low."""
    exponents = -factor * np.arange(80) / 100
    t = np.array(lyapunov.HORIZONS)
    log_sigma = 2 * exponents * t[:, None]
    return dict(spectrum=exponents, log_sigma=log_sigma, log_norm=-factor * t * np.log(10))


NETWORKS = {
    (0.5, 1, 0): made([0.5], diagnostics=measured(1)),
    (1.0, 1, 16): made([0.5], [1, 1], diagnostics=measured(3)),
    (1.0, 2, 16): made([0.5], [1, 1], diagnostics=measured(1)),
}


def test_rows_of_random_networks():
    rows = rows_of(lyapunov, NETWORKS)
    assert [(r["g"], r["seed"], r["flossed_exponents"]) for r in rows] == [(0.5, 1, 0), (1.0, 1, 16), (1.0, 2, 16)]
    log10 = 1 / np.log(10)
    expected = {
        "lambda_1": 0, "lambda_16": -0.15, "log10_condition_number_16": 30 * log10, "log10_prediction_16": 15 * log10,
        "lambda_32": -0.31, "log10_condition_number_32": 62 * log10, "log10_prediction_32": 31 * log10,
        "lambda_75": -0.74, "log10_condition_number_75": 148 * log10, "log10_prediction_75": 74 * log10,
        "log10_gradient_norm": -100,
    }  # fmt: skip
    assert {name: rows[2][name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert list(rows[0]) == list(table(lyapunov.NAME)[0])


def test_figure_of_random_networks():
    spectra, gains, conditions, gradients = lyapunov.draw(NETWORKS, []).axes
    lines = lambda ax: {line.get_label(): line.get_xydata() for line in ax.lines}  # noqa: E731
    index, t, log10 = np.arange(1, 81), np.array(lyapunov.HORIZONS), np.log(10)
    np.testing.assert_allclose(lines(spectra)["k = 16"], np.transpose([index, -2 * np.arange(80) / 100]))
    np.testing.assert_allclose(lines(gradients)["k = 16"], np.transpose([t, -2 * t]))
    np.testing.assert_allclose(lines(conditions)["k = 16"], np.transpose([t, 2 * 0.62 * t / log10]))
    np.testing.assert_allclose(conditions.lines[1].get_xydata(), np.transpose([t, 0.62 * t / log10]))
    assert "before flossing" not in lines(conditions) and list(lines(gains))[:-1] == ["g = 0.5, before flossing"]
    np.testing.assert_allclose(lines(gains)["g = 0.5, before flossing"], np.transpose([index, -np.arange(80) / 100]))


def test_figure_of_targets_and_gradients():
    fields = lambda n: dict(  # noqa: E731
        diagnostics={"log_condition_number": n * np.arange(4) * np.log(10)},
    )
    flossed = {(-0.5, seed): made(LEARNS, [1, 1], **fields(seed)) for seed in (1, 3)}
    records = {(None, 1): made(FAILS, **fields(1))} | flossed
    accuracy, conditions = targets_and_gradients.draw(records, []).axes
    lines = lambda ax: {line.get_label(): line.get_xydata() for line in ax.lines}  # noqa: E731
    np.testing.assert_allclose(lines(accuracy)["target -0.5"][[0, 70, 149]], [[1, 40], [71, 100], [150, 98]])
    np.testing.assert_allclose(lines(accuracy)["target -0.5"][20], [21, (40 + 100) / 2])
    np.testing.assert_allclose(lines(accuracy)["no flossing"][9], [10, 50])
    np.testing.assert_allclose(lines(conditions)["target -0.5"], [[-100, 0], [1, 2], [101, 4], [151, 6]])
