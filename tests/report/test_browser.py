"""The report of a real restoration in a real browser: read, moved, filtered, sorted, in both themes and two widths."""

from __future__ import annotations

import re
import shutil

import pytest
from helpers import CONFIGS, write_shard

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZES = {"phone": (360, 740), "desk": (1280, 900)}


@pytest.fixture(scope="module")
def report(tmp_path_factory, photos):
    """Ten val photos and one that is none, restored in three steps; the page."""
    from reddiff_pl.__main__ import main

    folder = tmp_path_factory.mktemp("report")
    samples = [(key, {"jpg": photo}) for key, photo in list(photos.items())[:10]]
    write_shard(folder / "in" / "a.tar", samples[:5])
    write_shard(folder / "in" / "b.tar", [*samples[5:], ("bro<b>ken", {"jpg": b"no photo"})])
    options = [
        *(
            "--config",
            str(CONFIGS / "tasks" / "superresolution_4x.yaml"),
            "--data.shards",
            f"{folder}/in/*.tar",
        ),
        *("--model.sampler.init_args.steps=3", "--model.keep_steps=3", "--model.keep_start=true"),
        *("--data.batch_size=5", "--trainer.accelerator=cpu", "--out", str(folder / "out")),
    ]
    assert main(["restore", *options]) == 3
    assert main(["report", str(folder / "out")]) == 0
    return folder / "out" / "report" / "index.html"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install '.[test]'")
    with playwright.sync_playwright() as driver:
        # a container's root has no sandbox
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, report):
    """Opens the report; afterwards: nothing was asked of any network, and the console is empty."""
    contexts, complaints, requests = [], [], []

    def visit(size="desk", theme="light", **options):
        width, height = SIZES[size]
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=theme,
            has_touch=size == "phone",
            **options,
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []
    assert {re.split(r"[:,]", url)[0] for url in requests} <= {"file", "data"}
    assert {url for url in requests if url.startswith("file")} == {report.as_uri()}


def until(page, condition):
    """playwright's own waiting evaluates text inside the page, which the page's policy forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


def split(compare):
    """How much of the left picture is uncovered, in percent of the width."""
    return compare.evaluate("(it) => parseFloat(getComputedStyle(it).getPropertyValue('--x'))")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_and_every_picture_is_drawn(visit, tmp_path, size, theme):
    page = visit(size, theme)
    for name in ("pictures", "metrics", "images", "speed", "failures", "setup"):
        page.locator(f"#{name}").scroll_into_view_if_needed()
    page.locator("#grid li").last.scroll_into_view_if_needed()
    until(page, "[...document.querySelectorAll('#grid .frame')].every((frame) => frame.firstChild)")
    until(page, "[...document.images].every((image) => image.closest('details') || image.complete)")
    drawn = page.evaluate("[...document.images].filter((image) => image.naturalWidth > 1).length")
    assert drawn >= 10 + 9 * 4 + 2
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size][0], "nothing hangs over"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", background)[:3])) > 3 * 128
    assert light == (theme == "light")
    assert page.inner_text("#failures").count("bro<b>ken") == 1
    picture = page.screenshot(path=tmp_path / f"{size}-{theme}.png", full_page=True)
    assert len(picture) > 50_000


def test_the_theme_is_switched_and_remembered(visit):
    page = visit()
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(colour)
    page.get_by_role("button", name="Dark theme").click()
    after = page.evaluate(colour)
    assert after != before
    page.reload()
    assert page.evaluate(colour) == after
    page.get_by_role("button", name="Light theme").click()
    assert page.evaluate(colour) == before


def test_the_slider_by_mouse_and_by_keyboard(visit):
    page = visit()
    compare = page.locator(".hero .compare")
    slider = compare.get_by_role("slider", name="Measurement to the left, restored to the right")
    box = compare.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    assert split(compare) == pytest.approx(20, abs=3)
    before = split(compare)
    slider.press("ArrowRight")
    slider.press("ArrowRight")
    assert split(compare) == before + 2
    slider.press("End")
    assert split(compare) == 100
    clip = compare.locator("img").last.evaluate("(it) => getComputedStyle(it).clipPath")
    assert clip.startswith("inset(0"), "the measurement covers the restored image whole"


def keys_and_values(page):
    names = page.locator("#grid button").evaluate_all(
        "(all) => all.map((it) => it.getAttribute('aria-label'))"
    )
    return [(name.split(",")[0], float(re.search(r"PSNR ([\d.]+)", name)[1])) for name in names]


def test_sort_and_filter(visit):
    page = visit()
    shown = keys_and_values(page)
    values = [value for _, value in shown]
    assert len(values) == 10 and values == sorted(values, reverse=True)
    page.get_by_label("Order").select_option("Lowest first")
    assert [value for _, value in keys_and_values(page)] == values[::-1]
    page.get_by_label("Sort by").select_option("Key")
    assert [key for key, _ in keys_and_values(page)] == sorted(key for key, _ in shown)

    page.get_by_label("from", exact=True).fill(str(values[4]))
    assert sorted(value for _, value in keys_and_values(page)) == sorted(values[:5])
    assert page.inner_text("#shown") == "5 of 10 shown"
    page.get_by_label("to", exact=True).fill(str(values[2]))
    assert sorted(value for _, value in keys_and_values(page)) == sorted(values[2:5])
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Key or shard contains").fill(shown[6][0][3:])
    assert [key for key, _ in keys_and_values(page)] == [shown[6][0]]
    page.get_by_role("button", name="Clear").click()
    until(page, "document.querySelectorAll('#grid li').length == 10")
    assert keys_and_values(page) == shown
    page.get_by_label("Show").select_option("Error")
    until(
        page,
        "document.querySelector('#grid img').src == order[0].pictures.error",
    )


@pytest.mark.parametrize("size", SIZES)
def test_an_image_is_looked_at_with_the_keyboard_alone(visit, size):
    """Opened, moved, stepped, closed; the focus comes back to where it was."""
    page = visit(size)
    first = page.locator("#grid button").first
    first.focus()
    page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog")
    assert viewer.is_visible()
    key = viewer.locator("h2").inner_text()
    slider = viewer.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    assert split(viewer.locator(".compare")) == 0
    viewer.get_by_role("combobox", name="Left").select_option("Reference")
    viewer.get_by_role("slider", name="Reference to the left").focus()
    viewer.get_by_role("button", name="Next").press("Enter")
    assert viewer.locator("h2").inner_text() != key
    assert viewer.get_by_role("combobox", name="Left").input_value() == "reference", "what is compared stays"
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size][0]
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    assert first.evaluate("(it) => it === document.activeElement")


def test_a_trajectory_opens(visit):
    page = visit()
    page.get_by_text("Trajectory").first.click()
    strip = page.locator(".steps img").first
    until(page, "document.querySelector('.steps img').naturalWidth > 0")
    assert strip.is_visible() and strip.evaluate("(it) => it.naturalWidth / it.naturalHeight") == 3 / 2


def test_without_javascript_tables_and_pictures_are_there(visit):
    page = visit(java_script_enabled=False)
    for text in (
        "Best",
        "Median",
        "Worst",
        "bro<b>ken",
        "superresolution",
        "draw, sort and filter with JavaScript",
    ):
        assert page.get_by_text(text).first.is_visible(), text
    assert page.locator(".contact li").count() == 9 and page.locator("table").count() >= 3
    box = page.locator(".contact img").first.bounding_box()
    assert box["width"] > 100
    pictures = [image.bounding_box() for image in page.locator(".hero .compare img").all()]
    assert all(box["width"] > 100 for box in pictures), "before and after, beside each other"
    assert pictures[0]["x"] != pictures[1]["x"]
    assert not page.locator("#tools").is_visible()
