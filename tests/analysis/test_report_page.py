"""The report's page in a browser: nothing fails or is fetched, tables sort, the theme turns, it fits and prints."""

import base64
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd
import pytest
from matplotlib.figure import Figure
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from harness.analysis.document import Cell, Code, Column, Contents, Plot, Section, Table, Text
from harness.analysis.figures import save
from harness.analysis.write.html import to_html

# Would run, or fetch, if a label were ever taken for markup.
HOSTILE = "<img src=https://example.org/x.png onerror=\"document.title='run'\"><script>document.title='run'</script>"
# A browser as bare as it gets: nothing of its own is fetched, nothing of its user's is read.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
ROWS = {"ten": 10.0, "nine": 9.0, "diverged": math.inf, "undefined": math.nan, "missing": None, HOSTILE: -1.5}


def document() -> Contents:
    figure = Figure(figsize=(7, 2))
    figure.subplots().plot([0, 1])
    wide = tuple(Column(heading=f"A long heading (unit), number {n}", direction="lower") for n in range(12))
    table = Table(
        name="main",
        title="Quality",
        columns=(Column(heading="Strategy", numeric=False), *wide),
        rows=tuple(
            (
                Cell(text=name),
                *(Cell(text=str(value), value=value, mark="worse", hint=f"hint of {name}") for _ in wide),
            )
            for name, value in ROWS.items()
        ),
        caption=HOSTILE,
        numbers=pd.DataFrame(),
    )
    plot = Plot(name="overview", title=HOSTILE, caption="c", alt=f'"{HOSTILE}', figure=figure)
    return Contents(
        title="a_grid_with_a_name_" * 5,
        lead=HOSTILE,
        facts=(("Workload", "tiny"),),
        sections=(
            Section(title="Results", blocks=(table, plot)),
            Section(title="Reproduce", blocks=(Text(lines=(HOSTILE,), warning=True), Code(text="x" * 300))),
            Section(title="Provenance", blocks=(Text(lines=("the folded sentence",)),), folded=True),
        ),
    )


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        if os.environ.get("REQUIRE_CHROMIUM") == "1":
            pytest.fail("REQUIRE_CHROMIUM=1, but chromium or chromedriver is not on PATH")
        pytest.skip("needs chromium and chromedriver on PATH (Debian: chromium, chromium-driver)")
    folder = tmp_path_factory.mktemp("page")
    made = document()
    results = made.sections[0]
    drawn = tuple(save(block, folder) if isinstance(block, Plot) else block for block in results.blocks)
    made = replace(made, sections=(replace(results, blocks=drawn), *made.sections[1:]))
    (folder / "report.html").write_text(to_html(made, folder), encoding="utf-8")
    options = ChromeOptions()
    options.binary_location = binary
    for argument in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = Chrome(options=options, service=Service(driver))
    browser.set_window_size(1400, 1000)
    browser.get("about:blank")
    browser.get_log("performance")  # the browser's own first page
    browser.get((folder / "report.html").as_uri())
    yield browser
    browser.quit()


def order(browser: Chrome) -> list[str]:
    found = browser.execute_script(
        "return [...document.querySelectorAll('#table-main tbody th')].map(c => c.innerText)"
    )
    return [str(text).strip() for text in found]


def test_page_loads_without_an_error_or_a_request(browser: Chrome) -> None:
    assert browser.title == document().title
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if url.startswith("file:")] == [browser.current_url]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    image = browser.find_element(By.CSS_SELECTOR, "figure img")
    assert browser.execute_script("return arguments[0].naturalWidth", image) > 0
    assert HOSTILE in browser.find_element(By.TAG_NAME, "main").text


def test_numbers_sort_by_value_and_what_is_none_comes_last(browser: Chrome) -> None:
    written = list(ROWS)
    ascending = [HOSTILE, "nine", "ten", "diverged"]
    head = browser.find_elements(By.CSS_SELECTOR, "#table-main thead th")[1]
    assert head.find_element(By.TAG_NAME, "small").text.startswith("unit↓")
    for expected, state in (
        ([*ascending, "undefined", "missing"], "ascending"),
        ([*reversed(ascending), "undefined", "missing"], "descending"),
        (written, "none"),
    ):
        head.find_element(By.TAG_NAME, "button").click()
        assert head.get_attribute("aria-sort") == state
        assert order(browser) == expected


def test_names_sort_from_the_keyboard(browser: Chrome) -> None:
    head = browser.find_element(By.CSS_SELECTOR, "#table-main thead th")
    button = head.find_element(By.TAG_NAME, "button")
    button.send_keys(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "ascending"
    assert order(browser) == [HOSTILE, "diverged", "missing", "nine", "ten", "undefined"]
    button.send_keys(Keys.SPACE)
    assert order(browser) == ["undefined", "ten", "nine", "missing", "diverged", HOSTILE]
    button.send_keys(Keys.ENTER)
    assert order(browser) == list(ROWS)


def test_hints_are_reached_from_the_keyboard(browser: Chrome) -> None:
    tip = browser.find_element(By.ID, "tip")
    cells = browser.find_elements(By.CSS_SELECTOR, "#table-main tbody td")
    assert [cell.get_attribute("tabindex") for cell in cells].count("0") == 1
    browser.execute_script("arguments[0].focus()", cells[0])
    assert tip.text == "hint of ten"
    cells[0].send_keys(Keys.ARROW_DOWN)
    assert tip.text == "hint of nine"
    for _ in range(11):  # to the last column, which lies beyond the table's box
        browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert browser.execute_script("return document.querySelector('#table-main .scroll').scrollLeft") > 0
    assert tip.is_displayed()
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()


def test_theme_can_be_turned(browser: Chrome) -> None:
    def background() -> str:
        return str(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))

    before = background()
    browser.find_element(By.ID, "theme").click()
    assert background() != before
    browser.find_element(By.ID, "theme").click()
    assert background() == before


def test_nothing_runs_over_a_phone(browser: Chrome) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    width = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width == [360, 360]


def test_it_prints_what_is_folded_too(browser: Chrome) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    shown = browser.find_element(By.TAG_NAME, "main").text
    hidden = browser.find_element(By.CSS_SELECTOR, "header.top").is_displayed()
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert "the folded sentence" in shown
    assert not hidden
    data = base64.b64decode(browser.print_page())
    assert data.startswith(b"%PDF-")
    assert len(data) > 10_000
    assert browser.get_log("browser") == []
