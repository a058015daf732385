"""What gunicorn serves: `gunicorn wsgi:app`. `flask` finds it too."""

import sys

from webapp import create_app
from webapp.config import ConfigError

try:
    app = create_app()
except ConfigError as error:
    print(f"keystay: {error}", file=sys.stderr)
    sys.exit(2)
