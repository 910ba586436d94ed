"""The page "Play with lam" computes what the package computes, in a headless browser."""

import re

import pytest
import torch
from helpers.coded import seeded
from helpers.play import PAGE, SCRIPT, SIZE, start_play

from tv_mixaug import CutMix, Cutout, functional
from tv_mixaug.engine import sampling
from tv_mixaug.extras import flowers

DOWN, RIGHT, END, HOME = "\ue015", "\ue014", "\ue010", "\ue011"  # keys of the WebDriver protocol


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    with start_play(tmp_path_factory.mktemp("play")) as found:
        yield found


@pytest.fixture
def browser(chrome):
    """Open the page on a desktop screen; the page must log no errors."""
    chrome.open_page()
    yield chrome
    assert chrome.errors() == []


def test_boxes_and_labels_of_cutmix_match_the_package(browser):
    """For the same 50 lams and centres the page and CutMix compute the same boxes and labels."""
    batch = torch.zeros(50, 1, SIZE, SIZE), torch.arange(50)
    plan = CutMix(num_classes=50, mode="sample").draw_plan(batch, generator=seeded(5))
    generator = seeded(5)
    sampling.sample_partner(50, "roll", None, generator)
    lam = sampling.sample_lam(1.0, 50, generator)
    v, u = sampling.sample_uniform((2, 50), generator)
    script = """return arguments[0].map(([lam, u, v]) => {
        const state = {method: "CutMix", lam, u, v};
        return [clipBox(wholeBox(state)), originalWeight(state)];
    });"""
    rows = list(zip(lam.tolist(), u.tolist(), v.tolist(), strict=True))
    boxes, weights = zip(*browser.run(script, rows), strict=True)
    assert list(boxes) == plan.boxes[:, 0].tolist()
    assert torch.allclose(torch.tensor(weights), plan.lam, atol=1e-7)
    assert len(set(map(tuple, boxes))) == 50


@pytest.mark.parametrize("hole", [0.05, 0.335, 0.5, 1.0])
def test_holes_of_cutout_match_the_package(browser, hole):
    """For the same centres the page and Cutout compute the same holes."""
    plan = Cutout(hole).draw_plan(torch.zeros(20, 1, SIZE, SIZE), generator=seeded(2))
    v, u = sampling.sample_uniform((2, 20), seeded(2))
    script = """return arguments[0].map(([hole, u, v]) =>
        clipBox(wholeBox({method: "Cutout", hole, u, v})));"""
    rows = [(hole, *centre) for centre in zip(u.tolist(), v.tolist(), strict=True)]
    assert browser.run(script, rows) == plan.boxes[:, 0].tolist()


def test_the_lam_slider_sets_the_label_of_mixup(browser):
    """The label of Mixup is lam, and the displayed code contains it."""
    browser.choose("Mixup")
    for keys, weights in (("", [0.6, 0.4]), (RIGHT, [0.61, 0.39]), (END, [1, 0]), (HOME, [0, 1])):
        browser.press("#play-lam", keys)
        assert browser.weights() == weights
    assert "torch.tensor([0, 0])" in browser.call()


def test_a_box_dragged_over_the_border_is_clipped(browser):
    """The box ends at the border, the label counts its pixels, and the code makes this mix."""
    before, images = browser.weights(), flowers.draw_flowers(2, SIZE)[0] / 255
    browser.drag((100, 70), (182, 172))
    (left, top, *corner), weights = browser.box(), browser.weights()
    assert corner == [SIZE, SIZE]
    assert weights[0] > before[0]
    names = {"functional": functional, "torch": torch, "images": images}
    mixed = eval(browser.call().splitlines()[-1], names)  # noqa: S307
    pasted = (mixed[0] == images[1]).all(0).float().mean()
    share = (SIZE - left) * (SIZE - top) / SIZE**2
    assert abs(pasted - share) < 0.01  # a few pixels of both flowers have the same colour
    assert weights[1] == pytest.approx(share, abs=0.005)


def test_the_corner_resizes_and_the_keys_move_the_box(browser):
    """Dragging the corner inwards raises the rose's weight; an arrow key moves by four pixels."""
    (*_, right, bottom), before = browser.box(), browser.weights()[0]
    browser.drag((right, bottom), (right - 20, bottom - 20))
    assert browser.weights()[0] > before + 0.1
    left, top, right, bottom = browser.box()
    browser.press("#play-picture", DOWN)
    assert browser.box() == [left, top + 4, right, bottom + 4]


def test_a_touch_moves_the_box_on_a_phone(browser):
    """A touch moves the box on a small screen and does not scroll the page."""
    browser.resize(390, 500)
    browser.run("document.querySelector('#play-picture').scrollIntoView()")
    before, scroll = browser.box(), browser.run("return scrollY")
    browser.drag((130, 60), (100, 120), by="touch")
    after = browser.box()
    assert browser.run("return scrollY") == scroll
    assert before[0] - after[0] == pytest.approx(30, abs=2)
    assert after[3] - before[3] == pytest.approx(60, abs=2)


def test_the_canvas_shows_the_mix(browser):
    """Pixels in the box are the partner's, pixels outside are the original's; Mixup blends both."""
    rose, tulip = flowers.draw_flowers(2, SIZE)[0].float()
    box = browser.box()
    inside = [(box[0] + 12 * i, box[1] + 11 * i) for i in range(1, 8)]
    outside = [(8 * i, 180) for i in range(1, 9)]

    def check(image, places):
        wanted = torch.stack([image[:, y, x] for x, y in places])
        assert (browser.colours(places) - wanted).abs().mean() < 8  # the canvas is scaled

    check(tulip, inside)
    check(rose, outside)
    browser.choose("Mixup")
    check(0.6 * rose + 0.4 * tulip, inside)
    browser.choose("Cutout")
    assert browser.weights() == [1, 0]


def test_the_mean_pasted_share_is_correct(browser):
    """It is 1/2 - 1/5 + 1/48 = 0.321 for alpha 1, and that of the package's samples for others."""
    script = """return arguments[0].map((alpha) =>
        countAreas({method: "CutMix", lam: 0.5, u: 0, v: 0}, makeBeta(alpha)).mean);"""
    alphas = [1.0, 0.1, 0.3, 4.0, 10.0]
    found = browser.run(script, alphas)
    assert found[0] == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.001)
    for alpha, mean in zip(alphas, found, strict=True):
        lam = sampling.sample_lam(alpha, 20_000, seeded(1))
        side = ((1 - lam) ** 0.5 * SIZE).round()
        boxes = sampling.sample_boxes((side, side), (SIZE, SIZE), side.shape, seeded(2))
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / SIZE**2
        assert mean == pytest.approx(areas.mean(), abs=0.01)


@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_fits_the_screen(browser, width):
    """No element is wider than the screen of a phone or a desktop."""
    browser.resize(width)
    for method in ("Mixup", "CutMix", "Cutout"):
        browser.choose(method)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run("return document.querySelector('#play-picture').clientWidth") > 280


def test_the_page_loads_nothing_from_the_network():
    """Page and script contain no address."""
    assert not re.search(r"https?:|//\w+\.|import\(|fetch\(", PAGE + SCRIPT)
