"""The schedules of the search take equal time, and the committed tables are those of the committed schedules."""

import csv

import pytest

from example_code.experiments import longest_delay
from extras.check_parameters import check_parameters
from extras.progress import flossing_steps
from tests.conftest import ROOT

SCHEDULES = {schedule for schedule, _ in longest_delay.SEARCH}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_a_schedule_takes_its_budget(schedule):
    p = check_parameters(schedule.run(3).arguments)._asdict()
    assert (p["delay"], p["T"], p["sNet"]) == (45, 300, 3)
    cost = p["E"] + flossing_steps(p) * schedule.step_cost
    assert 0.97 < cost / (schedule.budget * longest_delay.UNIT_BUDGET) <= 1.0001
    last_block = p["Ef"] * min(p["Ni"], p["E"] // p["Ef"])
    assert last_block <= schedule.until * p["E"]


def test_the_committed_table_is_that_of_the_search():
    with open(ROOT / "example_code" / "experiments" / "results" / "schedule_search.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(longest_delay.SEARCH)
    for row, (schedule, seed) in zip(rows, longest_delay.SEARCH):
        assert (row["E"], row["Ni"], row["seed"]) == (str(schedule.E), str(schedule.Ni), str(seed))
        assert 0.4 < float(row["final_accuracy"]) <= float(row["best_accuracy"]) <= 1


def test_no_run_is_done_twice():
    names = [schedule.run(seed).path("") for schedule, seed in longest_delay.SEARCH]
    assert len(set(names)) == len(names)


def test_a_run_of_a_tiny_schedule(tmp_path, monkeypatch):
    monkeypatch.setattr(longest_delay, "UNIT_BUDGET", 130)
    tiny = longest_delay.Schedule(Ep=4, Ef=20, Ei=2, until=0.5, Tp=13, nLE=5)
    monkeypatch.setattr(longest_delay, "BEST", tiny)
    assert longest_delay.main(["--seeds", "1", "2", "--out", str(tmp_path)]) == 0
    with open(tmp_path / "longest_delay.csv") as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["1", "2"]
    assert (tmp_path / "longest_delay.png").stat().st_size > 10_000
