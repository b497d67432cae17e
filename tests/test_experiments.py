"""The experiments run at small sizes, and the tables in results/ are those of their scripts."""

import csv

import numpy as np

from example_code.experiments import delay_sweep, lyapunov_spectrum_and_condition_number as lyapunov, targets_and_gradients
from extras.check_parameters import flossing_steps
from tests.conftest import ROOT


def table(name, folder=ROOT / "example_code" / "experiments" / "results"):
    with open(folder / f"{name}.csv") as file:
        return list(csv.DictReader(file))


def test_the_committed_delay_sweep_is_that_of_the_script():
    rows = {(r["task"], int(r["delay"]), int(r["seed"]), r["condition"]): r for r in table("delay_sweep")}
    jobs = delay_sweep.make_runs(delay_sweep.parse(["--seeds", *sorted({r["seed"] for r in rows.values()})]))
    assert rows.keys() == jobs.keys()
    for key, row in rows.items():
        p = jobs[key].arguments
        assert (row["epochs"], row["flossing_steps"]) == (str(p.E), str(flossing_steps(p._asdict())))


def test_all_conditions_of_the_delay_sweep_take_the_same_time():
    for job in delay_sweep.make_runs(delay_sweep.parse(["--seeds", "1"])).values():
        time = job.arguments.E + delay_sweep.FLOSSING_STEP * flossing_steps(job.arguments._asdict())
        assert 0.99 * 4501 < time <= 4501


def test_targets_and_gradients(tmp_path):
    options = ["--seeds", "1", "--epochs", "3", "--flossing-steps", "2", "--out", str(tmp_path)]
    assert targets_and_gradients.main(options) == 0
    small, committed = table("targets_and_gradients", tmp_path), table("targets_and_gradients")
    assert [r["target"] for r in small] == list(dict.fromkeys(r["target"] for r in committed))
    assert (tmp_path / "targets_and_gradients.png").stat().st_size > 10_000
    for before, row in zip([r for r in committed if r["seed"] == "1"], small):  # what no training step has changed
        np.testing.assert_allclose(float(row["log10_condition_before"]), float(before["log10_condition_before"]), rtol=1e-3)


def test_a_random_network_before_flossing_is_the_committed_one():
    (row,) = lyapunov.table_rows({(1.0, 1, 0): lyapunov.run(1.0, 1, 0, 500)})
    (committed,) = [r for r in table(lyapunov.NAME) if (r["g"], r["seed"], r["flossed_exponents"]) == ("1.0", "1", "0")]
    for name, value in row.items():
        np.testing.assert_allclose(value, float(committed[name]), rtol=1e-3)
