"""Who and what is on the pages: keys in every state, runs of every outcome, a crowd of accounts."""

from datetime import timedelta

from flask import Flask
from sqlalchemy import insert, select, update

from tests.legacy_folder import LegacyFolder, record
from tests.people import PASSWORD, TOTP, add_person
from webapp.clock import now
from webapp.db import transaction
from webapp.models import ApiKey, ApiKeyVersion, Discrepancy, OutboxEntry, Run, User
from webapp.models.users import fold
from webapp.services import legacy_mode, runs
from webapp.services.consistency import check_consistency
from webapp.services.keys import delete_user_api_key, save_user_api_key
from webapp.services.legacy_migration import migrate_api_keys_from_json_to_db
from webapp.services.legacy_repair import Choice, repair

__all__ = ["PASSWORD"]

ADMIN = "amira"
MEMBER = "ben"
WITH_CODES = "chen_li"
NEWCOMER = "dora"
COLLECTOR = "emre"
IMPORTED = "a.name@which-only.the-predecessor.example/allowed" * 3
"""As long as an imported one can be."""

LONG_WORD = "m" * 64
SLACK = "https://hooks.slack.com/services/T00000000/B00000000/made-up"
SMTP = {
    "host": "smtp.example.com",
    "port": "587",
    "user": "reports@example.com",
    "password": "a made-up password",
}
ENVIRON = {"SLACK_WEBHOOK": SLACK, "SHARE_ENVIRONMENT_KEYS": "1"}
"""What the settings of a populated site have besides."""


def populate(app: Flask, legacy: LegacyFolder, *, accounts: int = 120) -> None:
    """Fill the database of `app`, and the predecessor's folder that its settings name."""
    add_person(app, ADMIN, name="Amira Haddad", is_admin=True, email="amira@example.com")
    add_person(app, MEMBER, name="Ben Osei", api_permissions={"huggingface": False})
    add_person(app, WITH_CODES, name="Chen Li", totp=TOTP)
    add_person(app, NEWCOMER, name="Dora")
    add_person(app, COLLECTOR, name="Emre Yılmaz")
    add_person(app, IMPORTED, name="Wolfeschlegelsteinhausenbergerdorff " * 5)
    _write_legacy(legacy)
    with app.app_context():
        for owner in (ADMIN, MEMBER):
            _save_keys(owner)
        for number in range(40):
            save_user_api_key(COLLECTOR, f"customer-{number:02}-live", f"sk_made_up_{number:08}")
        _add_crowd(accounts)
        _add_runs()


def _write_legacy(legacy: LegacyFolder) -> None:
    keys = {"google": legacy.token("AIza-made-up-0123456789"), "mistral": "gAAAAA" + "A" * 114}
    legacy.users({name: record(api_keys=keys) for name in (ADMIN, MEMBER)})
    legacy.rest()


def _save_keys(owner: str) -> None:
    """Save keys so that every state occurs.

    anthropic is locked, github deleted, slack behind the environment's; google and mistral lie in
    the predecessor's file, where only the first can be opened; the others are saved.
    """
    for name in ("anthropic", "github", "huggingface", "openai", "stripe_live"):
        save_user_api_key(owner, name, f"{name}-made-up-0123456789")
    month = now() + timedelta(days=30)
    save_user_api_key(owner, "openai", "sk-proj-made-up-9876543210", expires_at=month)
    save_user_api_key(owner, "slack", f"{SLACK}-too")
    save_user_api_key(owner, "smtp", SMTP)
    save_user_api_key(owner, LONG_WORD, "-----BEGIN EXAMPLE-----\n" + "made up " * 40)
    delete_user_api_key(owner, "github")
    with transaction() as session:
        locked = select(ApiKey.id).where(ApiKey.name == "anthropic").scalar_subquery()
        session.execute(
            update(ApiKeyVersion)
            .where(ApiKeyVersion.api_key_id == locked)
            .values(sealed_value="ks1.1." + "A" * 60)
        )


def _add_crowd(accounts: int) -> None:
    at = now()
    with transaction() as session:
        session.execute(
            insert(User),
            [
                {
                    "username": f"member_{number:05}",
                    "username_folded": fold(f"member_{number:05}"),
                    "name": f"Member Number {number:,}",
                    "created_at": at - timedelta(days=number % 700),
                    "last_login_at": at - timedelta(hours=number) if number % 3 else None,
                    "disabled_at": at if number % 20 == 7 else None,
                    "admin_requested": number in {3, 4},
                    "admin_request_reason": "I look after the reports. " * 12
                    if number == 3
                    else "",
                }
                for number in range(accounts)
            ],
        )


def _add_runs() -> None:
    """Add runs of every outcome, and so many differences that they take two pages."""
    at = now()
    rejected = [{"name": LONG_WORD, "reason": "The password hash has no known form."}] * 60
    report = {
        "rejected": rejected,
        "warnings": ["two_fa.json is not there, so no codes came over."],
    }
    counts = {"users_created": 1_204, "users_existing": 31, "keys_imported": 3_600}
    counts |= {"keys_locked": 2, "records_rejected": 60, "keys_kept": 0, "two_factor_imported": 12}
    imported = Run(status="finished", cursor=1_295, total=1_295, counts=counts, report=report)
    failed = Run(status="failed", cursor=0, error="users.json is cut off: it ends inside a record.")
    running = Run(status="running", cursor=45_000, total=138_000)
    checked = Run(
        status="finished", cursor=1_235, total=1_235, counts={"equal": 1_175, "key_differs": 60}
    )
    waiting = Run(status="pending")
    everything = [
        (runs.LEGACY_IMPORT, imported),
        (runs.LEGACY_IMPORT, failed),
        (runs.LEGACY_IMPORT, running),
        (runs.CONSISTENCY_CHECK, checked),
        (runs.CONSISTENCY_CHECK, waiting),
    ]
    with transaction() as session:
        for minutes, (kind, run) in enumerate(everything):
            run.kind, run.created_at = kind, at - timedelta(minutes=60 - minutes)
            run.started_at = run.created_at if run.status != "pending" else None
            run.finished_at = at if run.status in {"finished", "failed"} else None
            run.lease_expires_at = at + timedelta(hours=1) if run.status == "running" else None
            session.add(run)
        session.add_all(_earlier_checks())
        session.flush()
        kinds = ("key_differs", "only_in_legacy", "key_only_in_database", "locked_in_legacy")
        for number in range(60):
            kind = kinds[number % 4]
            key = "" if kind.startswith("only") else LONG_WORD if number == 2 else "openai"
            session.add(
                Discrepancy(
                    kind=kind,
                    username=IMPORTED if number == 1 else f"member_{number:05}",
                    key_name=key,
                    first_run_id=checked.id,
                    last_run_id=checked.id,
                )
            )


def _earlier_checks() -> list[Run]:
    """Return a check for each of the days before, with fewer and fewer differences."""
    return [
        Run(
            kind=runs.CONSISTENCY_CHECK,
            status="finished",
            cursor=1_235,
            counts={"equal": 1_235 - found, "key_differs": found, "pending": 7},
            created_at=now() - timedelta(days=days),
            started_at=now() - timedelta(days=days),
            finished_at=now() - timedelta(days=days),
        )
        for days in range(1, 21)
        for found in [60 + days * days + 40 * (days % 3)]
    ]


def differ(app: Flask, legacy: LegacyFolder) -> None:
    """Let both sides differ in every way, and a check and two repairs have been there."""

    def write(role: str, **changed: str) -> None:
        names, made_up = ("chen_li", IMPORTED, "dora_k", "emre_y"), legacy.token("made up")
        keys = {name: {"openai": made_up, "slack": made_up} for name in names}
        keys["chen_li"] |= {key: legacy.token(value) for key, value in changed.items()}
        users = {name: record(api_keys=keys[name], role=role) for name in names}
        more = {f"new_{number}": record(api_keys=keys["emre_y"]) for number in range(2)}
        legacy.users(users | (more if changed else {}))

    write("user")
    with app.app_context():
        migrate_api_keys_from_json_to_db()
        save_user_api_key("chen_li", "openai", "a value of the database")
        save_user_api_key("chen_li", LONG_WORD, "only in the database")
        delete_user_api_key("dora_k", "slack")
        write("admin", openai="a value of the files", google="only in the files")
        check_consistency()
        repair(Choice(winner="legacy", kinds=["only_in_database", "role_differs"]))
        check = runs.latest(runs.CONSISTENCY_CHECK)
        assert check
        repair(Choice(winner="legacy", username="dora_k", after_check=check.id))
        with transaction() as session:
            seen = {"first_run_id": check.id, "last_run_id": check.id}
            for number in range(150):
                name = f"record{number:03}"
                session.add(Discrepancy(kind="rejected_record", username=name, **seen))


def leave_waiting(app: Flask, legacy: LegacyFolder) -> None:
    """Let changes wait for the predecessor's files, some in vain, and one of the files be gone."""
    (legacy.path / "two_fa.json").unlink()
    (legacy.path / ".encryption_key").write_text("")
    problems = ["users.json cannot be replaced: No space left on device.", None]
    problems += ["users.json is not JSON: it ends inside a record."] * 2
    with app.app_context(), transaction() as session:
        owner = session.scalar(select(User.id))
        for number in range(1_204):
            entry = OutboxEntry(user_id=owner, field="key", key_name=f"key-{number}")
            entry.created_at = now() - timedelta(minutes=140)
            entry.problem = problems[number % 4]
            session.add(entry)


def cut_over(app: Flask, legacy: LegacyFolder, *, is_done: bool) -> None:
    """Let a cut-over be done, or be under way."""
    sealed = {
        "archive": "keystay-archive-20260101-120000.sealed",
        "master_key": "production-2026",
        "accepted": {"only_in_database": 1_204, "duplicate_username": 2, "rejected_record": 1},
    }
    run = Run(kind=runs.LEGACY_CUTOVER, status="running", arguments={"accept": []})
    run.started_at, run.lease_expires_at = now(), now() + timedelta(hours=1)
    with app.app_context(), transaction() as session:
        if is_done:
            run.status, run.lease_expires_at, run.finished_at = "finished", None, now()
            run.source, run.report = legacy_mode.folder_id(legacy.path), sealed
            run.counts = {"hashes_removed": 12_345}
            run.requested_by_id = session.scalar(select(User.id).where(User.username == ADMIN))
        session.add(run)
