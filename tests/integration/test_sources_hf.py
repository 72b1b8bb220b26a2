"""hf:// against a Hub with a CDN: one commit for all files, signed addresses, tokens, gates, and the cache."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fetching import SHARDS, get, model, read, remote

import weightstream as ws
from servers.certificates import Authority
from servers.hub import TOKEN, Hub
from servers.messages import plain
from servers.programs import free_ports
from servers.scripted import ScriptedServer
from weightstream.sources import LocalSource, list_files, resolve

REPO = "org/llm"


@pytest.fixture(autouse=True)
def environment(environment: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """The package reads its environment once, when it is imported."""
    import huggingface_hub
    from huggingface_hub import constants

    environment.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    environment.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    yield environment
    # As versions before 1.0 called it.
    close = getattr(huggingface_hub, "close_session", None) or huggingface_hub.utils.reset_sessions
    close()


@pytest.fixture
def files(hub: Hub, tmp_path: Path) -> dict[str, bytes]:
    made = model(tmp_path / "model")
    hub.commit(REPO, made)
    return made


def options(hub: Hub, **more: Any) -> dict[str, Any]:
    return {"endpoint": hub.api.origin, **more}


def test_a_repository_by_its_index(hub: Hub, files: dict[str, bytes]) -> None:
    found = resolve(f"hf://{REPO}", options(hub))
    assert [source.name for source in found.sources] == [f"hf://{REPO}/{name}" for name in SHARDS]
    assert found.weight_map == {"t1": 0, "t2": 1, "t3": 2}
    for source, name in zip(found.sources, SHARDS, strict=True):
        assert read(source) == files[name]
        assert remote(source).size == len(files[name])
        assert remote(source).access.url.startswith(hub.cdn.origin)
        assert remote(source).access.redirected_by == hub.api.origin  # the core follows no more than of any redirect
        assert remote(source).access.expires_at == pytest.approx(time.time() + 3600, abs=60)
        assert "Signature" not in repr(source)


def test_all_files(hub: Hub, files: dict[str, bytes]) -> None:
    listed = list_files(f"hf://{REPO}", options(hub))
    assert {file.key: read(file.source) for file in listed} == files
    assert {file.key: file.size for file in listed} == {name: len(data) for name, data in files.items()}
    (file,) = list_files(f"hf://{REPO}/tokenizer", options(hub))
    assert file.key == "vocab with blank+plus.txt"


@pytest.mark.parametrize("location", [f"hf://{REPO}/model-*.safetensors", f"hf://{REPO}@main/**/model-[1-3]*"])
def test_a_glob(hub: Hub, files: dict[str, bytes], location: str) -> None:
    assert [read(source) for source in resolve(location, options(hub)).sources] == [files[name] for name in SHARDS]


def test_all_files_are_of_one_commit(hub: Hub, files: dict[str, bytes]) -> None:
    first = hub.commit(REPO, {"model.safetensors": b"old"})
    hub.commit(REPO, {"model.safetensors": b"new!"})
    hub.commit(REPO, {"model.safetensors": b"other"}, branch="dev")

    def content(revision: str) -> bytes:
        return read(resolve(f"hf://{REPO}{revision}/model.safetensors", options(hub)).sources[0])

    assert content("") == content("@main") == b"new!"
    assert content(f"@{first}") == b"old"
    assert content("@dev") == b"other"
    for revision in ("@refs/pr/1", "@refs%2Fpr%2F1"):
        with pytest.raises(ws.NotFoundError, match="no such revision"):
            content(revision)
        assert "/revision/refs%2Fpr%2F1" in hub.api.requests[-1].target
    source = remote(resolve(f"hf://{REPO}", options(hub)).sources[0])
    hub.commit(REPO, {"model.safetensors": b"newer still"})
    assert source.renew is not None
    assert get(source.renew()) == b"new!"  # also when it is asked again


def test_an_address_that_ended_is_made_anew() -> None:
    from urllib.error import HTTPError

    with Hub(signed_for=-2) as hub:
        hub.commit(REPO, {"model.safetensors": b"abc"})
        source = remote(resolve(f"hf://{REPO}", options(hub)).sources[0])
        with pytest.raises(HTTPError) as caught:
            get(source.access)
        assert caught.value.code in (401, 403)
        caught.value.close()
        hub.signed_for = 3600
        assert source.renew is not None
        assert get(source.renew()) == b"abc"


@pytest.mark.parametrize("way", ["option", "variable"])
def test_a_private_repository(hub: Hub, environment: pytest.MonkeyPatch, way: str) -> None:
    hub.commit(REPO, {"model.safetensors": b"abc", "config.json": b"{}"}, private=True)
    with pytest.raises(ws.NotFoundError, match=r"no such repository, or it is private.*hf auth login.*HF_TOKEN"):
        resolve(f"hf://{REPO}", options(hub))
    settings = options(hub)
    if way == "option":
        settings["token"] = TOKEN
    else:
        environment.setenv("HF_TOKEN", TOKEN)
    (source,) = resolve(f"hf://{REPO}", settings).sources
    assert get(remote(source).access) == b"abc"
    assert dict(remote(source).access.headers) == {}  # the CDN is another origin: the token is the Hub's
    (small,) = resolve(f"hf://{REPO}/config.json", settings).sources
    assert dict(remote(small).access.headers) == {"authorization": f"Bearer {TOKEN}"}
    assert get(remote(small).access) == b"{}"
    assert TOKEN not in repr(small)


def test_a_gated_repository(hub: Hub) -> None:
    hub.commit(REPO, {"model.safetensors": b"abc"}, gated=True)
    with pytest.raises(ws.AuthError, match=rf"gated; accept its terms at {hub.api.origin}/{REPO} and log in") as caught:
        resolve(f"hf://{REPO}@main", options(hub, token=TOKEN))
    assert caught.value.service_code == "GatedRepo"
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "settings", "error", "message"),
    [
        ("hf://org/none", {"token": TOKEN}, ws.NotFoundError, "no such repository"),
        (f"hf://{REPO}@none", {}, ws.NotFoundError, "no such revision of the repository; check what stands after '@'"),
        (f"hf://{REPO}/none.safetensors", {}, ws.NotFoundError, "no such file in the repository"),
        (f"hf://{REPO}/none/", {}, ws.NotFoundError, "nothing with this prefix"),
        (f"hf://{REPO}/x*", {}, ws.NotFoundError, "no file matches"),
        (f"hf://{REPO}", {"token": "hf_canary"}, ws.WeightstreamError, "hf auth login"),
        ("hf://org", {}, ws.NotFoundError, "of the form hf://org/model, .*: is the model's name missing?"),
        ("hf://", {}, ws.ConfigError, "hf://org/model@revision"),
        ("hf://org/m d", {}, ws.ConfigError, "hf://org/model@revision"),
        ("hf://org/model@", {}, ws.ConfigError, "the revision is empty"),
        ("hf://org/model/../x", {}, ws.ConfigError, "write it out"),
        ("hf://org--x/..model", {}, ws.ConfigError, "hf://org/model@revision"),
        (f"hf://{REPO}", {"revision": "x"}, ws.ConfigError, "unknown storage_options for hf://: revision"),
    ],
)
def test_what_is_wrong_is_said(
    hub: Hub,
    files: dict[str, bytes],
    location: str,
    settings: dict[str, Any],
    error: type[ws.WeightstreamError],
    message: str,
) -> None:
    since = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        resolve(location, options(hub, **settings))
    assert time.monotonic() - since < 30
    assert "canary" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [("http://127.0.0.1:{free}", "refused the connection"), ("https://no-such-host.invalid", "cannot be resolved")],
)
def test_a_hub_that_cannot_be_reached(endpoint: str, message: str) -> None:
    since = time.monotonic()
    with pytest.raises(ws.ServerError, match=message):
        resolve(f"hf://{REPO}", {"endpoint": endpoint.format(free=free_ports(1)[0])})
    assert time.monotonic() - since < 30


def test_an_endpoint_without_a_scheme(environment: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with pytest.raises(ws.ConfigError, match=r"\['endpoint'\] must begin with https:// or http://, not 'hub.test'"):
        resolve(f"hf://{REPO}", {"endpoint": "hub.test/"})
    environment.setattr(constants, "ENDPOINT", "127.0.0.1:80")
    with pytest.raises(ws.ConfigError, match=r"HF_ENDPOINT must begin with https:// or http://, not '127\.0"):
        resolve(f"hf://{REPO}", {})


def test_a_hub_of_a_private_ca(authority: Authority, environment: pytest.MonkeyPatch) -> None:
    """The package that asks the Hub has one client for the whole process: the message says how that is told."""
    import huggingface_hub

    def answer(request: Any) -> Any:
        return plain(404, "{}", {"X-Error-Code": "RepoNotFound"})

    with ScriptedServer(answer, tls=authority.context()) as server:
        settings = {"endpoint": server.origin, "verify": str(authority.bundle)}
        with pytest.raises(ws.ServerError, match="certificate is not trusted; set SSL_CERT_FILE to its CA bundle"):
            resolve(f"hf://{REPO}", settings)
        assert server.requests == []
        huggingface_hub.close_session()  # as if the program started anew
        environment.setenv("SSL_CERT_FILE", str(authority.bundle))
        with pytest.raises(ws.NotFoundError, match="no such repository"):
            resolve(f"hf://{REPO}", {"endpoint": server.origin})


def test_a_hub_that_leads_out_of_tls(authority: Authority, environment: pytest.MonkeyPatch) -> None:
    """Where its files are is said by a redirect, which the package asks for and the core is to follow."""
    import huggingface_hub

    def answer(request: Any) -> Any:
        if "/resolve/" in request.path:
            return plain(302, "", {"Location": cdn.url(), "X-Linked-Size": "3", "X-Repo-Commit": "a" * 40})
        return plain(200, json.dumps({"id": REPO, "sha": "a" * 40}), {"Content-Type": "application/json"})

    with ScriptedServer(b"abc") as cdn, ScriptedServer(answer, tls=authority.context()) as server:
        huggingface_hub.close_session()  # as if the program started anew
        environment.setenv("SSL_CERT_FILE", str(authority.bundle))
        with pytest.raises(ws.ProtocolError, match="redirects from https to plain http; this is not followed"):
            ws.load(f"hf://{REPO}/model.safetensors", framework="numpy", storage_options={"endpoint": server.origin})
        assert cdn.requests == []


def test_a_token_does_not_go_unencrypted() -> None:
    with pytest.raises(ws.ConfigError, match=r"the Hub's token.*unencrypted.*allow_plain_http"):
        resolve(f"hf://{REPO}", {"endpoint": "http://hub.example", "token": TOKEN})


def test_what_the_cache_has_is_read_from_there(hub: Hub, files: dict[str, bytes], tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    cache = tmp_path / "other cache"
    for name in (SHARDS[1], "model.safetensors.index.json"):
        hf_hub_download(REPO, name, endpoint=hub.api.origin, cache_dir=cache)
    found = resolve(f"hf://{REPO}", options(hub, cache_dir=str(cache)))
    assert [type(source) for source in found.sources][1] is LocalSource
    assert [isinstance(source, LocalSource) for source in found.sources] == [False, True, False]
    assert [read(source) for source in found.sources] == [files[name] for name in SHARDS]


def test_offline(hub: Hub, files: dict[str, bytes], environment: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants, snapshot_download

    snapshot_download(REPO, endpoint=hub.api.origin, allow_patterns=["model*"])
    environment.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.api.requests)
    found = resolve(f"hf://{REPO}", {})
    assert [read(source) for source in found.sources] == [files[name] for name in SHARDS]
    assert found.weight_map == {"t1": 0, "t2": 1, "t3": 2}
    assert {file.key for file in list_files(f"hf://{REPO}", {})} == {*SHARDS, "model.safetensors.index.json"}
    with pytest.raises(ws.NotFoundError, match=r"cache has no such file, and HF_HUB_OFFLINE is set"):
        resolve(f"hf://{REPO}/other.safetensors", {})
    with pytest.raises(ws.NotFoundError, match=r"cache has nothing of it, and HF_HUB_OFFLINE is set"):
        resolve("hf://org/other", {})
    assert len(hub.api.requests) == asked


@pytest.mark.parametrize(
    ("location", "root", "key"),
    [
        ("hf://org/m", "model/org/m@", ""),
        ("hf://org/m/", "model/org/m@", ""),
        ("hf://org/m/a/b.safetensors", "model/org/m@", "a/b.safetensors"),
        ("hf://org/m@v1.0", "model/org/m@v1.0", ""),
        ("hf://org/m@refs/pr/12/a", "model/org/m@refs/pr/12", "a"),
        ("hf://org/m@refs/convert/parquet", "model/org/m@refs/convert/parquet", ""),
        ("hf://org/m@a%2Fb/c@d", "model/org/m@a/b", "c@d"),
        ("hf://org/m/c@d", "model/org/m@", "c@d"),
        ("hf://gpt2", "model/gpt2@", ""),
        ("hf://gpt2@main/model.safetensors", "model/gpt2@main", "model.safetensors"),
        ("hf://gpt2/model.safetensors", "model/gpt2@", "model.safetensors"),
        ("hf://datasets/org/d/x", "dataset/org/d@", "x"),
        ("hf://models/org/m", "model/org/m@", ""),
    ],
)
def test_forms_of_a_location(location: str, root: str, key: str) -> None:
    from weightstream.sources import hf

    assert hf.split(location) == (root, key)


def test_contents_of_an_index_are_checked(hub: Hub) -> None:
    index = json.dumps({"weight_map": {"x": "../secret.safetensors"}}).encode()
    hub.commit(REPO, {"model.safetensors.index.json": index})
    with pytest.raises(ws.FormatError, match=r"has '\.\.'"):
        resolve(f"hf://{REPO}", options(hub))
