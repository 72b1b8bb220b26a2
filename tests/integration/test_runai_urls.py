"""weightstream.runai on URLs that differ in their queries only, which are secret and are not repeated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import weightstream as ws
from checkpoints import assert_same, raw, write_file
from servers.messages import Object
from servers.scripted import ScriptedServer
from weightstream.runai import FileChunks, FileStreamer, SafetensorsStreamer, prepare_request

SHARDS = [{"a": raw("U8", (10,), 1), "b": raw("F32", (3,), 2)}, {"c": raw("BF16", (5, 7), 3)}]


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[list[str]]:
    """Of the shards, in order."""
    files = {
        f"/get?file={number}&sig=hidden": Object(write_file(tmp_path / str(number), shard).read_bytes())
        for number, shard in enumerate(SHARDS)
    }
    with ScriptedServer(lambda request: files[request.target].answer(request)) as server:
        yield [server.url(path) for path in files]


def test_the_metadata_of_each(urls: list[str]) -> None:
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(urls)
        metadata = streamer.files_to_tensors_metadata
        assert [[tensor.name for tensor in metadata[number]] for number in (0, 1)] == [["a", "b"], ["c"]]
        assert [len(metadata[number]) for number in (0, 1)] == [2, 1]
        assert_same(dict(streamer.get_tensors()), {**SHARDS[0], **SHARDS[1]})
    with FileStreamer() as streamer:
        prepared = prepare_request(streamer, urls, None)
        assert [sizes for *_, sizes in prepared] == [[10, 12], [70]]
        assert [[tensor.offsets.start for tensor in tensors] for _, tensors, _ in prepared] == [[0, 10], [0]]


def test_an_error_does_not_repeat_them(urls: list[str]) -> None:
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(0, urls[0], [0], [10**6])])
        with pytest.raises(ValueError, match="ends before the range does") as raised:
            list(streamer.get_chunks())
    assert isinstance(raised.value, ws.TruncatedError)
    assert raised.value.source == urls[0].partition("?")[0]
    assert "hidden" not in str(raised.value)
