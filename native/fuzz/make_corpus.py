"""Writes the seeds of the header fuzzer: one small file for each rule and each feature of the format."""

import struct
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus" / "header"


def entry(name: str, dtype: str, shape: str, begin: int, end: int, more: str = "") -> str:
    """Return the JSON of one tensor's entry."""
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]{more}}}'


def file_of(header: str, data: int = 0) -> bytes:
    """Return a whole file: the length, the header as given, and `data` zero bytes."""
    encoded = header.encode()
    return struct.pack("<Q", len(encoded)) + encoded + bytes(data)


SEEDS = {
    "empty": file_of("{}"),
    "blanks": file_of("\n {} \t"),
    "one": file_of("{" + entry("w", "F32", "[2,3]", 0, 24) + "}", 24),
    "scalar": file_of("{" + entry("w", "I64", "[]", 0, 8) + "}", 8),
    "two": file_of("{" + entry("b", "U8", "[2]", 2, 4) + "," + entry("a", "BF16", "[1]", 0, 2) + "}", 4),
    "zero": file_of("{" + entry("w", "U8", "[4]", 0, 4) + "," + entry("e", "U8", "[0]", 0, 0) + "}", 4),
    "sub_byte": file_of("{" + entry("a", "F4", "[2]", 0, 1) + "," + entry("b", "F6_E3M2", "[4]", 1, 4) + "}", 4),
    "metadata": file_of('{"__metadata__":{"format":"pt"},' + entry("w", "BOOL", "[1]", 0, 1) + "}", 1),
    "null_metadata": file_of('{"__metadata__":null}'),
    "unknown": file_of("{" + entry("w", "U8", "[1]", 0, 1, ',"x":[{"k":[1.5,true,null,"s"]},-1]') + "}", 1),
    "escapes": file_of("{" + entry("\\u0077\\ud83d\\ude00", "U8", "[1]", 0, 1) + "}", 1),
    "duplicate": file_of("{" + entry("w", "U8", "[1]", 0, 1) + "," + entry("w", "U8", "[1]", 0, 1) + "}", 1),
    "hole": file_of("{" + entry("a", "U8", "[1]", 0, 1) + "," + entry("b", "U8", "[1]", 2, 3) + "}", 3),
    "overflow": file_of("{" + entry("w", "U8", "[2,18446744073709551614]", 0, 16) + "}", 16),
    "big_integer": file_of("{" + entry("w", "U8", "[1]", 0, 1, ',"x":123456789012345678901234567890') + "}", 1),
    "deep": file_of("{" + entry("w", "U8", "[1]", 0, 1, ',"x":' + "[" * 126 + "]" * 126) + "}", 1),
    "short": file_of("{" + entry("w", "U8", "[9]", 0, 9) + "}", 3),
    "git_lfs": b"version https://git-lfs.github.com/spec/v1\n",
    "html": b"<!DOCTYPE html><html></html>",
}

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in SEEDS.items():
        (FOLDER / name).write_bytes(content)
