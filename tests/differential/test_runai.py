"""weightstream.runai beside the Run:ai package itself, where that is installed: the same calls, the same answers.

It is not among the test dependencies, because it and what stands in for it own the same import name. Where it is absent
these tests are skipped; the signatures are also written down in tests/unit/test_runai_settings.py.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any

import pytest

import weightstream.runai as ours
from checkpoints import DTYPES, blocks, bytes_of, pattern, raw, write_shards
from malformed.cases import REJECTED


def _is_there() -> bool:
    try:
        return importlib.util.find_spec("runai_model_streamer.libstreamer") is not None
    except ModuleNotFoundError:
        return False


pytestmark = [
    pytest.mark.skipif(not _is_there(), reason="the package runai-model-streamer is not installed"),
    pytest.mark.filterwarnings("default"),  # its own
]
DTYPES_OF_BOTH = [name for name, dtype in DTYPES.items() if not dtype.packed and not name.endswith("FNUZ")]
TENSORS = {f"{name}.{i}": raw(name, shape, i) for i, name in enumerate(DTYPES_OF_BOTH) for shape in [(3, i)]}
SHARDS = {
    "model-1.safetensors": {**TENSORS, "scalar": raw("F32", (), 7)},
    "model-2.safetensors": {**blocks(20, 3001), "both": raw("U8", (9,), 8)},
    "model-3.safetensors": {"both": raw("U8", (10,), 9)},
}


@pytest.fixture(scope="module")
def theirs() -> Any:
    return importlib.import_module("runai_model_streamer")


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return [str(path) for path in sorted(write_shards(tmp_path / "model", SHARDS).iterdir())]


def parameters(function: Any) -> list[tuple[str, Any]]:
    return [(name, parameter.default) for name, parameter in inspect.signature(function).parameters.items()]


@pytest.mark.parametrize(
    "name",
    [
        "list_safetensors",
        "pull_files",
        "ObjectStorageModel",
        "ObjectStorageModel.pull_files",
        "SafetensorsStreamer",
        "SafetensorsStreamer.stream_file",
        "SafetensorsStreamer.stream_files",
        "SafetensorsStreamer.get_tensors",
        "FileStreamer",
        "FileStreamer.stream_files",
        "FileStreamer.get_chunks",
        "FileStreamer.list_files",
        "FileChunks",
        "FileChunks.contiguous",
        "DistributedStreamer",
        "DistributedStreamer.stream_files",
        "DistributedStreamer.get_chunks",
    ],
)
def test_signatures(name: str, theirs: Any) -> None:
    first, _, member = name.partition(".")
    found = [getattr(module, first) for module in (ours, theirs)]
    if member:
        found = [getattr(one, member) for one in found]
    assert parameters(found[0]) == parameters(found[1])


def test_the_signatures_of_other_modules() -> None:
    pytorch = importlib.import_module("runai_model_streamer.safetensors_streamer.safetensors_pytorch")
    s3 = importlib.import_module("runai_model_streamer.s3_utils.s3_utils")
    assert parameters(ours.prepare_request) == parameters(pytorch.prepare_request)
    assert parameters(ours.S3Credentials) == parameters(s3.S3Credentials)


def tensors(module: Any, paths: list[str], **settings: Any) -> list[tuple[str, Any, Any, bytes]]:
    with module.SafetensorsStreamer() as streamer:
        streamer.stream_files(paths, **settings)
        kept = list(streamer.get_tensors())
    return sorted((name, str(tensor.dtype), tuple(tensor.shape), bytes_of(tensor)) for name, tensor in kept)


@pytest.mark.parametrize("limit", [None, "-1", "0", "100000"])
def test_tensors(limit: str | None, paths: list[str], theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if limit is not None:
        monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    assert tensors(ours, paths) == tensors(theirs, paths)
    names = ["scalar", "t003", "t011"]
    assert tensors(ours, paths, tensor_names=names) == tensors(theirs, paths, tensor_names=names)


def test_metadata(paths: list[str], theirs: Any) -> None:
    described = []
    for module in (ours, theirs):
        with module.SafetensorsStreamer() as streamer:
            streamer.stream_files(paths)
            described.append(
                {
                    number: [
                        (one.name, one.shape, one.dtype, one.offsets.start, one.offsets.end, one.get_bytesize())
                        for one in found
                    ]
                    for number, found in streamer.files_to_tensors_metadata.items()
                }
            )
            list(streamer.get_tensors())
    assert described[0] == described[1]


def test_ranges(tmp_path: Path, theirs: Any) -> None:
    path = tmp_path / "data"
    path.write_bytes(pattern(100_000, 1))
    found = []
    for module in (ours, theirs):
        with module.FileStreamer() as streamer:
            streamer.stream_files(
                [
                    module.FileChunks(4, str(path), [50_000, 7, 0, 7], [20_000, 0, 100, 3]),
                    module.FileChunks.contiguous(5, str(path), 1, [10, 0, 9, 10]),
                    module.FileChunks(6, str(path), [], []),
                ]
            )
            found.append(sorted((id, n, tuple(b.shape), b.numpy().tobytes()) for id, n, b in streamer.get_chunks()))
    assert found[0] == found[1]


def test_listing(paths: list[str], theirs: Any) -> None:
    folder = str(Path(paths[0]).parent)
    assert sorted(ours.list_safetensors(folder)) == sorted(theirs.list_safetensors(folder)) == sorted(paths)
    listed = [sorted(module.FileStreamer().list_files(folder, ignore_patterns=["*2*"])) for module in (ours, theirs)]
    assert listed[0] == listed[1]
    listed = [sorted(module.FileStreamer().list_files(folder, allow_patterns=[])) for module in (ours, theirs)]
    assert listed[0] == listed[1]


@pytest.mark.parametrize("names", ["t001", [], ["t001", "nobody"], ["t001", "both"]])
def test_names_that_both_refuse(names: Any, paths: list[str], theirs: Any) -> None:
    for module in (ours, theirs):
        with pytest.raises(ValueError):
            tensors(module, paths, tensor_names=names)


def test_files_that_it_refuses_are_value_errors_of_ours(tmp_path: Path, theirs: Any) -> None:
    path = tmp_path / "m.safetensors"
    for case in REJECTED:
        path.write_bytes(case.content)
        try:
            tensors(theirs, [str(path)])
        except Exception:  # of whatever kind
            with pytest.raises(ValueError):
                tensors(ours, [str(path)])
    for module in (ours, theirs):
        with pytest.raises(ValueError):
            tensors(module, [str(tmp_path / "missing.safetensors")])
