// Images side by side whose pan, zoom and stretch go together, with the sources on top.
"use strict";

const viewer = (() => {
  const { el, number } = jaxpho;
  const MAPS = {
    magma: ["000004", "180f3d", "440f76", "721f81", "9e2f7f", "cd4071", "f1605d", "fd9668", "feca8d", "fcfdbf"],
    grey: ["000000", "ffffff"],
    inverted: ["ffffff", "000000"],
    difference: ["053061", "2166ac", "4393c3", "92c5de", "d1e5f0", "f7f7f7", "fddbc7", "f4a582", "d6604d", "b2182b", "67001f"],
  };
  const COLORS = ["#00c2d1", "#ffb000", "#6fdc6f", "#ff7ab6", "#b9a4ff", "#ff8c5a"];
  const MASKED = [128, 128, 128, 255], NOWHERE = [0, 0, 0, 0];

  function lookup(name) {
    const stops = MAPS[name].map((h) => [0, 2, 4].map((k) => parseInt(h.slice(k, k + 2), 16)));
    const out = new Uint8ClampedArray(1024);
    for (let i = 0; i < 256; i++) {
      const t = i / 255 * (stops.length - 1), k = Math.min(Math.floor(t), stops.length - 2);
      for (let c = 0; c < 3; c++) out[4 * i + c] = stops[k][c] + (t - k) * (stops[k + 1][c] - stops[k][c]);
      out[4 * i + 3] = 255;
    }
    return out;
  }
  const tables = Object.fromEntries(Object.keys(MAPS).map((k) => [k, lookup(k)]));

  const STRETCHES = {
    asinh: (t, soft) => Math.asinh(t / soft) / Math.asinh(1 / soft),
    log: (t) => Math.log10(1 + 1000 * Math.max(t, 0)) / Math.log10(1001),
    sqrt: (t) => Math.sqrt(Math.max(t, 0)),
    linear: (t) => t,
  };

  /**
   * A set of rows of panels.
   * rows: [{title, images: [{title, values, nx, ny, x0, y0, bin, kind: flux | difference, unit,
   * noise, peak}], anchor: {x, y, d: [4]}, marks: [{x, y, ellipses, name, href, faint}]}];
   * options: span (arcsec shown at first), unit of lengths, limit of differences.
   */
  function make(rows, options = {}) {
    const state = { east: 0, north: 0, span: options.span ?? 10, stretch: "asinh", map: "magma",
                    white: 0, limit: options.limit ?? 5, marks: true };
    const start = { ...state };
    const panels = [];
    const readout = el("p", { class: "readout" }, " ");
    const redraw = () => { for (const p of panels) p.draw(); };
    const box = el("div", { class: "viewer" }, controls(state, start, redraw, options));
    for (const row of rows) {
      const line = el("div", { class: "row" });
      for (const image of row.images) {
        const p = panel(row, image, state, redraw, readout, options);
        panels.push(p);
        line.append(p.node);
      }
      box.append(el("h3", {}, row.title), line);
    }
    box.append(readout);
    const watch = new ResizeObserver(redraw);
    for (const p of panels) watch.observe(p.canvas);
    return box;
  }

  function controls(state, start, redraw, options) {
    const choose = (name, values, key, text = {}) => el("label", {}, name, " ", el("select", {
      onchange: (e) => { state[key] = values.includes(e.target.value) ? e.target.value : Number(e.target.value); redraw(); },
    }, ...values.map((v) => el("option", { value: v, selected: String(v) === String(state[key]) }, text[v] ?? String(v)))));
    const differ = options.differences ?? { 3: "±3 σ", 5: "±5 σ", 10: "±10 σ", 30: "±30 σ" };
    const step = (factor) => () => { state.span *= factor; redraw(); };
    return el("div", { class: "controls", role: "group", "aria-label": "How the images are shown" },
      choose("Stretch", Object.keys(STRETCHES), "stretch"),
      choose("Colours", ["magma", "grey", "inverted"], "map"),
      el("label", {}, "Brightness ", el("input", { type: "range", min: -4, max: 4, step: 0.1, value: 0,
        oninput: (e) => { state.white = Number(e.target.value); redraw(); } })),
      choose("Residuals", Object.keys(differ).map(Number), "limit", differ),
      el("label", {}, el("input", { type: "checkbox", checked: true,
        onchange: (e) => { state.marks = e.target.checked; redraw(); } }), ` ${options.marks ?? "Sources"}`),
      el("span", { class: "buttons" },
        el("button", { type: "button", "aria-label": "Zoom in", onclick: step(1 / 1.5) }, "+"),
        el("button", { type: "button", "aria-label": "Zoom out", onclick: step(1.5) }, "−"),
        el("button", { type: "button", onclick: () => { Object.assign(state, { east: start.east, north: start.north, span: start.span }); redraw(); } }, "Reset view")));
  }

  function panel(row, image, state, redraw, readout, options) {
    const name = `${image.title}, ${row.title}`;
    const canvas = el("canvas", {
      tabindex: 0, role: "img",
      "aria-label": `${name}. Arrow keys move, plus and minus zoom, 0 resets all panels.`,
    });
    const node = el("figure", {}, canvas, el("figcaption", {}, image.title,
      image.unit ? el("small", {}, ` [${image.unit}]`) : null));
    const [a, b, c, d] = row.anchor.d, det = a * d - b * c;
    const scale = Math.sqrt(Math.abs(det));  // pixels of the exposure per arcsec
    const source = document.createElement("canvas");
    source.width = image.nx;
    source.height = image.ny;
    let painted = "";

    function paint() {
      const key = `${state.stretch} ${state.map} ${state.white} ${state.limit}`;
      if (key === painted) return;
      painted = key;
      const context = source.getContext("2d"), pixels = context.createImageData(image.nx, image.ny);
      const diverging = image.kind === "difference";
      const table = tables[diverging ? "difference" : state.map], stretch = STRETCHES[state.stretch];
      const white = image.peak * 2 ** -state.white, soft = Math.min(3 * image.noise / white, 1e3);
      const black = diverging ? 0 : (state.stretch === "asinh" ? stretch(-3 * image.noise / white, soft) : 0);
      const limit = state.limit * (image.unitOfLimit ?? 1);
      for (let j = 0; j < image.ny; j++) {
        for (let i = 0; i < image.nx; i++) {
          const v = image.values[j * image.nx + i], at = 4 * ((image.ny - 1 - j) * image.nx + i);
          let color;
          if (Number.isNaN(v)) {
            const inside = image.inside && !Number.isNaN(image.inside[j * image.nx + i]);
            color = inside ? MASKED : NOWHERE;
            for (let k = 0; k < 4; k++) pixels.data[at + k] = color[k];
            continue;
          }
          const t = diverging ? 0.5 + 0.5 * v / limit : (stretch(v / white, soft) - black) / (1 - black);
          const index = 4 * Math.max(0, Math.min(255, Math.round(255 * t)));
          for (let k = 0; k < 4; k++) pixels.data[at + k] = table[index + k];
        }
      }
      context.putImageData(pixels, 0, 0);
    }

    /** Middle of the view, pixels of the exposure; screen pixels per pixel of it. */
    function view() {
      const zoom = canvas.clientWidth / (state.span * scale);
      return { x: row.anchor.x + a * state.east + b * state.north,
               y: row.anchor.y + c * state.east + d * state.north, zoom };
    }
    const toScreen = (v, x, y) => [canvas.clientWidth / 2 + (x - v.x) * v.zoom,
                                   canvas.clientHeight / 2 - (y - v.y) * v.zoom];
    const toPixel = (v, sx, sy) => [v.x + (sx - canvas.clientWidth / 2) / v.zoom,
                                    v.y - (sy - canvas.clientHeight / 2) / v.zoom];

    function draw() {
      const w = canvas.clientWidth, h = canvas.clientHeight, ratio = window.devicePixelRatio || 1;
      if (!w || !h) return;
      paint();
      canvas.width = Math.round(w * ratio);
      canvas.height = Math.round(h * ratio);
      const g = canvas.getContext("2d");
      g.scale(ratio, ratio);
      g.imageSmoothingEnabled = false;
      const v = view(), size = image.bin * v.zoom;
      const [left, below] = toScreen(v, image.x0 - 0.5, image.y0 - 0.5);
      g.drawImage(source, left, below - image.ny * size, image.nx * size, image.ny * size);
      if (state.marks) marks(g, v);
      if (options.compass !== false) compass(g, w, h, v.zoom);
    }

    function marks(g, v) {
      const dark = image.kind === "difference" || state.map === "inverted";
      row.marks.forEach((m, k) => {
        const [x, y] = toScreen(v, m.x, m.y), color = dark ? "#111" : COLORS[k % COLORS.length];
        const shapes = m.ellipses.length ? m.ellipses : [null];
        for (const e of shapes) {
          g.beginPath();
          if (e) {
            for (let i = 0; i <= 48; i++) {
              const t = 2 * Math.PI * i / 48, u = Math.cos(t), q = Math.sin(t);
              g.lineTo(x + v.zoom * (e[0] * u + e[1] * q), y - v.zoom * (e[2] * u + e[3] * q));
            }
          } else {
            g.moveTo(x - 6, y); g.lineTo(x + 6, y); g.moveTo(x, y - 6); g.lineTo(x, y + 6);
          }
          g.setLineDash(m.faint ? [4, 3] : []);
          if (!dark) { g.lineWidth = 3; g.strokeStyle = "rgba(0,0,0,.55)"; g.stroke(); }
          g.lineWidth = 1.3; g.strokeStyle = color; g.stroke();
        }
        g.setLineDash([]);
        if (m.name && image.named !== false) {
          g.font = "600 11px system-ui, sans-serif";
          g.lineWidth = 3; g.strokeStyle = dark ? "rgba(255,255,255,.8)" : "rgba(0,0,0,.7)";
          const text = m.name.length > 24 ? `${m.name.slice(0, 23)}…` : m.name;
          g.strokeText(text, x + 8, y - 8); g.fillStyle = color; g.fillText(text, x + 8, y - 8);
        }
      });
    }

    function compass(g, w, h, zoom) {
      const dark = image.kind === "difference" || state.map === "inverted";
      g.strokeStyle = g.fillStyle = dark ? "#111" : "#fff";
      g.font = "11px system-ui, sans-serif"; g.lineWidth = 1.4;
      const x0 = w - 34, y0 = h - 34, arm = 13;
      const back = dark ? "rgba(255,255,255,.6)" : "rgba(0,0,0,.35)";
      g.save(); g.fillStyle = back; g.beginPath(); g.arc(x0, y0, 28, 0, 2 * Math.PI); g.fill(); g.restore();
      for (const [dx, dy, text] of [[b, d, "N"], [a, c, "E"]]) {
        const n = Math.hypot(dx, dy) || 1, ux = dx / n, uy = -dy / n;
        g.beginPath(); g.moveTo(x0, y0); g.lineTo(x0 + arm * ux, y0 + arm * uy); g.stroke();
        g.textAlign = "center"; g.textBaseline = "middle";
        g.fillText(text, x0 + (arm + 8) * ux, y0 + (arm + 8) * uy);
      }
      const lengths = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500];
      const length = lengths.filter((r) => r * scale * zoom < 0.35 * w).pop() ?? 0.01;
      g.save(); g.fillStyle = back;
      g.fillRect(4, h - 30, Math.max(length * scale * zoom, 30) + 12, 26); g.restore();
      g.beginPath(); g.moveTo(10, h - 10); g.lineTo(10 + length * scale * zoom, h - 10); g.stroke();
      g.textAlign = "left"; g.textBaseline = "alphabetic";
      g.fillText(`${length}${options.length ?? "″"}`, 10, h - 15);
    }

    function move(dx, dy) {  // screen pixels
      const { zoom } = view(), u = -dx / zoom, v = dy / zoom;
      state.east += (d * u - b * v) / det;
      state.north += (a * v - c * u) / det;
      redraw();
    }

    let drag = null;
    canvas.addEventListener("pointerdown", (e) => { drag = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointerup", () => { drag = null; });
    canvas.addEventListener("pointermove", (e) => {
      if (drag) { move(e.clientX - drag[0], e.clientY - drag[1]); drag = [e.clientX, e.clientY]; }
      tell(e.offsetX, e.offsetY);
    });
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      const v = view(), [x, y] = toPixel(v, e.offsetX, e.offsetY);
      state.span *= Math.exp(Math.max(-0.5, Math.min(0.5, e.deltaY / 300)));
      const [sx, sy] = toScreen(view(), x, y);
      move(e.offsetX - sx, e.offsetY - sy);
    }, { passive: false });
    canvas.addEventListener("keydown", (e) => {
      const keys = { ArrowLeft: [30, 0], ArrowRight: [-30, 0], ArrowUp: [0, 30], ArrowDown: [0, -30] };
      if (keys[e.key]) move(...keys[e.key]);
      else if (e.key === "+" || e.key === "=") { state.span /= 1.3; redraw(); }
      else if (e.key === "-") { state.span *= 1.3; redraw(); }
      else if (e.key === "0") { Object.assign(state, { east: 0, north: 0, span: options.span ?? 10 }); redraw(); }
      else return;
      e.preventDefault();
    });

    function tell(sx, sy) {
      const [x, y] = toPixel(view(), sx, sy);
      const i = Math.floor((x - image.x0 + 0.5) / image.bin), j = Math.floor((y - image.y0 + 0.5) / image.bin);
      const values = row.images.map((p) => {
        const v = i >= 0 && j >= 0 && i < p.nx && j < p.ny ? p.values[j * p.nx + i] : NaN;
        return `${p.title} ${number(v, 3)}`;
      });
      readout.textContent = `${row.title}: x ${x.toFixed(1)}, y ${y.toFixed(1)}; ${values.join(", ")}`;
    }

    return { node, canvas, draw };
  }

  /** The largest value, a few hot pixels left out. */
  function peakOf(values, noise) {
    const good = Array.from(values).filter((v) => Number.isFinite(v)).sort((p, q) => q - p);
    return Math.max(good[Math.min(good.length - 1, Math.floor(good.length * 2e-4))] ?? 1, 8 * noise);
  }

  return { make, peakOf, COLORS };
})();
