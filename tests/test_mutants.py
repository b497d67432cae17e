"""The sampler of mutants finds what a weak test misses; and of twenty mutants of this project at most a quarter survive."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress

import pytest

from tests import mutants
from tests.conftest import ROOT

MODULE = '''
def is_rising(values):
    """Whether each value is above the one before: 1 + 1."""
    values = list(values)
    if len(values) < 2:
        raise ValueError("not even 2 - 1 values")
    return all(values[i] > values[i - 1] for i in range(1, len(values)))
'''
WEAK_TEST = '''
import pytest
from extras.rising import is_rising

def test_is_rising():
    assert is_rising([1, 2]) and not is_rising([2, 1])
'''
STRONG_TEST = f'''{WEAK_TEST}
    assert is_rising(iter([1, 2, 3])) and not is_rising([1, 2, 2]) and not is_rising([3, 1, 2])
    with pytest.raises(ValueError):
        is_rising([1])
'''


def survivors(tree):
    command = [sys.executable, tree / "tests" / "mutants.py", "extras/rising.py"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    *changes, summary = done.stdout.splitlines()
    assert (summary, done.returncode) == (f"{len(changes)} mutants survive", len(changes)), done.stderr
    return changes


@pytest.mark.long
def test_those_survive_that_the_test_misses(tmp_path):
    for folder in ("extras", "tests"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "tests" / "mutants.py", tmp_path / "tests")
    (tmp_path / "extras" / "rising.py").write_text(MODULE)
    test = tmp_path / "tests" / "test_rising.py"
    test.write_text(WEAK_TEST)
    assert [change[:20] for change in sorted(survivors(tmp_path))] == [
        "extras/rising.py:4  ",  # values = list(values) left out
        "extras/rising.py:6  ",  # raise left out
        "extras/rising.py:7  ",  # >= for >
    ]
    test.write_text(STRONG_TEST)
    assert survivors(tmp_path) == []


@pytest.mark.long
def test_what_does_not_end_is_ended(tmp_path):
    pid = tmp_path / "pid"
    endless = f"import os\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\nwhile True: pass\n".encode()
    limit = 5
    while not pid.exists():  # on a busy machine it takes longer to begin
        assert mutants.seconds(ROOT / "tests" / "test_mutants.py", ROOT / "tests" / "conftest.py", endless, limit) is None
        limit *= 2
    with suppress(ChildProcessError):  # it may have been waited for already
        os.waitpid(int(pid.read_text()), 0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_every_file_has_tests():
    for path in mutants.DEFAULT:
        assert mutants.tests_of(path) or not list(mutants.mutants(path)), f"{path}: no test imports or starts it, see VIA"


@pytest.mark.long
def test_of_twenty_mutants_at_most_a_quarter_survive():
    command = [sys.executable, ROOT / "tests" / "mutants.py", "--number", "20"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.stdout.endswith(f"{done.returncode} mutants survive\n") and done.returncode <= 5, done.stdout
