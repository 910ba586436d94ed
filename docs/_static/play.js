/* The page guide/play, in plain JavaScript without dependencies. */
"use strict";

// --- The computations of tv_mixaug --------------------------------------------------------------

const SIZE = 192; // pixels, both sides of both pictures

/** Round to the nearest integer, halves to the even one, as Python's round does. */
function rint(x) {
  const below = Math.floor(x), rest = x - below;
  if (rest === 0.5) return below + (below % 2);
  return rest < 0.5 ? below : below + 1;
}

/** Place a square of `side` pixels with its centre at (u, v), shares of the picture in [0, 1). */
function placeBox(side, u, v) {
  const x = Math.floor(u * SIZE - (side / 2 - 0.5)), y = Math.floor(v * SIZE - (side / 2 - 0.5));
  return [x, y, x + side, y + side];
}

function clipBox(box) {
  return box.map((value) => Math.min(Math.max(value, 0), SIZE));
}

/** Count the pixels of a box. */
function area([x1, y1, x2, y2]) {
  return (x2 - x1) * (y2 - y1);
}

/** Return the side of CutMix's box for a lam. */
function cutSide(lam) {
  return Math.floor(Math.sqrt(1 - lam) * SIZE + 0.5);
}

/** Return the label weight of the original: the mean of M, counted in whole pixels. */
function originalWeight(state) {
  if (state.method === "Mixup") return state.lam;
  return state.method === "Cutout" ? 1 : 1 - area(clipBox(wholeBox(state))) / (SIZE * SIZE);
}

function wholeBox(state) {
  const side = state.method === "Cutout" ? rint(state.hole * SIZE) : cutSide(state.lam);
  return placeBox(side, state.u, state.v);
}

/** Return the density and the quantiles of Beta(alpha, alpha). */
function makeBeta(alpha) {
  // With x = 1 / (1 + exp(-z)) the density is (x (1 - x)) ** alpha dz, smooth for every alpha > 0.
  const steps = 4000, end = 5 + 25 / alpha, dz = (2 * end) / steps;
  const xs = [], sums = [0];
  for (let i = 0; i <= steps; i++) xs.push(1 / (1 + Math.exp(end - i * dz)));
  for (let i = 0; i < steps; i++) {
    const middle = 1 / (1 + Math.exp(end - (i + 0.5) * dz));
    sums.push(sums[i] + (middle * (1 - middle)) ** alpha * dz);
  }
  const total = sums[steps];
  return {
    density: (x) => (x * (1 - x)) ** (alpha - 1) / total,
    quantile(q) {
      let low = 0, high = steps;
      while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (sums[middle] <= q * total) low = middle;
        else high = middle;
      }
      const part = (q * total - sums[low]) / (sums[high] - sums[low] || 1);
      return xs[low] + part * (xs[high] - xs[low]);
    },
  };
}

/** Return a histogram of the pasted or erased share with 20 bins, and the mean share. */
function countAreas(state, beta) {
  const bins = new Array(20).fill(0), draws = 20000;
  let sum = 0;
  for (let i = 1; i <= draws; i++) {
    // Evenly spread points give a mean with less variance than random points.
    const [q, u, v] = [0.8191725134, 0.6710436067, 0.5497004779].map((step) => (i * step) % 1);
    const drawn = { ...state, u, v, lam: state.method === "Cutout" ? 0 : beta.quantile(q) };
    const cut = area(clipBox(wholeBox(drawn))) / SIZE ** 2;
    const share = state.method === "Mixup" ? 1 - drawn.lam : cut;
    bins[Math.min(19, Math.floor(share * 20))] += 1 / draws;
    sum += share;
  }
  return { bins, mean: sum / draws };
}

/** Return the code of the transform, and of the mix that is shown. */
function writeCall(state) {
  const boxes = `torch.tensor([[${clipBox(wholeBox(state)).join(", ")}]] * 2)`;
  const partner = "torch.tensor([1, 0])", alpha = Number(state.alpha.toPrecision(2));
  const lines = {
    Mixup: [
      `Mixup(alpha=${alpha}, num_classes=2)`,
      `functional.mixup(images, ${partner}, torch.tensor([${state.lam}, ${state.lam}]))`,
    ],
    CutMix: [
      `CutMix(alpha=${alpha}, num_classes=2)`,
      `functional.cutmix(images, ${partner}, ${boxes})`,
    ],
    Cutout: [`Cutout(${state.hole}, num_classes=2)`, `functional.cutout(images, ${boxes})`],
  };
  return lines[state.method].join("\n# this mix, of both pictures:\n");
}

// --- The page ----------------------------------------------------------------------------------

function startPlay(form, original, partner) {
  const state = { method: "CutMix", alpha: 1, lam: 0.6, hole: 0.5, u: 0.8, v: 0.3 };
  const MARGIN = 32; // around the picture, to show what is clipped
  const find = (name) => form.querySelector(`#play-${name}`);
  const picture = find("picture"), sliders = ["alpha", "lam", "hole"].map(find);
  const style = (name) => getComputedStyle(form).getPropertyValue(`--play-${name}`).trim();
  let beta = makeBeta(1), areas = null, drag = null;

  /** Return a cleared context in which the canvas is `width` units wide. */
  function prepare(canvas, width) {
    const { clientWidth, clientHeight } = canvas, ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(clientWidth * ratio);
    canvas.height = Math.round(clientHeight * ratio);
    const context = canvas.getContext("2d"), scale = canvas.width / (width || clientWidth);
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.font = "11px sans-serif";
    return context;
  }

  function drawPicture() {
    const context = prepare(picture, SIZE + 2 * MARGIN);
    context.translate(MARGIN, MARGIN);
    context.drawImage(original, 0, 0, SIZE, SIZE);
    if (state.method === "Mixup") {
      context.globalAlpha = 1 - state.lam;
      context.drawImage(partner, 0, 0, SIZE, SIZE);
      return;
    }
    const whole = wholeBox(state), clipped = clipBox(whole);
    const rectangle = ([x1, y1, x2, y2]) => [x1, y1, x2 - x1, y2 - y1];
    if (area(clipped) && state.method === "CutMix") {
      context.drawImage(partner, ...rectangle(clipped), ...rectangle(clipped));
    } else {
      context.fillRect(...rectangle(clipped));
    }
    context.strokeStyle = "white"; // under the dashes, which are visible on every flower then
    context.strokeRect(...rectangle(clipped));
    context.strokeStyle = context.fillStyle = style("line");
    context.setLineDash([4, 3]);
    context.strokeRect(...rectangle(whole));
    const [x, y] = corner();
    context.fillRect(x - 5, y - 5, 10, 10);
  }

  function drawMask() {
    const context = prepare(find("mask"), SIZE);
    const grey = state.method === "Mixup" ? Math.round(255 * state.lam) : 255;
    context.fillStyle = `rgb(${grey}, ${grey}, ${grey})`;
    context.fillRect(0, 0, SIZE, SIZE);
    context.fillStyle = "black";
    const [x1, y1, x2, y2] = clipBox(wholeBox(state));
    if (state.method !== "Mixup") context.fillRect(x1, y1, x2 - x1, y2 - y1);
  }

  /** Draw the axis of a chart over [0, 1]; return its context and its scales. */
  function drawAxis(canvas, highest) {
    const context = prepare(canvas), left = 8, bottom = canvas.clientHeight - 18;
    const x = (value) => left + value * (canvas.clientWidth - 2 * left);
    const y = (value) => bottom - (Math.min(value, highest) / highest) * (bottom - 16);
    context.fillStyle = context.strokeStyle = style("faint");
    context.fillRect(x(0), bottom, x(1) - x(0), 1);
    context.textAlign = "center";
    for (const tick of [0, 0.25, 0.5, 0.75, 1]) context.fillText(tick, x(tick), bottom + 14);
    return { context, x, y, bottom };
  }

  /** Mark a value with a vertical line and a text. */
  function mark({ context, x, bottom }, value, text) {
    context.fillStyle = style("line");
    context.fillRect(x(value) - 1, 14, 2, bottom - 14);
    context.textAlign = value > 0.5 ? "right" : "left";
    context.fillText(text, x(value) + (value > 0.5 ? 4 : -4), 10);
  }

  function drawCharts() {
    const chart = drawAxis(find("beta"), 4), { context } = chart;
    context.beginPath();
    for (let i = 1; i < 200; i++) context.lineTo(chart.x(i / 200), chart.y(beta.density(i / 200)));
    context.strokeStyle = style("ink");
    context.lineWidth = 2;
    context.stroke();
    mark(chart, state.lam, `lam ${state.lam.toFixed(2)}`);

    const other = drawAxis(find("areas"), Math.max(...areas.bins));
    other.context.fillStyle = style("ink");
    areas.bins.forEach((share, i) => {
      const [x, y] = [other.x(i / 20), other.y(share)];
      other.context.fillRect(x + 1, y, other.x(1 / 20) - other.x(0) - 2, other.bottom - y);
    });
    mark(other, areas.mean, `mean ${areas.mean.toFixed(3)}`);
  }

  function writeTexts() {
    const weight = originalWeight(state), drawn = state.lam.toFixed(2);
    const cut = area(clipBox(wholeBox(state)));
    const [count, left, all] = [cut, SIZE ** 2 - cut, SIZE ** 2].map((n) => n.toLocaleString("en"));
    const [originalBar, partnerBar] = find("bar").children;
    originalBar.style.width = `${100 * weight}%`;
    partnerBar.style.width = `${100 * (1 - weight)}%`;
    find("label").textContent = `rose ${weight.toFixed(2)}, tulip ${(1 - weight).toFixed(2)}`;
    find("note").textContent = {
      Mixup: "Every pixel is a blend, and M is the same number everywhere.",
      CutMix: `The rose holds ${left} of ${all} pixels: lam was sampled as ${drawn} and is ` +
        `${weight.toFixed(2)} after rounding and clipping.`,
      Cutout: `${count} of ${all} pixels are erased, and the label keeps its weight.`,
    }[state.method];
    find("areas-text").textContent = {
      Mixup: "Distribution of the weight of the partner.",
      CutMix: "Distribution of the pasted share. Clipping makes it smaller than 1 − lam.",
      Cutout: "Distribution of the erased share. A hole at the border erases less.",
    }[state.method];
    find("call").textContent = writeCall(state);
    for (const slider of sliders) {
      const isAlpha = slider.name === "alpha", value = state[slider.name];
      slider.value = isAlpha ? Math.log10(value) : value;
      const shown = isAlpha ? Number(value.toPrecision(2)) : value.toFixed(2);
      slider.parentElement.querySelector("output").textContent = shown;
      slider.parentElement.hidden = (slider.name === "hole") !== (state.method === "Cutout");
    }
    find("beta").parentElement.hidden = state.method === "Cutout";
    picture.classList.toggle("still", state.method === "Mixup");
  }

  /** Change the state and redraw the page. */
  function set(change) {
    Object.assign(state, change);
    if ("alpha" in change) beta = makeBeta(state.alpha);
    if (!areas || "alpha" in change || "method" in change || "hole" in change) {
      areas = countAreas(state, beta);
    }
    writeTexts();
    drawPicture();
    drawMask();
    drawCharts();
  }

  /** Return the position of the handle: the lower right corner of the clipped box. */
  function corner() {
    return clipBox(wholeBox(state)).slice(2);
  }

  /** Return the position of a pointer in pixels of the picture. */
  function locate(event) {
    const { left, top, width } = picture.getBoundingClientRect();
    const scale = (SIZE + 2 * MARGIN) / width;
    return [(event.clientX - left) * scale - MARGIN, (event.clientY - top) * scale - MARGIN];
  }

  /** Return what a pointer at a position drags: "corner", "box" or null. */
  function reach([x, y]) {
    if (state.method === "Mixup") return null;
    const [right, below] = corner(), [x1, y1, x2, y2] = wholeBox(state);
    if (Math.hypot(x - right, y - below) < 14) return "corner";
    return x >= x1 && x < x2 && y >= y1 && y < y2 ? "box" : null;
  }

  const share = (pixels) => Math.min(Math.max(pixels / SIZE, 0), 1 - 1e-9);

  function resize(side) {
    const part = Math.min(Math.max(side / SIZE, 0), 1);
    if (state.method === "Cutout") set({ hole: Math.max(rint(part * 100), 1) / 100 });
    else set({ lam: rint((1 - part * part) * 100) / 100 });
  }

  picture.addEventListener("pointerdown", (event) => {
    const [x, y] = locate(event), kind = reach([x, y]);
    if (!kind) return;
    picture.setPointerCapture(event.pointerId);
    const [left, , right] = wholeBox(state);
    drag = { kind, x, y, side: right - left, u: state.u, v: state.v };
  });
  picture.addEventListener("pointermove", (event) => {
    const [x, y] = locate(event);
    if (!drag) {
      picture.style.cursor = { corner: "nwse-resize", box: "move" }[reach([x, y])] || "default";
      return;
    }
    const [dx, dy] = [x - drag.x, y - drag.y];
    if (drag.kind === "box") set({ u: share(drag.u * SIZE + dx), v: share(drag.v * SIZE + dy) });
    else resize(drag.side + 2 * (Math.abs(dx) > Math.abs(dy) ? dx : dy));
  });
  for (const name of ["pointerup", "pointercancel"]) {
    picture.addEventListener(name, () => { drag = null; });
  }
  // A touch on the box drags it; a touch elsewhere scrolls the page.
  picture.addEventListener("touchstart", (event) => {
    if (reach(locate(event.touches[0]))) event.preventDefault();
  }, { passive: false });
  picture.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-4, 0], ArrowRight: [4, 0], ArrowUp: [0, -4], ArrowDown: [0, 4] };
    if (!steps[event.key] || state.method === "Mixup") return;
    event.preventDefault();
    const [dx, dy] = steps[event.key];
    set({ u: share(state.u * SIZE + dx), v: share(state.v * SIZE + dy) });
  });
  for (const slider of sliders) {
    slider.addEventListener("input", () => {
      const value = Number(slider.value);
      set({ [slider.name]: slider.name === "alpha" ? 10 ** value : value });
    });
  }
  for (const radio of form.elements.method) {
    radio.checked = radio.value === state.method;
    radio.addEventListener("change", () => set({ method: radio.value }));
  }
  find("draw").addEventListener("click", () => {
    set({
      lam: rint(beta.quantile(Math.random()) * 100) / 100, u: Math.random(), v: Math.random(),
    });
  });
  find("copy").addEventListener("click", () => {
    const call = find("call");
    getSelection().selectAllChildren(call); // for browsers that deny access to the clipboard
    if (navigator.clipboard) navigator.clipboard.writeText(call.textContent).catch(() => {});
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  const again = () => set({});
  new ResizeObserver(again).observe(form);
  new MutationObserver(again).observe(document.body, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  form.hidden = false;
  set({});
}

{
  const form = document.getElementById("play");
  const images = [...document.querySelectorAll(".play-sources img")];
  Promise.all(images.map((image) => image.decode())).then(() => {
    document.querySelector(".play-sources").hidden = true;
    startPlay(form, ...images);
  });
}
