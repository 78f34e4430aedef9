"""A made-up language: every sentence of the catalogue between marks, in letters with accents."""

import re
from collections.abc import Callable
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import write_po

from handlers.catalogue.check import sentences

OPENS, CLOSES = "⟦", "⟧"
_ACCENTED = str.maketrans("aeiouAEIOUyc", "áéíóúÁÉÍÓÚýç")
_HEBREW = str.maketrans("abcdefghijklmnopqrstuvwxyz", "אבגדהוזחטיכלמנסעפצקרשתךםןף")


def pseudo(sentence: str) -> str:
    """A sentence in this language; its placeholders stay."""
    parts = re.split(r"(%\(\w+\)[sd])", sentence)
    return OPENS + "".join(part if part.startswith("%(") else part.translate(_ACCENTED) for part in parts) + CLOSES


def mirrored(sentence: str) -> str:
    """A sentence in letters that are read from right to left, to show where its marks come to stand."""
    parts = re.split(r"(%\(\w+\)[sd])", sentence)
    return "".join(part if part.startswith("%(") else part.lower().translate(_HEBREW) for part in parts)


def write_words(folder: Path, language: str, catalog: Catalog | None = None) -> Path:
    """A whole TEMPLATES_DIR with a language's words; returns their file."""
    made = catalog or pseudo_catalog(language)
    path = folder / "words" / f"{language}.po"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_po(file, made)
    return path


def pseudo_catalog(language: str, say: Callable[[str], str] = pseudo) -> Catalog:
    """All sentences of the catalogue in this language."""
    catalog = Catalog(locale=language.replace("-", "_"))
    for sentence in sentences():
        if isinstance(sentence, str):
            catalog.add(sentence, say(sentence))
        else:
            catalog.add(sentence, tuple(say(sentence[min(form, 1)]) for form in range(catalog.num_plurals)))
    return catalog
