"""The RQ worker and its schedule: `python worker.py`."""

import sys

from webapp.config import ConfigError, current_settings
from webapp.jobs.context import application
from webapp.jobs.worker import serve
from webapp.services.keyring import KeyringRefused


def main() -> int:
    """Work until a signal (0), or say in one line each why not (2)."""
    try:
        app = application()
        with app.app_context():
            redis_url = current_settings().redis_url
        if redis_url is None:
            raise ConfigError("REDIS_URL: is required by the worker")
        serve(app, redis_url)
    except ConfigError as error:
        print(f"keystay: {error}", file=sys.stderr)
        return 2
    except KeyringRefused as error:
        print("\n".join(f"keystay: {problem}" for problem in error.problems), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
