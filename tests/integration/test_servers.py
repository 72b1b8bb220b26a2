"""The servers that the tests of remote storage run against do check what those tests rely on."""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from checkpoints import pattern
from servers.azurite import AzureServer
from servers.certificates import make_authority
from servers.gcs import GcsServer
from servers.hub import TOKEN as HUB_TOKEN
from servers.hub import Hub
from servers.nginx import SLOW_RATE, NginxServer
from servers.nginx import TOKEN as NGINX_TOKEN
from servers.programs import find_program
from servers.s3 import OWNER, READER, STRANGER, S3Server

DATA = pattern(300_000, 1)
RANGE = {"Range": "bytes=1000-99999"}


def test_a_server_that_is_not_there_fails_in_ci_and_is_skipped_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, outcome in (("", pytest.skip.Exception), ("true", pytest.fail.Exception)):
        monkeypatch.setenv("CI", variable)
        with pytest.raises(outcome, match=r"no-such-server is not installed; run scripts/test-servers\.sh"):
            find_program("no-such-server")


def get(
    url: str, headers: dict[str, str] | None = None, context: ssl.SSLContext | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, header lines by lower-case name, and body."""
    request = urllib.request.Request(url, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            return response.status, {k.lower(): v for k, v in response.headers.items()}, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {k.lower(): v for k, v in error.headers.items()}, error.read()


def check_ranges(url: str) -> None:
    """Ranges are exact, and If-Match is looked at."""
    status, headers, body = get(url, RANGE)
    assert (status, body) == (206, DATA[1000:100_000])
    assert headers["content-range"] == f"bytes 1000-99999/{len(DATA)}"
    etag = headers["etag"]
    assert get(url, {**RANGE, "If-Match": etag})[0] == 206
    assert get(url, {**RANGE, "If-Match": '"another"'})[0] == 412
    assert get(url, {"Range": f"bytes={2 * len(DATA)}-"})[0] == 416


def test_s3_ranges_and_listings(s3: S3Server, tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.safetensors").write_bytes(DATA)
    assert s3.upload(tmp_path, "models", "served/llm") == "s3://models/served/llm"
    check_ranges(s3.presign("models", "served/llm/0.safetensors"))
    pages = s3.client().get_paginator("list_objects_v2")
    found = list(pages.paginate(Bucket="models", Prefix="served/", PaginationConfig={"PageSize": 2}))
    assert [len(page["Contents"]) for page in found] == [2, 1]
    etag = get(s3.presign("models", "served/llm/0.safetensors"))[1]["etag"]
    assert {entry["ETag"] for page in found for entry in page["Contents"]} == {etag}


def test_s3_checks_who_asks(s3: S3Server) -> None:
    s3.put("models", "secret", DATA)
    s3.make_bucket("closed")
    s3.put("closed", "secret", DATA)
    brief, signed_at = s3.presign("models", "secret", seconds=1), time.time()
    url = s3.presign("models", "secret")
    assert get(url)[2] == DATA
    for wrong, code in (
        (url.replace("/secret", "/secrets"), b"SignatureDoesNotMatch"),
        (url[:-4], b"SignatureDoesNotMatch"),
        (url.partition("?")[0], b"AccessDenied"),
    ):
        status, _, body = get(wrong)
        assert status == 403
        assert code in body
    assert s3.client(READER).get_object(Bucket="models", Key="secret")["Body"].read() == DATA
    for keys, bucket in ((STRANGER, "models"), (READER, "closed")):
        with pytest.raises(s3.client().exceptions.ClientError) as caught:
            s3.client(keys).get_object(Bucket=bucket, Key="secret")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    time.sleep(max(0.0, signed_at + 2.1 - time.time()))
    assert get(brief)[0] == 403
    assert get(url)[0] == 200
    assert OWNER.environment["AWS_SECRET_ACCESS_KEY"] not in url


def test_s3_versions(s3: S3Server) -> None:
    s3.make_bucket("versioned", versions=True)
    first, second = (s3.put("versioned", "m", data)["VersionId"] for data in (b"first", b"second"))
    client = s3.client()
    for version, data in ((first, b"first"), (second, b"second")):
        assert client.get_object(Bucket="versioned", Key="m", VersionId=version)["Body"].read() == data


def test_azure(azure: AzureServer, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(DATA)
    assert azure.upload(tmp_path, "served") == "az://models/served"
    with azure.container() as container:
        (entry,) = container.list_blobs("served/")
        assert (entry.name, entry.size) == ("served/m.safetensors", len(DATA))
        url = azure.sas(entry.name)
        check_ranges(url)
        assert get(url)[1]["etag"].strip('"') == entry.etag.strip('"')
    assert get(url.replace("m.safetensors", "n.safetensors"))[0] == 403
    assert get(url.partition("?")[0])[0] in (401, 403, 404)
    assert get(azure.sas("served/m.safetensors", seconds=-60))[0] == 403


def test_gcs(gcs: GcsServer, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(DATA)
    assert gcs.upload(tmp_path, "served") == "gs://models/served"
    url = f"{gcs.endpoint}/storage/v1/b/models/o/served%2Fm.safetensors?alt=media"
    status, headers, body = get(url, RANGE)
    assert (status, body) == (206, DATA[1000:100_000])
    assert headers["content-range"] == f"bytes 1000-99999/{len(DATA)}"
    assert get(url.partition("?")[0])[0] == 200
    assert get(f"{gcs.endpoint}/storage/v1/b/models/o/nothing?alt=media")[0] == 404


def test_nginx(nginx: NginxServer) -> None:
    (nginx.root / "served.bin").write_bytes(DATA)
    check_ranges(f"{nginx.http}/served.bin")
    trusting = ssl.create_default_context(cafile=nginx.authority.bundle)
    assert get(f"{nginx.https}/served.bin", context=trusting)[2] == DATA
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        get(f"{nginx.https}/served.bin")
    assert get(f"{nginx.http}/")[0] == 403
    assert b"served.bin" in get(f"{nginx.http}/listed/")[2]
    assert get(f"{nginx.http}/private/served.bin")[0] == 403
    assert get(f"{nginx.http}/private/served.bin", {"Authorization": f"Bearer {NGINX_TOKEN}"})[2] == DATA
    large = 3 * SLOW_RATE // 2
    (nginx.root / "large.bin").write_bytes(bytes(large))
    began = time.monotonic()
    assert len(get(f"{nginx.http}/slow/large.bin")[2]) == large
    assert time.monotonic() - began > 0.5  # the first second's bytes come at once


def test_another_authority(nginx: NginxServer, tmp_path: Path) -> None:
    other = ssl.create_default_context(cafile=make_authority(tmp_path).bundle)
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        get(f"{nginx.https}/", context=other)


@pytest.fixture
def hub_api(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """huggingface_hub, talking to the Hub of the tests."""
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    return huggingface_hub.HfApi(endpoint=hub.api.origin, token=False)


def test_hub_serves_huggingface_hub(hub: Hub, hub_api, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    files = {f"model-{i}.safetensors": pattern(1000 + i, i) for i in range(7)}
    files |= {"config.json": b"{}", "sub/other.safetensors": DATA}
    commit = hub.commit("org/llm", files)
    assert hub_api.model_info("org/llm").sha == commit
    tree = {entry.path: entry for entry in hub_api.list_repo_tree("org/llm", recursive=True)}
    assert {path: entry.size for path, entry in tree.items()} == {path: len(data) for path, data in files.items()}
    assert hub_api.get_paths_info("org/llm", ["config.json"])[0].size == 2
    folder = Path(hub_api.snapshot_download("org/llm", cache_dir=tmp_path))
    assert {path: (folder / path).read_bytes() for path in files} == files
    assert folder.name == commit
    next_commit = hub.commit("org/llm", {"config.json": b"{ }"})
    assert hub_api.model_info("org/llm").sha == next_commit != commit
    assert hub_api.model_info("org/llm", revision=commit).sha == commit
    assert all("Authorization" not in request.headers for request in hub.cdn.requests)


def test_hub_refuses_as_the_hub_does(hub: Hub, hub_api, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    hub.commit("org/open", {"m.safetensors": DATA})
    hub.commit("org/private", {"m.safetensors": DATA}, private=True)
    hub.commit("org/gated", {"m.safetensors": DATA}, gated=True)

    def metadata(repository: str, name: str = "m.safetensors", token: str | bool = False, **where: str) -> object:
        url = hf_hub_url(repository, name, endpoint=hub.api.origin, **where)
        return get_hf_file_metadata(url, token=token)

    found = metadata("org/open")
    assert found.size == len(DATA)  # type: ignore[attr-defined]
    assert found.location.startswith(hub.cdn.origin)  # type: ignore[attr-defined]
    assert metadata("org/private", token=HUB_TOKEN)
    for error, arguments in (
        (errors.RepositoryNotFoundError, {"repository": "org/private"}),
        (errors.RepositoryNotFoundError, {"repository": "org/none", "token": HUB_TOKEN}),
        (errors.GatedRepoError, {"repository": "org/gated", "token": HUB_TOKEN}),
        (errors.RevisionNotFoundError, {"repository": "org/open", "revision": "none"}),
        (errors.EntryNotFoundError, {"repository": "org/open", "name": "none.safetensors"}),
        (errors.HfHubHTTPError, {"repository": "org/open", "token": "hf_wrong"}),
    ):
        with pytest.raises(error):
            metadata(**arguments)  # type: ignore[arg-type]


def test_hub_addresses_expire(hub: Hub) -> None:
    hub.commit("org/open", {"m.safetensors": DATA})
    url = f"{hub.api.origin}/org/open/resolve/main/m.safetensors"
    assert get(url, RANGE)[2] == DATA[1000:100_000]
    hub.signed_for = -1
    assert get(url)[0] == 403
    assert get(url, {"Authorization": f"Bearer {HUB_TOKEN}"})[0] == 400  # urllib takes it along to the CDN
