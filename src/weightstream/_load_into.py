"""Loading a checkpoint into a module of torch, tensor by tensor, without a second copy of its weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import _config, _log
from ._checkpoint import Checkpoint
from ._errors import ConfigError, MismatchError

if TYPE_CHECKING:
    import torch

    from . import sources
    from ._module import ModuleTensors, Sink, Target

# Tensors that come by one stream: the device that they come to, and how.
_Group = tuple[str, str]
_STRAIGHT, _BECOMES, _COPIED = "straight to its memory", "becomes the module's", "copied to the module's"


def load_into(
    module: torch.nn.Module,
    location: sources.Location,
    *,
    device: _config.Device | None = None,
    strict: bool = True,
    rename: Callable[[str], str | None] | None = None,
    dtype: Any = None,
    memory_limit: _config.Size | None = None,
    device_limit: _config.Size | None = None,
    concurrency: int | None = None,
    backend: str | None = None,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Any:
    """Loads a checkpoint into a module, as ``module.load_state_dict(load_file(path))`` does, but as its bytes arrive.

    Parameters and buffers that have memory are filled: they stay the objects that they are, with their dtype (what
    the checkpoint has is cast), and on a GPU the bytes go straight to them. Those on the meta device become the tensors
    that are read, so that a module made under ``torch.device("meta")`` takes the memory of its weights once; they keep
    their class, attributes and `requires_grad`. Tied parameters are loaded once and stay tied. Buffers that are not
    persistent are left as they are.

    Names and shapes are checked before anything is written. After an error while reading, the contents are undefined.

    A submodule that has its own way of loading (its own ``_load_from_state_dict``, or load hooks: `BatchNorm`, or a
    quantised layer) loads itself, from its tensors, as soon as they are all there; what it says of them comes then.

    Args:
        module: any `torch.nn.Module`. Of a wrapper such as DistributedDataParallel, give the module within.
        location: a file, an index, a directory, a glob, or a sequence of these: paths or URLs, as in `stream`.
        device: where the module is afterwards. Default: tensors that have memory stay where they are; those on the meta
            device go to the one device that the others are on, else to the CPU.
        strict: whether the checkpoint has to have exactly the module's tensors. Of tied ones, one is enough.
        rename: what a tensor of the checkpoint is called in the module; None leaves it out. Default: its own name.
        dtype: what floating-point tensors are cast to that take the place of those on the meta device. Default: what
            they are in the file.
        memory_limit, device_limit, concurrency, backend, progress, storage_options: as in `stream`.

    Returns:
        What ``load_state_dict`` returns: a named tuple of `missing_keys` and `unexpected_keys`, lists of str.

    Raises:
        MismatchError: shapes differ; or names do, and it is strict. It is a RuntimeError, as torch raises.
        ConfigError: a setting, or a tensor of the module, that cannot work.
        WeightstreamError: as `stream`.

    Example:
        >>> with torch.device("meta"):
        ...     model = Llama(config)
        >>> ws.load_into(model, "s3://models/llama", device="cuda:0")
        <All keys matched successfully>
        >>> ws.load_into(model, "step-1000.safetensors", rename=lambda name: name.removeprefix("module."))
        <All keys matched successfully>

    """
    import torch
    from torch.nn.modules.module import _IncompatibleKeys

    from ._module import ModuleTensors

    called = time.monotonic()
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f"load_into loads into a torch.nn.Module, not a {type(module).__name__}")
    settings = _config.resolve(
        device=device,
        framework="pt",
        names=(),
        memory_limit=memory_limit,
        device_limit=device_limit,
        concurrency=concurrency,
        backend=backend,
        progress=progress,
        dtype=dtype,
        storage_options=storage_options,
    )
    tensors = ModuleTensors(module)
    with Checkpoint._open(location, settings) as checkpoint, torch.no_grad():
        loading = _Loading(checkpoint, tensors, _by_key(checkpoint, rename))
        loading.check(strict)
        loading.place(settings.device, chosen=device is not None)
        nbytes = loading.run(settings, called)
    missing, unexpected = loading.differences()
    if strict:
        _raise_for(module, missing, unexpected, [])
    _log_end(tensors, nbytes, time.monotonic() - called)
    return _IncompatibleKeys(missing, unexpected)


class _Loading:
    """Which tensor of a checkpoint goes where in a module."""

    def __init__(self, checkpoint: Checkpoint, tensors: ModuleTensors, by_key: Mapping[str, str]) -> None:
        from ._module import Target

        self._checkpoint = checkpoint
        self._tensors = tensors
        self._by_key = by_key
        self._sinks: dict[str, Sink] = {}  # by key
        self._targets: dict[str, Target] = {}  # those of them that are single tensors
        self._core_copies: dict[torch.device, bool] = {}
        for key in by_key:
            own = tensors.self_loading_of(key)
            if own is not None:
                own.expected += 1
                self._sinks[key] = own
        for key, sink in tensors.sinks.items():
            if key not in by_key:
                continue
            if isinstance(sink, Target):
                # Of tied ones the last counts, as it does where one after the other is copied.
                if key != [tied for tied in sink.keys if tied in by_key][-1]:
                    continue
                self._targets[key] = sink
            self._sinks[key] = sink

    def check(self, strict: bool) -> None:
        """Compares names and shapes.

        Raises:
            MismatchError: they differ.
            ConfigError: a tensor of the module that no file's can go to.

        """
        from ._module import check_plain
        from .frameworks.torch_dtypes import tensor_like

        differing = []
        for key, target in self._targets.items():
            check_plain(key, target)
            info = self._checkpoint[self._by_key[key]]
            shape, own = tensor_like(info.dtype, info.shape)[1], tuple(target.tensor.shape)
            if shape != own:
                differing.append(f"{key!r}: the checkpoint has {shape}, the module {own}")
        missing, unexpected = self.differences() if strict else ([], [])
        _raise_for(self._tensors.module, missing, unexpected, differing)

    def differences(self) -> tuple[list[str], list[str]]:
        """The keys that the checkpoint lacks and those that the module lacks, as far as they are known."""
        own = self._tensors.self_loading
        missing = self._tensors.missing(self._by_key)
        unexpected = [
            key for key in self._by_key if key not in self._tensors.sinks and self._tensors.self_loading_of(key) is None
        ]
        return (
            missing + [key for each in own for key in each.missing],
            unexpected + [key for each in own for key in each.unexpected],
        )

    def place(self, device: _config.Device, *, chosen: bool) -> None:
        """Finds where tensors go that have no memory yet; moves the others there if the device was `chosen`."""
        from .frameworks.torch import TorchFramework

        common = None if chosen else self._tensors.device()
        self._device = TorchFramework(device).own_device() if common is None else common
        if chosen:
            self._tensors.move(self._device, self._targets.values())

    def run(self, settings: _config.Settings, called: float) -> int:
        """Streams the tensors, and returns their bytes."""
        nbytes = 0
        for (device, way), names in self._groups().items():
            into = {name: self._targets[key].tensor for name, key in names.items()} if way == _STRAIGHT else None
            streaming = replace(
                settings,
                device=device,
                names=list(names),
                into=into,
                dtype=settings.dtype if way == _BECOMES else None,
            )
            with self._checkpoint._start(streaming, called) as stream:
                for name, tensor in stream:
                    self._sinks[names[name]].receive(names[name], tensor)
                    del tensor  # it would stay until the next one is there
            nbytes += stream.nbytes
            settings = replace(settings, trace=None)  # of the first and largest
        for own in self._tensors.self_loading:
            if not own.expected:
                own.load()
        return nbytes

    def _groups(self) -> dict[_Group, dict[str, str]]:
        """The names and keys of what comes by one stream, that of most bytes first."""
        groups: dict[_Group, dict[str, str]] = {}
        for key in self._sinks:
            groups.setdefault(self._group(key), {})[self._by_key[key]] = key
        weighed = {group: sum(self._checkpoint[name].nbytes for name in names) for group, names in groups.items()}
        return {group: groups[group] for group in sorted(groups, key=weighed.__getitem__, reverse=True)}

    def _group(self, key: str) -> _Group:
        from ._module import SelfLoading
        from .frameworks.torch_dtypes import torch_dtype

        target = self._targets.get(key)
        if target is None:
            sink = self._sinks[key]
            return (str(self._device), _BECOMES) if isinstance(sink, SelfLoading) and sink.on_meta else ("cpu", _COPIED)
        if target.tensor.is_meta:
            return str(self._device), _BECOMES
        if not self._by_the_core(target.tensor.device):  # torch copies, out of host memory
            return "cpu", _COPIED
        straight = target.takes_bytes(torch_dtype(self._checkpoint[self._by_key[key]].dtype))
        return str(target.tensor.device), _STRAIGHT if straight else _COPIED

    def _by_the_core(self, device: torch.device) -> bool:
        from .frameworks.torch import TorchFramework

        if device not in self._core_copies:
            self._core_copies[device] = TorchFramework(device).by_the_core
        return self._core_copies[device]


def _by_key(checkpoint: Checkpoint, rename: Callable[[str], str | None] | None) -> dict[str, str]:
    """The checkpoint's names, by what the module calls them.

    Raises:
        ConfigError: two are called the same.

    """
    names: dict[str, str] = {}
    for name in checkpoint:
        key = name if rename is None else rename(name)
        if key is not None and names.setdefault(key, name) != name:
            raise ConfigError(f"rename makes {key!r} of two tensors: {names[key]!r} and {name!r}")
    return names


def _raise_for(module: object, missing: list[str], unexpected: list[str], differing: list[str]) -> None:
    lines = []
    if missing:
        lines.append(f"the checkpoint lacks {len(missing)}: {', '.join(map(repr, missing))}")
    if unexpected:
        lines.append(f"the module lacks {len(unexpected)} of the checkpoint's: {', '.join(map(repr, unexpected))}")
    if differing:
        lines.append("shapes differ of " + "; ".join(differing))
    if lines:
        advice = "; rename= maps names, and strict=False takes what there is" if missing or unexpected else ""
        text = "\n  ".join(lines)
        raise MismatchError(f"the tensors are not those of {type(module).__name__}{advice}\n  {text}")


def _log_end(tensors: ModuleTensors, nbytes: int, seconds: float) -> None:
    _log.logger.info(
        "loaded %.3f GB into %s in %.3f s (%.2f GB/s)",
        nbytes / 1e9,
        type(tensors.module).__name__,
        seconds,
        nbytes / 1e9 / max(seconds, 1e-9),
    )
    left = tensors.left_on_meta()
    if left:
        _log.logger.warning(
            "%d tensors of %s are still on the meta device, because the checkpoint does not have them: %s",
            len(left),
            type(tensors.module).__name__,
            ", ".join(left[:5]) + (", ..." if len(left) > 5 else ""),
        )
