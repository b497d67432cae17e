"""Optional diagnostics of a training run: computed alongside, without a draw from any stream that the run uses.

Singular values of the gradients of J and xInit and of the steps that ADAM makes of them; at chosen epochs the
Lyapunov spectrum, the condition number of the long-term Jacobian and the gradient norm with respect to the initial
state. All of the latter follow one trial of the input of seed sIn, the batch that the original draws and does not use.
"""

from dataclasses import asdict, dataclass

import numpy as np
from scipy.linalg import svdvals

from extras import long_term_jacobian
from extras.check_parameters import discarded_steps
from gf_task05spatialXORShort import generate_input_output
from julia_packages.random import MersenneTwister, check_integer


@dataclass(frozen=True)
class Diagnostics:
    """What to compute. The results are in record.diagnostics, under the names given here.

    singular_values: at every epoch, descending:
        singular_values_gradient_J (E, N), singular_values_gradient_xInit (E, min(N, B))   before clipping
        singular_values_step_J, singular_values_step_xInit                                 of the ADAM step: what the
            original's svdvals gives (ex.jl:99-100), since its update! works in place
    epochs: at these epochs (n of them), with the parameters before the update:
        epoch                             (n,)
        lyapunov_spectrum                 (n, nLE) 1/step, over Tp steps as in flossing; all N exponents if nLE = 0
        log_condition_number              (n, horizons) of the long-term Jacobian, natural logarithm
        log_initial_state_gradient_norm   (n, horizons) log |d r_t / d x_0| of the readout r at t = horizon
    horizons: time steps, ascending.
    """

    singular_values: bool = False
    epochs: tuple = ()
    horizons: tuple = (10, 20, 50, 100)

    def check(self, p):
        """ValueError if this cannot be computed in a run with the 33 parameters p."""
        for epoch in self.epochs:
            if check_integer("diagnostics.epochs", epoch, minimum=1) > p["E"]:
                raise ValueError(f"diagnostics.epochs: {epoch} is beyond the last epoch E = {p['E']}")
        horizons = [check_integer("diagnostics.horizons", t, minimum=1) for t in self.horizons]
        if sorted(set(horizons)) != horizons:
            raise ValueError(f"diagnostics.horizons = {self.horizons!r}: must be ascending")
        if self.epochs and p["Tp"] <= discarded_steps(p["Tp"]):
            raise ValueError(f"Tp = {p['Tp']}: must be at least 13 for the Lyapunov spectrum among the diagnostics")

    def description(self):
        """The settings as JSON holds them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def before_update(self, recorder, epoch, gs):
        if self.singular_values:
            self.add_singular_values(recorder, "gradient", gs)
        if epoch in self.epochs:
            results = {"epoch": epoch} | long_term_diagnostics(recorder.parameters, recorder.ps, self.horizons)
            for name, value in results.items():
                recorder.add(f"diagnostics/{name}", value)

    def after_update(self, recorder, steps):
        if self.singular_values:
            self.add_singular_values(recorder, "step", steps)

    def add_singular_values(self, recorder, kind, arrays):
        for name in ("J", "xInit"):
            recorder.add(f"diagnostics/singular_values_{kind}_{name}", svdvals(arrays[name]))


def long_term_diagnostics(p, ps, horizons=()):
    """Dict of lyapunov_spectrum (k,), log_condition_number and log_initial_state_gradient_norm (horizons,); float64.

    p: dict of the 33 parameters; ps: dict of the arrays, say record.final; horizons: ascending time steps.
    """
    steps = max([p["Tp"], *horizons])
    s, _ = generate_input_output(1, steps, p["sIn"], p["S"], p["I1"], p["delay"], p["task"])
    x = long_term_jacobian.trajectory(s, ps["ws"], ps["J"], ps["b"], ps["xInit"])
    jacobians = long_term_jacobian.step_jacobians(x, ps["J"])
    results = {"lyapunov_spectrum": lyapunov_spectrum(p, jacobians[: p["Tp"]])}
    if horizons:
        log_sigma = long_term_jacobian.log_singular_values(jacobians, horizons)
        results["log_condition_number"] = long_term_jacobian.log_condition_number(log_sigma)
        norm = long_term_jacobian.log_gradient_norm(x, ps["J"], ps["wr"], horizons)
        results["log_initial_state_gradient_norm"] = norm
    return results


def lyapunov_spectrum(p, jacobians):
    """Exponents, 1/step, from the orthonormal system of seed sONS, the first steps discarded as in flossing."""
    k = p["nLE"] or p["N"]
    Q = np.linalg.qr(MersenneTwister(p["sONS"]).randn_float32(p["N"], k))[0].astype(np.float64)
    return long_term_jacobian.lyapunov_spectrum(jacobians, Q, discard=discarded_steps(p["Tp"]))
