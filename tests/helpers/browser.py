"""A headless Chromium, controlled by the WebDriver protocol."""

import json
import re
import shutil
import subprocess
import urllib.request
from contextlib import contextmanager

import pytest

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
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  # localhost
            return json.load(answer)["value"]

    def resize(self, width, height=900):
        """Set the size of the screen."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": size}
        self.ask("/goog/cdp/execute", command)

    def open(self, address):
        """Open a page on a desktop screen."""
        self.resize(1440)
        self.ask("/url", {"url": address})

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
        return self.ask(f"/element/{self.find(selector)[ELEMENT]}/{action}", body)

    def press(self, selector, keys):
        """Press keys on an element."""
        self.act(selector, "value", {"text": keys})

    def drag(self, element, start, stop, by="mouse"):
        """Drag between two places by mouse or touch, in pixels from the element's centre."""

        def move(place):
            x, y = map(round, place)
            return {"type": "pointerMove", "origin": element, "x": x, "y": y}

        steps = [move(start), {"type": "pointerDown", "button": 0}]
        steps += [move(stop), {"type": "pointerUp", "button": 0}]
        pointer = {"type": "pointer", "id": by, "parameters": {"pointerType": by}}
        self.ask("/actions", {"actions": [{**pointer, "actions": steps}]})


@contextmanager
def start_browser(kind=Browser):
    """Start Chromium and its driver, or skip the test if they are not installed."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("chromium or chromedriver is not installed")
    with subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            lines = (line for line in process.stdout if "on port" in line and "success" in line)
            found = kind(chromium, re.search(r"on port (\d+)", next(lines))[1])
            yield found
            found.ask("", method="DELETE")
        finally:
            process.terminate()
