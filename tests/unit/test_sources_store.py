"""Keys to sources, over a store of a dictionary: objects, folders, indexes, globs, and lists of files."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

import weightstream as ws
from fake_core import FakeCore, install  # noqa: F401
from weightstream.sources import Access, RemoteSource, store
from weightstream.sources.fetch import fetch
from weightstream.sources.store import Entry, Store

INDEX = "model.safetensors.index.json"


class Objects(Store):
    """Keys and contents; it counts what it is asked."""

    def __init__(self, core: FakeCore, contents: dict[str, bytes]) -> None:
        self.contents = contents
        self.asked: list[str] = []
        core.bodies = {f"https://host/{key}": data for key, data in contents.items()}

    def name(self, key: str) -> str:
        return f"mem://{key}"

    def entries(self, prefix: str, recursive: bool) -> Iterable[Entry]:
        self.asked.append(f"list {prefix}{'**' if recursive else ''}")
        for key, data in self.contents.items():
            if key.startswith(prefix) and (recursive or "/" not in key[len(prefix) :]):
                yield Entry(key, len(data), f'"{key}"')

    def find(self, key: str) -> Entry:
        self.asked.append(f"find {key}")
        if key not in self.contents:
            raise ws.NotFoundError("there is no such object", source=self.name(key))
        return Entry(key, len(self.contents[key]), f'"{key}"')

    def source(self, entry: Entry) -> RemoteSource:
        return RemoteSource(self.name(entry.key), Access(f"https://host/{entry.key}"), entry.size, entry.etag)


def index_of(**shards: str) -> bytes:
    return json.dumps({"weight_map": shards}).encode()


def test_an_object(fake_core: FakeCore) -> None:
    objects = Objects(fake_core, {"m/a.safetensors": b"abc"})
    (source,) = store.resolve(objects, "m/a.safetensors").sources
    assert (source.name, source.size, source.etag) == ("mem://m/a.safetensors", 3, '"m/a.safetensors"')
    assert objects.asked == ["find m/a.safetensors"]


def test_only_the_first_of_many_is_asked_for(fake_core: FakeCore) -> None:
    keys = [f"m/{i}.safetensors" for i in range(3)]
    objects = Objects(fake_core, dict.fromkeys(keys, b"abc"))
    found = [store.resolve(objects, key).sources[0] for key in keys]
    assert objects.asked == ["find m/0.safetensors"]
    assert [(source.name, source.size) for source in found if isinstance(source, RemoteSource)] == [
        ("mem://m/0.safetensors", 3),
        ("mem://m/1.safetensors", None),
        ("mem://m/2.safetensors", None),
    ]


def test_an_object_of_any_name(fake_core: FakeCore) -> None:
    objects = Objects(fake_core, {"m/weights": b"abc"})
    (source,) = store.resolve(objects, "m/weights").sources
    assert source.name == "mem://m/weights"
    assert objects.asked == ["list m/weights/", "find m/weights"]


@pytest.mark.parametrize("key", ["m", "m/"])
def test_a_folder_by_its_index(fake_core: FakeCore, key: str) -> None:
    index = index_of(x="b-10.safetensors", y="b-9.safetensors", z="deep/c.safetensors")
    contents = {f"m/{INDEX}": index, "m/b-10.safetensors": b"10", "m/b-9.safetensors": b"9", "m/extra.safetensors": b""}
    objects = Objects(fake_core, {**contents, "m/": b"", "mm/other.safetensors": b""})
    found = store.resolve(objects, key)
    assert [source.name for source in found.sources] == [
        "mem://m/b-9.safetensors",
        "mem://m/b-10.safetensors",
        "mem://m/deep/c.safetensors",
    ]
    # The listing said what is beside the index; what is below it is for the first read to find.
    assert [source.size for source in found.sources if isinstance(source, RemoteSource)] == [1, 2, None]
    assert found.weight_map == {"x": 1, "y": 0, "z": 2}
    assert objects.asked == ["list m/"]
    assert [one.url for one in fake_core.opened] == [f"https://host/m/{INDEX}"]


def test_an_index_by_its_key(fake_core: FakeCore) -> None:
    objects = Objects(fake_core, {f"m/{INDEX}": index_of(x="a.safetensors")})
    found = store.resolve(objects, f"m/{INDEX}")
    assert found.sources == [RemoteSource("mem://m/a.safetensors", Access("https://host/m/a.safetensors"))]
    assert objects.asked == [f"find m/{INDEX}"]


def test_an_index_that_names_what_the_listing_lacks(fake_core: FakeCore) -> None:
    objects = Objects(fake_core, {f"m/{INDEX}": index_of(x="a.safetensors")})
    with pytest.raises(ws.NotFoundError, match=f"no such object, but mem://m/{INDEX} names it") as caught:
        store.resolve(objects, "m")
    assert caught.value.source == "mem://m/a.safetensors"


@pytest.mark.parametrize("shard", ["../a.safetensors", "/a", "http://h/a", "a//b", "./a", "..\\a", "a\0"])
def test_an_index_cannot_leave_its_folder(fake_core: FakeCore, shard: str) -> None:
    objects = Objects(fake_core, {f"m/{INDEX}": index_of(x=shard)})
    for location in ("m", f"m/{INDEX}"):
        with pytest.raises(ws.FormatError) as caught:
            store.resolve(objects, location)
        assert caught.value.source == f"mem://m/{INDEX}"


def test_a_folder_without_an_index(fake_core: FakeCore) -> None:
    objects = Objects(fake_core, dict.fromkeys(["m/2.safetensors", "m/1.safetensors", "m/x/3.safetensors", "m/c"], b""))
    assert [source.name for source in store.resolve(objects, "m").sources] == [
        "mem://m/1.safetensors",
        "mem://m/2.safetensors",
    ]


def test_the_root(fake_core: FakeCore) -> None:
    objects = Objects(fake_core, {"a.safetensors": b""})
    assert [source.name for source in store.resolve(objects, "").sources] == ["mem://a.safetensors"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("m", r"has no \*\.safetensors file and no index"),
        ("n", "no such object"),
        ("n/", "nothing with this prefix"),
        ("n.safetensors", "no such object"),
        (f"n/{INDEX}", "no such object"),
        ("m/*.safetensors", "no file matches"),
    ],
)
def test_nothing_there(fake_core: FakeCore, key: str, message: str) -> None:
    objects = Objects(fake_core, {"m/config.json": b"{}"})
    with pytest.raises(ws.NotFoundError, match=message) as caught:
        store.resolve(objects, key)
    assert (caught.value.source or "").startswith(f"mem://{key}")


def test_globs(fake_core: FakeCore) -> None:
    keys = ["m/a-10.st", "m/a-9.st", "m/x/a-1.st", "m/b.st", "m/folder-1.st/"]
    objects = Objects(fake_core, dict.fromkeys(keys, b""))

    def found(pattern: str) -> list[str]:
        return [source.name.removeprefix("mem://") for source in store.resolve(objects, pattern).sources]

    assert found("m/a-*.st") == ["m/a-9.st", "m/a-10.st"]
    assert found("m/**/a-*.st") == ["m/a-9.st", "m/a-10.st", "m/x/a-1.st"]
    assert found("*/b.st") == ["m/b.st"]
    assert objects.asked == ["list m/a-", "list m/**", "list **"]


def test_an_object_that_is_called_like_a_glob(fake_core: FakeCore) -> None:
    objects = Objects(fake_core, dict.fromkeys(["m/a[1].st", "m/a1.st"], b""))
    assert [source.name for source in store.resolve(objects, "m/a[1].st").sources] == ["mem://m/a[1].st"]


def test_a_folder_that_is_called_like_a_glob(fake_core: FakeCore) -> None:
    """By its "/" at the end, which no file has."""
    objects = Objects(fake_core, dict.fromkeys(["m[1]/a.safetensors", "m1/b.safetensors"], b""))
    assert [file.key for file in store.list_files(objects, "m[1]/")] == ["a.safetensors"]
    assert [source.name for source in store.resolve(objects, "m[1]/").sources] == ["mem://m[1]/a.safetensors"]
    assert [source.name for source in store.resolve(objects, "m[1]/*").sources] == ["mem://m1/b.safetensors"]


def test_a_list_of_files(fake_core: FakeCore) -> None:
    contents = {"m/a.st": b"1", "m/x/b.st": b"22", "m/x/": b"", "m/": b"", "n/c": b""}
    objects = Objects(fake_core, contents)

    def files(key: str) -> list[tuple[str, int | None]]:
        listed = store.list_files(objects, key)
        assert all(file.source.name.endswith(file.key) for file in listed)
        return [(file.key, file.size) for file in listed]

    assert files("m") == files("m/") == [("a.st", 1), ("x/b.st", 2)]
    assert files("m/a.st") == [("a.st", 1)]
    assert files("m/**/*.st") == [("a.st", 1), ("x/b.st", 2)]
    assert files("m/x/b*") == [("b.st", 2)]
    with pytest.raises(ws.NotFoundError):
        files("o")


def test_folders_that_a_listing_has_as_empty_objects(fake_core: FakeCore) -> None:
    objects = Objects(fake_core, {"m/x": b"", "m/x/b.st": b"22"})
    assert [file.key for file in store.list_files(objects, "m")] == ["x/b.st"]


@pytest.mark.parametrize("key", ["m/../a", "m//a", "m/a\\b", "m/./a"])
def test_a_listing_cannot_leave_the_folder(fake_core: FakeCore, key: str) -> None:
    objects = Objects(fake_core, {"m/ok": b"", key: b""})
    with pytest.raises(ws.FormatError, match="not the name of a file"):
        store.list_files(objects, "m")


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, (8 << 20) + 1, 25 << 20])
def test_fetch(fake_core: FakeCore, size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    fake_core.bodies["https://host/a"] = data[:size]
    assert fetch(RemoteSource("mem://a", Access("https://host/a")), 30 << 20) == data[:size]
    assert fake_core.closed == (size > 1 << 20)


def test_fetch_has_a_limit(fake_core: FakeCore) -> None:
    fake_core.bodies["https://host/a"] = bytes(11)
    with pytest.raises(ws.FormatError, match="it has 11 bytes, more than the 10"):
        fetch(RemoteSource("mem://a", Access("https://host/a")), 10)
