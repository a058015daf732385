"""Two sources of one predecessor: which wins, what is kept, what people are told."""

import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.legacy_folder import LegacyFolder, record, sha256_of
from tests.unit.legacy.test_keys import json_values
from webapp.legacy.files import LegacyUnreadable
from webapp.legacy.keys import LegacyKey
from webapp.legacy.records import DuplicateName, LegacyUser, RejectedRecord, printable
from webapp.legacy.rows import COLUMNS, REQUIRED_COLUMNS, Row, Rows
from webapp.legacy.users_json import Snapshot, open_snapshot

OTHER_KEY = Fernet.generate_key().decode()
OLD, NEW = "2026-01-01T00:00:00", "2026-02-01 00:00:00"
HASH = sha256_of("of the database")


@pytest.fixture
def folder(tmp_path: Path) -> LegacyFolder:
    return LegacyFolder(tmp_path / "legacy")


def row(username: str | None, keys: Any = None, updated: str | None = None, **more: Any) -> Row:
    text = json.dumps(keys) if isinstance(keys, Mapping) else keys
    columns = {"username": username, "api_keys": text, "api_keys_updated_at": updated}
    return {"password_hash": HASH, "email": None, "is_admin": None} | columns | more


def read(folder: LegacyFolder, *rows: Row) -> Snapshot:
    def generate() -> Generator[Row, None, None]:
        yield from rows

    folder.rest()
    return open_snapshot(folder.path, database=lambda: Rows("stamp", generate()))


def accounts(folder: LegacyFolder, *rows: Row) -> dict[str, LegacyUser | RejectedRecord]:
    """All accounts, the same however they are looked up."""
    with read(folder, *rows) as snapshot:
        found = list(snapshot.accounts())
        assert [account.number for account in found] == list(range(snapshot.total))
        for start in range(len(found) + 2):
            rest = [(a.number, a.username) for a in snapshot.accounts(start)]
            assert rest == [(a.number, a.username) for a in found[start:]]
        for account in found:
            assert account.username in snapshot
            if isinstance(account.user, LegacyUser):
                assert snapshot.find(account.username.upper()) == account.user
    return {account.username: account.user for account in found}


def user(folder: LegacyFolder, *rows: Row) -> LegacyUser:
    (found,) = accounts(folder, *rows).values()
    assert isinstance(found, LegacyUser)
    return found


def reason(found: LegacyUser | RejectedRecord) -> str:
    assert isinstance(found, RejectedRecord)
    return str(found)


def values(key: LegacyKey) -> tuple[str | None, str | None]:
    """The value of a key and of its older version."""
    return key.parts.get("value"), key.older.parts.get("value") if key.older else None


@pytest.mark.parametrize(
    ("in_file", "in_database", "expected", "told"),
    [
        (OLD, NEW, ("there", "here"), "the newer one (the database) was taken"),
        (NEW, OLD, ("here", "there"), "the newer one (users.json) was taken"),
        (None, OLD, ("there", "here"), "the newer one (the database) was taken"),
        (OLD, None, ("here", "there"), "the newer one (users.json) was taken"),
        (OLD, OLD, ("here", "there"), "with nothing to tell which is newer"),
        (None, None, ("here", "there"), "with nothing to tell which is newer"),
    ],
)
def test_the_newer_value_wins_and_the_other_is_kept(
    folder: LegacyFolder,
    in_file: str | None,
    in_database: str | None,
    expected: tuple[str, str],
    told: str,
) -> None:
    keys = {"openai": folder.token("here"), "google": "same", "slack": "in the file only"}
    folder.users({"ann": record(api_keys=keys, api_keys_updated=in_file)})
    theirs = {"openai": "there", "google": folder.token("same"), "x": "in the database only"}
    ann = user(folder, row("ann", theirs, in_database))
    assert {name: values(key) for name, key in ann.keys.items()} == {
        "openai": expected,
        "google": ("same", None),
        "slack": ("in the file only", None),
        "x": ("in the database only", None),
    }
    (warning,) = ann.warnings
    assert warning.startswith("key openai differs between users.json and the database; ")
    assert told in warning
    assert warning.endswith("the other is kept as an older version")


@pytest.mark.parametrize("locked_side", ["file", "database"])
def test_a_locked_value_never_wins_over_one_that_opens(
    folder: LegacyFolder, locked_side: str
) -> None:
    token = folder.token("x", OTHER_KEY)
    in_file, there = ((token, "opens"), ("opens", token))[locked_side == "database"]
    times = (NEW, OLD) if locked_side == "file" else (OLD, NEW)
    folder.users({"ann": record(api_keys={"openai": in_file}, api_keys_updated=times[0])})
    ann = user(folder, row("ann", {"openai": there}, times[1]))
    assert ann.keys["openai"] == LegacyKey(
        "openai", {"value": "opens"}, {}, LegacyKey("openai", {}, {"value": token})
    )
    assert "the one that can be opened" in ann.warnings[0]


def test_of_two_locked_values_the_newer_one_wins(folder: LegacyFolder) -> None:
    first, second = folder.token("x", OTHER_KEY), folder.token("x", OTHER_KEY)
    folder.users({"ann": record(api_keys={"openai": first}, api_keys_updated=OLD)})
    key = user(folder, row("ann", {"openai": second}, NEW)).keys["openai"]
    assert key.older is not None
    assert (key.locked, key.older.locked) == ({"value": second}, {"value": first})


def test_settings_for_mail_are_one_key(folder: LegacyFolder) -> None:
    smtp = {"host": "mail", "port": 587, "user": "u", "pass": folder.token("p"), "from": "x"}
    settings = json.dumps(smtp)
    parts = {"host": "mail", "port": "587", "user": "u", "password": "p"}
    assert user(folder, row("ann", smtp_settings=settings)).keys["smtp"].parts == parts
    in_keys = row("ann", {"smtp_host": "other"}, smtp_settings=settings)
    assert user(folder, in_keys).keys["smtp"].parts == {"host": "other"}
    folder.users({"ann": record(api_keys={"smtp_host": "in the file"}, api_keys_updated=NEW)})
    merged = user(folder, row("ann", {"smtp_host": ""}, OLD, smtp_settings=settings)).keys["smtp"]
    assert merged.parts == {"host": "in the file"}
    assert merged.older is not None
    assert merged.older.parts == parts


def test_accounts_of_the_database_alone_come_last_and_are_ordinary(folder: LegacyFolder) -> None:
    folder.users({"zoë": record(role="admin"), "bad": record(password_hash="?")})
    folder.second_factors({"ann": {"secret": "JBSWY3DPEHPK3PXP", "enabled": True}})
    found = accounts(
        folder,
        row("ann", {"openai": "x"}, NEW, is_admin="true", email="a@example.com", created_at=OLD),
        row("zoë"),
        row("bob", is_admin="0"),
    )
    assert list(found) == ["zoë", "bad", "ann", "bob"]
    ann, bob = found["ann"], found["bob"]
    assert isinstance(ann, LegacyUser)
    assert (ann.name, ann.email, ann.is_admin) == ("ann", "a@example.com", False)
    assert (ann.password_hash, ann.api_permissions) == (HASH, {})
    assert ann.second_factor is not None
    assert ann.created_at is not None
    assert (ann.created_at.year, values(ann.keys["openai"])) == (2026, ("x", None))
    assert ann.warnings == (
        "is admin in the database only, which is not followed; the account is no admin",
    )
    assert isinstance(bob, LegacyUser)
    assert (bob.is_admin, bob.warnings) == (False, ())
    with read(folder, row("ann")) as snapshot:
        assert snapshot.warnings == [], "the second factor is no stranger's"


@pytest.mark.parametrize(
    ("role", "flag", "told"),
    [
        ("user", "true", "is admin in the database; the role in users.json counts"),
        ("admin", "0", "is no admin in the database; the role in users.json counts"),
        ("admin", "1", None),
        ("admin", None, None),
    ],
)
def test_the_role_is_that_of_the_file(
    folder: LegacyFolder, role: str, flag: str | None, told: str | None
) -> None:
    folder.users({"ann": record(role=role)})
    ann = user(folder, row("ann", is_admin=flag))
    assert ann.is_admin == (role == "admin")
    assert ann.warnings == ((told,) if told else ())


def test_the_password_is_that_of_the_file_if_it_has_one(folder: LegacyFolder) -> None:
    folder.users({"ann": record()})
    assert user(folder, row("ann")).password_hash == sha256_of("a password")
    assert user(folder, row("ann", password_hash="scrypt:x")).warnings == ()
    folder.users({"ann": record(password_hash=None)})
    ann = user(folder, row("ann"))
    assert (ann.password_hash, len(ann.warnings)) == (HASH, 1)
    assert "no password_hash" in reason(accounts(folder, row("ann", password_hash=None))["ann"])
    folder.users({"ann": record(password_hash=None, api_keys=[])})
    assert "api_keys" in reason(accounts(folder, row("ann"))["ann"]), "still rejected"


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (row("ann", "{"), "api_keys in the database is not valid JSON"),
        (row("ann", "[" * 100_000), "api_keys in the database is not valid JSON"),
        (row("ann", '{"openai": NaN}'), "api_keys in the database is not valid JSON"),
        (row("ann", "9" * 5000), "api_keys in the database is not an object"),
        (row("ann", '["a"]'), "api_keys in the database is not an object"),
        (row("ann", smtp_settings="no"), "smtp_settings in the database is not valid JSON"),
        (row("ann", email="\udcff"), "its row in the database holds text that is not UTF-8"),
    ],
)
def test_a_row_that_cannot_be_read_is_rejected_and_the_file_still_counts(
    folder: LegacyFolder, bad: Row, told: str
) -> None:
    assert reason(accounts(folder, bad)["ann"]) == told
    folder.users({"ann": record(api_keys={"openai": "x"})})
    with read(folder, bad) as snapshot:
        in_file, in_database = snapshot.accounts()
        assert snapshot.find("ann") == in_file.user
    assert isinstance(in_file.user, LegacyUser)
    assert (in_database.username, reason(in_database.user)) == ("ann", told)


@pytest.mark.parametrize("name", [None, "", "x" * 151, "nul\0", "\udcff"])
def test_a_row_without_a_usable_name_is_rejected(folder: LegacyFolder, name: str | None) -> None:
    with read(folder, row(name), row("ann")) as snapshot:
        bad, ann = snapshot.accounts()
    assert isinstance(bad.user, RejectedRecord)
    assert isinstance(ann.user, LegacyUser)


def test_a_name_that_differs_by_case_may_be_another_persons(folder: LegacyFolder) -> None:
    folder.users({"ann": record()})
    with read(folder, row("ANN", {"openai": "x"}), row("Bob"), row("bob"), row("Bob")) as snapshot:
        found = list(snapshot.accounts())
        assert [a.username for a in found] == ["ann", "ANN", "Bob", "bob", "Bob"]
        assert [isinstance(a.user, DuplicateName) for a in found] == [0, 1, 0, 1, 1]
        ann = snapshot.find("Ann")
        assert isinstance(ann, LegacyUser)
        assert ann.keys == {}


@pytest.mark.parametrize("empty", [None, "", "null", "{}", " "])
def test_no_keys_are_no_keys(folder: LegacyFolder, empty: str | None) -> None:
    assert user(folder, row("ann", empty, smtp_settings=empty)).keys == {}


def test_a_token_of_the_database_needs_the_key_file_too(folder: LegacyFolder) -> None:
    token = folder.token("x")
    (folder.path / ".encryption_key").unlink()
    with (
        read(folder, row("ann", {"openai": token})) as snapshot,
        pytest.raises(LegacyUnreadable, match="values in the database need it"),
    ):
        snapshot.require_keys()


def test_stamp_and_digest_cover_the_database(folder: LegacyFolder) -> None:
    with read(folder, row("ann")) as first, read(folder, row("ann")) as again:
        assert first.digest == again.digest
    with read(folder, row("ann", email="x")) as other, open_snapshot(folder.path) as without:
        assert len({first.digest, other.digest, without.digest}) == 3
        assert without.stamp != first.stamp


names = st.sampled_from(["ann", "Ann", "bob", ""]) | st.text(max_size=5)
cells = st.none() | st.text(max_size=9) | st.builds(json.dumps, json_values)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(
    users=st.dictionaries(names, json_values | st.just(record()), max_size=4),
    rows=st.lists(
        st.fixed_dictionaries(
            {"username": st.none() | names, "password_hash": st.just(HASH) | cells},
            optional=dict.fromkeys(set(COLUMNS) - set(REQUIRED_COLUMNS), cells),
        ),
        max_size=5,
    ),
)
def test_every_account_is_handed_out_once_or_rejected(
    folder: LegacyFolder, users: dict[str, Any], rows: list[Row]
) -> None:
    users = json.loads(json.dumps(users).replace("NaN", "0").replace("Infinity", "0"))
    folder.users(users)
    with read(folder, *rows) as snapshot:
        found = list(snapshot.accounts())
        assert [account.number for account in found] == list(range(snapshot.total))
        assert [account.username for account in found][: len(users)] == list(users)
        taken = {printable(account.username) for account in found}
        assert all(printable(one["username"] or "") in taken for one in rows)
        for account in found:
            assert account.username in snapshot
        imported = [a.username.casefold() for a in found if isinstance(a.user, LegacyUser)]
        assert len(imported) == len(set(imported))
