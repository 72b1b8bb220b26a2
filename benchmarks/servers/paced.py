"""The paced server of tools/: the same rate for each connection, as object stores give it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.servers.base import Server, ServerError
from benchmarks.tools import PACED_SERVER


class Paced(Server):
    """A link of `rate` bytes per second and connection, with `first_byte` milliseconds before each response."""

    def __init__(self, root: Path, rate: float, first_byte: int = 0) -> None:
        super().__init__(root)
        if not PACED_SERVER.is_file():
            raise ServerError("the paced server is not built; run benchmarks/setup.sh")
        self._rate = rate
        self._first_byte = first_byte

    def _start(self) -> tuple[int, int]:
        command = [PACED_SERVER, "--root", self.root, "--rate", str(self._rate), "--first-byte-ms", self._first_byte]
        process = self._spawn([str(part) for part in command])
        assert process.stdout is not None
        ports = process.stdout.readline().split()
        if len(ports) != 2:
            raise ServerError(f"the paced server did not start: {self._last_words()}")
        return int(ports[0]), int(ports[1])

    def describe(self) -> str:
        return f"paced server, {self._rate / 1e6:.0f} MB/s a connection, first byte after {self._first_byte} ms"
