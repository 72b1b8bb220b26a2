"""What this machine allows: memory, limits, io_uring, huge pages, what is installed."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import glob
import os
import platform
import resource
from collections.abc import Callable, Iterator
from importlib import metadata

from .. import _core
from .._format import bytes_text, count_text
from .._version import __version__
from .steps import Step

_SETUP = 425  # io_uring_setup(2), the same number on every architecture that is supported
_PACKAGES = (
    "torch",
    "numpy",
    "safetensors",
    "boto3",
    "google-auth",
    "azure-storage-blob",
    "azure-identity",
    "huggingface_hub",
)
_CGROUP = "/sys/fs/cgroup"


def steps() -> Iterator[tuple[str, Callable[[], Step]]]:
    """The name and the work of each."""
    yield "software", software
    yield "cpu", cpu
    yield "memory", memory
    yield "limits", limits
    yield "io_uring", io_uring
    yield "huge pages", huge_pages
    yield "accelerator", accelerator
    yield "gpudirect storage", gpudirect_storage


def software() -> Step:
    """Versions. Nothing is imported: torch alone takes a second."""
    versions = {"weightstream": __version__, "python": platform.python_version(), "linux": platform.release()}
    installed: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = None
    found = ", ".join(f"{name} {version}" for name, version in {**versions, **installed}.items() if version)
    details = {**versions, "packages": installed}
    if not installed["torch"] and not installed["numpy"]:
        return Step("software", "warn", found, "tensors need a framework: pip install 'weightstream[torch]'", details)
    return Step("software", "ok", found, None, details)


def cpu() -> Step:
    """The cores that this process may use."""
    cores = len(os.sched_getaffinity(0))
    quota = _cpu_quota()
    details = {"cores": cores, "quota": quota, "architecture": platform.machine()}
    summary = f"{count_text(cores, 'core')} of {platform.machine()}"
    if quota is not None and quota < cores:
        summary += f", limited to {quota:.3g} by the control group"
    return Step("cpu", "ok", summary, None, details)


def memory() -> Step:
    """What may be taken, by the machine and by the control group."""
    available = _available()
    limit, used = _cgroup_memory()
    details = {"available": available, "cgroup_limit": limit, "cgroup_used": used}
    if available is None:
        return Step("memory", "warn", "/proc/meminfo cannot be read", "set --memory-limit when loading", details)
    summary = f"{bytes_text(available)} available"
    free = available
    if limit is not None:
        free = min(available, max(0, limit - (used or 0)))
        summary += f", {bytes_text(limit)} allowed by the control group, of which {bytes_text(used or 0)} are used"
    details["default_memory_limit"] = default = _core.default_memory_limit()
    summary += f"; reads in flight take {bytes_text(default)} at most by default"
    if free < 512 << 20:
        return Step("memory", "warn", summary, "free some memory, or raise the limit of the control group", details)
    return Step("memory", "ok", summary, None, details)


def limits() -> Step:
    """Limits of this process: files, threads, locked memory."""
    soft = {
        "open files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "processes": resource.getrlimit(resource.RLIMIT_NPROC)[0],
        "locked memory": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
    }
    details = {name: None if value == resource.RLIM_INFINITY else value for name, value in soft.items()}
    texts = {name: "unlimited" if value is None else f"{value:,}" for name, value in details.items()}
    if details["locked memory"] is not None:
        texts["locked memory"] = bytes_text(details["locked memory"])
    summary = ", ".join(f"{name} {text}" for name, text in texts.items())
    if details["open files"] is not None and details["open files"] < 1024:
        return Step("limits", "warn", summary, "raise the limit of open files: ulimit -n 4096", details)
    if details["processes"] is not None and details["processes"] < 256:
        return Step("limits", "warn", summary, "raise the limit of threads: ulimit -u 4096", details)
    return Step("limits", "ok", summary, None, details)


def io_uring() -> Step:
    """Whether the kernel gives this process a ring."""
    error = _ring_error()
    details = {"allowed": error == 0, "errno": error or None}
    if error == 0:
        return Step("io_uring", "ok", "the kernel allows it", None, details)
    summary = f"refused: {os.strerror(error)}; files are read with pread instead"
    advice = "allow io_uring in the container's seccomp profile"
    switched_off = _read("/proc/sys/kernel/io_uring_disabled")
    if error == errno.ENOSYS:
        advice = "a kernel of Linux 5.6 or newer has it"
    elif switched_off in ("1", "2"):
        advice = f"kernel.io_uring_disabled is {switched_off}: sysctl kernel.io_uring_disabled=0"
    elif error == errno.ENOMEM:
        advice = "raise the limit of locked memory: ulimit -l"
    return Step("io_uring", "warn", summary, advice, details)


def huge_pages() -> Step:
    """Transparent huge pages: without them memory costs several times the CPU time."""
    text = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    mode = text.partition("[")[2].partition("]")[0] if text else ""
    details = {"mode": mode or None}
    if mode in ("always", "madvise"):
        return Step("huge pages", "ok", f"transparent huge pages: {mode}", None, details)
    advice = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, as root"
    found = f"transparent huge pages: {mode}" if mode else "this kernel has no transparent huge pages"
    return Step("huge pages", "warn", f"{found}; memory costs more CPU time", advice if mode else None, details)


def accelerator() -> Step:
    """Accelerators, by the devices that their drivers make."""
    nvidia = _gpus()
    amd = len(glob.glob("/dev/dri/renderD*")) if os.path.exists("/dev/kfd") else 0
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = None
    details = {"nvidia": nvidia, "amd": amd, "torch": torch}
    if not nvidia and not amd:
        return Step("accelerator", "ok", "none; tensors go to the CPU", None, details)
    driver = (_read("/sys/module/nvidia/version") or "?") if nvidia else (_read("/sys/module/amdgpu/version") or "?")
    summary = f"{count_text(nvidia or amd, 'GPU')} of {'NVIDIA' if nvidia else 'AMD'}, driver {driver}"
    if torch is not None and torch.endswith("+cpu"):
        return Step("accelerator", "warn", summary, "the installed torch is for CPUs only; install one for it", details)
    return Step("accelerator", "ok", summary, None, details)


def gpudirect_storage() -> Step:
    """What ``backend="gds"`` needs. Nothing is loaded: whether it works for a file is known when it is read."""
    name = "gpudirect storage"
    named = os.environ.get("WEIGHTSTREAM_CUFILE_LIBRARY", "")
    gpus = _gpus()
    library = named or (_cufile() if gpus else None)
    module = _read("/proc/driver/nvidia-fs/version")
    details = {"library": library, "nvidia_fs": module}
    if named and not (os.path.isabs(named) and os.path.isfile(named)):
        advice = "WEIGHTSTREAM_CUFILE_LIBRARY has to be the absolute path of a libcufile"
        return Step(name, "warn", f"{named} is not the path of a library", advice, details)
    if not gpus:
        return Step(name, "ok", 'no NVIDIA GPU; backend="gds" is "auto" here', None, details)
    if library is None:
        return Step(name, "ok", 'there is no libcufile.so.0; backend="gds" is "auto" here', None, details)
    if module is None:
        summary = f'{library}, without nvidia-fs: with backend="gds" it may read through host memory, or not at all'
        return Step(name, "ok", summary, None, details)
    return Step(name, "ok", f'{library}, {module}: backend="gds" may be used', None, details)


def _gpus() -> int:
    return len(glob.glob("/dev/nvidia[0-9]*"))


def _cufile() -> str | None:
    """Where cuFile is: what the loader finds, or the package that torch may depend on."""
    if found := ctypes.util.find_library("cufile"):
        return found
    for package in ("nvidia-cufile", "nvidia-cufile-cu12"):
        try:
            files = metadata.files(package) or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name == "libcufile.so.0":
                return os.fspath(file.locate())
    return None


def _ring_error() -> int:
    """0, or the errno of the refusal."""
    libc = ctypes.CDLL(None, use_errno=True)
    parameters = ctypes.create_string_buffer(120)  # struct io_uring_params
    fd = libc.syscall(ctypes.c_long(_SETUP), ctypes.c_uint(1), parameters)
    if fd < 0:
        return ctypes.get_errno()
    os.close(fd)
    return 0


def _available() -> int | None:
    for line in (_read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _own_groups() -> Iterator[str]:
    """The folders of this process's control group (v2) and of all above it."""
    for line in (_read("/proc/self/cgroup") or "").splitlines():
        if line.startswith("0::"):
            path = os.path.normpath(_CGROUP + line[3:])
            while path.startswith(_CGROUP):
                yield path
                path = os.path.dirname(path)


def _cgroup_memory() -> tuple[int | None, int | None]:
    """The tightest limit and what is used of it."""
    found: list[tuple[int, int]] = []
    for folder in _own_groups():
        most, used = _read(f"{folder}/memory.max"), _read(f"{folder}/memory.current")
        if most and most.isdigit():
            found.append((int(most), int(used) if used and used.isdigit() else 0))
    v1 = _read(f"{_CGROUP}/memory/memory.limit_in_bytes")
    if v1 and v1.isdigit() and int(v1) < 1 << 60:
        used = _read(f"{_CGROUP}/memory/memory.usage_in_bytes")
        found.append((int(v1), int(used) if used and used.isdigit() else 0))
    return min(found, key=lambda pair: pair[0] - pair[1]) if found else (None, None)


def _cpu_quota() -> float | None:
    quotas = []
    for folder in _own_groups():
        words = (_read(f"{folder}/cpu.max") or "").split()
        if len(words) == 2 and words[0].isdigit() and words[1].isdigit():
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None
