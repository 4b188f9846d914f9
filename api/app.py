"""The application: routes, guards and pages around the services they call."""

from __future__ import annotations

from apiflask import APIFlask

import api.log
import api.openapi
import api.pages
import api.problems
import api.security
from api import reference
from api.request import BODY_LIMIT, FORM_PARTS, FORM_ROOM, Request, StrictJson
from api.routes import batches, deliveries, documents, jobs, server
from api.services import Services


def create_app(services: Services) -> APIFlask:
    """An application that calls `services`."""
    app = APIFlask("api", title="Unabridged", version="1", docs_path=None, json_errors=False)
    app.request_class = Request
    app.json = StrictJson(app)
    app.jinja_env.policies["json.dumps_kwargs"] = {"sort_keys": False}
    app.config.update(
        MAX_CONTENT_LENGTH=BODY_LIMIT, MAX_FORM_MEMORY_SIZE=FORM_ROOM, MAX_FORM_PARTS=FORM_PARTS
    )
    app.extensions["unabridged"] = services
    for concern in (api.log, api.security, api.problems, api.openapi):
        concern.register(app)
    for noun in (documents, jobs, deliveries, batches, server):
        app.register_blueprint(noun.blueprint)
    app.register_blueprint(jobs.quotes)
    app.register_blueprint(reference.blueprint)
    app.register_blueprint(api.pages.blueprint())
    return app
