"""The same file gets the same verdict from the safetensors package and from weightstream.

Each deliberate difference is listed in DIFFERENCES and in docs/reference/format.md. All go one way: weightstream
refuses a file that safetensors reads.
"""

import json
import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import weightstream as ws
from malformed.cases import ACCEPTED, ACCEPTED_HEADERS, REJECTED, Case

ROOT = Path(__file__).parents[2]
CASES = REJECTED + ACCEPTED + ACCEPTED_HEADERS


class Difference(NamedTuple):
    reason: str
    message: str  # a pattern of what weightstream says
    cases: frozenset[str]


DIFFERENCES = {
    "duplicate-key": Difference(
        "safetensors keeps the last of two equal keys, other readers the first: the file means two things",
        r"^the key '.*' occurs twice in ",
        frozenset({
            "twice-tensors",
            "twice-metadata-keys",
            "twice-unknown-fields",
            "twice-inside-an-unknown-value",
        }),
    ),
    "nul-in-name": Difference(
        "a name with NUL is another name to whatever handles it as a C string or a path",
        r"^the tensor name '.*' holds a NUL character$",
        frozenset({"nul-in-name"}),
    ),
    "entry-as-array": Difference(
        "the format says that an entry is an object; safetensors also reads [dtype, shape, data_offsets]",
        r"^the entry of '.*' is an array; ",
        frozenset({"entry-is-an-array"}),
    ),
    "dtype-as-object": Difference(
        "the format says that dtype is a string; safetensors also reads {\"F32\": null}",
        r"^dtype of '.*' is an object; ",
        frozenset({"dtype-is-an-object"}),
    ),
    "long-exponent": Difference(
        "an unknown value that is a number with an exponent of 19 or more digits, which only a hostile file has",
        r"^the header is not valid JSON: [-+.0-9]+[eE][-+]?[0-9]{19,}",
        frozenset({"long-exponent"}),
    ),
}  # fmt: skip
DIFFERENT_CASES = {case: name for name, difference in DIFFERENCES.items() for case in difference.cases}


def theirs(path: Path) -> dict[str, Any] | None:
    """The tensors that safetensors finds, or None if it refuses the file."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {
                name: (file.get_slice(name).get_dtype(), tuple(file.get_slice(name).get_shape()))
                for name in file.keys()  # noqa: SIM118 - not a mapping
            }
    except safetensors.SafetensorError:
        return None


def ours(path: Path) -> dict[str, Any] | str:
    """The tensors that weightstream finds, or what it says against the file."""
    try:
        with ws.open(path) as ckpt:
            return {name: (info.dtype, info.shape) for name, info in ckpt.items()}
    except ws.FormatError as error:
        return error.message


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_verdict_of_the_safetensors_package(tmp_path: Path, case: Case) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(case.content)
    if case.id not in DIFFERENT_CASES:
        assert (theirs(path) is None) == (case.message is not None)
        return
    assert theirs(path) is not None, "no longer a difference"
    assert case.message is not None
    assert re.search(DIFFERENCES[DIFFERENT_CASES[case.id]].message, case.message)


def test_differences_name_cases_that_exist() -> None:
    assert DIFFERENT_CASES.keys() <= {case.id for case in CASES}
    assert len(DIFFERENT_CASES) == sum(len(difference.cases) for difference in DIFFERENCES.values())


def test_differences_are_documented() -> None:
    page = (ROOT / "docs" / "reference" / "format.md").read_text()
    documented = re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)
    assert sorted(documented) == sorted(DIFFERENCES)


# ------------------------------------------------------------------------------------------------- random headers

BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "U8": 8, "F8_E4M3": 8, "I16": 16, "BF16": 16, "F32": 32, "C64": 64, "U64": 64}
NAMES = st.text(max_size=8) | st.sampled_from(["w", "b", "__metadata__", "", "a\0b", "\ud7ff", "\U0001f600"])
NUMBERS = st.integers(0, 20) | st.sampled_from([-1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 1.0, 1e3, True, None])
VALUES = st.recursive(
    NUMBERS | st.text(max_size=4) | st.sampled_from(["U8", "F32", "F128"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def valid_headers(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A header that is valid but for names, as the entries in any order, and the number of data bytes."""
    entries = []
    offset = 0
    for name in draw(st.lists(NAMES, unique=True, max_size=5)):
        dtype = draw(st.sampled_from(sorted(BITS)))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        bits = BITS[dtype]
        for dimension in shape:
            bits *= dimension
        end = offset + bits // 8
        entries.append((name, {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}))
        offset = end
    if draw(st.booleans()):
        entries.append(("__metadata__", draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2))))
    return dict(draw(st.permutations(entries))), offset


def change(draw: st.DrawFn, header: dict[str, Any]) -> None:
    """One change to a header: a value, a field, a number."""
    name = draw(st.sampled_from(sorted(header)))
    entry = header[name]
    what = draw(st.sampled_from(["entry", "field", "number", "drop", "extra"]))
    if what == "entry" or not isinstance(entry, dict) or not entry:
        header[name] = draw(VALUES)
        return
    field = draw(st.sampled_from(sorted(entry)))
    if what == "drop":
        del entry[field]
    elif what == "extra":
        entry[draw(st.text(max_size=4))] = draw(VALUES)
    elif what == "number" and isinstance(entry[field], list) and entry[field]:
        numbers = entry[field]
        numbers[draw(st.integers(0, len(numbers) - 1))] = draw(NUMBERS)
    else:
        entry[field] = draw(VALUES)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A file that is valid, or was before up to two changes to its header and two to its bytes."""
    header, size = draw(valid_headers())
    for _ in range(draw(st.integers(0, 2))):
        if header:
            change(draw, header)
    text = bytearray(json.dumps(header, ensure_ascii=draw(st.booleans())).encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 2))] = draw(
            st.sampled_from([b"", b"0", b",", b'"', b"\\", b"\\ud800", b"[", b"}", b" ", b"\xff", b"1e5", b"null"])
        )
    size = max(0, size + draw(st.sampled_from([0, 0, 0, 0, -1, 1])))
    return struct.pack("<Q", len(text)) + bytes(text) + bytes(size)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("verdicts") / "model.safetensors"


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(content=files())
def test_verdict_on_random_files(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    their, our = theirs(path), ours(path)
    if isinstance(our, str):
        assert their is None or any(re.search(d.message, our) for d in DIFFERENCES.values()), our
    else:
        assert our == their
