"""Shows the machine at work on the documents of this folder: `make demo`.

Starts the whole stack, does every kind of job with the small model that comes with the packages, receives
a signed webhook, and prints answers, citations, receipts and where the time went. Ends with status 0 if every
part was completed.
"""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from api.client import Client, ClientError, Document, Job, Work
from api.display import Display
from api.receiver import Receiver
from api.stack import Stack, StackError
from jobs.status import Kind, Status
from settings import Settings

HERE = Path(__file__).parent
VAR = HERE.parent / "var"
REPORT, SPECIFICATION, CHINESE = "annual-report.pdf", "specification.html", "chinese.pdf"
CONTRACTS = ("contract-v1.docx", "contract-v2.docx")

#: Answers are kept short: the small model writes slowly on a processor, and long answers of it are no better.
MAX_TOKENS = 96
WEBHOOK_S = 60.0


class DemoFailed(Exception):
    """A part of the demo was not completed."""


class Demo:
    """One part after another on one server."""

    def __init__(self, client: Client, display: Display, receiver: Receiver) -> None:
        self._client = client
        self._display = display
        self._receiver = receiver
        self._documents: dict[str, Document] = {}
        self.jobs: list[tuple[str, Job]] = []

    def run(self) -> None:
        """Every part.

        Raises:
            DemoFailed, ClientError: one was not completed.
        """
        self._upload()
        self._do("Summarize the report", Kind.SUMMARIZE, [REPORT], {})
        schema = json.loads((HERE / "schema.json").read_text())
        self._do("Extract key figures from the report", Kind.EXTRACT, [REPORT], {"schema": schema})
        self._do("Compare two drafts of a contract", Kind.COMPARE, CONTRACTS, {})
        self._ask_twice()
        self._ask_the_report()
        self._chat()
        self._batch()

    def _upload(self) -> None:
        self._display.heading("Upload")
        for name in (REPORT, *CONTRACTS, SPECIFICATION, CHINESE):
            document = self._documents[name] = self._client.upload(HERE / name)
            self._display.line(
                f"{name}: {document['size_bytes']:,} bytes, SHA-256 {document['sha256'][:12]}…"
            )

    def _ask_twice(self) -> None:
        first = self._do(
            "Ask the specification, with a webhook",
            Kind.ASK,
            [SPECIFICATION],
            _question("What is a report?"),
            webhook=True,
        )
        self._webhook(first)
        question = _question("Which errors may a station answer with?")
        again = self._do("Ask it again: it is not read again", Kind.ASK, [SPECIFICATION], question)
        before, after = first["usage"], again["usage"]
        if not before or not after or not after["tokens_reused"]:
            raise DemoFailed("The second question read the document again.")
        ratio = after["first_token_s"] / before["first_token_s"]
        self._display.line(
            f"First token after {after['first_token_s']:.2f} s instead of {before['first_token_s']:.2f} s "
            f"({ratio:.0%}); {after['tokens_reused']:,} tokens were reused."
        )

    def _ask_the_report(self) -> None:
        questions = {"questions": ["When did the Lindholt plant open?", "How large is the order book?"]}
        self._do("Ask the report two questions", Kind.ASK, [REPORT], questions)

    def _chat(self) -> None:
        first = self._do(
            "Chat about the Chinese guide", Kind.CHAT, [CHINESE], {"message": "这份文件讲的是什么？"}
        )
        follow = {"message": "门票多少钱？", "previous_job_id": first["id"]}
        self._do("The next turn of the conversation", Kind.CHAT, [CHINESE], follow)

    def _batch(self) -> None:
        self._display.heading("Batch: one question to every document")
        ids = [document["id"] for document in self._documents.values()]
        params = _question("What is this document about?") | {"max_tokens": 24}
        batch = self._client.create_batch(Kind.ASK, ids, params=params)
        names = {document["id"]: name for name, document in self._documents.items()}
        for job in list(self._client.jobs(batch_id=batch["id"])):
            self._finish(f"Batch: {names[job['document_ids'][0]]}", job["id"])
        counts = self._client.batch(batch["id"])["jobs"]
        self._display.line(
            f"Batch {batch['id']}: {', '.join(f'{n} {status}' for status, n in counts.items() if n)}."
        )

    def _webhook(self, job: Job) -> None:
        received = self._receiver.wait(WEBHOOK_S)
        if received is None or received.payload["data"]["id"] != job["id"]:
            tries = [delivery["tries"] for delivery in self._client.deliveries(job["id"])]
            raise DemoFailed(f"The webhook did not come within {WEBHOOK_S:.0f} s: {tries}")
        self._display.line(f"Webhook {received.id}: {received.payload['type']}, its signature is right.")

    def _do(
        self,
        title: str,
        kind: Kind,
        names: Sequence[str],
        params: Mapping[str, Any],
        *,
        webhook: bool = False,
    ) -> Job:
        self._display.heading(title)
        for text in [*params.get("questions", []), *filter(None, [params.get("message")])]:
            self._display.line(f"> {text}")
        ids = [self._documents[name]["id"] for name in names]
        work: Work = {"params": {"max_tokens": MAX_TOKENS, **params}}
        if webhook:
            work["webhook_url"] = self._receiver.url
        job = self._client.create_job(kind, ids, **work)
        return self._finish(title, job["id"])

    def _finish(self, title: str, job_id: str) -> Job:
        with self._display.progress() as on_progress:
            job = self._client.wait(job_id, on_progress=on_progress)
        self._display.job(job)
        if job["status"] != Status.COMPLETED:
            raise DemoFailed(f"{title}: the job {job['id']} is {job['status']}.")
        self.jobs.append((title, job))
        return job


def _question(text: str) -> dict[str, Any]:
    return {"questions": [text]}


def main() -> int:
    """Run the demo; the exit status."""
    display = Display()
    data = VAR / "demo"
    shutil.rmtree(data, ignore_errors=True)
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    settings = Settings(
        data=data, cache=VAR / "cache", port=0, webhook_secret=secret, webhook_allow=("127.0.0.0/8",)
    )
    try:
        with (
            Receiver(secret) as receiver,
            Stack(settings, tell=display.say) as stack,
            Client(stack.url) as client,
        ):
            display.line(f"Unabridged runs at {stack.url} for the length of this demo.")
            demo = Demo(client, display, receiver)
            demo.run()
            display.heading("Where the time went")
            display.times(demo.jobs)
    except (DemoFailed, ClientError, StackError) as exc:
        display.fail(f"The demo failed: {exc}\nLogs: {data / 'logs'}")
        return 1
    display.line(f"Every part was completed: {len(demo.jobs)} jobs, 1 webhook.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
