"""The rules that the source marks with `# rule: name; reason`, and the ways to break one.

A marker at the end of a line marks the code that begins on that line, or else the statement that ends there; a marker
on a line of its own marks the code that begins on the next line. It is broken in the syntax tree, so that neither
layout nor the names around it matter.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Breaks the marked node of a module in place; raises OutdatedError if the node cannot be broken in this way.
Break = Callable[[ast.Module, ast.AST], None]

_MARKER = re.compile(r"# rule: ([^;]+)(?:; .+)?")
_PASSED = (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT)


class OutdatedError(Exception):
    """A rule and the way to break it do not fit together any more: one must follow the other."""


@dataclass(frozen=True, slots=True)
class Marker:
    """A rule's place in the source."""

    rule: str
    path: Path
    line: int  # where the marked code begins

    def broken(self, how: Break) -> str:
        """The file's text without the rule. Raises OutdatedError."""
        tree = ast.parse(self.path.read_text())
        before = ast.unparse(tree)
        how(tree, self._marked(tree))
        after = ast.unparse(ast.fix_missing_locations(tree))
        if after == before:
            raise OutdatedError(f"{self.rule}: what breaks it changes nothing")
        return after

    def _marked(self, tree: ast.Module) -> ast.AST:
        placed = [node for node in ast.walk(tree) if isinstance(node, (ast.stmt, ast.expr, ast.keyword))]
        beginning = [node for node in placed if node.lineno == self.line]
        ending = [node for node in placed if isinstance(node, ast.stmt) and node.end_lineno == self.line]
        if not beginning and not ending:
            raise OutdatedError(f"{self.rule}: its marker marks nothing")
        return beginning[0] if beginning else ending[-1]  # the outermost, or the innermost


def markers_in(path: Path) -> Iterator[Marker]:
    """The marked rules of a file, in their order."""
    text = path.read_text()
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    for place, token in enumerate(tokens):
        if token.type == tokenize.COMMENT and (marker := _MARKER.fullmatch(token.string)):
            is_alone = token.line.lstrip().startswith("#")
            marked = next(later for later in tokens[place:] if later.type not in _PASSED) if is_alone else token
            yield Marker(marker[1], path, marked.start[0])


def drop(tree: ast.Module, marked: ast.AST) -> None:
    """Leaves out a statement, or an element."""
    _replace(tree, marked)


def never(_: ast.Module, marked: ast.AST) -> None:
    """Makes its condition false."""
    _conditional(marked).test = ast.Constant(False)


def always(_: ast.Module, marked: ast.AST) -> None:
    """Makes its condition true."""
    _conditional(marked).test = ast.Constant(True)


def without(what: str | int) -> Break:
    """Leaves out a keyword of its first call that has it, or the element of its first tuple, list, set or f-string."""

    def broken(tree: ast.Module, marked: ast.AST) -> None:
        for node in ast.walk(marked):
            found: list[ast.AST] = []
            if isinstance(what, str):
                found += [one for one in ast.iter_child_nodes(node) if isinstance(one, ast.keyword) and one.arg == what]
            else:
                found += _elements(node)[what:][:1]
            if found:
                return _replace(tree, found[0])
        raise OutdatedError(f"there is no {what!r} in {ast.unparse(marked)}")

    return broken


def becomes(template: str, of: str = "") -> Break:
    """Puts another expression into the place of its value, or of the value of a keyword in it.

    In the template `{}` is the old expression, and `{name}` a part of it, by the name of its field in the syntax tree.
    """

    def broken(tree: ast.Module, marked: ast.AST) -> None:
        old = _value(marked, of)
        parts: dict[str, Any] = {name: _text(part) for name, part in ast.iter_fields(old)}
        _replace(tree, old, ast.parse(template.format(f"({ast.unparse(old)})", **parts), mode="eval").body)

    return broken


def _conditional(marked: ast.AST) -> ast.If | ast.IfExp:
    for node in ast.walk(marked):
        if isinstance(node, ast.If | ast.IfExp):
            return node
    raise OutdatedError(f"there is no condition in {ast.unparse(marked)}")


def _elements(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return list(node.elts)
    return list(node.values) if isinstance(node, ast.JoinedStr) else []


def _value(marked: ast.AST, of: str) -> ast.AST:
    if of:
        for node in ast.walk(marked):
            if isinstance(node, ast.keyword) and node.arg == of:
                return node.value
        raise OutdatedError(f"there is no {of} in {ast.unparse(marked)}")
    for name in ("iter", "test", "value"):
        if isinstance(marked, ast.stmt | ast.keyword) and (value := getattr(marked, name, None)):
            return value  # type: ignore[no-any-return]
    return marked


def _text(part: Any) -> Any:
    if isinstance(part, list):
        return [_text(one) for one in part]
    return f"({ast.unparse(part)})" if isinstance(part, ast.AST) else part


def _replace(tree: ast.Module, old: ast.AST, *new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                return setattr(parent, name, *new)
            if isinstance(value, list) and any(one is old for one in value):
                place = next(place for place, one in enumerate(value) if one is old)
                value[place : place + 1] = new
                if name == "body" and not value:
                    value.append(ast.Pass())
                return None
    raise OutdatedError("it cannot be left out")
