"""The documentation's page "Play with lam" in a headless Chromium, by the WebDriver protocol."""

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from contextlib import contextmanager

import cv2
import pytest
import torch
from helpers.scripts import DOCS

from tv_mixaug.extras import flowers

PAGE = (DOCS / "guide" / "play.md").read_text("utf-8")
SCRIPT = (DOCS / "_static" / "play.js").read_text("utf-8")
STYLE = (DOCS / "_static" / "site.css").read_text("utf-8")
SIZE, MARGIN = 192, 32
WIDTH = SIZE + 2 * MARGIN  # of the canvas, in pixels of the picture
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


class Play:
    """The page in a browser."""

    def __init__(self, chromium, port, address):
        self.base, self.address = f"http://127.0.0.1:{port}/session", address
        options = {"args": [*ARGUMENTS, "--force-device-scale-factor=1"], "binary": chromium}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.base += "/" + self.ask("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def ask(self, path, body=None, method=None):
        """Send a command and return its value."""
        data = None if body is None else json.dumps(body).encode()
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.base + path, data, head, method=method)  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # localhost
            return json.load(answer)["value"]

    def resize(self, width, height=900):
        """Set the size of the screen."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": size}
        self.ask("/goog/cdp/execute", command)

    def open_page(self):
        """Open the page on a desktop screen and wait until its script has started."""
        self.resize(1440)
        self.ask("/url", {"url": self.address})
        self.run("""return new Promise((done) => {
            const page = document.querySelector("#play");
            const wait = () => page.hidden ? setTimeout(wait, 20) : done();
            wait();
        })""")

    def errors(self):
        """Return the errors that the page has logged."""
        entries = self.ask("/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def run(self, script, *arguments):
        """Run a script in the page and return its result."""
        return self.ask("/execute/sync", {"script": script, "args": arguments})

    def find(self, selector):
        """Return the reference of an element."""
        return self.ask("/element", {"using": "css selector", "value": selector})

    def act(self, selector, action, body=None):
        """Send a command to an element."""
        (reference,) = self.find(selector).values()
        return self.ask(f"/element/{reference}/{action}", body)

    def choose(self, method):
        """Choose a method."""
        self.act(f"[value={method}]", "click", {})

    def press(self, selector, keys):
        """Press keys on an element."""
        self.act(selector, "value", {"text": keys})

    def drag(self, start, stop, by="mouse"):
        """Drag from one pixel of the picture to another, by mouse or touch."""
        picture = self.find("#play-picture")
        scale = self.run("return document.querySelector('#play-picture').clientWidth") / WIDTH

        def move(end):
            x, y = (round((pixel + MARGIN - WIDTH / 2) * scale) for pixel in end)
            return {"type": "pointerMove", "origin": picture, "x": x, "y": y}

        steps = [move(start), {"type": "pointerDown", "button": 0}]
        steps += [move(stop), {"type": "pointerUp", "button": 0}]
        pointer = {"type": "pointer", "id": by, "parameters": {"pointerType": by}}
        self.ask("/actions", {"actions": [{**pointer, "actions": steps}]})

    def weights(self):
        """Return the displayed label weights of rose and tulip."""
        text = self.act("#play-label", "text")
        return [float(number) for number in re.findall(r"[\d.]+", text)]

    def call(self):
        """Return the displayed code."""
        return self.act("#play-call", "text")

    def box(self):
        """Return the box in the displayed code."""
        return [int(number) for number in re.search(r"\[\[(.*?)\]\]", self.call())[1].split(", ")]

    def colours(self, places):
        """Return the colours of the canvas at pixels of the picture."""
        script = """
            const canvas = document.querySelector("#play-picture");
            const scale = canvas.width / (192 + 64), {width, height} = canvas;
            const {data} = canvas.getContext("2d").getImageData(0, 0, width, height);
            return arguments[0].map(([x, y]) => {
                const [column, row] = [x, y].map((at) => Math.floor((at + 32.5) * scale));
                return [0, 1, 2].map((channel) => data[4 * (row * width + column) + channel]);
            });"""
        return torch.tensor(self.run(script, places)).float()


@contextmanager
def start_play(folder):
    """Write the page into one file, and start a browser; skip if there is none."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium or chromedriver is not installed")
    html = re.search(r"^```\{raw\} html\n(.*?)^```$", PAGE, re.M | re.S)[1]
    images = ""
    for flower in flowers.draw_flowers(2, SIZE)[0]:
        data = cv2.imencode(".png", flower.permute(1, 2, 0).numpy()[..., ::-1])[1].tobytes()
        images += f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}">'
    tag = '<script src="../_static/play.js"></script>'
    assert tag in html
    html = html.replace(tag, f"<script>{SCRIPT}</script>")
    head = f'<!doctype html><meta charset="utf-8"><title>Play</title><style>{STYLE}</style>'
    file = folder / "play.html"
    file.write_text(f'{head}<div class="play-sources">{images}</div>{html}', "utf-8")
    with subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            lines = (line for line in process.stdout if "on port" in line and "success" in line)
            browser = Play(chromium, re.search(r"on port (\d+)", next(lines))[1], file.as_uri())
            yield browser
            browser.ask("", method="DELETE")
        finally:
            process.terminate()
