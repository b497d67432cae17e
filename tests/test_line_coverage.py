"""Every code line of the two Julia files is in the port, under an anchor, or among the lines without a counterpart.

An anchor is a comment that begins with the lines: `# ex.jl:129-143` or `# ex.jl:89-98, 101-102  more words`. Tags of
deviations, `# D3` or `(D3)`, stand in the source and in the tables of tests/side_by_side/README.md.
"""

import re

import pytest

from tests.conftest import ROOT

# Lines of the original that are code: not empty, not only a comment.
LAST_LINE = {"ex": 206, "xor": 22}
NOT_CODE = {
    "ex": {7, 40, 62, 75, 88, 103, 117, 118, 119, 151, 160, 161, 170, 186, 187, 188, 189, 199, 200, 201},
    "xor": {1, 2, 4},
}
PORT = ["gradient_flossing_example.py", "gf_task05spatialXORShort.py"]
PORT += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "julia_packages").glob("*.py"))
SOURCE = {path: (ROOT / path).read_text() for path in PORT}
PAGE = (ROOT / "tests" / "side_by_side" / "README.md").read_text()
ANCHOR = re.compile(r"# (ex|xor)\.jl:(\d+(?:-\d+)?(?:, \d+(?:-\d+)?)*)")
CODE = {(file, line) for file, last in LAST_LINE.items() for line in set(range(1, last + 1)) - NOT_CODE[file]}


def section(title):
    """The part of the page below a heading, up to the next one."""
    return re.split(r"^#+ ", re.split(rf"^#+ {title}\n", PAGE, flags=re.M)[1], flags=re.M)[0]


def lines(file, ranges):
    """Set of (file, line) of a text such as "89-98, 101-102"."""
    found = set()
    for part in ranges.split(", "):
        first, _, last = part.partition("-")
        assert int(first) < int(last or 999), part
        found |= {(file, line) for line in range(int(first), int(last or first) + 1)}
    return found


ANCHORS = [
    (path, match[0], lines(match[1], match[2])) for path, text in SOURCE.items() for match in ANCHOR.finditer(text)
]
WITHOUT_COUNTERPART = set()
for match in re.finditer(r"`(ex|xor)\.jl:(\d+(?:-\d+)?)`", section("Lines without a counterpart")):
    WITHOUT_COUNTERPART |= lines(match[1], match[2])


def covered(anchors):
    return WITHOUT_COUNTERPART.union(*(found for _, _, found in anchors))


def test_every_code_line_is_under_an_anchor_or_without_a_counterpart():
    assert not sorted(CODE - covered(ANCHORS))


@pytest.mark.parametrize("i", range(len(ANCHORS)), ids=[f"{path}: {text}" for path, text, _ in ANCHORS])
def test_without_any_one_anchor_a_line_is_missing(i):
    assert CODE - covered(ANCHORS[:i] + ANCHORS[i + 1 :])


def test_no_line_is_in_the_port_and_without_a_counterpart():
    for path, text, found in ANCHORS:
        assert not found & WITHOUT_COUNTERPART, (path, text)


def test_no_anchor_points_beyond_the_original():
    for text in [*SOURCE.values(), PAGE]:
        for file, first, last in re.findall(r"\b(ex|xor)\.jl:(\d+)(?:-(\d+))?", text):
            assert 1 <= int(first) <= int(last or first) <= LAST_LINE[file]


def test_statements_follow_the_original_order():
    """Inside the trainer, each anchor of a comment line begins after the one before it began."""
    source = SOURCE["gradient_flossing_example.py"].split("def train_rnn_flossing")[1].split("\n\n\n")[0]
    firsts = [int(n) for n in re.findall(r"^ *# ex\.jl:(\d+)", source, re.M)]
    assert len(firsts) > 8 and firsts == sorted(firsts)


# --- tags of deviations ---------------------------------------------------------------------------


def tagged(text):
    """Tags in comments ("# D3", "# D3 D4") and docstrings ("(D3)")."""
    in_comments = re.findall(r"# ((?:D\d+\b[ ,]*)+)", text)
    return set(re.findall(r"D\d+", " ".join(in_comments))) | set(re.findall(r"\((D\d+)\)", text))


ROWS = dict(re.findall(r"^\| (D\d+) \|(.*)\|$", PAGE, re.M))


def test_every_tag_in_the_source_is_a_row_and_every_row_is_in_the_source():
    tags = set().union(*map(tagged, SOURCE.values()))
    assert tags == set(ROWS)
    assert len(re.findall(r"^\| D\d+ \|", PAGE, re.M)) == len(ROWS) >= 25


@pytest.mark.parametrize("tag", ROWS)
def test_a_row_names_a_test_that_exists(tag):
    named = re.findall(r"`(test_\w+?)(\.py)?`", ROWS[tag].split("|")[-1])
    assert named, tag
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for name, is_file in named:
        assert (ROOT / "tests" / f"{name}.py").exists() if is_file else f"def {name}(" in tests, (tag, name)


# --- names ----------------------------------------------------------------------------------------


def test_the_names_of_the_mapping_exist():
    names = re.findall(r"^\| `[\w!.]+` \| `(\w+)` \|$", section("Old and new names"), re.M)
    assert len(names) == 12
    for name in names:
        assert f"def {name}(" in "".join(SOURCE.values()), name


def test_the_files_of_the_mapping_exist():
    readme = (ROOT / "README.md").read_text()
    table = readme.split("## Which file is which")[1].split("\n## ")[0]
    for name in re.findall(r"\| `([\w./]+\.py|[\w/]+/)`", table):
        assert (ROOT / name).exists(), name
