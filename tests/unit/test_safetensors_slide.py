"""A walk in file order: one stream, which stays so far ahead of the caller and no further.

The files are read into memory of the tensors' own (backend="pread"): that is what a cold file gets.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from checkpoints import Raw, assert_same, blocks, bytes_of, raw, write_file
from processes import wait_until
from weightstream import TensorStream
from weightstream._checkpoint import Checkpoint
from weightstream.safetensors import safe_open
from weightstream.safetensors._allowance import allowance
from weightstream.safetensors._readahead import ReadAhead

MIB = 2**20
# Windows of 8 MiB, and slides of twice as much.
LIMIT = 32 * MIB
pytestmark = pytest.mark.usefixtures("no_leaks", "_limited")

Model = tuple[Path, dict[str, Raw]]


@pytest.fixture
def _limited(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WEIGHTSTREAM_MEMORY_LIMIT", str(LIMIT))
    assert allowance.used == 0
    allowance.peak = 0
    yield
    gc.collect()
    assert allowance.used == 0
    assert allowance.peak <= LIMIT


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """64 tensors of 1 MiB."""
    tensors = blocks(64, MIB)
    return write_file(tmp_path_factory.mktemp("slide") / "m.safetensors", tensors), tensors


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[TensorStream]:
    """Every stream that a checkpoint begins."""
    begun: list[TensorStream] = []
    begin = Checkpoint.stream

    def stream(self: Checkpoint, **settings: Any) -> TensorStream:
        begun.append(begin(self, **settings))
        return begun[-1]

    monkeypatch.setattr(Checkpoint, "stream", stream)
    return begun


def opened(path: Any) -> Any:
    return safe_open(path, "pt", backend="pread")


def read(stream: TensorStream) -> int:
    return stream.stats.bytes_read


@pytest.mark.parametrize("sliced", [False, True], ids=["tensors", "slices"])
def test_a_walk_is_one_stream_after_the_first_tensor(model: Model, streams: list[TensorStream], sliced: bool) -> None:
    path, tensors = model
    with opened(path) as handle:
        names = handle.offset_keys()
        assert_same({n: handle.get_slice(n)[...] if sliced else handle.get_tensor(n) for n in names}, tensors)
        assert (handle.stats.read_ahead, handle.stats.read) == (63, 1)
        assert handle.stats.bytes_read < path.stat().st_size + 8192
    assert [len(stream) for stream in streams] == [1, 63]


def test_it_stays_so_far_ahead_and_no_further(model: Model, streams: list[TensorStream]) -> None:
    path, tensors = model
    with opened(path) as handle:
        names = handle.offset_keys()
        for name in names[:3]:
            handle.get_tensor(name)
        # A caller who takes his time: reading waits for him.
        wait_until(lambda: streams[1].stats.wait_consumer_seconds > 0)
        assert read(streams[1]) <= 13 * MIB
        assert streams[1].stats.peak_host_bytes <= 9 * MIB
        assert allowance.used == 17 * MIB
        assert_same({name: handle.get_tensor(name) for name in names[3:]}, dict(list(tensors.items())[3:]))
        assert streams[1].stats.peak_host_bytes <= 9 * MIB
        assert allowance.used == 0


def test_a_file_in_another_order_is_walked_by_runs(tmp_path: Path, streams: list[TensorStream]) -> None:
    """What sorts first lies last, as the head of a model does."""
    tensors = blocks(31, MIB) | {"a": raw("U8", (MIB,), 99)}
    path = write_file(tmp_path / "m.safetensors", tensors)
    with opened(path) as handle:
        assert_same({name: handle.get_tensor(name) for name in sorted(tensors)}, tensors)
        assert handle.stats.read_ahead == 31
    assert [len(stream) for stream in streams] == [1, 31]


def test_an_order_that_is_not_the_files_is_read_in_windows(tmp_path: Path, streams: list[TensorStream]) -> None:
    source = list(blocks(32, MIB).values())
    tensors = {f"{'ab'[i % 2]}{i:02}": tensor for i, tensor in enumerate(reversed(source))}
    backwards = dict(sorted(tensors.items(), reverse=True))
    path = write_file(tmp_path / "m.safetensors", backwards)
    with opened(path) as handle:
        assert_same({name: handle.get_tensor(name) for name in sorted(tensors)}, tensors)
        assert handle.stats.read_ahead == 31
    assert max(len(stream) for stream in streams) == 8


def test_what_is_left_out_does_not_pile_up(model: Model) -> None:
    path, tensors = model
    with opened(path) as handle:
        names = handle.offset_keys()
        wanted = [name for i, name in enumerate(names) if i % 4 < 2]
        assert_same({name: handle.get_tensor(name) for name in wanted}, {name: tensors[name] for name in wanted})
        assert handle.stats.read_ahead == 31
        left_out = [name for i, name in enumerate(names) if i % 4 >= 2]
        aside = handle._reader._ahead._window_of[left_out[-1]]._arrived
        # What lies no more than a window behind the stream, which did not come to the last two.
        assert list(aside) == left_out[-6:-2]
        # And whoever wants what was dropped gets it.
        assert_same({name: handle.get_tensor(name) for name in left_out}, {name: tensors[name] for name in left_out})


@pytest.mark.parametrize("number", [24, 25, 63, 64], ids=lambda number: f"of {number}")
@pytest.mark.parametrize("backwards", [False, True], ids=["slide", "windows"])
def test_who_turns_back_to_what_was_left_out_is_followed(
    model: Model, tmp_path: Path, backwards: bool, number: int
) -> None:
    tensors = dict(list(model[1].items())[:number])
    path = write_file(tmp_path / "m.safetensors", dict(sorted(tensors.items(), reverse=backwards)))
    names = list(tensors)
    first, second = names[0::2], names[1::2]
    with opened(path) as handle:
        assert_same({name: handle.get_tensor(name) for name in first}, {name: tensors[name] for name in first})
        assert handle.stats.read == 1
        assert_same({name: handle.get_tensor(name) for name in second}, {name: tensors[name] for name in second})
        assert handle.stats.read <= 4


def test_who_turns_back_before_the_end_is_followed(model: Model) -> None:
    path, tensors = model
    with opened(path) as handle:
        names = handle.offset_keys()
        order = [*names[0:44:2], *names[1:44:2], *names[44:]]
        assert_same({name: handle.get_tensor(name) for name in order}, tensors)
        assert handle.stats.read <= 4


@pytest.mark.parametrize("backwards", [False, True], ids=["slide", "windows"])
def test_a_small_tensor_that_is_left_out_counts_with_the_memory_that_it_keeps(tmp_path: Path, backwards: bool) -> None:
    scales = {f"t{i:03}.scale": raw("F32", (16,), 200 + i) for i in range(256)}
    tensors = scales | {f"t{i:03}.weight": tensor for i, tensor in enumerate(blocks(256, MIB // 8).values())}
    path = write_file(tmp_path / "m.safetensors", dict(sorted(tensors.items(), reverse=backwards)))
    with opened(path) as handle:
        wanted = [name for name in sorted(tensors) if name not in scales]
        for i, name in enumerate(wanted):
            handle.get_tensor(name)
            # Every block of 2 MiB has a scale: what is kept of them reaches back so far, and counts as much.
            kept = [
                int(left[1:4]) for window in handle._reader._ahead._windows for left in window._arrived if "s" in left
            ]
            behind = [left for left in kept if left < i]
            assert len(behind) * MIB // 8 <= allowance.used <= LIMIT
        assert handle.stats.read == 1


def test_a_jump_is_read_on_its_own_and_the_slide_goes_on(model: Model, streams: list[TensorStream]) -> None:
    path, tensors = model
    with opened(path) as handle:
        names = handle.offset_keys()
        order = [*names[:5], names[40], *names[5:40], *names[41:]]
        assert_same({name: handle.get_tensor(name) for name in order}, tensors)
        assert handle.stats.read == 2  # the first and the one far ahead
    assert [len(stream) for stream in streams] == [1, 63, 1]


def test_who_walks_elsewhere_is_followed(model: Model, streams: list[TensorStream]) -> None:
    path, tensors = model
    with opened(path) as handle:
        names = handle.offset_keys()
        order = [*names[:5], *names[32:], *names[5:32]]
        assert_same({name: handle.get_tensor(name) for name in order}, tensors)
        assert handle.stats.read <= 5
        # What the slide had read when it was left is read again, and no more.
        assert handle.stats.bytes_read < path.stat().st_size + 16 * MIB
    assert sum(len(stream) > 16 for stream in streams) == 1


def test_it_ends_when_nothing_of_it_is_wanted_any_more(model: Model, streams: list[TensorStream]) -> None:
    path, tensors = model
    with opened(path) as handle:
        names = handle.offset_keys()
        order = [*names[:5], names[63], *names[5:63]]
        assert_same({name: handle.get_tensor(name) for name in order}, tensors)
        assert allowance.used == 0
        assert len(streams[1]) == 63
        assert streams[1].closed


def test_what_comes_next_is_looked_for_when_reading_ends_and_not_all_the_time(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []
    top_up = ReadAhead._top_up
    monkeypatch.setattr(ReadAhead, "_top_up", lambda ahead: looks.append(ahead) or top_up(ahead))
    with opened(model[0]) as handle:
        names = handle.offset_keys()
        for name in (*names[:58], names[61], names[63], *names[58:61], names[62]):  # the last ones were put aside
            handle.get_tensor(name)
    assert len(looks) <= 4  # it begins, it has no more than a window left, it has ended


def test_two_who_walk_with_one_handle(model: Model) -> None:
    path, tensors = model
    with opened(path) as handle, ThreadPoolExecutor(2) as pool:
        names = handle.offset_keys()
        halves = pool.map(lambda part: {name: handle.get_tensor(name) for name in part}, (names[:32], names[32:]))
        got: dict[str, Any] = {}
        for half in halves:
            got |= half
        assert_same(got, tensors)


def test_threads_that_share_a_walk(model: Model) -> None:
    path, tensors = model
    with opened(path) as handle, ThreadPoolExecutor(4) as pool:
        names = handle.offset_keys()
        assert_same(dict(zip(names, pool.map(handle.get_tensor, names), strict=True)), tensors)
        assert handle.stats.read_ahead > 32


def test_a_tensor_larger_than_a_window(tmp_path: Path, streams: list[TensorStream]) -> None:
    tensors = blocks(8, MIB) | {"t008": raw("U8", (12 * MIB,), 50)}
    tensors |= {f"t{i:03}": tensor for i, tensor in enumerate(blocks(8, MIB, 60).values(), 9)}
    path = write_file(tmp_path / "m.safetensors", tensors)
    with opened(path) as handle:
        assert_same({name: handle.get_tensor(name) for name in handle.offset_keys()}, tensors)
        assert handle.stats.read == 1
    assert [len(stream) for stream in streams] == [1, 16]
    assert 12 * MIB <= streams[1].stats.peak_host_bytes <= 20 * MIB  # a window beside it
    assert 20 * MIB <= allowance.peak <= 28 * MIB


def test_a_large_tensor_that_the_file_begins_with_begins_the_stream(
    tmp_path: Path, streams: list[TensorStream]
) -> None:
    tensors = {"embed": raw("U8", (3 * MIB,), 50)} | blocks(32, MIB)
    path = write_file(tmp_path / "m.safetensors", tensors)
    with opened(path) as handle:
        assert_same({name: handle.get_tensor(name) for name in handle.offset_keys()}, tensors)
        assert (handle.stats.read_ahead, handle.stats.read) == (33, 0)
    assert [len(stream) for stream in streams] == [33]
    with opened(path) as handle:  # who wants that one alone has only a window read in vain
        assert_same({"embed": handle.get_tensor("embed")}, {"embed": tensors["embed"]})
        assert_same({"t020": handle.get_tensor("t020")}, {"t020": tensors["t020"]})
        wait_until(lambda: streams[1].stats.wait_consumer_seconds > 0)
        assert read(streams[1]) <= 18 * MIB
    assert [len(stream) for stream in streams[1:]] == [33, 1]
    assert allowance.used == 0


@pytest.mark.parametrize("name", ["t000", "t001", "large"])
def test_any_other_first_request_is_read_alone(tmp_path: Path, streams: list[TensorStream], name: str) -> None:
    tensors = blocks(32, MIB) | {"large": raw("U8", (3 * MIB,), 50)}
    with opened(write_file(tmp_path / "m.safetensors", tensors)) as handle:
        assert_same({name: handle.get_tensor(name)}, {name: tensors[name]})
    assert [len(stream) for stream in streams] == [1]


def test_leaving_ends_it(model: Model, no_leaks: Callable[[], None]) -> None:
    path, tensors = model
    handle = opened(path)
    kept = {name: handle.get_tensor(name) for name in handle.offset_keys()[:3]}
    assert allowance.used > 0
    handle.__exit__(None, None, None)
    assert allowance.used == 0
    no_leaks()
    assert all(bytes_of(tensor) == tensors[name].data for name, tensor in kept.items())


def test_a_slide_that_fails_leaves_its_tensors_to_be_read(model: Model, streams: list[TensorStream]) -> None:
    path, tensors = model
    with opened(path) as handle:
        names = handle.offset_keys()
        got = {name: handle.get_tensor(name) for name in names[:3]}
        streams[1].close()  # whoever takes from it gets an error
        got |= {name: handle.get_tensor(name) for name in names[3:]}
        assert_same(got, tensors)
        assert handle.stats.read_ahead + handle.stats.read == 64
        assert len(streams) > 32  # nothing is read ahead in this walk any more


def test_all_handles_are_under_one_limit(model: Model) -> None:
    path, tensors = model
    handles = [opened(path) for _ in range(3)]
    got: list[dict[str, Any]] = [{} for _ in handles]
    for name in handles[0].offset_keys():
        for handle, into in zip(handles, got, strict=True):
            into[name] = handle.get_tensor(name)
    for handle, into in zip(handles, got, strict=True):
        assert_same(into, tensors)
        handle.__exit__(None, None, None)
