"""Test the page to play with in a real browser, driven by the WebDriver protocol."""

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import cv2
import pytest
import torch

from tv_mixaug import CutMix, Cutout, functional
from tv_mixaug.engine import sampling as draws
from tv_mixaug.extras import flowers

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "guide" / "play.md").read_text("utf-8")
SCRIPT = (DOCS / "_static" / "play.js").read_text("utf-8")
STYLE = (DOCS / "_static" / "site.css").read_text("utf-8")
SIZE = 192
DOWN, RIGHT, END, HOME = "\ue015", "\ue014", "\ue010", "\ue011"  # keys
MARGIN = 32
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """A headless Chromium with one page."""

    def __init__(self, chromium, port):
        self.base = f"http://127.0.0.1:{port}/session"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"args": [*arguments, "--force-device-scale-factor=1"], "binary": chromium}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        found = self.ask("", {"capabilities": {"alwaysMatch": wanted}})
        self.base += "/" + found["sessionId"]

    def ask(self, path, body=None, method=None):
        """Send a command and return its value."""
        data = None if body is None else json.dumps(body).encode()
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.base + path, data, head, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # this machine
            return json.load(answer)["value"]

    def resize(self, width, height=900):
        """Set the size of the screen that the page sees."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": size}
        self.ask("/goog/cdp/execute", command)

    def run(self, script, *arguments):
        """Run a script in the page and return what it returns."""
        return self.ask("/execute/sync", {"script": script, "args": arguments})

    def find(self, selector):
        """Return the number of an element."""
        return self.ask("/element", {"using": "css selector", "value": selector})[ELEMENT]

    def read(self, selector):
        """Return the text of an element."""
        return self.ask(f"/element/{self.find(selector)}/text")

    def press(self, selector, keys):
        """Press keys on an element."""
        self.ask(f"/element/{self.find(selector)}/value", {"text": keys})

    def click(self, selector):
        """Click on an element."""
        self.ask(f"/element/{self.find(selector)}/click", {})

    def pull(self, start, stop, by="mouse"):
        """Pull from one place of the picture, in its pixels, to another, by mouse or touch."""
        element = {ELEMENT: self.find("#play-picture")}
        side = self.run("return document.querySelector('#play-picture').clientWidth")

        def move(place):
            scale = side / (SIZE + 2 * MARGIN)
            x, y = ((pixel + MARGIN) * scale - side / 2 for pixel in place)
            return {"type": "pointerMove", "origin": element, "x": round(x), "y": round(y)}

        steps = [move(start), {"type": "pointerDown", "button": 0}]
        steps += [move(stop), {"type": "pointerUp", "button": 0}]
        pointer = {"type": "pointer", "id": by, "parameters": {"pointerType": by}}
        self.ask("/actions", {"actions": [{**pointer, "actions": steps}]})

    def weights(self):
        """Return the label weights of rose and tulip that are shown."""
        return [float(number) for number in re.findall(r"[\d.]+", self.read("#play-label"))]

    def box(self):
        """Return the box in the call that is shown."""
        shown = re.search(r"\[\[(.*?)\]\]", self.read("#play-call"))[1]
        return [int(number) for number in shown.split(", ")]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The page as a file that needs nothing else: markup, style, script and the two flowers."""
    html = re.search(r"^```\{raw\} html\n(.*?)^```$", PAGE, re.M | re.S)[1]
    images = ""
    for flower in flowers.draw_flowers(2, SIZE)[0]:
        data = cv2.imencode(".png", flower.permute(1, 2, 0).numpy()[..., ::-1])[1].tobytes()
        images += f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}">'
    tag = '<script src="../_static/play.js"></script>'
    assert tag in html
    html = html.replace(tag, f"<script>{SCRIPT}</script>")
    head = f'<!doctype html><meta charset="utf-8"><title>Play</title><style>{STYLE}</style>'
    file = tmp_path_factory.mktemp("play") / "play.html"
    file.write_text(f'{head}<div class="play-sources">{images}</div>{html}', "utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def chrome():
    """A browser for all tests of this file."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium or chromedriver is not installed")
    with subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            started = next(
                line for line in process.stdout if "on port" in line and "success" in line
            )
            found = Browser(chromium, re.search(r"on port (\d+)", started)[1])
            yield found
            found.ask("", method="DELETE")
        finally:
            process.terminate()


@pytest.fixture
def browser(chrome, site):
    """The page, newly opened on a desktop."""
    chrome.resize(1440)
    chrome.ask("/url", {"url": site})
    chrome.run("""return new Promise((done) => {
        const wait = () => document.querySelector("#play").hidden ? setTimeout(wait, 20) : done();
        wait();
    })""")
    yield chrome
    said = chrome.ask("/se/log", {"type": "browser"})
    assert [one["message"] for one in said if one["level"] == "SEVERE"] == []


def draw_by_library(count):
    """Return what the library makes of drawn lam and centres, and these."""
    images, labels = torch.zeros(count, 1, SIZE, SIZE), torch.arange(count)
    transform = CutMix(num_classes=count, mode="sample")
    _, plan = transform.mix((images, labels), generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    draws.sample_partner(count, "roll", labels, generator)
    lam = draws.sample_lam(1.0, count, generator)
    centres = draws.sample_uniform((count, 1, 2), generator)[:, 0]
    return plan, lam.tolist(), centres.tolist()


def test_fifty_boxes_and_labels_are_those_of_the_library(browser):
    """From the same drawn numbers the page places, clips and counts as CutMix does."""
    plan, lam, centres = draw_by_library(50)
    script = """
        return arguments[0].map(([lam, [v, u]]) => {
            const state = {method: "CutMix", lam, u, v};
            return [clipBox(wholeBox(state)), ownWeight(state)];
        });"""
    found = browser.run(script, list(zip(lam, centres, strict=True)))
    assert [box for box, _ in found] == plan.boxes[:, 0].tolist()
    assert torch.allclose(torch.tensor([weight for _, weight in found]), plan.lam, atol=1e-7)
    assert len({tuple(box) for box, _ in found}) == 50


@pytest.mark.parametrize("hole", [0.05, 0.335, 0.5, 1.0])
def test_holes_are_those_of_the_library(browser, hole):
    """A hole of a share of the side has the pixels that Cutout gives it, halves rounded alike."""
    _, plan = Cutout(hole).mix(
        (torch.zeros(20, 1, SIZE, SIZE),), generator=torch.Generator().manual_seed(2)
    )
    centres = draws.sample_uniform((20, 1, 2), torch.Generator().manual_seed(2))[:, 0].tolist()
    script = """return arguments[1].map(([v, u]) =>
        clipBox(wholeBox({method: "Cutout", hole: arguments[0], u, v})));"""
    script = script.replace("arguments[0]", str(hole)).replace("arguments[1]", "arguments[0]")
    assert browser.run(script, centres) == plan.boxes[:, 0].tolist()


def test_moving_the_slider_moves_the_label(browser):
    """For Mixup the label is lam itself, and the call to copy has it."""
    browser.click("[value=Mixup]")
    assert browser.weights() == [0.6, 0.4]
    browser.press("#play-lam", RIGHT)
    assert browser.weights() == [0.61, 0.39]
    browser.press("#play-lam", END)
    assert browser.weights() == [1, 0]
    browser.press("#play-lam", HOME)
    assert browser.weights() == [0, 1]
    assert "torch.tensor([0, 0])" in browser.read("#play-call")


def test_a_box_pulled_over_the_border_is_clipped(browser):
    """Pulled to the corner, a quarter of the box is left, and the call to copy makes this mix."""
    before = browser.weights()
    browser.pull((100, 70), (182, 172))
    images = flowers.draw_flowers(2, SIZE)[0] / 255
    call, box = browser.read("#play-call").splitlines()[-1], browser.box()
    assert box[2:] == [SIZE, SIZE]
    assert browser.weights()[0] > before[0]

    mixed = eval(call, {"functional": functional, "torch": torch, "images": images})  # noqa: S307
    pasted = (mixed[0] == images[1]).all(0).float().mean()
    share = (box[2] - box[0]) * (box[3] - box[1]) / SIZE**2
    assert abs(pasted - share) < 0.01  # a few pixels of both flowers are alike
    assert browser.weights()[1] == pytest.approx(share, abs=0.005)


def test_the_corner_and_the_keys_move_the_box(browser):
    """Pulling the corner inwards gives the rose more; arrow keys move the box by four pixels."""
    box, before = browser.box(), browser.weights()[0]
    browser.pull(box[2:], (box[2] - 20, box[3] - 20))
    assert browser.weights()[0] > before + 0.1
    box = browser.box()
    browser.press("#play-picture", DOWN)
    assert browser.box() == [box[0], box[1] + 4, box[2], box[3] + 4]


def test_a_finger_pulls_the_box_on_a_phone(browser):
    """On a small screen a touch moves the box, and the page does not scroll away under it."""
    browser.resize(390, 500)
    browser.run("document.querySelector('#play-picture').scrollIntoView()")
    before, place = browser.box(), browser.run("return scrollY")
    browser.pull((130, 60), (100, 120), by="touch")
    after = browser.box()
    assert browser.run("return scrollY") == place
    assert before[0] - after[0] == pytest.approx(30, abs=2)
    assert after[3] - before[3] == pytest.approx(60, abs=2)


def pixels(browser, places):
    """Return the colours of the canvas at places of the picture."""
    script = """
        const canvas = document.querySelector("#play-picture"), scale = canvas.width / (192 + 64);
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return arguments[0].map(([x, y]) => {
            const [column, row] = [x, y].map((pixel) => Math.floor((pixel + 32.5) * scale));
            return [0, 1, 2].map((channel) => data[4 * (row * canvas.width + column) + channel]);
        });"""
    return torch.tensor(browser.run(script, places)).float()


def test_the_picture_shows_what_the_label_says(browser):
    """Inside the box the canvas has the partner's pixels, outside the own ones; Mixup blends."""
    rose, tulip = flowers.draw_flowers(2, SIZE)[0].float()
    box = browser.box()
    inside = [(box[0] + 12 * i, box[1] + 11 * i) for i in range(1, 8)]
    outside = [(8 * i, 180) for i in range(1, 9)]

    def at(image, places):
        return torch.stack([image[:, y, x] for x, y in places])

    assert (pixels(browser, inside) - at(tulip, inside)).abs().mean() < 8  # it is drawn scaled
    assert (pixels(browser, outside) - at(rose, outside)).abs().mean() < 8
    browser.click("[value=Mixup]")
    blend = 0.6 * rose + 0.4 * tulip
    assert (pixels(browser, inside) - at(blend, inside)).abs().mean() < 8
    browser.click("[value=Cutout]")
    assert browser.weights() == [1, 0]


def test_the_mean_pasted_share_is_the_known_one(browser):
    """With alpha 1 it is 1/2 - 1/5 + 1/48 = 0.321, and for others what the library draws."""
    script = """return arguments[0].map((alpha) =>
        countAreas({method: "CutMix", lam: 0.5, u: 0, v: 0}, makeBeta(alpha)).mean);"""
    alphas = [1.0, 0.1, 0.3, 4.0, 10.0]
    found = browser.run(script, alphas)
    assert found[0] == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.001)
    for alpha, mean in zip(alphas, found, strict=True):
        lam = torch.from_numpy(draws.sample_lam(alpha, 20_000, torch.Generator().manual_seed(1)))
        sides = (1 - lam).sqrt().mul(SIZE).round().long()[:, None].expand(-1, 2).numpy()
        boxes = draws.sample_boxes(sides, (SIZE, SIZE), torch.Generator().manual_seed(2))
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / SIZE**2
        assert mean == pytest.approx(areas.mean(), abs=0.01)


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_fits_the_screen(browser, width):
    """On a phone and on a desktop nothing sticks out, for each method."""
    browser.resize(width)
    for method in ("Mixup", "CutMix", "Cutout"):
        browser.click(f"[value={method}]")
        wide = browser.run("return document.documentElement.scrollWidth")
        assert wide <= width
        side = browser.run("return document.querySelector('#play-picture').clientWidth")
        assert side > 280


def test_nothing_is_loaded_from_elsewhere():
    """Page and script name no address, so that they work without a network."""
    assert not re.search(r"https?:|//\w+\.|import\(|fetch\(", PAGE + SCRIPT)
