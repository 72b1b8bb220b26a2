"""The servers from which remote scenarios load: each is started for one scenario, serves the data folder on loopback
and is gone afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.servers.base import Server, ServerError
from benchmarks.servers.nginx import Nginx
from benchmarks.servers.paced import Paced

__all__ = ["LINK_BYTES_PER_SECOND", "SERVERS", "Server", "ServerError"]

LINK_BYTES_PER_SECOND = 25e6
"""What the links give each connection."""
FIRST_BYTE_MILLISECONDS = 50

SERVERS: dict[str, Callable[[Path], Server]] = {
    "http": Nginx,
    "https": lambda root: Nginx(root, tls=True),
    "link-25": lambda root: Paced(root, LINK_BYTES_PER_SECOND),
    "link-25-50ms": lambda root: Paced(root, LINK_BYTES_PER_SECOND, FIRST_BYTE_MILLISECONDS),
}
"""Makes the server of a name; it takes the folder to serve, and raises ServerError where it cannot run."""
