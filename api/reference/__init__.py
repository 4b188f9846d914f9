"""The reference at /docs: the API's description and the errors, as pages that need nothing from elsewhere."""

from __future__ import annotations

import re
from typing import cast

from apiflask import APIFlask
from flask import Blueprint, current_app, render_template
from markupsafe import Markup, escape

from api.catalogue import ROOMS, entries

blueprint = Blueprint(
    "reference",
    __name__,
    url_prefix="/docs",
    template_folder="templates",
    static_folder="static",
    static_url_path="/static",
)


@blueprint.app_template_filter()
def code(text: str | None) -> Markup:
    """Text with what stands between backticks set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text or ""))))


@blueprint.get("")
def api() -> str:
    """Every operation, with what it takes and what it answers."""
    made = current_app.extensions
    if "reference" not in made:  # APIFlask describes the routes anew each time it is asked
        made["reference"] = cast(APIFlask, current_app).spec
    return render_template("reference/api.html", spec=made["reference"])


@blueprint.get("/errors")
def errors() -> str:
    """Every error, with its code, status and remedy."""
    rooms = {room: [entry for entry in entries() if entry.room == room] for room in ROOMS}
    return render_template("reference/errors.html", rooms=rooms)
