"""storage_options that reach the S3 server of the tests."""

from __future__ import annotations

from typing import Any

from servers.s3 import READER, REGION, S3Server

PATHS = {"s3": {"addressing_style": "path"}}


def options(s3: S3Server, keys: Any = READER, **more: Any) -> dict[str, Any]:
    """Its endpoint and region, and somebody's keys."""
    return {
        "endpoint_url": s3.endpoint,
        "region_name": REGION,
        "aws_access_key_id": keys.access_key,
        "aws_secret_access_key": keys.secret_key,
        "config": PATHS,
        **more,
    }
