"""The reference of params.yaml, made from the schema that validates it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from weightspace.params import Params

MADE_BY = "python -m weightspace params"  # in the file that this command wrote
HEAD = f"""# Settings

Every key of `params.yaml`, what it may be and what it means. Made from the schema in
`src/weightspace/params.py` by `{MADE_BY}`; do not edit. No key has
a silent default: each must be in the file. `weightspace validate` checks a file.

Change one for a single experiment with `dvc exp run -S zoo.runs=400`.
"""


def reference() -> str:
    """Give the reference as Markdown: a table for each section."""
    schema = Params.model_json_schema()
    return "\n".join([HEAD, *_section(schema, schema, "")]) + "\n"


def _section(schema: dict[str, Any], root: dict[str, Any], name: str) -> Iterator[str]:
    """Lines of a section: its own keys first, then the sections in it."""
    keys = {k: _resolved(v, root) for k, v in schema["properties"].items()}
    plain = {k: v for k, v in keys.items() if "properties" not in v and v.get("type") != "object"}
    if name:
        yield f"## {name}\n"
        yield " ".join(schema["description"].split()) + "\n"
    if plain:
        yield "| key | values | meaning |\n|---|---|---|"
        prefix = f"{name}." if name else ""
        for key, value in plain.items():
            yield f"| `{prefix}{key}` | {kind(value)} | {value['description']} |"
        yield ""
    for key, value in keys.items():
        if "properties" in value:
            yield from _section(value, root, f"{name}.{key}" if name else key)


def _resolved(value: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """A key's schema; where it refers to a section, that section's."""
    if "$ref" not in value:
        return value
    found: dict[str, Any] = root["$defs"][value["$ref"].rpartition("/")[2]]
    return found


def kind(value: dict[str, Any]) -> str:
    """Say what a value may be, in words.

    Args:
        value: JSON schema of one key.

    """
    if "anyOf" in value:
        return "; or ".join(kind(v) for v in value["anyOf"])
    if "const" in value or "enum" in value:
        return ", ".join(f"`{v}`" for v in value.get("enum", [value.get("const")]))
    if value["type"] == "boolean":
        return "`true`, `false`"
    if value["type"] == "array":
        if "prefixItems" in value:
            return "[" + ", ".join(kind(v) for v in value["prefixItems"]) + "]"
        return f"list, each a {kind(value['items'])}"
    if value["type"] == "string":
        return "text"
    return _number(value)


def _number(value: dict[str, Any]) -> str:
    """Say what a number may be."""
    words = "whole number" if value["type"] == "integer" else "number"
    if {"minimum", "maximum"} <= set(value):
        return f"{words} from {value['minimum']:g} to {value['maximum']:g}"
    if "exclusiveMinimum" in value:
        words += f" above {value['exclusiveMinimum']:g}"
    bounds = {
        "minimum": "{:g} or more",
        "maximum": "{:g} or less",
        "exclusiveMaximum": "below {:g}",
    }
    said = [text.format(value[name]) for name, text in bounds.items() if name in value]
    return ", ".join([words, *said])
