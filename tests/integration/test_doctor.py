"""`weightstream doctor` on each storage, when all is well and when something is wrong; in time, and without secrets."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fetching import clean_environment

from checkpoints import blocks, raw, write_file, write_shards
from commands import run
from servers.actions import Stall, Status, Whole
from servers.azurite import KEY, AzureServer
from servers.certificates import make_authority
from servers.gcs import GcsServer
from servers.hub import TOKEN as HUB_TOKEN
from servers.hub import Hub
from servers.nginx import SLOW_RATE, TOKEN, NginxServer
from servers.programs import free_ports
from servers.s3 import OWNER, READER, REGION, STRANGER, S3Server
from servers.scripted import ScriptedServer

pytestmark = pytest.mark.usefixtures("environment")

INDEX = "model.safetensors.index.json"
SHARDS = {"model-1.safetensors": blocks(2, 3_000_000), "model-2.safetensors": {"last": raw("U8", (500,), 5)}}
# What is set counts for doctor, too.
HASTY = {"http": {"first_byte_seconds": 0.5, "connect_timeout": 0.5, "stall_seconds": 0.5, "max_attempts": 2}}
SECRETS = (OWNER.secret_key, READER.secret_key, STRANGER.secret_key, KEY, TOKEN, HUB_TOKEN, "canary", "ignature=")
REMOTE = ["location", "credentials", "network", "listing", "header", "read", "throughput", "reader"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("doctor") / "model", SHARDS, INDEX)


def examine(
    location: str,
    options: dict[str, Any],
    status: int = 0,
    environment: Mapping[str, str] | None = None,
    **variables: str,
) -> dict[str, dict[str, Any]]:
    """The steps by name, of a command that takes less than half a minute and tells no secrets."""
    began = time.monotonic()
    own = os.environ if environment is None else environment
    env = {**own, "WEIGHTSTREAM_STORAGE_OPTIONS": json.dumps(options), **variables}
    result = run("doctor", location, "--json", env=env)
    assert time.monotonic() - began < 30
    assert [secret for secret in SECRETS if secret in result.stdout + result.stderr] == []
    assert result.returncode == status, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert report["ok"] is (status == 0)
    return {step["name"]: step for step in report["steps"]}


# Each with the waits that everybody has.
SILENCE: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "http": ("{url}/m.safetensors", None, {}),
    "s3": ("s3://b/m", "endpoint_url", {"region_name": REGION, "config": {"s3": {"addressing_style": "path"}}}),
    "gs": ("gs://b/m", "endpoint_url", {"anonymous": True}),
    "az": ("az://models/m", "account_url", {"account_key": KEY}),
    "hf": ("hf://org/model", "endpoint", {}),
}


@pytest.fixture(scope="module", autouse=True)
def silence(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, dict[str, Future[dict[str, Any]]]]]:
    """A server that never answers, and what becomes of examining it: they only wait, while other tests run."""
    if not any(item.name == "test_who_listens_never_answers" for item in request.session.items):
        yield "", {}
        return
    with clean_environment(tmp_path_factory.mktemp("silence")):
        env = {**os.environ, **READER.environment}
    with closing(socket.create_server(("127.0.0.1", 0))) as silent, ThreadPoolExecutor(len(SILENCE)) as pool:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        running = {}
        for kind, (location, setting, options) in SILENCE.items():
            given = options if setting is None else {**options, setting: url}
            running[kind] = pool.submit(examine, location.format(url=url), given, 1, env)
        yield url, running


def check_well(found: dict[str, dict[str, Any]], files: int = 2) -> None:
    names = list(found)
    assert names[names.index("location") :] == REMOTE
    assert {name: found[name]["status"] for name in REMOTE} == dict.fromkeys(REMOTE, "ok")
    assert found["listing"]["details"]["files"] == files
    assert found["throughput"]["details"]["gigabytes_per_second"] > 0


def failing(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What failed, and why."""
    return {name: step["summary"] for name, step in found.items() if step["status"] == "fail"}


def s3_options(endpoint: str, **more: Any) -> dict[str, Any]:
    return {"endpoint_url": endpoint, "region_name": REGION, "config": {"s3": {"addressing_style": "path"}}, **more}


def test_s3(s3: S3Server, model: Path) -> None:
    location = s3.upload(model, "models", "examined")
    found = examine(location, s3_options(s3.endpoint), **READER.environment)
    check_well(found)
    details = found["location"]["details"]
    assert (details["root"], details["key"]) == ("s3://models", "examined")
    assert (details["endpoint"], details["region"]) == (s3.endpoint, REGION)
    assert found["credentials"]["summary"] == "AWS_ACCESS_KEY_ID in the environment"


def test_s3_with_a_profile(s3: S3Server, model: Path, tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        f"[lab]\naws_access_key_id={READER.access_key}\naws_secret_access_key={READER.secret_key}\n"
    )
    location = s3.upload(model, "models", "examined")
    found = examine(location, s3_options(s3.endpoint, profile_name="lab"))
    assert found["credentials"]["summary"] == "the shared credentials file of the AWS tools, profile lab"


def test_s3_without_credentials(s3: S3Server) -> None:
    found = examine("s3://models/examined", s3_options(s3.endpoint), 1)
    assert found["credentials"]["status"] == "warn"
    assert "there are no AWS credentials" in failing(found)["listing"]
    assert list(failing(found)) == ["listing"]


def test_s3_with_credentials_that_are_refused(s3: S3Server) -> None:
    found = examine("s3://models/examined", s3_options(s3.endpoint), 1, **STRANGER.environment)
    assert "the service does not know the access key" in failing(found)["listing"]
    assert found["listing"]["details"]["http_status"] == 403
    assert "where the access key comes from" in found["listing"]["advice"]
    wrong = {**READER.environment, "AWS_SECRET_ACCESS_KEY": OWNER.secret_key}
    found = examine("s3://models/examined", s3_options(s3.endpoint), 1, **wrong)
    assert "the secret access key is not the one of the access key" in failing(found)["listing"]
    assert "copy access key and secret key again" in found["listing"]["advice"]


def test_s3_without_the_bucket_or_the_key(s3: S3Server) -> None:
    found = examine("s3://nothing-here/m", s3_options(s3.endpoint), 1, **OWNER.environment)
    assert "there is no bucket 'nothing-here'" in failing(found)["listing"]
    found = examine("s3://models/not/there", s3_options(s3.endpoint), 1, **READER.environment)
    assert "there is no such object in bucket" in failing(found)["listing"]


def test_azure(azure: AzureServer, model: Path) -> None:
    location = azure.upload(model, "examined")
    found = examine(location, {"account_url": azure.account_url, "account_key": KEY})
    check_well(found)
    assert found["credentials"]["summary"] == "account_key in storage_options"
    assert azure.account_url in found["location"]["summary"]
    found = examine(location, {"account_url": azure.account_url}, AZURE_STORAGE_KEY=KEY)
    assert found["credentials"]["summary"] == "AZURE_STORAGE_KEY in the environment"
    found = examine(location, {"account_url": azure.account_url}, 1, AZURE_STORAGE_KEY="d3Jvbmc=")
    assert "of this account" in found["listing"]["advice"]


def test_gcs(gcs: GcsServer, model: Path) -> None:
    location = gcs.upload(model, "examined")
    found = examine(location, {}, STORAGE_EMULATOR_HOST=gcs.endpoint)
    check_well(found)
    assert "STORAGE_EMULATOR_HOST" in found["credentials"]["summary"]
    found = examine(location, {"endpoint_url": gcs.endpoint}, 1, GOOGLE_APPLICATION_CREDENTIALS="/nothing.json")
    assert "names a file that is not there: /nothing.json" in failing(found)["credentials"]


def test_the_hub(hub: Hub, model: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in model.iterdir()}
    hub.commit("org/llm", files)
    hub.commit("org/mine", files, private=True)
    env = {**hub.environment, "HF_HOME": str(tmp_path / "hf")}
    found = examine("hf://org/llm", {}, **env)
    check_well(found)
    assert found["credentials"]["summary"] == "none; public repositories can be read"
    assert found["location"]["details"]["endpoint"] == hub.api.origin
    found = examine("hf://org/mine", {}, 1, **env)
    assert "has no such repository, or it is private" in failing(found)["listing"]
    found = examine("hf://org/mine", {}, **env, HF_TOKEN=HUB_TOKEN)
    assert found["credentials"]["summary"] == "HF_TOKEN in the environment"
    found = examine("hf://org/llm", {}, 1, **env, HF_HUB_OFFLINE="1")
    assert "network" not in found
    assert "HF_HUB_OFFLINE" in failing(found)["listing"]


def test_a_web_server(nginx: NginxServer) -> None:
    write_shards(nginx.root / "examined", SHARDS, INDEX)
    url = f"{nginx.https}/private/examined/{INDEX}?token=canary"
    options = {"verify": str(nginx.authority.bundle), "headers": {"Authorization": f"Bearer {TOKEN}"}}
    found = examine(url, options)
    check_well(found)
    assert found["network"]["details"]["tls"].startswith("TLSv1.")
    assert "the headers Authorization of storage_options" in found["credentials"]["summary"]
    assert found["location"]["details"]["ca_bundle"] == str(nginx.authority.bundle)
    found = examine(url, {"verify": str(nginx.authority.bundle)}, 1)
    assert "403" in failing(found)["listing"]


def test_certificates_that_are_not_trusted(nginx: NginxServer, tmp_path: Path) -> None:
    write_file(nginx.root / "one.safetensors", SHARDS["model-1.safetensors"])
    other = make_authority(tmp_path).bundle
    found = examine(f"{nginx.https}/one.safetensors", {"verify": str(other)}, 1)
    assert list(failing(found)) == ["network", "header"]
    assert "but TLS fails" in failing(found)["network"]
    for step in ("network", "header"):
        assert "that is set: verify, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE" in found[step]["advice"]
    assert f"it was checked against {other}" in failing(found)["network"]
    found = examine(f"{nginx.https}/one.safetensors", {"verify": False})
    assert found["network"]["status"] == "warn"


def test_nobody_listens() -> None:
    (port,) = free_ports(1)
    found = examine("s3://b/m", s3_options(f"http://127.0.0.1:{port}"), 1, **READER.environment)
    assert "Connection refused" in failing(found)["network"]
    assert "refused the connection" in failing(found)["listing"]


@pytest.mark.parametrize(
    ("break_", "step", "says"),
    [
        (lambda server: server.at(1, Status(500, body="canary")), None, ""),
        (lambda server: server.when(lambda request: True, Status(503)), "header", "503"),
        (lambda server: server.when(lambda request: request.number > 1, Status(403)), "read", "403"),
        (lambda server: server.when(lambda request: request.number > 3, Stall(60)), "read", "in time"),
    ],
    ids=["once", "throttled", "refused later", "stalls later"],
)
def test_a_server_that_fails(
    model: Path, break_: Callable[[ScriptedServer], None], step: str | None, says: str
) -> None:
    with ScriptedServer((model / "model-1.safetensors").read_bytes()) as server:
        break_(server)
        found = examine(server.url() + "?key=canary", HASTY, 0 if step is None else 1)
    assert list(failing(found)) == ([] if step is None else [step])
    assert step is None or says in failing(found)[step]


def test_a_server_without_ranges(model: Path) -> None:
    with ScriptedServer((model / "model-1.safetensors").read_bytes()) as server:
        server.when(lambda request: True, Whole())
        found = examine(server.url(), {}, 1)
    assert found["listing"]["summary"].startswith("nothing was asked: web servers list nothing")
    assert "ignored the range" in failing(found)["header"]
    assert "needs a server of byte ranges" in found["header"]["advice"]


def test_throttling_at_many_reads_is_a_warning(model: Path) -> None:
    """What works with few reads at once is told; the command does not fail."""
    with ScriptedServer((model / "model-1.safetensors").read_bytes()) as server:
        server.when(lambda request: request.number > 20, Status(429, {"Retry-After": "0"}))
        found = examine(server.url(), {})
    assert found["throughput"]["status"] == "warn"
    assert "throttled at" in found["throughput"]["summary"]
    assert "--concurrency" in found["throughput"]["advice"]


def test_a_slow_server(nginx: NginxServer) -> None:
    """A megabyte a second on each connection: it adapts, and comes to its end."""
    write_file(nginx.root / "slow.safetensors", blocks(4, 8_000_000))
    found = examine(f"{nginx.http}/slow/slow.safetensors", {})
    levels = {level["concurrency"]: level["bytes_per_second"] for level in found["throughput"]["details"]["levels"]}
    assert levels[1] == pytest.approx(SLOW_RATE, rel=0.5)
    assert levels[2] > 1.3 * levels[1]
    assert "may bring more" in found["throughput"]["summary"]


def test_who_listens_never_answers(silence: tuple[str, dict[str, Future[dict[str, Any]]]]) -> None:
    """An SDK's own error is told, although it takes most of the half minute to come."""
    url, running = silence
    found = {kind: failing(result.result()) for kind, result in running.items()}
    assert {kind: list(steps) for kind, steps in found.items()} == {
        kind: ["header" if kind == "http" else "listing"] for kind in SILENCE
    }
    for kind in SILENCE.keys() - {"http"}:
        assert f"cannot reach {url}: it did not answer in time; check the endpoint" in found[kind]["listing"]
