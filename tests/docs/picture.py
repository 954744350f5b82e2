"""The picture of a page in the README: run ``python -m tests.docs.picture`` to renew it.

It needs Chromium, and shows some troubles of `tests.report.page.examples`.
"""

import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PIL import Image

from dbbbatch.report.page.site import write_site
from tests.report.page import examples
from tests.support import browser
from tests.support.scripts import TOP

PICTURE = TOP / "docs" / "images" / "report.png"


def main() -> None:
    """Write the picture, in few colours."""
    # The page says how old it is.
    examples.NOW = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    examples.LAST = examples.NOW.date() - timedelta(days=1)
    with tempfile.TemporaryDirectory() as directory:
        health = examples.in_trouble()
        few = replace(health, troubles=[health.troubles[0], *health.troubles[3:]])
        write_site(f"{directory}/pages", examples.survey(few, count=4))
        shot = Path(directory, "shot.png")
        page = Path(directory, "pages", "index.html")
        browser.run(page, Path(directory, "profile"), f"--screenshot={shot}", size=(1200, 1680))
        with Image.open(shot) as picture:
            picture.convert("RGB").quantize(200).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
