"""The device that tensors go to, as a worker sees it: when something is really there, and what memory it took."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

_QUERY = "name,driver_version,memory.total,pcie.link.gen.max,pcie.link.width.max"


class Device:
    """The CPU: what was handed out is there, and its memory is the process's."""

    def begin(self) -> None:
        """Right before the timed part."""

    def first_is_there(self) -> None:
        """Returns when the tensor that was handed out just now has its bytes."""

    def all_are_there(self) -> None:
        """Returns when every tensor has its bytes."""

    def measured(self) -> dict[str, Any]:
        """What the load took of the device, and what the device is."""
        return {}


class Cuda(Device):
    """A GPU, by torch. Making it makes torch's context."""

    def __init__(self, name: str) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(name)
        torch.cuda.set_device(self._device)
        torch.zeros(1, device=self._device)
        torch.cuda.synchronize()
        self._free = 0

    def begin(self) -> None:
        self._torch.cuda.synchronize()
        self._torch.cuda.empty_cache()
        self._torch.cuda.reset_peak_memory_stats()
        self._free = self._torch.cuda.mem_get_info()[0]

    def first_is_there(self) -> None:
        self._torch.cuda.current_stream().synchronize()

    def all_are_there(self) -> None:
        self._torch.cuda.synchronize()

    def measured(self) -> dict[str, Any]:
        return {
            "device_used": self._free - self._torch.cuda.mem_get_info()[0],
            "device_allocated_peak": self._torch.cuda.max_memory_allocated(),
            "device_name": self._torch.cuda.get_device_name(),
            "torch": self._torch.__version__,
        }


def device(name: str) -> Device:
    """The device of a name as torch spells it ("cpu", "cuda:0")."""
    return Device() if kind(name) == "cpu" else Cuda(name)


def kind(name: str) -> str:
    """The type of a device: "cpu" or "cuda"."""
    return name.partition(":")[0]


def describe(name: str) -> dict[str, str]:
    """What the driver says about the GPUs of this machine; nothing for the CPU."""
    if kind(name) == "cpu" or not (program := shutil.which("nvidia-smi")):
        return {}
    done = subprocess.run(
        [program, f"--query-gpu={_QUERY}", "--format=csv,noheader"], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        return {"error": done.stdout.strip() or done.stderr.strip()}
    values = done.stdout.splitlines()[0].split(", ")
    return dict(zip(_QUERY.split(","), values, strict=False))
