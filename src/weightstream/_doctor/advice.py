"""What to do about an error."""

from __future__ import annotations

from .._errors import (
    AuthError,
    ConfigError,
    FormatError,
    NotFoundError,
    ProtocolError,
    ServerError,
    SourceChangedError,
    StorageError,
    ThrottledError,
    TimeoutError,
    TruncatedError,
    WeightstreamError,
)

_BY_KIND: tuple[tuple[type[WeightstreamError], str], ...] = (
    (ConfigError, "correct the location or the setting"),
    (NotFoundError, "check how the location is spelt"),
    (AuthError, "check as whom this runs, and what that identity may read"),
    (TruncatedError, "an interrupted copy or upload? Copy the file again"),
    (FormatError, "copy the file again, or name another one"),
    (SourceChangedError, "somebody writes to it; try again when the writer is done"),
    (ThrottledError, "try again later, or lower --concurrency when loading"),
    (TimeoutError, "check the endpoint, the network and its firewalls"),
    (ServerError, "check the endpoint and the network, or try again later"),
    (ProtocolError, "check the endpoint, and whether a proxy stands in between"),
    (StorageError, "check the disk or the file server; the kernel's log (dmesg) may say more"),
)

# By the scheme of the location and the service's own name for the error, where that says more.
_AZURE_KEY = (
    "the step credentials says where the key, SAS or token comes from: check that it is of this account and has not "
    "ended, and copy it again; `az storage account keys list --account-name ACCOUNT` shows the keys"
)
_S3_SECRET = (
    "copy access key and secret key again, both from one place: a secret is easily cut short, or of another key; the "
    "step credentials says where they come from (storage_options before the environment before profiles)"
)
_S3_KEY = (
    "the step credentials says where the access key comes from: check that it is of this store and account, was not "
    "deleted, and has its session token with it if it is a temporary one"
)
_SIGNED_URL = "sign the URL again, and give all of it, in quotes: a shell cuts it off at the first &"
_CODES = {
    "az": {"AuthenticationFailed": _AZURE_KEY, "AuthorizationFailure": _AZURE_KEY},
    "s3": {"SignatureDoesNotMatch": _S3_SECRET, "InvalidAccessKeyId": _S3_KEY, "InvalidClientTokenId": _S3_KEY},
    "http": {"SignatureDoesNotMatch": _SIGNED_URL, "AuthenticationFailed": _SIGNED_URL},
}
_SCHEMES = {"abfs": "az", "abfss": "az", "https": "http"}

_RANGES = (
    "loading needs a server of byte ranges: nginx, Apache, Caddy or an object store (Python's http.server has none); "
    "if it is one, a proxy or CDN before it has to pass the header Range on"
)
_VARIABLES = "REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE"


def about(error: WeightstreamError) -> str | None:
    """What to do about it."""
    if isinstance(error.__context__, ModuleNotFoundError):
        return (
            "install it for the Python that runs weightstream with the command above (in a clone: pip install '.[all]')"
        )
    scheme = (error.source or "").partition("://")[0]
    scheme = _SCHEMES.get(scheme, scheme)
    if isinstance(error, AuthError) and error.service_code in _CODES.get(scheme, {}):
        return _CODES[scheme][error.service_code]
    if isinstance(error, ProtocolError) and "ignored the range" in error.message:
        return _RANGES
    if isinstance(error, (ProtocolError, ServerError)) and "not trusted" in error.message:
        return about_certificate(error.message, scheme)
    return next((advice for kind, advice in _BY_KIND if isinstance(error, kind)), None)


def about_certificate(said: str, scheme: str) -> str:
    """What to do about a certificate that was refused with these words, by OpenSSL's or libcurl's checks."""
    if "expired" in said or "not yet valid" in said:
        return "the server needs a new certificate, unless the clock of this machine is wrong"
    if "mismatch" in said or "subject name" in said:
        return "write the name that the certificate is for, or give the server one for this name"
    if scheme == "hf":
        return (
            "set SSL_CERT_FILE to the bundle of its CA (PEM) before the program starts, which counts for "
            "huggingface_hub and for reading; storage_options={'verify': PATH} counts for reading only"
        )
    aws = "AWS_CA_BUNDLE, " if scheme == "s3" else ""
    return (
        "name the bundle of its CA (PEM) by storage_options={'verify': PATH}, on the command line "
        """WEIGHTSTREAM_STORAGE_OPTIONS='{"verify": "PATH"}', or by a variable; of these the first counts that is """
        f"set: verify, {aws}{_VARIABLES}"
    )
