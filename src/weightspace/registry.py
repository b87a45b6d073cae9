"""Families of interchangeable parts: plain tables name -> module, resolved on demand.

A member of a family is one file, one line in its family's table and one test case.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

from weightspace.errors import nearest, problem


def resolve(family: Mapping[str, str], name: str, key: str) -> ModuleType:
    """Import the module of a family's member.

    Args:
        family: table name -> dotted module path.
        name: the member asked for.
        key: the params key that asks, for the error message.

    """
    if name not in family:
        raise problem(f"unknown {key} '{name}'", where="params.yaml", do=nearest(name, family))
    return import_module(family[name])
