"""Examples in the API's description; a test holds them against the models."""

from __future__ import annotations

from typing import Any

DOCUMENT_ID = "doc_01k8z4v9qj3m7x2t5w6y8r0c1d"
OTHER_ID = "doc_01k8z4va8w9e6r3t1y7u5p2s4h"
JOB_ID = "job_01k8z4w2fnb6s0e9h4p7a3g5k8"
_BATCH_ID = "batch_01k8z4x7rt2d8v5c1m9q6y0j3n"


def _new(summary: str, kind: str, params: dict[str, Any], *, documents: int = 1) -> dict[str, Any]:
    value = {"kind": kind, "document_ids": [DOCUMENT_ID, OTHER_ID][:documents], "params": params}
    return {"summary": summary, "value": value}


#: Bodies of POST /v1/jobs, by kind.
NEW_JOBS: dict[str, dict[str, Any]] = {
    "summarize": _new("Summarize with a focus", "summarize", {"focus": "risks and how they are met"}),
    "extract": _new(
        "Extract fields as JSON",
        "extract",
        {
            "schema": {
                "type": "object",
                "properties": {"tenant": {"type": "string"}, "monthly_rent": {"type": "number"}},
                "required": ["tenant", "monthly_rent"],
                "additionalProperties": False,
            }
        },
    ),
    "compare": _new("Compare two versions", "compare", {"focus": "obligations"}, documents=2),
    "ask": _new("Ask twice in one reading", "ask", {"questions": ["Who signed?", "When does it end?"]}),
    "chat": _new("Begin a conversation", "chat", {"message": "What is this document about?"}),
}

NEW_BATCH: dict[str, Any] = {
    "kind": "summarize",
    "document_ids": [DOCUMENT_ID, OTHER_ID],
    "params": {"focus": "risks"},
}

DOCUMENT: dict[str, Any] = {
    "id": DOCUMENT_ID,
    "object": "document",
    "status": "ready",
    "filename": "lease.pdf",
    "size_bytes": 482_113,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "media_type": "application/pdf",
    "title": "Lease",
    "paged": True,
    "pages": {"done": 34, "total": 34},
    "pages_without_text": [],
    "pages_from_ocr": [],
    "characters": 71_204,
    "language": "en",
    "warnings": [],
    "parser_version": "3",
    "error": None,
    "created_at": "2026-03-02T09:14:05Z",
    "parsed_at": "2026-03-02T09:14:06Z",
    "links": {"self": f"/v1/documents/{DOCUMENT_ID}", "text": f"/v1/documents/{DOCUMENT_ID}/text"},
}

JOB: dict[str, Any] = {
    "id": JOB_ID,
    "object": "job",
    "kind": "ask",
    "status": "in_progress",
    "phase": "reading",
    "progress": {"pages_done": 12, "pages_total": 34, "tokens_done": 6144, "tokens_total": 17_398},
    "queue_position": None,
    "eta_s": 8.5,
    "attempt": 1,
    "created_at": "2026-03-02T09:15:00Z",
    "started_at": "2026-03-02T09:15:01Z",
    "finished_at": None,
    "expires_at": "2026-03-03T09:15:00Z",
    "batch_id": None,
    "document_ids": [DOCUMENT_ID],
    "params": {"questions": ["Who signed?"], "temperature": 0.0},
    "metadata": {"case": "4711"},
    "webhook_url": None,
    "usage": None,
    "coverage": None,
    "result": None,
    "error": None,
    "links": {
        "self": f"/v1/jobs/{JOB_ID}",
        "result": f"/v1/jobs/{JOB_ID}/result",
        "events": f"/v1/jobs/{JOB_ID}/events",
        "cancel": f"/v1/jobs/{JOB_ID}/cancel",
    },
}

BATCH: dict[str, Any] = {
    "id": _BATCH_ID,
    "object": "batch",
    "kind": "summarize",
    "status": "in_progress",
    "jobs": {"queued": 1, "completed": 1},
    "created_at": "2026-03-02T09:20:00Z",
    "links": {"self": f"/v1/batches/{_BATCH_ID}", "jobs": f"/v1/jobs?batch_id={_BATCH_ID}"},
}

QUOTE: dict[str, Any] = {
    "object": "quote",
    "document_ids": [DOCUMENT_ID],
    "characters": 71_204,
    "fits": True,
    "ahead": 0,
    "workers": [
        {
            "worker_id": "gpu-1:0",
            "model": "GLM-4-9B-Chat-1M@main",
            "tokens": 17_398,
            "exact": True,
            "tokens_fit": 1_032_192,
            "fits": True,
            "sections": 1,
            "already_read": False,
            "read_s": 1.9,
            "write_s": 0.6,
        }
    ],
}

RESULT: dict[str, Any] = {
    "object": "result",
    "job_id": JOB_ID,
    "kind": "ask",
    "result": {
        "answers": [
            {
                "title": "Who signed?",
                "text": "Ada Byron signed for the tenant.",
                "found": True,
                "cut_off": False,
                "citations": [
                    {
                        "quote": "Signed for the Tenant: Ada Byron",
                        "document_id": DOCUMENT_ID,
                        "page": 34,
                        "place": "page 34",
                        "label": "32",
                        "start": 410,
                        "end": 442,
                        "verified": True,
                        "match": "exact",
                        "score": 1.0,
                    }
                ],
            }
        ],
        "data": None,
        "calls": [],
    },
    "coverage": {
        "documents": [
            {
                "document_id": DOCUMENT_ID,
                "filename": "lease.pdf",
                "paged": True,
                "pages_read": 34,
                "pages_total": 34,
                "pages_without_text": [],
                "pages_from_ocr": [],
            }
        ],
        "tokens": 17_398,
        "reading": "whole",
        "sections": 1,
        "model": "GLM-4-9B-Chat-1M",
        "weights": "nf4",
        "parser_versions": ["pdf/4"],
        "prompt": "ask@1a2b3c4d",
        "quotes_given": 1,
        "quotes_verified": 1,
    },
    "usage": {
        "tokens_read": 17_398,
        "tokens_reused": 0,
        "tokens_written": 41,
        "parse_s": 0.9,
        "wait_s": 0.1,
        "read_s": 1.9,
        "write_s": 0.6,
        "check_s": 0.0,
        "total_s": 3.5,
        "first_token_s": 2.1,
    },
}
