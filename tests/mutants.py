"""Change one small thing in the source at a time, and see whether the tests notice: python tests/mutants.py extras/run.py

Each mutant is a copy of the repository with one change, on which the test files that import or start the changed file run
until one fails. Those that none fails on are printed, and their number is the exit status. A seed draws the same mutants.
"""

import argparse
import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = sorted({*ROOT.glob("*.py"), *ROOT.glob("[ej]*/*.py"), *ROOT.glob("example_code/*/*.py")})
VIA = dict(run=r"check\w+|progress|record", linear_algebra="checkpoint", signals="checkpoint|command_line", experiment="sweep")
PAIRS = "Lt LtE, Gt GtE, Eq NotEq, Is IsNot, In NotIn, Add Sub, Mult Div, FloorDiv Mod, And Or, BitAnd BitOr, LShift RShift"
OTHER = {getattr(ast, a): getattr(ast, b) for a, b in re.findall(r"(\w+) (\w+)", PAIRS)}
OTHER |= {b: a for a, b in OTHER.items()} | {ast.Pow: ast.Mult, ast.BitXor: ast.BitOr, ast.USub: ast.UAdd, ast.Not: ast.UAdd}
TEXT = r"([\w.]+\.)?(print|error|warn|\w*Error|insert|subplots_adjust)\(|f['\"]|if __name__|(\w*width|\w*size|alpha|zorder)="


def changes(node):
    """Expressions or statements that may stand in a node's place."""
    if type(getattr(node, "op", None)) in OTHER:
        yield type(node)(**dict(ast.iter_fields(node)) | {"op": OTHER[type(node.op)]()})
    match node:
        case ast.Compare(ops=[op, *others]):
            yield ast.Compare(node.left, [OTHER[type(op)](), *others], node.comparators)
        case ast.Call(args=[first, second, *others]) if not re.search("min|max|multiply", ast.unparse(node.func)):
            yield ast.Call(node.func, [second, first, *others], node.keywords)
        case ast.Constant(value=bool() | int() | float() as old):
            yield ast.Constant(not old if isinstance(old, bool) else old + 1 if isinstance(old, int) else 2 * old or 1.0)
        case ast.Assign(targets=[ast.Name() | ast.Tuple() as new]) if ast.unparse(new) not in ast.unparse(node.value):
            return  # without a new name any test fails
        case ast.Assign() | ast.AugAssign() | ast.Return(value=ast.expr()) | ast.Raise() | ast.Expr(value=ast.Call()):
            yield ast.Pass()


def mutants(path):
    """(path, what is changed, the changed source) of every change, but not in messages and in how something looks."""
    lines, tree = path.read_bytes().splitlines(keepends=True), ast.parse(path.read_bytes())
    text = {part for node in ast.walk(tree) if re.match(TEXT, ast.unparse(node)) for part in ast.walk(node)}
    for node in ast.walk(tree):
        for new in changes(node) if node not in text else ():
            put = f"({ast.unparse(new)})" if isinstance(new, ast.expr) else ast.unparse(new)
            first, last = lines[node.lineno - 1], lines[node.end_lineno - 1]
            changed = first[: node.col_offset] + put.encode() + last[node.end_col_offset :]
            change = f"{path.relative_to(ROOT)}:{node.lineno}  {first.decode().strip()}  ->  {changed.decode().strip()}"
            yield path, change, b"".join([*lines[: node.lineno - 1], changed, *lines[node.end_lineno :]])


def tests_of(path):
    """The test files that import or start a file, or reach it VIA others; those called after it first."""
    uses = rf"\b{path.stem}(\.py\b| import)|import .*\b{path.stem}\b|/test_({VIA.get(path.stem)}).py"
    tests = [test for test in sorted(ROOT.glob("tests/test_*.py")) if re.search(uses, f"{test.read_text()}\n{test}")]
    return sorted(tests, key=lambda test: path.stem not in test.stem)


@cache
def seconds(test, path=Path(__file__), source=Path(__file__).read_bytes(), limit=None):
    """How long a test file takes to pass with this source of a file; None if it fails or takes longer than the limit."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        copy = shutil.copytree(ROOT, f"{folder}/copy", ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "out"))
        Path(copy, path.relative_to(ROOT)).write_bytes(source)
        since, command = time.monotonic(), [sys.executable, "-m", "pytest", "-qx", test.relative_to(ROOT)]
        process = subprocess.Popen(command, cwd=copy, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            return time.monotonic() - since if process.wait(limit) in (0, 5) else None  # 5: all are marked long
        except BaseException as error:  # Ctrl-C, too
            os.killpg(process.pid, 9)  # with whatever the test started
            if not isinstance(error, subprocess.TimeoutExpired):
                raise


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=DEFAULT)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--number", type=int, default=40)
    args = parser.parse_args(argv)
    every = [mutant for path in args.files for mutant in mutants(path.resolve())]
    survivors = 0
    for path, change, source in random.Random(args.seed).sample(every, min(args.number, len(every))):
        limits = ((test, 30 + 5 * (seconds(test) or sys.exit(f"{test} fails as it is"))) for test in tests_of(path))
        if all(seconds(test, path, source, limit) for test, limit in limits):
            survivors += 1
            print(change, flush=True)
    print(f"{survivors} mutants survive")
    return survivors


if __name__ == "__main__":
    sys.exit(main())
