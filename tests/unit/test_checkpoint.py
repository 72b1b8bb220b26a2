"""Checkpoints: a mapping from name to what the header says, single tensors, and streams of it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import weightstream as ws
from checkpoints import Raw, assert_same, blocks, bytes_of, raw, write_file, write_shards, write_sparse

Saved = tuple[Path, dict[str, torch.Tensor]]
pytestmark = pytest.mark.usefixtures("no_leaks")


def test_it_is_a_mapping(saved: Saved) -> None:
    path, tensors = saved
    with ws.open(path) as checkpoint:
        assert isinstance(checkpoint, Mapping)
        assert len(checkpoint) == len(tensors)
        assert set(checkpoint) == set(checkpoint.keys()) == set(tensors)
        assert "step" in checkpoint
        assert "steps" not in checkpoint
        assert 7 not in checkpoint
        assert checkpoint.get("nothing") is None
        assert [info.name for info in checkpoint.values()] == list(checkpoint)
        assert dict(checkpoint.items())["step"] == checkpoint["step"]


def test_what_the_header_says(saved: Saved) -> None:
    path, tensors = saved
    dtypes = {torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL", torch.float8_e4m3fn: "F8_E4M3"}
    begin = path.stat().st_size - sum(tensor.nbytes for tensor in tensors.values())
    ranges = []
    with ws.open(path) as checkpoint:
        for name, tensor in tensors.items():
            info = checkpoint[name]
            assert (info.name, info.shape, info.nbytes, info.source) == (
                name,
                tuple(tensor.shape),
                tensor.nbytes,
                str(path),
            )
            if tensor.dtype in dtypes:
                assert info.dtype == dtypes[tensor.dtype]
            data = path.read_bytes()[info.range[0] : info.range[1]]
            assert data == bytes_of(tensor)
            ranges.append(info.range)
        assert min(ranges)[0] == begin
        assert checkpoint.nbytes == sum(tensor.nbytes for tensor in tensors.values())
        with pytest.raises(AttributeError):
            checkpoint["step"].shape = ()  # type: ignore[misc]


def test_only_headers_are_read(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "m.safetensors", {f"t{i}": ("U8", (2**20,)) for i in range(4096)})

    def bytes_read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])  # rchar: of all read calls

    before = bytes_read()
    with ws.open(path) as checkpoint:
        assert len(checkpoint) == 4096
    assert bytes_read() - before < 2 * 2**20


def test_the_size_is_compared_with_the_header(tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(1, 100))
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ws.FormatError):
        ws.open(path)


def test_sources_and_paths(tmp_path: Path) -> None:
    a = write_file(tmp_path / "a.safetensors", blocks(3, 10))
    b = write_file(tmp_path / "b.safetensors", {"x": raw("F64", (4,), 0)}, metadata={"k": "v"})
    with ws.open([b, a]) as checkpoint:
        assert checkpoint.paths == (str(b), str(a))
        first, second = checkpoint.sources
        assert first == ws.SourceInfo(str(b), b.stat().st_size, 1, b.stat().st_size - 32)
        assert second == ws.SourceInfo(str(a), a.stat().st_size, 3, a.stat().st_size - 30)
        assert repr(checkpoint) == "<Checkpoint of 4 tensors in 2 sources, 62 bytes>"


def test_metadata_is_merged_and_the_first_source_wins(tmp_path: Path) -> None:
    a = write_file(tmp_path / "a.safetensors", blocks(1, 10), metadata={"format": "pt", "ünï": "✓", "both": "a"})
    b = write_file(tmp_path / "b.safetensors", {"x": raw("U8", (1,), 0)}, metadata={"both": "b", "b": ""})
    c = write_file(tmp_path / "c.safetensors", {"y": raw("U8", (1,), 0)})
    with ws.open([a, b, c]) as checkpoint:
        assert checkpoint.metadata == {"format": "pt", "ünï": "✓", "both": "a", "b": ""}
    with ws.open(c) as checkpoint:
        assert checkpoint.metadata == {}


@pytest.mark.parametrize("framework", ["pt", "numpy"])
def test_single_tensors(all_dtypes: tuple[Path, dict[str, Raw]], framework: str) -> None:
    path, tensors = all_dtypes
    with ws.open(path, framework=framework) as checkpoint:
        got = {name: checkpoint.get_tensor(name) for name in tensors}
    assert_same(got, tensors)
    assert {type(tensor).__module__ for tensor in got.values()} == {"torch" if framework == "pt" else "numpy"}


def test_an_unknown_tensor_says_what_there_is(saved: Saved) -> None:
    with ws.open(saved[0]) as checkpoint:
        for ask in (checkpoint.get_tensor, checkpoint.get_slice, checkpoint.__getitem__):
            with pytest.raises(KeyError, match=r"no tensor 'embed\.wieght'; there is 'embed\.weight'"):
                ask("embed.wieght")
            with pytest.raises(KeyError, match=r"no tensor 'zzzzzzzz'\"$"):
                ask("zzzzzzzz")


def test_names_that_no_file_can_have(saved: Saved) -> None:
    with ws.open(saved[0]) as checkpoint:
        assert "\ud800" not in checkpoint
        with pytest.raises(KeyError, match="no tensor"):
            checkpoint["\ud800"]


def test_names_of_any_letters(tmp_path: Path) -> None:
    tensors = {
        name: raw("U8", (5,), i) for i, name in enumerate(["", " ", "名前", "a/b", 'q"uote', "\U0001f600", "x" * 5000])
    }
    with ws.open(write_file(tmp_path / "m.safetensors", tensors)) as checkpoint:
        assert list(checkpoint) == list(tensors)
        assert_same(checkpoint.load(), tensors)
        assert all(bytes_of(checkpoint.get_tensor(name)) == tensor.data for name, tensor in tensors.items())


def test_streams_of_a_checkpoint(saved: Saved) -> None:
    path, tensors = saved
    with ws.open(path) as checkpoint:
        with checkpoint.stream(order="file") as one, checkpoint.stream(names=["step"]) as two:
            assert one.checkpoint is two.checkpoint is checkpoint
            assert [name for name, _ in two] == ["step"]
            assert [name for name, _ in one] == list(checkpoint)
        weights = checkpoint.load()
    assert list(weights) == list(checkpoint)
    assert all(torch.equal(weights[name], tensor) for name, tensor in tensors.items())


def test_a_stream_inherits_what_open_was_given(saved: Saved) -> None:
    with ws.open(saved[0], framework="numpy", backend="pread") as checkpoint:
        with checkpoint.stream() as stream:
            assert type(next(stream)[1]).__module__ == "numpy"
            assert set(stream.stats.reasons.values()) == {'backend="pread" was asked for: parallel pread'}
        assert isinstance(checkpoint.load(framework="pt")["step"], torch.Tensor)
        with pytest.raises(ws.ConfigError, match="order="):
            checkpoint.stream(order="backwards")


def test_use_after_close(saved: Saved, no_leaks: Callable[[], None]) -> None:
    checkpoint = ws.open(saved[0])
    part = checkpoint.get_slice("counts")
    assert not checkpoint.closed
    checkpoint.close()
    checkpoint.close()
    no_leaks()
    assert checkpoint.closed
    uses: list[Callable[[], Any]] = [
        lambda: checkpoint.get_tensor("step"),
        lambda: checkpoint.get_slice("step"),
        lambda: part[0:1],
        checkpoint.stream,
        checkpoint.load,
    ]
    for use in uses:
        with pytest.raises(ws.ClosedError, match="the checkpoint is closed"):
            use()
    assert checkpoint["step"].dtype == "I32"  # what was read stays


def test_a_stream_outlives_its_checkpoint(tmp_path: Path) -> None:
    tensors = blocks(8, 2**20)
    path = write_file(tmp_path / "m.safetensors", tensors)
    with ws.open(path) as checkpoint:
        stream = checkpoint.stream(memory_limit="1MiB")
        first = next(stream)
    with stream:
        assert_same({**dict([first]), **dict(stream)}, tensors)


def test_a_file_written_to_after_it_was_opened(tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(2, 1000))
    with ws.open(path) as checkpoint:
        write_file(path, blocks(2, 1000, first_seed=9))
        os.utime(path, ns=(1, 1))
        for use in (checkpoint.load, lambda: checkpoint.get_tensor("t001"), lambda: checkpoint.get_slice("t001")[3:5]):
            with pytest.raises(ws.SourceChangedError, match="open the checkpoint again") as caught:
                use()
            assert caught.value.source == str(path)


def test_a_file_that_grew_or_shrank(tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(2, 1000))
    size = path.stat().st_size
    with ws.open(path) as checkpoint:
        os.truncate(path, size + 5)
        with pytest.raises(ws.SourceChangedError, match=f"from {size} to {size + 5} bytes") as caught:
            checkpoint.load()
        assert (caught.value.expected, caught.value.got) == (size, size + 5)
        os.truncate(path, size - 5)
        with pytest.raises((ws.SourceChangedError, ws.TruncatedError)):
            checkpoint.load()


def test_a_file_replaced_after_it_was_opened_is_read_as_it_was(tmp_path: Path) -> None:
    tensors = blocks(2, 1000)
    path = write_file(tmp_path / "m.safetensors", tensors)
    with ws.open(path) as checkpoint:
        write_file(tmp_path / "new", blocks(2, 1000, first_seed=9)).rename(path)
        assert_same(checkpoint.load(), tensors)
        path.unlink()
        assert_same(checkpoint.load(), tensors)


def test_another_file_in_the_place_of_one_that_was_let_go(tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(2, 1000))
    with ws.stream(path) as stream:
        list(stream)
    write_file(tmp_path / "new", blocks(2, 1000, first_seed=9)).rename(path)
    with pytest.raises(ws.SourceChangedError, match="another file took its place"):
        stream.checkpoint.get_tensor("t000")
    path.unlink()
    with pytest.raises(ws.NotFoundError):
        stream.checkpoint.get_tensor("t000")


def test_tensors_that_the_index_gives_to_another_shard(tmp_path: Path) -> None:
    # Both shards have "t000"; the index says which counts, and what it does not name is there too.
    write_shards(tmp_path, {"a.safetensors": blocks(2, 10), "b.safetensors": {"t000": raw("U8", (10,), 5)}})
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"t000": "b.safetensors", "t001": "a.safetensors"}}'
    )
    with ws.open(tmp_path) as checkpoint:
        assert len(checkpoint) == 2
        assert checkpoint["t000"].source == str(tmp_path / "b.safetensors")
        assert_same(checkpoint.load(), {"t000": raw("U8", (10,), 5), "t001": blocks(2, 10)["t001"]})


def test_pickling_says_why_not_and_infos_pickle(saved: Saved) -> None:
    with ws.open(saved[0]) as checkpoint:
        with pytest.raises(TypeError, match="a Checkpoint cannot be pickled: it holds open files"):
            pickle.dumps(checkpoint)
        for what in (checkpoint["step"], checkpoint.sources[0]):
            assert pickle.loads(pickle.dumps(what)) == what
