"""How a location is reached: endpoint, region, certificates, where credentials come from. For people; no secrets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .remote import Transport, printable

ANONYMOUS = "none, as storage_options say: anonymous"


@dataclass(frozen=True)
class Description:
    """How a location is reached. Making one asks nothing over the network.

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

    @classmethod
    def of(
        cls,
        root: str,
        key: str,
        endpoint: str | None,
        transport: Transport,
        find_credentials: Callable[[], str | None],
        region: str | None = None,
    ) -> Description:
        """With the certificates of a transport, and the endpoint without what may be secret in it."""
        shown = None if endpoint is None else printable(endpoint)
        return cls(root, key, shown, region, transport.ca_bundle, transport.verify, find_credentials)

    def credentials(self) -> str | None:
        """Where they come from, never what they are; None when there are none. May take seconds.

        Raises:
            AuthError, ConfigError, ServerError, TimeoutError: they cannot be had.

        """
        return self.find_credentials()
