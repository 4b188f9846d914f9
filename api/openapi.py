"""The API's description (OpenAPI 3.1): what APIFlask gathers from the routes, then models and problems."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from apiflask import APIFlask
from apiflask.scaffold import APIScaffold
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.answers import Capacity, DeliveryList, DocumentList, Health, JobList, Result, TextList
from api.problems import MEDIA_TYPE, Problem, status_of
from api.quote import Quote
from jobs.objects import Batch, Delivery, Document, Job, ListedJob
from jobs.params import PARAMS, NewBatch, NewJob, OwnParams

Route = TypeVar("Route", bound=Callable[..., Any])

_SCHEMAS = "#/components/schemas/"
_INPUTS: tuple[type[BaseModel], ...] = (NewJob, NewBatch, *PARAMS.values(), OwnParams)
_OUTPUTS: tuple[type[BaseModel], ...] = (
    *(Batch, Capacity, Delivery, DeliveryList, Document, DocumentList, Health, Job, JobList, ListedJob),
    *(Problem, Quote, Result, TextList),
)
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}Problem"}}}

#: Headers any request may carry, by the operations that heed them.
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "maxLength": 255},
    "description": "A repeated request with the same key finds what the first one made.",
}
_WAIT = {
    "name": "Prefer",
    "in": "header",
    "schema": {"type": "string", "pattern": "^wait=[0-9]+$"},
    "description": "`wait=N` waits up to N seconds, at most 300, for the end (RFC 7240).",
}
_LAST_EVENT = {
    "name": "Last-Event-ID",
    "in": "header",
    "schema": {"type": "string"},
    "description": "Go on after this event.",
}
_HEADERS = {
    "upload_document": [_KEY],
    "create_job": [_KEY, _WAIT],
    "retry_job": [_KEY],
    "create_batch": [_KEY],
    "replay_delivery": [_KEY],
    "get_job": [_WAIT],
    "stream_events": [_LAST_EVENT],
}

_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "string", "contentMediaType": "application/octet-stream"},
                    "password": {"type": "string", "description": "Forgotten once the file is read."},
                },
            }
        }
    },
}


def operation(
    *problems: type[Exception], responses: Mapping[int | str, dict[str, Any]] | None = None
) -> Callable[[Route], Route]:
    """Describe a route: its name is the operation's id, and `problems` are the errors peculiar to it."""
    described: dict[int | str, dict[str, Any]] = dict(responses or {})
    for status in sorted({status_of(kind) for kind in problems}):
        codes = sorted(str(vars(kind).get("code", "")) for kind in problems if status_of(kind) == status)
        description = ", ".join(f"`{code}`" for code in codes)
        described[int(status)] = {"description": description, "content": _PROBLEM}

    def describe(route: Route) -> Route:
        summary, _, description = (inspect.getdoc(route) or "").partition("\n\n")
        doc = APIScaffold().doc(
            summary=summary, description=description, operation_id=route.__name__, responses=described or None
        )
        return doc(route)

    return describe


def also(model: type[BaseModel], description: str) -> dict[str, Any]:
    """A response with the same body as the one that a route's `output` describes, under another status."""
    schema = {"$ref": f"{_SCHEMAS}{model.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def complete(spec: Any) -> dict[str, Any]:
    """Fill in what APIFlask leaves open: one schema a model, headers, the upload's form, the problems."""
    order = list(dict.fromkeys(tag["name"] for tag in spec["tags"]))
    spec["tags"] = [{"name": name} for name in order]
    spec["paths"] = dict(sorted(spec["paths"].items(), key=lambda path: order.index(_tag(path[1]))))
    spec["components"] = {"schemas": _schemas()}
    for path, methods in spec["paths"].items():
        for described in methods.values():
            described["parameters"] += _HEADERS.get(described["operationId"], [])
            described["responses"]["default"] = {"description": "Any other problem.", "content": _PROBLEM}
            _name_simply(described)
        if path == "/v1/documents":
            methods["post"]["requestBody"] = _FORM
    return dict(spec)


def _tag(methods: dict[str, Any]) -> str:
    return str(next(iter(methods.values()))["tags"][0])


def _schemas() -> dict[str, Any]:
    models: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in _INPUTS]
    models += [(model, "serialization") for model in _OUTPUTS]
    schemas: dict[str, Any] = models_json_schema(models, ref_template=_SCHEMAS + "{model}")[1]["$defs"]
    kinds: list[type[BaseModel]] = [*PARAMS.values(), OwnParams]
    params = {"anyOf": [{"$ref": _SCHEMAS + model.__name__} for model in kinds]}
    for name in ("NewJob", "NewBatch"):
        schemas[name]["properties"]["params"] |= params
    return schemas


def _name_simply(node: Any) -> None:
    """APIFlask names a nested model after the one around it (`JobQuery.Status`); here each has one name."""
    if isinstance(node, dict):
        if isinstance(reference := node.get("$ref"), str):
            node["$ref"] = re.sub(r"[^/]+\.", "", reference)
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            _name_simply(child)


def register(app: APIFlask) -> None:
    """Serve the description of `app` at /openapi.json."""
    app.config.update(
        AUTO_VALIDATION_ERROR_RESPONSE=False,
        AUTO_404_RESPONSE=False,
        AUTO_200_RESPONSE=False,
        AUTO_SERVERS=False,
        SUCCESS_DESCRIPTION="Done.",
    )
    app.spec_processor(complete)
