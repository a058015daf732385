"""The sample folder: what its README promises of each of the six users."""

import hashlib
from collections.abc import Iterator

import bcrypt
import pytest

from tests.legacy_folder import SAMPLE
from webapp.legacy.records import LegacySecondFactor, LegacyUser
from webapp.legacy.users_json import open_snapshot

PASSWORDS = {
    "amira": "correct-horse-7",
    "ben": "battery-staple-7",
    "chen_li": "paperclip-lamp-7",
    "001": "zero-zero-one-7",
    "dora": "bcrypt-sample-7",
    "emre": "window-river-7",
}


@pytest.fixture
def sample() -> Iterator[dict[str, LegacyUser]]:
    with open_snapshot(SAMPLE) as snapshot:
        snapshot.require_keys()
        assert snapshot.warnings == []
        users = [account.user for account in snapshot.accounts()]
        yield {user.username: user for user in users if isinstance(user, LegacyUser)}


def test_all_six_are_read_without_a_warning(sample: dict[str, LegacyUser]) -> None:
    assert list(sample) == list(PASSWORDS)
    assert not any(user.warnings for user in sample.values())


@pytest.mark.parametrize("username", PASSWORDS)
def test_each_password_belongs_to_its_hash(sample: dict[str, LegacyUser], username: str) -> None:
    stored, password = sample[username].password_hash, PASSWORDS[username].encode()
    if username == "dora":
        assert bcrypt.checkpw(password, stored.encode())
    else:
        assert stored == hashlib.sha256(password).hexdigest()


def test_amira_is_an_admin_with_three_keys(sample: dict[str, LegacyUser]) -> None:
    amira = sample["amira"]
    assert amira.is_admin
    assert amira.email == "amira@example.com"
    assert amira.keys["openai"].parts == {"value": "sk-proj-sample-amira-0123456789abcdef"}
    assert amira.keys.keys() == {"openai", "google", "slack"}
    assert all("sample" in key.parts["value"].lower() for key in amira.keys.values())


def test_ben_has_a_second_factor_and_smtp_settings(sample: dict[str, LegacyUser]) -> None:
    ben = sample["ben"]
    assert ben.second_factor == LegacySecondFactor("JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP", True)
    assert ben.keys.keys() == {"openai", "smtp"}
    assert ben.keys["smtp"].parts.keys() == {"host", "port", "user", "password"}
    assert ben.keys["smtp"].parts["port"] == "587"


def test_chen_li_asked_for_admin_and_has_no_openai_key(sample: dict[str, LegacyUser]) -> None:
    chen_li = sample["chen_li"]
    assert (chen_li.is_admin, chen_li.admin_request) == (False, True)
    assert chen_li.reason == "I look after the reports."
    assert chen_li.api_permissions == {"openai": False, "google": True, "slack": False}
    assert chen_li.keys.keys() == {"google"}
    assert chen_li.second_factor == LegacySecondFactor("KRSXG5CTMVRXEZLUKRSXG5CTMVRXEZLU", False)


def test_001_has_no_keys(sample: dict[str, LegacyUser]) -> None:
    assert sample["001"].keys == {}


def test_emre_has_a_plain_a_locked_and_a_custom_key(sample: dict[str, LegacyUser]) -> None:
    keys = sample["emre"].keys
    assert keys["openai"].parts == {"value": "sk-plain-never-encrypted-emre"}
    assert keys["google"].is_locked
    assert keys["google"].locked["value"].startswith("gAAAA")
    assert "sample" in keys["mistral"].parts["value"]
