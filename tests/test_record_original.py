"""record_original.jl under a real Julia, with the original's own packages and a copy of the original.

Set GRADIENT_FLOSSING_ORIGINAL to a clone of RainerEngelken/GradientFlossing. Julia is looked for on the PATH, or is the
command in JULIA, and finds the packages by JULIA_PROJECT; tests/side_by_side/README.md says how to install both.
"""

import os
import shlex
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest

from extras.record import TRAINED
from tests.side_by_side import limits
from tests.side_by_side.compare_with_original import Comparison, read_recording

RECORDER = Path(__file__).parent / "side_by_side" / "record_original.jl"
JULIA = shlex.split(os.environ.get("JULIA", "")) or ["julia"]
ORIGINAL = os.environ.get("GRADIENT_FLOSSING_ORIGINAL", "")

needs_julia = pytest.mark.skipif(shutil.which(JULIA[0]) is None, reason="no julia on the PATH, nor a command in JULIA")
needs_original = pytest.mark.skipif(not ORIGINAL, reason="GRADIENT_FLOSSING_ORIGINAL is not set to a copy of the original")
pytestmark = needs_julia

# 6 neurons, 8 epochs, flossing before training (Ep) and at epochs 3 and 6
CALL = "6 8 3 2 {Ep} 2 3 1 40 20 25 1 2 3 4 0.001f0 0.9 0.999 1 1.0 0.0 0.7 4 1.0f0 0.0f0 1.0f0 0.0f0 0.1f0 0.0f0 2 -1 3 0.0"
ARGUMENTS, LATE_FLOSSING = (CALL.format(Ep=Ep).split() for Ep in (2, 0))

# prints what every update of an array makes of it, and the state of the global generator, looked at through a copy
PRINT_UPDATES = """
    using Flux, Random
    function Flux.Optimise.update!(opt, x::Array{Float32}, step::Array)
        invoke(Flux.Optimise.update!, Tuple{Any,Any,Any}, opt, x, step)
        println("update ", hash(x), " ", rand(copy(Random.default_rng()), UInt64))
    end
"""


def julia(*arguments, status=0):
    """Standard output of Julia, or its errors if it is to end with another status than 0."""
    command = [*JULIA, "--startup-file=no", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    return result.stderr if status else result.stdout


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """(standard output, folder) of a run under the recorder with one BLAS thread, which prints its updates."""
    folder = tmp_path_factory.mktemp("recorded")
    script = f'{PRINT_UPDATES}; include("{RECORDER}")'
    return julia("-e", script, ORIGINAL, folder, "--blas-threads=1", *ARGUMENTS), folder


@needs_original
def test_the_recorder_changes_no_draw_and_no_result(recorded):
    call = f"LinearAlgebra.BLAS.set_num_threads(1); trainRNNflossing({', '.join(ARGUMENTS)})"
    bare = julia("-e", f'{PRINT_UPDATES}; include("{ORIGINAL}/GradientFlossing_ExampleCode.jl"); {call}')
    updates, expected = ([line for line in output.splitlines() if "update " in line] for output in (recorded[0], bare))
    assert len(updates) == 6 * 8 + 3 * (2 + 2 * 2)
    assert updates == expected


@needs_original
def test_what_is_recorded_is_what_the_port_computes(recorded):
    recording = read_recording(recorded[1])
    assert str(recording["julia_arguments"]) == f"({', '.join(ARGUMENTS)})"
    comparison = Comparison(recording, noisy_runs=partial(limits.noisy_runs, draws=8))
    assert comparison.passed, "\n" + comparison.table()
    assert {line.rung for line in comparison.lines} >= {"first update", "first flossing step", "after preflossing"}
    assert {f"{kind}_{name}" for kind in ("init", "final", "train1_param") for name in TRAINED} <= recording.keys()


@needs_original
def test_the_first_flossing_step_is_recorded_with_its_parameters_after_training_has_begun(tmp_path):
    julia(RECORDER, ORIGINAL, tmp_path, *LATE_FLOSSING)
    comparison = Comparison(read_recording(tmp_path), noisy_runs=None)
    lines = [line for line in comparison.lines if line.rung == "first flossing step"]
    assert [line.verdict for line in lines] == [limits.OK] * 5, "\n" + comparison.table()


@needs_original
def test_the_manifest_says_what_made_the_recording(recorded):
    lines = (recorded[1] / "manifest.txt").read_text().splitlines()
    manifest = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    assert manifest["blas"].endswith("threads: 1") and "kernel: " in manifest["blas"]
    assert manifest["Flux"] == "0.11.3" and "unknown" not in "".join(manifest.values())


@needs_original
def test_either_spelling_of_the_task_file_is_found(tmp_path):
    folder = Path(shutil.copytree(ORIGINAL, tmp_path / "original"))
    (folder / "GradientFlossing_XOR.jl").rename(folder / "gf_task05spatialXORShort.jl")
    output = julia(RECORDER, folder / "GradientFlossing_ExampleCode.jl", tmp_path / "out", *ARGUMENTS)
    assert "recorded 8 training and 6 flossing steps" in output


@pytest.mark.parametrize("arguments", [["--threads=1"], ["--blas-threads=some"], ["--blas-threads=0"], ["1", "2"]])
def test_what_is_no_call_is_refused(tmp_path, arguments):
    assert "usage" in julia(RECORDER, "original", tmp_path, *arguments, status=2)


def test_a_julia_with_another_generator_is_refused(tmp_path):
    later = tmp_path / "recorder.jl"
    later.write_text(RECORDER.read_text().replace('VERSION < v"1.7-"', 'VERSION < v"1.4-"'))
    assert "draws other numbers" in julia(later, "original", tmp_path, status=2)
