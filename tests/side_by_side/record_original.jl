# Runs the original, unmodified, and records what it computes and throws away.
#
#     julia record_original.jl PATH_TO_THE_ORIGINAL OUT_FOLDER [--blas-threads=N] [the 33 arguments]
#
# PATH_TO_THE_ORIGINAL is a copy of github.com/RainerEngelken/GradientFlossing (the folder, or the
# example file in it), run with the packages of its packages.txt; without arguments the README call
# is run, and without --blas-threads with the 4 threads that the original sets. For
# compare_with_original.py beside this file, which runs the port on the same arguments; README.md there
# says how to install Julia and the packages.
#
# Nothing of the original is changed. More specific methods are added to three functions that it
# calls: each runs the method that it hides and copies what passes through. None of them draws a
# random number, and none writes to an array of the original.
#
# Written: NAME.bin for each array (raw, column-major) and manifest.txt, which has "# key: value"
# lines, then "NAME ELTYPE d1,d2,..." for each array.

using LinearAlgebra

const README_CALL = (80, 301, 10, 50, 50, 2, 16, 1, 300, 55, 300, 1, 1, 1, 1, 0.001f0, 0.9, 0.999,
    1, 1.0, 0.0, 1.0, 10, 1.0f0, 0.0f0, 1.0f0, 0.0f0, 0.1f0, 0.0f0, 75, -1, 3, 0.0)
const TRAINED = (:ws, :J, :wr, :b, :offset, :xInit)
const FLOSSED = (:ws, :J, :b)
const EXAMPLE_FILE = "GradientFlossing_ExampleCode.jl"
const TASK_FILES = ("GradientFlossing_XOR.jl", "gf_task05spatialXORShort.jl")

function read_number(text)
    number = Meta.parse(text)        # Julia's own literals: 0.001f0 is a Float32, 1 an Int
    number isa Real || error("not a number: $text")
    return number
end

function refuse(message)
    println(stderr, "record_original.jl: ", message)
    exit(2)
end

# From 1.7 on Random.seed! seeds another generator, and the same script draws other weights and orders.
VERSION < v"1.7-" || refuse("Julia $VERSION draws other numbers than the original's Julia 1.6: take 1.5 or 1.6")

const THREADS_OPTION = "--blas-threads="
const OPTIONS = filter(startswith("--"), ARGS)
const POSITIONAL = filter(!startswith("--"), ARGS)
const BLAS_THREADS = isempty(OPTIONS) ? nothing : tryparse(Int, replace(OPTIONS[end], THREADS_OPTION => ""))
if length(POSITIONAL) ∉ (2, 35) || !all(startswith(THREADS_OPTION), OPTIONS) || !(BLAS_THREADS isa Nothing || BLAS_THREADS > 0) ||
        (BLAS_THREADS isa Nothing && !isempty(OPTIONS))
    refuse("usage: julia record_original.jl PATH_TO_THE_ORIGINAL OUT_FOLDER [--blas-threads=N] [33 arguments]")
end
const ORIGINAL = isdir(POSITIONAL[1]) ? joinpath(abspath(POSITIONAL[1]), EXAMPLE_FILE) : abspath(POSITIONAL[1])
const OUT_FOLDER = abspath(POSITIONAL[2])
const ARGUMENTS = length(POSITIONAL) == 2 ? README_CALL : Tuple(read_number.(POSITIONAL[3:end]))
isfile(ORIGINAL) || refuse("no such file: $ORIGINAL")

# The task file was renamed during the original's life, in two commits: take the spelling that is there.
function with_task_file(expression)
    if Meta.isexpr(expression, :call) && expression.args[1] === :include
        for name in (expression.args[2], TASK_FILES...)
            isfile(joinpath(dirname(ORIGINAL), name)) && return :(include($name))
        end
    end
    return expression
end
include(with_task_file, ORIGINAL)           # sets BLAS to 4 threads
BLAS_THREADS isa Int && BLAS.set_num_threads(BLAS_THREADS)
import Flux, Zygote

# --- what is recorded ---------------------------------------------------------------------------

const arrays = Pair{String,Array}[]                    # written in this order
keep(name, array) = push!(arrays, name => Array(array))     # Array copies

const losses, accuracies, flossing_losses = Float64[], Float64[], Float64[]
const gradient_norms, flossing_gradient_norms = Vector{Float64}[], Vector{Float32}[]
const spectra = Vector{Float32}[]
const steps_of_J, steps_of_xInit = Vector{Float64}[], Vector{Float64}[]
const initial, final = Dict{Symbol,Array}(), Dict{Symbol,Array}()

parameter_names(ps) = length(collect(ps)) == length(TRAINED) ? TRAINED : FLOSSED
is_training(ps) = parameter_names(ps) === TRAINED
gradient_array(gs, p) = gs[p] === nothing ? zero(p) : gs[p]

# A variable that a closure of the original has captured; Julia boxes those that are assigned twice.
function captured(closure, name)
    value = getfield(closure, name)
    return value isa Core.Box ? value.contents : value
end

# Share of right answers at the scored steps: the original computes it at these parameters and drops it.
function accuracy(ps, s, target, first_scored)
    ws, J, wr, b, offset, xInit = ps
    T, S, B = size(s)
    x, hits = xInit, 0
    for t in 1:T
        x = J * tanh.(x) .+ b + ws * s[t, :, :] / S
        t < first_scored && continue
        # sigmoid(r) >= 1/2 where r >= 0, and where Float32 rounds it up to 1/2
        hits += count((Flux.sigmoid.(wr * x .+ offset) .>= 0.5) .== target[t, :, :])
    end
    return hits / B / (T - first_scored + 1)
end

function see_gradient(f, ps, loss, gs)
    names, gradients = parameter_names(ps), [gradient_array(gs, p) for p in ps]
    for (name, p) in zip(names, ps)
        get!(() -> copy(p), initial, name)      # flossing changes only what it also shows
    end
    s, target = captured(f, :d)
    if is_training(ps)
        if isempty(losses)
            foreach((name, p) -> keep("train1_param_$name", p), names, ps)
            foreach((name, g) -> keep("train1_grad_$name", g), names, gradients)
            keep("train1_s", s)
            keep("train1_r", target)
            # flossing before training: from the state that training starts from
            isempty(flossing_losses) || keep("floss1_param_xInit", last(collect(ps)))
        end
        push!(losses, loss)
        push!(gradient_norms, norm.(gradients))
        push!(accuracies, accuracy(ps, s, target, captured(captured(f, :loss), :firstlossidx)))
    else
        if isempty(flossing_losses)
            foreach((name, p) -> keep("floss1_param_$name", p), names, ps)
            haskey(final, :xInit) && keep("floss1_param_xInit", final[:xInit])
            foreach((name, g) -> keep("floss1_grad_$name", g), names, gradients)
            keep("floss1_s", s)
        end
        push!(flossing_losses, loss)
        push!(flossing_gradient_norms, norm.(gradients))
        push!(spectra, copy(captured(f, :ls)))
    end
end

# --- the three added methods --------------------------------------------------------------------

# Zygote's own gradient(f, args...) is these two calls; its value is the loss.
function Zygote.gradient(f, ps::Zygote.Params)
    loss, back = Zygote.pullback(f, ps)
    gs = back(Zygote.sensitivity(loss))
    see_gradient(f, ps, loss, gs)
    return gs
end

function Flux.update!(opt, ps::Zygote.Params, gs::Zygote.Grads)
    invoke(Flux.update!, Tuple{Any,Zygote.Params,Any}, opt, ps, gs)
    if is_training(ps)
        foreach((name, p) -> final[name] = copy(p), TRAINED, ps)
        # update! leaves in gs the step taken, and of that the original takes singular values
        _, J, _, _, _, xInit = ps
        push!(steps_of_J, svdvals(gradient_array(gs, J)))
        push!(steps_of_xInit, svdvals(gradient_array(gs, xInit)))
    end
    return nothing
end

function generateInputOutput(B::Integer, T, seedInput, S, sigma, delay, task)
    s, target = invoke(generateInputOutput, Tuple{Any,Any,Any,Any,Any,Any,Any},
        B, T, seedInput, S, sigma, delay, task)
    if isempty(arrays)                          # the batch that is made before training
        keep("s0", s)
        keep("r0", target)
    end
    return s, target
end

# --- run and write ------------------------------------------------------------------------------

function blas_threads()
    isdefined(BLAS, :get_num_threads) && return BLAS.get_num_threads()      # Julia 1.6
    try
        return Int(ccall((:openblas_get_num_threads64_, BLAS.libblas), Cint, ()))
    catch
        return "unknown"
    end
end

function blas_kernel()
    try
        return unsafe_string(ccall((:openblas_get_corename64_, BLAS.libblas), Cstring, ()))
    catch
        return "unknown"
    end
end

function package_version(name)
    path = Base.find_package(name)
    path === nothing && return "unknown"
    project = joinpath(dirname(dirname(path)), "Project.toml")
    found = isfile(project) ? match(r"^version\s*=\s*\"(.*)\""m, read(project, String)) : nothing
    return found === nothing ? "unknown" : found[1]
end

columns(vectors) = isempty(vectors) ? zeros(0, 0) : reduce(hcat, vectors)

function write_recording(seconds)
    for (prefix, parameters) in ("init" => initial, "final" => final), name in TRAINED
        haskey(parameters, name) && keep("$(prefix)_$name", parameters[name])
    end
    keep("loss", losses)
    keep("accuracy", accuracies)
    keep("gradnorm", columns(gradient_norms))
    keep("svdJ", columns(steps_of_J))
    keep("svdxInit", columns(steps_of_xInit))
    if !isempty(flossing_losses)
        keep("floss_loss", flossing_losses)
        keep("floss_spectrum", columns(spectra))
        keep("floss_gradnorm", columns(flossing_gradient_norms))
    end
    mkpath(OUT_FOLDER)
    open(joinpath(OUT_FOLDER, "manifest.txt"), "w") do io
        println(io, "# julia_arguments: ", ARGUMENTS)
        println(io, "# julia: ", VERSION)
        for package in ("Flux", "Zygote", "BackwardsLinalg", "RandomNumbers", "NNlib")
            println(io, "# ", package, ": ", package_version(package))
        end
        println(io, "# blas: ", BLAS.vendor(), ", kernel: ", blas_kernel(), ", threads: ", blas_threads())
        println(io, "# seconds: ", round(seconds, digits=1))
        for (name, array) in arrays
            println(io, name, " ", eltype(array), " ", join(size(array), ","))
            write(joinpath(OUT_FOLDER, "$name.bin"), array)
        end
    end
end

write_recording(@elapsed trainRNNflossing(ARGUMENTS...))
println("recorded ", length(losses), " training and ", length(flossing_losses), " flossing steps in ", OUT_FOLDER)
