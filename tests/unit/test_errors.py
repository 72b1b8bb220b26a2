"""The error tree: what each error also is, what it carries, what it says, and that it crosses processes whole."""

from __future__ import annotations

import builtins
import copy
import errno
import os
import pickle
from pathlib import Path

import pytest

import weightstream as ws

ALSO = {
    "AuthError": PermissionError,
    "ClosedError": ValueError,
    "ConfigError": ValueError,
    "DeviceError": RuntimeError,
    "MismatchError": RuntimeError,
    "FormatError": ValueError,
    "NotFoundError": FileNotFoundError,
    "ProtocolError": Exception,
    "ServerError": Exception,
    "SourceChangedError": Exception,
    "StorageError": OSError,
    "ThrottledError": Exception,
    "TimeoutError": builtins.TimeoutError,
    "TruncatedError": EOFError,
}


def test_the_table_above_is_complete() -> None:
    assert set(ALSO) | {"WeightstreamError"} == {name for name in ws.__all__ if name.endswith("Error")}


@pytest.mark.parametrize("name", ALSO)
def test_each_error_is_the_builtin_that_a_caller_expects(name: str) -> None:
    kind = getattr(ws, name)
    assert issubclass(kind, ws.WeightstreamError)
    assert issubclass(kind, ALSO[name])
    others = {ValueError, OSError, RuntimeError, EOFError} - set(ALSO[name].__mro__)
    assert not issubclass(kind, tuple(others))


@pytest.mark.parametrize("name", [*ALSO, "WeightstreamError"])
def test_an_error_pickles_and_copies_whole(name: str) -> None:
    kind = getattr(ws, name)
    number = errno.EIO if issubclass(kind, OSError) else None
    error = kind("it broke", source="/a/b", range=(3, 9), expected=6, got=2, errno=number)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert (again.source, again.range, again.expected, again.got) == ("/a/b", (3, 9), 6, 2)
        if number is not None:
            assert (again.errno, again.filename, again.strerror) == (errno.EIO, "/a/b", os.strerror(errno.EIO))


def test_the_message_has_everything_once() -> None:
    error = ws.TruncatedError("it ends early", source="/a/b", range=(3, 9), expected=6, got=0)
    assert str(error) == "/a/b: it ends early (bytes 3 to 9; expected 6, got 0)"
    assert str(ws.StorageError("read failed", source="/a", errno=5)) == "/a: read failed (errno 5)"
    assert str(ws.ConfigError("no")) == "no"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("refused (AccessDenied); check it", "s3://b/k: refused (AccessDenied); check it (HTTP status 403)"),
        ("refused", "s3://b/k: refused (HTTP status 403; service code AccessDenied)"),
        ("AccessDenied by us", "s3://b/k: AccessDenied by us (HTTP status 403; service code AccessDenied)"),
    ],
)
def test_the_service_code_is_said_once(message: str, text: str) -> None:
    error = ws.AuthError(message, source="s3://b/k", status=403, service_code="AccessDenied")
    assert str(error) == text
    assert error.service_code == "AccessDenied"


def test_what_does_not_apply_is_none() -> None:
    error = ws.FormatError("no")
    assert (error.source, error.range, error.expected, error.got) == (None, None, None, None)
    assert ws.NotFoundError("no").errno is None


def test_errors_of_the_core_carry_the_same(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.safetensors")
    with pytest.raises(FileNotFoundError) as caught:
        ws.open(missing)
    error = caught.value
    assert isinstance(error, ws.NotFoundError)
    assert (error.errno, error.filename, error.source) == (errno.ENOENT, missing, missing)
    assert missing in str(error)

    short = tmp_path / "short.safetensors"
    short.write_bytes(b"\x40\0\0\0\0\0\0\0{}")
    with pytest.raises(ws.FormatError) as format_error:
        ws.open(short)
    assert format_error.value.source == str(short)


def test_paths_that_are_not_utf8_come_through(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe.safetensors"
    with pytest.raises(ws.NotFoundError) as caught:
        ws.open(os.fsdecode(name))
    assert os.fsencode(caught.value.source or "") == name
