"""What gunicorn serves: `api.wsgi:app`."""

from __future__ import annotations

from api.app import create_app
from api.bootstrap import build
from api.log import configure
from settings import Settings

_settings = Settings()
configure(_settings.log_level)
app = create_app(build(_settings))
