"""Credentials of google-auth: where they come from, and what its errors mean."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from .._errors import AuthError, ConfigError, ServerError, TimeoutError, WeightstreamError
from . import failures

EMULATOR = "STORAGE_EMULATOR_HOST"
VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
NOT_RENEWED = (
    "the token in storage_options['credentials'] has expired or is not accepted, and has nothing to be renewed with; "
    "the program has to pass a fresh one, or credentials that can renew themselves"
)

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"


def find(options: Mapping[str, Any], request: Any, where: str) -> Any:
    """Those of storage_options, or else the ones that google-auth finds. None: to be asked without any.

    Raises:
        ConfigError: two ways at once, or a file that has no credentials.
        AuthError: there are none.

    """
    auth = failures.sdk("google.auth", "gcs", "gs")
    given = [name for name in ("credentials", "credentials_file", "anonymous") if options.get(name)]
    if len(given) > 1:
        raise ConfigError(f"storage_options has {' and '.join(given)}; give one of them", source=where)
    if options.get("anonymous"):
        return None
    if options.get("credentials") is not None:
        if not hasattr(options["credentials"], "apply"):
            raise ConfigError("storage_options['credentials'] must be of google.auth", source=where)
        return options["credentials"]
    try:
        if options.get("credentials_file"):
            return _of_option(auth, options["credentials_file"], request, where)
        if os.environ.get(EMULATOR):
            return None

        def default() -> Any:
            return auth.default(scopes=[_SCOPE], request=request)[0]

        if os.environ.get(VARIABLE):
            return _of_file(VARIABLE, os.environ[VARIABLE], default, where)
        return default()
    except Exception as error:
        raise translated(error, where, "Google's token service", None) from None


def can_renew(credentials: Any) -> bool:
    """Whether they are more than a token that somebody has made elsewhere."""
    bare = failures.sdk("google.oauth2.credentials", "gcs", "gs").Credentials
    if not isinstance(credentials, bare):
        return True
    return bool(credentials.refresh_token or getattr(credentials, "refresh_handler", None))


def translated(error: Exception, source: str, endpoint: str, credentials: Any) -> WeightstreamError:
    """What google-auth or requests raised, as one of our errors. `credentials`: in use, or None."""
    if isinstance(error, WeightstreamError):
        return error
    exceptions = failures.sdk("google.auth.exceptions", "gcs", "gs")
    requests = failures.sdk("requests", "gcs", "gs")
    if isinstance(error, exceptions.DefaultCredentialsError):
        return AuthError(
            "there are no usable Google credentials; run `gcloud auth application-default login`, set "
            "GOOGLE_APPLICATION_CREDENTIALS to a credentials file that is there, or for a public bucket give "
            "storage_options={'anonymous': True}",
            source=source,
        )
    if isinstance(error, exceptions.TransportError):
        return failures.unreachable(error, source=source, endpoint="Google's token service")
    if isinstance(error, exceptions.RefreshError):
        if not can_renew(credentials):
            return AuthError(NOT_RENEWED, source=source)
        return AuthError(
            "Google refused to renew the credentials; run `gcloud auth application-default login` again, or check the "
            "service account",
            source=source,
        )
    if isinstance(error, exceptions.GoogleAuthError):
        return AuthError(f"the Google credentials cannot be used ({type(error).__name__})", source=source)
    if isinstance(error, requests.RequestException):
        return failures.unreachable(error, source=source, endpoint=endpoint)
    if isinstance(error, OSError):
        return TimeoutError(f"cannot reach {endpoint}: {type(error).__name__}", source=source)
    return ServerError(f"cannot use {endpoint}: {type(error).__name__}", source=source)


def _of_option(auth: Any, given: Any, request: Any, where: str) -> Any:
    option = "storage_options['credentials_file']"
    if not isinstance(given, (str, os.PathLike)):
        raise ConfigError(f"{option} must be a path, not {type(given).__name__}", source=where)
    path = os.path.expanduser(os.fspath(given))

    def load() -> Any:
        return auth.load_credentials_from_file(path, scopes=[_SCOPE], request=request)[0]

    return _of_file(option, path, load, where)


def _of_file(said: str, path: str, load: Callable[[], Any], where: str) -> Any:
    """What `load` makes of the file that `said` names."""
    exceptions = failures.sdk("google.auth.exceptions", "gcs", "gs")
    try:
        with open(path, "rb"):
            pass
        with warnings.catch_warnings():
            # It warns of files of unknown origin; this one was named by whoever loads.
            warnings.simplefilter("ignore", DeprecationWarning)
            return load()
    except FileNotFoundError:
        raise ConfigError(f"{said} names a file that is not there: {path}; check the path", source=where) from None
    except OSError as error:
        raise ConfigError(f"{said} names a file that cannot be read: {path}: {error.strerror}", source=where) from None
    except (exceptions.DefaultCredentialsError, ValueError):
        # The exception may repeat what is in the file.
        raise ConfigError(
            f"{said} names a file that has no credentials of Google: {path}; give the JSON file of a service "
            "account, of a workload identity or of `gcloud auth application-default login`",
            source=where,
        ) from None
