"""Secrets stay secret: whatever happens, none is in a message, log, repr or traceback, nor in what commands print."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from processes import TESTS, environment
from servers.actions import Body, Fin, Head, Longer, Redirect, Rst, Serve, Stall, Status, Whole
from servers.certificates import Authority
from servers.loads import QUICK, Model
from servers.programs import free_ports
from servers.scripted import MODEL, Action, ScriptedServer
from weightstream import _config, sources

# Each is in one of the places where secrets travel.
QUERY, PASSWORD, HEADER, SIGNED, BODY = (
    f"canary-{place}" for place in ("query", "password", "header", "signed", "body")
)
ECHO = f"<Error><Code>AccessDenied</Code><Message>{QUERY} {HEADER}</Message><StringToSign>{BODY}</StringToSign></Error>"
SIGNATURE = f"sig={SIGNED}"
HASTY = {**QUICK, "max_attempts": 2}


@dataclass(frozen=True)
class Case:
    """What a server does, and what comes of it. "{cdn}" is another server, "{nobody}" an origin without one."""

    name: str
    outcome: str
    actions: tuple[Action, ...]
    after: int = 0  # the requests before the first one that meets the actions
    http: dict[str, Any] = field(default_factory=lambda: dict(HASTY))


def case(name: str, outcome: str, *actions: Action, **more: Any) -> Case:
    return Case(name, outcome, actions, **more)


CASES = [
    case("well", "well"),
    case("refused", "AuthError", Status(403, body=ECHO)),
    case("unauthorised", "AuthError", Status(401, {"WWW-Authenticate": f"Bearer {BODY}"}, ECHO)),
    case("missing", "NotFoundError", Status(404, body=ECHO)),
    case("missing later", "NotFoundError", Status(404, body=ECHO), after=3),
    case("bad request", "ServerError", Status(400, body=ECHO)),
    case("failing", "ServerError", Status(500, body=ECHO)),
    case("throttling", "ThrottledError", Status(429, {"Retry-After": "0"}, ECHO)),
    case("cut", "TruncatedError", Body(10), Fin(), after=1),
    case("reset", "ServerError", Rst()),
    case("silent", "TimeoutError", Stall(30), http={**HASTY, "first_byte_seconds": 0.1, "connect_timeout": 0.2}),
    case("deadline", "TimeoutError", Body(10), Stall(30), http={**HASTY, "deadline": 0.2}),
    case("too much", "ProtocolError", Longer(b"more")),
    case("another range", "ProtocolError", Serve(5, 10)),
    case("whole", "ProtocolError", Whole()),
    case("changed", "SourceChangedError", Head({"ETag": '"another"'}), after=1),
    case("replaced", "SourceChangedError", Status(412, body=ECHO), after=1),
    case("region", "ConfigError", Status(301, {"x-amz-bucket-region": "eu"}, ECHO)),
    case("redirected", "well", Redirect(f"{{cdn}}{MODEL}?{SIGNATURE}")),
    case("redirected to nothing", "NotFoundError", Redirect(f"{{cdn}}/nothing?{SIGNATURE}")),
    case("redirected to a refusal", "AuthError", Redirect(f"{{cdn}}/refused?{SIGNATURE}")),
    case("redirected with a password", "ServerError", Redirect(f"{{nobody}}/x?{SIGNATURE}")),
    case("redirected to a file", "ProtocolError", Redirect(f"file:///etc/passwd?{SIGNATURE}")),
    case("redirected to no URL", "ProtocolError", Redirect(f"http://[{SIGNED}/?{SIGNATURE}")),
    case("redirected for ever", "ProtocolError", Redirect(f"{MODEL}?{SIGNATURE}")),
    case("a page", "FormatError"),
    case("a certificate", "ProtocolError"),
]
COMMANDS = ("well", "refused", "missing later", "failing", "a certificate")


@pytest.fixture(scope="module")
def shown(remote_model: Model, authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What expose.py printed, by case."""
    with contextlib.ExitStack() as stack:
        cdn = stack.enter_context(ScriptedServer(remote_model.data))
        cdn.when(lambda request: request.path == "/refused", Status(403, body=ECHO))
        (port,) = free_ports(1)
        places = {"{cdn}": cdn.origin, "{nobody}": f"http://someone:{SIGNED}@127.0.0.1:{port}"}
        uses: list[tuple[str, str, str, dict[str, Any]]] = []
        for one in CASES:
            data = f"<!DOCTYPE html><html>{ECHO}".encode() if one.name == "a page" else remote_model.data
            tls = authority.context() if one.name == "a certificate" else None
            server = stack.enter_context(ScriptedServer(data, tls=tls))
            if one.actions:
                actions = [in_place(action, places) for action in one.actions]
                server.when(lambda request, after=one.after: request.number > after, *actions)  # type: ignore[misc]
            url = f"{server.url()}?token={QUERY}&X-Amz-Signature={QUERY}#{QUERY}"
            with_user = url.replace("://", f"://user:{PASSWORD}@")
            uses.append((one.name, "python", url, {"http": one.http, "headers": {"X-Api-Key": HEADER}}))
            uses.append((f"{one.name}, a user", "python", with_user, {"http": one.http}))
            if one.name in COMMANDS:
                uses.append(
                    (f"{one.name}, commands", "command", url, {"http": one.http, "headers": {"X-Api-Key": HEADER}})
                )
        path = tmp_path_factory.mktemp("secrets") / "uses.json"
        path.write_text(json.dumps(uses))
        done = subprocess.run(
            [sys.executable, "-W", "error", TESTS / "faults" / "expose.py", path],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "canary" not in done.stderr
    sections = [section.partition("\n") for section in done.stdout.split("### ")[1:]]
    return {name: text for name, _, text in sections}


def in_place(action: Action, places: dict[str, str]) -> Action:
    if isinstance(action, Redirect):
        for place, origin in places.items():
            action = Redirect(action.location.replace(place, origin))
    return action


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name)
def test_nothing_that_is_shown_has_a_secret(shown: dict[str, str], one: Case) -> None:
    for name in (one.name, f"{one.name}, a user"):
        assert f"=> {one.outcome}\n" in shown[name], shown[name][-2000:]
        assert MODEL in shown[name]
        assert "canary" not in shown[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_that_the_commands_show_has_a_secret(shown: dict[str, str], name: str) -> None:
    text = shown[f"{name}, commands"]
    for command in ("inspect", "load", "pull", "doctor"):
        assert f"{command} {0 if name == 'well' else 1} " in text, text[-3000:]
    assert MODEL in text
    assert "canary" not in text


@pytest.mark.parametrize(
    ("location", "options"),
    [
        (f"http://127.0.0.1:port/m.safetensors?x={QUERY}", {}),
        (f"http://user:{PASSWORD}@127.0.0.1:99999/m.safetensors?x={QUERY}", {}),
        (f"http://user:{PASSWORD}@/m.safetensors?x={QUERY}", {}),
        (f"http://user:{PASSWORD}@127.0.0.1/?x={QUERY}", {}),
        (f"http://user:{PASSWORD}@127.0.0.1/a b?x={QUERY}", {}),
        (f"http://user:{PASSWORD}@[::1/m.safetensors?x={QUERY}", {}),
        (f"http://user:{PASSWORD}@192.0.2.1/m.safetensors?x={QUERY}", {}),  # plain HTTP to another machine
        (f"http://192.0.2.1/m.safetensors?x={QUERY}", {"headers": {"Authorization": f"Bearer {HEADER}"}}),
        (f"http://user:{PASSWORD}@127.0.0.1/m.safetensors", {"headers": {"Authorization": f"Bearer {HEADER}"}}),
        ("http://127.0.0.1/m.safetensors", {"headers": {"Authorization": f"Bearer {HEADER}\r\nX: y"}}),
        ("http://127.0.0.1/m.safetensors", {"headers": {"Authorization": f"Bearer {HEADER}\0"}}),
        ("http://127.0.0.1/m.safetensors", {"headers": {"Authorization": HEADER.encode()}}),
        ("http://127.0.0.1/m.safetensors", {"headers": [("Authorization", HEADER)]}),
        ("http://127.0.0.1/m.safetensors", {"headers": f"Authorization: {HEADER}"}),
        ("http://127.0.0.1/m.safetensors", {"headers": {"Range": HEADER}}),
        (f"ftp://user:{PASSWORD}@127.0.0.1/m.safetensors?x={QUERY}", {}),
        (f"https+x://user:{PASSWORD}@127.0.0.1/m.safetensors?x={QUERY}", {}),
    ],
)
def test_nothing_that_is_refused_at_once_is_repeated(location: str, options: dict[str, Any]) -> None:
    with pytest.raises(ws.ConfigError) as caught:
        ws.load(location, framework="numpy", storage_options=options)
    error = caught.value
    for said in (str(error), repr(error), repr(vars(error)), "".join(traceback.format_exception(error))):
        # The line of this test is part of a traceback; it names no value.
        assert "canary" not in said


def test_what_holds_secrets_does_not_show_them() -> None:
    location = f"https://user:{PASSWORD}@models.test/m.safetensors?x={QUERY}"
    options = {"headers": {"X-Api-Key": HEADER}, "token": SIGNED, "aws_secret_access_key": BODY}
    mine = {"headers": options["headers"]}
    settings = _config.resolve(storage_options=options)
    found, files = sources.resolve(location, mine), sources.list_files(location, mine)
    assert "canary" in str(settings.storage_options) + found.sources[0].access.url  # type: ignore[union-attr]
    for thing in (settings, found, files, sources.describe(location, mine)):
        assert "canary" not in f"{thing!r} {thing}"


def test_the_environment_is_not_repeated_either(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEIGHTSTREAM_STORAGE_OPTIONS", f'{{"headers": "{HEADER}"')
    with pytest.raises(ws.ConfigError, match="STORAGE_OPTIONS") as caught:
        ws.load("http://127.0.0.1/m.safetensors", framework="numpy")
    assert "canary" not in "".join(traceback.format_exception(caught.value))
