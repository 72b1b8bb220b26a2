"""The tensors of a torch module as what a checkpoint's tensors go to. Nothing here knows where they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ._errors import ConfigError, MismatchError

_EXTRA_STATE = "_extra_state"  # the end of its key, as torch has it


class Sink(Protocol):
    """What takes one tensor, or several."""

    def receive(self, key: str, tensor: torch.Tensor, /) -> None:
        """Takes the tensor that the module calls `key`."""
        ...


@dataclass
class Target:
    """One tensor of a module. A tied one has several places, each with its key."""

    tensor: torch.Tensor
    keys: list[str] = field(default_factory=list)
    places: list[tuple[nn.Module, str]] = field(default_factory=list)

    def receive(self, _key: str, tensor: torch.Tensor, /) -> None:
        """Fills it, or on the meta device becomes `tensor`."""
        if self.tensor.is_meta:
            tensor = _in_place_of(self.tensor, tensor)
            for owner, name in self.places:
                setattr(owner, name, tensor)  # not only into its dictionary: some modules keep lists of their own
            self.tensor = tensor
        elif tensor is not self.tensor:
            with torch.inference_mode(self.tensor.is_inference()):
                self.tensor.detach().copy_(tensor)

    def takes_bytes(self, dtype: torch.dtype) -> bool:
        """Whether the bytes of a file that has it as `dtype` can go straight to its memory."""
        tensor = self.tensor
        plain = tensor.layout == torch.strided and not tensor.is_conj() and not tensor.is_neg()
        return plain and tensor.dtype == dtype and tensor.is_contiguous()


@dataclass
class ExtraState:
    """What a module keeps beside its tensors, as a tensor."""

    owner: nn.Module

    def receive(self, _key: str, tensor: torch.Tensor, /) -> None:
        """Hands it to the module."""
        self.owner.set_extra_state(tensor)


@dataclass
class SelfLoading:
    """A submodule with its own way of loading: it gets its tensors together, when the last one is there."""

    module: nn.Module
    prefix: str
    expected: int = 0  # tensors of the checkpoint
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    _state: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def on_meta(self) -> bool:
        """Whether it is still without memory."""
        return any(tensor.is_meta for tensor in _tensors(self.module))

    def receive(self, key: str, tensor: torch.Tensor, /) -> None:
        """Keeps it, and loads the submodule when it was the last one."""
        self._state[key.removeprefix(self.prefix)] = tensor
        if len(self._state) == self.expected:
            self.load()

    def load(self) -> None:
        """Loads the submodule from what is there.

        Raises:
            MismatchError: shapes differ.

        """
        state, self._state = self._state, {}
        try:
            result = self.module.load_state_dict(state, strict=False, assign=self.on_meta)
        except RuntimeError as error:
            raise MismatchError(f"the submodule {self.prefix[:-1] or 'itself'} cannot load: {error}") from error
        self.missing = [self.prefix + key for key in result.missing_keys]
        self.unexpected = [self.prefix + key for key in result.unexpected_keys]


class ModuleTensors:
    """The parameters and persistent buffers of a module, by the keys that its state dict would have.

    Attributes:
        sinks: what takes the tensor of a key; in the module's order. Keys of submodules that load themselves are not
            among them.

    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.sinks: dict[str, Target | ExtraState] = {}
        self._self_loading: dict[str, SelfLoading] = {}  # by prefix
        self._targets: dict[int, Target] = {}
        for path, owner in module.named_modules(remove_duplicate=False):
            prefix = f"{path}." if path else ""
            if self.self_loading_of(prefix) is not None:
                continue
            # Of the whole module alone does torch call a load_state_dict of its own.
            whole = owner is module and type(owner).load_state_dict is not nn.Module.load_state_dict
            if whole or _loads_itself(owner):
                self._self_loading[prefix] = SelfLoading(owner, prefix)
                continue
            for name, tensor in _persistent(owner):
                target = self._targets.setdefault(id(tensor), Target(tensor))
                target.keys.append(prefix + name)
                target.places.append((owner, name))
                self.sinks[prefix + name] = target
            if type(owner).set_extra_state is not nn.Module.set_extra_state:
                self.sinks[prefix + _EXTRA_STATE] = ExtraState(owner)

    def self_loading_of(self, key: str) -> SelfLoading | None:
        """The submodule that loads itself which a key belongs to."""
        if not self._self_loading:
            return None
        ends = [0, *(place + 1 for place, char in enumerate(key) if char == ".")]
        return next((own for end in ends if (own := self._self_loading.get(key[:end])) is not None), None)

    @property
    def self_loading(self) -> list[SelfLoading]:
        """The submodules that load themselves."""
        return list(self._self_loading.values())

    def missing(self, given: Iterable[str]) -> list[str]:
        """The keys that a checkpoint with the keys `given` lacks. Of tied ones, one is enough."""
        there = set(given)
        return [
            key
            for key, sink in self.sinks.items()
            if there.isdisjoint(sink.keys if isinstance(sink, Target) else (key,))
        ]

    def device(self) -> torch.device | None:
        """The one device that has all tensors which have memory; None where there is no such one."""
        devices = {tensor.device for tensor in _tensors(self.module) if not tensor.is_meta}
        return devices.pop() if len(devices) == 1 else None

    def move(self, device: torch.device, overwritten: Iterable[Target]) -> None:
        """Moves what has memory, as the same objects; the contents of those that are `overwritten` are not copied."""
        empty = {id(target.tensor) for target in overwritten}
        for tensor in _tensors(self.module):
            if tensor.is_meta or tensor.device == device:
                continue
            tensor.data = torch.empty_like(tensor, device=device) if id(tensor) in empty else tensor.to(device)
            if tensor.grad is not None:
                tensor.grad.data = tensor.grad.to(device)

    def left_on_meta(self) -> list[str]:
        """The names of parameters and buffers that have no memory."""
        named = (*self.module.named_parameters(), *self.module.named_buffers())
        return [name for name, tensor in named if tensor.is_meta]


def check_plain(key: str, target: Target) -> None:
    """Checks that a target is a tensor like those of a file.

    Raises:
        ConfigError: it is made of other tensors: a DTensor, or a quantised one.

    """
    made_of_others: bool = is_traceable_wrapper_subclass(target.tensor)
    if made_of_others:
        kind = type(target.tensor).__name__
        raise ConfigError(
            f"{key!r} is a {kind}, which is made of other tensors; load before the module is sharded or quantised"
        )


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _persistent(owner: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    named: Iterable[tuple[str, Any]] = (*owner._parameters.items(), *owner._buffers.items())
    for name, tensor in named:
        if tensor is not None and name not in owner._non_persistent_buffers_set:
            yield name, tensor


def _loads_itself(module: nn.Module) -> bool:
    return bool(
        type(module)._load_from_state_dict is not nn.Module._load_from_state_dict
        or module._load_state_dict_pre_hooks
        or module._load_state_dict_post_hooks
    )


def _in_place_of(old: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` as what `old` is: a parameter of its class, or a buffer, with its attributes."""
    new = tensor
    if isinstance(old, nn.Parameter):
        trains = old.requires_grad and (tensor.is_floating_point() or tensor.is_complex())
        # Subclasses have constructors of their own.
        new = torch.Tensor._make_subclass(type(old), tensor, trains)
    elif type(old) is not torch.Tensor:
        new = tensor.as_subclass(type(old))
    new.__dict__.update(old.__dict__)
    return new
