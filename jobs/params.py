"""What may be asked: one model per kind of job, checked at the door and read again by the worker."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import jsonschema
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from jobs.status import Kind

#: Characters of one instruction, question or message.
INSTRUCTION_LIMIT = 100_000

Instruction = Annotated[str, Field(min_length=1, max_length=INSTRUCTION_LIMIT)]


class Params(BaseModel):
    """What every kind understands."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    max_tokens: int | None = Field(default=None, ge=1, le=16_384, description="Longest answer, in tokens.")
    temperature: float = Field(default=0.0, ge=0.0, le=2.0, description="0 takes the likeliest token always.")
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    reading: Literal["auto", "whole"] = Field(
        default="auto",
        description="`auto` reads in sections what does not fit the window, and says so; `whole` refuses it.",
    )

    def instructions(self) -> list[str]:
        """Every text of the user's that goes into a prompt."""
        return []


class SummarizeParams(Params):
    """A summary, with the passages it rests on."""

    focus: Instruction | None = Field(default=None, description="What the reader cares about.")
    language: str | None = Field(default=None, max_length=40, description="Language of the answer.")

    def instructions(self) -> list[str]:
        return [self.focus] if self.focus else []


def _check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as exc:
        where = "/".join(str(part) for part in exc.absolute_path) or "the top"
        raise ValueError(f"not a valid JSON Schema (2020-12): at {where}: {exc.message}") from exc
    if schema.get("type") != "object" or not schema.get("properties"):
        raise ValueError("the schema's top must be an object with properties")
    return schema


class ExtractParams(Params):
    """Fields out of a document, as JSON that fits a schema."""

    json_schema: Annotated[dict[str, JsonValue], AfterValidator(_check_schema)] = Field(
        alias="schema", description="JSON Schema (2020-12) of the wanted object."
    )
    instruction: Instruction | None = Field(default=None, description="What else the reader should know.")

    def instructions(self) -> list[str]:
        return [self.instruction] if self.instruction else []


class CompareParams(Params):
    """What differs between documents."""

    focus: Instruction | None = Field(default=None, description="What the reader cares about.")
    language: str | None = Field(default=None, max_length=40)

    def instructions(self) -> list[str]:
        return [self.focus] if self.focus else []


class AskParams(Params):
    """One question, or several answered from one reading."""

    questions: list[Instruction] = Field(min_length=1, max_length=50)

    @model_validator(mode="before")
    @classmethod
    def _one_is_a_list(cls, data: Any) -> Any:
        if isinstance(data, dict) and "question" in data and "questions" not in data:
            data = {**data, "questions": [data["question"]]}
            del data["question"]
        return data

    def instructions(self) -> list[str]:
        return list(self.questions)


class ChatParams(Params):
    """The next turn of a conversation about documents; earlier turns are found through the previous job."""

    message: Instruction
    previous_job_id: str | None = Field(default=None, description="The completed chat job this one follows.")

    def instructions(self) -> list[str]:
        return [self.message]


PARAMS: dict[Kind, type[Params]] = {
    Kind.SUMMARIZE: SummarizeParams,
    Kind.EXTRACT: ExtractParams,
    Kind.COMPARE: CompareParams,
    Kind.ASK: AskParams,
    Kind.CHAT: ChatParams,
}


def _check_webhook(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("a webhook must be an absolute http or https URL")
    return url


class Work(BaseModel):
    """What a job and a batch have in common."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    params: dict[str, JsonValue] = Field(default_factory=dict, description="Depends on the kind.")
    metadata: dict[str, str] = Field(
        default_factory=dict, max_length=16, description="Yours; returned as given."
    )
    webhook_url: Annotated[str, Field(max_length=2048), AfterValidator(_check_webhook)] | None = None
    timeout_s: float | None = Field(default=None, gt=0, le=30 * 24 * 3600, description="Expires after this.")

    def checked(self) -> Params:
        """The parameters as the kind's own model.

        Raises:
            pydantic.ValidationError: they do not fit the kind.
        """
        return PARAMS[self.kind].model_validate(self.params)


class NewJob(Work):
    """The body of POST /v1/jobs."""

    document_ids: list[str] = Field(min_length=1, max_length=20)

    @model_validator(mode="after")
    def _enough_documents(self) -> Self:
        if self.kind is Kind.COMPARE and len(self.document_ids) < 2:
            raise ValueError("compare needs at least two documents")
        return self


class NewBatch(Work):
    """The body of POST /v1/batches: the same job for each document."""

    document_ids: list[str] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _one_document_each(self) -> Self:
        if self.kind is Kind.COMPARE:
            raise ValueError("compare needs two documents a job; a batch gives each job one")
        return self
