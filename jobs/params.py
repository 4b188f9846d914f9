"""What may be asked: one model per kind of job, checked at the door and read again by the worker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import jsonschema
from jsonschema.protocols import Validator
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    field_validator,
    model_validator,
)

from jobs.status import Kind

#: Characters of one instruction, question or message.
INSTRUCTION_LIMIT = 100_000

Instruction = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=INSTRUCTION_LIMIT)
]


def _check_number(value: Any) -> Any:
    """A number is not asked for as "5" or true, which pydantic would take; who sends them made a slip."""
    if isinstance(value, str | bool):
        raise ValueError("must be a number")
    return value


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

    _numbers = field_validator("max_tokens", "temperature", "top_p", "seed", mode="before")(_check_number)

    def instructions(self) -> list[str]:
        """Every text of the user's that goes into a prompt."""
        return []


_2020_12 = "https://json-schema.org/draft/2020-12/schema"
#: What a schema may declare in `$schema`, and what judges values by it.
DIALECTS: dict[str, type[Validator]] = {
    "http://json-schema.org/draft-04/schema": jsonschema.Draft4Validator,
    "http://json-schema.org/draft-06/schema": jsonschema.Draft6Validator,
    "http://json-schema.org/draft-07/schema": jsonschema.Draft7Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema.Draft201909Validator,
    _2020_12: jsonschema.Draft202012Validator,
}


def dialect_of(schema: Mapping[str, Any]) -> type[Validator]:
    """What judges values by a schema: that of the dialect it declares, else 2020-12.

    Raises:
        ValueError: it declares one that is not known here.
    """
    declared = schema.get("$schema", _2020_12)
    try:
        return DIALECTS[str(declared).removesuffix("#")]
    except KeyError:
        raise ValueError(f"$schema is {declared!r}, not one of {', '.join(DIALECTS)}") from None


def _check_is_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, its top narrowed to an object where it allows other values beside."""
    try:
        dialect_of(schema).check_schema(schema)
    except jsonschema.SchemaError as exc:
        where = "/".join(str(part) for part in exc.absolute_path) or "the top"
        declared = schema.get("$schema", "2020-12")
        raise ValueError(f"not a valid JSON Schema ({declared}): at {where}: {exc.message}") from exc
    types = schema.get("type", "object" if "properties" in schema else None)
    if "object" not in (types if isinstance(types, list) else [types]):
        raise ValueError("the schema's top must be an object")
    return {**schema, "type": "object"}


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an absolute http or https URL")
    return url


class Tool(BaseModel):
    """Something the model may ask for while it answers: a POST to an address of yours."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")
    description: str = Field(min_length=1, max_length=2_000, description="What it does, for the model.")
    parameters: Annotated[dict[str, JsonValue], AfterValidator(_check_is_schema)] = Field(
        description="JSON Schema of its arguments, an object."
    )
    url: Annotated[str, Field(max_length=2048), AfterValidator(_check_url)] = Field(
        description="Where it is called. https; http only within networks that the server's owner allows."
    )


class ToolParams(Params):
    """Kinds whose model may call tools before it answers."""

    tools: list[Tool] = Field(default_factory=list, max_length=16)
    max_tool_calls: int = Field(default=4, ge=1, le=32, description="Most calls in one job.")

    _number = field_validator("max_tool_calls", mode="before")(_check_number)

    @model_validator(mode="after")
    def _one_tool_a_name(self) -> Self:
        names = [tool.name for tool in self.tools]
        if len(set(names)) < len(names):
            raise ValueError("two tools have the same name")
        return self

    def instructions(self) -> list[str]:
        return [f"{tool.name} {tool.description} {json.dumps(tool.parameters)}" for tool in self.tools]


class SummarizeParams(Params):
    """A summary, with the passages it rests on."""

    style: Literal["overview", "brief", "sections", "points", "analyze"] = Field(
        default="overview",
        description="`brief`: one paragraph; `sections`: section by section; `points`: key points; "
        "`analyze`: structure, risks and contradictions.",
    )
    focus: Instruction | None = Field(default=None, description="What the reader cares about.")
    language: str | None = Field(default=None, max_length=40, description="Language of the answer.")

    def instructions(self) -> list[str]:
        return [self.focus] if self.focus else []


def _check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    checked = _check_is_schema(schema)
    if not checked.get("properties"):
        raise ValueError("the schema's top must be an object with properties")
    return checked


#: What a field of a list may be; null where the document does not say.
FIELD_TYPES: dict[str, dict[str, JsonValue]] = {
    "text": {"type": ["string", "null"]},
    "number": {"type": ["number", "null"]},
    "integer": {"type": ["integer", "null"]},
    "yes/no": {"type": ["boolean", "null"]},
    "date": {"type": ["string", "null"], "format": "date"},
    "list": {"type": "array", "items": {"type": "string"}},
}


def schema_of_fields(fields: Iterable[str]) -> dict[str, JsonValue]:
    """The JSON Schema of a list of fields, each `name` or `name: type`.

    Raises:
        ValueError: one of them is neither.
    """
    properties: dict[str, JsonValue] = {}
    for field in fields:
        name, _, kind = (part.strip() for part in field.partition(":"))
        if not name or (kind or "text") not in FIELD_TYPES:
            raise ValueError(
                f"“{field.strip()}” is not a field. Write `name: type`; types are {', '.join(FIELD_TYPES)}."
            )
        properties[name] = FIELD_TYPES[kind or "text"]
    closed: dict[str, JsonValue] = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": properties, **closed}


class ExtractParams(Params):
    """Fields out of a document, as JSON that fits a schema."""

    json_schema: Annotated[dict[str, JsonValue], AfterValidator(_check_schema)] = Field(
        alias="schema",
        description="JSON Schema of the wanted object: 2020-12, or of the dialect that its `$schema` names.",
    )
    fields: list[str] | None = Field(
        default=None,
        max_length=200,
        description="Instead of a schema: `name` or `name: type`; types are text, number, integer, yes/no, "
        "date and list.",
    )
    instruction: Instruction | None = Field(default=None, description="What else the reader should know.")

    @model_validator(mode="before")
    @classmethod
    def _fields_make_a_schema(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("schema") is None and isinstance(data.get("fields"), list):
            fields = [field for field in data["fields"] if isinstance(field, str)]
            return {**data, "schema": schema_of_fields(fields)}
        return data

    def instructions(self) -> list[str]:
        return [self.instruction] if self.instruction else []


class CompareParams(Params):
    """What differs between documents, or what the tracked changes of one Word file did."""

    focus: Instruction | None = Field(default=None, description="What the reader cares about.")
    language: str | None = Field(default=None, max_length=40)

    def instructions(self) -> list[str]:
        return [self.focus] if self.focus else []


class AskParams(ToolParams):
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
        return [*self.questions, *super().instructions()]


class ChatParams(ToolParams):
    """The next turn of a conversation about documents; earlier turns are found through the previous job."""

    message: Instruction
    previous_job_id: str | None = Field(default=None, description="The completed chat job this one follows.")

    def instructions(self) -> list[str]:
        return [self.message, *super().instructions()]


class OwnParams(ToolParams):
    """A kind of your own, made by a prompt file in the server's folder UNABRIDGED_PROMPTS."""

    instruction: Instruction | None = Field(default=None, description="What the file calls $instruction.")
    focus: Instruction | None = Field(default=None, description="What the reader cares about.")
    language: str | None = Field(default=None, max_length=40, description="Language of the answer.")

    def instructions(self) -> list[str]:
        return [*filter(None, [self.instruction, self.focus]), *super().instructions()]


#: The name of a prompt file that makes a kind; who asks for one that is not there is told which are.
OwnKind = Annotated[str, Field(min_length=1, max_length=40)]
AnyKind = Annotated[Kind | OwnKind, Field(union_mode="left_to_right")]

PARAMS: dict[Kind, type[Params]] = {
    Kind.SUMMARIZE: SummarizeParams,
    Kind.EXTRACT: ExtractParams,
    Kind.COMPARE: CompareParams,
    Kind.ASK: AskParams,
    Kind.CHAT: ChatParams,
}


def params_of(kind: str) -> type[Params]:
    """The parameters of a kind."""
    return PARAMS[Kind(kind)] if kind in PARAMS else OwnParams


def _check_short(metadata: dict[str, str]) -> dict[str, str]:
    if any(len(name) > 64 or len(value) > 1_000 for name, value in metadata.items()):
        raise ValueError("a name has 64 characters at most, a value 1,000")
    return metadata


class Work(BaseModel):
    """What a job and a batch have in common."""

    model_config = ConfigDict(extra="forbid")

    kind: AnyKind = Field(description="One of ours, or the name of a prompt file of the server's owner.")
    params: dict[str, JsonValue] = Field(default_factory=dict, description="Depends on the kind.")
    metadata: Annotated[dict[str, str], AfterValidator(_check_short)] = Field(
        default_factory=dict,
        max_length=16,
        description="Yours, of 1,000 characters at most with names of 64; returned as given.",
    )
    webhook_url: Annotated[str, Field(max_length=2048), AfterValidator(_check_url)] | None = None
    timeout_s: float | None = Field(default=None, gt=0, le=30 * 24 * 3600, description="Expires after this.")

    _number = field_validator("timeout_s", mode="before")(_check_number)

    def checked(self) -> Params:
        """The parameters as the kind's own model.

        Raises:
            pydantic.ValidationError: they do not fit the kind.
        """
        return params_of(self.kind).model_validate(self.params)


class NewJob(Work):
    """The body of POST /v1/jobs."""

    document_ids: list[str] = Field(
        min_length=1, max_length=20, description="`compare` takes two, or one Word file with tracked changes."
    )


class NewBatch(Work):
    """The body of POST /v1/batches: the same job for each document."""

    document_ids: list[str] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _one_document_each(self) -> Self:
        if self.kind is Kind.COMPARE:
            raise ValueError("compare takes documents together; a batch gives each job one")
        return self
