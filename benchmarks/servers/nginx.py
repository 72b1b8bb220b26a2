"""nginx: the server of the loopback scenarios. The files leave the page cache by sendfile, or through TLS."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from benchmarks.servers.base import LOOPBACK, Server, ServerError, free_ports
from benchmarks.servers.certificates import Certificates, make_certificates

# Everything that nginx writes goes to the folder that it is started in. `user`: as root, its workers would otherwise
# be nobody, who may not be allowed to read the data.
_CONFIGURATION = """
{user}
daemon off;
pid nginx.pid;
error_log stderr warn;
worker_processes auto;
events {{
    worker_connections 1024;
}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;

    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 300s;
    keepalive_requests 1000000;
    open_file_cache max=64;
    {tls}
    server {{
        listen {address}:{first}{ssl} backlog=1024;
        listen {address}:{second}{ssl} backlog=1024;
        root "{root}";
    }}
}}
"""

_TLS = """
    ssl_certificate "{certificate}";
    ssl_certificate_key "{key}";
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:TLS:1m;
"""


def program() -> str:
    """The path of nginx; raises ServerError where it is missing."""
    # Distributions put it where only root's path leads.
    found = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")))
    if not found:
        raise ServerError("nginx is not installed (Debian, Ubuntu: apt-get install nginx-light)")
    return found


class Nginx(Server):
    """nginx with as many workers as there are cores; with `tls`, behind a certificate of a CA of its own."""

    def __init__(self, root: Path, *, tls: bool = False) -> None:
        super().__init__(root)
        self._program = program()
        self._tls = tls
        self.scheme = "https" if tls else "http"

    def _start(self) -> tuple[int, int]:
        ports = free_ports()
        tls = ""
        if self._tls:
            made: Certificates = make_certificates(self.folder, LOOPBACK)
            self.ca_bundle = made.ca
            tls = _TLS.format(certificate=made.certificate, key=made.key)
        text = _CONFIGURATION.format(
            user="user root;" if os.geteuid() == 0 else "",
            tls=tls,
            ssl=" ssl" if self._tls else "",
            address=LOOPBACK,
            first=ports[0],
            second=ports[1],
            root=self.root,
        )
        configuration = self.folder / "nginx.conf"
        configuration.write_text(text)
        self._spawn([self._program, "-p", self.folder, "-c", configuration, "-e", "stderr"])
        return ports

    def describe(self) -> str:
        version = subprocess.run([self._program, "-v"], capture_output=True, text=True, check=True).stderr
        number = re.search(r"nginx/(\S+)", version)
        return f"nginx {number[1] if number else '?'}, {'TLS' if self._tls else 'sendfile'}, keep-alive"
