"""Signals, forks and exits while a stream waits for a slow storage. Each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from checkpoints import blocks, write_file
from processes import command, environment, run, wait_until

MIB = 2**20

# What each program begins with. The storage takes 0.2 seconds for every read; close() waits for those that run.
BEGIN = """
import ctypes, os, pathlib, signal, threading, time, warnings
import numpy
import weightstream as ws
from processes import core_threads, descriptors

path = sys.argv[1]
contents = pathlib.Path(path).read_bytes()
before = descriptors()

def storage_takes(milliseconds):
    ctypes.CDLL(None).fault_arm(path.encode(), 0, 1, milliseconds)

def exact(stream, name, tensor):
    return tensor.tobytes() == contents[slice(*stream.checkpoint[name].range)]

def start(milliseconds=200, **settings):
    storage_takes(0)
    checkpoint = ws.open(path, framework="numpy", backend="pread")
    storage_takes(milliseconds)
    return checkpoint.stream(memory_limit="1MiB", concurrency=2, **settings)

def the_next_stream_works():
    storage_takes(0)
    with start(0) as stream:
        assert all(exact(stream, name, tensor) for name, tensor in stream)

def fork():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of a fork beside threads
        return os.fork()

def ended_well(child):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_file(tmp_path_factory.mktemp("slow") / "m.safetensors", blocks(12, MIB))


def slow(program: str, model: Path, preload: Path) -> str:
    return run(BEGIN + program, model, preload=preload)


def start(program: str, model: Path, preload: Path) -> subprocess.Popen[str]:
    """Starts a program, and waits until it prints "ready" and its main thread sleeps."""
    process = subprocess.Popen(
        command(BEGIN + program, model),
        env=environment(preload),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    stat = Path(f"/proc/{process.pid}/task/{process.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(") ")[2].startswith("S"))
    return process


def test_an_interrupt_while_waiting(model: Path, read_faults: Path) -> None:
    program = """
stream = start()
kept = dict([next(stream)])
print("ready", flush=True)
try:
    for name, tensor in stream:
        kept[name] = tensor
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
assert stream.closed
assert core_threads() == []
assert all(exact(stream, name, tensor) for name, tensor in kept.items())
stream.checkpoint.close()
assert descriptors() == before
the_next_stream_works()
"""
    process = start(program, model, read_faults)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert 0 < float(out) - sent < 1


def test_an_interrupt_that_nobody_catches(model: Path, read_faults: Path) -> None:
    program = """
with start() as stream:
    print("ready", flush=True)
    for name, tensor in stream:
        pass
"""
    process = start(program, model, read_faults)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - sent < 2
    assert process.returncode in (-signal.SIGINT, 128 + signal.SIGINT)
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert err.count("Traceback") == 1


def test_a_handler_runs_while_waiting_and_waiting_goes_on(model: Path, read_faults: Path) -> None:
    program = """
count = 0
def handler(number, frame):
    global count
    count += 1
signal.signal(signal.SIGALRM, handler)
stream = start(100, names=["t001", "t005"])
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
weights = dict(stream)
signal.setitimer(signal.ITIMER_REAL, 0)
assert len(weights) == 2 and all(exact(stream, name, tensor) for name, tensor in weights.items())
assert count >= 2, count
"""
    slow(program, model, read_faults)


def test_other_threads_run_while_waiting(model: Path, read_faults: Path) -> None:
    program = """
ticks = []
done = threading.Event()
def tick():
    while not done.wait(0.005):
        ticks.append(time.monotonic())
ticker = threading.Thread(target=tick)
stream = start(100)
ticker.start()
begin = time.monotonic()
next(stream)
end = time.monotonic()
done.set()
ticker.join()
stream.close()
assert end - begin > 0.1
assert len([when for when in ticks if begin < when < end]) > 5
"""
    slow(program, model, read_faults)


def test_closed_by_another_thread_while_waiting(model: Path, read_faults: Path) -> None:
    program = """
stream = start()
met = []
def consume():
    try:
        for name, tensor in stream:
            assert exact(stream, name, tensor)
    except Exception as error:
        met.append(error)
consumer = threading.Thread(target=consume)
consumer.start()
while not stream._fetching.locked():
    time.sleep(0.001)
begin = time.monotonic()
stream.close()
consumer.join(1)
assert not consumer.is_alive()
assert time.monotonic() - begin < 1
assert [type(error) for error in met] == [ws.ClosedError], met
assert core_threads() == []
the_next_stream_works()
"""
    slow(program, model, read_faults)


def test_a_second_thread_while_the_first_waits(model: Path, read_faults: Path) -> None:
    program = """
stream = start(50)
pairs = []
consumer = threading.Thread(target=lambda: pairs.extend(stream))
consumer.start()
while not stream._fetching.locked():
    time.sleep(0.001)
refused = 0
while refused < 3:
    try:
        pairs.append(next(stream))
    except ws.ConfigError as error:
        assert "another thread is in next()" in str(error)
        refused += 1
consumer.join()
assert len(pairs) == len(stream) == len(dict(pairs))
assert all(exact(stream, name, tensor) for name, tensor in pairs)
"""
    slow(program, model, read_faults)


def test_a_fork_while_it_runs(model: Path, read_faults: Path) -> None:
    program = """
stream = start(50)
first = next(stream)
child = fork()
if child == 0:
    for _ in range(2):
        try:
            while True:
                next(stream)
        except ws.ClosedError as error:
            assert "process" in str(error) or _ == 1, error
    assert exact(stream, *first)
    assert stream.stats.bytes_total == stream.nbytes
    stream.close()
    del stream
    the_next_stream_works()
    sys.exit(0)
assert ended_well(child)
pairs = [first, *stream]
assert len(pairs) == len(stream)
assert all(exact(stream, name, tensor) for name, tensor in pairs)
"""
    slow(program, model, read_faults)


@pytest.mark.parametrize("leave", ["sys.exit(0)", "os._exit(0)", "del stream; sys.exit(0)", "next(stream, None)"])
def test_a_fork_while_another_thread_waits(model: Path, read_faults: Path, leave: str) -> None:
    program = f"""
stream = start(20)
pairs = []
def consume():
    pairs.extend(stream)
consumer = threading.Thread(target=consume)
consumer.start()
while not stream._fetching.locked():
    time.sleep(0.001)
time.sleep(0.02)  # well inside
child = fork()
if child == 0:
    del consume, consumer
    try:
        {leave}
    except ws.ClosedError:
        sys.exit(0)
    sys.exit(1)
assert ended_well(child)
consumer.join()
assert len(pairs) == len(stream)
assert all(exact(stream, name, tensor) for name, tensor in pairs)
"""
    slow(program, model, read_faults)


def test_forked_workers(model: Path, read_faults: Path) -> None:
    program = """
import multiprocessing
stream = start(20)
first = next(stream)

def work():
    try:
        list(stream)
    except ws.ClosedError:
        the_next_stream_works()
    else:
        sys.exit(3)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    workers = [multiprocessing.get_context("fork").Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
for worker in workers:
    worker.join(30)
assert [worker.exitcode for worker in workers] == [0, 0]
assert len([first, *stream]) == len(stream)
"""
    slow(program, model, read_faults)


EXITS = {
    "a stream in a variable": "stream = start()\nnext(stream)",
    "a stream that was never read": "stream = start()",
    "sys.exit in the loop": """
for name, tensor in start():
    print("end", time.monotonic(), flush=True)
    sys.exit(0)
""",
    "a stream in a cycle": "stream = start()\nstream.itself = stream\ndel stream",
    "a stream that a module holds": "stream = start()\nnumpy.held = stream\nimport builtins\nbuiltins.held = stream",
    "tensors that modules hold": "numpy.held = dict([next(start())])",
    "a daemon thread that waits": """
def consume():
    try:
        for _ in stream: pass
    except ws.ClosedError:
        pass
stream = start()
threading.Thread(target=consume, daemon=True).start()
while not stream._fetching.locked():
    time.sleep(0.001)
""",
}


@pytest.mark.parametrize("what", EXITS)
def test_an_exit_in_the_middle(model: Path, read_faults: Path, what: str) -> None:
    program = BEGIN + EXITS[what] + "\nprint('end', time.monotonic(), flush=True)\n"
    out = run(program, model, preload=read_faults)
    ended = time.monotonic()
    assert ended - float(out.split()[-1]) < 2


def test_an_error_that_ends_the_program(model: Path, read_faults: Path) -> None:
    program = """
stream = start()
next(stream)
print("ready", flush=True)
next(stream)
raise ZeroDivisionError("mine")
"""
    process: Any = start(program, model, read_faults)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("ZeroDivisionError: mine")


def test_killed_in_the_middle(model: Path, read_faults: Path) -> None:
    process = start('stream = start()\nprint("ready", flush=True)\nlist(stream)', model, read_faults)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
