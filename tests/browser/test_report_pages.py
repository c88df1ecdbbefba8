"""The pages of a report in a real headless Chromium, driven by Selenium (`make test-browser`)."""

import json
import shutil

import numpy as np
import pytest
from report_case import EVIL, write_report

from jaxpho.output.profiles import radial_profile

pytestmark = pytest.mark.browser
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WAIT = 20.0  # s: the machine may be busy


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(folder of the report, the fit)."""
    run, result = write_report(tmp_path_factory.mktemp("browser"))
    return run / "report", result


@pytest.fixture(scope="module")
def driver():
    """A headless Chromium; the test is skipped, with a word, where there is none."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    control = shutil.which("chromedriver")
    if browser is None or control is None:
        pytest.skip("no Chromium with chromedriver is installed: the pages were not tried")
    options = selenium.ChromeOptions()
    options.binary_location = browser
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--window-size=1300,1000"):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    from selenium.webdriver.chrome.service import Service

    found = selenium.Chrome(options=options, service=Service(control))
    found.set_script_timeout(WAIT)
    yield found
    found.quit()


def until(driver, script):
    """Wait until a script returns something; what it returns."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, WAIT).until(lambda d: d.execute_script(f"return {script}"))


@pytest.fixture
def visit(driver, report):
    """Open a page of the report; afterwards the console must be empty and nothing have run."""

    def go(page):
        driver.get("about:blank")
        driver.get(f"{(report[0] / page.partition('#')[0]).as_uri()}#{page.partition('#')[2]}")
        until(driver, "document.readyState === 'complete'")
        return driver

    driver.get_log("browser")
    yield go
    from selenium.common.exceptions import NoAlertPresentException

    messages = [entry["message"] for entry in driver.get_log("browser")]
    assert messages == []
    with pytest.raises(NoAlertPresentException):
        _ = driver.switch_to.alert.text
    assert driver.execute_script("return document.getElementById('problem').textContent") == ""


def painted(driver, selector):
    """Number of colours on each canvas."""
    return driver.execute_script(
        """return [...document.querySelectorAll(arguments[0])].map((c) => {
        const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, seen = new Set();
        for (let i = 0; i < p.length; i += 16) seen.add((p[i] << 16) + (p[i + 1] << 8) + p[i + 2]);
        return seen.size; })""",
        selector,
    )


def ids(driver):
    """Ids of the rows of the table, from above."""
    return driver.execute_script(
        "return [...document.querySelectorAll('.sources tbody tr:not(.gap) td:nth-child(2)')]"
        ".map((c) => c.textContent)"
    )


def press(driver, *keys):
    """Keys to whatever has the focus."""
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def test_every_page_has_a_heading_labels_and_names(visit):
    for page in ("index.html", "catalog.html", "source.html#0", "patch.html#3", "psf.html"):
        driver = visit(page)
        until(driver, "document.querySelector('h1')")
        bare = driver.execute_script(
            """return [...document.querySelectorAll('img:not([alt]), canvas:not([aria-label]),'
            + 'svg.chart:not([aria-label]), [role=region]:not([aria-label])')]
            .map((e) => e.outerHTML)
            .concat([...document.querySelectorAll('input, select')].filter((e) => !e.labels.length)
            .map((e) => e.outerHTML)).concat([...document.querySelectorAll('a, button')].filter(
            (e) => !e.textContent.trim() && !e.getAttribute('aria-label')
            && !e.closest('svg')).map((e) => e.outerHTML))"""
        )
        assert bare == []
        assert driver.execute_script("return document.documentElement.lang") == "en"
        assert driver.execute_script("return document.querySelectorAll('main').length") == 1


def test_the_summary_shows_map_and_charts(visit):
    driver = visit("index.html")
    until(driver, "document.querySelectorAll('#population svg').length >= 3")
    assert painted(driver, "#sky canvas")[0] > 3
    assert "at_bound" in driver.find_element("id", "flags").text


def test_the_table_sorts_and_filters(visit, report):
    driver = visit("catalog.html")
    until(driver, "document.querySelectorAll('.sources tbody tr:not(.gap)').length === 3")
    assert ids(driver) == ["101", EVIL, "2066"]
    # declinations: +2, +5 and -4 arcsec from the reference
    heads = "document.querySelector('button[data-column=dec]').parentNode"
    driver.find_element("css selector", "button[data-column=dec]").click()
    assert driver.execute_script(f"return {heads}.getAttribute('aria-sort')") == "ascending"
    assert ids(driver) == ["2066", "101", EVIL]
    driver.find_element("css selector", "button[data-column=dec]").click()
    assert driver.execute_script(f"return {heads}.getAttribute('aria-sort')") == "descending"
    assert ids(driver) == [EVIL, "101", "2066"]
    box = driver.find_element("id", "filter-expression")
    box.send_keys("rhalf > 0.1 and q < 1")
    until(driver, "document.querySelector('.count').textContent === '1 of 3 sources'")
    assert ids(driver) == ["101"]
    box.clear()
    box.send_keys("nonsense >")
    until(driver, "document.querySelector('.bad').textContent.includes('not understood')")
    box.clear()
    driver.find_element("id", "filter-text").send_keys("<SCRIPT")
    until(driver, "document.querySelector('.count').textContent === '1 of 3 sources'")
    assert ids(driver) == [EVIL]


def test_a_flag_of_the_summary_leads_to_its_sources(visit):
    driver = visit("index.html")
    driver.find_element("link text", "at_bound").click()
    until(driver, "document.querySelector('.count')?.textContent === '1 of 3 sources'")
    assert ids(driver) == ["2066"]


def test_the_page_of_a_source_shows_images_profiles_and_posterior(visit, report):
    driver = visit("source.html#0")
    until(driver, "document.querySelector('.corner')")
    assert min(painted(driver, ".viewer canvas")) > 20
    assert len(driver.find_elements("css selector", ".viewer canvas")) == 9
    assert len(driver.find_elements("css selector", ".traces svg")) == 8
    values = driver.find_element("css selector", "section table").text
    assert "flux_g" in values and "900" in values and "pull" in values
    result = report[1]
    found = driver.execute_async_script(
        """const done = arguments[0];
        jaxpho.load('patch/3').then(async (data) => {
          const s = await stamps.ofPatch(3), me = data.sources[0];
          const others = data.sources.slice(1).map((o) => o.places['0']);
          const p = profile.compute(s['0'], me.places['0'], me.shapes, others, null);
          done(JSON.stringify(p)); });"""
    )
    here, there = json.loads(found), radial_profile(result, 0, "g0")
    used = there.npix > 0
    for name in ("radius", "data", "model", "error"):
        np.testing.assert_allclose(
            here[name], getattr(there, name)[used], rtol=0.01, atol=0.03, err_msg=name
        )


def test_panels_are_linked_and_follow_the_keyboard(visit):
    driver = visit("source.html#0")
    until(driver, "document.querySelectorAll('.viewer canvas').length === 9")
    until(driver, "document.querySelector('.corner')")
    copy = "[...document.querySelectorAll('.viewer canvas')].map((c) => c.toDataURL())"
    before = driver.execute_script(f"return {copy}")
    driver.execute_script("document.querySelector('.viewer canvas').focus()")
    press(driver, "+")
    zoomed = driver.execute_script(f"return {copy}")
    assert all(a != b for a, b in zip(before, zoomed, strict=True))
    press(driver, "\ue014")  # right
    moved = driver.execute_script(f"return {copy}")
    assert all(a != b for a, b in zip(zoomed, moved, strict=True))
    press(driver, "0")
    assert driver.execute_script(f"return {copy}") == before
    driver.execute_script(
        "const s = document.querySelector('.viewer select'); s.value = 'linear';"
        "s.dispatchEvent(new Event('change'))"
    )
    linear = driver.execute_script(f"return {copy}")
    assert linear[0] != before[0] and linear[2] == before[2]  # residuals keep their own scale


def test_a_source_named_like_a_script_is_only_a_name(visit):
    driver = visit("source.html#1")
    until(driver, "document.querySelector('h1')")
    assert driver.find_element("css selector", "h1").text == f"Source {EVIL}"
    until(driver, "document.querySelectorAll('.viewer canvas').length === 9")
    assert driver.execute_script("return document.querySelectorAll('main script').length") == 0
    assert driver.title.startswith(f"Source {EVIL}")


def test_the_page_of_a_patch(visit):
    driver = visit("patch.html#3")
    last = "What was decided"
    until(driver, f"document.querySelector('section:last-child h2')?.textContent === '{last}'")
    text = driver.find_element("css selector", "main").text
    assert EVIL in text and "onerror=alert(2)" in text and "Log posterior" in text
    assert min(painted(driver, ".viewer canvas")) > 20


def test_the_keyboard_reaches_the_content_and_the_table(visit):
    driver = visit("catalog.html")
    until(driver, "document.querySelector('.sources')")
    press(driver, "\ue004")  # tab: the first stop skips the header
    assert driver.execute_script("return document.activeElement.className") == "skip"
    press(driver, "\ue007")
    assert driver.execute_script("return document.activeElement.id") == "main"
    assert driver.current_url.endswith("catalog.html#")  # what the page shows stays
    button = driver.find_element("css selector", "button[data-column=rhalf]")
    driver.execute_script("arguments[0].focus()", button)
    press(driver, "\ue007")
    focused = "document.activeElement.dataset.column"
    assert driver.execute_script(f"return {focused}") == "rhalf"  # the focus stays where it was
    assert (
        driver.execute_script("return document.activeElement.parentNode.getAttribute('aria-sort')")
        == "ascending"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(visit, scheme):
    driver = visit("index.html")
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    colours = driver.execute_script(
        """const s = getComputedStyle(document.documentElement);
        return Object.fromEntries(['--ink', '--muted', '--link', '--card', '--paper', '--warn',
          '--warn-ink'].map((k) => [k, s.getPropertyValue(k).trim()]))"""
    )
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def luminance(colour):
        part = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    # WCAG 2.1, 1.4.3: 4.5 for text
    for front, back in (("--ink", "--card"), ("--muted", "--card"), ("--muted", "--paper"),
                        ("--link", "--card"), ("--warn-ink", "--warn")):  # fmt: skip
        light, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, (front, back, scheme)
