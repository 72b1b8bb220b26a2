"""A private certificate authority, made anew for each run."""

from __future__ import annotations

import datetime
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Authority:
    """A CA and a certificate of it for localhost, 127.0.0.1 and 127.0.0.2, as PEM files."""

    bundle: Path
    chain: Path
    key: Path

    def hashed(self, folder: Path) -> Path:
        """A folder of certificates as `c_rehash` makes it, with the CA in it."""
        name = subprocess.run(
            ["openssl", "x509", "-hash", "-noout", "-in", self.bundle], check=True, capture_output=True, text=True
        ).stdout.strip()
        (folder / f"{name}.0").write_bytes(self.bundle.read_bytes())
        return folder

    def context(self) -> ssl.SSLContext:
        """For a server that shows the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context


def make_authority(folder: Path, *hosts: str, expired: bool = False) -> Authority:
    """Makes one; `hosts` instead of the usual ones, `expired` since 2020."""
    authority = trustme.CA()
    until = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc) if expired else None
    since = datetime.datetime(2019, 1, 1, tzinfo=datetime.timezone.utc) if expired else None
    names = hosts or ("localhost", "127.0.0.1", "127.0.0.2", "models.test")
    certificate = authority.issue_cert(*names, not_before=since, not_after=until)
    made = Authority(folder / "ca.pem", folder / "chain.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(str(made.bundle))
    certificate.private_key_pem.write_to_path(str(made.key))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(made.chain), append=True)
    return made
