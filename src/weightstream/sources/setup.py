"""How a location is reached: endpoint, region, certificates, where credentials come from. For people, without secrets.

Nothing is asked over the network until `Setup.credentials()` is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from . import failures
from .remote import Transport, printable

_AWS_METHODS = {
    "explicit": "keys in storage_options",
    "env": "AWS_ACCESS_KEY_ID in the environment",
    "shared-credentials-file": "the shared credentials file of the AWS tools",
    "config-file": "the configuration file of the AWS tools",
    "iam-role": "the metadata service of the instance",
    "container-role": "the metadata service of the container",
    "assume-role": "an assumed role",
    "assume-role-with-web-identity": "a web identity token",
    "sso": "AWS SSO",
    "custom-process": "a credential process",
}


@dataclass(frozen=True)
class Setup:
    """How a store is reached.

    Attributes:
        root: the bucket, container, repository or folder.
        key: what stands behind it.
        endpoint: the URL of the service; None when none is asked.
        region: None where there are none.
        ca_bundle: what certificates are checked against; None for the system's.
        verify: whether they are checked.
        find_credentials: see `credentials`.

    """

    root: str
    key: str
    endpoint: str | None
    region: str | None
    ca_bundle: str | None
    verify: bool
    find_credentials: Callable[[], str | None] = field(repr=False, compare=False)

    def credentials(self) -> str | None:
        """Where they come from, never what they are; None when there are none. May take seconds.

        Raises:
            AuthError, ConfigError, ServerError, TimeoutError: they cannot be had.

        """
        return self.find_credentials()


def describe(scheme: str, module: Any, location: str, options: Mapping[str, Any]) -> Setup:
    """The setup of a URL, which `module` is the backend of.

    Raises:
        ConfigError: the location or a setting cannot work, or the SDK is not installed.

    """
    root, key = module.split(location)
    return _BY_SCHEME[scheme](module, root, key, options)


def _s3(module: Any, root: str, key: str, options: Mapping[str, Any]) -> Setup:
    with module.connect(root, options) as store:
        meta = store._client.meta

    def credentials() -> str | None:
        if options.get("anonymous"):
            return "none, as storage_options say: anonymous"
        try:
            found = store._session.get_credentials()
            if found is None:
                return None
            found.get_frozen_credentials()  # those that end are fetched now
        except Exception as error:
            raise store._translated(error, key, "find credentials") from None
        profile = store._session.profile_name
        of_profile = f", profile {profile}" if profile != "default" and "file" in found.method else ""
        return _AWS_METHODS.get(found.method, str(found.method)) + of_profile

    return _setup(f"s3://{root}", key, meta.endpoint_url, store._transport, credentials, meta.region_name)


def _gs(module: Any, root: str, key: str, options: Mapping[str, Any]) -> Setup:
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    endpoint = str(options.get("endpoint_url") or emulator or module._ENDPOINT).rstrip("/")
    if "://" not in endpoint:
        endpoint = f"http://{endpoint}"

    def credentials() -> str | None:
        with module.connect(root, options) as store:
            found = store._credentials
        if options.get("anonymous"):
            return "none, as storage_options say: anonymous"
        if found is None:
            return "none, as STORAGE_EMULATOR_HOST names an emulator"
        for name in ("credentials", "credentials_file"):
            if options.get(name):
                return f"{name} in storage_options"
        if os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
            return "the file that GOOGLE_APPLICATION_CREDENTIALS names"
        if "compute_engine" in type(found).__module__:
            return "the metadata server of the machine"
        return "application default credentials of gcloud"

    failures.sdk("requests", "gcs", "gs")
    failures.sdk("google.auth", "gcs", "gs")
    return _setup(f"gs://{root}", key, endpoint, Transport.of(options), credentials)


def _az(module: Any, root: str, key: str, options: Mapping[str, Any]) -> Setup:
    with module.connect(root, options) as store:
        endpoint = store._endpoint
    kind, _ = module._credential(options, f"az://{root}")

    def credentials() -> str | None:
        if kind == "anonymous":
            return "none, as storage_options say: anonymous"
        if options.get(kind):
            return f"{kind} in storage_options"
        for variable in module._VARIABLES.get(kind, ()):
            if os.environ.get(variable):
                return f"{variable} in the environment"
        return "the default chain of azure-identity"

    return _setup(f"az://{root}", key, endpoint, store._transport, credentials)


def _hf(_: Any, root: str, key: str, options: Mapping[str, Any]) -> Setup:
    hub = failures.sdk("huggingface_hub", "hf", "hf")
    constants = failures.sdk("huggingface_hub.constants", "hf", "hf")
    kind, _, repository = root.partition("/")
    name = f"hf://{'' if kind == 'model' else kind + 's/'}{repository.rstrip('@')}"

    def credentials() -> str | None:
        if constants.HF_HUB_OFFLINE:
            return "none are needed: HF_HUB_OFFLINE is set, and only the Hub's cache is read"
        if options.get("token"):
            return "token in storage_options"
        if options.get("token") is False or not hub.get_token():
            return "none; public repositories can be read"
        variable = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None)
        return f"{variable} in the environment" if variable else "the token of `hf auth login`"

    endpoint = None if constants.HF_HUB_OFFLINE else str(options.get("endpoint") or constants.ENDPOINT).rstrip("/")
    return _setup(name, key, endpoint, Transport.of(options), credentials)


def _http(module: Any, root: str, key: str, options: Mapping[str, Any]) -> Setup:
    with module.connect(root, options) as store:
        query = store._query
    url = urlsplit(root)

    def credentials() -> str | None:
        found = []
        if "@" in url.netloc:
            found.append("user and password in the URL")
        if options.get("headers"):
            found.append(f"the headers {', '.join(options['headers'])} of storage_options")
        if query:
            found.append("the query of the URL, if it is signed")
        return " and ".join(found) or "none"

    host = url.netloc.rpartition("@")[2]
    return _setup(printable(root), key, f"{url.scheme}://{host}", store._transport, credentials)


def _setup(
    root: str,
    key: str,
    endpoint: str | None,
    transport: Transport,
    credentials: Callable[[], str | None],
    region: str | None = None,
) -> Setup:
    shown = None if endpoint is None else printable(endpoint)
    return Setup(root, key, shown, region, transport.ca_bundle, transport.verify, credentials)


_BY_SCHEME = {
    "s3": _s3,
    "gs": _gs,
    "az": _az,
    "abfs": _az,
    "abfss": _az,
    "hf": _hf,
    "http": _http,
    "https": _http,
}
