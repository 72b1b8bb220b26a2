"""A model from each storage through the whole of weightstream: resolved, signed, read, renewed, equal bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from checkpoints import Raw, assert_same, raw, write_shards
from servers.azurite import KEY, AzureServer
from servers.gcs import GcsServer
from servers.hub import Hub
from servers.messages import Object, plain
from servers.s3 import READER, REGION, S3Server
from servers.scripted import ScriptedServer
from weightstream.sources import LocalSource, RemoteSource, list_files
from weightstream.sources.fetch import fetch

Model = tuple[Path, dict[str, Raw]]
INDEX = "model.safetensors.index.json"


pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Model:
    files = {
        f"model-{i}-of-3.safetensors": {f"w{i}": raw("F32", (700, 1000), i), f"b{i}": raw("BF16", (11,), 100 + i)}
        for i in (1, 2, 3)
    }
    folder = write_shards(tmp_path_factory.mktemp("model") / "llm", files, INDEX)
    (folder / "config.json").write_text("{}")
    return folder, {name: tensor for tensors in files.values() for name, tensor in tensors.items()}


def check(location: Any, settings: dict[str, Any], tensors: dict[str, Raw], places: str) -> None:
    """Streams, lists and reads single tensors of the same location."""
    assert_same(ws.load(location, storage_options=settings), tensors)
    with ws.open(location, storage_options=settings) as checkpoint:
        assert all(path.startswith(places) for path in checkpoint.paths)
        assert_same({"b2": checkpoint.get_tensor("b2")}, {"b2": tensors["b2"]})
    files = {file.key: file for file in list_files(location, settings)}
    assert set(files) == {"config.json", INDEX, *(f"model-{i}-of-3.safetensors" for i in (1, 2, 3))}
    source = files["config.json"].source
    assert isinstance(source, RemoteSource)
    assert fetch(source, 100) == b"{}"


def test_s3(s3: S3Server, sharded: Model) -> None:
    settings = {
        "endpoint_url": s3.endpoint,
        "region_name": REGION,
        "aws_access_key_id": READER.access_key,
        "aws_secret_access_key": READER.secret_key,
    }
    check(s3.upload(sharded[0], "models", "load"), settings, sharded[1], "s3://models/load/")


def test_gcs(gcs: GcsServer, sharded: Model, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint)
    check(gcs.upload(sharded[0], "load"), {}, sharded[1], "gs://models/load/")


def test_azure(azure: AzureServer, sharded: Model) -> None:
    settings = {"account_url": azure.account_url, "account_key": KEY}
    check(azure.upload(sharded[0], "load"), settings, sharded[1], "az://models/load/")


def test_hf(hub: Hub, sharded: Model) -> None:
    hub.commit("org/load", {path.name: path.read_bytes() for path in sharded[0].iterdir()})
    check("hf://org/load", {"endpoint": hub.api.origin}, sharded[1], "hf://org/load/")


def test_http(sharded: Model) -> None:
    objects = {f"/m/{path.name}": path.read_bytes() for path in sharded[0].iterdir()}
    with ScriptedServer(objects) as server:
        location = f"{server.origin}/m/{INDEX}"
        assert_same(ws.load(location, storage_options={"headers": {"X-Token": "t"}}), sharded[1])
        assert all(request.headers["X-Token"] == "t" for request in server.requests)


def test_a_local_shard_beside_remote_ones(hub: Hub, sharded: Model) -> None:
    folder, tensors = sharded
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    hub.commit("org/load", {name: (folder / name).read_bytes() for name in names[1:]})
    with ws.open([folder / names[0], "hf://org/load"], storage_options={"endpoint": hub.api.origin}) as checkpoint:
        assert checkpoint.paths == (str(folder / names[0]), *(f"hf://org/load/{name}" for name in names[1:]))
        assert_same(checkpoint.load(), tensors)


def test_what_the_cache_of_the_hub_has_is_read_from_there(hub: Hub, sharded: Model, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    hub.commit("org/load", {path.name: path.read_bytes() for path in sharded[0].iterdir()})
    snapshot_download("org/load", endpoint=hub.api.origin, cache_dir=tmp_path / "cache")
    settings = {"endpoint": hub.api.origin, "cache_dir": tmp_path / "cache"}
    assert all(isinstance(file.source, LocalSource) for file in list_files("hf://org/load", settings))
    asked = len(hub.cdn.requests)
    assert_same(ws.load("hf://org/load", storage_options=settings), sharded[1])
    assert len(hub.cdn.requests) == asked


def test_an_index_that_is_larger_than_a_head(sharded: Model) -> None:
    folder, tensors = sharded
    index = json.loads((folder / INDEX).read_text())
    index["metadata"] = {"padding": "x" * (10 << 20)}
    objects = {f"/m/{path.name}": path.read_bytes() for path in folder.glob("*.safetensors")}
    objects[f"/m/{INDEX}"] = json.dumps(index).encode()
    with ScriptedServer(objects) as server:
        assert_same(ws.load(f"{server.origin}/m/{INDEX}"), tensors)


class Revocable:
    """A server of Google's kind, whose tokens work until the next one is made."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.objects = {name: Object(data, etag=f'"{name}"') for name, data in files.items()}
        self.token = 1
        self.refused = 0

    def __call__(self, request: Any) -> Any:
        if request.headers["Authorization"] != f"Bearer token{self.token}":
            self.refused += 1
            return plain(401, "")
        name = request.path.partition("/o/")[2]
        if not name:
            items = [{"name": key, "size": str(len(one.data)), "generation": "1"} for key, one in self.objects.items()]
            return plain(200, json.dumps({"items": items}), {"Content-Type": "application/json"})
        return self.objects[name].answer(request)


def test_access_that_ends_is_renewed_while_it_is_read(sharded: Model) -> None:
    pytest.importorskip("google.auth")
    from google.auth.credentials import Credentials

    folder, tensors = sharded
    service = Revocable({path.name: path.read_bytes() for path in folder.iterdir()})

    class Mine(Credentials):  # type: ignore[misc]
        made = 0

        def refresh(self, request: Any) -> None:
            Mine.made += 1
            self.token = f"token{service.token}"

    with ScriptedServer(service) as server:
        settings = {"endpoint_url": server.origin, "credentials": Mine()}
        with ws.open("gs://b", storage_options=settings) as checkpoint:
            assert Mine.made == 1
            service.token += 1  # the one that it has is void now
            assert_same(checkpoint.load(), tensors)
            assert service.refused > 0
            # Each object asks for itself, but only once.
            assert 2 <= Mine.made <= 1 + len(checkpoint.paths)


def test_a_renewal_that_fails_says_why(sharded: Model) -> None:
    from google.auth.credentials import Credentials
    from google.auth.exceptions import RefreshError

    folder, _ = sharded
    service = Revocable({path.name: path.read_bytes() for path in folder.iterdir()})

    class Mine(Credentials):  # type: ignore[misc]
        def refresh(self, request: Any) -> None:
            if service.token > 1:
                raise RefreshError("canarySecret")
            self.token = "token1"

    with ScriptedServer(service) as server:
        settings = {"endpoint_url": server.origin, "credentials": Mine()}
        with ws.open("gs://b", storage_options=settings) as checkpoint:
            service.token += 1
            with pytest.raises(ws.AuthError, match=r"Google refused to renew the credentials") as caught:
                checkpoint.load()
            assert "canarySecret" not in str(caught.value)
            assert (caught.value.source or "").startswith("gs://b/model-")
