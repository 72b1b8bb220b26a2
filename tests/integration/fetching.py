"""Reading what the control plane hands over as any HTTP client would: by the URL and the headers, and nothing else."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import pytest

from weightstream.sources import Access, LocalSource, RemoteSource, Source

CREDENTIALS = ("AWS_", "AZURE_", "GOOGLE_", "HF_", "STORAGE_EMULATOR")
SHARDS = [f"model-{i}-of-3.safetensors" for i in (1, 2, 3)]
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


@contextmanager
def clean_environment(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """No credentials, endpoints and certificates of whoever runs the tests, and an empty home."""
    import os

    with pytest.MonkeyPatch.context() as patch:
        for variable in list(os.environ):
            if variable.startswith(CREDENTIALS) or variable in BUNDLES or variable.lower().endswith("_proxy"):
                patch.delenv(variable)
        patch.setenv("HOME", str(folder))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("NO_GCE_CHECK", "true")
        yield patch


def get(access: Access, bundle: str | None = None) -> bytes:
    """The body; raises urllib's HTTPError for a refusal."""
    context = ssl.create_default_context(cafile=bundle)
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
    with opener.open(Request(access.url, headers=dict(access.headers)), timeout=30) as response:
        return bytes(response.read())


def read(source: Source) -> bytes:
    """All bytes of a source."""
    if isinstance(source, LocalSource):
        return Path(source.path).read_bytes()
    return get(source.access)


def remote(source: Any) -> RemoteSource:
    """The same source, which must be remote."""
    assert isinstance(source, RemoteSource)
    return source


def model(folder: Path, *, index: bool = True) -> dict[str, bytes]:
    """Files of a sharded model, SHARDS among them, with contents of no meaning; written to the folder."""
    files = {name: bytes([i]) * (1000 + i) for i, name in enumerate(SHARDS, 1)}
    files |= {"config.json": b"{}", "tokenizer/vocab with blank+plus.txt": b"a b"}
    if index:
        weight_map = {f"t{i}": f"model-{i}-of-3.safetensors" for i in (3, 2, 1)}
        files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return files
