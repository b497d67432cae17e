"""How long a delay can be learned at all? Delayed XOR, with flossing that fades out by itself as the accuracy rises."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from example_code.experiments.experiment import Experiment, Job, by, markdown, readme_call  # noqa: E402
from extras.check_parameters import Parameters, check_parameters  # noqa: E402
from extras.figures import BLACK, COLOURS, GREY, new_figure  # noqa: E402
from extras.record import LEARNED  # noqa: E402
from extras.run import Run  # noqa: E402
from gf_task05spatialXORShort import generate_input_output  # noqa: E402
from gradient_flossing_example import first_loss_index, flossing_engine, train_rnn_flossing, training_engine  # noqa: E402
from julia_packages.flux import ADAMW, ClipNorm, update  # noqa: E402
from julia_packages.linear_algebra import blas_threads  # noqa: E402

CLIP, WEIGHT = 0.03, 0.03  # norm of a training gradient, as in the original, and of a flossing gradient beside it, at chance
EVERY = 4  # epochs between two flossing steps
FLOSSED_UNTIL = 0.7  # accuracy at which flossing has faded out
CHECK, LOOKED_AT = 100, 50  # epochs between two decisions, and over which the accuracy is averaged for one
HIGH, LOST, RISING, GROWTH = 2e-3, 0.6, 0.75, 1.1  # highest rate; accuracy below which it starts again, above which it grows


def train_adaptively(*arguments, progress=True, checkpoint=None, checkpoint_every=100):
    """Train with flossing that fades out as the accuracy rises; returns a TrainingRecord.

    arguments: the 33, of which Ef, Ei, Ep and Ni are not used; lr is that at the start; nLE = 0: without flossing. Every
    EVERY-th epoch adds the flossing gradient of its first trial, scaled down, to that of training. The schedule follows
    from the accuracies alone, so a checkpoint holds it.
    """
    p = check_parameters(Parameters(*arguments))
    run = Run(p, "adjoint", progress, None, checkpoint, checkpoint_every, None)
    ps = train_rnn_flossing(*p._replace(E=0), progress=False).initial
    psFlossing = {name: ps[name] for name in ("ws", "J", "b")}
    opt, optFlossing, clip = ADAMW(p.lr, (p.b1, p.b2)), ADAMW(p.lr, (p.b1, p.b2)), ClipNorm(CLIP)
    training_gradient = training_engine("adjoint", p.N, p.T, p.B, first_loss_index(p.delay, p.task))
    flossing_gradient = flossing_engine("adjoint", p.N, p.Tp, p.nLE, p.sONS, p.Lwnt)
    rate = None
    with blas_threads(p.N, max(p.B, p.nLE)), run.started(ps, opt=opt, optFlossing=optFlossing):
        for ei in run.epochs(p.E):
            if rate is None or (ei - 1) % CHECK == 0:
                rate, share = decide(np.array(run.columns["accuracy"]), p.lr, p.E)
                opt.os[0].eta = rate
            s, rtarg = generate_input_output(p.B, p.T, p.E * p.sIn + ei, p.S, p.I1, p.delay, p.task)
            loss, accuracy, gs = training_gradient(s, rtarg, ps)
            run.training_step(loss, accuracy, gs)
            gs = {name: clip.apply(ps[name], g) for name, g in gs.items()}
            if share > 0 and p.nLE > 0 and ei % EVERY == 0:
                loss, spectrum, flossing_gs = flossing_gradient(s[..., :1], psFlossing, ps["xInit"])
                run.flossing_step(loss, spectrum, flossing_gs)
                for name, g in flossing_gs.items():
                    gs[name] += ClipNorm(WEIGHT * share).apply(ps[name], g)
            update(opt, ps, gs)
    return run.record()


def decide(accuracy, low, E):
    """(learning rate, share of the flossing weight) of the next CHECK epochs, from the accuracies of all before.

    The share falls from 1 at chance to 0 at FLOSSED_UNTIL, and comes back if the accuracy is lost. The rate is `low` until
    the accuracy exceeds RISING, then grows; it stays below a line from HIGH at epoch 0 to 0 at epoch E.
    """
    rate, now = low, 0.5
    for end in range(CHECK, len(accuracy) + 1, CHECK):
        now = float(accuracy[end - LOOKED_AT : end].mean())
        rate = low if now < LOST else rate * GROWTH if now > RISING else rate
        rate = min(rate, HIGH * (1 - end / E))
    return rate, min(max((FLOSSED_UNTIL - now) / (FLOSSED_UNTIL - 0.5), 0), 1)


def call(seed, delay, N, E=6000, T=400, **changes):
    """The 33 arguments: orthogonal J, weak input, and a window of three quarters of what is to be remembered."""
    changes = dict(IC=3, wsS=0.3, lr=5e-4, nLE=N, Tp=3 * delay // 2) | changes
    return readme_call(seed, delay=delay, N=N, E=E, T=T, Ti=T, Ef=1, Ep=0, Ei=0, Ni=0, **changes)


SEEDS = (31, 32, 33)
TRIALS = [call(seed, delay, 2 * delay) for delay in (45, 60, 80, 100) for seed in SEEDS]  # a neuron for each step between
TRIALS += [*(call(seed, 60, 120, nLE=0) for seed in SEEDS), call(31, 60, 80, E=50_000)]  # no flossing; fewer neurons
QUICK = [call(seed, 15, 30, E=600, T=150) for seed in (1, 2)]
SCHEDULE = ("delay", "N", "nLE", "E")  # parameters that are columns of the table


def make_jobs(args):
    """Pairs of the 33 arguments and Job."""
    for p in QUICK if args.quick else TRIALS:
        yield p, Job(f"delay{p.delay}_N{p.N}_seed{p.sNet}", p, "example_code.experiments.longest_delay:train_adaptively")


def make_rows(p, record):
    """One row; seconds: of the run."""
    outcome = dict(epoch_learned=record.epoch_learned(), final_accuracy=record.final_accuracy())
    yield {n: getattr(p, n) for n in SCHEDULE} | dict(seed=p.sNet) | outcome | dict(seconds=round(record.elapsed_time))


def summary(rows):
    """Lines of a Markdown table, one per schedule; several numbers in a cell are one per seed."""
    lines = []
    for (delay, N, k, E), mine in by(rows, *SCHEDULE).items():
        epochs = [f"{r['epoch_learned']:,}" if r["epoch_learned"] else "-" for r in mine]
        final = [f"{100 * r['final_accuracy']:.1f}" for r in mine]
        learned, seconds = len(mine) - epochs.count("-"), np.median([r["seconds"] for r in mine])
        schedule = (f"{delay} ({2 * delay})", N, k, f"{E:,}")
        lines.append([*schedule, f"{learned}/{len(mine)}", ", ".join(epochs), ", ".join(final), f"{seconds:.0f}"])
    return markdown("delay (d), N, k, epochs, learned, at epoch, final accuracy (%), seconds (median)".split(", "), lines)


def draw(records, rows):
    """Accuracy over epochs, a panel a schedule and a line a seed."""
    schedules = by([row | {"accuracy": record.accuracy} for row, record in zip(rows, records.values())], *SCHEDULE)
    with new_figure(2 * len(schedules)) as figure:
        axes = figure.subplots(len(schedules), 1, squeeze=False)[:, 0]
        for ax, ((delay, N, k, _), mine) in zip(axes, schedules.items()):
            for row, colour in zip(mine, (BLACK, *COLOURS) * len(mine)):
                blocks = row["accuracy"][: len(row["accuracy"]) // CHECK * CHECK].reshape(-1, CHECK)
                ax.plot(CHECK * np.arange(1, len(blocks) + 1), 100 * blocks.mean(axis=1), linewidth=1, color=colour)
            ax.axhline(100 * LEARNED, color=GREY, linestyle="--", linewidth=1)
            ax.set(ylabel="accuracy (%)", ylim=(48, 101))
            ax.set_title(f"delay {delay}, N = {N}, {k} exponents flossed, seeds: {len(mine)}", fontsize=10)
        ax.set_xlabel(f"epoch (means of {CHECK})")
    return figure


EXPERIMENT = Experiment("longest_delay", __doc__, {}, {}, make_jobs, make_rows, summary, draw)

if __name__ == "__main__":
    sys.exit(EXPERIMENT.main())
