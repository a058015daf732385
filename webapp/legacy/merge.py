"""One account out of what users.json and the predecessor's database say about it.

A key that one side has is taken. Where both have it with different values, the side whose
`api_keys_updated…` is newer wins, and users.json where nothing tells; a value that does not open
never wins over one that does. The loser goes along as the older version of the key. The password is
that of users.json, and so is the role, always.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from webapp.legacy.keys import LegacyKey
from webapp.legacy.records import LegacyUser, is_password_hash, parse_user
from webapp.legacy.rows import RowRecord
from webapp.legacy.tokens import TokenKeys


def parse_row(row: RowRecord, second_factor: object, *, tokens: TokenKeys) -> LegacyUser:
    """Return the account of a row that users.json has no record for: an ordinary one.

    Raises as `parse_user`.
    """
    user = parse_user(row.username, row.record, second_factor, tokens=tokens)
    if not row.is_admin:
        return user
    warning = "is admin in the database only, which is not followed; the account is no admin"
    return replace(user, warnings=(*user.warnings, warning))


def parse_both(
    record: object, row: RowRecord, second_factor: object, *, tokens: TokenKeys
) -> LegacyUser:
    """Return the account of a record of users.json and the row of the same name.

    Raises as `parse_user`: a record that is rejected is not replaced by the row.
    """
    warnings: list[str] = []
    if isinstance(record, dict):
        record = _with_a_hash(record, row, warnings)
        # Either hash is the account's now, so that the row is not rejected for the other.
        row_record = {**row.record, "password_hash": record.get("password_hash")}
    else:
        row_record = dict(row.record)
    file = parse_user(row.username, record, second_factor, tokens=tokens)
    database = parse_user(row.username, row_record, tokens=tokens)
    keys = _keys(file, database, warnings)
    warnings += [f"in the database: {warning}" for warning in database.warnings]
    if row.is_admin is not None and row.is_admin != file.is_admin:
        there = "admin" if row.is_admin else "no admin"
        warnings.append(f"is {there} in the database; the role in users.json counts")
    return replace(
        file,
        email=file.email or database.email,
        created_at=file.created_at or database.created_at,
        keys=keys,
        api_keys_updated=_later(file.api_keys_updated, database.api_keys_updated),
        warnings=(*file.warnings, *warnings),
    )


def _with_a_hash(
    record: dict[str, object], row: RowRecord, warnings: list[str]
) -> dict[str, object]:
    theirs = row.record.get("password_hash")
    if is_password_hash(record.get("password_hash")) or not is_password_hash(theirs):
        return record
    warnings.append("has no usable password_hash in users.json; the database's was taken")
    return record | {"password_hash": theirs}


def _keys(file: LegacyUser, database: LegacyUser, warnings: list[str]) -> Mapping[str, LegacyKey]:
    keys = dict(file.keys)
    for name, theirs in database.keys.items():
        ours = keys.get(name)
        if ours is None:
            keys[name] = theirs
        elif ours != theirs:
            keys[name] = _winner(file, database, name, warnings)
    return keys


def _winner(file: LegacyUser, database: LegacyUser, name: str, warnings: list[str]) -> LegacyKey:
    sides = {"users.json": file.keys[name], "the database": database.keys[name]}
    there = _is_newer(database.api_keys_updated, file.api_keys_updated)
    here = _is_newer(file.api_keys_updated, database.api_keys_updated)
    winner, loser = ("the database", "users.json") if there else ("users.json", "the database")
    why = "the newer one" if there or here else "with nothing to tell which is newer, the one"
    if sides[winner].is_locked and not sides[loser].is_locked:
        winner, loser = loser, winner
        why = "the one that can be opened"
    warnings.append(
        f"key {name} differs between users.json and the database; {why} ({winner}) was taken,"
        " the other is kept as an older version"
    )
    return sides[winner]._replace(older=sides[loser])


def _is_newer(one: datetime | None, other: datetime | None) -> bool:
    return one is not None and (other is None or one > other)


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return other if _is_newer(other, one) else one
