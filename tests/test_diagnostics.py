"""Optional diagnostics: against the recordings of the original and against direct linear algebra."""

import numpy as np
import pytest

from extras.diagnostics import Diagnostics, long_term_diagnostics
from gradient_flossing_example import calc_lyapunov_spectrum, generate_input_output, train_rnn_flossing
from tests.test_gradient_flossing_example import short_call


@pytest.fixture(scope="module")
def record():
    diagnostics = Diagnostics(singular_values=True, epochs=(1, 4, 6), horizons=(1, 3, 6))
    return train_rnn_flossing(**short_call(), progress=False, diagnostics=diagnostics)


def test_singular_values_of_the_steps_are_the_originals(reference, arguments):
    """copy_small: 40 epochs that rounding moves by 3e-5 in the loss."""
    recorded = reference("run_copy_small")
    record = train_rnn_flossing(**arguments("copy_small"), progress=False, diagnostics=Diagnostics(True))
    for name in ("J", "xInit"):
        ours = record.diagnostics[f"singular_values_step_{name}"]
        original = recorded[f"svd{name}"].T
        assert ours.shape == original.shape
        np.testing.assert_allclose(ours[0], original[0], atol=1e-3 * original[0, 0])
        np.testing.assert_allclose(ours, original, atol=2e-2 * original.max())


def test_singular_values_of_the_gradient_and_of_the_step(record):
    for name in ("J", "xInit"):
        of_gradient = record.diagnostics[f"singular_values_gradient_{name}"]
        direct = np.linalg.svd(record.first_training_gradient[name], compute_uv=False)
        np.testing.assert_allclose(of_gradient[0], direct, rtol=1e-10, atol=1e-15)
        assert of_gradient.shape == record.diagnostics[f"singular_values_step_{name}"].shape == (6, min(record.initial[name].shape))
        frobenius = np.sqrt((of_gradient**2).sum(axis=1))
        np.testing.assert_allclose(frobenius, record.gradient_norm[name], rtol=1e-10)
        # the first ADAM step is lr times the sign of the gradient
        step = np.sqrt((record.diagnostics[f"singular_values_step_{name}"][0] ** 2).sum())
        assert step == pytest.approx(0.001 * np.sqrt(record.initial[name].size), rel=0.02)


def test_shapes_and_epochs(record):
    d = record.diagnostics
    assert d["epoch"].tolist() == [1, 4, 6]
    assert d["lyapunov_spectrum"].shape == (3, 10)
    assert d["log_condition_number"].shape == d["log_initial_state_gradient_norm"].shape == (3, 3)


def test_long_term_quantities_by_direct_products(record):
    p, ps = record.parameters, record.final
    found = long_term_diagnostics(p, ps, (1, 3, 6))
    s, _ = generate_input_output(1, p["Tp"], p["sIn"], p["S"], p["I1"], p["delay"], p["task"])
    J, ws, b = (ps[name].astype(np.float64) for name in ("J", "ws", "b"))
    x, product, row = ps["xInit"][:, 0].astype(np.float64), np.eye(16), {}
    state_jacobian = np.eye(16)
    for t in range(1, 7):
        state_jacobian = J * (1 - np.tanh(x) ** 2) @ state_jacobian
        x = J @ np.tanh(x) + b + ws @ s[t - 1, :, 0]
        product = (1 - np.tanh(x) ** 2)[:, None] * J @ product
        row[t] = np.linalg.cond(product), np.linalg.norm(ps["wr"].astype(np.float64) @ state_jacobian)
    for k, t in enumerate((1, 3, 6)):
        assert found["log_condition_number"][k] == pytest.approx(np.log(row[t][0]), rel=1e-6)
        assert found["log_initial_state_gradient_norm"][k] == pytest.approx(np.log(row[t][1]), rel=1e-6)


def test_the_spectrum_is_that_of_the_original_algorithm(record):
    p, ps = record.parameters, {name: x.astype(np.float64) for name, x in record.final.items()}
    s, _ = generate_input_output(1, p["Tp"], p["sIn"], p["S"], p["I1"], p["delay"], p["task"])
    args = (ps["ws"], ps["J"], ps["b"], ps["xInit"], p["Tp"], p["nLE"], p["sONS"])
    expected = calc_lyapunov_spectrum(s.astype(np.float64), None, *args).numpy()
    np.testing.assert_allclose(long_term_diagnostics(p, record.final)["lyapunov_spectrum"], expected, atol=1e-6)


def test_no_diagnostics_unless_asked_for():
    assert train_rnn_flossing(**short_call(), progress=False).diagnostics == {}


@pytest.mark.parametrize("diagnostics, says", [
    (Diagnostics(epochs=(7,)), "epochs: 7 is beyond"), (Diagnostics(epochs=(0,)), "diagnostics.epochs"),
    (Diagnostics(epochs=(1,), horizons=(3, 2)), "horizons"), (Diagnostics(epochs=(1,), horizons=(0,)), "horizons"),
])  # fmt: skip
def test_what_cannot_be_computed_is_refused_before_any_work(diagnostics, says, capsys):
    with pytest.raises(ValueError, match=says):
        train_rnn_flossing(**short_call(), diagnostics=diagnostics)
    assert capsys.readouterr().out == ""
