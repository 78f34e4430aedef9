"""A page of the documentation as its reader has it: blocks to type, each in its terminal, and the answers it shows."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"^```sh\n# (?P<terminal>[^\n]+)\n(?P<commands>.*?)^```\n(\n```json\n(?P<answer>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(
    r"^```\w+\n(?:# |// |<!-- )(?P<name>[\w/]+\.\w+)(?: -->)?\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL
)
HTTPX = {"import httpx": "import httpx2 as httpx"}  # the tests have httpx2, and use nothing that differs
_BETWEEN = "--- the next block ---"


@dataclass(frozen=True, slots=True)
class Block:
    """Commands to type, their terminal, and the answer shown below; `…` stands for an end that differs each time."""

    terminal: str
    commands: str
    answer: Any | None


def blocks(page: str) -> list[Block]:
    """The blocks in the order in which a reader types them."""
    return [
        Block(found["terminal"], found["commands"], json.loads(found["answer"]) if found["answer"] else None)
        for found in _BLOCK.finditer(page)
    ]


def type_in_one_terminal(typed: list[Block], here: dict[str, str], **variables: str) -> None:
    """Types one block after the other, in the environment `here`. Raises AssertionError for an unlike answer."""
    script = f"echo '{_BETWEEN}'\n".join(_as_here(block.commands, here) + "echo\n" for block in typed)
    environment = {**os.environ, **variables}
    ran = subprocess.run(
        ["bash", "-euc", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for block, printed in zip(typed, ran.stdout.split(_BETWEEN), strict=True):
        if block.answer is not None:
            unlike = list(_unlike(block.answer, json.loads(printed), ""))
            assert not unlike, f"{block.commands}{printed}{unlike}"


def write_files(page: str, here: dict[str, str], folder: Path) -> list[Path]:
    """Writes the blocks whose first line names, in a comment, the file in which they belong."""
    written = []
    for name, text in _FILE.findall(page):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_as_here(text, here))
        written.append(path)
    return written


def run_python(page: str, here: dict[str, str], folder: Path) -> None:
    """Writes the page's Python files, and runs its Python commands."""
    write_files(page, here, folder)
    for program in re.findall(r"^```python\n((?!# \S+\.py\n).*?)^```", page, re.MULTILINE | re.DOTALL):
        subprocess.run([sys.executable, "-c", _as_here(program, here)], cwd=folder, check=True)


def _as_here(text: str, here: dict[str, str]) -> str:
    for written, instead in here.items():
        text = text.replace(written, instead)
    return text


def _unlike(shown: Any, answered: Any, path: str) -> Iterator[str]:
    """The places where an answer differs from the shown one; it may have more members."""
    if isinstance(shown, dict) and isinstance(answered, dict):
        for name, value in shown.items():
            yield from _unlike(value, answered.get(name, "(is missing)"), f"{path}/{name}")
        # A reader looks for these two, so they must be shown where they are answered.
        yield from (f"{path}/{name}" for name in ("entry", "faults") if name in answered and name not in shown)
    elif isinstance(shown, list) and isinstance(answered, list) and len(shown) == len(answered):
        for place, (one, other) in enumerate(zip(shown, answered, strict=True)):
            yield from _unlike(one, other, f"{path}/{place}")
    elif isinstance(shown, str) and shown.endswith("…") and isinstance(answered, str):
        yield from () if answered.startswith(shown[:-1]) else (path,)
    elif shown != answered:
        yield path
