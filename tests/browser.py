"""Fixtures that open pages in Chromium, headless; tests that use them are skipped where it is not installed."""

import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-quic"]


@pytest.fixture(scope="module")
def browser():
    """Chromium."""
    if not CHROMIUM:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens a file or address; returns the page and a list of what went on: complaints, and requests but for data."""
    contexts = []

    def open_page(path, **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page, wrong = context.new_page(), []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append("dialog"), dialog.dismiss()))
        page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith("data:") else None)
        address = path.as_uri() if isinstance(path, Path) else path
        page.goto(address)
        assert wrong.pop(0) == address
        return page, wrong

    yield open_page
    for context in contexts:
        context.close()
