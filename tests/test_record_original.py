"""record_original.jl under a real Julia, on small stand-ins for the original's packages.

The stand-ins have the method signatures of the real ones (Flux 0.11.3, Zygote 0.5.1), but their
"gradient" is 0.01 * parameter and a step is a tenth of it: what is tested is that the recorder sees
everything and changes nothing. The original itself is replaced by a short script with the same calls;
set GRADIENT_FLOSSING_ORIGINAL to a copy of the original to test on that one too.

Julia is looked for on the PATH, or is the command in the environment variable JULIA.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gf_task05spatialXORShort import generate_input_output
from tests.side_by_side.compare_with_original import read_recording

RECORDER = Path(__file__).parent / "side_by_side" / "record_original.jl"
JULIA = shlex.split(os.environ.get("JULIA", "")) or ["julia"]

pytestmark = pytest.mark.skipif(
    shutil.which(JULIA[0]) is None,
    reason="no julia found: put Julia 1.5 or 1.6 on the PATH, or its command in JULIA",
)

N, E, B, T, TI, DELAY, NLE = 6, 4, 3, 30, 25, 4, 2
FLOSSING_STEPS = 2 + 1  # Ep before training, Ei at epoch 3
ARGUMENTS = (
    f"{N} {E} 3 1 2 1 {B} 1 {T} 20 {TI} 1 2 3 4 0.001f0 0.9 0.999 1 1.0 0.0 0.7 {DELAY} "
    f"1.0f0 0.0f0 1.0f0 0.0f0 0.1f0 0.0f0 {NLE} -1 3 0.0"
).split()

STAND_INS = {
    "Zygote": """
        module Zygote
        macro ignore(ex); esc(ex); end
        struct Params
            order::Vector{Any}
        end
        Params(xs::Tuple) = Params(collect(Any, xs))
        Base.iterate(ps::Params, state...) = iterate(ps.order, state...)
        Base.length(ps::Params) = length(ps.order)
        struct Grads
            grads::IdDict{Any,Any}
        end
        Base.getindex(gs::Grads, x) = gs.grads[x]
        sensitivity(y::Number) = one(y)
        pullback(f, args...) = error("only the method for Params is needed")
        function pullback(f, ps::Params)
            y = f()
            number = length(ps) == 6 ? Float64 : Float32
            y, d -> Grads(IdDict{Any,Any}(p => number.(0.01 .* p) for p in ps))
        end
        function gradient(f, args...)
            y, back = pullback(f, args...)
            back(sensitivity(y))
        end
        end
    """,
    "Flux": """
        module Flux
        using Random
        import Zygote
        using Zygote: Params
        export ClipNorm, ADAMW, sigmoid
        sigmoid(x) = 1 / (1 + exp(-x))
        struct ClipNorm; limit; end
        struct ADAMW; lr; end
        ADAMW(lr, betas, decay) = ADAMW(lr)
        struct Optimiser; parts; end
        Optimiser(parts...) = Optimiser(parts)
        apply!(opt, x, step) = (step .*= 0.1)
        function update!(opt, x, step)
            x .-= apply!(opt, x, step)
            # the state of the global generator, looked at through a copy
            println("update ", sum(x), " ", rand(copy(Random.default_rng()), UInt64))
        end
        function update!(opt, xs::Params, gs)
            for x in xs
                update!(opt, x, gs[x])
            end
        end
        module Data
        using Random
        struct DataLoader; data; end
        DataLoader(data...; batchsize, shuffle) = DataLoader(data)
        function Base.iterate(loader::DataLoader, done=false)
            done && return nothing
            order = shuffle!([1:size(loader.data[1], 3);])
            map(array -> array[:, :, order], loader.data), true
        end
        end
        module Losses
        logitbinarycrossentropy(r, y; agg) = agg(@. (1 - y) * r + log1p(exp(-r)))
        end
        end
    """,
    "RandomNumbers": """
        module RandomNumbers
        module Xorshifts
        using Random
        export Xoroshiro128Star
        mutable struct Xoroshiro128Star <: AbstractRNG
            x::UInt64
            y::UInt64
        end
        Xoroshiro128Star(seed) = Random.seed!(Xoroshiro128Star(0, 0), seed)
        function Random.seed!(rng::Xoroshiro128Star, seed::Integer)
            rng.x, rng.y = seed % UInt64, (seed >> 64) % UInt64
            for _ in 1:2 rand(rng, UInt64) end
            rng
        end
        rotl(x, k) = x << k | x >> (64 - k)
        function Random.rand(rng::Xoroshiro128Star, ::Random.SamplerType{UInt64})
            a = rng.x ⊻ rng.y
            rng.x = rotl(rng.x, 24) ⊻ a ⊻ (a << 16)
            rng.y = rotl(a, 37)
            rng.y * 2685821657736338717
        end
        end
        end
    """,
    "BackwardsLinalg": """
        module BackwardsLinalg
        import LinearAlgebra
        qr(A) = (F = LinearAlgebra.qr(A); (Matrix(F.Q), Matrix(F.R)))
        end
    """,
    "BSON": """
        module BSON
        macro load(args...); end
        macro save(args...); end
        end
    """,
}

# The same calls on the same packages as the original, with the variables that the recorder looks for.
EXAMPLE = """
    using BackwardsLinalg, LinearAlgebra, Flux, Random, Statistics
    using Flux.Data: DataLoader
    using Zygote: @ignore, gradient
    include("TASK_FILE")

    function trainRNNflossing(N, E, Ef, Ei, Ep, Ni, B, S, T, Tp, Ti, sIC, sIn, sNet, sONS, lr, b1, b2, IC,
            g, gbar, I1, delay, wsS, wsM, wrS, wrM, bS, bM, nLE, task, intype, Lwnt)
        if task > 0
            firstlossidx = 2 * delay
        else
            firstlossidx = delay * 2^abs(task)
        end
        batch(number, steps, seed) = generateInputOutput(number, steps, seed, S, I1, delay, task)
        batch(B, T, sIn)
        Random.seed!(sNet)
        draw(shape...) = randn(Float32, shape...)
        ws, wr, b, offset = draw(N, S), draw(1, N), Float32(bS) * rand(Float32, N), [0.001f0]
        J = draw(N, N) / sqrt(Float32(N))
        xInit = draw(N, B)
        next(x, s) = J * tanh.(x) .+ b .+ ws * s
        function trainingLoss(s, target)
            x, total = xInit, 0.0
            for t in 1:T
                x = next(x, s[t, :, :])
                t >= firstlossidx && (total += Flux.Losses.logitbinarycrossentropy(wr * x .+ offset, target[t, :, :]; agg=sum))
            end
            total
        end
        function spectrum(s, target)
            Random.seed!(sONS)
            _, R = BackwardsLinalg.qr(randn(Float32, N, nLE))
            log.(abs.(diag(R)))
        end
        function train!(loss, ps, data, opt)
            local training_loss
            for d in data
                gs = gradient(ps) do
                    training_loss = loss(d...)
                    return training_loss
                end
                Flux.update!(opt, ps, gs)
            end
        end
        function floss!(ps, data, opt)
            local ls
            for d in data
                gs = gradient(ps) do
                    ls = spectrum(d...)
                    return mean(abs2, ls)
                end
                Flux.update!(opt, ps, gs)
            end
        end
        trained, flossed = Flux.Params((ws, J, wr, b, offset, xInit)), Flux.Params((ws, J, b))
        opt = Flux.Optimiser(ClipNorm(0.03f0), ADAMW(lr, (b1, b2), 0))
        done = 0
        for ei in 1:E
            if ei == 1 || ei % Ef == 0 && done < Ni
                done += ei > 1
                for i in 1:(ei == 1 ? Ep : Ei)
                    floss!(flossed, DataLoader(batch(1, Ti, E * sIn + ei + i)...; batchsize=1, shuffle=true), opt)
                end
            end
            Random.seed!(ei)
            train!(trainingLoss, trained, DataLoader(batch(B, T, E * sIn + ei)...; batchsize=B, shuffle=true), opt)
        end
    end
"""

TASK = """
    using Random, RandomNumbers.Xorshifts
    function generateInputOutput(B, T, seedInput, S, sigma, delay, task)
        rng = Xoroshiro128Star(1)
        Random.seed!(rng, seedInput)
        bits = bitrand(rng, T + delay, S, B)
        target = zeros(Float32, T + delay, 1, B)
        for i in 2delay+1:T+delay
            target[i, 1, :] = xor.(bits[i-delay, 1, :], bits[i-2delay, 1, :])
        end
        return bits[delay+1:end, :, :] * Float32(sigma), target[delay+1:end, :, :]
    end
"""


@pytest.fixture(scope="module")
def run_julia(tmp_path_factory):
    """run_julia(*arguments, status=0) -> standard output, or error if status is not 0; stand-ins are the packages."""
    home = tmp_path_factory.mktemp("julia")
    for name, text in STAND_INS.items():
        (home / f"{name}.jl").write_text(text)
    environment = {**os.environ, "JULIA_LOAD_PATH": f"{home}:@stdlib", "JULIA_DEPOT_PATH": str(home / "depot")}

    def run(*arguments, status=0):
        command = [*JULIA, "--startup-file=no", "--compiled-modules=no", *map(str, arguments)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == status, result.stderr
        return result.stderr if status else result.stdout

    return run


def written_original(folder, task_file, spelling_in_example):
    """The stand-in for the original, in a folder as a user has it."""
    folder.mkdir()
    (folder / "GradientFlossing_ExampleCode.jl").write_text(EXAMPLE.replace("TASK_FILE", spelling_in_example))
    (folder / task_file).write_text(TASK)
    return folder


@pytest.fixture(scope="module", params=["stand-in", "copy of the original"])
def original(request, tmp_path_factory):
    if request.param == "stand-in":
        return written_original(
            tmp_path_factory.mktemp("written") / "original", "GradientFlossing_XOR.jl", "GradientFlossing_XOR.jl"
        )
    if "GRADIENT_FLOSSING_ORIGINAL" not in os.environ:
        pytest.skip("GRADIENT_FLOSSING_ORIGINAL is not set to a copy of the original")
    return Path(os.environ["GRADIENT_FLOSSING_ORIGINAL"]).resolve()


@pytest.fixture(scope="module")
def recorded(run_julia, original, tmp_path_factory):
    """(standard output, recording) of one run under the recorder."""
    folder = tmp_path_factory.mktemp("recorded")
    output = run_julia(RECORDER, original, folder, *ARGUMENTS)
    return output, read_recording(folder)


def test_the_recorder_changes_no_draw_and_no_result(run_julia, original, recorded, tmp_path):
    call = ", ".join(ARGUMENTS)
    bare = tmp_path / "bare.jl"
    bare.write_text(f'include("{original}/GradientFlossing_ExampleCode.jl")\ntrainRNNflossing({call})\n')
    updates = re.findall(r"update .*", run_julia(bare))
    assert len(updates) == 6 * E + 3 * FLOSSING_STEPS
    assert re.findall(r"update .*", recorded[0]) == updates


def test_every_array_has_its_name_shape_and_type(recorded):
    recording = recorded[1]
    sizes = {"ws": (N, 1), "J": (N, N), "wr": (1, N), "b": (N,), "offset": (1,), "xInit": (N, B)}
    expected = {f"{kind}_{name}": ("float32", size) for kind in ("init", "final", "train1_param") for name, size in sizes.items()}
    expected |= {f"train1_grad_{name}": ("float64", size) for name, size in sizes.items()}
    expected |= {f"floss1_grad_{name}": ("float32", sizes[name]) for name in ("ws", "J", "b")}
    expected |= {f"floss1_param_{name}": ("float32", sizes[name]) for name in ("ws", "J", "b", "xInit")}
    expected |= {name: ("float32", (T, 1, B)) for name in ("s0", "r0", "train1_s", "train1_r")}
    expected |= {name: ("float64", (E,)) for name in ("loss", "accuracy")}
    expected |= {
        "floss1_s": ("float32", (TI, 1, 1)),
        "gradnorm": ("float64", (6, E)),
        "svdJ": ("float64", (N, E)),
        "svdxInit": ("float64", (B, E)),
        "floss_loss": ("float64", (FLOSSING_STEPS,)),
        "floss_spectrum": ("float32", (NLE, FLOSSING_STEPS)),
        "floss_gradnorm": ("float32", (3, FLOSSING_STEPS)),
    }
    arguments = recording.pop("julia_arguments")
    assert {name: (array.dtype.name, array.shape) for name, array in recording.items()} == expected
    assert str(arguments) == "(" + ", ".join(ARGUMENTS) + ")"
    recording["julia_arguments"] = arguments


def test_the_batches_are_those_of_the_task(recorded):
    recording = recorded[1]
    s, target = generate_input_output(B, T, 2, 1, 0.7, DELAY, -1)
    np.testing.assert_array_equal(recording["s0"], s)
    np.testing.assert_array_equal(recording["r0"], target)
    np.testing.assert_array_equal(recording["floss1_s"], generate_input_output(1, TI, E * 2 + 2, 1, 0.7, DELAY, -1)[0])
    s, target = generate_input_output(B, T, E * 2 + 1, 1, 0.7, DELAY, -1)
    order = [[np.array_equal(s[..., i], shown) for i in range(B)].index(True) for shown in np.moveaxis(recording["train1_s"], 2, 0)]
    assert sorted(order) == list(range(B))
    np.testing.assert_array_equal(recording["train1_r"], target[..., order])


def test_what_is_recorded_is_what_happened(recorded):
    recording = recorded[1]
    # a step is a thousandth of the parameter: E steps of training, and of flossing for ws, J, b
    for name in ("ws", "J", "wr", "b", "offset", "xInit"):
        before = 2 if name in ("ws", "J", "b") else 0
        steps = E + (FLOSSING_STEPS if before else 0)
        initial = recording[f"init_{name}"]
        np.testing.assert_allclose(recording[f"train1_param_{name}"], initial * 0.999**before, rtol=1e-5)
        np.testing.assert_allclose(recording[f"final_{name}"], initial * 0.999**steps, rtol=1e-5)
        np.testing.assert_allclose(recording[f"train1_grad_{name}"], 0.01 * recording[f"train1_param_{name}"], rtol=1e-6)
    np.testing.assert_allclose(recording["gradnorm"][1, 0], np.linalg.norm(recording["train1_grad_J"]), rtol=1e-6)
    # singular values are of the step taken, not of the gradient
    singular_values = np.linalg.svd(0.1 * recording["train1_grad_xInit"], compute_uv=False)
    np.testing.assert_allclose(recording["svdxInit"][:, 0], singular_values, rtol=1e-6)
    np.testing.assert_allclose(recording["floss_loss"], np.mean(recording["floss_spectrum"] ** 2, axis=0), rtol=1e-6)


def test_the_first_flossing_step_is_recorded_with_its_parameters(run_julia, original, recorded, tmp_path):
    before_training = recorded[1]
    for name in ("ws", "J", "b", "xInit"):
        np.testing.assert_array_equal(before_training[f"floss1_param_{name}"], before_training[f"init_{name}"])
    arguments = [*ARGUMENTS[:4], "0", *ARGUMENTS[5:]]  # Ep = 0: flossing begins at epoch 3, after two training steps
    run_julia(RECORDER, original, tmp_path / "out", *arguments)
    after = read_recording(tmp_path / "out")
    for name in ("ws", "J", "b", "xInit"):
        np.testing.assert_allclose(after[f"floss1_param_{name}"], after[f"init_{name}"] * 0.999**2, rtol=1e-5)


def manifest(folder):
    lines = (folder / "manifest.txt").read_text().splitlines()
    return dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))


def test_the_number_of_blas_threads_is_an_argument(run_julia, original, recorded, tmp_path):
    run_julia(RECORDER, original, tmp_path / "one", "--blas-threads=1", *ARGUMENTS)
    blas = manifest(tmp_path / "one")["blas"]
    assert blas.endswith("threads: 1") and "kernel: " in blas and "unknown" not in blas


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["out", "--threads=1"], "usage"),
        (["out", "--blas-threads=some"], "usage"),
        (["out", "--blas-threads=0"], "usage"),
        (["out", "1", "2"], "usage"),
    ],
)
def test_what_is_no_call_is_refused(run_julia, original, tmp_path, arguments, says):
    assert says in run_julia(RECORDER, original, *arguments, status=2)


def test_a_julia_with_another_generator_is_refused(run_julia, original, tmp_path):
    later = tmp_path / "recorder.jl"
    later.write_text(RECORDER.read_text().replace('VERSION < v"1.7-"', 'VERSION < v"1.4-"'))
    assert "draws other numbers" in run_julia(later, original, tmp_path / "out", *ARGUMENTS, status=2)
    assert not (tmp_path / "out").exists()


def test_the_accuracy_is_that_of_the_parameters_before_the_update(recorded):
    recording = recorded[1]
    ws, J, wr, b, offset, x = (recording[f"train1_param_{name}"] for name in ("ws", "J", "wr", "b", "offset", "xInit"))
    hits = []
    for t in range(T):
        x = J @ np.tanh(x) + b[:, None] + ws @ recording["train1_s"][t]
        if t + 1 >= 2 * DELAY:
            hits.append((wr @ x + offset >= 0) == recording["train1_r"][t])
    assert recording["accuracy"][0] == pytest.approx(np.mean(hits), abs=1e-12)


def test_either_spelling_of_the_task_file_is_found(run_julia, tmp_path):
    folder = written_original(tmp_path / "original", "GradientFlossing_XOR.jl", "gf_task05spatialXORShort.jl")
    output = run_julia(RECORDER, folder / "GradientFlossing_ExampleCode.jl", tmp_path / "out", *ARGUMENTS)
    assert f"recorded {E} training and {FLOSSING_STEPS} flossing steps" in output
    assert (tmp_path / "out" / "manifest.txt").read_text().startswith("# julia_arguments: (")
