"""Pictures of every mail or page, for somebody to look at: `make mails`, `make pages`.

In the light, in the dark, and on a narrow screen, also in a made-up language from right to left; each picture shows a
sheet of many frames that follow its colours, so that Chromium starts nine times and not hundreds.
"""

import argparse
import html
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from config.settings import settings
from tests.support.pseudo import mirrored, pseudo_catalog, write_words
from worker.commands import mails, pages

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_VARIABLES = {
    "MAIL_FROM": "Example Ltd <identity@example.com>",
    "SUPPORT_EMAIL": "help@example.com",
    "PRIVACY_URL": "https://example.com/privacy",
    "ALTERNATIVE_URL": "https://example.com/another-way",
}
_PAGE = """<!doctype html><meta charset="utf-8"><style>
:root {{ color-scheme: {scheme}; }}
body {{ display: grid; grid-template-columns: repeat({columns}, {width}px); gap: 16px; margin: 16px; }}
figure {{ margin: 0; font: 13px sans-serif; }} iframe {{ border: 0; width: 100%; color-scheme: {scheme}; }}
</style>{frames}<script>
addEventListener("load", () => {{
  for (const frame of document.querySelectorAll("iframe"))
    frame.style.height = frame.contentDocument.documentElement.scrollHeight + "px";
}});
</script>"""
_RIGHT_TO_LEFT = "he"
# These differ from their neighbours in a sentence, and stand for them.
_SEVERAL = ("email_retry_prompt", "failed")
_ENOUGH = ("abandoned", "selfie_face_mismatch", "phone_unverified_other-bare", "consent_declined", "redirect")


@dataclass(frozen=True, slots=True)
class Look:
    """One way to look at the mails or pages."""

    name: str
    scheme: str
    width: int
    columns: int


LOOKS = (Look("light", "light", 640, 3), Look("dark", "dark", 640, 3), Look("narrow", "light", 320, 4))
WRITERS = {"mails": ("var/mails", mails.write_mails), "pages": ("var/every-page", pages.write_pages)}


def main() -> int:
    """Returns 0 even without a Chromium, which it then says."""
    place, write = WRITERS[sys.argv[1]]
    folder = Path(place)
    os.environ |= {name: text for name, text in _VARIABLES.items() if name not in os.environ}
    shutil.rmtree(folder, ignore_errors=True)
    if "TEMPLATES_DIR" not in os.environ:
        write_words(folder / "made-up", _RIGHT_TO_LEFT, pseudo_catalog(_RIGHT_TO_LEFT, mirrored))
        os.environ |= {
            "TEMPLATES_DIR": str(folder / "made-up"),
            "LOCALES": f"{os.environ.get('LOCALES', 'en,de')},{_RIGHT_TO_LEFT}",
        }
        settings.cache_clear()
    if code := write(argparse.Namespace(to=folder)):
        return code
    if CHROMIUM is None:
        print("No pictures: there is no Chromium on this machine.")
        return 0
    for language in settings().locales:
        for look in LOOKS:
            print(_take(CHROMIUM, folder, language, look))
    return 0


def _take(chromium: str, folder: Path, language: str, look: Look) -> Path:
    every = sorted((folder / language).glob("*.html"))
    paths = [path for path in every if not path.stem.startswith(_SEVERAL) or path.stem.endswith(_ENOUGH)]
    frames = (
        f'<figure>{path.stem}<iframe srcdoc="{html.escape(path.read_text().replace("../assets", "assets"))}"></iframe>'
        "</figure>"
        for path in paths
    )
    sheet = folder / f"{language}-{look.name}.html"
    sheet.write_text(_PAGE.format(scheme=look.scheme, columns=look.columns, width=look.width, frames="".join(frames)))
    picture = sheet.with_suffix(".png")
    rows = -(-len(paths) // look.columns)
    size = f"{look.columns * (look.width + 16) + 32},{rows * (920 if look.width > 500 else 1000)}"
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={size}"]
    command += ["--virtual-time-budget=5000", f"--screenshot={picture.absolute()}", sheet.absolute().as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return picture


if __name__ == "__main__":
    sys.exit(main())
