"""experiments/benchmark.py: times the same computation for every engine and runs from start to end."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from example_code.experiments import benchmark
from tests.conftest import ROOT

SIZES = dict(N=12, T=40, B=3, Tp=30, nLE=5)


@pytest.mark.parametrize("kind", ["training", "flossing"])
def test_both_engines_compute_the_same(kind):
    values, others = (benchmark.step(kind, engine, **SIZES)() for engine in ("ours (ms)", "torch (ms)"))
    np.testing.assert_allclose(others[0], values[0], rtol=1e-5)
    np.testing.assert_allclose(others[1], values[1], atol=1e-5)
    for name, gradient in values[2].items():
        np.testing.assert_allclose(others[2][name], gradient, rtol=0, atol=1e-3 * np.abs(gradient).max())


@pytest.mark.parametrize("engine, network", [("jvp", "RNN"), ("jvp", "GRU"), ("jvp", "LSTM"), ("plain", "RNN")])
def test_networks_have_the_same_exponents_by_hand(network, engine, monkeypatch):
    differentiated, backward = [], torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: differentiated.append(1) or backward(loss))
    ours, by_hand = (benchmark.network_step(network, e, "float64", H=6, k=4, T=9, B=2)() for e in ("ours", engine))
    assert ours.shape == (2, 4) and len(differentiated) == 2
    np.testing.assert_allclose(by_hand.detach(), ours.detach(), rtol=0, atol=1e-11)
    assert benchmark.network_step(network, engine, "float32", H=6, k=4, T=9, B=2)().dtype == torch.float32


def test_the_table_of_networks_has_both_precisions(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "SIZES", {})
    monkeypatch.setattr(benchmark, "network_step", lambda *arguments: arguments)
    seconds = lambda network, engine, dtype, *_: 1e-3 * (len(engine) + (dtype == "float32")) * np.ones(3)  # noqa: E731
    monkeypatch.setattr(benchmark, "measure", lambda steps, *_: {key: seconds(*step) for key, step in steps.items()})
    benchmark.main(["--quick"])
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| network | H, k, T, B | ours float64 | jvp float64 | plain float64 | ours float32 | jvp float32 | plain float32 |",
        "|---|---|---|---|---|---|---|---|",
        "| nn.RNN | 80, 75, 55, 1 | 4 (0) | 3 (0) | 5 (0) | 5 (0) | 4 (0) | 6 (0) |",
        "| nn.GRU | 80, 75, 55, 1 | 4 (0) | 3 (0) | - | 5 (0) | 4 (0) | - |",
        "| nn.LSTM | 80, 75, 55, 1 | 4 (0) | 3 (0) | - | 5 (0) | 4 (0) | - |",
    ]


def test_functions_take_turns_and_the_first_round_is_dropped(monkeypatch):
    clock, calls, seconds = [0.0], [], {"a": iter([9, 1, 1, 1]), "b": iter([9, 2, 2, 2])}
    monkeypatch.setattr(benchmark.time, "process_time", lambda: clock[0])

    def function(name):
        calls.append(name)
        clock[0] += next(seconds[name])

    times = benchmark.measure({name: lambda name=name: function(name) for name in "ab"}, rounds=3)
    assert calls == list("abababab")
    assert times["a"].tolist() == [1, 1, 1] and times["b"].tolist() == [2, 2, 2]


def test_short_functions_are_called_several_times_in_a_round(monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(benchmark.time, "process_time", lambda: clock[0])

    def function():
        calls.append(1)
        clock[0] += 2**-4

    assert len(benchmark.measure({"a": function}, rounds=2)["a"]) == len(calls) - 1 == 2 * 5


def test_the_table_has_medians_distances_of_quartiles_and_ratios(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "measure", lambda steps, *_: {key: 1e-3 * f() for key, f in steps.items()})
    spread = np.array([0.5, 0.9, 1, 1.2, 9])
    times = {("README", "ours"): 1, ("README", "torch"): 2, ("N 160, B 2", "ours"): 8, ("N 160, B 2", "torch"): 4}
    steps = {((row,), f"{engine} (ms)"): lambda ms=ms: ms * spread for (row, engine), ms in times.items()}
    benchmark.report(["training"], steps, rounds=1)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "| training | ours (ms) | torch (ms) | torch / ours |",
        "|---|---|---|---|",
        "| README | 1 (0.3) | 2 (0.6) | 2.00 |",
        "| N 160, B 2 | 8 (2) | 4 (1) | 0.50 |",
    ]


def test_main_prints_the_tables_of_all_kinds(monkeypatch, capsys):
    monkeypatch.setattr(benchmark.example, "README_CALL", benchmark.example.README_CALL._replace(**SIZES | dict(N=20)))
    rounds = []
    monkeypatch.setattr(benchmark, "measure", lambda functions, n, _: rounds.append(n) or {key: np.ones(3) for key in functions})
    benchmark.main([])
    rows = ["| training | ours (ms) | torch (ms) |", "| flossing | ours (ms)", "| N 640 |", "| nn.LSTM | 256, 32, 200, 16 |"]
    printed = capsys.readouterr().out
    assert all(row in printed for row in rows) and printed.count("| N 160 |") == 2 and "| N 320, nLE 320 |" in printed
    benchmark.main(["--quick"])
    printed = capsys.readouterr().out
    assert "| N 160 |" in printed and "| N 320 |" not in printed
    assert rounds == [12, 12, 3, 2, 2, 1]


@pytest.mark.long
def test_a_quick_benchmark_for_real():
    command = [sys.executable, ROOT / "example_code" / "experiments" / "benchmark.py", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| nLE 16 |" in done.stdout and "| nn.GRU | 80, 75, 55, 1 |" in done.stdout
