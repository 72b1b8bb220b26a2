"""From a location to its bytes, one step after the other; each needs what the one before has found."""

from __future__ import annotations

import mmap
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

from .. import _config, _log, sources
from .._errors import AuthError, ConfigError, NotFoundError, StorageError, WeightstreamError
from .._format import bytes_text, count_text, printable, seconds_text
from ..sources.remote import is_plain_elsewhere
from ..sources.remote import printable as without_secrets
from ..sources.renewal import Renewer
from . import machine, network, speed
from .steps import Clock, Step, failed

# So that a step ends in its time; what the user has set wins.
_QUICK = {
    "max_attempts": 3,
    "connect_timeout": 4,
    "connect_attempts": 1,
    "backoff_cap": 1,
    "stall_seconds": 5,
    "first_byte_seconds": 6,
    "first_answer_seconds": 7,
    "deadline": 8,
    "hedge_seconds": 0,
}
_BLOCK = 4096


class Examination:
    """The steps of one location."""

    def __init__(self, location: str, clock: Clock) -> None:
        self._location = location
        self._scheme = location.partition("://")[0].lower()
        self._clock = clock
        self._options: dict[str, Any] = {}
        self._description: sources.Description | None = None
        self._resolved = sources.Resolved()

    def steps(self) -> Iterator[Step]:
        """Does one after the other, up to the first that fails.

        The step "network" goes its own way, and may be wrong about what the SDK and the core can reach: when a header
        comes over, it is a warning.
        """
        held: list[Step] = []
        for step in self._steps():
            if held or (step.name == "network" and step.status == "fail"):
                held.append(step)
                if step.name == "header" and step.status == "ok":
                    held[0] = replace(held[0], status="warn", advice=f"it works nevertheless; else {held[0].advice}")
                elif len(held) == 1 or step.status != "fail":
                    continue
                yield from held
                held = []
            else:
                yield step
        yield from held

    def _steps(self) -> Iterator[Step]:
        run = self._clock.run
        yield (step := run("location", self._understand, 8))
        if step.status == "fail":
            return
        described = self._description
        if described is not None:
            yield run("credentials", self._credentials, 8)
            if described.endpoint is not None:
                way = network.Way(described.endpoint, self._scheme, described.verify, described.ca_bundle)
                yield run("network", way.step, network.SECONDS + 1)
        # The SDKs ask twice, and wait 18 seconds in all, before they say that nobody answers.
        yield (step := run("listing", self._list, 21))
        if step.status == "fail":
            return
        if isinstance(self._resolved.sources[0], sources.LocalSource):
            yield run("direct io", self._direct, 4)
        try:
            renewer = Renewer(self._resolved.sources)  # here the core looks at URLs and settings
        except WeightstreamError as error:
            yield failed("header", error)
            return
        with renewer, _log.forwarding() as log:
            yield from self._reads(renewer.objects, log)

    def _reads(self, objects: list[Any], log: Any) -> Iterator[Step]:
        """What reading finds, with the core's objects."""
        run = self._clock.run
        yield (step := run("header", lambda: self._header(objects, log), 9))
        if step.status == "fail":
            return
        core: Any = import_module("weightstream._core")
        opened: list[Any] = []

        def read() -> Step:
            opened.append(core.Sources.open(objects, log))
            return speed.one_read(opened[0])

        yield (step := run("read", read, 9))
        if step.status == "fail" or not opened:
            return
        available = machine.memory().details["available"]
        # Half of what is left goes to a storage that is so slow that one read takes seconds.
        seconds = min(6.0, self._clock.left / 2)
        step = run("throughput", lambda: speed.throughput(opened[0], available, seconds), self._clock.left)
        yield step
        reasons = step.details.get("reasons")
        if reasons:
            yield Step("reader", "ok", "; ".join(printable(reason) for reason in reasons[:3]))

    def _understand(self) -> Step:
        settings = _config.resolve()
        self._options = dict(settings.storage_options)
        self._description = sources.describe(self._location, self._options)
        if self._description is None:
            path = os.path.abspath(os.path.expanduser(self._location.removeprefix("file://")))
            mount, kind = _mount_of(path)
            details: dict[str, Any] = {"kind": "local", "path": path, "filesystem": kind, "mount": mount}
            return Step("location", "ok", f"the local path {printable(path)}, on {kind} at {mount}", None, details)
        given = self._options.get("http")
        self._options["http"] = {**_QUICK, **(given if isinstance(given, dict) else {})}
        described = self._description
        details = {
            "kind": self._scheme,
            "root": described.root,
            "key": described.key,
            "endpoint": described.endpoint,
            "region": described.region,
            "ca_bundle": described.ca_bundle,
            "verify": described.verify,
        }
        summary = f"{described.root}, key {described.key!r}" if described.key else described.root
        if described.endpoint is not None:
            summary += f", at {described.endpoint}"
        if described.region is not None:
            summary += f", region {described.region}"
        if described.ca_bundle is not None:
            summary += f", CA bundle {described.ca_bundle}"
        if described.endpoint is not None and is_plain_elsewhere(described.endpoint):
            return Step("location", "warn", f"{summary}, unencrypted", "use https, if the endpoint has it", details)
        return Step("location", "ok", summary, None, details)

    def _credentials(self) -> Step:
        assert self._description is not None
        found = self._description.credentials()
        details = {"source": found}
        if found is None:
            advice = "log in, set the credentials in the environment, or say in storage_options that it is public"
            return Step("credentials", "warn", "none were found", advice, details)
        return Step("credentials", "ok", found, None, details)

    def _list(self) -> Step:
        began = time.monotonic()
        self._resolved = sources.resolve(self._location, self._options)
        took = time.monotonic() - began
        found = self._resolved.sources
        sizes = [_size_of(source) for source in found]
        known = [size for size in sizes if size is not None]
        details: dict[str, Any] = {
            "files": len(found),
            "bytes": sum(known) if len(known) == len(sizes) else None,
            "index": self._resolved.weight_map is not None,
            "seconds": took,
        }
        if self._scheme in ("http", "https") and self._resolved.weight_map is None:
            summary = "nothing was asked: web servers list nothing; the header shows whether the file is there"
            return Step("listing", "ok", summary, None, details)
        summary = count_text(len(found), "safetensors file")
        if known:
            summary += f", {bytes_text(sum(known))}"
        if self._resolved.weight_map is not None:
            summary += f", by an index of {count_text(len(self._resolved.weight_map), 'tensor')}"
        summary += f", found in {seconds_text(took)}"
        return Step("listing", "ok", summary, None, details)

    def _header(self, objects: list[Any], log: Any) -> Step:
        core: Any = import_module("weightstream._core")
        began = time.monotonic()
        checkpoint = core.Checkpoint.open(objects[:1], None, log)
        took = time.monotonic() - began
        size, tensors, header = checkpoint.source(0)
        name = without_secrets(self._resolved.sources[0].name).rpartition("/")[2]
        summary = f"{printable(name)}: {count_text(tensors, 'tensor')}, read and checked in {seconds_text(took)}"
        details = {"tensors": tensors, "header_bytes": header, "size": size, "seconds": took}
        return Step("header", "ok", summary, None, details)

    def _direct(self) -> Step:
        """Whether the filesystem takes reads that go past the page cache."""
        path = self._resolved.sources[0].name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
            try:
                with mmap.mmap(-1, _BLOCK) as aligned:
                    os.preadv(fd, [aligned], 0)
            finally:
                os.close(fd)
        except OSError as error:
            summary = f"the filesystem refuses O_DIRECT ({error.strerror}); files are read through the page cache"
            return Step("direct io", "ok", summary, None, {"allowed": False, "errno": error.errno})
        return Step("direct io", "ok", "the filesystem takes O_DIRECT", None, {"allowed": True})


def _size_of(source: sources.Source) -> int | None:
    if isinstance(source, sources.RemoteSource):
        return source.size
    try:
        status = os.stat(source.path)
    except FileNotFoundError as error:
        raise NotFoundError("no such file", source=source.path, errno=error.errno) from None
    except PermissionError as error:
        raise AuthError("permission denied", source=source.path, errno=error.errno) from None
    except OSError as error:
        raise StorageError(f"cannot read it: {error.strerror}", source=source.path, errno=error.errno) from None
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for a writer
        raise ConfigError("not a regular file", source=source.path)
    return status.st_size


def _mount_of(path: str) -> tuple[str, str]:
    """Where the filesystem of a path is mounted, and its type."""
    path = os.path.realpath(path)
    best = ("/", "an unknown filesystem")
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                words, _, rest = line.partition(" - ")
                mount = words.split()[4].replace("\\040", " ")
                below = path == mount or path.startswith(mount.rstrip("/") + "/")
                if below and len(mount) >= len(best[0]):
                    best = (mount, rest.split()[0])
    except OSError:
        pass
    return best
