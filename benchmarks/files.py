"""Writes the test checkpoints: deterministic, incompressible bytes in unmodified safetensors format.

The bytes of a file are a block of random numbers, each copy of it XORed with a key of its own, so that they are
written as fast as the disk takes them, no two pages are equal and a compressor gains nothing.
A manifest beside the files holds a checksum per tensor; with it every contender's tensors are checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.layouts import FileSpec, Layout

GENERATOR_VERSION = 1
BLOCK_BYTES = 16 << 20
MANIFEST = "manifest.json"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class DataSet:
    """A checkpoint on the disk: its folder, its files, and the checksum that each tensor must have."""

    name: str
    folder: Path
    files: tuple[Path, ...]
    nbytes: int
    tensors: int

    def checksums(self) -> dict[str, int]:
        """CRC-32 of each tensor's bytes, by name."""
        manifest = json.loads((self.folder / MANIFEST).read_text())
        checksums: dict[str, int] = manifest["checksums"]
        return checksums


class _ByteSource:
    """An endless, repeatable sequence of bytes."""

    def __init__(self, seed: tuple[int, ...]) -> None:
        self._keys = np.random.SFC64(seed)
        self._base = np.random.SFC64((*seed, 1)).random_raw(BLOCK_BYTES // 8)
        self._block = memoryview(b"")

    def take(self, count: int) -> memoryview:
        """The next bytes: `count` of them or, at the end of a block, fewer."""
        if not len(self._block):
            key = np.uint64(self._keys.random_raw())
            self._block = memoryview(np.bitwise_xor(self._base, key).data).cast("B")
        taken, self._block = self._block[:count], self._block[count:]
        return taken


def _header(file: FileSpec) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in file.tensors:
        end = offset + tensor.nbytes
        entries[tensor.name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_file(path: Path, file: FileSpec, seed: tuple[int, ...]) -> dict[str, int]:
    source = _ByteSource(seed)
    checksums: dict[str, int] = {}
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb", buffering=8 << 20) as out:
        out.write(_header(file))
        for tensor in file.tensors:
            crc = 0
            left = tensor.nbytes
            while left:
                piece = source.take(left)
                crc = zlib.crc32(piece, crc)
                out.write(piece)
                left -= len(piece)
            checksums[tensor.name] = crc
        out.flush()
        os.fsync(out.fileno())
    unfinished.rename(path)
    return checksums


def _write_index(folder: Path, layout: Layout) -> None:
    weight_map = {tensor.name: file.name for file in layout.files for tensor in file.tensors}
    index = {"metadata": {"total_size": layout.nbytes}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _fingerprint(layout: Layout) -> str:
    shapes = [[file.name, [[tensor.name, tensor.shape] for tensor in file.tensors]] for file in layout.files]
    return hashlib.sha256(json.dumps([GENERATOR_VERSION, shapes]).encode()).hexdigest()


def _is_there(folder: Path, fingerprint: str) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    sizes: dict[str, int] = manifest["sizes"]
    return manifest["fingerprint"] == fingerprint and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()
    )


def make(layout: Layout, data: Path) -> DataSet:
    """Write the files of `layout` below `data`, unless they are there already.

    Raises OSError when the disk has no room for them.
    """
    folder = data / layout.name
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = _fingerprint(layout)
    if not _is_there(folder, fingerprint):
        room = os.statvfs(folder)
        if room.f_bavail * room.f_frsize < layout.nbytes + (1 << 30):
            raise OSError(f"{layout.name} needs {layout.nbytes / 1e9:.1f} GB, the disk has less left")
        print(f"writing {layout.name}: {layout.nbytes / 1e9:.2f} GB, {layout.tensor_count} tensors", flush=True)
        checksums: dict[str, int] = {}
        for number, file in enumerate(layout.files):
            checksums |= _write_file(folder / file.name, file, seed=(zlib.crc32(layout.name.encode()), number))
        if len(layout.files) > 1:
            _write_index(folder, layout)
        sizes = {file.name: (folder / file.name).stat().st_size for file in layout.files}
        manifest = {"fingerprint": fingerprint, "sizes": sizes, "checksums": checksums}
        (folder / MANIFEST).write_text(json.dumps(manifest))
    return DataSet(
        name=layout.name,
        folder=folder,
        files=tuple(folder / file.name for file in layout.files),
        nbytes=layout.nbytes,
        tensors=layout.tensor_count,
    )
