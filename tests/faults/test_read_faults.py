"""Reads that fail, fall short or are interrupted: every read of a load once, and all promises each time."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from checkpoints import raw, write_file
from processes import run

SHORT, END = -1, -2  # as in read_faults.c

# Makes read 1, 2, 3, ... go wrong until a load meets no fault any more. Prints what came of each.
LOOP = """
    import ctypes, json, pathlib
    import numpy
    import weightstream as ws
    from processes import core_threads, descriptors

    path, kind, order, backend = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
    shim = ctypes.CDLL(None)
    contents = pathlib.Path(path).read_bytes()
    with ws.open(path) as checkpoint:
        expected = {name: contents[slice(*info.range)] for name, info in checkpoint.items()}
    before = descriptors()
    outcomes = []
    while True:
        shim.fault_arm(path.encode(), kind, len(outcomes) + 1, 0)
        handed, error, stream = {}, None, None
        try:
            with ws.stream(path, backend=backend, framework="numpy", memory_limit="1MiB", order=order) as stream:
                for name, tensor in stream:
                    assert tensor.tobytes() == expected[name], name  # never a byte that is wrong
                    handed[name] = tensor
        except ws.WeightstreamError as caught:
            error = caught
        fired = shim.fault_fired()
        assert core_threads() == []
        if error is not None:
            error.__traceback__ = None
        stream = None
        assert descriptors() == before
        assert all(tensor.tobytes() == expected[name] for name, tensor in handed.items())
        shim.fault_arm(b"", 0, 1, 0)
        again = ws.load(path, backend=backend, framework="numpy")
        assert {name: tensor.tobytes() for name, tensor in again.items()} == expected
        if not fired:
            assert error is None
            break
        fields = ("source", "range", "expected", "got", "errno", "filename")
        outcomes.append({
            "error": error and type(error).__name__,
            "text": str(error),
            "complete": len(handed) == len(expected),
            **{field: getattr(error, field, None) for field in fields},
        })
    print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {f"t{i:02}": raw("U8", (1 + 61_003 * (i % 9),), i) for i in range(14)}
    return write_file(tmp_path_factory.mktemp("read") / "m.safetensors", tensors)


def loop(model: Path, kind: int, order: str, preload: Path) -> list[dict[str, Any]]:
    outcomes: list[dict[str, Any]] = json.loads(run(LOOP, model, kind, order, "pread", preload=preload))
    assert len(outcomes) > 10  # the header and more than a handful of reads
    return outcomes


@pytest.mark.parametrize(
    ("kind", "error"),
    [(errno.EIO, "StorageError"), (END, "TruncatedError"), (SHORT, None), (errno.EINTR, None)],
)
def test_a_model_of_a_single_read(tmp_path: Path, read_faults: Path, kind: int, error: str | None) -> None:
    path = write_file(tmp_path / "m.safetensors", {"a": raw("F32", (100,), 0), "b": raw("U8", (7,), 1)})
    outcomes = json.loads(run(LOOP, path, kind, "arrival", "auto", preload=read_faults))
    assert len(outcomes) >= 2  # the header and the read
    for outcome in outcomes:
        assert (outcome["error"], outcome["complete"]) == (error, error is None)
        assert outcome["source"] == (str(path) if error else None)


@pytest.mark.parametrize("order", ["arrival", "file"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_read_that_fails_keeps_its_errno_and_path(model: Path, read_faults: Path, number: int, order: str) -> None:
    for outcome in loop(model, number, order, read_faults):
        assert outcome["error"] == "StorageError"
        assert not outcome["complete"]
        assert (outcome["errno"], outcome["filename"], outcome["source"]) == (number, str(model), str(model))
        begin, end = outcome["range"]
        assert 0 <= begin < end <= model.stat().st_size + 4096
        assert f"bytes {begin} to {end}" in outcome["text"]


@pytest.mark.parametrize("order", ["arrival", "file"])
@pytest.mark.parametrize("kind", [SHORT, errno.EINTR])
def test_a_read_that_falls_short_or_is_interrupted_goes_on(
    model: Path, read_faults: Path, kind: int, order: str
) -> None:
    for outcome in loop(model, kind, order, read_faults):
        assert (outcome["error"], outcome["complete"]) == (None, True)


def test_a_file_that_ends_early_says_where(model: Path, read_faults: Path) -> None:
    for outcome in loop(model, END, "file", read_faults):
        assert outcome["error"] == "TruncatedError"
        begin, end = outcome["range"]
        assert outcome["expected"] == end - begin > outcome["got"] >= 0
        assert f"the file ends at byte {begin + outcome['got']}" in outcome["text"]


def test_every_read_falls_short_and_every_other_is_interrupted(model: Path, read_faults: Path) -> None:
    program = """
        import ctypes, errno, pathlib
        import numpy
        import weightstream as ws

        path = sys.argv[1]
        contents = pathlib.Path(path).read_bytes()
        for kind, at in ((-1, -1), (errno.EINTR, -2)):
            ctypes.CDLL(None).fault_arm(path.encode(), kind, at, 0)
            with ws.stream(path, backend="pread", framework="numpy", memory_limit="1MiB") as stream:
                for name, tensor in stream:
                    assert tensor.tobytes() == contents[slice(*stream.checkpoint[name].range)]
            assert ctypes.CDLL(None).fault_fired() > 10
    """
    run(program, model, preload=read_faults)
