"""``s3://bucket/key``: Amazon S3 and what speaks its protocol, through boto3.

boto3 finds credentials, region and endpoint as it does everywhere: environment, profiles, SSO, web identity, container
and instance metadata, AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_S3. storage_options mirror its names: `profile_name`; the
arguments of a client (`endpoint_url`, `region_name`, `aws_access_key_id`, `aws_secret_access_key`,
`aws_session_token`, `use_ssl`, `api_version`, `verify`); `config`, the arguments of botocore's Config as a mapping
(``{"s3": {"addressing_style": "path"}}``); `requester_pays`; and `anonymous` for public buckets.

Objects are read by presigned URLs, which end when the credentials do, after an hour at the latest, and are made anew.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from .._errors import (
    AuthError,
    ConfigError,
    NotFoundError,
    ProtocolError,
    ServerError,
    ThrottledError,
    WeightstreamError,
)
from . import failures
from .description import ANONYMOUS, Description
from .keys import split_bucket
from .remote import Access, RemoteSource, Transport, note_plain, printable
from .store import Entry, Store

_CLIENT = frozenset({"endpoint_url", "region_name", "use_ssl", "api_version"})
_CREDENTIALS = frozenset({"aws_access_key_id", "aws_secret_access_key", "aws_session_token"})
OPTIONS = _CLIENT | _CREDENTIALS | {"profile_name", "config", "requester_pays", "anonymous"}

_METHODS = {
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
_AMAZON = re.compile(r"\.amazonaws\.com(\.cn)?$")
_LIFETIME = 3600  # seconds for which a URL is signed
_CHECK_ENDPOINT = "check the endpoint (endpoint_url of storage_options, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL)"
_NOT_S3 = f"the answer does not look like one of S3: {_CHECK_ENDPOINT} too, and whether a proxy stands in between"
# Two tries with these stay below 30 seconds.
_DEFAULTS = {
    "connect_timeout": 5,
    "read_timeout": 8,
    "retries": {"mode": "standard", "total_max_attempts": 2},
    # Else the mode of the checksum is signed into the URL, as a header that must be sent.
    "response_checksum_validation": "when_required",
    "signature_version": "s3v4",
}


def split(location: str) -> tuple[str, str]:
    """The bucket, and the key or prefix."""
    return split_bucket(location, "s3://bucket/key")


def connect(root: str, options: Mapping[str, Any]) -> S3Store:
    """Opens `root`, a bucket."""
    boto3 = failures.sdk("boto3", "s3", "s3")
    botocore_config = failures.sdk("botocore.config", "s3", "s3")
    botocore_session = failures.sdk("botocore.session", "s3", "s3")
    exceptions = failures.sdk("botocore.exceptions", "s3", "s3")
    where = f"s3://{root}"
    given = options.get("config") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"storage_options['config'] must be a mapping, not {type(given).__name__}", source=where)
    config = {**_DEFAULTS, **given}
    if options.get("anonymous"):
        config["signature_version"] = failures.sdk("botocore", "s3", "s3").UNSIGNED

    def client_of(settings: Mapping[str, Any], **region: str) -> Any:
        arguments = {**{name: options[name] for name in _CLIENT if name in options}, **region}
        return session.client("s3", config=botocore_config.Config(**settings), verify=transport.sdk_verify, **arguments)

    try:
        core_session = botocore_session.Session(profile=options.get("profile_name"))
        transport = Transport.of(options, core_session.get_config_variable("ca_bundle"))
        session = boto3.Session(
            botocore_session=core_session,
            region_name=options.get("region_name"),
            **{name: options[name] for name in _CREDENTIALS if name in options},
        )
        client = client_of(config)
        style = (client.meta.config.s3 or {}).get("addressing_style") or "auto"
        if style == "auto" and _AMAZON.search(client.meta.endpoint_url):
            # Else URLs are signed for the global endpoint, which sends who asks for a new bucket elsewhere.
            config["s3"] = {**(config.get("s3") or {}), "addressing_style": "virtual"}
            client = client_of(config)
    except (exceptions.BotoCoreError, ValueError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        if isinstance(error, _login_errors(exceptions)):  # some chains are asked at once
            raise _no_login(error, where) from None
        raise ConfigError(f"boto3 does not take these settings: {_text(error)}", source=where) from None
    return S3Store(root, session, client, lambda region: client_of(config, region_name=region), transport, options)


def describe(root: str, key: str, options: Mapping[str, Any]) -> Description:
    """How a bucket is reached."""
    with connect(root, options) as store:
        return store.describe(key)


class S3Store(Store):
    """One bucket."""

    def __init__(
        self,
        bucket: str,
        session: Any,
        client: Any,
        client_in: Callable[[str], Any],
        transport: Transport,
        options: Mapping[str, Any],
    ) -> None:
        self._bucket = bucket
        self._session = session
        self._client = client
        self._client_in = client_in  # another region
        self._region: str = client.meta.region_name
        # The SDK finds out where a bucket is, and signs its own requests for there, but not URLs.
        client.meta.events.register("request-created.s3", self._remember_region)
        self._transport = transport
        self._anonymous = bool(options.get("anonymous"))
        self._payer = {"RequestPayer": "requester"} if options.get("requester_pays") else {}

    def describe(self, key: str) -> Description:
        """How it is reached."""

        def credentials() -> str | None:
            if self._anonymous:
                return ANONYMOUS
            try:
                found = self._session.get_credentials()
                if found is None:
                    return None
                found.get_frozen_credentials()  # those that end are fetched now
            except Exception as error:
                raise self._translated(error, key, "find credentials") from None
            profile = self._session.profile_name
            of_profile = f", profile {profile}" if profile != "default" and "file" in found.method else ""
            return _METHODS.get(found.method, str(found.method)) + of_profile

        meta = self._client.meta
        root = f"s3://{self._bucket}"
        return Description.of(root, key, meta.endpoint_url, self._transport, credentials, meta.region_name)

    def name(self, key: str) -> str:
        """As an s3:// URL."""
        return f"s3://{self._bucket}/{key}"

    def entries(self, prefix: str, recursive: bool) -> Iterable[Entry]:
        """By ListObjectsV2."""
        folder = {} if recursive else {"Delimiter": "/"}
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix, **folder, **self._payer
            )
            for page in pages:
                yield from self._contents(page, prefix)
        except Exception as error:
            raise self._translated(error, prefix, "list the bucket") from None

    def find(self, key: str) -> Entry:
        """By HeadObject, which also finds out the region of the bucket for the signatures to come."""
        try:
            found = self._client.head_object(Bucket=self._bucket, Key=key, **self._payer)
        except Exception as error:
            raise self._missing(self._translated(error, key, "read the object"), key) from None
        return Entry(key, found.get("ContentLength"), found.get("ETag"))

    def source(self, entry: Entry) -> RemoteSource:
        """By a presigned URL."""
        return RemoteSource(
            self.name(entry.key),
            self._sign(entry.key),
            entry.size,
            entry.etag,
            None if self._anonymous else lambda: self._sign(entry.key),
            self._transport,
        )

    def close(self) -> None:
        """Closes idle connections; the client opens them again when it needs them."""
        self._client.close()

    def _contents(self, page: Mapping[str, Any], prefix: str) -> Iterable[Entry]:
        if "Name" not in page and "KeyCount" not in page:
            message = f"{self._endpoint()} answered something else than S3 would; {_CHECK_ENDPOINT}"
            raise ProtocolError(message, source=self.name(prefix))
        return [Entry(found["Key"], found.get("Size"), found.get("ETag")) for found in page.get("Contents", ())]

    def _sign(self, key: str) -> Access:
        try:
            if self._region != self._client.meta.region_name:
                self._client.close()
                self._client = self._client_in(self._region)
            lifetime = self._lifetime()
            signed_at = time.time()
            url = self._client.generate_presigned_url(
                "get_object", Params={"Bucket": self._bucket, "Key": key, **self._payer}, ExpiresIn=lifetime
            )
        except Exception as error:
            raise self._translated(error, key, "sign a URL") from None
        if not self._anonymous:
            note_plain(self._endpoint(), "signed URLs travel")
        headers = {"x-amz-request-payer": "requester"} if self._payer else {}
        return Access(url, headers, None if self._anonymous else signed_at + lifetime)

    def _remember_region(self, request: Any, **_: Any) -> None:
        region = request.context.get("signing", {}).get("region")
        if region and region != "*":  # of a request that is valid in all regions
            self._region = region

    def _lifetime(self) -> int:
        """Seconds until the credentials end, an hour at most: a URL does not outlive what signed it."""
        credentials = None if self._anonymous else self._session.get_credentials()
        if credentials is None:
            return _LIFETIME
        credentials.get_frozen_credentials()  # renews them when they are about to end
        ends_within = getattr(credentials, "refresh_needed", None)  # of those that end
        if ends_within is None or not ends_within(refresh_in=_LIFETIME):
            return _LIFETIME
        low, high = 1, _LIFETIME
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if ends_within(refresh_in=middle) else (middle, high)
        return low

    def _missing(self, error: WeightstreamError, key: str) -> WeightstreamError:
        """The answer to HeadObject has no body: whether the key or the bucket is missing takes another question."""
        if not isinstance(error, NotFoundError):
            return error
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except Exception as why:
            response = getattr(why, "response", {})
            other = self._translated(why, key, "find the bucket")
            if isinstance(other, NotFoundError):
                return failures.answered(
                    404,
                    f"there is no bucket {self._bucket!r} at {self._endpoint()}",
                    source=self.name(key),
                    request_id=other.request_id,
                    kind=NotFoundError,
                    hint="check its name and the endpoint" if _is_of_s3(response) else f"check its name; {_NOT_S3}",
                )
        return error

    def _endpoint(self) -> str:
        return printable(self._client.meta.endpoint_url)

    def _endpoint_of(self, error: Any) -> str:
        """Whom a request went to that met no answer: the endpoint, or a service that hands out credentials."""
        asked = error.kwargs.get("endpoint_url")  # the URL of the request
        url = urlsplit(str(asked))
        host = url.hostname or ""
        if not asked or host.startswith(f"{self._bucket}.") or url.path.split("/")[1:2] == [self._bucket]:
            return self._endpoint()
        return f"{url.scheme}://{host}, where credentials come from"

    def _translated(self, error: Exception, key: str, doing: str) -> WeightstreamError:
        if isinstance(error, WeightstreamError):
            return error
        exceptions = failures.sdk("botocore.exceptions", "s3", "s3")
        source = self.name(key)
        if isinstance(error, exceptions.ClientError):
            if error.operation_name not in self._client.meta.service_model.operation_names:
                return _login_refused(error, source)
            return self._refused(error.response, source, doing)
        if isinstance(error, (exceptions.NoCredentialsError, exceptions.PartialCredentialsError)):
            return AuthError(
                "there are no AWS credentials; set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, run "
                "`aws sso login`, or for a public bucket give storage_options={'anonymous': True}",
                source=source,
            )
        if isinstance(error, _login_errors(exceptions)):
            return _no_login(error, source)
        transport = (exceptions.HTTPClientError, exceptions.ConnectionError)
        if isinstance(error, transport):
            return failures.unreachable(
                error, source=source, endpoint=self._endpoint_of(error), trust=self._transport.trust
            )
        if isinstance(error, RecursionError):  # botocore asks who redirects where the bucket is, and is redirected
            return ProtocolError(
                f"cannot {doing}: {self._endpoint()} redirects without a region; {_NOT_S3}", source=source
            )
        if isinstance(error, (exceptions.BotoCoreError, ValueError)):
            return ConfigError(f"cannot {doing}: {_text(error)}", source=source)
        return ServerError(f"cannot {doing} at {self._endpoint()}: {type(error).__name__}", source=source)

    def _refused(self, response: Mapping[str, Any], source: str, doing: str) -> WeightstreamError:
        error, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
        status = int(meta.get("HTTPStatusCode") or 0)
        headers = meta.get("HTTPHeaders", {})
        code = str(error.get("Code") or "")
        region = headers.get("x-amz-bucket-region") or error.get("Region")
        kind: type[WeightstreamError] | None = None
        at = f"bucket {self._bucket!r} at {self._endpoint()}, region {self._client.meta.region_name}"
        what, hint = f"cannot {doing}: {at}", None
        of_s3 = _is_of_s3(response)
        if not of_s3 and (300 <= status < 400 or (status == 404 and "list" in doing)):
            pass  # neither says anything about regions and keys then
        elif code == "NoSuchBucket":
            kind, what, hint = NotFoundError, f"there is no {at}", "check its name and the endpoint"
        elif status == 404 or code == "NoSuchKey":
            kind, what, hint = NotFoundError, f"there is no such object in {at}", "check the key"
        elif status in (301, 307) or code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocation"):
            there = f" {region!r}" if region else ""
            kind, what = ConfigError, f"wrong region: {at}, is in{there or ' another one'}"
            hint = f"give storage_options={{'region_name':{there or ' ...'}}} or set AWS_DEFAULT_REGION"
        elif code in ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"):
            kind, hint = AuthError, "the credentials have expired: log in again"
        elif code in ("InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken"):
            kind, hint = AuthError, "the service does not know the access key or token: check the credentials"
        elif code == "SignatureDoesNotMatch":
            kind, hint = AuthError, "the secret access key is not the one of the access key"
        elif code == "RequestTimeTooSkewed":
            kind, hint = AuthError, "the clock of this machine is wrong"
        elif status in (401, 403):
            kind, hint = AuthError, "this identity needs s3:ListBucket"
            if "list" not in doing:
                hint = "this identity needs s3:GetObject; without s3:ListBucket a missing key looks like this too"
        elif code in ("SlowDown", "RequestLimitExceeded", "TooManyRequests", "Throttling", "ThrottlingException"):
            kind = ThrottledError
        if not of_s3 and status < 500 and kind is not ThrottledError:
            hint = f"{hint}; {_NOT_S3}" if hint else _NOT_S3
        return failures.answered(
            status,
            what,
            source=source,
            code=None if code == str(status) else code,
            request_id=meta.get("RequestId") or headers.get("x-amz-request-id"),
            kind=kind,
            hint=hint,
        )


def _login_errors(exceptions: Any) -> tuple[type[Exception], ...]:
    """What botocore raises when it knows where credentials should come from, and gets none."""
    return (
        exceptions.CredentialRetrievalError,
        exceptions.UnauthorizedSSOTokenError,
        exceptions.SSOError,
        exceptions.RefreshWithMFAUnsupportedError,
        exceptions.MetadataRetrievalError,
    )


def _no_login(error: Exception, source: str) -> AuthError:
    # Its text may repeat what a service or a program said.
    return AuthError(
        f"AWS credentials cannot be had ({type(error).__name__}); log in again, or check the role of this machine, "
        "task or pod",
        source=source,
    )


def _login_refused(error: Any, source: str) -> WeightstreamError:
    """A service that hands out credentials, STS or the portal of SSO, has refused them."""
    response, asked = error.response, str(error.operation_name)
    meta = response.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode") or 0)
    hint = "check the role and its trust policy, and who asks for it"
    if asked == "GetRoleCredentials":
        hint = "log in again (`aws sso login`), and check the account and the role of the profile"
    return failures.answered(
        status,
        f"AWS credentials cannot be had: {asked} was refused",
        source=source,
        code=str(response.get("Error", {}).get("Code") or "") or None,
        request_id=meta.get("RequestId"),
        kind=AuthError if status < 500 and status != 429 else None,
        hint=hint,
    )


def _is_of_s3(response: Mapping[str, Any]) -> bool:
    """Whether a refusal has anything of S3: a code, a request id or a header. Those of HEAD have no code."""
    error, meta = response.get("Error", {}), response.get("ResponseMetadata", {})
    if error.get("Code") not in (None, "", str(meta.get("HTTPStatusCode"))):
        return True
    return bool(meta.get("RequestId")) or any(name.lower().startswith("x-amz") for name in meta.get("HTTPHeaders", {}))


def _text(error: Exception) -> str:
    """Texts of botocore's own errors name settings and profiles, not their values."""
    return f"{type(error).__name__}: {error}"
