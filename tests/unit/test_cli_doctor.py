"""`weightstream doctor`: what it says of a local location and of the machine, and that it always comes to an end."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import weightstream as ws
from checkpoints import blocks, write_file, write_shards
from commands import invoke, run
from weightstream import _core, _doctor
from weightstream._doctor import machine, network, speed, steps, storage
from weightstream._doctor import proxy as doctor_proxy
from weightstream._doctor.steps import Clock, Step
from weightstream.sources import failures

MACHINE = ["software", "cpu", "memory", "limits", "io_uring", "huge pages", "accelerator", "gpudirect storage"]
LOCAL = ["location", "listing", "direct io", "header", "read", "throughput", "reader"]


@pytest.fixture(autouse=True)
def no_hard_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that hangs would end the tests without a word."""

    def end(status: int) -> None:
        raise AssertionError("a step hangs")

    monkeypatch.setattr(sys.modules["weightstream.cli.doctor"], "_end", end)


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """None of whoever runs the tests."""
    for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    return monkeypatch


def examine(location: Any, status: int = 0) -> dict[str, dict[str, Any]]:
    """The steps by name."""
    result = invoke("doctor", location, "--json")
    assert result.exit_code == status, result.output
    report = json.loads(result.stdout)
    assert report["ok"] is (status == 0)
    return {step["name"]: step for step in report["steps"]}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_LEVEL_SECONDS", 0.01)


@pytest.mark.usefixtures("quick")
def test_a_good_file(tmp_path: Path, no_leaks: Callable[[], None]) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(4, 5_000_000))
    found = examine(path)
    assert list(found) == MACHINE + LOCAL
    assert {step["status"] for name, step in found.items() if name in LOCAL} == {"ok"}
    assert found["location"]["details"]["path"] == str(path)
    assert str(path) in found["location"]["summary"]
    assert found["listing"]["details"]["bytes"] == path.stat().st_size
    assert found["header"]["details"]["tensors"] == 4
    assert 0 < found["read"]["details"]["median_seconds"] < 10
    levels = found["throughput"]["details"]["levels"]
    assert [level["concurrency"] for level in levels][:2] == [1, 2]
    assert all(level["bytes_per_second"] > 0 for level in levels)
    best = max(level["bytes_per_second"] for level in levels)
    assert found["throughput"]["details"]["gigabytes_per_second"] == best / 1e9
    assert "pread" in found["reader"]["summary"] or "uring" in found["reader"]["summary"]
    no_leaks()


@pytest.mark.usefixtures("quick")
def test_a_directory_with_an_index(shards: tuple[Path, dict[str, Any]]) -> None:
    found = examine(shards[0])
    assert found["listing"]["details"]["files"] == 12
    assert found["listing"]["details"]["index"] is True
    assert "12 safetensors files" in found["listing"]["summary"]
    assert "are too few to say much" in found["throughput"]["summary"]


@pytest.mark.parametrize(
    ("make", "step", "says"),
    [
        (lambda path: None, "listing", "no such file"),
        (lambda path: path.mkdir(), "listing", "has no *.safetensors file and no index"),
        (lambda path: os.mkfifo(path), "listing", "not a regular file"),
        (lambda path: path.write_bytes(b""), "header", "m: "),
        (lambda path: path.write_bytes(b"<html><body>Not here</body></html>"), "header", "HTML"),
        (lambda path: path.symlink_to("nowhere"), "listing", "no such file"),
    ],
    ids=["missing", "no weights", "a pipe", "empty", "a page", "a dangling link"],
)
def test_the_first_step_that_fails_is_the_last(
    tmp_path: Path, make: Callable[[Path], Any], step: str, says: str
) -> None:
    make(tmp_path / "m")
    found = examine(tmp_path / "m", 1)
    assert list(found)[-1] == step
    assert found[step]["status"] == "fail"
    assert says in found[step]["summary"]
    assert found[step]["advice"]


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("ftp://host/m", "ftp:// locations are not supported"),
        ("s3:///m", "no valid bucket"),
        ("https://host/", "does not list its files"),
        ("", "empty string"),
    ],
)
def test_a_location_that_cannot_be_understood(location: str, says: str) -> None:
    found = examine(location, 1)
    assert found["location"]["status"] == "fail"
    assert says in found["location"]["summary"]
    assert list(found)[-1] == "location"


def test_a_url_that_the_core_refuses_is_a_step() -> None:
    found = examine("http://no%20host/m.safetensors", 1)
    assert "not an http or https URL that can be requested" in found["header"]["summary"]
    assert list(found)[-1] == "header"


def test_the_advice_is_about_the_error() -> None:
    with pytest.raises(ws.ConfigError) as caught:
        failures.sdk("no_such_module", "gcs", "gs")
    advice = steps.failed("listing", caught.value).advice
    assert advice is not None
    assert advice.startswith("install it for the Python that runs weightstream")


_UNTRUSTED = "the certificate of https://h:443 is not trusted; name a private CA: SSL certificate problem: "


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ws.AuthError("no", source="az://c@a/k", service_code="AuthenticationFailed"), "copy it again"),
        (ws.AuthError("no", source="s3://b/k", service_code="SignatureDoesNotMatch"), "copy access key and secret key"),
        (ws.AuthError("no", source="s3://b/k", service_code="InvalidAccessKeyId"), "where the access key comes from"),
        (ws.AuthError("no", source="https://h/k", service_code="SignatureDoesNotMatch"), "sign the URL again"),
        (ws.AuthError("no", source="s3://b/k", service_code="AccessDenied"), "check as whom this runs"),
        (ws.ProtocolError("the server ignored the range and sent it all", source="https://h/k"), "byte ranges: nginx"),
        (ws.ProtocolError(f"{_UNTRUSTED}unable to get it", source="https://h/k"), "verify, REQUESTS_CA_BUNDLE, CURL"),
        (ws.ServerError("its TLS certificate is not trusted", source="s3://b"), "verify, AWS_CA_BUNDLE, REQUESTS_CA"),
        (ws.ServerError("its TLS certificate is not trusted", source="hf://o/m"), "set SSL_CERT_FILE"),
        (ws.ProtocolError(f"{_UNTRUSTED}certificate has expired", source="https://h/k"), "needs a new certificate"),
        (ws.ProtocolError(f"{_UNTRUSTED}no alternative certificate subject name"), "the name that the certificate"),
    ],
)
def test_the_advice_is_about_this_error(error: ws.WeightstreamError, says: str) -> None:
    assert says in str(steps.failed("listing", error).advice)


def test_a_setting_that_is_wrong_is_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSTREAM_STORAGE_OPTIONS", '{"region_name": "canary"}')
    found = examine(tmp_path, 1)
    assert "local files take no storage_options" in found["location"]["summary"]
    assert "canary" not in found["location"]["summary"]


def test_for_people(tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(1, 1000))
    result = run("doctor", path)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split("  ")[1].strip() for line in lines if not line.startswith("  ")][:2]
    assert any(line.startswith("ok    throughput  ") for line in lines)
    result = run("doctor", tmp_path / "nothing")
    assert result.returncode == 1
    assert result.stdout.splitlines()[-2:] == [
        f"fail  listing     {tmp_path / 'nothing'}: no such file (errno 2)",
        "                  -> check how the location is spelt",
    ]


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(1, 1000))
    program = (
        "import sys\nfrom weightstream._doctor import Doctor\n"
        f"steps = list(Doctor({str(path)!r}).steps())\n"
        "print([s.name for s in steps if s.status == 'fail'], {'torch', 'numpy', 'boto3'} & set(sys.modules))"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[] set()\n", "")


def test_a_step_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    release = threading.Event()
    clock = Clock(10)
    began = time.monotonic()
    step = clock.run("read", lambda: Step("read", "ok", str(release.wait(20))), 0.2)
    assert time.monotonic() - began < 2
    assert (step.status, step.summary) == ("fail", "it did not end within 0 seconds")
    assert clock.abandoned
    release.set()
    assert Clock(0).run("read", lambda: Step("read", "ok", ""), 1).summary == "there was no time left for it"


def test_the_command_ends_although_a_step_hangs(tmp_path: Path) -> None:
    program = f"""
import sys, time
sys.argv = ["weightstream", "doctor", {str(tmp_path)!r}]
from weightstream import _core, _doctor
from weightstream._doctor import machine, storage
_doctor._SECONDS = 1.0
storage.Examination._list = lambda self: time.sleep(100)
from weightstream.cli import main
main()
"""
    import subprocess

    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert time.monotonic() - began < 10
    assert (done.returncode, done.stderr) == (1, "")
    assert "fail  listing     it did not end within " in done.stdout


def test_an_error_that_nobody_expected_is_a_step_without_its_text() -> None:
    def broken() -> Step:
        raise KeyError("token-canary")

    step = Clock(5).run("listing", broken, 1)
    assert (step.status, step.summary) == ("fail", "an unexpected KeyError")
    assert "canary" not in json.dumps(step.as_dict())


@pytest.mark.parametrize("kind", [kind for kind in vars(ws).values() if isinstance(kind, type)], ids=repr)
def test_every_error_has_advice(kind: type) -> None:
    # Those that looking at a location cannot raise: no device, no module, nothing that is used after its end.
    others = (ws.WeightstreamError, ws.DeviceError, ws.MismatchError, ws.ClosedError)
    if not issubclass(kind, ws.WeightstreamError) or kind in others:
        return
    step = steps.failed("read", kind("it failed", source="s3://b/k", status=503))
    assert step.advice
    assert "s3://b/k: it failed" in step.summary
    assert step.details == {"error": kind.__name__, "http_status": 503}


def test_io_uring_that_is_refused_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, switch, advice in (
        (errno.EPERM, "0", "seccomp"),
        (errno.EPERM, "2", "sysctl kernel.io_uring_disabled=0"),
        (errno.ENOSYS, None, "Linux 5.6"),
    ):
        monkeypatch.setattr(machine, "_ring_error", lambda error=error: error)
        monkeypatch.setattr(machine, "_read", lambda path, switch=switch: switch)
        step = machine.io_uring()
        assert step.status == "warn"
        assert os.strerror(error) in step.summary
        assert advice in (step.advice or "")


def test_huge_pages_that_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, status in (("always madvise [never]", "warn"), ("[always] madvise never", "ok"), (None, "warn")):
        monkeypatch.setattr(machine, "_read", lambda path, text=text: text)
        assert machine.huge_pages().status == status


def test_gpudirect_storage_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = tmp_path / "libcufile.so.0"
    library.touch()
    monkeypatch.delenv("WEIGHTSTREAM_CUFILE_LIBRARY", raising=False)
    for gpus, found, module, summary in (
        (0, str(library), None, "no NVIDIA GPU"),
        (1, None, "version: 2.20", "there is no libcufile.so.0"),
        (1, str(library), None, "without nvidia-fs"),
        (1, str(library), "version: 2.20", 'libcufile.so.0, version: 2.20: backend="gds" may be used'),
    ):
        monkeypatch.setattr(machine, "_gpus", lambda gpus=gpus: gpus)
        monkeypatch.setattr(machine, "_cufile", lambda found=found: found)
        monkeypatch.setattr(machine, "_read", lambda path, module=module: module)
        step = machine.gpudirect_storage()
        assert step.status == "ok"
        assert summary in step.summary
    monkeypatch.setattr(machine, "_cufile", lambda: None)
    for named, status in ((str(library), "ok"), ("libcufile.so.0", "warn"), (str(tmp_path / "none"), "warn")):
        monkeypatch.setenv("WEIGHTSTREAM_CUFILE_LIBRARY", named)
        assert machine.gpudirect_storage().status == status


def test_the_tightest_control_group_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/meminfo": "MemTotal: 64 kB\nMemAvailable:   8000000 kB",
        "/proc/self/cgroup": "0::/pod/container",
        "/sys/fs/cgroup/pod/container/memory.max": "max",
        "/sys/fs/cgroup/pod/container/cpu.max": "max 100000",
        "/sys/fs/cgroup/pod/memory.max": "1000000000",
        "/sys/fs/cgroup/pod/memory.current": "900000000",
        "/sys/fs/cgroup/pod/cpu.max": "50000 100000",
    }
    monkeypatch.setattr(machine, "_read", files.get)
    monkeypatch.setattr(_core, "default_memory_limit", lambda: 64 << 20)
    step = machine.memory()
    assert step.status == "warn"
    assert step.details == {
        "available": 8_192_000_000,
        "cgroup_limit": 1_000_000_000,
        "cgroup_used": 900_000_000,
        "default_memory_limit": 64 << 20,
    }
    assert machine.cpu().details["quota"] == 0.5


def test_limits_that_are_low(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 256))
    step = machine.limits()
    assert (step.status, step.advice) == ("warn", "raise the limit of open files: ulimit -n 4096")


def test_a_name_that_cannot_be_resolved(no_proxies: pytest.MonkeyPatch) -> None:
    step = network.Way("https://nobody.invalid", "https").step()
    assert step.status == "fail"
    assert step.summary == "the name nobody.invalid cannot be resolved"
    assert step.advice == "check the endpoint's name, the network and /etc/resolv.conf"
    no_proxies.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert "HTTP_PROXY is set, which reading does not heed" in str(network.Way("http://nobody.invalid", "s3").step())


def test_a_proxy_is_what_is_connected(no_proxies: pytest.MonkeyPatch) -> None:
    no_proxies.setenv("https_proxy", "http://user:canary@127.0.0.1:1")
    step = network.Way("https://nobody.invalid", "https").step()
    assert step.status == "fail"
    assert "127.0.0.1:1 cannot be connected through the proxy http://127.0.0.1:1 (https_proxy)" in step.summary
    assert "canary" not in json.dumps(step.as_dict())
    no_proxies.setenv("https_proxy", "ftp://user:canary@127.0.0.1:1")
    step = network.Way("https://nobody.invalid", "https").step()
    assert (step.status, step.summary) == (
        "fail",
        "https_proxy names a proxy of a kind that is not supported: ftp://",
    )


@pytest.mark.parametrize(
    ("environment", "url", "found"),
    [
        ({"http_proxy": "proxy.example"}, "http://host", ("http_proxy", "proxy.example", 1080)),
        ({"http_proxy": "http://u:p@proxy.example/"}, "http://host", ("http_proxy", "proxy.example", 1080)),
        ({"http_proxy": "http://proxy.example:3128"}, "https://host", None),
        ({"https_proxy": "https://proxy.example"}, "https://host", ("https_proxy", "proxy.example", 443)),
        ({"HTTP_PROXY": "proxy.example"}, "http://host", None),
        ({"HTTPS_PROXY": "proxy.example:1"}, "https://host", ("HTTPS_PROXY", "proxy.example", 1)),
        ({"http_proxy": "", "all_proxy": "a:1"}, "http://host", ("all_proxy", "a", 1)),
        ({"ALL_PROXY": "socks5h://[::1]"}, "http://host", ("ALL_PROXY", "::1", 1080)),
        ({"https_proxy": "a:1", "HTTPS_PROXY": "b:1", "all_proxy": "c:1"}, "https://h", ("https_proxy", "a", 1)),
        ({"all_proxy": "a:1", "no_proxy": "*"}, "http://host", None),
        ({"all_proxy": "a:1", "NO_PROXY": "example.com"}, "http://s3.Example.com.", None),
        ({"all_proxy": "a:1", "no_proxy": "x .example.com,y"}, "http://example.com", None),
        ({"all_proxy": "a:1", "no_proxy": "example.com"}, "http://notexample.com", ("all_proxy", "a", 1)),
        ({"all_proxy": "a:1", "no_proxy": "example.com:80"}, "http://example.com", ("all_proxy", "a", 1)),
        ({"all_proxy": "a:1", "no_proxy": "10.0.0.0/8, ::1"}, "http://10.1.2.3", None),
        ({"all_proxy": "a:1", "no_proxy": "10.0.0.0/8, ::1"}, "http://[::1]:9000", None),
        ({"all_proxy": "a:1", "no_proxy": "10.0.0.0/33,0.0.1"}, "http://10.0.0.1", ("all_proxy", "a", 1)),
        ({"all_proxy": "a:1", "no_proxy": ""}, "http://host", ("all_proxy", "a", 1)),
    ],
)
def test_which_proxy_counts(
    no_proxies: pytest.MonkeyPatch, environment: dict[str, str], url: str, found: tuple[str, str, int] | None
) -> None:
    """As libcurl has it."""
    for name, value in environment.items():
        no_proxies.setenv(name, value)
    parts = urlsplit(url)
    proxy = doctor_proxy.find(parts.scheme, parts.hostname or "")
    assert (None if proxy is None else (proxy.variable, proxy.host, proxy.port)) == found


def test_the_filesystem_of_a_path(tmp_path: Path) -> None:
    assert storage._mount_of("/proc/self/status")[1] == "proc"
    assert os.path.ismount(storage._mount_of(str(tmp_path))[0])


def test_an_interrupt_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: _doctor.Doctor) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(_doctor.Doctor, "steps", interrupt)
    result = invoke("doctor", tmp_path)
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


def test_shards_of_which_one_is_gone(tmp_path: Path) -> None:
    index = "model.safetensors.index.json"
    folder = write_shards(tmp_path / "m", {"1.safetensors": blocks(1, 10), "2.safetensors": blocks(1, 10, 5)}, index)
    (folder / "2.safetensors").unlink()
    (folder / index).write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    found = examine(folder, 1)
    assert "2.safetensors: no such file" in found["listing"]["summary"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("ok", [("location", "ok"), ("network", "warn"), ("listing", "ok"), ("header", "ok"), ("read", "ok")]),
        ("fail", [("location", "ok"), ("network", "fail"), ("listing", "ok"), ("header", "fail")]),
        (None, [("location", "ok"), ("network", "fail"), ("listing", "ok")]),
    ],
)
def test_a_network_that_only_looks_broken_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, header: Any, expected: list[tuple[str, str]]
) -> None:
    made = [Step("location", "ok", ""), Step("network", "fail", "", "look"), Step("listing", "ok", "")]
    made += [Step("header", header, "")] if header else []
    made += [Step("read", "ok", "")] if header == "ok" else []
    monkeypatch.setattr(storage.Examination, "_steps", lambda self: iter(made))
    found = list(storage.Examination("x", Clock(1)).steps())
    assert [(step.name, step.status) for step in found] == expected
