"""The process around a stream: consumers that leave, threads that share, pools of workers. See test_process_end.py."""

from __future__ import annotations

import concurrent.futures
import gc
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from checkpoints import Raw, assert_same, blocks, bytes_of, raw, write_file
from processes import core_threads, wait_until

MIB = 2**20
Model = tuple[Path, dict[str, Raw]]
pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Tensors large and small, more than one batch."""
    tensors = {f"t{i:03}": raw("U8", (1 + 9973 * (i * 5 % 17) ** 2,), i) for i in range(90)}
    return write_file(tmp_path_factory.mktemp("process") / "m.safetensors", tensors), tensors


@pytest.fixture(params=["pread", "uring"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_consumer_that_breaks(model: Model, backend: str) -> None:
    for name, tensor in ws.stream(model[0], backend=backend, memory_limit="1MiB"):
        assert bytes_of(tensor) == model[1][name].data
        break
    assert core_threads() == []  # the loop's own reference was the last


def test_a_consumer_that_raises(model: Model, backend: str) -> None:
    mine = ZeroDivisionError("mine")

    def consume() -> None:
        with ws.stream(model[0], backend=backend, memory_limit="1MiB") as stream:
            for _ in stream:
                raise mine

    with pytest.raises(ZeroDivisionError) as caught:
        consume()
    assert caught.value is mine
    assert caught.value.__context__ is None
    assert core_threads() == []


def test_a_consumer_that_raises_while_reading_fails(tmp_path: Path, backend: str) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(8, MIB))
    mine = ZeroDivisionError("mine")

    def consume() -> None:
        with ws.stream(path, backend=backend, memory_limit="1MiB", order="file") as stream:
            next(stream)
            os.truncate(path, MIB)
            raise mine

    with pytest.raises(ZeroDivisionError) as caught:
        consume()
    assert caught.value is mine
    assert core_threads() == []


def test_a_consumer_that_forgets(model: Model, backend: str) -> None:
    streams = [ws.stream(model[0], backend=backend, memory_limit="1MiB") for _ in range(3)]
    wrapped = ((name, tensor) for name, tensor in streams.pop())
    kept = next(wrapped)
    wrapped.close()  # a generator around a stream
    del wrapped
    next(streams[0])
    streams[0].itself = streams[0]  # type: ignore[attr-defined]  # a cycle, which the collector finds
    streams.clear()
    gc.collect()
    assert core_threads() == []
    assert bytes_of(kept[1]) == model[1][kept[0]].data


def test_closing_at_any_moment(model: Model, backend: str) -> None:
    path, tensors = model
    for taken in range(0, 90, 7):
        stream = ws.stream(path, backend=backend, memory_limit="1MiB")
        pairs = [next(stream) for _ in range(taken)]
        stream.close()
        assert core_threads() == []
        assert_same(iter(pairs), {name: tensors[name] for name, _ in pairs})


def test_sixty_four_streams_at_once(model: Model) -> None:
    path, tensors = model
    streams = [ws.stream(path, memory_limit="1MiB", concurrency=2, framework=("pt", "numpy")[i % 2]) for i in range(64)]
    names: list[set[str]] = [set() for _ in streams]
    for _ in tensors:
        for stream, seen in zip(streams, names, strict=True):
            name, tensor = next(stream)
            assert bytes_of(tensor) == tensors[name].data
            seen.add(name)
    assert all(seen == set(tensors) for seen in names)
    for stream in streams:
        assert next(stream, None) is None
    assert core_threads() == []


def test_streams_in_threads_of_their_own(model: Model, backend: str) -> None:
    path, tensors = model
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for weights in pool.map(lambda _: ws.load(path, backend=backend, memory_limit="1MiB"), range(16)):
            assert_same(weights, tensors)


class Held:
    """Waits for a go before it takes what is ready."""

    def __init__(self, take: Callable[[], Any]) -> None:
        self.take = take
        self.entered = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> Any:
        self.entered.set()
        assert self.go.wait(20)
        return self.take()


def test_a_second_thread_gets_an_error_and_the_first_goes_on(model: Model) -> None:
    path, tensors = model
    with ws.stream(path, order="file", memory_limit="1MiB") as stream:
        held = stream._take = Held(stream._take)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(next, stream)
            assert held.entered.wait(20)
            for _ in range(2):
                with pytest.raises(ws.ConfigError, match="another thread is in next"):
                    next(stream)
            assert not stream.closed
            held.go.set()
            pairs = [first.result(20), *stream]
    assert [name for name, _ in pairs] == list(tensors)
    assert_same(iter(pairs), tensors)


def test_threads_that_share_a_stream_get_each_tensor_once(model: Model) -> None:
    path, tensors = model
    got: list[tuple[str, Any]] = []
    refused = []

    def consume(stream: ws.TensorStream) -> None:
        while True:
            try:
                got.append(next(stream))
            except StopIteration:
                return
            except ws.ConfigError as error:
                refused.append(error)

    with ws.stream(path, memory_limit="1MiB") as stream:
        threads = [threading.Thread(target=consume, args=(stream,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(got) == len(tensors)
    assert_same(iter(got), tensors)


def test_a_batch_fetched_between_two_steps_of_another_is_not_lost(tmp_path: Path) -> None:
    tensors = blocks(600, 10)
    stream = ws.stream(write_file(tmp_path / "m.safetensors", tensors))
    got: list[str] = []

    class Lock:
        """Lets another thread take a whole turn at the very moment at which the first gives the lock back."""

        def __init__(self) -> None:
            self._lock = threading.Lock()
            self._turns = 0

        def acquire(self, blocking: bool) -> bool:
            return self._lock.acquire(blocking=blocking)

        def release(self) -> None:
            self._lock.release()
            self._turns += 1
            if self._turns == 1:
                other = threading.Thread(target=self._take_many)
                other.start()
                other.join()

        def _take_many(self) -> None:
            got.extend(name for name, _ in (next(stream) for _ in range(100)))  # more than a batch

    stream._fetching = Lock()  # type: ignore[assignment]
    got.extend(name for name, _ in stream)
    assert sorted(got) == sorted(tensors)


def test_closed_by_another_thread_between_two_batches(model: Model) -> None:
    with ws.stream(model[0], memory_limit="1MiB") as stream:
        held = stream._take = Held(stream._take)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(next, stream)
            assert held.entered.wait(20)
            stream.close()
            held.go.set()
            with pytest.raises(ws.ClosedError):
                first.result(20)
    assert core_threads() == []


def test_stats_from_another_thread(model: Model) -> None:
    path, tensors = model
    done = threading.Event()
    seen = []

    def watch(stream: ws.TensorStream) -> None:
        while not done.is_set():
            seen.append((stream.stats.bytes, repr(stream)))

    with ws.stream(path, memory_limit="1MiB") as stream:
        watcher = threading.Thread(target=watch, args=(stream,))
        watcher.start()
        wait_until(lambda: seen)
        assert_same(stream, tensors)
        done.set()
        watcher.join()
    assert [count for count, _ in seen] == sorted(count for count, _ in seen)


@pytest.fixture(scope="module")
def workers() -> Any:
    """A pool of spawned processes, as data loaders have them."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(os.getpid).result(60)
        yield pool


@pytest.mark.parametrize("framework", ["pt", "numpy"])
def test_tensors_come_back_from_a_worker(model: Model, workers: Any, framework: str) -> None:
    path, tensors = model
    names = ["t001", "t002"]
    future = workers.submit(ws.load, path, names=names, framework=framework)
    assert_same(future.result(60), {name: tensors[name] for name in names})


def test_errors_come_back_whole_from_a_worker(workers: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "missing")
    with pytest.raises(ws.NotFoundError) as caught:
        workers.submit(ws.open, path).result(60)
    assert (caught.value.filename, caught.value.source, caught.value.errno) == (path, path, 2)


def test_what_cannot_go_to_a_worker_says_why(model: Model, workers: Any) -> None:
    with ws.open(model[0]) as checkpoint:
        uses: list[Callable[[], Any]] = [
            lambda: workers.submit(len, checkpoint).result(60),
            lambda: pickle.dumps(checkpoint.stream()),
            lambda: pickle.dumps(checkpoint.get_slice("t001")),
        ]
        for use in uses:
            with pytest.raises(TypeError, match=r"cannot be pickled: .* in the other process"):
                use()
