"""The statements that a module holds for all its threads: whole before the first of them is used."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# In a process of its own: another test's use of a statement makes its columns.
_LOOK = """
import importlib, pkgutil
from sqlalchemy import inspect
from sqlalchemy.orm.util import AliasedClass
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.sql.selectable import AliasedReturnsRows

def parts(value):
    if isinstance(value, AliasedClass):
        yield inspect(value).selectable
    elif isinstance(value, ClauseElement):
        yield from visitors.iterate(value)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for one in value:
            yield from parts(one)
    elif isinstance(value, dict):
        yield from parts(list(value.values()))

looked = 0
for room in ("config", "handlers", "receiver", "worker"):
    for found in pkgutil.walk_packages([room], room + "."):
        if "migrations" in found.name or found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        for name, value in list(vars(module).items()):
            for part in parts(value):
                if isinstance(part, AliasedReturnsRows):
                    looked += 1
                    made = vars(part).get("_columns")
                    if not made or isinstance(value, AliasedClass) and not made._proxy_index:
                        print(found.name, name)
print("looked at", looked)
"""


def test_no_two_threads_make_the_columns_of_a_shared_subquery() -> None:
    """Columns that two threads make at once leave a statement that finds none of them, until its process ends."""
    looked = subprocess.run([sys.executable, "-c", _LOOK], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert looked.returncode == 0, looked.stderr
    *unfinished, last = looked.stdout.splitlines()
    assert not unfinished
    assert int(last.removeprefix("looked at ")) > 1  # else it looks at nothing
