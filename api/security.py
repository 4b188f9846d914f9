"""What protects a browser's user: other sites' requests are refused, and headers say what a page may do."""

from __future__ import annotations

from urllib.parse import urlsplit

from apiflask import APIFlask
from flask import Response, request
from werkzeug.sansio.utils import host_is_trusted

from api.problems import CrossSite, UntrustedHost
from api.services import services

_SAFE = {"GET", "HEAD", "OPTIONS"}

#: For pages: everything from this server, nothing inline, no frames around.
CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)


def refuse_cross_site() -> None:
    """Refuse a change that another site makes a browser ask for.

    Browsers say so themselves in `Sec-Fetch-Site` (W3C Fetch Metadata, section 2.4), but only to https and
    local addresses; elsewhere `Origin` must name this host. Programs send neither.

    Raises:
        CrossSite: it is one.
    """
    if request.method in _SAFE:
        return
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin", request.host_url)
    if site not in {"same-origin", "none"} if site else urlsplit(origin).netloc != request.host:
        raise CrossSite


def refuse_untrusted_host() -> None:
    """Refuse a page that lets its own name point to this server, to read it as if it were part of the page.

    Raises:
        UntrustedHost: the request is for a name that is not ours.
    """
    hosts = services().settings.hosts
    if hosts is not None and not host_is_trusted(request.host, hosts):
        raise UntrustedHost


def protect(response: Response) -> Response:
    """Set the headers every answer has."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    if response.mimetype == "text/html":
        response.headers["Content-Security-Policy"] = CONTENT_POLICY
    return response


def register(app: APIFlask) -> None:
    """Guard every route of `app`."""
    app.before_request(refuse_untrusted_host)
    app.before_request(refuse_cross_site)
    app.after_request(protect)
