"""The services that hand out credentials of AWS: metadata of instances and containers, STS, and the portal of SSO."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from servers.messages import Request, Response, plain
from servers.scripted import ScriptedServer

START_URL = "https://sso.test/start"
_TOKEN = "token-of-the-metadata-service"
_ROLES = "/latest/meta-data/iam/security-credentials/"


class Amazon:
    """One server that is all of them, for a `with` block. Each way of asking gets keys of its own, made anew each time.

    Attributes:
        lasts: seconds for which keys are good.
        refuses: whether nobody gets any.

    """

    def __init__(self, *, lasts: int = 1500, refuses: bool = False) -> None:
        self.lasts = lasts
        self.refuses = refuses
        self.made = 0
        self.server = ScriptedServer(self._answer)

    def __enter__(self) -> Amazon:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.close()

    def environment(self, way: str, folder: Path) -> dict[str, str]:
        """What a machine has set up there, besides the files in `folder`, its home."""
        home = folder / ".aws"
        home.mkdir(exist_ok=True)
        services = {f"AWS_ENDPOINT_URL_{name}": self.server.origin for name in ("STS", "SSO")}
        if way == "instance":
            return {"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.server.origin}
        if way == "container":
            return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": self.server.url("/container")}
        if way == "web identity":
            (folder / "web-token").write_text("token-of-the-pod")
            role = {"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/pod", "AWS_ROLE_SESSION_NAME": "pod"}
            return {**services, **role, "AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "web-token")}
        profile = "[profile models]\n"
        if way == "assumed role":
            profile += "role_arn = arn:aws:iam::123456789012:role/models\nsource_profile = base\n"
            (home / "credentials").write_text(
                "[base]\naws_access_key_id = AKBASE\naws_secret_access_key = of-the-base\n"
            )
        elif way == "sso":
            profile += f"sso_start_url = {START_URL}\nsso_region = eu-west-1\nsso_account_id = 123456789012\n"
            profile += "sso_role_name = reader\n"
            token = {"startUrl": START_URL, "region": "eu-west-1", "accessToken": "token-of-the-login"}
            cached = home / "sso" / "cache" / f"{hashlib.sha1(START_URL.encode()).hexdigest()}.json"
            cached.parent.mkdir(parents=True)
            cached.write_text(json.dumps({**token, "expiresAt": _later(3600)}))
        elif way == "process":
            keys = json.dumps({"Version": 1, **self._keys("process", "SessionToken")})
            (folder / "keys.json").write_text(keys)
            profile += f"credential_process = cat {folder / 'keys.json'}\n"
        else:
            raise ValueError(way)
        (home / "config").write_text(profile)
        return {**services, "AWS_PROFILE": "models"}

    def _answer(self, request: Request) -> Response:
        if self.refuses:
            code = "<Error><Code>AccessDenied</Code><Message>canary</Message></Error>"
            error = f"<ErrorResponse>{code}<RequestId>R1</RequestId></ErrorResponse>"
            return plain(403, error if request.method == "POST" else '{"message": "canary"}')
        if request.path == "/latest/api/token" and request.method == "PUT":
            return plain(200, _TOKEN)
        if request.path.startswith(_ROLES):
            if request.headers["X-aws-ec2-metadata-token"] != _TOKEN:
                return plain(401)
            return plain(200, "role") if request.path == _ROLES else _json(self._keys("instance"))
        if request.path == "/container":
            return _json(self._keys("container"))
        if request.path == "/federation/credentials":
            if request.headers["x-amz-sso_bearer_token"] != "token-of-the-login":
                return plain(401, "{}")
            keys = self._keys("sso", "sessionToken")
            ends = int(datetime.fromisoformat(keys.pop("Expiration").replace("Z", "+00:00")).timestamp() * 1000)
            keys = {name[0].lower() + name[1:]: value for name, value in keys.items()}
            return _json({"roleCredentials": {**keys, "expiration": ends}})
        action = parse_qs(request.body.decode()).get("Action", [""])[0]
        if action == "AssumeRole" and "Credential=AKBASE/" in (request.headers["Authorization"] or ""):
            return _assumed(action, self._keys("assumed role", "SessionToken"))
        if action == "AssumeRoleWithWebIdentity" and b"token-of-the-pod" in request.body:
            return _assumed(action, self._keys("web identity", "SessionToken"))
        return plain(404, "{}")

    def _keys(self, way: str, token: str = "Token") -> dict[str, Any]:
        self.made += 1
        name = way.replace(" ", "-")
        keys = {"AccessKeyId": f"AK-{name}-{self.made}", "SecretAccessKey": f"canary-secret-of-{name}"}
        return {"Code": "Success", **keys, token: f"session-of-{name}", "Expiration": _later(self.lasts)}


def _later(seconds: int) -> str:
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: Any) -> Response:
    return plain(200, json.dumps(value), {"Content-Type": "application/json"})


def _assumed(action: str, keys: dict[str, Any]) -> Response:
    keys.pop("Code")
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in keys.items())
    body = f"<{action}Result><Credentials>{inner}</Credentials></{action}Result>"
    namespace = 'xmlns="https://sts.amazonaws.com/doc/2011-06-15/"'
    return plain(200, f"<{action}Response {namespace}>{body}</{action}Response>", {"Content-Type": "text/xml"})
