"""Reading ahead of a caller who walks a file: what is read, how much of it waits, and when it ends.

The files are read into memory of the tensors' own (backend="pread"): that is what a cold file gets.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from checkpoints import Raw, assert_same, blocks, bytes_of, write_file
from processes import core_threads, wait_until
from weightstream._checkpoint import Checkpoint
from weightstream.safetensors import safe_open
from weightstream.safetensors._allowance import allowance
from weightstream.safetensors._readahead import ReadAhead
from weightstream.safetensors._window import Window

MIB = 2**20
pytestmark = pytest.mark.usefixtures("no_leaks", "_nothing_waits")


@pytest.fixture
def _nothing_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Counts from zero, and afterwards nothing that was read ahead is left."""
    assert allowance.used == 0
    allowance.peak = 0
    yield
    gc.collect()
    assert allowance.used == 0


Model = tuple[Path, dict[str, Raw]]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """32 tensors of 256 KiB: 8 MiB."""
    tensors = blocks(32, MIB // 4)
    return write_file(tmp_path / "m.safetensors", tensors), tensors


def opened(path: Any, limit: str | None = None, monkeypatch: pytest.MonkeyPatch | None = None) -> Any:
    if limit is not None:
        assert monkeypatch is not None
        monkeypatch.setenv("WEIGHTSTREAM_MEMORY_LIMIT", limit)
    return safe_open(path, "pt", backend="pread")


def keys(handle: Any) -> list[str]:
    names: list[str] = handle.keys()
    return names


@pytest.mark.parametrize("method", ["keys", "offset_keys"])
@pytest.mark.parametrize("sliced", [False, True], ids=["tensors", "slices"])
def test_a_walk_is_one_stream_and_one_read_of_the_file(model: Model, method: str, sliced: bool) -> None:
    path, tensors = model
    with opened(path) as handle:
        names = getattr(handle, method)()
        assert_same({n: handle.get_slice(n)[...] if sliced else handle.get_tensor(n) for n in names}, tensors)
        stats = handle.stats
    assert (stats.mapped, stats.read_ahead, stats.read) == (0, 31, 1)
    assert stats.bytes_read < path.stat().st_size + 8192  # blocks of 4 KiB at both ends


def test_parts_that_are_everything_are_read_ahead_too(model: Model) -> None:
    path, tensors = model
    with opened(path) as handle:
        assert_same({name: handle.get_slice(name)[0 : 10 * MIB] for name in keys(handle)}, tensors)
        assert handle.stats.read_ahead == 31


def test_one_tensor_reads_one_tensor(model: Model) -> None:
    path, tensors = model
    with opened(path) as handle:
        for name in ("t003", "t017", "t009"):
            assert bytes_of(handle.get_tensor(name)) == tensors[name].data
        assert handle.stats.read_ahead == 0
        assert handle.stats.bytes_read <= 3 * (MIB // 4 + 8192)


def test_what_waits_stays_under_the_limit(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tensors = model
    with opened(path, "2MiB", monkeypatch) as handle:
        assert_same({name: handle.get_tensor(name) for name in keys(handle)}, tensors)
        assert handle.stats.read_ahead == 31
        assert handle.stats.bytes_read < 1.1 * path.stat().st_size
    assert MIB // 2 <= allowance.peak <= 2 * MIB


def test_all_handles_are_under_one_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [blocks(16, MIB // 8, 20 * i) for i in range(6)]
    paths = [write_file(tmp_path / f"{i}.safetensors", tensors) for i, tensors in enumerate(files)]
    handles = [opened(path, "1MiB", monkeypatch) for path in paths]
    got: list[dict[str, Any]] = [{} for _ in files]
    for name in keys(handles[0]):
        for handle, into in zip(handles, got, strict=True):
            into[name] = handle.get_tensor(name)
    for into, tensors in zip(got, files, strict=True):
        assert_same(into, tensors)
    assert 0 < allowance.peak <= MIB


def test_a_tensor_larger_than_half_of_the_limit_is_read_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = (
        blocks(4, 64 << 10)
        | {"t004": Raw("U8", (2 * MIB,), b"x" * 2 * MIB)}
        | {f"t{i:03}": tensor for i, tensor in enumerate(blocks(8, 64 << 10, 50).values(), 5)}
    )
    path = write_file(tmp_path / "m.safetensors", tensors)
    with opened(path, "1MiB", monkeypatch) as handle:
        assert_same({name: handle.get_tensor(name) for name in keys(handle)}, tensors)
        assert handle.stats.read == 2  # the first one and the large one
    assert allowance.peak <= MIB


def test_any_order_brings_every_tensor(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tensors = model
    for seed in range(5):
        names = list(tensors)
        random.Random(seed).shuffle(names)
        with opened(path, "2MiB", monkeypatch) as handle:
            assert_same({name: handle.get_tensor(name) for name in names}, tensors)
        assert allowance.peak <= 2 * MIB


def test_a_tensor_that_is_far_from_what_is_read_is_not_read_twice(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tensors = model
    with opened(path, "2MiB", monkeypatch) as handle:  # windows of two tensors
        names = handle.keys()
        got = {name: handle.get_tensor(name) for name in (*names[:3], names[20], *names[3:20], *names[21:])}
        assert_same(got, tensors)
        assert handle.stats.bytes_read < 1.1 * path.stat().st_size


def test_what_the_caller_leaves_out_does_not_stop_the_reading(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_file(model[0].parent / "many.safetensors", blocks(400, 16 << 10))
    with opened(path, "256KiB", monkeypatch) as handle:
        names = [name for i, name in enumerate(keys(handle)) if i % 4 < 2]
        for name in names:
            handle.get_tensor(name)
        assert handle.stats.read_ahead > 0.9 * len(names)
    assert allowance.peak <= 256 << 10


def test_every_walk_is_read_ahead(model: Model) -> None:
    path, tensors = model
    with opened(path) as handle:
        for _ in range(3):
            assert_same({name: handle.get_tensor(name) for name in keys(handle)}, tensors)
        assert handle.stats.read_ahead == 93


def test_threads_share_a_walk(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tensors = model
    with opened(path, "4MiB", monkeypatch) as handle, ThreadPoolExecutor(8) as pool:
        slices = {name: handle.get_slice(name) for name in keys(handle)}
        got = dict(zip(slices, pool.map(lambda part: part[...], slices.values()), strict=True))
        assert_same(got, tensors)
        assert handle.stats.read_ahead > 16
    assert allowance.peak <= 4 * MIB


def test_threads_that_ask_for_anything(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tensors = model
    handle = opened(path, "2MiB", monkeypatch)

    def ask(seed: int) -> list[str]:
        chosen = random.Random(seed)
        wrong = []
        for _ in range(40):
            start = chosen.randrange(32)
            for name in list(tensors)[start : start + chosen.randrange(1, 6)]:
                if bytes_of(handle.get_tensor(name)) != tensors[name].data:
                    wrong.append(name)
        return wrong

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == [[]] * 6
    assert allowance.peak <= 2 * MIB
    handle.__exit__(None, None, None)


def begun(path: Path) -> Any:
    """A handle that is reading ahead."""
    handle = opened(path)
    for name in keys(handle)[:3]:
        handle.get_tensor(name)
    assert allowance.used > 0
    return handle


def test_leaving_ends_it(model: Model, no_leaks: Callable[[], None]) -> None:
    handle = begun(model[0])
    part = handle.get_slice("t020")
    handle.__exit__(None, None, None)
    assert allowance.used == 0
    no_leaks()
    assert bytes_of(part[...]) == model[1]["t020"].data  # on its own
    assert bytes_of(part[5:70]) == model[1]["t020"].data[5:70]


def test_dropping_the_handle_ends_it(model: Model, no_leaks: Callable[[], None]) -> None:
    handle = begun(model[0])
    del handle
    gc.collect()
    assert allowance.used == 0
    no_leaks()


def test_the_end_of_the_walk_ends_it(model: Model) -> None:
    path, tensors = model
    handle = opened(path)
    kept = {name: handle.get_tensor(name) for name in keys(handle)}
    assert allowance.used == 0
    assert core_threads() == []
    assert_same(kept, tensors)


def test_nobody_who_asks_for_long_ends_it_and_the_next_walk_begins_it(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowance.reset()  # the thread of an earlier test sleeps for seconds
    monkeypatch.setattr(allowance, "idle_seconds", 0.05)
    handle = begun(model[0])
    wait_until(lambda: allowance.used == 0)
    wait_until(lambda: not allowance.watching)
    assert core_threads() == []
    monkeypatch.undo()
    got = {name: handle.get_tensor(name) for name in keys(handle)}
    assert_same(got, model[1])
    assert handle.stats.read_ahead > 30


def test_who_asks_now_and_then_keeps_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "idle_seconds", 0.5)
    handle = begun(model[0])
    for name in keys(handle)[3:8]:
        time.sleep(0.15)
        handle.get_tensor(name)
    assert allowance.used > 0
    handle.__exit__(None, None, None)


def test_what_comes_out_of_a_window_that_is_stopped_meanwhile_counts(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = begun(model[0])
    before = handle.stats.read_ahead
    take = Window.take

    def stopped(window: Window, name: str) -> Any:
        tensor = take(window, name)
        handle._reader.release()
        return tensor

    monkeypatch.setattr(Window, "take", stopped)
    assert bytes_of(handle.get_tensor("t003")) == model[1]["t003"].data
    assert handle.stats.read_ahead == before + 1


def test_an_interrupt_leaves_nothing_of_the_allowance(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    handle = opened(model[0])
    first, second, *_ = keys(handle)
    handle.get_tensor(first)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "stream", interrupt)
        with pytest.raises(KeyboardInterrupt):
            handle.get_tensor(second)
    assert allowance.used == 0
    handle = begun(model[0])
    with monkeypatch.context() as patch:
        patch.setattr(Window, "bytes_read", interrupt)
        with pytest.raises(KeyboardInterrupt):
            handle.__exit__(None, None, None)
    assert allowance.used == 0
    ReadAhead.__new__(ReadAhead).__del__()  # as where making it was interrupted


def test_who_waits_for_long_keeps_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = begun(model[0])
    ahead = handle._reader._ahead
    take = Window.take
    later = time.monotonic() + 2 * allowance.idle_seconds

    def slowly(window: Window, name: str) -> Any:
        assert not ahead.stop_if_idle(later)
        return take(window, name)

    monkeypatch.setattr(Window, "take", slowly)
    handle.get_tensor("t003")
    assert not ahead.stop_if_idle(time.monotonic() + 0.9 * allowance.idle_seconds)
    assert ahead.stop_if_idle(later + 1)
    handle.__exit__(None, None, None)


def test_closing_while_others_ask(model: Model) -> None:
    for _ in range(5):
        handle = begun(model[0])
        slices = [handle.get_slice(name) for name in keys(handle)]
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(lambda part=part: bytes_of(part[...])) for part in slices]
            handle.__exit__(None, None, None)
            assert [one.result() for one in asked] == [tensor.data for tensor in model[1].values()]
        del slices, asked, handle
        gc.collect()
        assert allowance.used == 0
