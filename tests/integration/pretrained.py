"""Models for the tests of `from_pretrained`, the places that they are loaded from, and comparing what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from servers.hub import Hub
from servers.nginx import NginxServer
from servers.s3 import READER, REGION, S3Server

PLACES = ("mapped", "read", "s3", "http", "hub")


@dataclass(frozen=True)
class Place:
    """Where a model lies."""

    location: str
    storage_options: dict[str, Any] = field(default_factory=dict)


Put = Callable[[Path], Place]


def put_into(place: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Put:
    """What puts a folder into a place of PLACES. "mapped" and "read" are both local: the page cache, or past it."""
    if place == "mapped":
        return lambda folder: Place(str(folder))
    if place == "read":
        monkeypatch.setenv("WEIGHTSTREAM_BACKEND", "pread")
        return lambda folder: Place(str(folder))
    request.getfixturevalue("environment")
    if place == "s3":
        s3: S3Server = request.getfixturevalue("s3")
        keys = {"aws_access_key_id": READER.access_key, "aws_secret_access_key": READER.secret_key}
        options = {"endpoint_url": s3.endpoint, "region_name": REGION, **keys}
        return lambda folder: Place(s3.upload(folder, "models", f"pretrained/{folder.name}"), options)
    if place == "http":
        nginx: NginxServer = request.getfixturevalue("nginx")

        def serve(folder: Path) -> Place:
            served = nginx.root / folder.name
            if not served.exists():
                served.symlink_to(folder)
            return Place(f"{nginx.http}/{folder.name}")

        return serve
    hub: Hub = request.getfixturevalue("hub")

    def commit(folder: Path) -> Place:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        hub.commit("org/model", {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths})
        return Place("hf://org/model", {"endpoint": hub.api.origin})

    return commit


def assert_same_state(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Both have the same class, and the same tensors, bit by bit."""
    assert type(ours) is type(theirs)
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys()
    assert [name for name in other if mine[name].dtype != other[name].dtype] == []
    assert [name for name in other if not torch.equal(mine[name], other[name])] == []


def train(model: Any, **batch: torch.Tensor) -> None:
    """One step."""
    torch.manual_seed(3)  # dropout
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    output = model(**batch)
    loss = getattr(output, "loss", None)
    (output[0].float().square().mean() if loss is None else loss).backward()
    optimizer.step()
    model.eval()


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder by their names."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
