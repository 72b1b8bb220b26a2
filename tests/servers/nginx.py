"""nginx: the HTTP server that most models lie behind, as a program of this user on ports of the loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGQUIT

from servers.certificates import Authority
from servers.programs import SERVERS, answers, find_program, free_ports, running

_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{http};
        listen 127.0.0.1:{https} ssl;
        ssl_certificate {authority.chain};
        ssl_certificate_key {authority.key};
        root {root};
        location / {{ }}
        location /listed/ {{ alias {root}/; autoindex on; }}
        location /slow/ {{ alias {root}/; limit_rate {slow_rate}; }}
        location /private/ {{ alias {root}/; if ($http_authorization != "Bearer {token}") {{ return 403; }} }}
    }}
}}
"""


@dataclass(frozen=True)
class NginxServer:
    """A running server. What lies in `root` is there to read, also while it runs.

    Below `/` as it is, below `/listed/` with pages that list folders, below `/slow/` at SLOW_RATE bytes a second on
    each connection, below `/private/` for who shows the bearer TOKEN.
    """

    root: Path
    http: str
    https: str
    authority: Authority


SLOW_RATE = 1_000_000
TOKEN = "token-of-the-tests"


@contextmanager
def nginx_server(folder: Path, authority: Authority) -> Iterator[NginxServer]:
    """A server of an empty folder, for the block."""
    program = find_program("nginx", SERVERS / "nginx/usr/sbin")
    root = folder / "root"
    root.mkdir()
    http, https = free_ports(2)
    (folder / "nginx.conf").write_text(
        _CONFIGURATION.format(
            folder=folder,
            root=root,
            http=http,
            https=https,
            authority=authority,
            slow_rate=SLOW_RATE,
            token=TOKEN,
        )
    )
    command = [program, "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr"]
    with running(command, folder, lambda: answers(http) and answers(https), stop=SIGQUIT):
        yield NginxServer(root, f"http://127.0.0.1:{http}", f"https://127.0.0.1:{https}", authority)
