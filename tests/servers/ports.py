"""Ports that no server of this process had before.

The core remembers a host as long as the process lives: that it answered, how many connections pay. The kernel gives the
port of a closed server to another one, which would then be taken for the old one.
"""

from __future__ import annotations

import contextlib
import socket

_given: set[int] = set()


def bind_to_new_port(host: str = "127.0.0.1") -> socket.socket:
    """A TCP socket bound to a port of the kernel's choice that it never chose before."""
    with contextlib.ExitStack() as rejected:  # bound until the end, so that each try gives another port
        while True:
            bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, 0))
            port = bound.getsockname()[1]
            if port not in _given:
                _given.add(port)
                return bound
            rejected.enter_context(bound)
