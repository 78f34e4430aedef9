"""Stripe's form encoding: a[b]=1&c[]=2&d[0]=3 becomes nested dicts and lists."""

import re
from typing import Any
from urllib.parse import parse_qsl

PART = re.compile(r"\[([^\]]*)\]")


def decode(text: str) -> dict[str, Any]:
    """Every leaf is a string; a list may be written with [] or with numbers, but in metadata a number is a key."""
    root: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        head = name.split("[", 1)[0]
        _put(root, [head, *PART.findall(name)], value)
    return {key: value if key == "metadata" else _lists(value) for key, value in root.items()}


def _put(node: dict[str, Any], path: list[str], value: str) -> None:
    key = path[0] if path[0] else str(len(node))
    if len(path) == 1:
        node[key] = value
        return
    child = node.get(key)
    if not isinstance(child, dict):
        child = node[key] = {}
    _put(child, path[1:], value)


def _lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node and all(key.isdigit() for key in node):
        return [_lists(node[key]) for key in sorted(node, key=int)]
    return {key: _lists(value) for key, value in node.items()}


def flag(value: Any) -> bool:
    return value is True or str(value).lower() == "true"
