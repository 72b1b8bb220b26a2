"""The public surface: what `weightstream.__all__` lists, all of it documented, and an import that stays light."""

from __future__ import annotations

import inspect
import json
import re
import types
from pathlib import Path

import pytest

import weightstream as ws
from processes import run

PUBLIC = sorted(ws.__all__)


def test_all_is_exactly_the_public_surface() -> None:
    found = {
        name for name, value in vars(ws).items() if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert found | {"__version__"} | set(ws._LATE) == set(ws.__all__)
    assert len(set(ws.__all__)) == len(ws.__all__)


def test_modules_are_private_or_documented_packages() -> None:
    modules = {name for name, value in vars(ws).items() if isinstance(value, types.ModuleType)}
    public = {name for name in modules if not name.startswith("_")}
    assert public <= {"cli", "frameworks", "integrations", "runai", "safetensors", "sources"}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_a_docstring(name: str) -> None:
    value = getattr(ws, name)
    if name == "__version__":
        assert value.count(".") == 2
        return
    assert inspect.getdoc(value)
    if not inspect.isclass(value):
        return
    for member, what in vars(value).items():
        if not member.startswith("_") and (inspect.isfunction(what) or isinstance(what, (property, classmethod))):
            assert inspect.getdoc(what), f"{name}.{member} has no docstring"


def test_the_functions_that_raise_say_what() -> None:
    for function in (ws.open, ws.stream):
        assert "Raises:" in (function.__doc__ or "")
        assert "Example:" in (function.__doc__ or "")


def test_import_takes_no_framework_and_no_sdk() -> None:
    loaded = json.loads(run("import weightstream, json; print(json.dumps(sorted(sys.modules)))"))
    heavy = {"torch", "numpy", "ml_dtypes", "safetensors", "boto3", "google", "azure", "huggingface_hub"}
    also_late = {"rich", "click", "asyncio", "urllib.request"}
    assert (heavy | also_late) & {module for name in loaded for module in (name, name.split(".")[0])} == set()


@pytest.mark.parametrize(("part", "importers"), [("cli", ["__main__.py"]), ("_doctor", [])])
def test_nobody_but_the_command_imports_what_is_the_commands(part: str, importers: list[str]) -> None:
    package = Path(ws.__path__[0])
    modules = [path for path in package.rglob("*.py") if not {"cli", part} & set(path.relative_to(package).parts)]
    assert len(modules) > 10
    imports = re.compile(rf"^\s*(from \S*\b{part}\b|from \S+ import .*\b{part}\b|import \S*\b{part}\b)", re.MULTILINE)
    assert [path.name for path in modules if imports.search(path.read_text())] == importers


def test_numpy_framework_takes_no_torch(tmp_path: object, saved: tuple[object, object]) -> None:
    program = """
        import weightstream as ws
        weights = ws.load(sys.argv[1], framework="numpy")
        assert "numpy" in sys.modules and "torch" not in sys.modules
        print(len(weights))
    """
    assert int(run(program, saved[0])) > 0
