"""Password hashes."""

import hashlib

import bcrypt
import pytest

from webapp.crypto.hashing import (
    PasswordHashes,
    is_bcrypt,
    is_sha256,
    verify_bcrypt,
    verify_sha256,
)


@pytest.fixture(scope="module")
def hashes() -> PasswordHashes:
    return PasswordHashes(memory_kib=64, passes=1, lanes=1)


def _bcrypt(secret: bytes, version: bytes = b"2b") -> str:
    hashed = bcrypt.hashpw(secret, bcrypt.gensalt(4))
    return hashed.replace(b"$2b$", b"$" + version + b"$").decode()


def test_a_hash_belongs_to_its_password_only(hashes: PasswordHashes) -> None:
    stored = hashes.hash("correct horse")
    assert stored.startswith("$argon2id$")
    assert hashes.verify(stored, "correct horse")
    assert not hashes.verify(stored, "Correct horse")
    assert not hashes.verify(stored, "correct horse ")
    assert not hashes.verify(stored, stored)


def test_equal_passwords_have_different_hashes(hashes: PasswordHashes) -> None:
    assert hashes.hash("same") != hashes.hash("same")


@pytest.mark.parametrize(
    "password", ["", "pässwörd ✓", "with\0nul", "half \ud800 a pair", "x" * 5000]
)
def test_any_characters_make_a_password(hashes: PasswordHashes, password: str) -> None:
    stored = hashes.hash(password)
    assert hashes.verify(stored, password)
    assert not hashes.verify(stored, password + "x")


@pytest.mark.parametrize(
    "stored",
    ["", "é", "$argon2id$", "$argon2id$v=19$m=64,t=1,p=1$é$é", "$1$old$md5", "0" * 64],
)
def test_what_is_no_hash_never_matches(hashes: PasswordHashes, stored: str) -> None:
    assert not hashes.verify(stored, "")
    assert not hashes.verify(stored, stored)
    assert not hashes.is_current(stored)


def test_a_hash_of_another_cost_is_verified_and_not_current(hashes: PasswordHashes) -> None:
    stored = PasswordHashes(memory_kib=128, passes=1, lanes=1).hash("secret")
    assert hashes.verify(stored, "secret")
    assert not hashes.is_current(stored)
    assert hashes.is_current(hashes.hash("secret"))


@pytest.mark.parametrize("version", [b"2a", b"2b", b"2y"])
def test_bcrypt_hashes_of_every_version_are_read(version: bytes) -> None:
    stored = _bcrypt("pässwörd".encode(), version)
    assert is_bcrypt(stored)
    assert verify_bcrypt(stored, "pässwörd")
    assert not verify_bcrypt(stored, "passwörd")


def test_bcrypt_reads_72_bytes_and_does_not_raise_for_more() -> None:
    stored = _bcrypt(b"x" * 72)
    assert verify_bcrypt(stored, "x" * 200)
    assert not verify_bcrypt(stored, "x" * 71)


def test_bcrypt_does_not_stop_at_a_nul() -> None:
    assert not verify_bcrypt(_bcrypt(b"abc"), "abc\0def")


@pytest.mark.parametrize(
    "stored", ["", "$2b$", "$2b$04$short", "$2b$31$" + "a" * 53, "$2x$04$" + "a" * 53]
)
def test_a_malformed_or_endless_bcrypt_hash_never_matches(stored: str) -> None:
    assert not verify_bcrypt(stored, "")


def test_the_predecessors_digest_belongs_to_the_password_and_not_to_itself() -> None:
    digest = hashlib.sha256("pässwort".encode()).hexdigest()
    assert is_sha256(digest)
    assert is_sha256(digest.upper())
    assert verify_sha256(digest, "pässwort")
    assert verify_sha256(digest.upper(), "pässwort")
    assert not verify_sha256(digest, digest)
    assert not verify_sha256(digest, "passwort")
    assert not verify_sha256("", "")


@pytest.mark.parametrize("text", ["", "a" * 63, "a" * 65, "g" * 64, "a" * 64 + "\n", "$2b$04$abc"])
def test_what_is_no_digest_is_not_taken_for_one(text: str) -> None:
    assert not is_sha256(text)
