"""Train a vanilla RNN on a delayed XOR task, with gradient flossing before and during training.

Port of GradientFlossing_ExampleCode.jl (`ex.jl` below), github.com/RainerEngelken/GradientFlossing, commit 324d2a0:
R. Engelken, "Gradient Flossing: Improving Gradient Descent through Dynamic Control of Jacobians", NeurIPS 2023,
arXiv 2312.17306. Order of functions and statements follows the original; `# ex.jl:a-b` names its lines,
`# D3` a row of the table of deviations (tests/side_by_side/README.md). Arrays have Julia's shapes and count from 0.
"""

from extras.signals import ctrl_c_ends_at_once

if __name__ == "__main__":
    ctrl_c_ends_at_once()  # while the modules below are imported

from functools import lru_cache, partial

import numpy as np

from extras.adjoints import FlossingAdjoint, TrainingAdjoint
from extras.check_parameters import Parameters, check_parameters, check_spectrum_call
from extras.run import Run
from gf_task05spatialXORShort import generate_input_output
from julia_packages.backwards_linalg import qr
from julia_packages.base import like, log, sech_squared, tanh
from julia_packages.flux import ADAMW, ClipNorm, DataLoader, Optimiser, logitbinarycrossentropy, sigmoid, update
from julia_packages.linear_algebra import blas_threads
from julia_packages.random import MersenneTwister, epoch_generator


# ex.jl:9  # D14
def train_rnn_flossing(
    N, E, Ef, Ei, Ep, Ni, B, S, T, Tp, Ti, sIC, sIn, sNet, sONS, lr, b1, b2, IC, g, gbar, I1, delay,
    wsS, wsM, wrS, wrM, bS, bM, nLE, task, intype, Lwnt,
    *, engine="adjoint", progress=True, initial=None, checkpoint=None, checkpoint_every=100, diagnostics=None,
):  # fmt: skip
    """Train an RNN of N tanh units for E epochs with gradient flossing, and return the TrainingRecord (extras/record.py).

    The 33 positional parameters are the original's (README, "The 33 parameters"). Additions:
    engine: "adjoint" (hand-derived gradients) or "autograd" (torch differentiates the formulae below).
    progress: print what the original prints, and how far it is.
    initial: dict of arrays that replace drawn ones, any of ws J wr b offset xInit, in their shapes.
    checkpoint: file to save the run in every `checkpoint_every` steps (of training and flossing), and to go on from
        if it is there.
    diagnostics: extras.lyapunov.Diagnostics, what else to compute; none of it changes a number of the run.

    Ctrl-C gives the record of the run so far, with record.interrupted set; SIGTERM and SIGHUP raise Terminated, a SystemExit
    with the status 143 or 129 and with that record. ValueError, before anything is printed, for arguments with which no run
    is possible; NonFiniteError, with the record so far, if a number becomes infinite or NaN; CheckpointError if the
    checkpoint cannot be written, is damaged, belongs to another run, or is in use by one.
    """
    # ex.jl:17-18  # D1
    (N, E, Ef, Ei, Ep, Ni, B, S, T, Tp, Ti, sIC, sIn, sNet, sONS, lr, b1, b2, IC, g, gbar, I1, delay,
     wsS, wsM, wrS, wrM, bS, bM, nLE, task, intype, Lwnt) = parameters = check_parameters(locals())  # fmt: skip
    check_formulae(engine)
    run = Run(parameters, engine, progress, initial, checkpoint, checkpoint_every, diagnostics)
    firstlossidx = first_loss_index(delay, task)  # D17: ex.jl:12-16
    # ex.jl:19-20  Julia's literals are Float32 (0.001f0), Python's are not: rounded here; lstarget is Lwnt for each  # D2
    decay = 0  # no weight decay  # D15
    lr, wsS, wsM, wrS, wrM, bS, bM, Lwnt = map(np.float32, (lr, wsS, wsM, wrS, wrM, bS, bM, Lwnt))
    # ex.jl:39
    run.print(f"T:{T}")
    # ex.jl:41 draws a batch that nothing reads  # D3
    # ex.jl:42-47
    run.print("generating weights")
    rng = MersenneTwister(sNet)
    ws = wsS * rng.randn_float32(N, S) + wsM  # (N, S)
    wr = wrS * rng.randn_float32(1, N) + wrM  # (R, N): R = 1 readout
    b = bM + bS * rng.rand_float32(N)  # (N,)
    offset = np.array([0.001], np.float32)
    # ex.jl:53-61
    J = np.float32(g) * rng.randn_float32(N, N) / np.float32(np.sqrt(N))  # (N, N)
    if IC == 1:  # Gaussian recurrent coupling
        J = J + np.float32(gbar / N)
    else:  # IC == 3: orthogonal recurrent coupling  # D1 D25
        J = np.float32(g) * qr(J)[0]  # D18
    # ex.jl:162-167  trained and flossed parameters, the same arrays, updated in place; J and b may be those of `initial`
    ps = dict(ws=ws, J=J, wr=wr, b=b, offset=offset) | run.initial
    ps.setdefault("xInit", relax_ic(sIC, 100, ps["J"], ps["b"], B))  # (N, B)  # D13
    opt = Optimiser(ClipNorm(np.float32(0.03)), ADAMW(lr, (b1, b2), decay))
    optFlossing = ADAMW(lr, (b1, b2), decay)
    psFlossing = {name: ps[name] for name in ("ws", "J", "b")}
    gradient = {  # for each loss what is `gradient(psZygote) do ... end` there, by the engine  # D9
        calc_loss_binary_crossentropy: training_engine(engine, N, T, B, firstlossidx),
        calc_flossing_loss: flossing_engine(engine, N, Tp, nLE, sONS, Lwnt),
    }

    # ex.jl:171-173
    startWithPreflossing = Ep > 0
    ni = run.blocks  # counter for interflossing: 0, unless the run goes on
    with blas_threads(N, max(B, nLE)), run.started(ps, opt=opt, optFlossing=optFlossing):  # ex.jl:4  # D4
        for ei in run.epochs(E):  # D19
            # ex.jl:174-185
            if (ei == 1 and startWithPreflossing) or (ei % Ef == 0 and ni < Ni):  # for periodic interflossing
                if ei == 1:
                    NumberOfFlossingEpochs = Ep  # D23
                    run.print("preflossing now")
                else:
                    NumberOfFlossingEpochs = Ei
                    run.print(f"interflossing now at {ei}")
                    ni += 1
                #############################
                # THIS IS THE FLOSSING LOOP #
                #############################
                # ex.jl:190-198  B is 1 here, so a DataLoader would shuffle a single trial  # D19
                for i in run.flossing_steps(NumberOfFlossingEpochs):
                    if nLE > 0:
                        s, rtarg = generate_input_output(1, Ti, E * sIn + ei + i, S, I1, delay, task)  # D12
                        train_ls_append(gradient, psFlossing, ps["xInit"], s, optFlossing, run)
            ###################################
            # THIS IS THE USUAL TRAINING LOOP #
            ###################################
            # ex.jl:202-206
            rng = epoch_generator(ei)  # D24
            s, rtarg = generate_input_output(B, T, E * sIn + ei, S, I1, delay, task)  # D24
            data = DataLoader((s, rtarg), batchsize=B, shuffle=True, rng=rng)
            train_with_accuracy(gradient, ps, data, opt, run)
    return run.record()


# ------------------------------------------------------------------ what are functions inside the original's trainer  # D17
#
# By default extras/adjoints.py computes the formulae below, and their gradients, by hand: whoever changes one changes both,
# or trains with engine="autograd", which runs and differentiates what stands here (in torch; given arrays, in NumPy).
# Formulae that differ are refused by the default engine (check_formulae).


# ex.jl:11
phi = tanh


# ex.jl:12-16
def first_loss_index(delay, task):
    """First scored time step, counted from 1: 2*delay if task > 0, else delay * 2^|task| (D5)."""
    return int(2 * delay) if task > 0 else int(delay * 2 ** abs(task))


# ex.jl:26, 28-29
def discarded_steps(Tp):
    """Steps of a spectrum over Tp steps (nStep there) that are not averaged: of 55 steps the first 10 + 6."""
    nStepTransient = 10  # until the network has forgotten its initial state
    nStepTransientONS = -(-Tp // 10)  # ceil(Tp / 10): until the orthonormal system follows the network
    return nStepTransient + nStepTransientONS


# ex.jl:30
def phid(x):
    """Derivative of phi."""
    return sech_squared(x)  # D8


# ex.jl:31-35
def get_d(x, J):
    """Jacobian D = diag(phi'(x)) J of one step (paper, eq. 2), for the state x (N,) after it."""
    return phid(x)[:, None] * J


# ex.jl:63-74
def calc_loss_binary_crossentropy(s, rtarg, ws, J, wr, b, offset, xInit, firstlossidx):
    """Mean binary cross-entropy of the readout over the steps t >= firstlossidx (1-based) and trials, a scalar.

    s (T, S, B), rtarg (T, 1, B), ws (N, S), J (N, N), wr (1, N), b (N,), offset (1,), xInit (N, B).
    """
    T, S, B = s.shape
    loss = 0
    x = xInit
    for ti in range(1, T + 1):
        x = J @ phi(x) + b[:, None] + ws @ s[ti - 1] / S
        if ti >= firstlossidx:
            r = wr @ x + offset
            loss = loss + logitbinarycrossentropy(r, rtarg[ti - 1], agg=lambda losses: losses.sum())
    return loss / B / (T - firstlossidx + 1) / wr.shape[0]  # D10


# ex.jl:76-87
def get_accuracy(s, rtarg, ws, J, wr, b, offset, xInit, firstlossidx):
    """Share of scored steps and trials with (sigmoid(r) >= 0.5) == target, a float; arguments as for the loss."""
    T, S, B = s.shape
    accuracy = 0
    x = xInit
    for ti in range(1, T + 1):
        x = J @ phi(x) + b[:, None] + ws @ s[ti - 1] / S
        if ti >= firstlossidx:
            r = wr @ x + offset
            accuracy += ((sigmoid(r) >= 0.5) == rtarg[ti - 1]).sum().item()
    return accuracy / B / (T - firstlossidx + 1) / wr.shape[0]  # D10


# ex.jl:89-98, 101-102
def train_with_accuracy(gradient, ps, data, opt, run):
    """One gradient step on every batch of data: ps changes in place; loss, accuracy and gradients go to the run.

    gradient: dict from a loss function to the function that takes its gradient, by either engine.
    The original takes singular values here and drops them; here they are among the diagnostics (D6).
    """
    for s, rtarg in data:
        training_loss, accuracyNow, gs = gradient[calc_loss_binary_crossentropy](s, rtarg, ps)  # D9
        gs = {name: g.astype(np.float64) for name, g in gs.items()}  # Zygote accumulates these in Float64  # D16
        run.training_step(training_loss, accuracyNow, gs)
        update(opt, ps, gs)  # D11
        run.training_update(gs)  # ex.jl:99-100: after update!, gs holds the ADAM steps  # D6


# ex.jl:110-112
def calc_flossing_loss(s, ws, J, b, xInit, Tp, nLE, sONS, Lwnt):
    """Mean squared distance of the Lyapunov exponents from Lwnt, a scalar, and the exponents ls (nLE,)."""
    ls = calc_lyapunov_spectrum(s, None, ws, J, b, xInit, Tp, nLE, sONS)
    return ((ls - float(Lwnt)) ** 2).mean(), ls


# ex.jl:104-109, 113-116
def train_ls_append(gradient, psFlossing, xInit, s, opt, run):
    """One flossing step: psFlossing changes in place; loss, spectrum and gradients go to the run."""
    training_loss, ls, gs = gradient[calc_flossing_loss](s, psFlossing, xInit)  # D9
    run.flossing_step(training_loss, ls, gs)
    update(opt, psFlossing, gs)  # D11


#########################################
# THIS calculates the Lyapunov spectrum #
#########################################
# ex.jl:120-123, 127-150
def calc_lyapunov_spectrum(s, rtarg, ws, J, b, xInit, Tp, nLE, sONS):
    """First nLE Lyapunov exponents (nLE,), 1/step, of the network driven by s over Tp steps (paper, section 3).

    s (>= Tp, S, 1), rtarg is not used, ws (N, S), J (N, N), b (N,), xInit (N, B), whose first column is the
    initial state; sONS: seed of the orthonormal system.
    The first discarded_steps(Tp) are not averaged. ValueError if that leaves none, or nLE > N.
    """
    check_spectrum_call(s, J, Tp, nLE)  # D1
    N, S = ws.shape
    x = xInit[:, 0]
    tsim = 0
    LS = 0  # initialize Lyapunov spectrum
    Q = like(J, initial_orthonormal_system(sONS, N, nLE))  # Qinit: ex.jl:124-126, below  # D7
    for n in range(1, Tp + 1):
        x = J @ phi(x) + b + ws @ s[n - 1, :, 0] / S
        D = get_d(x, J)
        Q = D @ Q
        Q, R = qr(Q)  # D22
        if n > discarded_steps(Tp):
            LS = LS + log(abs(R.diagonal()))
            tsim += 1
    return LS / tsim


# ex.jl:124-126  # D7
@lru_cache(maxsize=4)
def initial_orthonormal_system(sONS, N, nLE):
    """Q (N, nLE) of the QR of a Gaussian matrix drawn with seed sONS; the same at every flossing step (D7)."""
    Q, _ = qr(MersenneTwister(sONS).randn_float32(N, nLE))
    Q.setflags(write=False)
    return Q


# ex.jl:152-159
def relax_ic(sIC, steps, J, b, B):
    """Initial state (N, B): Gaussian, drawn with seed sIC, after `steps` steps of the network without input."""
    x = MersenneTwister(sIC).randn_float32(len(b), B)
    for _ in range(steps):
        x = J @ phi(x) + b[:, None]
    return x


# ------------------------------------------------------------------ additions: which code takes the gradients  # D9


def training_engine(engine, N, T, B, firstlossidx):
    """Function (s, rtarg, ps) -> (loss, accuracy, gradients) of one training step; engine "adjoint" or "autograd"."""
    if engine == "autograd":
        return autograd(training_gradient_autograd, firstlossidx=firstlossidx)
    return TrainingAdjoint(N, T, B, firstlossidx)


def flossing_engine(engine, N, Tp, nLE, sONS, Lwnt):
    """Function (s, psFlossing, xInit) -> (loss, spectrum, gradients) of one flossing step."""
    if engine == "autograd":
        return autograd(flossing_gradient_autograd, Tp=Tp, nLE=nLE, sONS=sONS, Lwnt=Lwnt)
    return FlossingAdjoint(N, Tp, nLE, initial_orthonormal_system(sONS, N, nLE), Lwnt)  # D22


def check_formulae(engine):
    """ValueError if the default engine, extras/adjoints.py, has other losses or another accuracy for a tiny network."""
    if not isinstance(engine, str) or engine != "adjoint":
        return
    x = lambda *shape: np.sin(1 + np.arange(np.prod(shape), dtype=float)).reshape(shape)  # noqa: E731
    ps, s = dict(ws=x(3, 1), J=x(3, 3), wr=x(1, 3), b=x(3), offset=x(1), xInit=x(3, 2)), x(13, 1, 2)
    flossed, xInit, Q = {name: ps[name] for name in ("ws", "J", "b")}, ps["xInit"], initial_orthonormal_system(1, 3, 2)
    found = *TrainingAdjoint(3, 13, 2, 5, float)(s, s > 0, ps), *FlossingAdjoint(3, 13, 2, Q, 0.1, float)(s, flossed, xInit)
    with np.errstate(all="ignore"):
        formulae = [formula(s, s > 0, **ps, firstlossidx=5) for formula in (calc_loss_binary_crossentropy, get_accuracy)]
        formulae.append(calc_flossing_loss(s, **flossed, xInit=xInit, Tp=13, nLE=2, sONS=1, Lwnt=0.1)[0])
    if not np.allclose([found[i] for i in (0, 1, 3)], formulae, rtol=1e-9, atol=0):
        raise ValueError("engine = 'adjoint': extras/adjoints.py has other formulae than this file: use engine 'autograd'")


def autograd(take_gradient, **settings):
    """take_gradient by torch's gradient. Torch is imported here only: it takes seconds, the default engine does without."""
    from julia_packages.zygote import gradient

    return partial(take_gradient, gradient, **settings)


def training_gradient_autograd(gradient, s, rtarg, ps, firstlossidx):
    """ex.jl:93-97: loss, accuracy at the same parameters, and gradients (dict of arrays, before clipping)."""

    def loss_and_accuracy(ps, s, rtarg):
        loss = calc_loss_binary_crossentropy(s, rtarg, **ps, firstlossidx=firstlossidx)
        ps = {name: x.detach() for name, x in ps.items()}
        return loss, get_accuracy(s, rtarg, **ps, firstlossidx=firstlossidx)

    return gradient(loss_and_accuracy, ps, s, rtarg)


def flossing_gradient_autograd(gradient, s, psFlossing, xInit, **settings):
    """ex.jl:109-113: flossing loss, spectrum (nLE,), and gradients (dict of arrays); settings: Tp, nLE, sONS, Lwnt."""
    loss_function = lambda ps, s, xInit: calc_flossing_loss(s, **ps, xInit=xInit, **settings)  # noqa: E731
    training_loss, ls, gs = gradient(loss_function, psFlossing, s, xInit)
    return training_loss, ls.detach().numpy(), gs


def training_gradient(s, rtarg, ps, firstlossidx, engine="adjoint"):
    """Loss, accuracy and gradients of one batch: s (T, S, B), rtarg (T, 1, B), ps: dict ws J wr b offset xInit."""
    check_formulae(engine)
    check_channels(engine, ps["ws"])
    (N, _), (T, _, B) = ps["ws"].shape, s.shape
    return training_engine(engine, N, T, B, firstlossidx)(s, rtarg, ps)


def flossing_gradient(s, psFlossing, xInit, Tp, nLE, sONS, Lwnt, engine="adjoint"):
    """Flossing loss, spectrum (nLE,) and gradients; s (>= Tp, S, 1), psFlossing: dict ws J b, xInit (N, B)."""
    check_formulae(engine)
    check_channels(engine, psFlossing["ws"])
    check_spectrum_call(s, psFlossing["J"], Tp, nLE)
    return flossing_engine(engine, len(xInit), Tp, nLE, sONS, Lwnt)(s, psFlossing, xInit)


def check_channels(engine, ws):
    """ValueError if S (input channels) is not 1 and engine is "adjoint"; torch differentiates any number."""
    S = ws.shape[1]
    if engine == "adjoint" and S != 1:
        raise ValueError(f"S must be 1 for engine 'adjoint' (use engine 'autograd' for more input channels), got {S}")


# the calls of the original's README: that of earlier commits, and the longer one that it has at 324d2a0
README_CALL = Parameters(
    80, 301, 10, 50, 50, 2, 16, 1, 300, 55, 300, 1, 1, 1, 1, 0.001, 0.9, 0.999, 1, 1.0, 0.0, 1.0, 10,
    1.0, 0.0, 1.0, 0.0, 0.1, 0.0, 75, -1, 3, 0.0,
)  # fmt: skip
LONG_README_CALL = README_CALL._replace(E=3001, Ef=100, Ei=500, Ep=500)


def main():
    """The README call of the original; options, record and figure are additions (extras/command_line.py)."""
    from extras.command_line import train_command

    train_command(train_rnn_flossing, {"short": README_CALL, "long": LONG_README_CALL}, figure_name="figure", description=__doc__)


if __name__ == "__main__":
    main()
