"""What gunicorn serves: `gunicorn wsgi:app`. `flask` finds it too."""

import sys

from webapp import cli, create_app
from webapp.config import ConfigError

try:
    app = create_app()
except ConfigError as error:
    if not cli.needs_no_settings(sys.argv):
        print(f"keystay: {error}", file=sys.stderr)
        sys.exit(2)
    app = cli.without_settings()
