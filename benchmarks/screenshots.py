"""Pictures of the package's pages, as a browser shows them, for the documentation.

`python -m benchmarks.screenshots logs/RUN docs/images` opens the page of an evaluated run in Chromium.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 1250})
        page.goto((arguments.run / "evaluation" / "report.html").resolve().as_uri())
        mistakes = page.locator("table.grid button").filter(has_not=page.locator(".full"))
        mistakes.nth(1).click()
        page.screenshot(path=arguments.folder / "report.png", clip={"x": 0, "y": 0, "width": 1100, "height": 1900},
                        full_page=True)  # fmt: skip
        browser.close()


if __name__ == "__main__":
    main()
