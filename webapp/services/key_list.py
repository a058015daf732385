"""What the keys page shows: every known provider and every custom key of a person, no value."""

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

from webapp.providers import PROVIDERS, Provider
from webapp.services import key_store
from webapp.services.environment_keys import EnvironmentKey, environment_keys
from webapp.services.key_payload import Payload, hint
from webapp.services.key_store import Owner, StoredKey
from webapp.services.keys import Source, read_both_sides

KeyState = Literal["environment", "locked", "saved", "legacy", "deleted", "missing"]


@dataclass(frozen=True)
class FieldView:
    """An input of a key. It never holds what is stored: the list shows no value."""

    name: str
    label: str
    secret: bool
    input_type: str
    placeholder: str


@dataclass(frozen=True, kw_only=True)
class KeyEntry:
    """A key as its owner sees it in the list."""

    name: str
    label: str
    state: KeyState
    source: Source | None = None
    allowed: bool = True
    """False when an admin does not let this person use the provider."""
    hint: str | None = field(default=None, repr=False)
    """The last four characters of the value in use, for texts of at least 12."""
    version: int | None = None
    updated_at: datetime | None = None
    expires_at: datetime | None = None
    fingerprint: str | None = None
    locked_reason: str | None = None
    env_variable: str | None = None
    stored_behind_environment: bool = False
    """A stored one exists although the environment's takes precedence."""
    fields: tuple[FieldView, ...] = ()
    help_url: str | None = None
    placeholder: str = ""

    can_reveal: bool = False

    @property
    def is_multi_field(self) -> bool:
        return len(self.fields) > 1

    @property
    def is_custom(self) -> bool:
        return self.name not in PROVIDERS

    @property
    def expires_on(self) -> date | None:
        """The last day on which the key counts as good."""
        return self.expires_at.date() if self.expires_at else None


def list_keys(username: str) -> list[KeyEntry]:
    """Return an entry for each known provider, in their order, then for each custom key by name.

    A fresh read: two statements however many keys there are. Raises UnknownUser, KeysUnavailable.
    """
    owner, stored, from_legacy = read_both_sides(username)
    from_environment = environment_keys(is_admin=owner.is_admin)
    custom = sorted((stored.keys() | from_legacy.keys()) - PROVIDERS.keys())
    return [
        _entry(owner, name, stored.get(name), from_environment.get(name), from_legacy.get(name))
        for name in [*PROVIDERS, *custom]
    ]


def find_entry(username: str, name: str) -> KeyEntry:
    """Return the entry of one key, `missing` for a valid name that nobody used yet."""
    for entry in list_keys(username):
        if entry.name == name:
            return entry
    provider = Provider(name, name, ())
    return KeyEntry(name=name, label=name, state="missing", fields=_fields(provider))


def _entry(
    owner: Owner,
    name: str,
    stored: StoredKey | None,
    environment: EnvironmentKey | None,
    legacy: Payload | None,
) -> KeyEntry:
    provider = PROVIDERS.get(name) or Provider(name, name, ())
    live = stored if stored and not stored.deleted_at else None
    shown = live or stored
    return KeyEntry(
        name=name,
        label=provider.label,
        state=_state(environment, live, legacy, stored),
        source=_source(environment, live, legacy),
        allowed=owner.may_use(name),
        hint=_hint(owner, environment, live, legacy),
        version=shown.version if shown else None,
        updated_at=(shown.deleted_at or shown.updated_at) if shown else None,
        expires_at=live.expires_at if live else None,
        fingerprint=live.fingerprint if live else None,
        locked_reason=_locked_reason(live, legacy),
        env_variable=environment.variable if environment else None,
        stored_behind_environment=bool(environment and live),
        fields=_fields(provider),
        help_url=provider.help_url,
        placeholder=provider.placeholder,
        can_reveal=bool(
            (live and live.payload)
            or (environment and owner.is_admin)
            or (legacy and not legacy.locked)
        ),
    )


def _state(
    environment: EnvironmentKey | None,
    live: StoredKey | None,
    legacy: Payload | None,
    stored: StoredKey | None,
) -> KeyState:
    """The first that applies (CONTRACT, "State")."""
    if environment:
        return "environment"
    if live:
        return "saved" if live.payload else "locked"
    if legacy:
        return "locked" if legacy.locked else "legacy"
    return "deleted" if stored else "missing"


def _source(
    environment: EnvironmentKey | None, live: StoredKey | None, legacy: Payload | None
) -> Source | None:
    if environment:
        return "environment"
    if live:
        return "database"
    return "legacy" if legacy else None


def _hint(
    owner: Owner,
    environment: EnvironmentKey | None,
    live: StoredKey | None,
    legacy: Payload | None,
) -> str | None:
    if environment:
        # An installation's own key is shown to admins only, not even in part.
        return hint(environment.value) if owner.is_admin else None
    payload = live.payload if live else legacy
    return hint(payload.value) if payload and not payload.locked else None


def _locked_reason(live: StoredKey | None, legacy: Payload | None) -> str | None:
    if live:
        return live.locked_reason
    return key_store.LEGACY_REASON if legacy and legacy.locked else None


def _fields(provider: Provider) -> tuple[FieldView, ...]:
    if not provider.fields:
        # A known provider's key is one line; a custom one may be a certificate.
        input_type = "password" if provider.name in PROVIDERS else "textarea"
        return (FieldView("value", "Value", True, input_type, provider.placeholder),)
    return tuple(
        FieldView(part.name, part.label, part.secret, part.input_type, part.placeholder)
        for part in provider.fields
    )
