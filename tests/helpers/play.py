"""The documentation's page "Play with lam" in a browser."""

import base64
import re
from contextlib import contextmanager

import cv2
import torch
from helpers.browser import Browser, start_browser
from helpers.scripts import DOCS

from tv_mixaug.extras import flowers

PAGE = (DOCS / "guide" / "play.md").read_text("utf-8")
SCRIPT = (DOCS / "_static" / "play.js").read_text("utf-8")
STYLE = (DOCS / "_static" / "site.css").read_text("utf-8")
SIZE, MARGIN = 192, 32
WIDTH = SIZE + 2 * MARGIN  # of the canvas, in pixels of the picture


class Play(Browser):
    """The page in a browser."""

    address = ""

    def open_page(self):
        """Open the page and wait until its script has started."""
        self.open(self.address)
        self.run("""return new Promise((done) => {
            const page = document.querySelector("#play");
            const wait = () => page.hidden ? setTimeout(wait, 20) : done();
            wait();
        })""")

    def choose(self, method):
        """Choose a method."""
        self.act(f"[value={method}]", "click", {})

    def drag(self, start, stop, by="mouse"):
        """Drag from one pixel of the picture to another."""
        scale = self.run("return document.querySelector('#play-picture').clientWidth") / WIDTH
        ends = ([(pixel + MARGIN - WIDTH / 2) * scale for pixel in end] for end in (start, stop))
        super().drag(self.find("#play-picture"), *ends, by)

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
    """Write the page with its style, script and flowers into one file, and start a browser."""
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
    with start_browser(Play) as browser:
        browser.address = file.as_uri()
        yield browser
