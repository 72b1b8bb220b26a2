"""weightstream.runai.SafetensorsStreamer: what it hands out, what it refuses, and what it says."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import weightstream as ws
from checkpoints import Raw, assert_same, blocks, bytes_of, raw, write_file, write_shards
from malformed.cases import REJECTED
from processes import wait_until
from weightstream.runai import SafetensorsStreamer

LIMIT = "RUNAI_STREAMER_MEMORY_LIMIT"
CLOSED = r"^the streamer is not open; use it as `with SafetensorsStreamer\(\) as streamer:`$"
OUTSTANDING = r"^tensors of the last call are outstanding; "


def stream(*paths: Path, **settings: Any) -> list[tuple[str, torch.Tensor]]:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path) for path in paths], **settings)
        return list(streamer.get_tensors())


def test_one_file(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, expected = saved
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path))
        found = {}
        for name, tensor in streamer.get_tensors():
            found[name] = tensor.to("cpu")
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].is_contiguous()
        assert bytes_of(found[name]) == bytes_of(tensor)


def test_every_dtype_and_data_that_is_not_aligned(all_dtypes: tuple[Path, dict[str, Raw]], tmp_path: Path) -> None:
    path, expected = all_dtypes
    assert_same(dict(stream(path)), expected)
    odd = write_file(tmp_path / "odd.safetensors", expected, misalign=1)
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(odd))
        for name, tensor in streamer.get_tensors():
            assert tensor.data_ptr() % tensor.element_size() == 0, name
            assert bytes_of(tensor) == expected[name].data


def test_several_files_are_one_stream(shards: tuple[Path, dict[str, Raw]]) -> None:
    folder, expected = shards
    paths = sorted(folder.glob("*.safetensors"))
    assert_same(dict(stream(*paths)), expected)
    assert stream() == []


@pytest.mark.parametrize("limit", ["-1", "0", "1", "100", "3000", "40000000000"])
@pytest.mark.parametrize("owned", [True, False])
def test_tensors_are_kept_as_they_are_at_any_limit(
    limit: str, owned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All kept without a clone, looked at when the streamer is closed and the files are gone."""
    monkeypatch.setenv(LIMIT, limit)
    expected = blocks(20, 3001) | {"big": raw("BF16", (70_001, 3), 99), "none": raw("F32", (0, 3), 0)}
    names = sorted(expected)
    folder = write_shards(
        tmp_path / "m",
        {f"{i}.safetensors": {name: expected[name] for name in names[i::3]} for i in range(3)},
    )
    kept = stream(*sorted(folder.iterdir()), owned=owned)
    for path in folder.iterdir():
        path.write_bytes(b"\xff" * path.stat().st_size)
        path.unlink()
    assert_same(dict(kept), expected)
    storages = [tensor.untyped_storage() for _, tensor in kept]
    assert [storage.nbytes() for storage in storages] == [tensor.nbytes for _, tensor in kept]
    filled = {storage.data_ptr() for storage in storages if storage.nbytes()}
    assert len(filled) == len(expected) - 1, "two tensors share memory"


@pytest.mark.parametrize(("limit", "bounded"), [("0", True), ("100000", True), ("-1", False), ("100000000", False)])
def test_the_limit_bounds_what_is_read_ahead(
    limit: str, bounded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, limit)
    monkeypatch.setenv("WEIGHTSTREAM_MEMORY_LIMIT", "1MB")  # counts where the other one is not set
    nbytes, count = 200_000, 30
    path = write_file(tmp_path / "m.safetensors", blocks(count, nbytes))
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path))
        (running,) = streamer._load._streams  # type: ignore[union-attr]
        if not bounded:
            wait_until(lambda: running.stats.bytes_read >= count * nbytes)
        assert len(list(streamer.get_tensors())) == count
        peak = running.stats.peak_host_bytes
    assert peak <= 3 * nbytes if bounded else peak >= count * nbytes


@pytest.mark.parametrize("limit", ["-2", "a lot", "1.5"])
def test_a_limit_that_is_none(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, limit)
    path = write_file(tmp_path / "m.safetensors", blocks(1, 10))
    with pytest.raises(ValueError, match=rf"^{LIMIT}="):
        stream(path)


@pytest.mark.parametrize(("value", "passed"), [("3", 3), ("5000", 1024), (None, None)])
def test_concurrency(value: str | None, passed: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if value:
        monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", value)
    seen = []
    original = ws.Checkpoint.stream

    def spy(self: ws.Checkpoint, **settings: Any) -> ws.TensorStream:
        seen.append(settings["concurrency"])
        return original(self, **settings)

    monkeypatch.setattr(ws.Checkpoint, "stream", spy)
    path = write_file(tmp_path / "m.safetensors", blocks(3, 10))
    assert len(stream(path)) == 3
    assert seen == [passed]


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_concurrency_that_is_none(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNAI_STREAMER_CONCURRENCY", value)
    path = write_file(tmp_path / "m.safetensors", blocks(1, 10))
    with pytest.raises(ValueError, match=r"^RUNAI_STREAMER_CONCURRENCY="):
        stream(path)


@pytest.fixture
def twins(tmp_path: Path) -> list[Path]:
    folder = write_shards(
        tmp_path / "m",
        {
            "1.safetensors": {"a": raw("U8", (10,), 1), "both": raw("U8", (5,), 2)},
            "2.safetensors": {"b": raw("I16", (3,), 3), "both": raw("U8", (6,), 4)},
        },
    )
    return sorted(folder.iterdir())


def test_a_name_that_two_files_have_comes_twice(twins: list[Path]) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([*map(str, twins)])
        described = {
            number: [tensor.name for tensor in tensors]
            for number, tensors in streamer.files_to_tensors_metadata.items()
        }
        assert streamer.total_size == 10 + 5 + 6 + 6
        found = list(streamer.get_tensors())
    assert described == {0: ["a", "both"], 1: ["b", "both"]}
    assert Counter(name for name, _ in found) == {"a": 1, "b": 1, "both": 2}
    assert sorted(tensor.numel() for name, tensor in found if name == "both") == [5, 6]


def test_a_file_that_is_named_twice_comes_twice(twins: list[Path]) -> None:
    assert Counter(name for name, _ in stream(twins[0], twins[0])) == {"a": 2, "both": 2}


def test_a_file_by_two_names_comes_twice(twins: list[Path]) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(twins[0]), f"file://{twins[0]}"])
        assert [len(tensors) for tensors in streamer.files_to_tensors_metadata.values()] == [2, 2]
        assert Counter(name for name, _ in streamer.get_tensors()) == {"a": 2, "both": 2}


def test_a_path_is_one_file(shards: tuple[Path, dict[str, Raw]], no_leaks: Callable[[], None]) -> None:
    """Else the metadata would be of other files than the paths."""
    folder, _ = shards
    for path in (folder, folder / "model.safetensors.index.json", folder / "*.safetensors"):
        with pytest.raises(ValueError, match=r"a path is one file, and this one stands for 12 files; ") as raised:
            stream(path)
        assert isinstance(raised.value, ws.ConfigError)
        assert raised.value.source == str(path)


def test_only_the_tensors_that_are_named(twins: list[Path]) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([*map(str, twins)], tensor_names=["b", "a"])
        counts = [len(tensors) for tensors in streamer.files_to_tensors_metadata.values()]
        assert (counts, streamer.total_size) == ([1, 1], 16)
        assert sorted(name for name, _ in streamer.get_tensors()) == ["a", "b"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("a", r"^tensor_names='a' is one str; "),
        ([], r"^tensor_names is empty; "),
        (["a", "y", "x"], r"^tensor_names has names that no file has: \['x', 'y'\]$"),
        ({"a", "both"}, r"^tensor_names has names that more than one file has: \['both'\]$"),
    ],
)
def test_names_that_are_refused(names: Any, message: str, twins: list[Path]) -> None:
    with SafetensorsStreamer() as streamer:
        with pytest.raises(ValueError, match=message):
            streamer.stream_files([*map(str, twins)], tensor_names=names)
        streamer.stream_files([*map(str, twins)])  # nothing of it is left
        assert len(list(streamer.get_tensors())) == 4


def test_the_metadata_of_each_file(tmp_path: Path) -> None:
    tensors = {"a": raw("BF16", (3, 5), 1), "b": raw("F8_E4M3", (7,), 2), "none": raw("F32", (0, 2), 0)}
    path = write_file(tmp_path / "m.safetensors", tensors)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(path)])
        assert sum(map(len, streamer.files_to_tensors_metadata.values())) == 3
        assert len(list(streamer.get_tensors())) == 3
    by_name = {tensor.name: tensor for tensor in streamer.files_to_tensors_metadata[0]}  # also afterwards
    a, b = by_name["a"], by_name["b"]
    assert (a.shape, a.dtype, a.offsets.start, a.offsets.end) == ([3, 5], "BF16", 0, 30)
    assert (a.get_bytesize(), a.get_item_count(), a.get_element_size()) == (30, 15, 2)
    assert (a.get_torch_dtype(), b.get_torch_dtype()) == (torch.bfloat16, torch.float8_e4m3fn)
    assert (b.offsets.start, b.offsets.get_diff()) == (30, 7)
    assert by_name["none"].get_item_count() == 0
    assert [tensor.name for tensor in streamer.files_to_tensors_metadata[0][:1]] == ["a"]


def test_files_that_are_not_valid(tmp_path: Path) -> None:
    """One by one, and beside a good file: the error is the same, and names the file."""
    path = tmp_path / "m.safetensors"
    good = write_file(tmp_path / "good.safetensors", blocks(1, 10))
    for case in REJECTED:
        path.write_bytes(case.content)
        for paths in ([path], [good, path]):
            with pytest.raises(ValueError, match=re.escape(str(path))) as raised:
                stream(*paths)
            assert isinstance(raised.value, ws.FormatError), case.id


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file") as raised:
        stream(tmp_path / "missing.safetensors")
    assert isinstance(raised.value, ws.NotFoundError)
    assert isinstance(raised.value, FileNotFoundError)
    assert raised.value.source == str(tmp_path / "missing.safetensors")


def test_paths_that_are_one_path(tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(2, 10))
    with SafetensorsStreamer() as streamer:
        with pytest.raises(ValueError, match=r"^paths='.*' is one str; "):
            streamer.stream_files(str(path))
        streamer.stream_files([path])  # type: ignore[list-item]
        assert len(list(streamer.get_tensors())) == 2


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "0")
    path = write_file(tmp_path / "m.safetensors", blocks(40, 500_000))
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path))
        tensors = streamer.get_tensors()
        next(tensors)
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(ValueError) as raised:
            list(tensors)
        assert isinstance(raised.value, ws.SourceChangedError)
        path = write_file(tmp_path / "n.safetensors", blocks(2, 10))
        streamer.stream_file(str(path))  # and it is of use again
        assert len(list(streamer.get_tensors())) == 2


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu"), "cpu:0"])
def test_the_host_by_any_name(device: Any, tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(2, 10))
    assert {tensor.device.type for _, tensor in stream(path, device=device)} == {"cpu"}


def test_a_device_that_torch_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^device='gpu' is not a device that torch knows$"):
        stream(tmp_path / "nothing is read.safetensors", device="gpu")


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    path = write_file(tmp_path / "m.safetensors", blocks(2, 10))
    with pytest.raises(ValueError, match="cuda:7") as raised:
        stream(path, device="cuda:7")
    assert isinstance(raised.value, ws.DeviceError)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(write_file(tmp_path / "m.safetensors", blocks(40, 500_000)))


def test_it_works_inside_of_with_only(path: str) -> None:
    streamer = SafetensorsStreamer()
    with pytest.raises(ValueError, match=CLOSED):
        streamer.stream_file(path)
    with streamer:
        streamer.stream_file(path)
        tensors = streamer.get_tensors()
        next(tensors)
    with pytest.raises(ValueError, match="closed"):
        next(tensors)
    with pytest.raises(ValueError, match=CLOSED):
        next(streamer.get_tensors())
    with streamer:  # once more
        assert list(streamer.get_tensors()) == []
        streamer.stream_file(path)
        assert len(list(streamer.get_tensors())) == 40


def test_one_load_after_the_other(path: str) -> None:
    with SafetensorsStreamer() as streamer:
        for _ in range(3):
            streamer.stream_file(path)
            assert len(list(streamer.get_tensors())) == 40
            assert list(streamer.get_tensors()) == []


def test_no_load_before_the_last_one_is_taken(path: str) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        with pytest.raises(ValueError, match=OUTSTANDING):
            streamer.stream_file(path)
        tensors = streamer.get_tensors()
        next(tensors)
        with pytest.raises(ValueError, match=OUTSTANDING):
            streamer.stream_file(path)
        assert len(list(tensors)) == 39, "the refused calls took something away"


def test_a_load_that_is_given_up_ends(path: str, no_leaks: Callable[[], None]) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_file(path)
        tensors = streamer.get_tensors()
        next(tensors)
        tensors.close()  # type: ignore[attr-defined]
        no_leaks()
        streamer.stream_file(path)
        for _ in streamer.get_tensors():
            break
    no_leaks()


def test_an_error_of_the_consumer_passes(path: str, no_leaks: Callable[[], None]) -> None:
    with pytest.raises(ZeroDivisionError), SafetensorsStreamer() as streamer:  # noqa: PT012
        streamer.stream_file(path)
        for _ in streamer.get_tensors():
            raise ZeroDivisionError


def test_the_line_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(3, 1 << 19))
    with caplog.at_level(logging.INFO, "runai_model_streamer"), SafetensorsStreamer() as streamer:
        streamer.stream_file(str(path))
        tensors = streamer.get_tensors()
        next(tensors)
        assert caplog.messages == []
        list(tensors)
    (line,) = caplog.messages
    pattern = (
        r"\[RunAI Streamer\] Overall time to stream 1\.5 MiB of all files to cpu: \d+\.\d+s, \d+\.\d [MG]iB/s "
        rf"\(weightstream {re.escape(ws.__version__)}\)"
    )
    assert re.fullmatch(pattern, line)
    assert {record.name for record in caplog.records} == {"runai_model_streamer"}


def test_the_examples_of_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but for the GPU."""
    shards = {f"model-{i}.safetensors": blocks(3, 100 * i, 10 * i) for i in (1, 2)}
    shards["model-2.safetensors"] = {f"second.{name}": tensor for name, tensor in shards["model-2.safetensors"].items()}
    monkeypatch.chdir(write_shards(tmp_path / "m", {**shards, "model.safetensors": shards["model-1.safetensors"]}))
    guide = Path(__file__).parents[2] / "docs" / "guides" / "runai.md"
    examples = re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)
    assert len(examples) == 2
    found: dict[str, Any] = {}
    for example in examples:
        exec(example.replace("cuda:0", "cpu"), found)
    assert_same(found["weights"], {**shards["model-1.safetensors"], **shards["model-2.safetensors"]})
    assert found["buffer"].shape == (1, 100)
