"""SQLAlchemy models, one module per subject; importing this package registers all tables."""

from webapp.models.audit import AuditEvent
from webapp.models.keys import ApiKey, ApiKeyVersion
from webapp.models.legacy import Discrepancy, OutboxEntry
from webapp.models.runs import Run
from webapp.models.sessions import LoginAttempt, LoginSession
from webapp.models.users import User
from webapp.models.vault import DataKey, KeyringCheck

__all__ = [
    "ApiKey",
    "ApiKeyVersion",
    "AuditEvent",
    "DataKey",
    "Discrepancy",
    "KeyringCheck",
    "LoginAttempt",
    "LoginSession",
    "OutboxEntry",
    "Run",
    "User",
]
