"""s3:// against a server that checks signatures and permissions: what is found, and with whose credentials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fetching import SHARDS, read, remote
from s3_settings import PATHS, options

import weightstream as ws
from servers.messages import plain
from servers.s3 import READER, REGION, S3Server
from servers.scripted import ScriptedServer
from weightstream.sources import list_files, resolve

pytestmark = pytest.mark.usefixtures("environment")


def test_a_prefix_by_its_index(s3: S3Server, stored_in_s3: dict[str, bytes]) -> None:
    found = resolve("s3://models/llm", options(s3))
    assert [source.name for source in found.sources] == [f"s3://models/llm/{name}" for name in SHARDS]
    assert found.weight_map == {"t1": 0, "t2": 1, "t3": 2}
    for source, name in zip(found.sources, SHARDS, strict=True):
        assert read(source) == stored_in_s3[name]
        assert remote(source).size == len(stored_in_s3[name])
        assert (remote(source).etag or "").startswith('"')


@pytest.mark.parametrize("location", ["s3://models/llm/model-*.safetensors", "s3://models/ll?/**/model-[1-3]*"])
def test_a_glob(s3: S3Server, stored_in_s3: dict[str, bytes], location: str) -> None:
    assert [read(source) for source in resolve(location, options(s3)).sources] == [
        stored_in_s3[name] for name in SHARDS
    ]


def test_a_key_of_odd_characters(s3: S3Server, stored_in_s3: dict[str, bytes]) -> None:
    for location in ("s3://models/odd/ü +%?&=.safetensors", "s3://models/odd"):
        (source,) = resolve(location, options(s3)).sources
        assert read(source) == b"odd"


def test_all_files(s3: S3Server, stored_in_s3: dict[str, bytes]) -> None:
    files = list_files("s3://models/llm", options(s3))
    assert {file.key: read(file.source) for file in files} == stored_in_s3
    assert {file.key: file.size for file in files} == {name: len(data) for name, data in stored_in_s3.items()}
    (file,) = list_files("s3://models/llm/config.json", options(s3))
    assert (file.key, read(file.source)) == ("config.json", b"{}")


def test_a_listing_of_many_pages() -> None:
    def answer(request: Any) -> Any:
        page = int(request.query.get("continuation-token", "0"))
        keys = "".join(f"<Contents><Key>m/{page}-{i}.safetensors</Key><Size>7</Size></Contents>" for i in range(3))
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{page + 1}</NextContinuationToken>"
        body = f"<ListBucketResult><Name>b</Name>{keys}{more if page < 4 else ''}</ListBucketResult>"
        return plain(200, body, {"Content-Type": "application/xml"})

    with ScriptedServer(answer) as server:
        settings = {"endpoint_url": server.origin, "aws_access_key_id": "AK", "aws_secret_access_key": "SK"}
        found = resolve("s3://b/m", {**settings, "region_name": REGION, "config": PATHS})
    assert len(server.requests) == 5
    assert [source.name for source in found.sources] == [
        f"s3://b/m/{page}-{i}.safetensors" for page in range(5) for i in range(3)
    ]


def test_credentials_and_endpoint_of_the_environment(
    s3: S3Server, stored_in_s3: dict[str, bytes], environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable, value in READER.environment.items():
        environment.setenv(variable, value)
    environment.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    environment.setenv("AWS_DEFAULT_REGION", REGION)
    (source,) = resolve("s3://models/llm/model-1-of-3.safetensors", {}).sources
    assert read(source) == stored_in_s3["model-1-of-3.safetensors"]


def test_a_profile(
    s3: S3Server, stored_in_s3: dict[str, bytes], environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        f"[other]\naws_access_key_id={READER.access_key}\naws_secret_access_key={READER.secret_key}\n"
    )
    (tmp_path / ".aws" / "config").write_text(
        f"[profile other]\nregion={REGION}\nendpoint_url={s3.endpoint}\ns3 =\n  addressing_style = path\n"
    )
    (source,) = resolve("s3://models/llm/model-1-of-3.safetensors", {"profile_name": "other"}).sources
    assert read(source) == stored_in_s3["model-1-of-3.safetensors"]
    with pytest.raises(ws.ConfigError, match="nobody"):
        resolve("s3://models/llm", {"profile_name": "nobody"})
