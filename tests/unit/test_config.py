"""Settings: sizes, every keyword and its environment variable, and messages that name the one that is wrong."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from weightstream import _config


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        (2**63 - 1, 2**63 - 1),
        ("1", 1),
        ("17b", 17),
        ("2GiB", 2 * 2**30),
        ("2GB", 2 * 10**9),
        ("2g", 2 * 10**9),
        ("512 MiB", 512 * 2**20),
        ("  3kib ", 3 * 2**10),
        ("3K", 3000),
        ("1.5MB", 1_500_000),
        ("0.5KiB", 512),
        ("1TiB", 2**40),
        ("1tb", 10**12),
    ],
)
def test_sizes(text: int | str, size: int) -> None:
    assert _config.parse_size(text) == size


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "2 XB",
        "-1",
        "1e9",
        "2GiBs",
        "0x10",
        "nan",
        "1 2",
        True,
        1.5,
        None,
        0,
        -1,
        "0",
        "0.1",
        2**63,
        "9000000TiB",
    ],
)
def test_what_is_not_a_size(value: Any) -> None:
    with pytest.raises(ws.ConfigError, match=r"^memory_limit="):
        _config.parse_size(value, "memory_limit")


# keyword -> (a value that is not the default, the same as a variable has it, the setting that comes of it)
SETTINGS: dict[str, tuple[Any, str, Any]] = {
    "device": ("meta", "meta", "meta"),
    "framework": ("numpy", "numpy", "numpy"),
    "order": ("file", "file", "file"),
    "memory_limit": ("3MiB", "3MiB", 3 * 2**20),
    "device_limit": (4096, "4096", 4096),
    "concurrency": (7, "7", 7),
    "backend": ("pread", "pread", "pread"),
    "progress": (True, "yes", True),
    "dtype": ("bfloat16", "bfloat16", "bfloat16"),
    "trace": ("/tmp/trace.json", "/tmp/trace.json", "/tmp/trace.json"),
    "storage_options": ({"a": 1}, '{"a": 1}', {"a": 1}),
}
# What one of them cannot be: functions of names and tensors do not fit a variable.
OTHERS = ("names", "into")


def test_every_keyword_is_in_the_table() -> None:
    keywords = {name for name, p in inspect.signature(ws.stream).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert keywords == set(SETTINGS) | set(OTHERS)
    assert keywords == {field.name for field in dataclasses.fields(_config.Settings)}


@pytest.mark.parametrize("keyword", SETTINGS)
def test_keyword_and_variable_give_the_same_setting(keyword: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, text, setting = SETTINGS[keyword]
    default = getattr(_config.resolve(), keyword)
    assert default != setting
    assert getattr(_config.resolve(**{keyword: value}), keyword) == setting
    monkeypatch.setenv("WEIGHTSTREAM_" + keyword.upper(), text)
    assert getattr(_config.resolve(), keyword) == setting
    monkeypatch.setenv("WEIGHTSTREAM_" + keyword.upper(), "")  # an empty variable counts as not set
    assert getattr(_config.resolve(), keyword) == default


def test_the_keyword_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for keyword, (_, text, _) in SETTINGS.items():
        monkeypatch.setenv("WEIGHTSTREAM_" + keyword.upper(), text)
    settings = _config.resolve(
        device="cpu",
        framework="pt",
        order="arrival",
        memory_limit=5,
        device_limit="1kb",
        concurrency=1,
        backend="auto",
        progress=False,
        dtype="float16",
        trace="/tmp/other.json",
        storage_options={},
    )
    assert settings == _config.Settings(
        "cpu", "pt", None, "arrival", 5, 1000, 1, "auto", False, "float16", None, "/tmp/other.json", {}
    )


WRONG: dict[str, tuple[Any, str]] = {
    "framework": ("tensorflow", "tensorflow"),
    "order": ("random", "random"),
    "memory_limit": ("lots", "lots"),
    "device_limit": (-1, "-1"),
    "concurrency": (0, "many"),
    "backend": ("rdma", "rdma"),
}


@pytest.mark.parametrize("keyword", WRONG)
def test_a_wrong_value_names_the_keyword_or_the_variable(keyword: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, text = WRONG[keyword]
    with pytest.raises(ws.ConfigError, match=f"^{keyword}={value!r}"):
        _config.resolve(**{keyword: value})
    monkeypatch.setenv("WEIGHTSTREAM_" + keyword.upper(), text)
    with pytest.raises(ws.ConfigError, match=f"^WEIGHTSTREAM_{keyword.upper()}={text!r}"):
        _config.resolve()


@pytest.mark.parametrize("value", [1.0, True, "x", 1025, -3, [], "1.5"])
def test_concurrency_is_a_whole_number(value: Any) -> None:
    with pytest.raises(ws.ConfigError, match=r"^concurrency="):
        _config.resolve(concurrency=value)


@pytest.mark.parametrize(
    ("text", "flag"), [("1", True), ("TRUE", True), (" on ", True), ("no", False), ("off", False), ("0", False)]
)
def test_flags(text: str, flag: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSTREAM_PROGRESS", text)
    assert _config.resolve().progress is flag


def test_a_wrong_flag_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSTREAM_PROGRESS", "perhaps")
    with pytest.raises(ws.ConfigError, match=r"^WEIGHTSTREAM_PROGRESS='perhaps'"):
        _config.resolve()


@pytest.mark.parametrize("text", ['{"secret": "canary"', '["canary"]', '"canary"', "canary"])
def test_wrong_storage_options_are_not_repeated(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSTREAM_STORAGE_OPTIONS", text)
    with pytest.raises(ws.ConfigError, match="WEIGHTSTREAM_STORAGE_OPTIONS") as caught:
        _config.resolve()
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_names_by_variable_are_globs(saved: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    path, tensors = saved
    monkeypatch.setenv("WEIGHTSTREAM_NAMES", "layers.*.weight, step ,")
    assert set(ws.load(path)) == {"layers.0.weight", "layers.1.weight", "step"}
    assert set(ws.load(path, names=["counts"])) == {"counts"}
    with ws.open(path) as checkpoint:  # names are for streams; a checkpoint shows what there is
        assert set(checkpoint) == set(tensors)


def test_one_string_is_not_a_list_of_names() -> None:
    with pytest.raises(ws.ConfigError, match="names='abc' is one string"):
        _config.resolve(names="abc")


def test_storage_options_are_for_remote_storage(saved: tuple[Path, Any]) -> None:
    with pytest.raises(ws.ConfigError, match=r"storage_options.*region") as caught:
        ws.load(saved[0], storage_options={"region": "canary"})
    assert "canary" not in str(caught.value)


def test_an_unknown_keyword_is_a_type_error(saved: tuple[Path, Any]) -> None:
    for call in (ws.load, ws.stream, ws.open):
        with pytest.raises(TypeError, match="memory_limits"):
            call(saved[0], memory_limits=1)  # type: ignore[call-arg]


def test_settings_reach_the_stream(saved: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSTREAM_BACKEND", "pread")
    monkeypatch.setenv("WEIGHTSTREAM_FRAMEWORK", "numpy")
    with ws.stream(saved[0]) as stream:
        assert all(type(tensor).__module__ == "numpy" for _, tensor in stream)
        assert set(stream.stats.reasons.values()) == {'backend="pread" was asked for: parallel pread'}
        assert set(stream.stats.readers) == {"pread"}


def documented() -> dict[str, tuple[str, str]]:
    """For each setting, what docs/reference/python.md says of `ws.open` and of `checkpoint.stream`."""
    reference = (Path(__file__).parents[2] / "docs" / "reference" / "python.md").read_text()
    section = reference.split("### What an opened checkpoint takes of them\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+`) \| (.+) \| (.+) \|$", section, re.MULTILINE)
    assert len(rows) == 4
    return {keyword: (opened, streamed) for keys, opened, streamed in rows for keyword in re.findall(r"`(\w+)`", keys)}


def test_every_setting_is_documented_for_an_opened_checkpoint() -> None:
    assert set(documented()) == set(SETTINGS) | set(OTHERS)


@pytest.mark.parametrize("keyword", [*SETTINGS, "names"])
def test_open_takes_what_is_documented(
    keyword: str, saved: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tensors = saved
    how, _ = documented()[keyword]
    assert how in ("keyword or variable", "variable", "neither")
    assert ("keyword" in how) is (keyword in inspect.signature(ws.open).parameters)
    _, text, setting = SETTINGS.get(keyword, (None, "big", None))
    monkeypatch.setenv("WEIGHTSTREAM_" + keyword.upper(), text)
    if keyword == "storage_options":
        with pytest.raises(ws.ConfigError, match="storage_options"):  # it is taken: a local file has no use for it
            ws.open(path)
        return
    with ws.open(path) as checkpoint:
        taken = getattr(checkpoint._settings, keyword)
        assert ("variable" in how) is (callable(taken) if keyword == "names" else taken == setting)
        assert checkpoint.get_tensor("step").shape == tensors["step"].shape


@pytest.mark.parametrize("keyword", [*SETTINGS, "names"])
def test_the_stream_of_a_checkpoint_takes_what_is_documented(
    keyword: str, saved: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, how = documented()[keyword]
    assert how in ("keyword or variable", "keyword, or what `ws.open` took", "what `ws.open` took")
    value, text, setting = SETTINGS.get(keyword, (["big"], "big", None))
    seen: list[_config.Settings] = []
    with ws.open(saved[0]) as checkpoint:
        start = checkpoint._start

        def watched(settings: _config.Settings, *rest: Any) -> ws.TensorStream:
            seen.append(settings)
            return start(settings, *rest)

        monkeypatch.setattr(checkpoint, "_start", watched)
        if "keyword" in how:
            checkpoint.stream(**{keyword: value}).close()
            assert keyword == "names" or getattr(seen.pop(), keyword) == setting
        else:
            with pytest.raises(ws.ConfigError, match=f"{keyword} are given to weightstream.open"):
                checkpoint.stream(**{keyword: value})
        monkeypatch.setenv("WEIGHTSTREAM_" + keyword.upper(), text)
        with checkpoint.stream() as stream:
            if keyword == "names":
                assert [name for name, _ in stream] == ["big"]
            elif keyword != "storage_options":  # what no stream uses may stand in its settings
                assert ("variable" in how) is (getattr(seen.pop(), keyword) == setting)
