"""Files of local locations, as they are listed for copying; and remote locations without the package that they need."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from processes import run
from weightstream.sources import LocalSource, list_files, resolve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "deep").mkdir(parents=True)
    for name, size in {"a.safetensors": 3, "config.json": 2, "deep/b.txt": 1}.items():
        (made / name).write_bytes(bytes(size))
    return made


def listed(location: Any) -> dict[str, int | None]:
    files = list_files(location, {})
    for file in files:
        assert isinstance(file.source, LocalSource)
        assert os.path.getsize(file.source.path) == file.size
    return {file.key: file.size for file in files}


def test_a_directory(folder: Path) -> None:
    for location in (folder, f"{folder}/", f"file://{folder}"):
        assert listed(location) == {"a.safetensors": 3, "config.json": 2, "deep/b.txt": 1}


def test_a_file_and_a_glob(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert listed(folder / "deep" / "b.txt") == {"b.txt": 1}
    assert listed(folder / "*.json") == {"config.json": 2}
    assert listed(f"{folder}/**/*.t?t") == {"deep/b.txt": 1}
    monkeypatch.chdir(folder)
    assert listed("a.safetensors") == {"a.safetensors": 3}
    assert listed("d*/b.txt") == {"deep/b.txt": 1}


def test_several_locations(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert listed([folder / "a.safetensors", tmp_path / "config.json"]) == {"a.safetensors": 3, "config.json": 0}
    with pytest.raises(ws.ConfigError, match=r"two of the locations have a file 'config\.json'"):
        listed([folder, tmp_path / "config.json"])


def test_nothing_there(folder: Path) -> None:
    for location in (folder / "none", folder / "none*"):
        with pytest.raises(ws.NotFoundError) as caught:
            listed(location)
        assert caught.value.source == str(location)


def test_what_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with pytest.raises(ws.ConfigError, match="not a regular file"):
        listed(folder)
    (folder / "fifo").unlink()
    (folder / "link").symlink_to("nowhere")
    with pytest.raises(ws.NotFoundError) as caught:
        listed(folder)
    assert caught.value.source == str(folder / "link")


def test_links_to_folders_are_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").touch()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "circle").symlink_to(folder)
    assert set(listed(folder)) == {"a.safetensors", "config.json", "deep/b.txt"}


@pytest.mark.parametrize(
    ("location", "module", "package", "extra"),
    [
        ("s3://b/k", "boto3", "boto3", "s3"),
        ("s3://b/k", "botocore", "botocore", "s3"),
        ("gs://b/k", "requests", "requests", "gcs"),
        ("gs://b/k", "google", "google-auth", "gcs"),
        ("gs://b/k", "google.auth", "google-auth", "gcs"),
        ("az://c/k", "azure", "azure-storage-blob", "azure"),
        ("az://c/k", "azure.storage", "azure-storage-blob", "azure"),
        ("az://c@account.blob.core.windows.net/k", "azure.identity", "azure-identity", "azure"),
        ("hf://o/m", "huggingface_hub", "huggingface_hub", "hf"),
    ],
)
def test_a_package_that_is_not_installed(location: str, module: str, package: str, extra: str) -> None:
    program = """
        location, missing = sys.argv[1:]

        class Missing:
            def find_spec(self, name, path=None, target=None):
                if f"{name}.".startswith(f"{missing}."):
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, Missing())
        import weightstream as ws
        try:
            ws.open(location)
        except ws.ConfigError as error:
            print(error)
    """
    said = run(program, location, module)
    assert f"{location.partition(':')[0]}:// needs the package {package}: pip install 'weightstream[{extra}]'" in said


def test_every_extra_is_declared() -> None:
    import importlib.metadata

    extras = importlib.metadata.metadata("weightstream").get_all("Provides-Extra") or []
    assert {"s3", "gcs", "azure", "hf", "all"} <= set(extras)


def test_resolving_a_local_path_takes_no_sdk(folder: Path) -> None:
    program = """
        import weightstream as ws
        from weightstream.sources import resolve
        resolve([sys.argv[1] + "/a.safetensors", "https://host.test/b.safetensors"], {})
        print(sorted({name.partition(".")[0] for name in sys.modules} & {"boto3", "google", "azure", "requests",
                                                                         "huggingface_hub", "torch", "numpy"}))
    """
    assert run(program, str(folder)).strip() == "[]"


def test_options_for_local_files() -> None:
    with pytest.raises(ws.ConfigError, match="take no storage_options, but these were given: key, http") as caught:
        resolve("a.safetensors", {"key": "canary", "http": {}})
    assert "canary" not in str(caught.value)
