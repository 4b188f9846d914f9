"""Does every accepted JSON Schema give valid output? Run: python -m benchmarks.schemas [--real FOLDER]

The small default model on the processor writes an object for each of:

1. schemas of real formats: the JSON files of the folders given (by default, of the installed packages) that
   are schemas of an object with properties;
2. generated ones, from a fixed seed.

A schema is refused as the API refuses it, before anything is written; what is written is held against the
whole schema by `jsonschema`. What a model this small answers means nothing; that it is valid is the point.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from benchmarks import report
from jobs.params import ExtractParams, dialect_of
from settings import Settings
from worker.dictation import dictate
from worker.engine import (
    Engine,
    EngineError,
    MemoryOptions,
    Sampling,
    Turn,
    UnsupportedSchema,
    check_schema,
    load_engine,
)
from worker.errors import OutputCutOff
from worker.prompts import Prompts
from worker.reader import Reader, deadline_in
from worker.section import Section

TEXT = (
    "Harrow Bay Pumping Station, log of the keeper. The pump house was built in 1931 for £4,200 by Orme. "
    "The first keeper was Edna Vale. On 3 March 1936 the north pump failed, and Tom Reed replaced its belt."
)
#: Tokens of a piece of an object, and memory that leaves room for twenty.
PIECE = 96
KV_BYTES = 260 << 20
_WORDS = "name year price status owner items place height notes kind code tags history contact".split()  # noqa: SIM905


def real(folders: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and schema of each file that is one, in the order of the names."""
    for folder in folders:
        for path in sorted(folder.rglob("*.json")):
            try:
                schema = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            is_schema = isinstance(schema, dict) and "$schema" in schema
            if is_schema and isinstance(schema.get("properties"), dict):
                yield str(path.relative_to(folder)), schema


def generated(seed: int) -> dict[str, Any]:
    """An object schema of two to six properties, nested up to three levels."""
    return _object(random.Random(seed), 3)


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(_WORDS, rng.randint(2, 6))
    return {
        "type": "object",
        "properties": {name: _any(rng, depth - 1) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
        "additionalProperties": False,
    }


def _any(rng: random.Random, depth: int) -> dict[str, Any]:
    simple: list[dict[str, Any]] = [
        {"type": "string"},
        {"type": "string", "minLength": 1, "maxLength": rng.randint(5, 60)},
        {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
        {"type": "string", "format": rng.choice(["date", "date-time", "email", "uuid", "time"])},
        {"enum": rng.sample(["open", "closed", "lost", 1, 2.5, None, True], 3)},
        {"const": rng.choice(["v1", 7])},
        {"type": "integer", "minimum": rng.randint(-9, 0), "maximum": rng.randint(1, 5_000)},
        {"type": "number", "exclusiveMinimum": 0},
        {"type": ["number", "null"]},
        {"type": "boolean"},
        {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 20}, {"type": "null"}]},
    ]
    if depth > 0 and rng.random() < 0.4:
        if rng.random() < 0.5:
            return _object(rng, depth)
        items = {"type": "array", "items": _any(rng, depth - 1)}
        return items | ({"minItems": 1, "maxItems": rng.randint(1, 4)} if rng.random() < 0.6 else {})
    return rng.choice(simple)


def refusal(schema: dict[str, Any]) -> str | None:
    """Why the API refuses a schema; None if it does not."""
    try:
        ExtractParams.model_validate({"schema": schema})
        check_schema(schema)
    except ValidationError as exc:
        return str(exc.errors()[0]["msg"])
    except UnsupportedSchema as exc:
        return str(exc)
    return None


def tried(engine: Engine, section: Section, schema: dict[str, Any]) -> dict[str, Any]:
    """What became of a schema: `refused` with the reason, `valid`, `invalid`, or `failed` with the error."""
    if reason := refusal(schema):
        return {"outcome": "refused", "reason": reason.splitlines()[0][:200]}
    began = time.perf_counter()
    reader = Reader(engine, [section], deadline_in(600))
    prompt = Prompts().fill("extract", instruction="", schema=json.dumps(schema)[:1_200])
    try:
        said = dictate(reader, section, [Turn("user", prompt)], schema, Sampling(max_tokens=PIECE))
    except (EngineError, OutputCutOff) as exc:
        return {"outcome": "failed", "reason": f"{exc.code}: {exc}"[:200]}
    faults = list(dialect_of(schema)(schema).iter_errors(said.value))
    return {
        "outcome": "invalid" if faults else "valid",
        "reason": faults[0].message[:200] if faults else None,
        "shortened": said.shortened,
        "tokens": reader.tally.tokens_written,
        "seconds": round(time.perf_counter() - began, 1),
    }


def measure(folders: list[Path], reals: int, made: int) -> dict[str, Any]:
    schemas = [(f"generated {seed}", generated(seed)) for seed in range(made)]
    schemas += list(real(folders))[:reals]
    engine = load_engine(
        cache_dir=Settings().cache, device="cpu", memory=MemoryOptions("exact", card_bytes=KV_BYTES)
    )
    section = Section("You answer from the text.", engine.tokenizer)
    section.add(0, 0, "", TEXT)
    try:
        rows = []
        for name, schema in schemas:
            rows.append({"schema": name, **tried(engine, section, schema)})
            print(rows[-1], flush=True)
    finally:
        engine.close()
    return {"model": engine.card.name, "load_average": os.getloadavg(), "schemas": rows}


def tabulate(rows: list[dict[str, Any]]) -> Table:
    table = Table("schemas", "tried", "refused, with the reason", "accepted", "valid output", "shortened")
    for kind, own in (
        ("of real formats", [row for row in rows if not row["schema"].startswith("generated ")]),
        ("generated", [row for row in rows if row["schema"].startswith("generated ")]),
    ):
        outcomes = [row["outcome"] for row in own]
        refused = outcomes.count("refused")
        short = sum(bool(row.get("shortened")) for row in own)
        counts = (len(own), refused, len(own) - refused, outcomes.count("valid"), short)
        table.add_row(kind, *map(str, counts))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", type=Path, action="append", help="a folder of schemas; may be given again")
    parser.add_argument("--reals", type=int, default=50, help="at most so many of these")
    parser.add_argument("--made", type=int, default=150, help="so many generated ones")
    options = parser.parse_args()
    folders = options.real or [Path(sysconfig.get_path("purelib"))]
    figures = measure(folders, options.reals, options.made)
    Console().print(tabulate(figures["schemas"]))
    report.save("schemas", figures)


if __name__ == "__main__":
    main()
