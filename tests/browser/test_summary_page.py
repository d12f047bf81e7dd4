"""The page of a summary in a real browser: it shows, zooms, adds up, asks for nothing, and no name becomes markup."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from golden.building import described
from golden.models import hostile, resnet, shared, transformer
from perdure.records.names import human_bytes
from perdure.records.summary.figures import short
from perdure.records.summary.page import to_html
from perdure.records.summary.summary import Summary, SummaryTensor

Show = Callable[[Summary], webdriver.Chrome]

CELLS = """
return [...document.querySelectorAll("#map > .cell")].map((cell) => {
  const box = cell.getBoundingClientRect();
  return {name: cell.dataset.name, size: Number(cell.dataset.size), label: cell.getAttribute("aria-label"),
          left: box.left, top: box.top, width: box.width, height: box.height};
})
"""


@pytest.fixture
def show(chromium: webdriver.Chrome, tmp_path: Path) -> Iterator[Show]:
    """Open the page of a summary; at the end nothing may have been logged or asked for."""
    chromium.get("about:blank")
    chromium.get_log("browser")
    chromium.get_log("performance")
    page = tmp_path / "page.html"

    def opened(summary: Summary) -> webdriver.Chrome:
        page.write_text(to_html(summary), "utf-8")
        chromium.get(page.as_uri())
        wait_until(lambda: chromium.execute_script("return document.querySelectorAll('#map > *').length") > 0)
        return chromium

    yield opened
    assert chromium.get_log("browser") == []
    assert {url for url in requests(chromium) if not url.startswith("data:")} <= {page.as_uri()}


def requests(chromium: webdriver.Chrome) -> set[str]:
    events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    return {each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"}


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("the page did not get there in ten seconds")


def cells(browser: webdriver.Chrome) -> dict[str, dict[str, Any]]:
    return {cell["label"].split(",")[0]: cell for cell in browser.execute_script(CELLS)}


def cell(browser: webdriver.Chrome, label: str) -> WebElement:
    return next(
        each
        for each in browser.find_elements(By.CSS_SELECTOR, "#map > .cell")
        if (each.get_attribute("aria-label") or "").startswith(f"{label},")
    )


def trail(browser: webdriver.Chrome) -> list[str]:
    return [step.text for step in browser.find_elements(By.CSS_SELECTOR, "#trail button")]


def choose(browser: webdriver.Chrome, measure: str) -> None:
    labels = browser.find_elements(By.CSS_SELECTOR, "#measures label")
    next(label for label in labels if label.text == measure).click()


def sizes(browser: webdriver.Chrome) -> dict[str, float]:
    return {label: each["size"] for label, each in cells(browser).items()}


def check_areas(browser: webdriver.Chrome, total: float) -> None:
    """Check that each cell has its part of the area, within 2 %, and that they do not overlap."""
    width, height = browser.execute_script(
        "const map = document.getElementById('map'); return [map.clientWidth, map.clientHeight]"
    )
    drawn = list(cells(browser).values())
    for each in drawn:
        assert each["width"] * each["height"] / (width * height) == pytest.approx(each["size"] / total, rel=0.02), each
    for one in drawn:
        for other in drawn:
            across = min(one["left"] + one["width"], other["left"] + other["width"]) - max(one["left"], other["left"])
            down = min(one["top"] + one["height"], other["top"] + other["height"]) - max(one["top"], other["top"])
            assert one is other or min(across, down) < 0.1


def test_the_model_and_its_totals_are_shown(show: Show) -> None:
    found = resnet()
    browser = show(found)
    assert browser.find_element(By.TAG_NAME, "h1").text == "ResNet" == browser.title
    assert "11,689,512 (11.7 M), all trainable" in browser.find_element(By.CSS_SELECTOR, ".totals").text
    assert sizes(browser)["layer4"] == found["layer4"].n_parameters
    assert len(browser.find_elements(By.CSS_SELECTOR, "#rows tbody tr")) == len(found.rows)
    check_areas(browser, found.n_parameters)
    assert "1 more is too small" in browser.find_element(By.ID, "missing").text  # bn1: 128 of 11,689,512


def test_a_click_opens_a_module_and_the_trail_leads_back(show: Show) -> None:
    found = resnet()
    browser = show(found)
    cell(browser, "layer4").click()
    assert trail(browser) == ["ResNet", "layer4"]
    assert sizes(browser) == {"0": found["layer4.0"].n_parameters, "1": found["layer4.1"].n_parameters}
    check_areas(browser, found["layer4"].n_parameters)
    cell(browser, "0").click()
    assert set(sizes(browser)) >= {"conv1", "conv2", "downsample"}
    cell(browser, "conv1").click()
    assert trail(browser) == ["ResNet", "layer4", "0"]
    details = browser.find_element(By.ID, "details").text
    assert "layer4.0.conv1" in details and "1,179,648" in details and "[1, 512, 7, 7]" in details
    browser.find_elements(By.CSS_SELECTOR, "#trail button")[0].click()
    assert trail(browser) == ["ResNet"] and "layer4" in sizes(browser)


def test_the_keyboard_alone_will_do(show: Show) -> None:
    browser = show(resnet())

    def press(key: str) -> WebElement:
        browser.switch_to.active_element.send_keys(key)
        return browser.switch_to.active_element

    def label() -> str:
        return (browser.switch_to.active_element.get_attribute("aria-label") or "").split(",")[0]

    for _ in range(10):
        press(Keys.TAB)
        if browser.switch_to.active_element.get_attribute("class").startswith("cell"):
            break
    assert label() == "layer4"
    press(Keys.ARROW_RIGHT)
    assert label() == "layer3"
    press(Keys.ARROW_DOWN)
    assert label() in ("layer2", "fc")
    press(Keys.ARROW_UP)
    assert label() == "layer3"
    press(Keys.ENTER)
    assert trail(browser) == ["ResNet", "layer3"] and label() == "1"
    press(Keys.ESCAPE)
    assert trail(browser) == ["ResNet"] and label() == "layer3"
    press(Keys.ESCAPE)
    assert trail(browser) == ["ResNet"]


def test_other_measures(show: Show) -> None:
    found = resnet()
    browser = show(found)
    measures = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "#measures label")]
    assert measures == ["parameters", "bytes", "FLOPs", "activations", "time"]
    choose(browser, "FLOPs")
    assert sizes(browser)["layer1"] == found["layer1"].flops
    check_areas(browser, found.flops or 0)
    choose(browser, "bytes")
    assert sizes(browser)["fc"] == found["fc"].n_bytes
    check_areas(browser, found.n_bytes)
    choose(browser, "activations")  # peaks: those of the parts are more than that of the whole
    assert sizes(browser)["conv1"] == found["conv1"].activation_bytes
    check_areas(browser, sum(sizes(browser).values()))
    said = cell(browser, "layer4").get_attribute("aria-label") or ""
    assert said == f"layer4, {human_bytes(found['layer4'].activation_bytes or 0)}, opens", "its own peak, and no share"
    assert "no measure of its own peak" in browser.find_element(By.ID, "missing").text
    choose(browser, "time")
    assert sizes(browser)["fc"] == found["fc"].seconds


def test_what_is_tied_counts_once_and_own_tensors_are_a_part(show: Show) -> None:
    found = transformer()
    browser = show(found)
    assert sizes(browser) == {"layers": found["layers"].n_parameters, "wte": 50257 * 768, "(own)": 1024 * 768}
    check_areas(browser, found.n_parameters)
    again = show(shared())
    assert sizes(again) == {"body": 272, "a": 68, "b": 64}
    rows = {row.text.split(" ")[0]: row.text for row in again.find_elements(By.CSS_SELECTOR, "#rows tbody tr")}
    assert "(272)" in rows["again"]


def test_search_sort_and_the_way_from_the_table(show: Show) -> None:
    browser = show(resnet())
    search = browser.find_element(By.ID, "search")
    search.send_keys("layer4.*")
    assert browser.find_element(By.ID, "count").text == "0 of 0 modules"
    search.clear()
    search.send_keys("batchnorm")
    names = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#rows tbody td:first-child")]
    assert len(names) == 20 and names[0] == "bn1"
    browser.find_elements(By.CSS_SELECTOR, "#rows th.figure button")[0].click()
    names = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#rows tbody td:first-child")]
    assert names[0] == "layer4.0.bn1" and names[-1] == "layer1.1.bn2"
    browser.find_element(By.CSS_SELECTOR, "#rows tbody button").click()
    assert trail(browser) == ["ResNet", "layer4", "0"]


def test_hostile_names_are_text(show: Show) -> None:
    """The console would show an error of the policy, and a dialog would stop the driver, if one of them were run."""
    found = hostile()
    browser = show(found)
    assert browser.title == found.title.replace("\x07", "\\x07")
    assert len(browser.find_elements(By.TAG_NAME, "script")) == 2
    names = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#rows tbody td:first-child")]
    assert "<script>alert(1)</script>" in names and "</script><!--" in names
    assert "\\x202eright\\x2066.\\x2028" in names
    assert all(len(name) <= 300 for name in names) and any(name.startswith("汉字") for name in names)
    check_areas(browser, found.n_parameters)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_a_large_model(show: Show) -> None:
    tensors = [
        SummaryTensor(f"layers.{layer}.experts.{expert}.w", "float32", (64, 64 + expert), 4 * 64 * (64 + expert))
        for layer in range(100)
        for expert in range(40)
    ]
    found = described("experts.safetensors", *tensors)
    browser = show(found)
    assert browser.find_element(By.ID, "count").text == "500 of 4202 modules"
    cell(browser, "layers").click()
    assert len(cells(browser)) == 100
    check_areas(browser, found.n_parameters)
    browser.find_element(By.ID, "more").click()
    assert len(browser.find_elements(By.CSS_SELECTOR, "#rows tbody tr")) == 4202


def test_an_empty_model_and_figures_beyond_the_browsers(show: Show) -> None:
    assert show(described("empty.safetensors")).find_element(By.CSS_SELECTOR, "#map").text == "No parameters here."
    large = described("large.gguf", SummaryTensor("w.w", "Q4_K", (2**60 + 1,), 2**59 + 1))
    browser = show(large)
    assert "1,152,921,504,606,846,977" in browser.find_element(By.ID, "details").text


def test_figures_are_those_of_the_text(show: Show) -> None:
    browser = show(resnet())
    for number in (0, 7, 1023, 1024, 139_520, 2**20 - 1, 2**20, 3 * 2**30 + 2**28, 10**15):
        assert browser.execute_script("return short(arguments[0], 'bytes')", number) == human_bytes(number)
    for number in (0, 999, 1000, 1255, 12_250, 12_350, 99_950, 999_499, 999_500, 11_689_512, 10**13 + 1):
        assert browser.execute_script("return short(arguments[0], 'number')", number) == short(number)


def test_the_layout_of_any_sizes(show: Show) -> None:
    """Areas in proportion, within the rectangle, of shapes that are near to squares."""
    browser = show(resnet())
    draw = random.Random(5)
    for _ in range(30):
        wanted = sorted((draw.lognormvariate(0, 2) for _ in range(draw.randint(1, 60))), reverse=True)
        width, height = draw.uniform(10, 2000), draw.uniform(10, 2000)
        laid = browser.execute_script(
            "return squarify(arguments[0].map((size) => ({size})), {x: 0, y: 0, width: arguments[1], height: arguments[2]})",
            wanted, width, height,
        )  # fmt: skip
        assert [part["size"] for part, _ in laid] == pytest.approx(wanted)
        for part, box in laid:
            assert box["width"] * box["height"] == pytest.approx(part["size"] / sum(wanted) * width * height)
            assert box["x"] > -1e-6 and box["x"] + box["width"] < width + 1e-6
            assert box["y"] > -1e-6 and box["y"] + box["height"] < height + 1e-6
        assert math.fsum(box["width"] * box["height"] for _, box in laid) == pytest.approx(width * height)


def test_the_policy_forbids_the_network_and_other_scripts(chromium: webdriver.Chrome, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(to_html(resnet()).replace("</main>", "<script>document.title = 'run'</script></main>"), "utf-8")
    chromium.get(page.as_uri())
    assert chromium.title == "ResNet"
    answer = chromium.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('sent'), () => done('refused'))"
    )
    messages = [entry["message"] for entry in chromium.get_log("browser")]
    assert answer == "refused" and sum("Content Security Policy" in message for message in messages) >= 2
    assert not any(url.startswith("http:") for url in requests(chromium))
