"""Makes the kernel refuse things to this process, as container sandboxes do: a seccomp filter, without a library."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_FILTER_MODE = 2
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _IF_EQUAL, _IF_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF instructions
_NUMBER, _THIRD_ARGUMENT = 0, 32  # offsets in struct seccomp_data

IO_URING_SETUP = 425  # on every architecture
OPENAT = {"x86_64": 257, "aarch64": 56}.get(platform.machine())


def refuse_io_uring(number: int) -> None:
    """io_uring_setup(2) fails with this errno from now on."""
    _install(
        [
            (_LOAD, 0, 0, _NUMBER),
            (_IF_EQUAL, 0, 1, IO_URING_SETUP),
            (_RETURN, 0, 0, _ERRNO | number),
            (_RETURN, 0, 0, _ALLOW),
        ]
    )


def refuse_direct(number: int) -> None:
    """Opening a file with O_DIRECT fails with this errno from now on."""
    assert OPENAT is not None
    _install(
        [
            (_LOAD, 0, 0, _NUMBER),
            (_IF_EQUAL, 0, 3, OPENAT),
            (_LOAD, 0, 0, _THIRD_ARGUMENT),
            (_IF_BITS, 0, 1, os.O_DIRECT),
            (_RETURN, 0, 0, _ERRNO | number),
            (_RETURN, 0, 0, _ALLOW),
        ]
    )


def _install(instructions: list[tuple[int, int, int, int]]) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _FILTER_MODE, ctypes.create_string_buffer(program, len(program)), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
