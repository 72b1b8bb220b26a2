"""Comparing tensors that are on a GPU, and keeping it busy."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from checkpoints import Raw
from processes import TESTS

_SLEEP_CYCLES = 400_000_000  # 0.2 s at the clock of a busy GPU, more at that of an idle one


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, where they are. Works for dtypes that have no arithmetic."""
    return tensor.detach().view(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)


def bytes_on(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor on any device."""
    return flat(tensor).cpu().numpy().tobytes()


def assert_same_on(
    device: str, tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]], expected: Mapping[str, Raw]
) -> None:
    """All tensors of `expected`, no other, each byte for byte, each on the device."""
    got = dict(tensors)
    assert sorted(got) == sorted(expected)
    assert {str(tensor.device) for tensor in got.values()} <= {device}
    assert [name for name, tensor in got.items() if bytes_on(tensor) != expected[name].data] == []


def sleep() -> None:
    """The current stream does nothing for a while."""
    torch.cuda._sleep(_SLEEP_CYCLES)


@contextmanager
def stress(device: str) -> Iterator[None]:
    """While it lasts, the default stream of the device has kernels to run, more than one at any time."""
    matrix = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        while not done.is_set():
            for _ in range(16):
                torch.matmul(matrix, matrix)
            begun.set()
            torch.cuda.current_stream(device).synchronize()

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(60)
    try:
        yield
    finally:
        done.set()
        thread.join()


def run(program: str, path: Path, **variables: str) -> str:
    """Runs a program in a process of its own, which has to end well, and returns what it printed.

    It begins with `path`, and finds this module.
    """
    begin = f"""
    import sys
    sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / "gpu")!r}]
    import torch, weightstream as ws
    from on_gpu import flat
    path = {str(path)!r}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(begin) + textwrap.dedent(program)],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
