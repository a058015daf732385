"""The providers that Keystay knows by name: their fields and the variables their tools read.

Any other valid key name is a custom key with a single value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Field:
    """One input of a multi-field provider."""

    name: str
    label: str
    secret: bool = False
    input_type: str = "text"
    placeholder: str = ""


@dataclass(frozen=True)
class Provider:
    """A provider known by name.

    `variables`: environment variables that hold its key, first match wins; for a multi-field
    provider they are in the order of `fields` and count only when all are set.
    """

    name: str
    label: str
    variables: tuple[str, ...]
    help_url: str | None = None
    placeholder: str = ""
    fields: tuple[Field, ...] = ()


_ALL = (
    Provider(
        "openai", "OpenAI", ("OPENAI_API_KEY",), "https://platform.openai.com/api-keys", "sk-…"
    ),
    Provider(
        "anthropic",
        "Anthropic",
        ("ANTHROPIC_API_KEY",),
        "https://console.anthropic.com/settings/keys",
        "sk-ant-…",
    ),
    Provider(
        "google",
        "Google",
        ("GOOGLE_API_KEY", "GEMINI_API_KEY"),
        "https://aistudio.google.com/apikey",
        "AIza…",
    ),
    Provider(
        "slack",
        "Slack webhook",
        ("SLACK_WEBHOOK", "SLACK_WEBHOOK_URL"),
        "https://api.slack.com/apps",
        "https://hooks.slack.com/services/…",
    ),
    Provider(
        "github",
        "GitHub",
        ("GITHUB_TOKEN", "GH_TOKEN"),
        "https://github.com/settings/tokens",
        "github_pat_…",
    ),
    Provider(
        "smtp",
        "Mail (SMTP)",
        ("SMTP_HOST", "SMTP_PORT", "SMTP_USER", "SMTP_PASS"),
        fields=(
            Field("host", "Server", placeholder="smtp.example.com"),
            Field("port", "Port", placeholder="587"),
            Field("user", "User name", placeholder="name@example.com"),
            Field("password", "Password", secret=True, input_type="password"),
        ),
    ),
    Provider(
        "huggingface",
        "Hugging Face",
        ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        "https://huggingface.co/settings/tokens",
        "hf_…",
    ),
)

PROVIDERS: Mapping[str, Provider] = MappingProxyType({p.name: p for p in _ALL})
