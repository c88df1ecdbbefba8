// Charts as SVG: axes, lines, points, histograms. Colours come from the style sheet.
"use strict";

const charts = (() => {
  const { svg, number } = jaxpho;

  /** Round values between two limits. */
  function ticks(low, high, count = 5) {
    if (!(high > low)) return [low];
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * ([1, 2, 5, 10].find((m) => m * power >= raw) ?? 10);
    const out = [];
    for (let v = Math.ceil(low / step) * step; v <= high + 1e-9 * step; v += step) {
      out.push(Math.abs(v) < 1e-9 * step ? 0 : v);
    }
    return out;
  }

  const label = (v) => {
    const size = Math.abs(v);
    if (size !== 0 && (size >= 1e5 || size < 1e-3)) {
      return v.toExponential(0).replace("e+", "e").replace("-", "−");
    }
    return String(Number(v.toPrecision(6))).replace("-", "−");
  };

  /** Scales: to is monotonic, 0 to 1 between the limits. */
  function scale(kind, low, high, soft = 1) {
    const forward = {
      linear: (v) => v,
      log: (v) => Math.log10(Math.max(v, 1e-300)),
      asinh: (v) => Math.asinh(v / soft),
    }[kind];
    const a = forward(low), b = forward(high);
    let marks;
    if (kind === "linear") marks = ticks(low, high);
    else {
      const out = new Set(kind === "asinh" ? [0] : []);
      const top = Math.ceil(Math.log10(Math.max(Math.abs(low), Math.abs(high))));
      const least = kind === "asinh" ? Math.log10(soft) : Math.log10(low);
      const first = Math.ceil(least);
      const fine = top - first < 3 ? [1, 2, 5] : [1];
      for (let p = first - 1; p <= top; p++) {
        for (const m of fine) {
          const v = m * 10 ** p;
          if (Math.log10(v) < least) continue;
          if (v <= high && v >= low) out.add(v);
          if (kind === "asinh" && -v >= low) out.add(-v);
        }
      }
      marks = [...out].sort((x, y) => x - y);
      if (marks.length < 2) marks = ticks(low, high);
    }
    return { to: (v) => (forward(v) - a) / (b - a || 1), low, high, marks };
  }

  const finite = (values) => values.filter((v) => v !== null && Number.isFinite(v));

  function limits(series, axis, margin = 0.05) {
    const all = [];
    for (const s of series) {
      s[axis].forEach((v, i) => {
        if (v === null || !Number.isFinite(v)) return;
        const e = axis === "y" && s.e && Number.isFinite(s.e[i]) ? s.e[i] : 0;
        all.push(v - e, v + e);
      });
    }
    if (!all.length) return [0, 1];
    const low = all.reduce((a, b) => Math.min(a, b)), high = all.reduce((a, b) => Math.max(a, b));
    const pad = (high - low) * margin || Math.abs(high) * 0.05 || 1;
    return [low - pad, high + pad];
  }

  /**
   * A chart.
   * options: width, height, x and y {label, kind, low, high, soft, reverse}, title, name (for
   * screen readers), series [{kind: line | points | steps, x, y, e, class, name, links, titles}],
   * bands [{low, high}] across, lines [{x | y, class}].
   */
  function chart(options) {
    const { width = 420, height = 280, series, title = "" } = options;
    const left = options.left ?? 62, right = 12, top = title ? 26 : 10;
    const bottom = options.x.label === undefined ? 22 : 42;
    const axes = {};
    for (const k of ["x", "y"]) {
      const given = options[k];
      let [low, high] = limits(series, k);
      low = given.low ?? low;
      high = given.high ?? high;
      if (given.kind === "log") {
        const positive = finite(series.flatMap((s) => [...s[k]])).filter((v) => v > 0);
        if (given.low === undefined) low = positive.reduce((a, b) => Math.min(a, b), high) / 1.2;
        if (given.high === undefined) high = positive.reduce((a, b) => Math.max(a, b), low) * 1.2;
      }
      if (!(high > low)) high = low + 1;
      axes[k] = scale(given.kind ?? "linear", low, high, given.soft);
    }
    const w = width - left - right, h = height - top - bottom;
    const along = (v) => (options.x.reverse ? 1 - axes.x.to(v) : axes.x.to(v));
    const X = (v) => left + w * along(v);
    const Y = (v) => top + h * (1 - (options.y.reverse ? 1 - axes.y.to(v) : axes.y.to(v)));
    const clip = `clip-${chart.count = (chart.count ?? 0) + 1}`;
    const root = svg("svg", {
      class: "chart", viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
      "aria-label": options.name ?? title,
    });
    root.append(svg("clipPath", { id: clip }, svg("rect", { x: left, y: top, width: w, height: h })));
    const inside = svg("g", { "clip-path": `url(#${clip})` });
    for (const b of options.bands ?? []) {
      const y0 = Y(b.high), y1 = Y(b.low);
      inside.append(svg("rect", { class: "band", x: left, width: w, y: y0, height: y1 - y0 }));
    }
    for (const v of axes.x.marks) {
      root.append(svg("line", { class: "grid", x1: X(v), x2: X(v), y1: top, y2: top + h }));
      if (!options.x.bare) {
        root.append(svg("text", { class: "tick", x: X(v), y: top + h + 15, "text-anchor": "middle" },
                        label(v)));
      }
    }
    let last = Infinity;
    for (const v of axes.y.marks) {
      root.append(svg("line", { class: "grid", x1: left, x2: left + w, y1: Y(v), y2: Y(v) }));
      if (Math.abs(Y(v) - last) < 12) continue;
      last = Y(v);
      if (options.y.bare) continue;
      root.append(svg("text", { class: "tick", x: left - 6, y: Y(v) + 4, "text-anchor": "end" },
                      label(v)));
    }
    for (const s of series) inside.append(...draw(s, X, Y));
    for (const line of options.lines ?? []) {
      const at = line.x !== undefined
        ? { x1: X(line.x), x2: X(line.x), y1: top, y2: top + h }
        : { x1: left, x2: left + w, y1: Y(line.y), y2: Y(line.y) };
      inside.append(svg("line", { class: line.class ?? "mark", ...at }));
    }
    root.append(inside, svg("rect", { class: "frame", x: left, y: top, width: w, height: h }));
    if (title) root.append(svg("text", { class: "title", x: left, y: 16 }, title));
    if (options.x.label) {
      root.append(svg("text", { class: "axis", x: left + w / 2, y: height - 6,
                                "text-anchor": "middle" }, options.x.label));
    }
    if (options.y.label) {
      const y = top + h / 2;
      root.append(svg("text", { class: "axis", "text-anchor": "middle",
                                transform: `translate(14 ${y}) rotate(-90)` }, options.y.label));
    }
    return root;
  }

  function draw(s, X, Y) {
    const good = [...s.x.keys()].filter(
      (i) => s.x[i] !== null && s.y[i] !== null && Number.isFinite(s.x[i]) && Number.isFinite(s.y[i]));
    const css = s.class ?? "series-0";
    const f = (v) => v.toFixed(1);
    if (s.kind === "line" || s.kind === "steps") {
      let path = "";
      good.forEach((i, k) => {
        const joined = k && good[k - 1] === i - 1;
        if (s.kind === "steps" && joined) path += `L${f(X(s.x[i - 1]))} ${f(Y(s.y[i]))}`;
        path += `${joined ? "L" : "M"}${f(X(s.x[i]))} ${f(Y(s.y[i]))}`;
      });
      return [svg("path", { class: `line ${css}`, d: path })];
    }
    const out = [];
    let bars = "", dots = "";
    for (const i of good) {
      const x = X(s.x[i]), y = Y(s.y[i]);
      if (s.e && s.e[i] !== null && Number.isFinite(s.e[i])) {
        bars += `M${f(x)} ${f(Y(s.y[i] - s.e[i]))}V${f(Y(s.y[i] + s.e[i]))}`;
      }
      if (s.links) {
        const dot = svg("circle", { class: `dot ${css}`, cx: f(x), cy: f(y), r: s.r ?? 3 });
        dot.append(svg("title", {}, s.titles[i]));
        out.push(svg("a", { href: s.links[i], tabindex: "-1" }, dot));
      } else dots += `M${f(x)} ${f(y)}h0`;
    }
    if (bars) out.unshift(svg("path", { class: `bar ${css}`, d: bars }));
    if (dots) out.push(svg("path", { class: `dots ${css}`, d: dots, "stroke-width": s.size ?? 5 }));
    return out;
  }

  /** Names of series beside a chart. */
  function legend(entries) {
    const { el } = jaxpho;
    return el("p", { class: "legend" }, ...entries.map(([name, css, kind]) =>
      el("span", {}, el("i", { class: `key ${css} ${kind ?? "line"}`, "aria-hidden": "true" }), name)));
  }

  function histogram(values, low, high, bins) {
    const count = new Array(bins).fill(0);
    for (const v of values) {
      if (v === null || !Number.isFinite(v)) continue;
      const k = Math.floor((v - low) / (high - low) * bins);
      count[Math.min(Math.max(k, 0), bins - 1)]++;
    }
    return count;
  }

  return { chart, legend, ticks, label, histogram, number };
})();
