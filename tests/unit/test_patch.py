"""patch_safetensors: every module that has bound safe_open gets weightstream's, and gets back what it had."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

import weightstream as ws
import weightstream.safetensors
from processes import run

ORIGINAL = (safetensors.safe_open,)  # in a tuple: this module is searched as well
LOAD_FILE = safetensors.torch.load_file
Saved = tuple[Path, dict[str, torch.Tensor]]


def module(name: str, source: str) -> types.ModuleType:
    made = types.ModuleType(name)
    exec(source, vars(made))
    sys.modules[name] = made
    return made


@pytest.fixture
def program() -> Iterator[types.ModuleType]:
    """A program that was imported before the patch."""
    yield module("a_program", "from safetensors import safe_open as opener\nfrom safetensors.torch import load_file")
    sys.modules.pop("a_program")
    sys.modules.pop("imported_later", None)


def is_ours(opener: object) -> bool:
    return isinstance(opener, type) and issubclass(opener, weightstream.safetensors.safe_open)


def everywhere() -> list[object]:
    return [safetensors.safe_open, safetensors.torch.safe_open, safetensors.numpy.safe_open]


def test_what_is_bound_is_replaced_and_comes_back(program: types.ModuleType) -> None:
    with ws.patch_safetensors():
        assert all(map(is_ours, everywhere()))
        assert is_ours(program.opener)
    assert [*everywhere(), program.opener] == [*ORIGINAL] * 4


def test_a_patch_for_good_until_it_is_undone(program: types.ModuleType) -> None:
    patch = ws.patch_safetensors()
    assert is_ours(program.opener)
    patch.undo()
    patch.undo()
    assert [*everywhere(), program.opener] == [*ORIGINAL] * 4


def test_modules_that_are_imported_meanwhile_get_back_the_original(program: types.ModuleType) -> None:
    with ws.patch_safetensors():
        later = module("imported_later", "from safetensors import safe_open")
        assert is_ours(later.safe_open)
    assert later.safe_open is ORIGINAL[0]


def test_who_means_weightstream_keeps_it(program: types.ModuleType) -> None:
    with ws.patch_safetensors():
        later = module("imported_later", "from weightstream.safetensors import safe_open")
    assert later.safe_open is weightstream.safetensors.safe_open


def test_patches_nest(program: types.ModuleType) -> None:
    outer, inner = ws.patch_safetensors(), ws.patch_safetensors()
    outer.undo()
    outer.undo()
    assert is_ours(program.opener)
    inner.undo()
    assert program.opener is ORIGINAL[0]


def test_an_error_inside_undoes_it(program: types.ModuleType) -> None:
    with pytest.raises(ZeroDivisionError), ws.patch_safetensors():
        1 / 0  # noqa: B018
    assert [*everywhere(), program.opener] == [*ORIGINAL] * 4


def test_the_functions_that_call_it_read_by_weightstream(
    saved: Saved, program: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tensors = saved
    opened = []
    original = weightstream.safetensors._open.Reader.__init__
    monkeypatch.setattr(
        weightstream.safetensors._open.Reader,
        "__init__",
        lambda self, location, *rest: (opened.append(location), original(self, location, *rest))[1],
    )
    with ws.patch_safetensors():
        for load in (program.load_file, safetensors.torch.load_file, LOAD_FILE):
            loaded = load(path)
            assert sorted(loaded) == sorted(tensors)
            assert torch.equal(loaded["big"], tensors["big"])
        with program.opener(path, framework="pt") as handle:
            assert isinstance(handle, safetensors.safe_open)
            assert torch.equal(handle.get_tensor("big"), tensors["big"])
        model = torch.nn.Module()
        for name, tensor in tensors.items():
            if "." not in name:
                model.register_buffer(name, torch.zeros_like(tensor))
        missing, unexpected = safetensors.torch.load_model(model, path, strict=False)
        assert not missing
        assert set(unexpected) == {name for name in tensors if "." in name}
    assert opened == [str(path)] * 5
    program.load_file(path)
    assert len(opened) == 5


def test_frameworks_that_weightstream_does_not_have_still_work(saved: Saved, program: types.ModuleType) -> None:
    with ws.patch_safetensors():
        assert type(program.opener(saved[0], framework="tf")) is ORIGINAL[0]


def test_modules_are_not_made_to_import_anything(program: types.ModuleType) -> None:
    lazy = module("imported_later", "def __getattr__(name):\n    raise AssertionError(name)")
    with ws.patch_safetensors():
        pass
    assert "safe_open" not in vars(lazy)


def test_threads_that_patch_at_once(program: types.ModuleType) -> None:
    def patch() -> None:
        for _ in range(5):
            with ws.patch_safetensors():
                assert is_ours(program.opener)

    threads = [threading.Thread(target=patch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [*everywhere(), program.opener] == [*ORIGINAL] * 4


def test_importing_weightstream_imports_nothing_of_it() -> None:
    program = """
        import weightstream
        assert "patch_safetensors" in weightstream.__all__ and "patch_safetensors" in dir(weightstream)
        assert not {"safetensors", "torch", "weightstream._patch"} & set(sys.modules)
        weightstream.patch_safetensors
        print("torch" in sys.modules)
    """
    assert run(program).strip() == "False"


def test_without_the_safetensors_package(tmp_path: Path) -> None:
    program = """
        sys.modules["safetensors"] = None
        import weightstream as ws
        try:
            import weightstream.safetensors
        except ModuleNotFoundError as error:
            print(error, error.name)
        try:
            ws.patch_safetensors()
        except ModuleNotFoundError as error:
            print(error)
    """
    said = run(program).splitlines()
    assert said[0] == (
        "weightstream.safetensors needs the package safetensors: pip install 'weightstream[safetensors]' safetensors"
    )
    assert "safetensors" in said[1]
