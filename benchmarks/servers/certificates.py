"""A certificate authority of its own, and a certificate that it signed, by the program openssl."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers.base import ServerError

_DAYS = "2"
_EXTENSIONS = """
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:{address}, DNS:localhost
"""


@dataclass(frozen=True)
class Certificates:
    """PEM files."""

    ca: Path
    certificate: Path
    key: Path


def make_certificates(folder: Path, address: str) -> Certificates:
    """Make a CA and a server certificate for `address`, P-256 both.

    Raises ServerError where openssl is missing or refuses.
    """
    if not shutil.which("openssl"):
        raise ServerError("the program openssl is not installed")

    def openssl(*arguments: str | Path) -> None:
        command = ["openssl", *(str(argument) for argument in arguments)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise ServerError(f"openssl {arguments[0]}: {done.stderr.strip()}")

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    subject = ("-subj", "/CN=benchmark CA")
    authority = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", _DAYS, *subject, *authority)
    (folder / "extensions").write_text(_EXTENSIONS.format(address=address))
    openssl("req", *new_key, "-keyout", "server.key", "-out", "server.request", "-subj", f"/CN={address}")
    signer = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", _DAYS, "-extfile", "extensions")
    openssl("x509", "-req", "-in", "server.request", "-out", "server.pem", *signer)
    return Certificates(ca=folder / "ca.pem", certificate=folder / "server.pem", key=folder / "server.key")
