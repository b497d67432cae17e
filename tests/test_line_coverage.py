"""Every code line of the two Julia files is in the port, under an anchor, or in the README's tables of deviations."""

import re

from tests.conftest import ROOT

# Lines of the original that are code: not empty, not only a comment.
LAST_LINE = {"ex": 206, "xor": 22}
NOT_CODE = {"ex": {7, 40, 62, 75, 88, 103, 117, 118, 119, 151, 160, 161, 170, 186, 187, 188, 189, 199, 200, 201}, "xor": {1, 2, 4}}
PORT = ["gradient_flossing_example.py", "gf_task05spatialXORShort.py", *(f"julia_packages/{name}.py" for name in (
    "backwards_linalg", "flux", "random", "xorshifts", "zygote"))]  # fmt: skip
README = (ROOT / "README.md").read_text()


def anchored(text):
    """{"ex": lines, "xor": lines} that a text names as ex.jl:12, ex.jl:12-16 or xor.jl:5."""
    lines = {"ex": set(), "xor": set()}
    for file, first, last in re.findall(r"\b(ex|xor)\.jl:(\d+)(?:-(\d+))?", text):
        lines[file].update(range(int(first), int(last or first) + 1))
    return lines


def comments(path):
    """Comments and docstrings alike: whatever names lines in a file of the port."""
    return (ROOT / path).read_text()


def deviations():
    return README.split("## Deviations")[1].split("### Added")[0]


def test_every_code_line_is_in_the_port_or_among_the_deviations():
    named = [anchored(comments(path)) for path in PORT] + [anchored(deviations())]
    for file, last in LAST_LINE.items():
        code = set(range(1, last + 1)) - NOT_CODE[file]
        missing = code - set().union(*(lines[file] for lines in named))
        assert not missing, f"{file}.jl: {sorted(missing)}"


def test_no_anchor_points_beyond_the_original():
    for text in [comments(path) for path in PORT] + [README]:
        for file, lines in anchored(text).items():
            assert not lines or 1 <= min(lines) and max(lines) <= LAST_LINE[file]


def test_anchors_run_backwards_nowhere():
    for path in PORT:
        for file, first, last in re.findall(r"\b(ex|xor)\.jl:(\d+)-(\d+)", comments(path)):
            assert int(first) < int(last), (path, file, first, last)


def test_statements_follow_the_original_order():
    """Inside the trainer, each anchor of a comment line begins after the one before it began."""
    source = comments("gradient_flossing_example.py").split("def train_rnn_flossing")[1].split("\n\n\n")[0]
    firsts = [int(n) for n in re.findall(r"^ *# ex\.jl:(\d+)", source, re.M)]
    late = [n for n in firsts if n not in (20, 166, 164)]  # literals and optimisers stand where Python needs them
    assert len(late) > 8 and late == sorted(late)


def test_every_tag_in_the_source_is_a_row_and_every_row_is_in_the_source_or_says_the_same():
    rows = set(re.findall(r"^\| (D\d+) \|", README, re.M))
    tags = set().union(*(re.findall(r"\b(D\d+)\b", comments(path)) for path in PORT))
    assert tags <= rows
    assert len(rows) == 20


def test_the_names_of_the_mapping_exist():
    table = README.split("Symbols keep their names")[1].split("## The 33")[0]
    names = re.findall(r"^\| `[\w!.]+` \| `(\w+)` \|$", table, re.M)
    source = "".join(comments(path) for path in PORT)
    assert len(names) == 12
    for name in names:
        assert f"def {name}(" in source, name


def test_the_files_of_the_mapping_exist():
    table = README.split("## Which file is which")[1].split("Symbols keep")[0]
    for name in re.findall(r"\| `([\w./]+\.py|[\w/]+/)`", table):
        assert (ROOT / name).exists(), name
