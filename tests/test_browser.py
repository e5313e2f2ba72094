"""Pages as a browser shows them: nothing fetched, nothing complained of, every cell in reach of keys and fingers."""

import pandas as pd
import pytest
from browser import browser, visit  # noqa: F401 - fixtures
from test_report import evaluated, write_hostile_report  # noqa: F401 - a fixture

from resnet_zclass import report

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

SETTINGS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 800}, "has_touch": True},
}


def check_access(page) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"runOnly": {"type": "tag", "values": RULES}})
    return [f"{rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in found.response["violations"]]


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_page_opens_alone_and_is_accessible(kind, evaluated, visit):  # noqa: F811
    page, wrong = visit(evaluated[0] / "evaluation" / "report.html", bypass_csp=True, **SETTINGS[kind])
    page.locator("table.grid button").first.click()
    assert check_access(page) == []
    assert wrong == []
    tall = page.locator("th[scope='row']").evaluate_all("all => all.filter(one => one.offsetHeight > 150).length")
    assert tall == 0  # words are not broken letter by letter
    width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1]


def test_pressing_a_cell_shows_its_crops(evaluated, visit):  # noqa: F811
    folder = evaluated[0] / "evaluation"
    table = pd.read_csv(folder / "predictions.csv", dtype={"true_label": str, "label": str})
    page, wrong = visit(folder / "report.html")
    for (true, named), rows in table.groupby(["true_label", "label"]):
        page.get_by_role("button", name=f"true {true}, predicted {named}:").click()
        words = page.locator("#behind-crops li").all_inner_texts()
        assert len(words) == min(len(rows), 12)
        first = rows.iloc[rows.probability.argmax()]
        assert words[0].startswith(f"{named}" if true == named else f"{true} taken for {named}")
        assert words[0].endswith(f"page {first.page})")
        sizes = page.locator("#behind-crops img").evaluate_all("all => all.map(one => one.naturalWidth)")
        assert set(sizes) == {16}
    assert wrong == []


def test_cells_are_reached_by_keys_alone(evaluated, visit):  # noqa: F811
    page, _ = visit(evaluated[1] / "evaluation" / "report.html")
    buttons = page.locator("table.grid button")
    assert page.locator("table.grid button[tabindex='0']").count() == 1
    for _ in range(50):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('table.grid button')"):
            break
    reached = set()
    for key in ["ArrowDown", "ArrowRight"] * 3 + ["ArrowLeft", "ArrowUp"] * 3:
        reached.add(page.evaluate("document.activeElement.getAttribute('aria-label')"))
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    assert (
        page.locator("#behind-title")
        .inner_text()
        .startswith(page.evaluate("document.activeElement.getAttribute('aria-label')"))
    )
    assert len(reached) == min(buttons.count(), len(reached)) > 1


@pytest.mark.parametrize("bypass_csp", [True, False])
def test_hostile_names_run_nothing(bypass_csp, evaluated, tmp_path, visit):  # noqa: F811
    path = write_hostile_report(tmp_path / "hostile", evaluated[0])
    page, wrong = visit(path, bypass_csp=bypass_csp)
    cells = page.locator("table.grid button")
    for k in range(cells.count()):
        cells.nth(k).click()
    assert page.title() != "taken"
    assert wrong == []
    assert page.locator("img[src='x']").count() == 0


def test_a_script_that_got_in_would_not_run(evaluated, tmp_path, visit):  # noqa: F811
    page = (evaluated[0] / "evaluation" / "report.html").read_text()
    path = tmp_path / "taken.html"
    path.write_text(page.replace("<main>", '<main><script>document.title="taken"</script>'))
    assert visit(path)[0].title() != "taken"


def test_a_picture_from_elsewhere_would_not_be_fetched(evaluated, tmp_path, visit):  # noqa: F811
    page = (evaluated[0] / "evaluation" / "report.html").read_text()
    path = tmp_path / "taken.html"
    path.write_text(page.replace("<main>", '<main><img src="http://127.0.0.1:9/spy.png">'))
    _, wrong = visit(path)
    assert any("Content Security Policy" in line for line in wrong)


def test_a_comparison_is_accessible(evaluated, tmp_path, visit):  # noqa: F811
    path = tmp_path / "both.html"
    assert report.main([*map(str, evaluated), "--save_path", str(path)]) == 0
    page, wrong = visit(path, bypass_csp=True)
    assert check_access(page) == []
    assert wrong == []
