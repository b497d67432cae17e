"""The experiments run at small sizes, and the tables in results/ are those of their scripts."""

import csv

import numpy as np

from example_code.experiments import delay_sweep, lyapunov_spectrum_and_condition_number as lyapunov
from example_code.experiments import number_of_exponents, targets_and_gradients
from extras.check_parameters import flossing_steps
from tests.conftest import ROOT


def table(name, folder=ROOT / "example_code" / "experiments" / "results"):
    with open(folder / f"{name}.csv") as file:
        return list(csv.DictReader(file))


def test_the_committed_delay_sweep_is_that_of_the_script():
    rows = {(r["task"], int(r["delay"]), int(r["seed"]), r["condition"]): r for r in table("delay_sweep")}
    jobs = delay_sweep.make_runs(delay_sweep.parse([]))
    assert rows.keys() == jobs.keys()
    for key, row in rows.items():
        p = jobs[key].arguments
        assert (row["epochs"], row["flossing_steps"]) == (str(p.E), str(flossing_steps(p._asdict())))


def test_all_conditions_of_the_delay_sweep_take_the_same_time():
    for job in delay_sweep.make_runs(delay_sweep.parse(["--seeds", "1"])).values():
        time = job.arguments.E + delay_sweep.FLOSSING_STEP * flossing_steps(job.arguments._asdict())
        assert 0.99 * 4501 < time <= 4501


def test_number_of_exponents(tmp_path):
    """The committed table, and that k = 75 is the delay sweep's run: same arguments, so same numbers."""
    args = number_of_exponents.parse([])
    rows = {(int(r["delay"]), int(r["k"]), int(r["seed"])): r for r in table("number_of_exponents")}
    assert rows.keys() == number_of_exponents.make_runs(args).keys()
    assert len({(r["epochs"], r["flossing_steps"]) for r in rows.values()}) == 1
    during = [r for r in table("delay_sweep") if (r["task"], r["condition"]) == ("xor", "during")]
    compared = [(r, rows[int(r["delay"]), 75, int(r["seed"])]) for r in during if int(r["delay"]) in number_of_exponents.DELAYS]
    assert len(compared) == len(args.seeds) * len(number_of_exponents.DELAYS)
    for row, other in compared:
        assert all(row[name] == other[name] for name in ("epochs", "flossing_steps", "final_accuracy", "epoch_learned"))
    options = ["--seeds", "1", "--epochs", "40", "--preflossing", "2", "--out", str(tmp_path)]
    assert number_of_exponents.main(options) == 0
    assert [r["k"] for r in table("number_of_exponents", tmp_path)] == list(map(str, number_of_exponents.EXPONENTS * 3))
    assert (tmp_path / "number_of_exponents.png").stat().st_size > 10_000


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
