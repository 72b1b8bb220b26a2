"""Handles as programs use them: where the bytes come from, and what transformers and other programs do with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import save_file

import weightstream as ws
from checkpoints import Raw, assert_same, blocks, bytes_of, raw, write_file, write_shards
from processes import run
from servers.actions import Stall
from servers.scripted import ScriptedServer
from weightstream.safetensors import safe_open
from weightstream.safetensors import torch as drop_in
from weightstream.safetensors._allowance import allowance
from weightstream.safetensors._mapping import LocalFile
from weightstream.sources.names import natural

MIB = 2**20
Model = tuple[Path, dict[str, Raw]]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    tensors = blocks(12, MIB)
    return write_file(tmp_path / "m.safetensors", tensors), tensors


def read_all(handle: Any) -> dict[str, Any]:
    return {name: handle.get_tensor(name) for name in handle.offset_keys()}


def evict(path: Path) -> bool:
    """Takes the file out of the page cache; whether that worked."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with ws.open(path) as checkpoint:
        return not LocalFile(checkpoint._core, 0).mostly_cached()


def test_a_warm_file_is_mapped_and_a_cold_one_is_read(model: Model) -> None:
    path, tensors = model
    path.read_bytes()
    warm = safe_open(path, "pt")
    assert_same(read_all(warm), tensors)
    assert (warm.stats.mapped, warm.stats.bytes_read) == (12, 0)
    del warm
    if not evict(path):
        pytest.skip("this filesystem keeps it in memory")
    with safe_open(path, "pt") as cold:
        assert_same(read_all(cold), tensors)
        assert (cold.stats.mapped, cold.stats.read_ahead) == (0, 11)


@pytest.mark.parametrize(("backend", "mapped"), [("mmap", 12), ("pread", 0), ("uring", 0)])
def test_the_environment_decides_too(model: Model, backend: str, mapped: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSTREAM_BACKEND", backend)
    evict(model[0])
    with safe_open(model[0], "pt") as handle:
        assert_same(read_all(handle), model[1])
        assert handle.stats.mapped == mapped
    with safe_open(model[0], "pt", backend="pread") as handle:
        assert_same(read_all(handle), model[1])
        assert handle.stats.mapped == 0


def test_a_dtype_that_the_environment_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSTREAM_DTYPE", "float32")
    tensors = {f"t{i}": torch.randn(40, 30).bfloat16() for i in range(4)}
    save_file(tensors, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as handle:
        for name, tensor in tensors.items():
            assert torch.equal(handle.get_tensor(name), tensor.float())
            assert torch.equal(handle.get_slice(name)[3:7], tensor.float()[3:7])
        assert handle.get_tensors()["t2"].dtype == torch.float32


def test_a_file_that_is_replaced_is_mapped_as_it_was(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tensors = model
    monkeypatch.setenv("WEIGHTSTREAM_BACKEND", "mmap")
    handle = safe_open(path, "pt")
    write_file(path.with_name("other"), blocks(12, MIB, 100)).rename(path)
    assert_same(read_all(handle), tensors)
    assert handle.stats.mapped == 12


def test_a_file_that_is_written_to_is_not_mapped(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSTREAM_BACKEND", "mmap")
    handle = safe_open(model[0], "pt")
    model[0].write_bytes(model[0].read_bytes())
    os.utime(model[0], ns=(1, 1))
    with pytest.raises(safetensors.SafetensorError, match="since its header was read") as caught:
        handle.get_tensor("t001")
    assert isinstance(caught.value, ws.SourceChangedError)
    assert caught.value.source == str(model[0])


def test_a_file_that_ends_early(model: Model) -> None:
    handle = safe_open(model[0], "pt", backend="pread")
    handle.get_tensor("t000")
    os.truncate(model[0], 8 * MIB)
    calls: list[Callable[[], Any]] = [lambda name=name: handle.get_tensor(name) for name in ("t001", "t002", "t011")]
    for call in (*calls, lambda: handle.get_slice("t010")[:100], handle.get_tensors):
        with pytest.raises(safetensors.SafetensorError) as caught:
            call()
        assert isinstance(caught.value, (ws.TruncatedError, ws.SourceChangedError))
        assert caught.value.source == str(model[0])
    handle.__exit__(None, None, None)
    assert allowance.used == 0


def test_directories_lists_and_globs_are_as_one_file(tmp_path: Path) -> None:
    shards = {f"model-{i}-of-2.safetensors": {f"w{i}": raw("F32", (40, 30), i)} for i in (1, 2)}
    folder = write_shards(tmp_path / "model", shards, "model.safetensors.index.json")
    tensors = {name: tensor for shard in shards.values() for name, tensor in shard.items()}
    everything: list[Any] = [folder, sorted(folder.glob("*.safetensors")), str(folder / "*.safetensors")]
    for location in everything:
        for backend in ("mmap", "pread"):
            with safe_open(location, "pt", backend=backend) as handle:
                assert handle.keys() == ["w1", "w2"]
                assert_same(read_all(handle), tensors)
                assert_same(handle.get_tensors(), tensors)
                assert bytes_of(handle.get_slice("w2")[5:7]) == tensors["w2"].data[5 * 120 : 7 * 120]


def test_a_url(model: Model) -> None:
    path, tensors = model
    with ScriptedServer(path.read_bytes()) as server:
        with safe_open(server.url(), "pt") as handle:
            assert_same(read_all(handle), tensors)
            assert (handle.stats.mapped, handle.stats.read_ahead) == (0, 11)
            assert handle.stats.bytes_read <= path.stat().st_size + 8192  # and the first MiB, for the header
        handle = safe_open(server.url(), "pt")
        before = len(server.requests)
        part = handle.get_slice("t007")[1000:3000]
        assert bytes_of(part) == tensors["t007"].data[1000:3000]
        assert handle.stats.bytes_read <= 3 * 4096
        assert len(server.requests) == before + 1
        assert_same(drop_in.load_file(server.url()), tensors)
        handle.__exit__(None, None, None)


def test_a_url_that_is_not_there() -> None:
    with ScriptedServer(b"") as server, pytest.raises(FileNotFoundError, match="404"):
        safe_open(server.url("/nothing.safetensors"), "pt")


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_group_of_ranks_that_never_closes_its_handles(tmp_path: Path, backend: str) -> None:
    """As text-generation-inference does: cached handles, and of each tensor the part of this rank."""
    ranks = 4
    tensors = {
        "rows": torch.randn(10, 2048),  # 10 rows for 4 ranks: the last one gets what is left
        "columns": torch.randn(64, 4096),
        "experts": torch.randn(4, 512, 128),
        "norm": torch.randn(5000),
    }
    path = tmp_path / "m.safetensors"
    save_file(tensors, path)
    got: list[dict[str, torch.Tensor]] = []
    handles = []
    for rank in range(ranks):
        handle = safe_open(path, "pytorch", backend=backend)
        handles.append(handle)
        rows, columns, experts = (handle.get_slice(name) for name in ("rows", "columns", "experts"))
        block = -(-rows.get_shape()[0] // ranks)
        width, height = columns.get_shape()[1] // ranks, experts.get_shape()[1] // ranks
        got.append(
            {
                "rows": rows[rank * block : (rank + 1) * block],  # past the end for the last
                "columns": columns[:, rank * width : (rank + 1) * width],
                "experts": experts[:, rank * height : (rank + 1) * height],
                "norm": handle.get_tensor("norm"),
            }
        )
    assert [part["rows"].shape[0] for part in got] == [3, 3, 3, 1]
    for name, dim in (("rows", 0), ("columns", 1), ("experts", 1)):
        assert torch.equal(torch.cat([part[name] for part in got], dim), tensors[name])
        for part in got:
            assert part[name].untyped_storage().nbytes() == part[name].nbytes
    for part in got:
        assert torch.equal(part["norm"], tensors["norm"])


@pytest.mark.parametrize("name", ["rows", "experts"])
def test_each_rank_reads_only_its_part(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.safetensors"
    tensors = {"experts": torch.randn(4, 1024, 256), "other": torch.randn(512, 1024), "rows": torch.randn(64, 8192)}
    save_file(tensors, path)
    for rank in range(4):
        handle = safe_open(path, "pt", backend="pread")
        part, index = handle.get_slice(name), slice(rank * 16, (rank + 1) * 16)
        if name == "experts":
            index = slice(rank * 256, (rank + 1) * 256)
        mine = part[:, index] if name == "experts" else part[index]
        assert torch.equal(mine, tensors[name][:, index] if name == "experts" else tensors[name][index])
        pieces = 4 if name == "experts" else 1
        assert mine.nbytes <= handle.stats.bytes_read <= mine.nbytes + pieces * 8192
        handle.__exit__(None, None, None)


def test_slices_of_many_files_that_a_pool_materialises_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers does: get_slice of every key of every shard, then [...] by layers, in threads."""
    monkeypatch.setenv("WEIGHTSTREAM_MEMORY_LIMIT", "4MiB")
    monkeypatch.setenv("WEIGHTSTREAM_BACKEND", "pread")
    tensors, paths = {}, []
    for shard in range(3):
        layers = {
            f"model.layers.{i}.{what}.weight": raw("BF16", (256, 256), 100 * i + j)
            for i in range(5 * shard, 5 * shard + 5)
            for j, what in enumerate(("mlp.down_proj", "mlp.up_proj", "self_attn.o_proj", "self_attn.q_proj"))
        }
        tensors.update(layers)
        paths.append(write_file(tmp_path / f"{shard}.safetensors", dict(sorted(layers.items()))))
    handles = [safe_open(path, framework="pt", device="cpu") for path in paths]
    slices = {name: handle.get_slice(name) for handle in handles for name in handle.keys()}  # noqa: SIM118
    allowance.peak = 0
    with ThreadPoolExecutor(4) as pool:
        names = sorted(slices, key=natural)
        got = dict(zip(names, pool.map(lambda name: slices[name][...], names), strict=True))
    assert_same(got, tensors)
    assert allowance.peak <= 4 * MIB
    assert sum(handle.stats.read_ahead for handle in handles) > 40
    for handle in handles:
        handle.__exit__(None, None, None)
    assert allowance.used == 0


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_forked_child_goes_on(model: Model, backend: str) -> None:
    program = """
        import os, warnings
        from weightstream.safetensors import safe_open
        warnings.simplefilter("ignore")
        handle = safe_open(sys.argv[1], "np", backend=sys.argv[2])
        names = handle.keys()
        part = handle.get_slice(names[9])
        before = [handle.get_tensor(name).tobytes() for name in names[:4]]
        child = os.fork()
        got = [handle.get_tensor(name).tobytes() for name in names] + [part[5:9].tobytes()]
        if child == 0:
            handle.__exit__(None, None, None)
            os._exit(0 if got[:4] == before and len(got) == 13 else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), got[:4] == before)
    """
    assert run(program, model[0], backend).split() == ["0", "True"]


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_a_slice_in_a_forked_child_is_of_the_file_that_the_child_opens(model: Model, backend: str) -> None:
    path = model[0]
    other = {"before": raw("U8", (5000,), 1), **blocks(12, MIB, 100)}
    write_file(path.with_name("other"), other)
    program = """
        import os, warnings
        from weightstream.safetensors import safe_open
        warnings.simplefilter("ignore")
        part = safe_open(sys.argv[1], "np", backend=sys.argv[2]).get_slice("t009")
        os.replace(sys.argv[3], sys.argv[1])
        child = os.fork()
        if child == 0:
            print(part[5:9].tobytes().hex(), part[:].tobytes()[5:9].hex(), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    """
    said = run(program, path, backend, path.with_name("other"), WEIGHTSTREAM_BACKEND="mmap")
    assert said.split() == [other["t009"].data[5:9].hex()] * 2


def test_threads_of_a_forked_child_open_it_once_and_see_nothing_of_the_parents(model: Model) -> None:
    program = """
        import os, signal, threading, time, warnings
        from concurrent.futures import ThreadPoolExecutor
        from weightstream.safetensors import _reader, safe_open
        warnings.simplefilter("ignore")
        handle = safe_open(sys.argv[1], "np")
        names = handle.keys()
        reader = handle._reader
        reader._begin_ahead()
        opened, original, of_file = [], _reader.open_checkpoint, _reader.LocalFile
        def slowly(do, *args, **kwargs):
            opened.append(do)
            time.sleep(0.2)
            return do(*args, **kwargs)
        _reader.open_checkpoint = lambda *args, **kwargs: slowly(original, *args, **kwargs)
        _reader.LocalFile = lambda *args: slowly(of_file, *args)
        held = threading.Event()
        def hold():
            with reader._ahead._lock:
                held.set()
                time.sleep(60)
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            assert handle.stats.mapped == 0
            together = threading.Barrier(4)
            def ask(name):
                together.wait()
                return handle.get_tensor(name)
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(ask, names[:4]))
            print(len(opened), handle.stats.mapped, flush=True)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        os._exit(0)
    """
    assert run(program, model[0], WEIGHTSTREAM_BACKEND="mmap").split() == ["2", "4", "0"]


def test_a_loader_does_not_go_on_in_a_forked_child(model: Model) -> None:
    with ScriptedServer(model[0].read_bytes()) as server:
        program = """
            import os, signal, threading, time, warnings
            from weightstream.safetensors import safe_open
            warnings.simplefilter("ignore")
            loader = safe_open(sys.argv[1], "np").prefetch()
            threading.Thread(target=loader.take, args=("t011",), daemon=True).start()
            while not loader._window._taking:
                time.sleep(0.01)
            child = os.fork()
            if child == 0:
                signal.alarm(10)  # and no exception: a thread that waits for a lock would not see it
                for use in (lambda: loader.take("t004"), lambda: next(iter(loader))) * 2:
                    try:
                        use()
                    except Exception as error:
                        print(type(error).__name__, "forked" in str(error), end=" ", flush=True)
                    loader.close()
                del loader
                os._exit(7)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            os._exit(0)
        """
        server.when(lambda request: (request.range_of(13 * MIB) or (0, 0))[0] > 2 * MIB, Stall(30))
        assert run(program, server.url()).split() == ["ClosedError", "True"] * 4 + ["7"]


def test_ctrl_c_while_it_waits_for_what_is_read_ahead(model: Model) -> None:
    with ScriptedServer(model[0].read_bytes()) as server:
        program = """
            import signal, threading, os, time
            from weightstream.safetensors import safe_open
            began = time.monotonic()
            handle = safe_open(sys.argv[1], "numpy")
            handle.get_tensor("t000")
            threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            try:
                for name in handle.keys()[1:]:
                    handle.get_tensor(name)
                print("never waited")
            except KeyboardInterrupt:
                print("interrupted")
            handle.__exit__(None, None, None)
            print(time.monotonic() - began < 10)
        """
        server.when(lambda request: (request.range_of(13 * MIB) or (0, 0))[0] > 2 * MIB, Stall(30))
        assert run(program, server.url()).split("\n")[:2] == ["interrupted", "True"]
