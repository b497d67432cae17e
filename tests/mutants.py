"""Change one line of the port at a time, and see whether the tests notice.

    python tests/mutants.py                    all of them: ten minutes on two quiet cores
    python tests/mutants.py --only flux gbar   those whose description contains one of the words
    python tests/mutants.py --list

Each mutant is a copy of the repository with one replacement; the tests of its file run on it until the first fails. A
mutant that none notices survives and is printed; the exit status is the number of survivors. Not run by CI. A replacement
whose text is not in the file exactly once is an error: then the list here is to be brought up to date.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE, TASK, ADJOINTS = "gradient_flossing_example.py", "gf_task05spatialXORShort.py", "extras/adjoints.py"
FLUX, RANDOM, XORSHIFTS = (f"julia_packages/{name}.py" for name in ("flux", "random", "xorshifts"))
ZYGOTE, QR, BLAS = (f"julia_packages/{name}.py" for name in ("zygote", "backwards_linalg", "linear_algebra"))

# The quick tests that should notice first, then those that compare with the recordings of small cases.
INITIAL = ["tests/test_recordings.py", "-k", "initial_weights"]
WHOLE = ["tests/test_recordings.py", "-k", "copy_small or copy_delay0 or orthogonal or no_preflossing or means or task2"]  # the small cases
TESTS = {
    EXAMPLE: [["tests/test_deviations.py", "tests/test_gradient_flossing_example.py"], INITIAL, WHOLE],
    TASK: [["tests/test_task_data.py", "tests/test_deviations.py"]],
    ADJOINTS: [["tests/test_adjoints.py"], WHOLE],
    FLUX: [["tests/test_flux.py", "tests/test_deviations.py"], WHOLE],
    RANDOM: [["tests/test_random_streams.py"]],
    XORSHIFTS: [["tests/test_random_streams.py"]],
    ZYGOTE: [["tests/test_adjoints.py", "tests/test_gradient_flossing_example.py"], WHOLE],
    QR: [["tests/test_adjoints.py", "tests/test_gradient_flossing_example.py"], WHOLE],
    BLAS: [["tests/test_adjoints.py", "tests/test_gradient_flossing_example.py", "tests/test_speed.py"]],
}

MUTANTS = [  # (file, text, what replaces it)
    (EXAMPLE, "decay = 0  #", "decay = 1e-4  #"),
    (EXAMPLE, "for v in (lr, wsS, wsM, wrS, wrM, bS, bM, Lwnt))", "for v in (0, wsS, wsM, wrS, wrM, bS, bM, Lwnt)); lr = parameters.lr"),
    (EXAMPLE, "rng = MersenneTwister(sNet)", "rng = MersenneTwister(sIn)"),
    (EXAMPLE, "ws = wsS * rng.randn_float32(N, S) + wsM", "ws = wsS * rng.randn_float32(N, S) - wsM"),
    (EXAMPLE, "wr = wrS * rng.randn_float32(1, N) + wrM", "wr = wrS * rng.randn_float32(1, N) + wsM"),
    (EXAMPLE, "b = bM + bS * rng.rand_float32(N)", "b = bS * rng.rand_float32(N)"),
    (EXAMPLE, "np.array([0.001], np.float32)", "np.array([0.0], np.float32)"),
    (EXAMPLE, "rng.randn_float32(N, N) / np.float32(np.sqrt(N))", "rng.randn_float32(N, N).T / np.float32(np.sqrt(N))"),
    (EXAMPLE, "J = np.float32(g) * rng.randn_float32(N, N)", "J = np.float32(g * g) * rng.randn_float32(N, N)"),
    (EXAMPLE, "J = J + np.float32(gbar / N)", "J = J - np.float32(gbar / N)"),
    (EXAMPLE, "J = J + np.float32(gbar / N)", "J = J + np.float32(gbar / N**2)"),
    (EXAMPLE, "J = np.float32(g) * np.linalg.qr(J)[0]", "J = np.linalg.qr(J)[0]"),
    (EXAMPLE, 'relax_ic(sIC, 100, ps["J"]', 'relax_ic(sIC, 99, ps["J"]'),
    (EXAMPLE, 'relax_ic(sIC, 100, ps["J"]', 'relax_ic(sNet, 100, ps["J"]'),
    (EXAMPLE, "Optimiser(ClipNorm(0.03)", "Optimiser(ClipNorm(0.3)"),
    (EXAMPLE, "opt = Optimiser(ClipNorm(0.03), ADAMW(lr, (b1, b2), decay))", "opt = Optimiser(ADAMW(lr, (b1, b2), decay), ClipNorm(0.03))"),
    (EXAMPLE, "optFlossing = ADAMW(lr, (b1, b2), decay)", "optFlossing = Optimiser(ClipNorm(0.03), ADAMW(lr, (b1, b2), decay))"),
    (EXAMPLE, "optFlossing = ADAMW(lr, (b1, b2), decay)", "optFlossing = opt"),
    (EXAMPLE, 'for name in ("ws", "J", "b")}', 'for name in ("ws", "J")}'),
    (EXAMPLE, "(ei % Ef == 0 and ni < Ni)", "(ei % Ef == 0 and ni <= Ni)"),
    (EXAMPLE, "(ei % Ef == 0 and ni < Ni)", "((ei - 1) % Ef == 0 and ni < Ni)"),
    (EXAMPLE, "NumberOfFlossingEpochs = Ei", "NumberOfFlossingEpochs = Ep"),
    (EXAMPLE, "generate_input_output(1, Ti, E * sIn + ei + i,", "generate_input_output(1, Ti, E * sIn + i,"),
    (EXAMPLE, "generate_input_output(1, Ti, E * sIn + ei + i,", "generate_input_output(B, Ti, E * sIn + ei + i,"),
    (EXAMPLE, "rng = epoch_generator(ei)", "rng = epoch_generator(ei + sIn)"),
    (EXAMPLE, "generate_input_output(B, T, E * sIn + ei, S", "generate_input_output(B, T, sIn + ei, S"),
    (EXAMPLE, "DataLoader((s, rtarg), batchsize=B, shuffle=True", "DataLoader((s, rtarg), batchsize=B, shuffle=False"),
    (EXAMPLE, "return int(2 * delay) if task > 0 else", "return int(2 * delay) if task >= 0 else"),
    (EXAMPLE, "int(delay * 2 ** abs(task))", "int(delay * 2 * abs(task))"),
    (EXAMPLE, "return (1 / x.clamp(-limit, limit).cosh()) ** 2", "return 1 / x.clamp(-limit, limit).cosh()"),
    (EXAMPLE, "return (1 / x.clamp(-limit, limit).cosh()) ** 2", "return (1 / x.cosh()) ** 2"),
    (EXAMPLE, "return phid(x)[:, None] * J", "return phid(x)[None, :] * J"),
    (EXAMPLE, "    return loss / B / (T - firstlossidx + 1) / wr.shape[0]", "    return loss / B / (T - firstlossidx) / wr.shape[0]"),
    (EXAMPLE, "    return accuracy / B / (T - firstlossidx + 1) / wr.shape[0]", "    return accuracy / B / (T - firstlossidx) / wr.shape[0]"),
    (EXAMPLE, "(r.sigmoid() >= 0.5)", "(r.sigmoid() > 0.5)"),
    (EXAMPLE, "gs = {name: g.astype(np.float64) for name, g in gs.items()}  #", "gs = dict(gs)  #"),
    (EXAMPLE, "nStepTransientONS = -(-Tp // 10)", "nStepTransientONS = Tp // 10"),
    (EXAMPLE, "if n > nStepTransient + nStepTransientONS:", "if n >= nStepTransient + nStepTransientONS:"),
    (EXAMPLE, "return LS / tsim", "return LS / Tp"),
    (EXAMPLE, "LS = LS + R.diagonal().abs().log()", "LS = LS + R.diagonal().abs().log2()"),
    (EXAMPLE, "xInit[:, 0])", "xInit[:, -1])"),
    (EXAMPLE, "Q = np.linalg.qr(MersenneTwister(sONS).randn_float32(N, nLE))[0]", "Q = np.linalg.qr(MersenneTwister(sONS).randn_float32(nLE, N).T)[0]"),
    (EXAMPLE, "x = J @ np.tanh(x) + b[:, None]\n    return x", "x = np.tanh(J @ x) + b[:, None]\n    return x"),
    (EXAMPLE, "return ((ls - float(Lwnt)) ** 2).mean()", "return ((ls - float(Lwnt)) ** 2).sum()"),
    (EXAMPLE, "return ((ls - float(Lwnt)) ** 2).mean()", "return ((ls + float(Lwnt)) ** 2).mean()"),
    (TASK, "abs(nested - last)", "abs(nested) * last"),
    (TASK, "s = rng.bitrand(T + delay, S, B)", "s = rng.bitrand(B, S, T + delay).T"),
    (TASK, "target[delay:] = s[: last - delay]", "target[delay:] = s[delay:]"),
    (TASK, "for back in range(first, 0, -delay)", "for back in range(delay, first, delay)"),
    (TASK, "return s[delay:] * np.float32(sigma), target[delay:]", "return s[delay:] * np.float32(sigma), target[delay:] * np.float32(sigma)"),
    (TASK, "return s[delay:] * np.float32(sigma), target[delay:]", "return s[: len(s) - delay] * np.float32(sigma), target[: len(s) - delay]"),
    (FLUX, "EPSILON = 1e-8", "EPSILON = 1e-7"),
    (FLUX, "if norm > self.thresh:", "if True:"),
    (FLUX, "self.thresh = float(np.float32(thresh))", "self.thresh = float(thresh)"),
    (FLUX, "m, v = mt.astype(np.float64), vt.astype(np.float64)", "m, v = mt.astype(np.float64), mt.astype(np.float64)"),
    (FLUX, "v += np.square(d, dtype=np.float64) * (1 - b2)", "v += np.square(d, dtype=np.float64) * (1 - b1)"),
    (FLUX, "m /= 1 - b1p", "m /= 1 - b1"),
    (FLUX, "v /= 1 - b2p", "v /= 1"),
    (FLUX, "(b1p * b1, b2p * b2)", "(b1p * b1, b2p * b1)"),
    (FLUX, "m[...], v[...] = mt, vt", "pass"),
    (FLUX, "self.state[id(x)] = (mt, vt,", "self.state[0] = (mt, vt,"),
    (FLUX, "d += self.wd * x", "d -= self.wd * x"),
    (FLUX, "x -= opt.apply(x, gs[name])", "x -= opt.apply(x, gs[name].copy())"),
    (FLUX, "return agg((1 - y) * r - logsigmoid(r))", "return agg(y * r - logsigmoid(r))"),
    (RANDOM, "SL1 = 19", "SL1 = 18"),
    (RANDOM, "if n2 < MIN_ARRAY:", "if n2 < 2 * MIN_ARRAY:"),
    (RANDOM, "mixed[:, 1] ^= pairs[:, 0] >> 38", "mixed[:, 1] ^= pairs[:, 0] >> 37"),
    (RANDOM, "if mask >> 1 == i:", "if mask == i:"),
    (RANDOM, "if yy + yy > xx * xx:", "if yy > xx * xx:"),
    (RANDOM, "if rabs >> 8 & 1 else", "if rabs >> 9 & 1 else"),
    (RANDOM, "limbs = max(1, (seed.bit_length() + 31) // 32)", "limbs = max(2, (seed.bit_length() + 31) // 32)"),
    (RANDOM, "states_of_block(seed // 256)[seed % 256]", "states_of_block(seed // 256)[seed % 255]"),
    (XORSHIFTS, "self.words(2)  # discarded", "self.words(1)  # discarded"),
    (XORSHIFTS, "self._y = number >> 64 & MASK64", "self._y = 0"),
    (XORSHIFTS, 'bitorder="little"', 'bitorder="big"'),
    (ZYGOTE, "loss = loss_function(tensors)", "loss = 2 * loss_function(tensors)"),
    (QR, 'mode="reduced"', 'mode="complete"'),
    (BLAS, "threadpool_limits(1 if", "threadpool_limits(2 if"),
    (ADJOINTS, "self.scored_outputs = B * (T - firstlossidx + 1)", "self.scored_outputs = B * (T - firstlossidx)"),
    (ADJOINTS, "max(firstlossidx - 1, 0)", "max(firstlossidx, 0)"),
    (ADJOINTS, "hits + np.count_nonzero(right)", "hits + np.count_nonzero(right) - 1"),
    (ADJOINTS, "np.subtract(1, multiply(h, h, out=slope), out=slope)", "np.subtract(1, multiply(h, 1, out=slope), out=slope)"),
    (ADJOINTS, "self.gradients[\"J\"] += delta.T @ flat(self.h[start:end])", "self.gradients[\"J\"] += delta.T @ flat(self.h[start + 1 : end + 1])"),
    (ADJOINTS, "(product * (1 - self.h[0] ** 2)).T", "(product * (1 - self.h[1] ** 2)).T"),
    (ADJOINTS, "x[0] = xInit[:, 0]", "x[0] = xInit[:, -1]"),
    (ADJOINTS, "error = Lspectrum - self.Lwnt", "error = Lspectrum + self.Lwnt"),
    (ADJOINTS, "2 * error / (self.nLE * self.averaged_steps)", "error / (self.nLE * self.averaged_steps)"),
    (ADJOINTS, "            if end > self.transient:\n                log_R", "            if end >= self.transient:\n                log_R"),
    (ADJOINTS, "np.einsum(\"ii->i\", sym)[:] += w", "np.einsum(\"ii->i\", sym)[:] -= w"),
    (ADJOINTS, "delta *= -2 * self.h", "delta *= 2 * self.h"),
    (ADJOINTS, "if condition > CONDITION_LIMIT:", "if False:"),
    (ADJOINTS, "    sigmoid = np.where(r >= 0, 1, decay) / (1 + decay)", "    sigmoid = np.where(r >= 0, decay, 1) / (1 + decay)"),
    (ADJOINTS, "- np.minimum(r, 0) + np.log1p(decay)", "- np.maximum(r, 0) + np.log1p(decay)"),
]  # fmt: skip


def describe(mutant):
    file, old, new = mutant
    return f"{file}: {old!r} -> {new!r}"


def survives(mutant):
    """Whether all tests pass on a copy of the repository with this replacement."""
    file, old, new = mutant
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "out", "*.png"))
        source = (copy / file).read_text()
        if source.count(old) != 1:
            raise SystemExit(f"{describe(mutant)}: the text is there {source.count(old)} times")
        (copy / file).write_text(source.replace(old, new))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        for tests in TESTS[file]:
            tests = [name for name in tests if not name.endswith(".py") or (copy / name).exists()]
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
            result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
            if result.returncode == 1:
                return False
            if result.returncode != 0:
                raise SystemExit(f"{describe(mutant)}: pytest ended with {result.returncode}\n{result.stdout}{result.stderr}")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if any(word in describe(mutant) for word in options.only)]
    if options.list:
        print("\n".join(map(describe, chosen)))
        return 0
    survivors = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, survived in zip(chosen, pool.map(survives, chosen)):
            survivors += survived
            print("SURVIVES" if survived else "killed  ", describe(mutant), flush=True)
    print(f"{len(chosen)} tried, {len(chosen) - survivors} killed, {survivors} survive")
    return survivors


if __name__ == "__main__":
    sys.exit(main())
