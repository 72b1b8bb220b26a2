"""SGLang's plug-in against a stand-in of SGLang's hook registry and configuration; tests/engines has SGLang's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import Enum
from functools import wraps
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import weightstream as ws
from checkpoints import Raw, assert_same, blocks, write_file
from weightstream.integrations import sglang as plugin


class Registry:
    """sglang.srt.plugins.hook_registry.HookRegistry: AROUND hooks only."""

    def __init__(self) -> None:
        self.hooks: dict[str, Any] = {}
        self.refused = ""

    def register(self, target: str, hook: Any, hook_type: str) -> None:
        assert hook_type == "around"
        assert target not in self.hooks
        self.hooks[target] = hook

    def apply_hooks(self) -> None:
        for target, hook in self.hooks.items():
            owner_name, _, name = target.rpartition(".")
            owner: Any = sys.modules.get(owner_name) or getattr(
                sys.modules[owner_name.rpartition(".")[0]], owner_name.rpartition(".")[2]
            )
            original = getattr(owner, name)
            if not hasattr(original, "__wrapped__") and target != self.refused:
                setattr(owner, name, around(original, hook))


def around(original: Any, hook: Any) -> Any:
    @wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return hook(original, *args, **kwargs)

    return wrapper


@pytest.fixture
def sglang(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """SGLang after it loaded its plug-ins."""
    weight_utils = module(
        monkeypatch,
        "model_loader.weight_utils",
        BAR_FORMAT=None,
        safetensors_weights_iterator=lambda files, **_: iter([("by SGLang", files)]),
        buffered_multi_thread_safetensors_weights_iterator=lambda files, **_: iter([("by SGLang's threads", files)]),
    )

    class LoadConfig:
        def __init__(self, load_format: Any, model_loader_extra_config: Any = "{}") -> None:
            self.load_format = load_format
            self.model_loader_extra_config = model_loader_extra_config
            self._verify_load_format()

        def _verify_load_format(self) -> None:
            self.load_format = Enum("LoadFormat", {"SAFETENSORS": "safetensors"})(self.load_format)

    class DefaultModelLoader:
        def __init__(self, load_config: LoadConfig) -> None:
            self.load_config = load_config

        def _get_weights_iterator(self, source: str, *, prefix: str = "", threads: bool = True) -> Iterator[Any]:
            name = "buffered_multi_thread_safetensors_weights_iterator" if threads else "safetensors_weights_iterator"
            iterator = getattr(weight_utils, name)([source], prefetch=False)
            return ((prefix + name, tensor) for name, tensor in iterator)

    registry = Registry()
    choices = ["auto", "safetensors"]
    module(monkeypatch, "configs.load_config", LoadConfig=LoadConfig)
    module(monkeypatch, "model_loader.loader", DefaultModelLoader=DefaultModelLoader)
    module(monkeypatch, "plugins.hook_registry", HookRegistry=registry, HookType=SimpleNamespace(AROUND="around"))
    module(monkeypatch, "server_args", LOAD_FORMAT_CHOICES=choices, add_load_format_choices=choices.extend)
    monkeypatch.setattr(plugin._Memory, "hooked", False)
    monkeypatch.setattr(plugin._Memory, "settings", plugin.LoaderSettings())
    plugin.register()
    registry.apply_hooks()
    return SimpleNamespace(
        LoadConfig=LoadConfig, DefaultModelLoader=DefaultModelLoader, registry=registry, choices=choices
    )


def module(monkeypatch: pytest.MonkeyPatch, name: str, **names: Any) -> ModuleType:
    """Makes a module below sglang.srt, and the packages above it."""
    full = f"sglang.srt.{name}"
    for end in range(1, full.count(".") + 1):
        package = ".".join(full.split(".")[:end])
        if package not in sys.modules:
            made = ModuleType(package)
            made.__path__ = []
            monkeypatch.setitem(sys.modules, package, made)
    made = ModuleType(full)
    made.__dict__.update(names)
    monkeypatch.setitem(sys.modules, full, made)
    parent, _, last = full.rpartition(".")
    setattr(sys.modules[parent], last, made)
    return made


@pytest.fixture
def model(tmp_path: Path) -> tuple[str, dict[str, Raw]]:
    tensors = blocks(3, 1000)
    return str(write_file(tmp_path / "m.safetensors", tensors)), tensors


def test_without_sglang_registering_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    plugin.register()
    assert "does not work with this SGLang" in caplog.text


def test_registering_adds_one_load_format_and_hooks_no_loader(sglang: SimpleNamespace) -> None:
    assert sglang.choices == ["auto", "safetensors", "weightstream"]
    plugin.register()
    assert sglang.choices == ["auto", "safetensors", "weightstream"]
    sglang.LoadConfig("safetensors")
    assert list(sglang.registry.hooks) == ["sglang.srt.configs.load_config.LoadConfig._verify_load_format"]


@pytest.mark.parametrize("threads", [False, True])
def test_weightstream_reads_what_was_asked_of_it(
    sglang: SimpleNamespace, model: tuple[str, dict[str, Raw]], threads: bool
) -> None:
    path, tensors = model
    ours = sglang.DefaultModelLoader(sglang.LoadConfig("WeightStream", '{"concurrency": 2}'))
    others = sglang.DefaultModelLoader(sglang.LoadConfig("safetensors"))
    expected = {f"draft.{name}": tensor for name, tensor in tensors.items()}
    assert_same(ours._get_weights_iterator(path, prefix="draft.", threads=threads), expected)
    [(name, files)] = others._get_weights_iterator(path, threads=threads)
    assert (name.startswith("by SGLang"), files) == (True, [path])


def test_a_reload_has_the_settings_of_the_start(sglang: SimpleNamespace) -> None:
    sglang.LoadConfig("weightstream", {"memory_limit": "1GiB"})
    assert sglang.LoadConfig("weightstream").weightstream.keywords == {"memory_limit": "1GiB"}
    with pytest.raises(ws.ConfigError, match="model_loader_extra_config: weightstream knows no threads; it knows back"):
        sglang.LoadConfig("weightstream", {"threads": 4})


def test_a_loader_that_cannot_be_hooked_is_an_error(sglang: SimpleNamespace) -> None:
    sglang.registry.refused = plugin._LOADER
    with pytest.raises(RuntimeError, match="_get_weights_iterator cannot be hooked"):
        sglang.LoadConfig("weightstream")


def test_hooks_of_another_plug_in_are_an_error(sglang: SimpleNamespace) -> None:
    sglang.registry.register(plugin._LOADER, lambda choose, *args: choose(*args), "around")
    sglang.registry.apply_hooks()
    with pytest.raises(RuntimeError, match=r"another plug-in has hooked .*_get_weights_iterator"):
        sglang.LoadConfig("weightstream")
