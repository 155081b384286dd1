# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: what somebody sees, hears read out and can reach by the keyboard."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import shutil
import threading
import time

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytest.importorskip("fastapi_offline", reason="the extra 'serve' is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra 'serve' is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from page_views import HOSTILE, LEARNT, VIEWS, show_classes  # noqa: E402

from beitv2_core.commands.serve import open_port  # noqa: E402
from beitv2_core.serve import results  # noqa: E402
from beitv2_core.serve.app import Limits, create_app  # noqa: E402
from beitv2_core.serve.views import View  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")]
expect = sync_api.expect


class Running:
    """An application on a port of its own while the block runs."""

    def __init__(self, app):
        self._listener = open_port("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="warning"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(20)
        self._listener.close()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server():
    with Running(create_app(VIEWS, title="run 7", limits=Limits(max_bytes=200_000))) as running:
        yield running


@pytest.fixture
def page(browser, server):
    with faultless_page(browser, server) as page:
        yield page


@pytest.fixture(scope="module")
def learnt_server():
    with Running(create_app(LEARNT)) as running:
        yield running


@pytest.fixture
def learnt(browser, learnt_server):
    """The page of a server of features and neighbours, with an image."""
    with faultless_page(browser, learnt_server) as page:
        give(page, upload())
        done(page)
        yield page


@contextlib.contextmanager
def faultless_page(browser, server):
    """A page that fails the test for requests to other servers, script errors and broken content policies."""
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    page = context.new_page()
    wrong = []
    page.on("request", lambda request: wrong.append(request.url)
            if not request.url.startswith((server.address, "data:", "blob:")) else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text)
            if message.type == "error" and "status of 4" not in message.text else None)
    page.goto(server.address)
    yield page
    context.close()
    assert wrong == []


def upload(kind="PNG", size=(60, 40), **options) -> dict:
    file = io.BytesIO()
    Image.new("RGB", size, (30, 160, 200)).save(file, kind, **options)
    return {"name": "some image", "mimeType": f"image/{kind.lower()}", "buffer": file.getvalue()}


def give(page, file):
    page.set_input_files("#file", file)


def done(page):
    expect(page.locator("#status")).to_contain_text("done in", timeout=20_000)
    return page.locator("#status").inner_text()


def shown_colour(page, selector):
    return page.locator(selector).evaluate("element => getComputedStyle(element).backgroundColor")


def test_the_page_tells_run_and_limits(page):
    expect(page.get_by_text("run 7")).to_be_visible()
    expect(page.locator("#limits")).to_have_text("At most 0.2 MB, 50 million pixels.")
    assert page.title() == "run 7 - BEiT v2"


def test_the_likeliest_classes_are_listed_and_names_are_never_markup(page):
    give(page, upload())
    done(page)
    items = page.locator("#view-classes li")
    assert [text.split("\n") for text in items.all_inner_texts()] == [["a cat", "62 %"], [HOSTILE, "5.0 %"]]
    widths = items.locator(".track > i").evaluate_all(
        "bars => bars.map(bar => bar.offsetWidth / bar.parentElement.offsetWidth)")
    np.testing.assert_allclose(widths, [0.62, 0.0504], atol=0.01)


def test_the_segmentation_lies_over_the_image_and_can_be_faded(page):
    give(page, upload())
    done(page)
    section = page.locator("#view-segmentation")
    overlay = section.get_by_alt_text("classes of the pixels: sky 75 %, sea 25 %")
    seen = section.get_by_alt_text("your image", exact=True)
    expect(overlay).to_be_visible()
    assert overlay.bounding_box() == seen.bounding_box()
    assert overlay.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [60, 40]
    legend = section.locator(".legend li").all_inner_texts()
    assert [" ".join(text.split()) for text in legend] == ["sky 75 %", "sea 25 %"]
    assert shown_colour(page, ".legend li:first-child .swatch") == "rgb(0, 0, 255)"
    slider = section.get_by_label("Strength of the colours")
    slider.focus()
    page.keyboard.press("Home")
    assert overlay.evaluate("image => image.style.opacity") == "0"
    page.keyboard.press("End")
    assert overlay.evaluate("image => image.style.opacity") == "1"


def test_the_codes_are_a_grid_that_arrow_keys_walk_through(page):
    give(page, upload())
    done(page)
    cells = page.get_by_role("gridcell")
    assert cells.all_inner_texts() == ["5", "5", "0", "3", "5", "5"]
    assert shown_colour(page, "[aria-label='row 2, column 1: code 3']") == "rgb(0, 255, 0)"
    boxes = [cells.nth(i).bounding_box() for i in range(6)]
    assert all(box["width"] == pytest.approx(box["height"], rel=0.1) for box in boxes)  # 3 x 2 patches of 48 x 32 px
    expect(page.get_by_text("Code 5 of 16")).to_be_visible()
    chosen = cells.evaluate_all("all => all.map(cell => cell.ariaSelected)")
    assert chosen == ["true", "true", "false", "false", "true", "true"]
    cells.first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight"):  # the last one leads out of the grid and is ignored
        page.keyboard.press(key)
    expect(page.get_by_text("Code 0 of 16")).to_be_visible()
    expect(page.locator(".detail")).to_contain_text("No patch of the 7 gallery images has this code.")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Home")
    expect(page.locator(".detail")).to_contain_text("once in this image, once in 7 images of the gallery.")
    strip = page.locator(".detail").get_by_alt_text("the 2 patches of the gallery nearest to code 3, nearest first")
    assert strip.evaluate("image => image.naturalWidth") == 17
    marked = page.locator(".marks > i").evaluate_all("all => all.map(mark => mark.className)")
    assert marked == ["", "", "", "on", "", ""]
    page.get_by_role("button", name="code 5").click()
    expect(page.get_by_text("Code 5 of 16")).to_be_visible()
    assert page.get_by_role("button", pressed=True).count() == 1


def test_a_patch_is_chosen_by_mouse_or_arrow_keys_and_all_are_compared_with_it(learnt):
    cells = learnt.get_by_role("gridcell")
    words = learnt.locator("#view-features [aria-live]")

    def shades():
        return cells.evaluate_all("all => all.map(cell => cell.style.backgroundColor)")

    expect(words).to_contain_text("the patch in row 2, column 2")  # the central one, of 2 x 3
    labels = cells.evaluate_all("all => all.map(cell => cell.ariaLabel)")
    cosines = ("0.00", "0.00", "0.80")
    assert labels[:3] == [f"row 1, column {c}: cosine {cosine}" for c, cosine in enumerate(cosines, 1)]
    dark, light = "rgb(6, 51, 46)", "rgb(244, 249, 248)"
    assert shades()[:2] == [light] * 2 and shades()[3:] == [dark] * 3
    cells.nth(4).focus()
    learnt.keyboard.press("ArrowUp")
    expect(words).to_contain_text("the patch in row 1, column 2")
    assert shades() == [dark, dark, shades()[2], light, light, light]
    learnt.keyboard.press("ArrowUp")  # leads out of the grid
    expect(words).to_contain_text("the patch in row 1, column 2")
    for where, column in (("the part of your image that the model saw", 3),
                          ("patches coloured by the principal components of their features", 1)):
        box = learnt.locator("#view-features").get_by_alt_text(where).bounding_box()
        learnt.mouse.click(box["x"] + box["width"] * (column - 0.5) / 3, box["y"] + box["height"] * 0.25)
        expect(words).to_contain_text(f"the patch in row 1, column {column}")
    chosen = cells.evaluate_all("all => all.map(cell => cell.ariaSelected)")
    assert chosen == ["true"] + ["false"] * 5
    marked = learnt.locator(".marks").evaluate_all("all => all.map(one => one.querySelectorAll('.on').length)")
    assert marked == [1, 1]
    assert " ".join(learnt.locator("#view-features .scale").first.inner_text().split()) == "0.00 1.00"


def test_images_of_patches_have_the_shape_of_what_the_model_saw(learnt):
    images = learnt.locator("#view-features img")
    shapes = images.evaluate_all("all => all.map(one => one.offsetWidth / one.offsetHeight)")
    assert len(shapes) == 4 and shapes == pytest.approx([1.5] * 4, rel=0.03)
    assert learnt.get_by_alt_text("attention of the class token, head 1").count() == 1
    assert learnt.locator("img:not([alt]), img[alt='']").count() == 0


def test_the_nearest_images_are_listed_with_their_names_and_cosines(learnt):
    items = learnt.get_by_role("list", name="nearest of 9 images, nearest first").get_by_role("listitem")
    assert [item.split() for item in items.all_inner_texts()] == [
        ["cats/1.png", "0.988"], ["no", "image", *HOSTILE.split(), "-0.200"]]
    assert items.first.get_by_role("img", name="cats/1.png").evaluate("image => image.naturalWidth") == 40


def test_without_similarities_the_page_says_why(browser, monkeypatch):
    monkeypatch.setattr(results, "MAX_PATCHES", 5)
    with Running(create_app(LEARNT[:1])) as server, faultless_page(browser, server) as page:
        give(page, upload())
        done(page)
        why = "With 2 x 3 patches, the similarities of all pairs are too many to send."
        expect(page.get_by_text(why)).to_be_visible()
        assert page.get_by_role("gridcell").count() == 0


def drop(page, script):
    transfer = page.evaluate_handle(f"() => {{ const transfer = new DataTransfer(); {script}; return transfer; }}")
    page.dispatch_event("#drop", "dragenter", {"dataTransfer": transfer})
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})


FILE = """const bytes = Uint8Array.from(atob(document.querySelector('body').dataset.bytes), c => c.charCodeAt(0));
          transfer.items.add(new File([bytes], 'dropped.png', {type: 'image/png'}))"""


def test_a_image_can_be_dropped_or_pasted(page):
    page.evaluate("bytes => { document.body.dataset.bytes = bytes; }",
                  base64.b64encode(upload()["buffer"]).decode("ascii"))
    drop(page, FILE)
    assert done(page).startswith("dropped.png")
    assert page.locator("section").count() == 3
    drop(page, "transfer.setData('text/plain', 'words')")
    expect(page.get_by_role("alert")).to_contain_text("It is not a file")
    page.evaluate(f"""() => {{ const transfer = new DataTransfer(); {FILE};
                      window.dispatchEvent(new ClipboardEvent('paste', {{clipboardData: transfer}})); }}""")
    expect(page.get_by_role("alert")).to_be_empty()
    done(page)


def test_how_the_image_was_read_is_said(page):
    exif = Image.Exif()
    exif[0x0112] = 6
    give(page, upload("JPEG", exif=exif))
    assert "its EXIF orientation is ignored, as in training" in done(page)
    seen = page.get_by_alt_text("your image", exact=True)
    assert seen.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [60, 40]


def test_errors_are_said_in_words_and_the_next_image_works(page):
    alert = page.get_by_role("alert")
    give(page, {"name": "letter.png", "mimeType": "image/png", "buffer": b"Dear Sir"})
    expect(alert).to_contain_text("The image: Received 8 bytes that are no readable image.")
    expect(page.locator("#status")).to_have_text("No result.")
    give(page, {"name": "huge.png", "mimeType": "image/png", "buffer": b"x" * 200_001})
    expect(alert).to_contain_text("huge.png: It has 200,001 bytes.")
    give(page, upload())
    done(page)
    expect(alert).to_be_empty()


def test_a_server_that_is_gone_is_said(browser):
    context = browser.new_context()
    page = context.new_page()
    with Running(create_app(VIEWS)) as running:
        page.goto(running.address)
        expect(page.locator("#limits")).not_to_be_empty()
    give(page, upload())
    expect(page.get_by_role("alert")).to_contain_text("The server: It does not respond.")
    context.close()


def test_while_it_computes_the_page_says_so_and_a_new_image_takes_over(browser):
    gate = threading.Event()

    def slow(image):
        assert image.width == 50 or gate.wait(20)
        return show_classes(image)

    context = browser.new_context()
    page = context.new_page()
    with Running(create_app([View("classes", "Classes", "Slowly.", slow)])) as running:
        page.goto(running.address)
        give(page, {**upload(), "name": "first.png"})
        expect(page.locator("#status")).to_have_text("Computing: classes ...")
        expect(page.get_by_role("progressbar", name="working")).to_be_visible()
        give(page, {**upload(size=(50, 40)), "name": "second.png"})
        gate.set()
        assert done(page).startswith("second.png")
        expect(page.get_by_role("progressbar", name="working")).to_be_hidden()
        assert page.locator("section").count() == 1
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_light_and_dark_and_nothing_is_wider_than_a_phone(browser, server, scheme):
    context = browser.new_context(color_scheme=scheme, viewport={"width": 360, "height": 640})
    page = context.new_page()
    page.goto(server.address)
    give(page, upload(size=(200, 30)))
    done(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    ground, dim, link = page.evaluate("""() => ['body', '.muted', 'header a'].map((where, i) => {
        const style = getComputedStyle(document.querySelector(where));
        return i ? style.color : style.backgroundColor; })""")
    assert (luminance(ground) < 0.1) == (scheme == "dark")
    for colour in (dim, link):
        low, high = sorted((luminance(colour), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) > 4.5  # WCAG AA
    context.close()


def luminance(colour: str) -> float:
    """Relative luminance of rgb(r, g, b) as WCAG defines it."""
    levels = np.array([int(level) for level in re.findall(r"\d+", colour)[:3]]) / 255
    return float(np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
                 @ (0.2126, 0.7152, 0.0722))


def test_everything_has_a_name_for_a_screen_reader(page):
    give(page, upload())
    done(page)
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    assert page.locator("html").get_attribute("lang") == "en"
    for section in page.locator("section").all():
        assert page.locator(f"#{section.get_attribute('aria-labelledby')}").count() == 1
    page.locator("body").press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.id") == "file"
    assert page.get_by_label("Drop an image here").get_attribute("id") == "file"


def test_the_api_page_works_without_another_server(page, server):
    page.goto(server.address + "docs")
    expect(page.get_by_text("/api/views/segmentation")).to_be_visible()
    page.get_by_text("/api/views/segmentation").click()
    expect(page.get_by_text("Too many bytes or pixels")).to_be_visible()
