"""A GPU that is none, for streams to a device.

It is the driver library of native/tests/fake_driver, and torch tensors on the CPU that live in its "device memory".
What is copied where and when is the core's and the driver's business, as on a real one; only torch's own CUDA calls are
left out.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import weightstream as ws
from processes import TESTS, core_threads, wait_until
from weightstream import _core
from weightstream.frameworks import torch as torch_framework
from weightstream.frameworks.torch_device import GpuMemory

_SOURCES = TESTS.parent / "native/tests/fake_driver"


class Counts(ctypes.Structure):
    """FakeCounts of fake_driver.h."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "registered_bytes",
            "streams",
            "events",
            "contexts",
            "copies",
            "copied_bytes",
            "pageable_copies",
            "violations",
            "calls_after_fork",
            "cufile_files",
            "cufile_reads",
            "cufile_bytes",
            "cufile_most_at_once",
        )
    ]


@functools.cache
def library_path() -> Path:
    """The driver, built once a run; its programs get it by FAKE_GPU_LIBRARY. A process keeps the one that it loaded."""
    if "FAKE_GPU_LIBRARY" in os.environ:
        return Path(os.environ["FAKE_GPU_LIBRARY"])
    built = Path(tempfile.mkdtemp(prefix="weightstream-fake-gpu-")) / "libfake_cuda.so"
    sources = [_SOURCES / name for name in ("machine.cc", "device.cc", "controls.cc", "cuda_api.cc", "cufile_api.cc")]
    subprocess.run(["c++", "-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-o", built, *sources], check=True)
    return built


class FakeGpu(GpuMemory):
    """Its memory, and the controls of its driver."""

    current: FakeGpu | None = None

    def __init__(self, library: ctypes.CDLL) -> None:
        FakeGpu.current = self
        self.library = library
        self.device = torch.device("cpu")
        self.allocations = 0
        self.kernel_us = 0  # that each allocation is used by before anything may be written to it
        self.out_of_memory_at = 0  # the allocation, from 1, that fails
        self.most_live = 2**63  # allocations at a time; more are out of memory
        self.live = 0
        self.allocated: list[int] = []  # bytes, in order
        self.captures = False  # whether a graph is being captured
        self.synchronizations = 0
        library.fake_allocate.restype = ctypes.c_uint64
        library.fake_free.argtypes = [ctypes.c_uint64]
        library.fake_foreign_stream.restype = ctypes.c_void_p
        library.fake_launch.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_uint64,
            ctypes.c_uint64,
            ctypes.c_uint32,
            ctypes.c_uint8,
        ]
        library.fake_violation.restype = ctypes.c_char_p
        library.fake_reset(ctypes.c_uint64(1))
        library.cuInit(0)  # which the core does once in a process
        library.cuFileDriverOpen()  # as this
        library.fake_set_timing(ctypes.c_uint32(50), ctypes.c_uint64(0), ctypes.c_uint32(100))
        self._stream = library.fake_foreign_stream(0, 1)

    def target(self, limit: int, *, packed: bool) -> _core.Device:
        """See GpuMemory."""
        return _core.Device(vendor="cuda", ordinal=0, limit=limit, packed=packed, dlpack=(1, 0))

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """See GpuMemory."""
        nbytes = torch.empty(shape, dtype=dtype, device="meta").nbytes
        if nbytes == 0:
            return torch.empty(shape, dtype=dtype)
        self.allocations += 1
        if self.allocations == self.out_of_memory_at or self.live >= self.most_live:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        address = self.library.fake_allocate(ctypes.c_uint64(nbytes))
        memory = (ctypes.c_uint8 * nbytes).from_address(address)
        weakref.finalize(memory, self._free, address)
        self.live += 1
        self.allocated.append(nbytes)
        if self.kernel_us > 0:
            self.library.fake_launch(0, self._stream, address, nbytes, self.kernel_us, 0xEE)
        return torch.frombuffer(memory, dtype=torch.uint8).view(dtype).view(shape)

    def _free(self, address: int) -> None:
        self.live -= 1
        if FakeGpu.current is self:  # the driver forgot what was before it
            self.library.fake_free(address)

    def current_stream(self) -> int:
        """See GpuMemory."""
        return int(self._stream)

    def use_another_stream(self) -> None:
        """A new stream is the current one from now on."""
        self._stream = self.library.fake_foreign_stream(0, 1)

    def synchronize(self) -> None:
        """See GpuMemory. What is queued there has run already: only the copies of the core are the driver's."""
        self.synchronizations += 1

    def capturing(self) -> bool:
        """See GpuMemory."""
        return self.captures

    def counts(self) -> Counts:
        """What the driver counted."""
        counts = Counts()
        self.library.fake_get_counts(ctypes.byref(counts))
        return counts

    def fail(self, function: str, k: int, status: int, *, sticky: bool = False) -> None:
        """The k-th call of a driver function from now on fails."""
        self.library.fake_fail(function.encode(), ctypes.c_uint32(k), status, int(sticky))


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    """While it lasts, device="cpu" is that GPU. Afterwards nothing of it may be left."""
    monkeypatch.setenv("WEIGHTSTREAM_CUDA_DRIVER", str(library_path()))
    monkeypatch.setenv("WEIGHTSTREAM_CUFILE_LIBRARY", str(library_path()))
    library = ctypes.CDLL(str(library_path()))
    # The driver must not forget copies that a test which failed left under way: threads of the core ask for them.
    library.fake_pause(0)
    wait_until(lambda: "ws-limbo" not in core_threads())
    gpu = FakeGpu(library)
    monkeypatch.setattr(torch_framework, "gpu_memory", lambda device: gpu)
    yield gpu
    assert gpu.library.fake_violation() == b""
    ws.release_pinned_memory()
    assert _core.pinned_bytes() == 0
    wait_until(lambda: gpu.counts().registered_bytes + gpu.counts().streams + gpu.counts().events == 0)
    assert gpu.counts().contexts == 0
    assert gpu.counts().cufile_files == 0
