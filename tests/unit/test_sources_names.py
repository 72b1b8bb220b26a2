"""The rule for folders, over names alone: globs, and keys that no file may have."""

from __future__ import annotations

import pytest

import weightstream as ws
from weightstream.sources import names


@pytest.mark.parametrize(
    ("present", "index", "shards"),
    [
        (
            ["model.safetensors.index.json", "x.safetensors.index.json", "a.safetensors"],
            "model.safetensors.index.json",
            [],
        ),
        (["x.safetensors.index.json", "a.safetensors"], "x.safetensors.index.json", []),
        (["m-10.safetensors", "m-9.safetensors", "README.md"], None, ["m-9.safetensors", "m-10.safetensors"]),
        (["consolidated.safetensors", "m.safetensors"], None, ["m.safetensors"]),
        (["consolidated.00.safetensors"], None, ["consolidated.00.safetensors"]),
        (["config.json"], None, []),
    ],
)
def test_what_a_folder_stands_for(present: list[str], index: str | None, shards: list[str]) -> None:
    choice = names.choose(present, "s3://b/m/")
    assert (choice.index, choice.shards) == (index, shards)


def test_several_indexes() -> None:
    with pytest.raises(ws.ConfigError, match=r"several indexes.*a\.safe.*b\.safe") as caught:
        names.choose(["b.safetensors.index.json", "a.safetensors.index.json"], "s3://b/m/")
    assert caught.value.source == "s3://b/m/"


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("m/*.st", ["m/a.st", "m/.st"], ["m/x/a.st", "m/a.sta", "n/a.st", "m/a\n.s"]),
        ("m/?.st", ["m/a.st"], ["m//.st", "m/ab.st"]),
        ("m/[a-c]1.st", ["m/a1.st", "m/c1.st"], ["m/d1.st", "m/-1.st"]),
        ("m/[!a-c]1.st", ["m/d1.st"], ["m/a1.st", "m//1.st"]),
        ("m/[]]1.st", ["m/]1.st"], ["m/[1.st"]),
        ("m/[[^&]1.st", ["m/[1.st", "m/^1.st", "m/&1.st"], ["m/\\1.st"]),
        ("m/**/a.st", ["m/a.st", "m/x/a.st", "m/x/y/a.st"], ["m/xa.st", "a.st"]),
        ("m/**", ["m/a", "m/x/y"], ["n/a"]),
        ("m/[a.st", ["m/[a.st"], ["m/a.st"]),
        ("m/a+(b).*", ["m/a+(b).st"], ["m/aab.st"]),
    ],
)
def test_a_glob(pattern: str, matching: list[str], others: list[str]) -> None:
    matches = names.matcher(pattern).fullmatch
    assert [key for key in matching if not matches(key)] == []
    assert [key for key in others if matches(key)] == []
    assert names.has_magic(pattern)
    assert all(key.startswith(names.literal_prefix(pattern)) for key in matching)


@pytest.mark.parametrize(("pattern", "crosses"), [("m/a*", False), ("m*/a", True), ("m/**", True), ("m/[a/]", True)])
def test_whether_a_glob_needs_the_folders_below(pattern: str, crosses: bool) -> None:
    assert names.crosses_folders(pattern) is crosses


def test_a_glob_that_is_none() -> None:
    with pytest.raises(ws.ConfigError, match=r"'\[z-a\]' is not a valid glob"):
        names.matcher("[z-a]")


@pytest.mark.parametrize(
    "key", ["../a", "a/../b", "a/..", "..", ".", "./a", "a//b", "/a", "", "a/", "a\\b", "..\\a", "a\0", "\ud800"]
)
def test_a_key_that_is_no_file(key: str) -> None:
    with pytest.raises(ws.FormatError, match="which is not the name of a file") as caught:
        names.check_key(key, "s3://b/k")
    assert caught.value.source == "s3://b/k"


@pytest.mark.parametrize("key", ["a", "a/b.c", "..a", "a..", "...", "a b", "ü%+?", "a/.hidden"])
def test_a_key_that_is_a_file(key: str) -> None:
    names.check_key(key, "s3://b/k")
