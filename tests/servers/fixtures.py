"""The servers as pytest fixtures. Programs run once a session, and only when a test wants them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from checkpoints import raw
from servers.azurite import AzureServer, azure_server
from servers.certificates import Authority, make_authority
from servers.gcs import GcsServer, gcs_server
from servers.hub import Hub
from servers.loads import Model
from servers.nginx import NginxServer, nginx_server
from servers.s3 import S3Server, s3_server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS, with an empty bucket "models"."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """Azurite."""
    with azure_server(tmp_path_factory.mktemp("azure")) as server:
        yield server


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    """fake-gcs-server, with an empty bucket "models"."""
    with gcs_server(tmp_path_factory.mktemp("gcs")) as server:
        yield server


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A private CA, which only who is told of it trusts."""
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[NginxServer]:
    """nginx, of an empty folder."""
    with nginx_server(tmp_path_factory.mktemp("nginx"), authority) as server:
        yield server


@pytest.fixture(scope="session")
def remote_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """3 MB in tensors of odd sizes: more than the first read of a source brings, small enough for a test each."""
    tensors = {f"t{i:02}": raw("U8", (1 + 61_003 * (1 + i % 9),), i) for i in range(11)}
    return Model.of(tmp_path_factory.mktemp("remote"), tensors)


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub without repositories."""
    with Hub() as server:
        yield server
