"""Structured logs on standard error: JSON lines in production, a readable form in development.

Nothing secret reaches a log (SECURITY.md, decision 13): requests are logged by route and status,
never with a body, a query or a header, and errors without the values of a statement.
"""

import logging
import sys

import structlog

from webapp.config import LogFormat

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def configure(form: LogFormat) -> None:
    """Send structlog and the standard library's loggers through one handler."""
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: list[structlog.typing.Processor] = (
        [
            # As text: the structured form of a traceback would hold the values of local variables.
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
        if form == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    # It says that it looked at the revision, whenever /readyz does; `flask db` turns it on again.
    logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)
