"""The record: what it holds, how it prints, and that its file gives it back equal."""

import copy
import os
import zipfile

import numpy as np
import pytest

import gradient_flossing_example as port
from extras.lyapunov import Diagnostics
from extras.files import save_arrays
from extras.record import FORMAT, NonFiniteError, TrainingRecord, load_record
from gradient_flossing_example import train_rnn_flossing

SMALL = dict(
    N=8, E=12, Ef=5, Ei=3, Ep=4, Ni=2, B=3, S=1, T=24, Tp=15, Ti=20, sIC=1, sIn=1, sNet=1, sONS=1, lr=0.001,
    b1=0.9, b2=0.999, IC=1, g=1.0, gbar=0.0, I1=1.0, delay=4, wsS=1.0, wsM=0.0, wrS=1.0, wrM=0.0, bS=0.1, bM=0.0,
    nLE=5, task=-1, intype=3, Lwnt=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def record():
    return train_rnn_flossing(**SMALL, progress=False, diagnostics=Diagnostics(True, (1, 7), (3, 9)))


def test_shapes(record):
    assert record.loss.shape == record.accuracy.shape == (12,)
    assert {name: x.shape for name, x in record.gradient_norm.items()} == dict.fromkeys(
        ("ws", "J", "wr", "b", "offset", "xInit"), (12,)
    )
    assert record.lyapunov_spectrum.shape == (10, 5)
    assert record.lyapunov_spectrum.dtype == np.float32
    assert record.flossing_epoch.tolist() == [1] * 4 + [5] * 3 + [10] * 3
    assert set(record.flossing_gradient_norm) == {"ws", "J", "b"}
    assert record.parameters == SMALL
    assert not record.interrupted
    assert record.versions["engine"] == "adjoint"
    assert np.any(record.initial["J"] != record.final["J"])
    assert np.array_equal(record.initial["xInit"], record.first_training_parameters["xInit"])
    assert np.any(record.initial["J"] != record.first_training_parameters["J"])


def test_gradient_norms_belong_to_the_gradients(record):
    for name, g in record.first_training_gradient.items():
        assert record.gradient_norm[name][0] == pytest.approx(np.linalg.norm(g))
    for name, g in record.first_flossing_gradient.items():
        assert record.flossing_gradient_norm[name][0] == pytest.approx(np.linalg.norm(g))


def test_file_gives_back_an_equal_record_without_pickle(record, tmp_path):
    path = tmp_path / "record.npz"
    record.save(path)
    loaded = load_record(path)
    assert loaded == record
    assert loaded.versions == record.versions
    assert loaded.elapsed_time == record.elapsed_time
    assert list(loaded.parameters.values()) == list(SMALL.values())
    assert repr(loaded) == repr(record)
    with np.load(path, allow_pickle=False) as file:
        assert np.array_equal(file["loss"], record.loss)
        assert not any(file[name].dtype.hasobject for name in file.files)
    assert zipfile.ZipFile(path).testzip() is None


@pytest.mark.parametrize("change", [dict(E=0), dict(Ep=0, Ni=0), dict(nLE=0)], ids=str)
def test_empty_parts_survive_the_file(change, tmp_path):
    record = train_rnn_flossing(**SMALL | change, progress=False)
    record.save(tmp_path / "r")
    loaded = load_record(tmp_path / "r")
    assert loaded == record
    assert loaded.lyapunov_spectrum.shape == (0, (SMALL | change)["nLE"])
    assert repr(record)


def test_equality(record):
    other = copy.deepcopy(record)
    other.elapsed_time, other.versions = 1e9, {}
    assert other == record
    other.loss[3] = np.nan
    assert other != record
    record_with_nan = copy.deepcopy(other)
    assert record_with_nan == other
    for change in ("accuracy", "initial", "parameters", "interrupted", "diagnostics"):
        other = copy.deepcopy(record)
        if change == "parameters":
            other.parameters["N"] = 9
        elif change == "interrupted":
            other.interrupted = True
        elif change == "initial":
            other.initial["J"][0, 0] = np.nextafter(other.initial["J"][0, 0], np.float32(9))
        elif change == "diagnostics":
            other.diagnostics = {}
        else:
            other.accuracy[-1] += 1
        assert other != record, change
    assert record != 1


def test_repr_says_how_it_ended(record):
    record = copy.deepcopy(record)
    record.accuracy = np.r_[np.full(20, 0.5), np.ones(130)]
    record.loss = np.r_[np.full(50, 9.0), np.full(100, 0.25)]
    heading, end = repr(record).splitlines()
    assert heading == "TrainingRecord: 8 neurons, task -1, delay 4, 150 of 12 epochs"
    assert end == "  final loss 0.2500, final accuracy 100.00 % (means of the last 100 epochs), learned at epoch 30"
    record.accuracy[-10:] = 0.1
    assert "final accuracy 91.00 %" in repr(record)
    record.loss, record.accuracy, record.interrupted = np.full(7, 0.5), np.full(7, 0.6), True
    heading, end = repr(record).splitlines()
    assert heading.endswith("7 of 12 epochs, interrupted")
    assert end == "  final loss 0.5000, final accuracy 60.00 % (means of the last 7 epochs), not learned"


def test_final_accuracy_is_the_mean_of_the_last_hundred_epochs():
    record = TrainingRecord.from_arrays({}, {"accuracy": np.r_[np.full(50, 0.2), np.full(99, 0.5), 0.9]})
    assert record.final_accuracy() == pytest.approx(0.504)
    assert np.isnan(TrainingRecord.from_arrays({}, {"accuracy": np.empty(0)}).final_accuracy())


def test_first_epoch_learned():
    record = TrainingRecord.from_arrays({}, {"accuracy": np.r_[np.full(20, 0.5), np.ones(30)]})
    assert record.epoch_learned() == 30  # the mean of epochs 21 to 30 is 1, that of 20 to 29 is 0.95
    assert TrainingRecord.from_arrays({}, {"accuracy": np.ones(10)}).epoch_learned() == 10
    assert TrainingRecord.from_arrays({}, {"accuracy": np.ones(9)}).epoch_learned() is None
    assert TrainingRecord.from_arrays({}, {"accuracy": np.full(50, 0.9)}).epoch_learned() is None


def test_damaged_or_foreign_files_are_refused(record, tmp_path):
    path = tmp_path / "record.npz"
    record.save(path)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in [0, 1, len(content) - 1, *rng.integers(2, len(content) - 1, 97)]:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="damaged"):
            load_record(path)
    refused = 0
    for position in rng.integers(0, len(content), 200):
        flipped = bytearray(content)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            loaded = load_record(path)
        except ValueError as error:
            assert "damaged" in str(error)
            refused += 1
        else:  # a bit that means nothing, of a date, say
            assert loaded == record and loaded.versions == record.versions
    assert refused > 150
    np.savez(path, loss=np.ones(3))
    with pytest.raises(ValueError, match="not written by this program"):
        load_record(path)
    save_arrays(path, "something else", {}, {})
    with pytest.raises(ValueError, match="something else.*not a.*record"):
        load_record(path)
    with pytest.raises(FileNotFoundError):
        load_record(tmp_path / "nothing")


def changed(name, change):
    """A way to spoil the flat dict of arrays of a record: change(array) instead of one of them."""
    return lambda metadata, arrays: arrays.update({name: change(arrays[name])})


def parameter(**values):
    return lambda metadata, arrays: metadata["parameters"].update(values)


def with_nan(x):
    return np.where(np.arange(x.size).reshape(x.shape) == x.size - 1, np.nan, x).astype(x.dtype)


WRONG = {  # what is wrong with a file that is whole -> how it became so, what must be said
    "an array too many": (lambda _, a: a.update(volume=np.ones(3)), "missing or unknown: volume"),
    "a member too many": (lambda _, a: a.update({"final/K": np.ones(3)}), "missing or unknown: final/K"),
    "no loss": (lambda _, a: a.pop("loss"), "missing or unknown: .*gradient.*loss"),
    "no J": (lambda _, a: a.pop("final/J"), "missing or unknown: final/J"),
    "no arrays": (lambda _, a: a.clear(), "missing or unknown: accuracy, "),
    "short loss": (changed("loss", lambda x: x[:-1]), r"accuracy: must be finite float64 of shape \(11,\), is .* \(12,\)"),
    "no first gradient": (lambda _, a: a.pop("first_flossing_gradient/J"), "unknown: first_flossing_gradient/J"),
    "no first step": (lambda _, a: a.pop("first_training_gradient/b"), "unknown: first_training_gradient/b"),
    "NaN": (changed("final/J", with_nan), "final/J: must be finite float32"),
    "infinite": (changed("flossing_loss", lambda x: x / 0), "flossing_loss: must be finite"),
    "NaN in a diagnostic": (changed("diagnostics/log_condition_number", with_nan), "/log_condition_number: must be finite"),
    "text": (changed("diagnostics/epoch", lambda x: x.astype(str)), "diagnostics/epoch: must be finite number"),
    "other type": (changed("initial/J", lambda x: x.astype(float)), "initial/J: must be finite float32"),
    "other shape": (changed("final/wr", np.ravel), r"final/wr: .* \(1, 8\), is float32 of \(8,\)"),
    "other network": (parameter(N=9), r"ws: must be finite float32 of shape \(9, 1\)"),
    "other exponents": (parameter(nLE=4), r"lyapunov_spectrum: .* \(10, 4\)"),
    "epochs with fractions": (changed("flossing_epoch", lambda x: x.astype(float)), "flossing_epoch: must be finite int64"),
    "too many epochs": (parameter(E=11), "more epochs"),
    "flossing after the end": (changed("flossing_epoch", lambda x: np.r_[x[:-1], 14]), "another order"),
    "flossing before the start": (changed("flossing_epoch", lambda x: x - 1), "another order"),
    "flossing backwards": (changed("flossing_epoch", lambda x: x[::-1]), "another order"),
    "a block too long": (changed("flossing_epoch", np.ones_like), "flossing steps than its parameters allow"),
    "a parameter too few": (lambda m, _: m["parameters"].pop("Lwnt"), "Lwnt must be a number from"),
    "text for a parameter": (parameter(N="8"), "N must be an integer"),
    "NaN for a parameter": (parameter(g=np.nan), "g must be a number from"),
    "a list of parameters": (lambda m, _: m.update(parameters=[1]), "parameters, interrupted, .* of another type"),
    "no seconds": (lambda m, _: m.pop("elapsed_time"), "missing, or of another type"),
    "NaN seconds": (lambda m, _: m.update(elapsed_time=np.nan), "elapsed_time must be a number from"),
    "an unknown engine": (lambda m, _: m["versions"].update(engine="steam"), "engine = 'steam': must be"),
    "more than a record has": (lambda m, _: m.update(colour="red"), "of another type"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_whole_files_with_wrong_content_are_refused(wrong, record, tmp_path):
    spoil, says = WRONG[wrong]
    metadata, arrays = copy.deepcopy(record).to_arrays()
    spoil(metadata, arrays)
    save_arrays(tmp_path / "r.npz", FORMAT, metadata, arrays)
    with pytest.raises(ValueError, match=f"r.npz: .*{says}"):
        load_record(tmp_path / "r.npz")


def test_records_with_more_parameters_and_fewer_epochs_can_be_read(record, tmp_path):
    """Those of example_code/experiments/longest_delay.py, and of runs that were stopped."""
    record = copy.deepcopy(record)
    record.parameters |= {"weight": 0.03, "E": 13}
    record.interrupted = True
    record.flossing_epoch[-3:] = 13  # a block whose epoch has not ended
    record.save(tmp_path / "r.npz")
    assert load_record(tmp_path / "r.npz") == record


def test_a_failing_save_leaves_the_old_file_and_no_other(record, tmp_path, monkeypatch):
    path = tmp_path / "record.npz"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        record.save(path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.npz"]


def test_diagnostics_change_no_number(record):
    plain = train_rnn_flossing(**SMALL, progress=False)
    assert plain != record
    record = copy.deepcopy(record)
    record.diagnostics = {}
    assert plain == record


# ------------------------------------------------------------------ what turns non-finite


def finite_parameters(record):
    return all(np.isfinite(x).all() for x in record.final.values())


@pytest.mark.parametrize("engine", ["adjoint", "autograd"])
@pytest.mark.filterwarnings("error")
def test_non_finite_flossing_stops_with_the_record(engine):
    with pytest.raises(NonFiniteError, match="^epoch 1, flossing_loss, lyapunov_spectrum, .* infinite or NaN") as stopped:
        train_rnn_flossing(**SMALL | dict(g=0.0), progress=False, engine=engine)  # J = 0: exponents of -inf
    record = stopped.value.record
    assert len(record.loss) == len(record.flossing_loss) == 0
    assert finite_parameters(record)
    assert record.final["J"].tobytes() == record.initial["J"].tobytes()


@pytest.mark.parametrize("lr", [1e6, 1e12, 1e20, 1e30, 1e34])
@pytest.mark.parametrize("flossing", [True, False])
@pytest.mark.filterwarnings("error")
def test_exploding_steps_stop_with_finite_parameters(lr, flossing, tmp_path):
    p = SMALL | dict(lr=lr, E=300) | ({} if flossing else dict(Ep=0, Ni=0))
    try:
        record = train_rnn_flossing(**p, progress=False)
    except NonFiniteError as error:
        record = error.record
        assert str(error).startswith(f"epoch {len(record.loss) + 1}, ")
    else:
        assert lr < 1e19
    assert finite_parameters(record)
    record.save(tmp_path / "r.npz")
    assert load_record(tmp_path / "r.npz") == record  # finite throughout


def test_non_finite_loss_in_the_middle(monkeypatch, tmp_path):
    """The error names epoch and step, and its record equals the undisturbed run so far."""
    from extras.adjoints import TrainingAdjoint

    whole = train_rnn_flossing(**SMALL, progress=False)
    original, calls = TrainingAdjoint.__call__, []

    def sabotaged(self, *args):
        calls.append(1) if self.N == SMALL["N"] else None  # not the tiny network of check_formulae
        loss, accuracy, gs = original(self, *args)
        return (np.nan if len(calls) == 7 else loss), accuracy, gs

    monkeypatch.setattr(TrainingAdjoint, "__call__", sabotaged)
    with pytest.raises(NonFiniteError, match="^epoch 7, loss infinite or NaN") as e:
        train_rnn_flossing(**SMALL, progress=False)
    record = e.value.record
    assert np.array_equal(record.loss, whole.loss[:6])
    assert np.array_equal(record.flossing_loss, whole.flossing_loss[:7])
    record.save(tmp_path / "partial.npz")
    assert load_record(tmp_path / "partial.npz") == record


def sabotage_update(monkeypatch, call):
    """The given call of update() makes b[0] NaN after its step; returns the list of J after each one."""
    right, after = port.update, []

    def update(opt, ps, gs):
        right(opt, ps, gs)
        after.append(ps["J"].copy())
        if len(after) == call:
            ps["b"][0] = np.nan

    monkeypatch.setattr(port, "update", update)
    return after


@pytest.mark.parametrize("call, epoch, step", [(2, 1, "flossing"), (4, 1, "training"), (9, 5, "flossing"), (22, 12, "end")])
def test_an_update_that_makes_parameters_nan_is_undone(call, epoch, step, monkeypatch):
    """4 + 12 + 3 + 3 updates; the parameters of the record are those before the last one, also at the end of the run."""
    after = sabotage_update(monkeypatch, call)
    with pytest.raises(NonFiniteError, match=f"epoch {epoch}, the last update: b infinite or NaN") as stopped:
        train_rnn_flossing(**SMALL, progress=False)
    record = stopped.value.record
    assert len(after) == call
    assert len(record.loss) + len(record.flossing_loss) == call
    np.testing.assert_array_equal(record.final["J"], after[call - 2])
    assert finite_parameters(record)


def test_arrays_of_a_record_are_its_own():
    """The engines use their memory again; what is kept must not change with it."""
    record = train_rnn_flossing(**SMALL, progress=False)
    assert len(np.unique(record.lyapunov_spectrum[:, 0])) == 10
    assert not np.shares_memory(record.final["J"], record.first_training_parameters["J"])
    assert record.parameters is not train_rnn_flossing(**SMALL, progress=False).parameters
