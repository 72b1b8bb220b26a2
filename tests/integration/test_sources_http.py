"""https:// and http://: what is requested for a URL, an index and its shards, and where credentials go."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from fetching import get, read, remote

import weightstream as ws
from servers.messages import plain
from servers.s3 import S3Server
from servers.scripted import ScriptedServer
from weightstream.sources import LocalSource, list_files, resolve

INDEX = "model.safetensors.index.json"


pytestmark = pytest.mark.usefixtures("environment")


def index_of(**shards: str) -> bytes:
    return json.dumps({"weight_map": shards}).encode()


def test_a_file() -> None:
    (source,) = resolve("HTTPS://host.test:8443/a%20b/m.safetensors?token=canary#part", {}).sources
    found = remote(source)
    assert found.name == "https://host.test:8443/a%20b/m.safetensors"
    assert found.access.url == "https://host.test:8443/a%20b/m.safetensors?token=canary"
    assert (found.size, found.etag, found.renew, dict(found.access.headers)) == (None, None, None, {})
    assert "canary" not in repr(found)


def test_any_name_is_a_file() -> None:
    (source,) = resolve("https://host.test/download*[1]", {}).sources
    assert source.name == "https://host.test/download*[1]"


def test_files_that_differ_in_their_query_only() -> None:
    urls = [f"https://host.test/get?file={i}" for i in (1, 2, 1)]
    found = resolve(urls, {}).sources
    assert [remote(source).access.url for source in found] == urls[:2]


def test_a_local_file_beside_a_remote_one(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    found = resolve([tmp_path / "a.safetensors", "https://host.test/b.safetensors"], {"headers": {"A": "b"}}).sources
    assert found[0] == LocalSource(str(tmp_path / "a.safetensors"))
    assert remote(found[1]).access.headers == {"A": "b"}
    with pytest.raises(ws.ConfigError, match=r"local files take no storage_options.*headers"):
        resolve(tmp_path / "a.safetensors", {"headers": {"A": "canary"}})


def test_options_of_several_storages() -> None:
    with pytest.raises(ws.ConfigError, match=r"for https://, gs://: region_name; there are .*anonymous"):
        resolve(["https://host.test/b", "gs://b/k"], {"headers": {}, "region_name": "x"})


def test_an_index() -> None:
    objects = {
        f"/m/{INDEX}": index_of(x="b 1+%.safetensors", y="deep/a.safetensors"),
        "/m/b 1+%.safetensors": b"b",
        "/m/deep/a.safetensors": b"a",
    }
    with ScriptedServer(objects) as server:
        found = resolve(f"{server.origin}/m/{INDEX}?token=t", {})
        assert [read(source) for source in found.sources] == [b"b", b"a"]
        assert found.weight_map == {"x": 0, "y": 1}
        assert all(request.query == {"token": "t"} for request in server.requests)
        files = list_files(f"{server.origin}/m/{INDEX}?token=t", {})
        assert {file.key: read(file.source) for file in files} == {key[3:]: data for key, data in objects.items()}


def test_an_index_that_is_signed_for_itself(s3: S3Server) -> None:
    s3.put("models", f"signed/{INDEX}", index_of(x="a.safetensors"))
    s3.put("models", "signed/a.safetensors", b"a")
    with pytest.raises(ws.ConfigError, match=r"the query of this URL is for the index alone.*as a list") as caught:
        resolve(s3.presign("models", f"signed/{INDEX}"), {})
    assert "X-Amz" not in str(caught.value)
    (source,) = resolve([s3.presign("models", "signed/a.safetensors")], {}).sources
    assert read(source) == b"a"


@pytest.mark.parametrize(
    ("query", "works"),
    [
        ("sv=1&sr=c&sig=s", True),
        ("ss=b&srt=o&sig=s", True),
        ("sv=1&sr=b&sig=s", False),
        ("Expires=1&Signature=s&Key-Pair-Id=k", False),
        ("X-Goog-Signature=s", False),
        ("versionId=1", False),
        ("download=true", True),
        ("", True),
    ],
)
def test_which_queries_fetch_shards_too(query: str, works: bool) -> None:
    from weightstream.sources import http as backend

    root, key = backend.split(f"https://host.test/m/{INDEX}?{query}")
    store = backend.connect(root, {})
    if works:
        assert store.sibling(key, "a.safetensors") == "a.safetensors"
    else:
        with pytest.raises(ws.ConfigError, match="for the index alone"):
            store.sibling(key, "a.safetensors")


def test_headers_and_userinfo_are_sent() -> None:
    with ScriptedServer({"/a.safetensors": b"abc"}) as server:
        host = server.origin.partition("://")[2]
        (source,) = resolve(f"http://us%40er:pass%3Aword@{host}/a.safetensors", {"headers": {"X-Token": "t"}}).sources
        found = remote(source)
        assert get(found.access) == b"abc"
        sent = server.requests[0].headers
        assert sent["Authorization"] == "Basic " + base64.b64encode(b"us@er:pass:word").decode()
        assert sent["X-Token"] == "t"
        for shown in (found.name, repr(found), found.access.url):
            assert "pass" not in shown
            assert "us" not in shown.replace("127", "")[:12]


@pytest.mark.parametrize(
    ("location", "settings", "message"),
    [
        ("https://", {}, "not a valid URL"),
        ("https:///path", {}, "not a valid URL"),
        ("https://host:port/a", {}, "not a valid URL"),
        ("https://[broken/a", {}, "not a valid URL"),
        ("https://host/a b", {}, "must be percent-encoded"),
        ("https://host/ü", {}, "must be percent-encoded"),
        ("https://host/a\nb", {}, "must be percent-encoded"),
        ("https://host/m/", {}, "does not list its files"),
        ("https://host", {}, "does not list its files"),
        ("https://u:p@host/a", {"headers": {"authorization": "x"}}, "credentials are in the URL and in"),
        ("https://host/a", {"headers": "x"}, "must be a mapping"),
        ("https://host/a", {"headers": {"a b": "x"}}, "'a b' is not the name of a header"),
        ("https://host/a", {"headers": {"Range": "x"}}, "Range cannot be set"),
        ("https://host/a", {"headers": {"A": "x\r\nB: canary"}}, "value of header A must be text"),
        ("https://host/a", {"headers": {"A": 7}}, "value of header A must be text"),
        ("https://host/a", {"header": {"A": "canary"}}, "unknown storage_options for https://: header"),
        ("http://host/a", {"headers": {"A": "canary"}}, "headers of a request would travel unencrypted"),
        ("http://u:canary@host/a", {}, "would travel unencrypted"),
    ],
)
def test_what_is_wrong_is_said(location: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ws.ConfigError, match=message) as caught:
        resolve(location, settings)
    assert "canary" not in str(caught.value)
    assert "u:p" not in str(caught.value)


def test_plain_http_without_credentials_is_fine() -> None:
    (source,) = resolve("http://host.test/a.safetensors?x=1", {}).sources
    assert remote(source).access.url == "http://host.test/a.safetensors?x=1"


def test_unused_server_answers_nothing() -> None:
    """Resolving a file asks nobody: its first read does."""
    with ScriptedServer(lambda request: plain(200)) as server:
        resolve(f"{server.origin}/a.safetensors", {})
        assert server.requests == []


@pytest.mark.parametrize(
    "query", ["X-Amz-Signature=canary&x=y", "sv=1&sig=canary", "TOKEN=canary", "download=true", ""]
)
def test_signatures_over_plain_http_are_told(query: str, caplog: pytest.LogCaptureFixture) -> None:
    """They go where the URL says, as somebody wrote it so; but whoever listens may use them, too."""
    host = f"host-of-{query.partition('=')[0].lower() or 'nothing'}.test"
    with caplog.at_level(logging.WARNING, "weightstream"):
        for url in (f"https://{host}/a?{query}", f"http://127.0.0.1/a?{query}"):
            resolve(url, {})
        assert caplog.messages == []
        for _ in range(2):
            resolve(f"http://{host}/a?{query}", {})
        told = [f"http://{host}/: a signature or token in the query travels unencrypted"]
        assert caplog.messages == (told if "canary" in query else [])
