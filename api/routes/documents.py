"""Documents: upload, list, look at, read the text of, delete."""

from __future__ import annotations

import json
from typing import cast

from apiflask import APIBlueprint
from flask import Response, request

from api.answers import DocumentList, ListQuery, TextList, TextQuery
from api.examples import DOCUMENT
from api.openapi import also, operation
from api.problems import BodyTooLarge, Fault, InvalidRequest, TextNotReady, UnsupportedMediaType
from api.request import Request
from api.services import services
from api.upload import Upload
from jobs.errors import (
    DocumentFailed,
    DocumentInUse,
    DocumentNotFound,
    IdempotencyKeyReused,
    StorageFull,
    UploadEmpty,
    UploadTooLarge,
)
from jobs.objects import Document
from jobs.status import DocumentStatus
from parsers.document import Document as Parsed
from worker.errors import TextMissing

blueprint = APIBlueprint("documents", __name__, url_prefix="/v1/documents", tag="Documents")


@blueprint.post("")
@operation(
    BodyTooLarge,
    IdempotencyKeyReused,
    StorageFull,
    UnsupportedMediaType,
    UploadEmpty,
    UploadTooLarge,
    responses={200: also(Document, "These bytes were known.")},
)
@blueprint.output(Document, 201, description="Uploaded.", example=DOCUMENT)
def upload_document() -> tuple[Document, int, dict[str, str]]:
    """Upload a file.

    The same bytes are the same document. Parsing begins at once; a job may name the document before it ends.
    """
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType("Send the file as multipart/form-data, in the part `file`.")
    parts = request.files.getlist("file")
    if len(parts) != 1:
        raise InvalidRequest(errors=[Fault(at="/file", message="send exactly one file, in the part `file`")])
    upload = Upload.of(parts[0])
    row, new = services().record.documents.add(
        upload.file,
        filename=upload.filename,
        password=request.form.get("password") or None,
        key=cast(Request, request).key(upload.file.seal().sha256, upload.filename),
    )
    document = Document.of(row)
    return document, 201 if new else 200, {"Location": document.links["self"]}


@blueprint.get("")
@operation()
@blueprint.input(ListQuery, location="query", arg_name="query")
@blueprint.output(DocumentList)
def list_documents(query: ListQuery) -> DocumentList:
    """List documents, newest first."""
    page = services().record.documents.page(limit=query.limit, after=query.after)
    return DocumentList.of(page, Document.of)


@blueprint.get("/<document_id>")
@operation(DocumentNotFound)
@blueprint.output(Document, example=DOCUMENT)
def get_document(document_id: str) -> Document:
    """Look at a document."""
    return Document.of(services().record.documents.get(document_id))


@blueprint.delete("/<document_id>")
@operation(DocumentNotFound, DocumentInUse, responses={204: {"description": "Deleted."}})
def delete_document(document_id: str) -> Response:
    """Delete a document, its file, its text and the finished jobs on it."""
    services().record.documents.delete(document_id)
    return Response(status=204)


@blueprint.get("/<document_id>/text")
@operation(DocumentNotFound, DocumentFailed, TextNotReady, TextMissing)
@blueprint.input(TextQuery, location="query", arg_name="query")
@blueprint.output(TextList)
def get_text(document_id: str, query: TextQuery) -> TextList:
    """Read a document's text, page by page."""
    pages = _parsed(document_id).pages
    if query.page is None:
        return TextList.of(pages, after=query.after, limit=query.limit)
    if query.page > len(pages):
        raise InvalidRequest(errors=[Fault(at="query/page", message=f"the document has {len(pages)} pages")])
    return TextList.of(pages[: query.page], after=query.page - 1, limit=1)


def _parsed(document_id: str) -> Parsed:
    record = services().record
    row = record.documents.get(document_id)
    if row.status == DocumentStatus.FAILED:
        raise DocumentFailed((row.error or {}).get("message"))
    if row.status != DocumentStatus.READY or row.parser_version is None:
        raise TextNotReady
    saved = record.files.text(row.sha256, row.parser_version)
    if saved is None:
        raise TextMissing
    return Parsed.from_json(json.loads(saved))
