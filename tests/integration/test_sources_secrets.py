"""Secrets of the storages: none is in anything that is shown, whatever the service does. See test_http_secrets.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

import pytest
from fetching import clean_environment
from s3_settings import options

from processes import TESTS
from servers.azurite import KEY, AzureServer
from servers.gcs import account
from servers.hub import TOKEN, Hub
from servers.loads import QUICK, Model
from servers.messages import Object, Request, Response, plain
from servers.s3 import READER, REGION, S3Server
from servers.scripted import ScriptedServer

# Those of each storage, the signatures that are made of them, and what is made up for the servers below.
SECRETS = (READER.secret_key, "canary", KEY, "sig=", "ignature=", TOKEN, "BEGIN PRIVATE KEY")
HASTY = {"http": {**QUICK, "max_attempts": 2}}
CASES = {
    "s3, well": "well",
    "s3, refused": "AuthError",
    "s3, failing": "ServerError",
    "gs, well": "well",
    "gs, refused": "AuthError",
    "gs, failing": "ServerError",
    "az by key, well": "well",
    "az by key, refused": "AuthError",
    "az by key, failing": "ServerError",
    "az by SAS, refused": "AuthError",
    "az by SAS, failing": "ServerError",
    "hf, well": "well",
    "hf, refused": "AuthError",
    "hf, failing": "ServerError",
}
COMMANDS = ("s3, well", "s3, refused", "gs, refused", "az by key, refused", "hf, refused")  # doctor takes its time


def echo(status: int) -> Any:
    """A service that repeats to whoever asks what he has sent, as bodies of errors of some services do."""

    def answer(request: Request) -> Response:
        said = f"{request.target} {request.headers} canary-of-the-service".replace("<", "").replace("&", "")
        if request.path == "/token":
            return plain(200, json.dumps({"access_token": "canary-token", "expires_in": 3600}))
        return plain(status, f"<Error><Code>AccessDenied</Code><Message>{said}</Message></Error>")

    return answer


def bucket(data: bytes) -> Any:
    """A bucket of Cloud Storage with a model, and its service of tokens."""
    model = Object(data)

    def answer(request: Request) -> Response:
        if request.path == "/token":
            return plain(200, json.dumps({"access_token": "canary-token", "expires_in": 3600}))
        if request.headers["Authorization"] != "Bearer canary-token":
            return plain(401)
        if request.query.get("alt") == "media":
            return model.answer(request)
        found = {"name": "secrets/m.safetensors", "size": str(len(data)), "generation": "1"}
        listed = found if "/o/" in request.path else {"items": [found]}
        return plain(200, json.dumps(listed), {"Content-Type": "application/json"})

    return answer


@pytest.fixture(scope="module")
def shown(
    remote_model: Model, s3: S3Server, azure: AzureServer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What expose.py printed, by case."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "model").mkdir()
    (folder / "model" / "m.safetensors").write_bytes(remote_model.data)
    s3.upload(folder / "model", "models", "secrets")
    azure.upload(folder / "model", "secrets")
    uses: list[tuple[str, str, str, dict[str, Any]]] = []

    def use(name: str, location: str, settings: dict[str, Any]) -> None:
        uses.append((name, "python", location, {**HASTY, **settings}))
        if name in COMMANDS:
            uses.append((f"{name}, commands", "command", location, {**HASTY, **settings}))

    with ExitStack() as stack:
        use("s3, well", "s3://models/secrets", options(s3))
        use("az by key, well", "az://models/secrets", {"account_url": azure.account_url, "account_key": KEY})
        hub = stack.enter_context(Hub())
        hub.commit("org/secrets", {"m.safetensors": remote_model.data}, private=True)
        use("hf, well", "hf://org/secrets", {"endpoint": hub.api.origin, "token": TOKEN})
        gcs = stack.enter_context(ScriptedServer(bucket(remote_model.data)))
        key = account(folder, gcs.origin)
        use("gs, well", "gs://models/secrets", {"endpoint_url": gcs.origin, "credentials_file": key})
        for how, status in (("refused", 403), ("failing", 500)):
            origin = stack.enter_context(ScriptedServer(echo(status))).origin
            session = {"aws_session_token": "canary-session", "endpoint_url": origin, "region_name": REGION}
            use(f"s3, {how}", "s3://models/secrets", {**options(s3), **session})
            use(f"gs, {how}", "gs://models/secrets", {"endpoint_url": origin, "credentials_file": key})
            use(f"az by key, {how}", "az://models/secrets", {"account_url": f"{origin}/a", "account_key": KEY})
            use(f"hf, {how}", "hf://org/secrets", {"endpoint": origin, "token": TOKEN})
            sas = {"account_url": f"{origin}/a", "sas_token": "sv=2022-11-02&sig=canary-sas"}
            use(f"az by SAS, {how}", "az://models/secrets", sas)
        path = folder / "uses.json"
        path.write_text(json.dumps(uses))
        with clean_environment(folder):
            done = subprocess.run(
                [sys.executable, TESTS / "faults" / "expose.py", path],
                env=dict(os.environ),
                capture_output=True,
                text=True,
                timeout=300,
            )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not [secret for secret in SECRETS if secret in done.stderr]
    sections = [section.partition("\n") for section in done.stdout.split("### ")[1:]]
    return {name: text for name, _, text in sections}


@pytest.mark.parametrize(("name", "outcome"), CASES.items(), ids=CASES)
def test_nothing_that_is_shown_has_a_secret(shown: dict[str, str], name: str, outcome: str) -> None:
    assert f"=> {outcome}\n" in shown[name], shown[name][-2000:]
    assert "secrets" in shown[name]  # the location
    assert [secret for secret in SECRETS if secret in shown[name]] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_that_the_commands_show_has_a_secret(shown: dict[str, str], name: str) -> None:
    text = shown[f"{name}, commands"]
    for command in ("inspect", "load", "pull", "doctor"):
        assert f"{command} {0 if CASES[name] == 'well' else 1} " in text, text[-3000:]
    assert "secrets" in text
    assert [secret for secret in SECRETS if secret in text] == []
