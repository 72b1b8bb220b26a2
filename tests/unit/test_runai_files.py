"""weightstream.runai: ranges of files (FileStreamer, FileChunks, DistributedStreamer)."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import weightstream as ws
from checkpoints import Raw, bytes_of, pattern, raw, write_file
from weightstream.runai import (
    DistributedStreamer,
    FileChunks,
    FileStreamer,
    S3Credentials,
    SafetensorsStreamer,
    file_streamer,
    prepare_request,
    safetensors_metadata,
)
from weightstream.runai.safetensors_metadata import create_torch_tensor, requires_alignment_copy

DATA = pattern(300_000, 1)


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "data of any kind.bin"
    path.write_bytes(DATA)
    return str(path)


def read(*requests: FileChunks, **settings: Any) -> dict[tuple[int, int], bytes]:
    with FileStreamer() as streamer:
        streamer.stream_files(list(requests), **settings)
        chunks = list(streamer.get_chunks())
    assert len({(id, index) for id, index, _ in chunks}) == len(chunks), "a range came twice"
    assert all(buffer.shape == (1, buffer.numel()) and buffer.dtype == torch.uint8 for *_, buffer in chunks)
    return {(id, index): bytes_of(buffer) for id, index, buffer in chunks}


def expected(*requests: FileChunks) -> dict[tuple[int, int], bytes]:
    return {
        (request.id, index): DATA[offset : offset + size]
        for request in requests
        for index, (offset, size) in enumerate(zip(request.offsets, request.sizes, strict=True))
    }


@pytest.mark.parametrize("limit", ["-1", "0", "6", "100000"])
@pytest.mark.parametrize("owned", [True, False])
def test_ranges_that_follow_each_other(limit: str, owned: bool, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any limit, empty ranges among them; all kept, and looked at afterwards."""
    monkeypatch.setenv("RUNAI_STREAMER_MEMORY_LIMIT", limit)
    request = FileChunks.contiguous(17, path, 1, [10, 0, 9, 10, 200_000, 0, 1])
    assert request.offsets == [1, 11, 11, 20, 30, 200_030, 200_030]
    assert (request.total_size(), request.max_chunk_size()) == (200_030, 200_000)
    assert read(request, owned=owned) == expected(request)
    assert read(request, memory_limit=1) == expected(request)


def test_ranges_in_any_order_with_gaps_and_overlaps(path: str) -> None:
    requests = [
        FileChunks(3, path, [5000, 10, 5000, 0, 4999, 10, 299_999], [100, 20, 100, 300_000, 3, 0, 1]),
        FileChunks(1, path, [50, 40], [7, 30]),
        FileChunks(2, path, [], []),
        FileChunks(9, path, [0, 0, 0], [0, 0, 0]),
    ]
    assert read(*requests) == expected(*requests)
    assert read() == {}
    assert read(requests[2]) == {}


def test_every_buffer_is_the_callers(path: str) -> None:
    request = FileChunks.contiguous(0, path, 0, [1000] * 300)
    with FileStreamer() as streamer:
        streamer.stream_files([request], owned=False)
        kept = {index: buffer for _, index, buffer in streamer.get_chunks()}
        streamer.stream_files([request])
        for _, _, buffer in streamer.get_chunks():
            buffer.fill_(0)
    os.unlink(path)
    assert b"".join(bytes_of(kept[index]) for index in range(300)) == DATA
    assert {buffer.untyped_storage().nbytes() for buffer in kept.values()} == {1000}


def test_a_range_that_ends_after_its_file(path: str) -> None:
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks.contiguous(0, path, 299_000, [500, 501])])
        with pytest.raises(ValueError, match=r"ends before the range does \(bytes 299500 to 300001;") as raised:
            list(streamer.get_chunks())
        assert isinstance(raised.value, ws.TruncatedError)
        streamer.stream_files([FileChunks.contiguous(0, path, 299_000, [500, 500])])  # and it is of use again
        assert len(list(streamer.get_chunks())) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: FileChunks(0, path, [1, 2], [3]), "2 offsets and 1 sizes"),
        (lambda path: FileChunks(0, path, [-1], [3]), "negative offset or size"),
        (lambda path: FileChunks(0, path, [1], [-3]), "negative offset or size"),
        (lambda path: FileChunks(0, path + "?", [1], [3]), "no such file"),
        (lambda path: FileChunks(0, os.path.dirname(path), [1], [3]), "director"),
    ],
)
def test_what_cannot_be_read(make: Callable[[str], FileChunks], message: str, path: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read(make(path))
    assert isinstance(raised.value, ws.WeightstreamError)


def test_a_device_that_torch_does_not_know(path: str) -> None:
    from weightstream.runai._errors import RunaiStreamerInvalidInputException

    with pytest.raises(RunaiStreamerInvalidInputException, match=r"^device='gpu' is not a device"):
        read(FileChunks(0, path, [0], [1]), device="gpu")
    assert read(FileChunks(0, path, [0], [1]), device=None) == {(0, 0): DATA[:1]}


@pytest.mark.parametrize(
    ("variables", "given", "passed"),
    [
        ({}, None, {"memory_limit": 0, "concurrency": 0}),
        (
            {"WEIGHTSTREAM_MEMORY_LIMIT": "1MB", "WEIGHTSTREAM_CONCURRENCY": "3"},
            None,
            {"memory_limit": 10**6, "concurrency": 3},
        ),
        ({"WEIGHTSTREAM_MEMORY_LIMIT": "1MB"}, 7, {"memory_limit": 7, "concurrency": 0}),
        (
            {"WEIGHTSTREAM_MEMORY_LIMIT": "1MB", "RUNAI_STREAMER_MEMORY_LIMIT": "9", "RUNAI_STREAMER_CONCURRENCY": "2"},
            None,
            {"memory_limit": 9, "concurrency": 2},
        ),
    ],
)
def test_the_limits_of_reading(
    variables: dict[str, str], given: int | None, passed: dict[str, int], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    seen = []
    original = file_streamer.raw_stream

    def spy(*arguments: Any, **limits: int) -> Any:
        seen.append(limits)
        return original(*arguments, **limits)

    monkeypatch.setattr(file_streamer, "raw_stream", spy)
    assert read(FileChunks(0, path, [0], [1]), memory_limit=given) == {(0, 0): DATA[:1]}
    assert seen == [passed]


def test_credentials_are_given_once(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are for all calls until the streamer is closed, of whatever kind."""
    seen: list[S3Credentials | None] = []

    def spy(_: list[str], credentials: S3Credentials | None) -> dict[str, Any]:
        seen.append(credentials)
        return {}

    monkeypatch.setattr(file_streamer, "storage_options", spy)
    monkeypatch.setattr(safetensors_metadata, "storage_options", spy)
    model = str(write_file(tmp_path / "m.safetensors", {"a": raw("F32", (2, 3), 1)}))
    request = FileChunks(0, path, [0], [1])
    first, second = S3Credentials("first"), S3Credentials("second")
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(model, first)
        list(streamer.get_tensors())
        streamer.stream_file(model)
        list(streamer.get_tensors())
        streamer.file_streamer.stream_files([request], None, "cpu", False)
        list(streamer.file_streamer.get_chunks())
        assert seen == [first] * 3
        prepare_request(streamer.file_streamer, [model], second)
        streamer.stream_file(model)
        streamer.file_streamer.file_streamer.list_files(str(tmp_path))
        assert seen[3:] == [second] * 3
    streamer.file_streamer.file_streamer.list_files(str(tmp_path))
    assert seen[6:] == [None]


def test_what_is_secret_in_a_url_is_not_repeated(path: str) -> None:
    url = "https://user:hidden@models.example/data?sig=hidden"
    with FileStreamer() as streamer, pytest.raises(ValueError, match="negative") as raised:
        streamer.stream_files([FileChunks(0, url, [-1], [1])])
    said = [str(raised.value), repr(raised.value)]
    with pytest.raises(ValueError, match="1 offsets and 0 sizes") as raised:
        FileChunks(0, url, [1], [])
    said += [str(raised.value), repr(raised.value), repr(FileChunks(3, url, [1, 5], [10, 20]))]
    assert said[-1] == "FileChunks(id=3, path='https://models.example/data', num_ranges=2, total_size=30)"
    with SafetensorsStreamer() as loader, pytest.raises(ValueError, match="is one str") as raised:
        loader.stream_files(url)  # type: ignore[arg-type]
    assert not [text for text in [*said, str(raised.value)] if "hidden" in text]
    assert repr(FileChunks(0, f"{path}?sig=1", [], [])).startswith(f"FileChunks(id=0, path='{path}?sig=1', ")


def test_requests_and_credentials_may_be_keys() -> None:
    """As in the package that they stand in for, where each is equal to itself only."""
    request, keys = FileChunks(0, "m", [], []), S3Credentials("a")
    assert {request: 1, keys: 2} == {request: 1, keys: 2}
    assert request != FileChunks(0, "m", [], [])


def test_the_order_of_calls(path: str, no_leaks: Callable[[], None]) -> None:
    request = FileChunks.contiguous(0, path, 0, [1000] * 300)
    streamer = FileStreamer()
    for call in (lambda: streamer.stream_files([request]), lambda: next(streamer.get_chunks())):
        with pytest.raises(ValueError, match="the streamer is not open"):
            call()
    with streamer:
        assert list(streamer.get_chunks()) == []
        streamer.stream_files([request])
        with pytest.raises(ValueError, match="outstanding"):
            streamer.stream_files([request])
        chunks = streamer.get_chunks()
        next(chunks)
        with pytest.raises(ValueError, match="outstanding"):
            streamer.stream_files([request])
        with FileStreamer() as other:
            other.stream_files([request])
            assert len(list(other.get_chunks())) == 300
        assert len(list(chunks)) == 299
        streamer.stream_files([request])
        chunks = streamer.get_chunks()
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]
        streamer.stream_files([request])
        chunks = streamer.get_chunks()
        next(chunks)
    no_leaks()


@pytest.mark.parametrize("taken", [1, 3], ids=["in the first round", "in a later one"])
def test_reading_ends_with_the_streamer(taken: int, tmp_path: Path, no_leaks: Callable[[], None]) -> None:
    """Whatever is left: ranges that are ready, or overlap those that were read so far."""
    path = tmp_path / "big"
    path.write_bytes(pattern(20_000_000, 1))
    small = FileChunks.contiguous(0, str(path), 0, [1000] * 100)
    overlapping = FileChunks(1, str(path), [0] * 4, [20_000_000] * 4)
    with FileStreamer() as streamer:
        streamer.stream_files([overlapping] if taken > 1 else [small], memory_limit=10_000_000)
        chunks = streamer.get_chunks()
        for _ in range(taken):
            next(chunks)
    no_leaks()
    with pytest.raises(ValueError, match="the stream is closed"):
        next(chunks)


def test_a_forked_child_leaves_everything_to_its_parent(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks may have been held when it was forked, so even closing must not take one."""
    stopped: list[int] = []

    class Spy(file_streamer.Renewer):
        def stop(self) -> None:
            stopped.append(os.getpid())
            super().stop()

    monkeypatch.setattr(file_streamer, "Renewer", Spy)

    def work() -> None:
        with pytest.raises(ValueError, match="did not survive the fork"):
            next(chunks)
        streamer.__exit__(None, None, None)
        os._exit(len(stopped))

    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks.contiguous(0, path, 0, [1000] * 300)])
        chunks = streamer.get_chunks()
        child = multiprocessing.get_context("fork").Process(target=work)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of a fork beside threads
            child.start()
        child.join(30)
        assert child.exitcode == 0
        assert len(list(chunks)) == 300
    assert stopped == [os.getpid()]


def test_tensors_from_ranges_of_ones_own(all_dtypes: tuple[Path, dict[str, Raw]], tmp_path: Path) -> None:
    """What programs do that read a checkpoint in windows: headers first, then some tensors at a time."""
    _, tensors = all_dtypes
    halves = [dict(list(tensors.items())[i::2]) for i in range(2)]
    paths = [str(write_file(tmp_path / f"{i}.safetensors", half, misalign=i)) for i, half in enumerate(halves)]
    found = {}
    with DistributedStreamer() as streamer:
        prepared = prepare_request(streamer, paths, None)
        assert [len(metadata) for _, metadata, _ in prepared] == [len(half) for half in halves]
        for window in (slice(0, 5), slice(5, None)):
            requests = []
            for number, (offset, _, sizes) in enumerate(prepared):
                begin = offset + sum(sizes[: window.start])
                requests.append(FileChunks.contiguous(number, paths[number], begin, sizes[window]))
            streamer.stream_files(requests, None, "cpu", True)
            for number, index, buffer in streamer.get_chunks():
                of_tensor = prepared[number][1][window][index]
                tensor = create_torch_tensor(buffer, of_tensor)
                assert tensor.numel() == 0 or tensor.data_ptr() % tensor.element_size() == 0
                found[of_tensor.name] = tensor
    with SafetensorsStreamer() as reference:
        reference.stream_files(paths)
        for name, tensor in reference.get_tensors():
            assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
            assert bytes_of(found.pop(name)) == bytes_of(tensor) == tensors[name].data
    assert found == {}


def test_memory_is_shared_unless_it_is_not_aligned(tmp_path: Path) -> None:
    path = str(write_file(tmp_path / "m.safetensors", {"a": raw("F32", (2, 3), 1)}))
    with FileStreamer() as streamer:
        ((_, (metadata,), _),) = prepare_request(streamer, [path], None)
    memory = torch.zeros(64, dtype=torch.uint8)
    for offset, copied in ((0, False), (1, True), (2, True), (4, False)):
        buffer = memory[offset : offset + 24]
        assert requires_alignment_copy(buffer, metadata) == copied
        assert (create_torch_tensor(buffer, metadata).data_ptr() != buffer.data_ptr()) == copied


def test_a_header_that_is_not_valid(path: str) -> None:
    with DistributedStreamer() as streamer, pytest.raises(ValueError, match="the header length is") as raised:
        prepare_request(streamer, [path], None)
    assert isinstance(raised.value, ws.FormatError)


def test_one_process_is_not_distributed(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with DistributedStreamer() as streamer:
        streamer.stream_files([FileChunks.contiguous(0, path, 5, [10])], None, "cpu", is_distributed=True)
        assert (streamer.is_distributed, streamer.ring_info()) == (False, None)
        ((_, _, buffer),) = streamer.get_chunks()
    assert bytes_of(buffer) == DATA[5:15]
    assert caplog.messages == []


def test_the_switch_of_distribution_is_checked(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_DIST", "yes")
    with DistributedStreamer() as streamer:
        with pytest.raises(ValueError, match=r"^RUNAI_STREAMER_DIST='yes' is neither 0, 1 nor auto$"):
            streamer.stream_files([FileChunks(0, path, [0], [1])], None, "cpu", is_distributed=True)
        streamer.stream_files([FileChunks(0, path, [0], [1])], None, "cpu", is_distributed=False)
