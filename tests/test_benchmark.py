"""experiments/benchmark.py: times the same computation for every engine, counts operations rightly, runs from start to end."""

import subprocess
import sys
import time

import numpy as np
import pytest

from example_code.experiments import benchmark
from tests.conftest import ROOT

SIZES = dict(N=12, T=40, B=3, Tp=30, nLE=5)


@pytest.mark.parametrize("engine", ["autograd", "jax"])
@pytest.mark.parametrize("kind", benchmark.STEPS)
def test_all_engines_compute_the_same(kind, engine):
    if engine == "jax":
        pytest.importorskip("jax", reason="jax is not installed: optional, for the benchmark only")
    values = benchmark.STEPS[kind]("adjoint", SIZES)()
    others = benchmark.STEPS[kind](engine, SIZES)()
    if engine == "jax":
        (loss, second), gradients = others
        others = loss, second, gradients
    np.testing.assert_allclose(others[0], values[0], rtol=1e-5)
    np.testing.assert_allclose(others[1], values[1], atol=1e-5)
    for name, gradient in values[2].items():
        np.testing.assert_allclose(others[2][name], gradient, rtol=0, atol=1e-3 * np.abs(gradient).max())


def test_a_training_step_of_the_readme_call_has_184_million_operations():
    assert benchmark.matrix_product_flops("training", **benchmark.README_SIZES) == 6 * 300 * 16 * 80**2 == 184_320_000


def test_operations_of_a_flossing_step_of_a_square_system():
    flops = benchmark.matrix_product_flops("flossing", N=10, T=1, B=1, Tp=1, nLE=10)
    assert flops == pytest.approx(1000 * (6 + 8 / 3 + 5))


def test_functions_take_turns_and_the_first_round_is_dropped():
    calls, pauses = [], {"a": iter([0.2, 0.001, 0.001, 0.001]), "b": iter([0, 0.02, 0.02, 0.02])}

    def function(name):
        calls.append(name)
        time.sleep(next(pauses[name]))

    medians = benchmark.median_times({name: lambda name=name: function(name) for name in "ab"}, rounds=3)
    assert calls == list("abababab")
    assert medians["a"] < 0.1 and medians["b"] >= 0.02


def test_exponents_are_slopes_between_the_ends():
    of_time, of_arithmetic = benchmark.exponents([(80, 1.0, 5.0), (160, 9.0, 9.0), (640, 64.0, 2560.0)])
    assert of_time == pytest.approx(2) and of_arithmetic == pytest.approx(3)


def test_a_quick_benchmark_prints_its_tables_and_writes_the_figure(tmp_path):
    command = [sys.executable, ROOT / "example_code" / "experiments" / "benchmark.py", "--quick", "--out", tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for row in ("| training | adjoint |", "| flossing | autograd |", "| flossing | bound", "| flossing | N = nLE | 20, 40"):
        assert row in done.stdout
    assert (tmp_path / "out" / "benchmark.png").exists()
