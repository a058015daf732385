"""Changing members of a JSON text in place."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.legacy.json_edit import REMOVED, Inside, NotAnObject, Walk, changed, value_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
OBJECT = st.dictionaries(st.text(max_size=3), JSON, max_size=6)
LAYOUT = st.sampled_from([None, 0, 2, "\t"])


def dumped(value: Any, indent: int | str | None, *, ascii_only: bool = True) -> bytes:
    return json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode("utf-8")


@given(OBJECT, LAYOUT, st.booleans())
def test_a_walk_meets_every_member(value: dict[str, Any], indent: int | None, plain: bool) -> None:
    text = dumped(value, indent, ascii_only=plain)
    walk = Walk(text)
    found = {member.name: json.loads(text[member.value : member.end]) for member in walk}
    assert found == value
    assert list(found) == list(value)
    assert walk.end == len(text)


@given(OBJECT, OBJECT, st.sets(st.text(max_size=3)), LAYOUT)
def test_changes_are_made_and_nothing_else(
    value: dict[str, Any], new: dict[str, Any], removed: set[str], indent: int | None
) -> None:
    text = dumped(value, indent)
    changes = {**dict.fromkeys(removed, REMOVED), **new}
    result = json.loads(changed(text, changes))
    kept = {name: old for name, old in value.items() if name not in removed - set(new)}
    assert result == {**kept, **new}


@given(OBJECT, LAYOUT)
def test_members_that_are_not_mentioned_stay_byte_for_byte(
    value: dict[str, Any], indent: int | None
) -> None:
    text = dumped(value, indent)
    after = changed(text, {"a name that no text has": 1})
    for member in Walk(text):
        assert text[member.begin : member.end] in after
    assert changed(text, {}) == text or not value


@given(OBJECT, LAYOUT, st.data())
def test_a_text_that_is_cut_off_is_refused(
    value: dict[str, Any], indent: int | None, data: st.DataObject
) -> None:
    text = dumped(value, indent)
    length = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(NotAnObject):
        list(Walk(text[:length]))


def test_numbers_and_escapes_of_others_stay_as_they_are_written() -> None:
    text = b'{"big": 1e400, "precise": 0.10000000000000000001, "\\u0061": "\\/", "k": 1}'
    assert changed(text, {"k": 2}) == text.replace(b'"k": 1', b'"k": 2')


def test_the_layout_is_kept() -> None:
    text = b'{\n  "a": {\n    "x": 1,\n    "k": {}\n  },\n  "z": 1\n}'
    changes = {"a": Inside({"x": REMOVED, "k": Inside({"new": "v"})}), "y": {"q": []}}
    assert json.dumps(
        {"a": {"k": {"new": "v"}}, "z": 1, "y": {"q": []}}, indent=2
    ).encode() == changed(text, changes)


def test_of_equal_names_the_last_is_changed() -> None:
    text = b'{"a": 1, "b": 2, "a": 3}'
    assert changed(text, {"a": 4}) == b'{"a": 1, "b": 2, "a": 4}'
    assert changed(text, {"a": REMOVED}) == b'{"b": 2}'


@pytest.mark.parametrize("depth", [7, 8, 9, 20])
def test_values_are_nested_as_deeply_as_an_import_allows(depth: int) -> None:
    text = b'{"a": ' + b'[{"}": ' * depth + b"1" + b"}]" * depth + b', "b": 2}'
    if depth < 16:
        assert json.loads(changed(text, {"b": 3}))["b"] == 3
    else:
        with pytest.raises(NotAnObject):
            changed(text, {"b": 3})


def test_what_stands_behind_a_value_is_not_read_to_find_it() -> None:
    assert value_of(b'{"a": 1, "users": {"torn', "users") == 18
    assert value_of(b'{"a": 1}', "users") is None


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{", b'{"a"}', b'{"a": }', b'{"a": 1,}', b'{"a": [}', b"{1: 2}", b"\xff"]
)
def test_what_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(NotAnObject):
        list(Walk(text))
