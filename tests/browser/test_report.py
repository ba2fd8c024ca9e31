"""The report in a real browser: it works, it is true to the numbers, and everybody can read it."""

import importlib.resources
import itertools
import json
import math
from pathlib import Path

import pytest

OTHERS = "return [...document.querySelectorAll('.explorer .example')]"


def state(browser):
    """Return what every example shows now."""
    return browser.js(
        OTHERS
        + """.map((example) => ({
          logits: JSON.parse(example.dataset.logits).concat(JSON.parse(example.dataset.rest)),
          shares: [...example.querySelectorAll('.bar')].map((bar) => Number(bar.dataset.probability)),
          widths: [...example.querySelectorAll('.bar')].map((bar) =>
            bar.querySelector('.fill').getBoundingClientRect().width
              / bar.querySelector('.track').getBoundingClientRect().width),
          values: [...example.querySelectorAll('.value')].map((value) => value.textContent),
          entropy: example.querySelector('.nats').textContent,
          label: example.querySelector('.bars').getAttribute('aria-label'),
        }))"""
    )


def move(browser, position: int) -> float:
    """Move the slider as a user does and return the temperature that it names."""
    said = browser.js(
        """const slider = document.querySelector('.explorer input');
        slider.value = arguments[0];
        slider.dispatchEvent(new Event('input', {bubbles: true}));
        return slider.getAttribute('aria-valuetext');""",
        position,
    )
    assert said.startswith("temperature ")
    return float(said.removeprefix("temperature "))


def softmax(logits, temperature):
    parts = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    return [part / sum(parts) for part in parts]


@pytest.mark.thorough
def test_the_console_stays_silent(browser, page, pair):
    browser.complaints()
    for each in (page, pair):
        browser.open(each)
        move(browser, 3)
        assert browser.complaints() == []


def test_the_slider_shows_the_softmax_of_the_logits_at_its_temperature(browser, page):
    browser.open(page)
    steps = json.loads(browser.js("return document.querySelector('.explorer input').dataset.temperatures"))
    assert (steps[0], steps[-1]) == (0.5, 20.0)
    assert 4.0 in steps
    seen = []
    for position in (0, len(steps) // 2, len(steps) - 1):
        temperature = move(browser, position)
        assert temperature == steps[position]
        assert browser.js("return document.querySelector('.reading').textContent") == f"T = {temperature:g}"
        shown = state(browser)
        assert len(shown) == 8
        for example in shown:
            expected = softmax(example["logits"], temperature)
            assert example["shares"] == pytest.approx(expected, abs=1e-12)
            assert example["widths"] == pytest.approx(expected, abs=0.02)
            entropy = -sum(p * math.log(p) for p in expected if p)
            assert float(example["entropy"]) == pytest.approx(entropy, abs=0.006)
            assert f"temperature {temperature:g}:" in example["label"].lower()
            assert example["label"].endswith(f"entropy {example['entropy']} nats")
        seen.append(shown)
    for cold, hot in zip(seen[0], seen[-1], strict=True):
        assert float(cold["entropy"]) < float(hot["entropy"])
        assert cold["shares"][0] > hot["shares"][0]
        assert cold["values"] != hot["values"]


def test_where_labels_stand_apart_the_slider_shows_the_sigmoid_of_each(browser, labels):
    browser.complaints()
    browser.open(labels)
    for position in (0, 20, 40):
        temperature = move(browser, position)
        for example in state(browser):
            expected = [1 / (1 + math.exp(-logit / temperature)) for logit in example["logits"]]
            assert example["shares"] == pytest.approx(expected, abs=1e-12)
            assert example["widths"] == pytest.approx(expected, abs=0.02)
            entropy = -sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in expected)
            assert float(example["entropy"]) == pytest.approx(entropy, abs=0.006)
    assert browser.complaints() == []


def test_the_page_before_its_script_says_what_the_script_says(browser, page):
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(page)
        before = state(browser)
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    browser.open(page)
    after = state(browser)
    for one, two in zip(before, after, strict=True):
        assert one["shares"] == pytest.approx(two["shares"], abs=1e-9)
        assert {key: one[key] for key in ("values", "entropy", "label")} == {
            key: two[key] for key in ("values", "entropy", "label")
        }


def test_the_slider_obeys_the_keyboard_and_moves_the_line_in_the_charts(browser, page):
    from selenium.webdriver.common.keys import Keys

    browser.open(page)
    slider = browser.driver.find_element("css selector", ".explorer input")
    assert browser.js("return arguments[0].labels[0].textContent", slider).startswith("Temperature")
    marker = "return Number(document.querySelector('.marker').getAttribute('x1'))"
    before, value, line = state(browser), slider.get_attribute("aria-valuetext"), browser.js(marker)
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert slider.get_attribute("aria-valuetext") != value
    assert browser.js(marker) > line
    assert all(one["shares"][0] > two["shares"][0] for one, two in zip(before, state(browser), strict=True))
    slider.send_keys(Keys.HOME)
    assert slider.get_attribute("aria-valuetext") == "temperature 0.5"


@pytest.mark.thorough
def test_every_figure_and_image_has_a_text_alternative(browser, page, pair, diagnosed, places):
    for each in (page, pair, diagnosed, places):
        browser.open(each)
        assert browser.js("return document.querySelectorAll('figure').length") >= 7
        assert (
            browser.js(
                """return [...document.querySelectorAll('figure')].filter((figure) =>
                     !figure.querySelector('figcaption')?.textContent.trim()).length"""
            )
            == 0
        )
        unnamed = """return [...document.querySelectorAll('svg:not([aria-hidden=true])')].filter((svg) =>
                       svg.getAttribute('role') !== 'img' || !(svg.getAttribute('aria-label')?.length > 15)).length"""
        assert browser.js(unnamed) == 0
        assert browser.js("return [...document.images].filter((i) => !i.alt || !i.naturalWidth).length") == 0
        levels = browser.js("return [...document.querySelectorAll('h1,h2,h3,h4')].map((h) => Number(h.tagName[1]))")
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(b <= a + 1 for a, b in itertools.pairwise(levels)), levels


@pytest.mark.miniature(0)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), pytest.param("dark", 360, marks=pytest.mark.slow)])
def test_axe_finds_nothing(browser, page, pair, diagnosed, compared, labels, places, scheme, width):
    pytest.importorskip("axe_core_python", reason="needs axe-core-python: pip install limbeck[test]")
    axe = importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    of_other_tasks = (labels,) if scheme == "light" else (places,)
    for each in (page, pair, diagnosed, compared, *of_other_tasks):
        browser.open(each, width=width, scheme=scheme)
        browser.js("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        browser.js(axe)
        found = browser.driver.execute_async_script("axe.run(document).then(arguments[0])")
        told = [f"{each['id']} ({each['impact']}): {each['nodes'][0]['html'][:120]}" for each in found["violations"]]
        assert told == []
        assert len(found["passes"]) > 20


def test_attention_maps_are_pictures_of_equal_size_side_by_side(browser, places):
    browser.open(places, width=360)
    script = """return [...document.querySelectorAll('section[aria-labelledby=run1-layers] .maps tbody')].map((row) =>
                  [...row.querySelectorAll('img')].map((image) => {
                    const box = image.getBoundingClientRect();
                    return [Math.round(box.width), Math.round(box.height), image.naturalWidth, image.naturalHeight];
                  }))"""
    rows = browser.js(script)
    assert len(rows) == 4
    for row in rows:
        assert len(row) == 5  # input, teacher, before, alone, distilled
        assert len({tuple(size[:2]) for size in row}) == 1
        assert row[0][0] == row[0][1] > 40
        assert all(size[2:] == [6, 6] for size in row[1:])


@pytest.mark.thorough
def test_no_page_scrolls_sideways_on_a_phone(browser, page, pair, diagnosed, compared, labels, places):
    for each in (page, pair, diagnosed, compared, labels, places):
        browser.open(each, width=360)
        browser.js("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        assert browser.js("return document.documentElement.scrollWidth") == 360


@pytest.mark.thorough
def test_a_phone_shows_a_page_in_few_screens(browser, page, pair, diagnosed, compared, labels, places):
    for each in (page, pair, diagnosed, compared, labels, places):
        browser.open(each, width=390)
        assert browser.js("return document.documentElement.scrollHeight") < 8000


@pytest.mark.thorough
def test_what_scrolls_sideways_says_so_and_obeys_the_keyboard(browser, page, compared):
    script = """const shown = (each) => each.clientWidth && !each.closest('details:not([open])');
      return [...document.querySelectorAll('.scroll, .strip')].filter(shown).map((each) => ({
        over: each.scrollWidth > each.clientWidth + 1,
        focusable: each.tabIndex === 0,
        cue: each.previousElementSibling?.matches('.cue') ? each.previousElementSibling.textContent : '',
        shade: getComputedStyle(each).backgroundImage.includes('gradient'),
        peek: each.matches('.strip') && each.children.length > 1
          && each.children[1].getBoundingClientRect().left < each.getBoundingClientRect().right - 20,
        table: each.querySelector('table')?.className ?? '',
      }))"""
    tables = 0
    for each in (page, compared):
        browser.open(each, width=390)
        browser.js("return new Promise((done) => setTimeout(done, 100))")
        regions = [region for region in browser.js(script) if region["over"]]
        assert len(regions) > 1
        for region in regions:
            assert region["cue"] == "Scroll sideways for more →"
            assert region["focusable"]
            assert region["shade"] or region["peek"]
        tables += sum(region["table"] == "models" for region in regions)
        browser.open(each, width=1600)
        browser.js("return new Promise((done) => setTimeout(done, 100))")
        assert not [region for region in browser.js(script) if region["cue"] and not region["over"]]
    assert tables == 1


@pytest.mark.thorough
def test_no_row_of_charts_is_half_empty(browser, page, pair, compared, diagnosed, labels, places):
    script = """return [...document.querySelectorAll('.plots')].filter((each) => each.clientWidth).map((each) => {
        const whole = each.getBoundingClientRect();
        const rows = new Map();
        for (const child of each.children) {
          const box = child.getBoundingClientRect();

          rows.set(Math.round(box.top), Math.max(rows.get(Math.round(box.top)) ?? 0, box.right - whole.left));
        }
        return [...rows.values()].map((reached) => reached / whole.width);
      })"""
    for each in (page, pair, compared, diagnosed, labels, places):
        browser.open(each)
        browser.js("document.querySelectorAll('details').forEach((each) => (each.open = true))")
        reached = [share for rows in browser.js(script) for share in rows]
        assert reached
        assert min(reached) > 0.9, (each, reached)


def test_a_link_to_a_run_opens_it(browser, pair):
    browser.open(pair)
    assert browser.js("return document.querySelectorAll('details.run[open]').length") == 0
    browser.driver.find_element("css selector", "nav a[href='#run2']").click()
    browser.js("return new Promise((done) => setTimeout(done, 100))")
    assert browser.js("return [...document.querySelectorAll('details.run')].map((each) => each.open)") == [False, True]


@pytest.mark.thorough
def test_the_dark_scheme_is_dark(browser, page, tmp_path: Path):
    from PIL import Image

    means = {}
    for scheme in ("light", "dark"):
        browser.open(page, scheme=scheme)
        shot = tmp_path / f"{scheme}.png"
        browser.driver.save_screenshot(str(shot))
        with Image.open(shot) as image:
            grey = image.convert("L").resize((64, 64))
            means[scheme] = sum(grey.tobytes()) / 4096
    assert means["dark"] < 60
    assert means["light"] > 200


def test_the_page_asks_the_network_for_nothing(browser, page, pair, diagnosed):
    for each in (page, pair, diagnosed):
        browser.open(each)
        assert (
            browser.js(
                "return performance.getEntriesByType('resource').filter((r) => !r.name.startsWith('data:')).length"
            )
            == 0
        )


@pytest.mark.thorough
def test_links_lead_somewhere(browser, page, pair, diagnosed):
    for each in (page, pair, diagnosed):
        browser.open(each)
        broken = """return [...document.querySelectorAll('a')].map((a) => a.getAttribute('href'))
                      .filter((href) => !href.startsWith('#') || !document.getElementById(href.slice(1)))"""
        assert browser.js(broken) == []
        ids = browser.js("return [...document.querySelectorAll('[id]')].map((each) => each.id)")
        assert len(ids) == len(set(ids))
