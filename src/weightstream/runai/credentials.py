"""Which storage a path is in, and how it is reached: S3Credentials and the environment as storage_options."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .. import _config
from ..sources.remote import printable
from ._environment import switched

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # which boto3 finds by itself


@dataclass(eq=False)
class S3Credentials:
    """Credentials of S3; what is None is found where boto3 finds it.

    Attributes:
        access_key_id, secret_access_key, session_token: the keys; the token of temporary ones.
        region_name: as "us-east-1".
        endpoint: a URL, of storage that is not Amazon's.

    Example:
        >>> keys = S3Credentials("AKIA...", "secret", endpoint="https://minio.example:9000")
        >>> streamer.stream_file("s3://models/llama/model.safetensors", keys)

    """

    access_key_id: str | None = None
    secret_access_key: str | None = None
    session_token: str | None = None
    region_name: str | None = None
    endpoint: str | None = None

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"S3Credentials(access_key_id={self.access_key_id!r}, region_name={self.region_name!r}, ...)"


def is_s3_path(path: str) -> bool:
    """Whether it is an ``s3://`` URL."""
    return scheme_of(path) == "s3"


def is_gs_path(path: str) -> bool:
    """Whether it is a ``gs://`` URL."""
    return scheme_of(path) == "gs"


def is_azure_path(path: str) -> bool:
    """Whether it is an ``az://`` URL."""
    return scheme_of(path) == "az"


def is_remote_path(path: str) -> bool:
    """Whether it is a URL of a storage."""
    return scheme_of(path) not in (None, "file")


def scheme_of(path: str) -> str | None:
    """The scheme of a URL, in lower case; None of a local path."""
    found = _URL.match(path)
    return found[1].lower() if found else None


def shown(path: str) -> str:
    """A path as messages have it: a URL without what may be secret in it."""
    return printable(path) if is_remote_path(path) else path


def storage_options(paths: Iterable[str], credentials: S3Credentials | None) -> dict[str, Any]:
    """What weightstream takes to reach these paths: the credentials, the environment, WEIGHTSTREAM_STORAGE_OPTIONS."""
    schemes = {scheme_of(path) for path in paths}
    options: dict[str, Any] = {}
    if schemes - {None, "file"}:  # local files take none
        options.update(_config.resolve().storage_options)
    if "s3" in schemes:
        options.update(_s3(credentials or S3Credentials()))
    if "gs" in schemes:
        options.update(_gcs())
    if schemes & {"az", "abfs", "abfss"}:
        options.update(_azure())
    return options


def _s3(credentials: S3Credentials) -> dict[str, Any]:
    given = {
        "aws_access_key_id": credentials.access_key_id,
        "aws_secret_access_key": credentials.secret_access_key,
        "aws_session_token": credentials.session_token,
        "region_name": credentials.region_name,
        "endpoint_url": credentials.endpoint,
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    endpoint = os.environ.get("RUNAI_STREAMER_S3_ENDPOINT")  # of older versions
    if endpoint and not any(os.environ.get(variable) for variable in _ENDPOINTS):
        options.setdefault("endpoint_url", endpoint)
    if not switched("RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING", default=True):
        options["config"] = {"s3": {"addressing_style": "path"}}
    if switched("RUNAI_STREAMER_S3_UNSIGNED", default=False):
        options["anonymous"] = True
    return options


def _gcs() -> dict[str, Any]:
    if switched("RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS", default=False):
        return {"anonymous": True}
    file = os.environ.get("RUNAI_STREAMER_GCS_CREDENTIAL_FILE")
    return {"credentials_file": file} if file else {}


def _azure() -> dict[str, Any]:
    # A connection string has an endpoint of its own.
    endpoint = os.environ.get("AZURE_STORAGE_ENDPOINT")
    return {"account_url": endpoint} if endpoint and not os.environ.get("AZURE_STORAGE_CONNECTION_STRING") else {}
