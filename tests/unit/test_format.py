"""Numbers and tables as people read them."""

from __future__ import annotations

import pytest

from weightstream._format import bytes_text, count_text, printable, seconds_text, table


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9994, "9.99 kB"),
        (9995, "10.0 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (90_868_376, "90.9 MB"),
        (16_060_522_240, "16.1 GB"),
        (7 * 10**18, "7000 PB"),
    ],
)
def test_bytes_text(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 us"),
        (0.0000423, "42 us"),
        (0.00312, "3.12 ms"),
        (0.9996, "1.00 s"),
        (12.345, "12.35 s"),
        (59.999, "1 min 0 s"),
        (75.4, "1 min 15 s"),
    ],
)
def test_seconds_text(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_count_text() -> None:
    assert [count_text(n, "tensor") for n in (0, 1, 2, 40_000)] == [
        "0 tensors",
        "1 tensor",
        "2 tensors",
        "40,000 tensors",
    ]


def test_printable_keeps_what_is_printable() -> None:
    assert printable("größe 大") == "größe 大"
    assert printable("a\tb\x00") == r"a\tb\x00"


def test_table_aligns() -> None:
    assert list(table(["name", "size"], [["a", "10 B"], ["bcdef", "1 B"]], right=[1])) == [
        "name   size",
        "a      10 B",
        "bcdef   1 B",
    ]
