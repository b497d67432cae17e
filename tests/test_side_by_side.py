"""compare_with_original.py: it passes the port, and finds a wrong one at the rung where it is wrong."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gradient_flossing_example as port
from julia_packages import flux
from julia_packages.random import MersenneTwister
from tests.side_by_side import compare_with_original as tool
from tests.side_by_side.tolerances import Band, Between, Within, distance

SCRIPT = Path(tool.__file__)
REDUCED_EPOCHS = {"readme_seed1": 1, "no_flossing": 4, "preflossing": 2, "copy_small": 40, "orthogonal_parity4": 20}


def recording(case):
    return tool.read_recording(tool.REFERENCE / f"run_{case}.npz")


def failed_rungs(case="copy_small", epochs=1):
    return tool.Comparison(recording(case), epochs=epochs).failed_rungs


@pytest.mark.parametrize("engine", ["adjoint", "autograd"])
@pytest.mark.parametrize("case", tool.CASES)
def test_the_port_passes_every_rung_at_reduced_length(case, engine, tmp_path):
    comparison = tool.Comparison(recording(case), engine, epochs=REDUCED_EPOCHS[case])
    assert comparison.passed, "\n" + comparison.table()
    assert sum(verdict is True for *_, verdict in comparison.lines) > 18
    assert comparison.case == case and len(comparison.port["loss"]) == REDUCED_EPOCHS[case]
    tool.draw(comparison, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


# --- wrong ports ----------------------------------------------------------------------------------


def test_the_seed_of_the_batches_off_by_one_is_caught_at_the_task_data(monkeypatch):
    right = port.generate_input_output
    monkeypatch.setattr(port, "generate_input_output", lambda B, T, seed, *rest: right(B, T, seed + 1, *rest))
    assert failed_rungs()[0] == "task data"


def test_the_seed_of_the_trial_order_off_by_one_is_caught_at_the_task_data(monkeypatch):
    right = port.epoch_generator
    monkeypatch.setattr(port, "epoch_generator", lambda seed: right(seed + 1))
    assert failed_rungs()[0] == "task data"


def test_the_seed_of_the_weights_off_by_one_is_caught_at_the_initial_weights(monkeypatch):
    monkeypatch.setattr(port, "MersenneTwister", lambda seed: MersenneTwister(seed + 1))
    assert failed_rungs()[0] == "initial weights"


def test_a_transposed_fill_is_caught_at_the_initial_weights(monkeypatch):
    right = MersenneTwister.randn_float32
    monkeypatch.setattr(MersenneTwister, "randn_float32", lambda self, *shape: right(self, *shape[::-1]).T)
    assert failed_rungs()[0] == "initial weights"


def test_a_wrong_epsilon_of_adam_is_caught_at_the_first_update(monkeypatch):
    monkeypatch.setattr(flux, "EPSILON", 1e-7)
    assert failed_rungs()[0] == "first update"
    assert failed_rungs("no_flossing")[0] == "first update"


def test_clipping_by_the_global_norm_is_caught_at_the_first_update(monkeypatch):
    def clipped_together(opt, ps, gs):
        if isinstance(opt.os[0], flux.ClipNorm):
            norm = np.sqrt(sum(np.sum(g.astype(np.float64) ** 2) for g in gs.values()))
            for g in gs.values():
                g *= min(1, 0.03 / norm)
        right(opt, ps, gs)

    right = flux.update
    monkeypatch.setattr(flux, "update", clipped_together)
    monkeypatch.setattr(port, "update", clipped_together)
    assert failed_rungs()[0] == "first update"
    assert failed_rungs("no_flossing")[0] == "first update"


def test_a_loss_scored_one_step_late_is_caught_at_the_first_loss(monkeypatch):
    right = port.first_loss_index
    monkeypatch.setattr(port, "first_loss_index", lambda delay, task: right(delay, task) + 1)
    assert failed_rungs()[0] == "first loss"


def test_a_spectrum_from_another_orthonormal_system_is_caught_at_the_first_flossing_loss(monkeypatch):
    right = port.initial_orthonormal_system
    monkeypatch.setattr(port, "initial_orthonormal_system", lambda sONS, N, nLE: right(sONS + 1, N, nLE))
    assert failed_rungs()[0] == "first flossing loss"


# --- the pieces -----------------------------------------------------------------------------------


def test_the_arguments_are_read_as_julia_means_them():
    arguments = tool.read_arguments(recording("orthogonal_parity4")["julia_arguments"])
    assert arguments[15] == float(np.float32(0.002)) and arguments[16] == 0.8 and arguments[30] == -2
    assert isinstance(arguments[30], int) and tool.known_case(arguments) == "orthogonal_parity4"
    assert tool.known_case([81, *arguments[1:]]) is None
    with pytest.raises(ValueError, match="expected 33"):
        tool.read_arguments("(1, 2)")


def test_shortening_keeps_the_seeds_of_the_epochs():
    arguments = tool.read_arguments(recording("readme_seed1")["julia_arguments"])
    shorter = tool.shortened(arguments, 50)
    assert (shorter[1], shorter[12]) == (43, 7)  # 43 * 7 = 301 * 1
    assert tool.shortened(arguments, None) == arguments


def written_folder(folder, arrays):
    """A folder as record_original.jl writes it, from a recording."""
    folder.mkdir()
    lines = [f"# julia_arguments: {arrays['julia_arguments']}", "# julia: 1.6.7"]
    for name, array in arrays.items():
        if name != "julia_arguments":
            lines.append(f"{name} {array.dtype.name.capitalize()} {','.join(map(str, array.shape))}")
            (folder / f"{name}.bin").write_bytes(array.tobytes(order="F"))
    (folder / "manifest.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_a_folder_and_an_npz_read_the_same(tmp_path):
    expected = recording("copy_small")
    found = tool.read_recording(written_folder(tmp_path / "folder", expected))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype or name == "julia_arguments"
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("change, status, says", [(0.0, 0, "as expected"), (1e-3, 1, "NOT as expected: first loss, whole run")])
def test_the_command_says_what_differs_and_exits_so(tmp_path, change, status, says):
    arrays = recording("copy_small")
    arrays["loss"] = arrays["loss"] + change
    folder, second = written_folder(tmp_path / "one", arrays), written_folder(tmp_path / "two", recording("copy_small"))
    command = [sys.executable, SCRIPT, folder, "--second", second, "--epochs", "4", "--out", tmp_path / "out"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == status, result.stderr
    assert f"\n{says}; figure:" in result.stdout and "the original from itself: losses" in result.stdout
    assert (tmp_path / "out" / "side_by_side_copy_small.png").exists()


def test_the_recording_lies_in_the_band_of_the_drift_runs():
    comparison = tool.Comparison(recording("copy_small"), epochs=20, drift=2)
    assert comparison.passed, "\n" + comparison.table()
    assert "drift" in comparison.table()
    apart = recording("copy_small")
    apart["accuracy"] = apart["accuracy"] - 0.05
    assert "drift" in tool.Comparison(apart, epochs=20, drift=2).failed_rungs


def test_the_last_bit_changes_in_every_entry():
    J = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    changed = tool.last_bit_changed(J, 0)
    assert changed.dtype == np.float32
    np.testing.assert_array_equal(np.abs(changed.view(np.int32) - J.view(np.int32)), 1)


def test_tolerances_judge_as_they_say():
    assert Within(0.1).allows([1.0, 2.0], np.array([1.05, 1.95])) and not Within(0.1).allows([1.0], np.array([1.2]))
    assert Within(0.1, "of the largest entry").allows([0.5, 10.0], np.array([0.0, 10.0]))
    assert not Within(0.1, "of the value").allows([0.5, 10.0], np.array([0.1, 10.0]))
    assert Between(0.99, 1).allows([0.995], [0.5]) and not Between(0.99, 1).allows([0.98], [0.995])
    band = Band(np.zeros(9), np.ones(9))
    assert band.allows(None, np.full(9, 1.9)) and not band.allows(None, np.full(9, 2.1))
    assert distance([1.0], [1.0, 2.0]) == np.inf and distance([np.nan], [1.0])[0] == np.inf and distance([np.nan], [np.nan])[0] == 0
