"""Reading a whole users.json: both shapes, everything that can be wrong with it."""

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.legacy_folder import LegacyFolder, record
from tests.unit.legacy.test_keys import json_values
from webapp.legacy.files import LegacyUnreadable
from webapp.legacy.records import LegacyUser, RejectedRecord
from webapp.legacy.users_json import Snapshot, open_snapshot

SECRET = "JBSWY3DPEHPK3PXP"


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    return LegacyFolder(tmp_path / "legacy")


def read(folder: LegacyFolder, *extra_keys: str) -> Snapshot:
    folder.rest()
    return open_snapshot(folder.path, extra_keys)


def names(snapshot: Snapshot) -> list[str]:
    with snapshot:
        accounts = list(snapshot.accounts())
        assert [account.number for account in accounts] == list(range(snapshot.total))
        return [a.username for a in accounts if isinstance(a.user, LegacyUser)]


def rejected(snapshot: Snapshot) -> dict[str, str]:
    with snapshot:
        return {
            a.username: str(a.user)
            for a in snapshot.accounts()
            if isinstance(a.user, RejectedRecord)
        }


@pytest.mark.parametrize("flat", [False, True])
def test_both_shapes(folder: LegacyFolder, flat: bool) -> None:
    folder.users({"amira": record(), "001": record()}, flat=flat)
    assert names(read(folder)) == ["amira", "001"]


@pytest.mark.parametrize("content", ["{}", '{"users": {}}', ' {"users": {}, "version": 2}\n'])
def test_an_object_without_accounts_is_valid_and_empty(folder: LegacyFolder, content: str) -> None:
    folder.raw(content)
    assert names(read(folder)) == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "premature EOF"),
        (b"  \n", "premature EOF"),
        (b"[]", "does not hold a JSON object"),
        (b"null", "does not hold a JSON object"),
        (b'"users"', "does not hold a JSON object"),
        (b'{"users": []}', "list or a value under users"),
        (b'{"users": null}', "list or a value under users"),
        (b'{"users": {"a": {"name": "A"', "premature EOF"),
        (b'{"users": {}} x', "trailing garbage"),
        (b'{"users": {}}{"users": {}}', "trailing garbage"),
        (b'{"users": {}}\0\0\0', "trailing garbage"),
        (b'{"users": {"a": {"name": "\xff"}}}', "invalid bytes in UTF8 string"),
        (b'{"users": {"a": {"name": "\xed\xa0\x80"}}}', "not valid JSON"),
        ('{"users": {}}'.encode("utf-16"), "not valid JSON"),
        (b'{"users": {"a": NaN}}', "not valid JSON"),
        (b'{"users": {"a": ' + b"9" * 5000 + b"}}", "not valid JSON"),
        (b'{"users": {"a": ' + b"[" * 5000 + b"]" * 5000 + b"}}", "nested too deeply"),
    ],
)
def test_a_file_that_is_not_whole_is_an_error_and_never_an_empty_set(
    folder: LegacyFolder, content: bytes, says: str
) -> None:
    folder.raw(content)
    with pytest.raises(LegacyUnreadable, match=says) as caught:
        read(folder)
    assert str(caught.value).startswith("users.json ")


def test_an_error_does_not_repeat_what_stands_in_the_file(folder: LegacyFolder) -> None:
    folder.raw('{"users": {"a": {"api_keys": {"openai": sk-secret')
    with pytest.raises(LegacyUnreadable) as caught:
        read(folder)
    assert "sk-" not in str(caught.value)


def test_a_byte_order_mark_is_skipped(folder: LegacyFolder) -> None:
    folder.raw(b"\xef\xbb\xbf" + json.dumps({"users": {"amira": record()}}).encode())
    assert names(read(folder)) == ["amira"]


def in_this_order(folder: LegacyFolder, *pairs: tuple[str, object]) -> None:
    """Write an object in which names may stand several times."""
    text = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in pairs)
    folder.raw(f'{{"users": {{{text}}}}}')


def test_of_names_that_differ_by_case_the_first_counts(folder: LegacyFolder) -> None:
    in_this_order(folder, *[(name, record()) for name in ("ben", "Amira", "amira")])
    assert names(read(folder)) == ["ben", "Amira"]
    assert list(rejected(read(folder))) == ["amira"]
    assert "twice" in rejected(read(folder))["amira"]


def test_of_equal_names_the_last_counts_as_every_parser_has_it(folder: LegacyFolder) -> None:
    in_this_order(
        folder,
        ("ben", record(name="first")),
        ("Amira", record(name="first")),
        ("amira", record(name="of another case")),
        ("ben", "no record"),
        ("ben", record(name="last")),
        ("Amira", record(name="last")),
        ("chen", record()),
        ("chen", "no record"),
    )
    with read(folder) as snapshot:
        found = [(a.number, a.username, getattr(a.user, "name", "")) for a in snapshot.accounts()]
        assert found == [
            (2, "amira", ""),
            (4, "ben", "last"),
            (5, "Amira", "last"),
            (7, "chen", ""),
        ]
        for start in range(9):
            rest = [account.number for account in snapshot.accounts(start)]
            assert rest == [number for number in (2, 4, 5, 7) if number >= start]
        assert snapshot.warnings == [
            "users.json has the username ben 3 times; the last one counts",
            "users.json has the username Amira 2 times; the last one counts",
            "users.json has the username chen 2 times; the last one counts",
        ]
        for name in ("ben", "AMIRA"):
            user = snapshot.find(name)
            assert isinstance(user, LegacyUser)
            assert user.name == "last"
        assert isinstance(snapshot.find("chen"), RejectedRecord)


def test_not_every_name_that_stands_twice_is_named(folder: LegacyFolder) -> None:
    in_this_order(folder, *[(f"user{n}", record()) for n in [*range(60), *range(60)]])
    with read(folder) as snapshot:
        assert len(list(snapshot.accounts())) == 60
        assert len(snapshot.warnings) == 51
        assert snapshot.warnings[-1] == "users.json has 10 more usernames several times"


def test_one_bad_record_does_not_stop_the_others(folder: LegacyFolder) -> None:
    folder.users({"a": record(), "b": "no record", "c": record(password_hash=None), "d": record()})
    assert names(read(folder)) == ["a", "d"]
    assert list(rejected(read(folder))) == ["b", "c"]


def test_a_user_named_users_in_the_older_shape(folder: LegacyFolder) -> None:
    folder.users({"users": record(), "amira": record()}, flat=True)
    assert names(read(folder)) == ["users", "amira"]


def test_a_user_named_users_or_password_hash_in_the_newer_shape(folder: LegacyFolder) -> None:
    folder.users({"users": record(), "password_hash": record()})
    assert names(read(folder)) == ["users", "password_hash"]


def test_accounts_can_be_read_from_a_record_on(folder: LegacyFolder) -> None:
    folder.users({name: record() for name in "abcde"})
    with read(folder) as snapshot:
        assert [(a.number, a.username) for a in snapshot.accounts(3)] == [(3, "d"), (4, "e")]


def test_second_factors_belong_to_the_exact_name(folder: LegacyFolder) -> None:
    folder.users({"ben": record(), "Ola": record()})
    entry = {"secret": SECRET, "enabled": True}
    folder.second_factors({"ben": entry, "ola": entry, "nobody": entry})
    with read(folder) as snapshot:
        found = {a.username: a.user for a in snapshot.accounts()}
        assert isinstance(found["ben"], LegacyUser)
        assert found["ben"].second_factor
        assert isinstance(found["Ola"], LegacyUser)
        assert not found["Ola"].second_factor
        assert snapshot.warnings == [
            "two_fa.json has 2 entries whose exact name is not in users.json"
        ]


def test_a_missing_two_fa_json_is_a_warning(folder: LegacyFolder) -> None:
    (folder.path / "two_fa.json").unlink()
    folder.users({"ben": record()})
    with read(folder) as snapshot:
        assert snapshot.warnings == ["two_fa.json is missing: no second factor is known"]
    assert names(read(folder)) == ["ben"]


@pytest.mark.parametrize("content", ["", "[]", "null", '{"ben": {', '{"a": 1} x'])
def test_a_two_fa_json_that_cannot_be_read_is_an_error(folder: LegacyFolder, content: str) -> None:
    (folder.path / "two_fa.json").write_text(content)
    with pytest.raises(LegacyUnreadable, match=r"^two_fa\.json "):
        read(folder)


def test_a_missing_users_json_is_an_error(folder: LegacyFolder) -> None:
    (folder.path / "users.json").unlink()
    with pytest.raises(LegacyUnreadable, match=r"^users\.json is missing"):
        read(folder)


@pytest.mark.parametrize("key_file", [None, "", "not a key"])
def test_a_key_file_that_cannot_be_used_is_an_error_where_a_token_needs_it(
    folder: LegacyFolder, key_file: str | None
) -> None:
    token = folder.token("sk")
    if key_file is None:
        (folder.path / ".encryption_key").unlink()
    else:
        (folder.path / ".encryption_key").write_text(key_file)
    folder.users({"amira": record(api_keys={"openai": "plain"})})
    with read(folder) as snapshot:
        snapshot.require_keys()
    folder.users({"a": record(), "amira": record(api_keys={"openai": token})})
    with read(folder) as snapshot, pytest.raises(LegacyUnreadable, match=r"^\.encryption_key "):
        snapshot.require_keys()
    with read(folder, folder.key) as snapshot:
        snapshot.require_keys()


def test_further_keys_open_what_the_key_file_does_not(folder: LegacyFolder) -> None:
    old = Fernet.generate_key().decode()
    folder.users({"amira": record(api_keys={"google": folder.token("g", old)})})
    with read(folder, old) as snapshot:
        user = snapshot.find("amira")
        assert isinstance(user, LegacyUser)
        assert user.keys["google"].parts == {"value": "g"}


def test_a_further_key_that_is_none_is_named_by_its_position(folder: LegacyFolder) -> None:
    with pytest.raises(LegacyUnreadable, match="LEGACY_ENCRYPTION_KEYS holds as entry 2") as caught:
        read(folder, Fernet.generate_key().decode(), "secret-but-wrong")
    assert "secret-but-wrong" not in str(caught.value)


def test_one_account_is_found_by_name_ignoring_case(folder: LegacyFolder) -> None:
    folder.users({"Amira": record(name="First"), "amira": record(name="Second"), "bad": None})
    folder.second_factors({"Amira": {"secret": SECRET, "enabled": True}})
    with read(folder) as snapshot:
        user = snapshot.find("AMIRA")
        assert isinstance(user, LegacyUser)
        assert (user.username, user.name) == ("Amira", "First")
        assert user.second_factor
        assert isinstance(snapshot.find("bad"), RejectedRecord)
        assert snapshot.find("nobody") is None
        assert "aMIRA" in snapshot
        assert "nobody" not in snapshot


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    users=st.dictionaries(st.text(max_size=20), json_values | st.just(record()), max_size=6),
    flat=st.booleans(),
)
def test_every_account_is_handed_out_once_or_rejected(
    folder: LegacyFolder, users: dict[str, Any], flat: bool
) -> None:
    if flat and "users" in users:
        users.pop("users")
    users = json.loads(json.dumps(users).replace("NaN", "0").replace("Infinity", "0"))
    folder.users(users, flat=flat)
    with read(folder) as snapshot:
        assert [a.username for a in snapshot.accounts()] == list(users)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(cut=st.floats(min_value=0, max_value=1, exclude_max=True))
def test_no_beginning_of_a_file_passes_for_the_file(folder: LegacyFolder, cut: float) -> None:
    folder.users({"amira": record(), "ben": record()})
    whole = (folder.path / "users.json").read_bytes()
    folder.raw(whole[: int(len(whole) * cut)])
    with pytest.raises(LegacyUnreadable):
        read(folder)
