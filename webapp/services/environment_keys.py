"""Keys that the operator gives through environment variables: they come before stored ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from webapp.config import current_settings
from webapp.providers import PROVIDERS
from webapp.services.key_rules import KeyValue


@dataclass(frozen=True)
class EnvironmentKey:
    """A provider's key from the environment, and the (first) variable that it stands in."""

    variable: str
    value: KeyValue = field(repr=False)


def environment_keys(*, is_admin: bool) -> dict[str, EnvironmentKey]:
    """Return the environment's keys by provider that this person may use.

    With SHARE_ENVIRONMENT_KEYS off they serve admins only.
    """
    settings = current_settings()
    if not (is_admin or settings.share_environment_keys):
        return {}
    found = {}
    for name in PROVIDERS:
        key = _find(name, settings.environment_keys)
        if key:
            found[name] = key
    return found


def _find(name: str, variables: Mapping[str, str]) -> EnvironmentKey | None:
    provider = PROVIDERS[name]
    if provider.fields:
        if not all(variable in variables for variable in provider.variables):
            return None
        pairs = zip(provider.fields, provider.variables, strict=True)
        values = {part.name: variables[variable] for part, variable in pairs}
        return EnvironmentKey(provider.variables[0], values)
    for variable in provider.variables:
        if variable in variables:
            return EnvironmentKey(variable, variables[variable])
    return None
