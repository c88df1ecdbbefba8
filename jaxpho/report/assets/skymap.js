// The field: sources and patches on the sky, North up, East left.
"use strict";

const skymap = (() => {
  const { el, get, valueOf } = jaxpho;

  function make(place) {
    const run = get("run"), catalog = get("catalog"), n = catalog.rows;
    const ra = jaxpho.column("ra").values, dec = jaxpho.column("dec").values;
    const flags = jaxpho.column("flags")?.values ?? new Array(n).fill(0);
    const known = [...Array(n).keys()].filter((i) => ra[i] !== null && dec[i] !== null);
    if (!known.length) { place.append(el("p", {}, "No source has a position.")); return; }
    const ra0 = ra[known[0]];
    let low = Infinity, high = -Infinity;
    for (const i of known) { low = Math.min(low, dec[i]); high = Math.max(high, dec[i]); }
    const dec0 = 0.5 * (low + high), cos = Math.cos(dec0 * Math.PI / 180);
    const east = (r) => 60 * ((((r - ra0 + 180) % 360) + 360) % 360 - 180) * cos;
    const north = (d) => 60 * (d - dec0);
    const points = known.map((i) => [east(ra[i]), north(dec[i]), i]);
    const circles = run.patches.map(([id, r, d, radius]) => [east(r), north(d), radius / 60, id]);
    const box = [Infinity, -Infinity, Infinity, -Infinity];
    const grow = (x, y, r) => {
      box[0] = Math.min(box[0], x - r); box[1] = Math.max(box[1], x + r);
      box[2] = Math.min(box[2], y - r); box[3] = Math.max(box[3], y + r);
    };
    points.forEach(([x, y]) => grow(x, y, 0.02));
    if (circles.length < 3000) circles.forEach(([x, y, r]) => grow(x, y, r));
    const view = { x: 0.5 * (box[0] + box[1]), y: 0.5 * (box[2] + box[3]), span: 0 };
    const canvas = el("canvas", { tabindex: 0, role: "img", "aria-label":
      `Map of ${n} sources in ${circles.length} patches. Arrow keys move, plus and minus zoom. `
      + "The catalogue page lists the same sources." });
    const tip = el("p", { class: "readout" }, " ");
    const bad = known.filter((i) => flags[i]).length;
    place.append(canvas, charts.legend([["source", "ink", "dot"], [`flagged source (${bad})`, "series-1", "dot"],
                                        ["patch", "series-0", "ring"]]), tip);
    const fit = () => {
      const w = canvas.clientWidth, h = canvas.clientHeight;
      view.span = 1.06 * Math.max(box[1] - box[0], (box[3] - box[2]) * w / h) || 1;
    };
    const toScreen = (x, y) => {
      const zoom = canvas.clientWidth / view.span;
      return [canvas.clientWidth / 2 - (x - view.x) * zoom, canvas.clientHeight / 2 - (y - view.y) * zoom];
    };

    function draw() {
      const w = canvas.clientWidth, h = canvas.clientHeight, ratio = window.devicePixelRatio || 1;
      if (!w) return;
      if (!view.span) fit();
      canvas.width = w * ratio; canvas.height = h * ratio;
      const g = canvas.getContext("2d"), style = getComputedStyle(canvas), zoom = w / view.span;
      const color = (name) => style.getPropertyValue(name).trim();
      g.scale(ratio, ratio);
      g.strokeStyle = color("--series-0"); g.fillStyle = color("--wash"); g.lineWidth = 1;
      for (const [x, y, r] of circles) {
        const [sx, sy] = toScreen(x, y), size = r * zoom;
        if (sx + size < 0 || sx - size > w || sy + size < 0 || sy - size > h) continue;
        g.beginPath(); g.arc(sx, sy, size, 0, 2 * Math.PI);
        if (circles.length < 3000) g.fill();
        g.globalAlpha = circles.length > 500 ? 0.4 : 0.9; g.stroke(); g.globalAlpha = 1;
      }
      const size = Math.max(1, Math.min(3.2, 0.6 * Math.sqrt(w * h / points.length) / 6));
      for (const pass of [0, 1]) {
        g.fillStyle = color(pass ? "--series-1" : "--ink");
        for (const [x, y, i] of points) {
          if (Boolean(flags[i]) !== Boolean(pass)) continue;
          const [sx, sy] = toScreen(x, y);
          if (sx < -4 || sy < -4 || sx > w + 4 || sy > h + 4) continue;
          g.beginPath(); g.arc(sx, sy, size, 0, 2 * Math.PI); g.fill();
        }
      }
      g.fillStyle = g.strokeStyle = color("--muted"); g.font = "11px system-ui, sans-serif";
      const lengths = [1 / 60, 2 / 60, 5 / 60, 10 / 60, 20 / 60, 0.5, 1, 2, 5, 10, 20, 60, 120];
      const length = lengths.filter((r) => r * zoom < 0.3 * w).pop() ?? lengths[0];
      g.lineWidth = 2; g.beginPath(); g.moveTo(12, h - 12); g.lineTo(12 + length * zoom, h - 12); g.stroke();
      g.fillText(length < 1 ? `${Math.round(length * 60)}″` : `${length}′`, 12, h - 18);
      g.fillText("N ↑  E ←", w - 56, h - 10);
    }

    function near(sx, sy) {
      let best = null, least = 12;
      for (const p of points) {
        const [x, y] = toScreen(p[0], p[1]), r = Math.hypot(x - sx, y - sy);
        if (r < least) { least = r; best = p; }
      }
      return best;
    }
    function patchAt(sx, sy) {
      let best = null;
      for (const c of circles) {
        const [x, y] = toScreen(c[0], c[1]), r = c[2] * canvas.clientWidth / view.span;
        if (Math.hypot(x - sx, y - sy) < r && (!best || c[2] < best[2])) best = c;
      }
      return best;
    }

    let drag = null, moved = 0;
    canvas.addEventListener("pointerdown", (e) => { drag = [e.clientX, e.clientY]; moved = 0; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointerup", (e) => {
      drag = null;
      if (moved > 4) return;
      const source = near(e.offsetX, e.offsetY), patch = patchAt(e.offsetX, e.offsetY);
      if (source) location.href = `source.html#${source[2]}`;
      else if (patch) location.href = `patch.html#${patch[3]}`;
    });
    canvas.addEventListener("pointermove", (e) => {
      if (drag) {
        const zoom = canvas.clientWidth / view.span, dx = e.clientX - drag[0], dy = e.clientY - drag[1];
        view.x += dx / zoom; view.y += dy / zoom; moved += Math.abs(dx) + Math.abs(dy);
        drag = [e.clientX, e.clientY];
        draw();
        return;
      }
      const source = near(e.offsetX, e.offsetY), patch = patchAt(e.offsetX, e.offsetY);
      canvas.classList.toggle("pointing", Boolean(source || patch));
      const parts = [];
      if (source) {
        const i = source[2], text = valueOf("flag_names", i);
        parts.push(`source ${valueOf("id", i)} (${valueOf("type", i) ?? ""})`);
        if (text) parts.push(text);
      }
      if (patch) parts.push(`patch ${patch[3]}`);
      tip.textContent = parts.join(", ") || " ";
    });
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      const before = canvas.clientWidth / view.span;
      const x = view.x - (e.offsetX - canvas.clientWidth / 2) / before;
      const y = view.y - (e.offsetY - canvas.clientHeight / 2) / before;
      view.span *= Math.exp(Math.max(-0.5, Math.min(0.5, e.deltaY / 300)));
      const after = canvas.clientWidth / view.span;
      view.x = x + (e.offsetX - canvas.clientWidth / 2) / after;
      view.y = y + (e.offsetY - canvas.clientHeight / 2) / after;
      draw();
    }, { passive: false });
    canvas.addEventListener("keydown", (e) => {
      const step = 0.1 * view.span;
      if (e.key === "ArrowLeft") view.x += step;
      else if (e.key === "ArrowRight") view.x -= step;
      else if (e.key === "ArrowUp") view.y += step;
      else if (e.key === "ArrowDown") view.y -= step;
      else if (e.key === "+" || e.key === "=") view.span /= 1.3;
      else if (e.key === "-") view.span *= 1.3;
      else if (e.key === "0") { view.x = 0.5 * (box[0] + box[1]); view.y = 0.5 * (box[2] + box[3]); fit(); }
      else return;
      e.preventDefault();
      draw();
    });
    new ResizeObserver(draw).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }

  return { make };
})();
