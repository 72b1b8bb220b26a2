"""Which tensors are expected next, by the order in which a caller asks."""

from __future__ import annotations

from itertools import islice

from weightstream.safetensors._walk import Walk

# In a file as safetensors writes it: by dtype first, then by name.
NAMES = [f"layers.{i}.{what}" for what in ("bias", "weight") for i in sorted(range(12), key=str)]
BY_NAME = sorted(NAMES)
BY_LAYER = [f"layers.{i}.{what}" for i in range(12) for what in ("bias", "weight")]


def walk(names: list[str], *, sliced: bool = False) -> Walk:
    made = Walk(NAMES)
    for name in names:
        made.step(name, sliced=sliced)
    return made


def test_one_request_is_no_walk() -> None:
    assert not walk([]).walking
    assert not walk(NAMES[:1]).walking
    assert list(walk(NAMES[3:4]).ahead()) == []


def test_two_that_follow_each_other_are() -> None:
    for order in (NAMES, BY_NAME):
        made = walk(order[4:6])
        assert made.walking
        assert list(made.ahead()) == order[5:]


def test_slices_are_walked_by_layer() -> None:
    made = walk(BY_LAYER[:2], sliced=True)
    assert list(made.ahead()) == BY_LAYER[1:]


def test_another_order_is_taken_where_the_first_explains_nothing_any_more() -> None:
    made = walk(BY_LAYER[:4])  # also the order of names, up to here: 0, 1, and then 10 or 2
    assert list(islice(made.ahead(), 4)) == [*BY_LAYER[1:4], "layers.10.bias"]
    made.step(BY_LAYER[4], sliced=False)
    assert list(made.ahead()) == BY_LAYER[4:]


def test_a_few_may_be_left_out() -> None:
    assert walk([NAMES[0], NAMES[3], NAMES[7]]).walking
    assert not walk([NAMES[0], NAMES[20]]).walking


def test_a_jump_ends_the_walk() -> None:
    names = [f"t{i:04}" for i in range(1000)]
    made = Walk(names)
    for name in (*names[:5], names[500]):
        made.step(name, sliced=False)
    assert not made.walking
    made.step(names[501], sliced=False)
    assert list(islice(made.ahead(), 2)) == names[501:503]


def test_threads_that_walk_together_ask_out_of_order() -> None:
    names = [f"t{i:04}" for i in range(1000)]
    made = Walk(names)
    for name in (names[1], names[0], names[3], names[2], names[5], names[4]):
        made.step(name, sliced=False)
    assert made.walking
    made.step(names[6], sliced=False)
    assert made.walking


def test_backwards_is_no_walk() -> None:
    assert not walk([NAMES[5], NAMES[4]]).walking


def test_what_was_planned_is_not_planned_again() -> None:
    made = walk(NAMES[:2])
    first = list(islice(made.ahead(), 5))
    assert first == NAMES[1:6]
    made.step(NAMES[2], sliced=False)
    assert list(islice(made.ahead(), 3)) == NAMES[5:8]  # the one after the last was never asked for
    made.plan_from(NAMES[4])
    assert list(made.ahead()) == NAMES[4:]


def test_what_is_behind() -> None:
    names = [f"t{i:04}" for i in range(200)]
    made = Walk(names)
    for name in names[:100]:
        made.step(name, sliced=False)
    assert made.is_behind(names[:99])
    assert not made.is_behind(names[90:101])
    made.restart()
    assert not made.walking
    assert not made.is_behind(names[:1])
