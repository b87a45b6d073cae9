"""The reference of params.yaml, made from the schema that validates it and from the file's values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weightspace.params import Params, load_params, read_yaml

MADE_BY = "python -m weightspace params"  # in the file that this command wrote
HEAD = f"""# Settings

Every key of `params.yaml`, its value there, what it may be and what it means. Made from that file and
from the schema in `src/weightspace/params.py` by `{MADE_BY}`; do not
edit. The schema has no values: each key must be in the file. `weightspace validate` checks one.

*The original study* is D. J. Swanevelder, "A Contrastive Approach to Weight Space Learning", slides.

Change one for a single experiment with `dvc exp run -S zoo.runs=400`.
"""


def reference(path: Path) -> str:
    """Give the reference of a settings file as Markdown: a table for each section, in its order."""
    load_params(path)
    schema, values = Params.model_json_schema(), read_yaml(path)
    return "\n".join([HEAD, *_section(schema, schema, values, "")]) + "\n"


def _section(
    schema: dict[str, Any], root: dict[str, Any], values: dict[str, Any], name: str
) -> Iterator[str]:
    """Lines of a section: its keys first, then the sections in it.

    Args:
        schema: of the section.
        root: the whole schema.
        values: the section in the file.
        name: dotted name of the section, empty for the whole file.

    """
    known = schema["properties"]  # a member from outside is documented there
    keys = {k: _resolved(known[k], root) for k in values if k in known}
    if name:
        yield f"## {name}\n"
        yield " ".join(schema["description"].split()) + "\n"
    if plain := [k for k, v in keys.items() if not _is_section(v)]:
        yield "| key | default | values | meaning |\n|---|---|---|---|"
        prefix = f"{name}." if name else ""
        for key in plain:
            default = json.dumps(values[key], ensure_ascii=False).replace('"', "")
            row = f"`{prefix}{key}`", f"`{default}`", kind(keys[key]), keys[key]["description"]
            yield f"| {' | '.join(row)} |"
        yield ""
    for key, value in keys.items():
        if _is_section(value):
            yield from _section(value, root, values[key], f"{name}.{key}" if name else key)


def _is_section(schema: dict[str, Any]) -> bool:
    """Whether a key holds other keys, or none at all."""
    return schema.get("type") == "object"


def _resolved(value: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """A key's schema; where it refers to a section, that section's."""
    if "$ref" not in value:
        return value
    section: dict[str, Any] = root["$defs"][value["$ref"].rpartition("/")[2]]
    return section


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
        return f"list, each {kind(value['items'])}"
    if value["type"] == "string":
        return "text"
    return _number(value)


def _number(value: dict[str, Any]) -> str:
    """Say what a number may be."""
    words = "integer" if value["type"] == "integer" else "number"
    if {"minimum", "maximum"} <= set(value):
        return f"{words} from {_bound(value['minimum'])} to {_bound(value['maximum'])}"
    if "exclusiveMinimum" in value:
        words += f" above {value['exclusiveMinimum']:g}"
    bounds = {
        "minimum": "{:g} or more",
        "maximum": "{:g} or less",
        "exclusiveMaximum": "below {:g}",
    }
    said = [text.format(value[name]) for name, text in bounds.items() if name in value]
    return ", ".join([words, *said])


def _bound(value: float) -> str:
    """A limit, as a person would write it."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
