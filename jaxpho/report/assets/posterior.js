// Corner plot, traces and ranks of the draws of a source.
"use strict";

const posterior = (() => {
  const { svg, el, number } = jaxpho;

  /** The draws of a source: [{name, unit, label, value, draws: Float64Array, chains, n}]. */
  async function read(entry) {
    const packed = await jaxpho.unpack(entry.draws);
    const [nq, chains, n] = packed.shape;
    return entry.names.map((name, q) => {
      const step = (entry.high[q] - entry.low[q]) / 65535;
      const draws = new Float64Array(chains * n);
      for (let i = 0; i < draws.length; i++) {
        draws[i] = entry.low[q] + step * packed[q * chains * n + i];
      }
      const position = name === "ra" || name === "dec";
      const unit = entry.units[q];
      const text = position ? `${name} offset` : name;
      return { name, unit, label: unit ? `${text} [${unit}]` : text, value: entry.values[q], draws,
               chains, n, nq };
    });
  }

  /** Quantiles of 16, 50 and 84 %, linear between draws as numpy's. */
  function quantiles(draws, parts = [0.15865525, 0.5, 0.84134475]) {
    const sorted = Float64Array.from(draws).sort();
    return parts.map((p) => {
      const at = p * (sorted.length - 1), k = Math.floor(at);
      return sorted[k] + (at - k) * ((sorted[k + 1] ?? sorted[k]) - sorted[k]);
    });
  }

  /** Smooth counts [n][n] by 1-2-1 in both directions, twice. */
  function smooth(grid) {
    const n = grid.length;
    const at = (g, i, j) => (i < 0 || j < 0 || i >= n || j >= n ? 0 : g[i][j]);
    for (let pass = 0; pass < 2; pass++) {
      const rows = grid.map((r, i) => r.map((v, j) =>
        0.25 * at(grid, i, j - 1) + 0.5 * v + 0.25 * at(grid, i, j + 1)));
      grid = rows.map((r, i) => r.map((v, j) =>
        0.25 * at(rows, i - 1, j) + 0.5 * v + 0.25 * at(rows, i + 1, j)));
    }
    return grid;
  }

  /** Height above which lies a part of a grid. */
  function level(grid, part) {
    const all = grid.flat().sort((a, b) => b - a);
    const total = all.reduce((a, b) => a + b, 0);
    let sum = 0;
    for (const v of all) {
      sum += v;
      if (sum >= part * total) return v;
    }
    return 0;
  }

  /** Marching squares: the path of one height of grid[y][x], in cells. */
  function contour(grid, height, X, Y) {
    const n = grid.length;
    let path = "";
    const cross = (a, b) => (height - a) / (b - a);
    for (let i = 0; i < n - 1; i++) {
      for (let j = 0; j < n - 1; j++) {
        const [a, b, c, d] = [grid[i][j], grid[i][j + 1], grid[i + 1][j + 1], grid[i + 1][j]];
        const points = [];
        if ((a > height) !== (b > height)) points.push([j + cross(a, b), i]);
        if ((b > height) !== (c > height)) points.push([j + 1, i + cross(b, c)]);
        if ((d > height) !== (c > height)) points.push([j + cross(d, c), i + 1]);
        if ((a > height) !== (d > height)) points.push([j, i + cross(a, d)]);
        for (let k = 0; k + 1 < points.length; k += 2) {
          path += `M${X(points[k][0]).toFixed(1)} ${Y(points[k][1]).toFixed(1)}`
            + `L${X(points[k + 1][0]).toFixed(1)} ${Y(points[k + 1][1]).toFixed(1)}`;
        }
      }
    }
    return path;
  }

  /** Two or three round values. */
  const few = (low, high) => [5, 4, 3, 2].map((n) => charts.ticks(low, high, n)).find((t) => t.length <= 3)
    ?? [0.5 * (low + high)];

  /** Corner plot; truth is {name: value} in the units of the draws. */
  function corner(list, truth = {}) {
    const n = list.length, cell = Math.max(64, Math.min(112, Math.floor(900 / n)));
    const gap = 6, left = 74, top = 24, bottom = 52;
    const width = left + n * (cell + gap), height = top + n * (cell + gap) + bottom;
    const root = svg("svg", { class: "chart corner", viewBox: `0 0 ${width} ${height}`, width, height,
                              role: "img", "aria-label": "Corner plot of the draws: "
                              + list.map((q) => q.label).join(", ") });
    const range = list.map((q) => {
      const [low, high] = quantiles(q.draws, [0.002, 0.998]);
      const pad = 0.06 * (high - low) || 1;
      return [low - pad, high + pad];
    });
    const bins = 24;
    for (let i = 0; i < n; i++) {
      for (let j = 0; j <= i; j++) {
        const x0 = left + j * (cell + gap), y0 = top + i * (cell + gap);
        const [xa, xb] = range[j], [ya, yb] = range[i];
        const X = (v) => x0 + cell * (v - xa) / (xb - xa);
        const Y = (v) => y0 + cell * (1 - (v - ya) / (yb - ya));
        const group = svg("g", {});
        if (i === j) {
          const count = charts.histogram(list[j].draws, xa, xb, bins);
          const most = Math.max(...count);
          let path = `M${x0} ${y0 + cell}`;
          count.forEach((c, k) => {
            const y = (y0 + cell * (1 - 0.92 * c / most)).toFixed(1);
            path += `L${(x0 + cell * k / bins).toFixed(1)} ${y}L${(x0 + cell * (k + 1) / bins).toFixed(1)} ${y}`;
          });
          group.append(svg("path", { class: "area series-0", d: `${path}L${x0 + cell} ${y0 + cell}Z` }));
        } else {
          const px = list[j].draws, py = list[i].draws, step = Math.max(1, Math.ceil(px.length / 600));
          let dots = "";
          const grid = Array.from({ length: bins }, () => new Array(bins).fill(0));
          for (let k = 0; k < px.length; k++) {
            const u = (px[k] - xa) / (xb - xa), v = (py[k] - ya) / (yb - ya);
            if (u < 0 || u >= 1 || v < 0 || v >= 1) continue;
            grid[Math.floor(v * bins)][Math.floor(u * bins)]++;
            if (k % step === 0) dots += `M${(x0 + cell * u).toFixed(1)} ${(y0 + cell * (1 - v)).toFixed(1)}h0`;
          }
          group.append(svg("path", { class: "dots faint series-0", d: dots, "stroke-width": 1.6 }));
          const even = smooth(grid);
          for (const part of [0.95, 0.68]) {
            group.append(svg("path", { class: "contour", d: contour(
              even, level(even, part), (u) => x0 + cell * (u + 0.5) / bins,
              (v) => y0 + cell * (1 - (v + 0.5) / bins)) }));
          }
          group.append(svg("line", { class: "optimum", x1: x0, x2: x0 + cell, y1: Y(list[i].value), y2: Y(list[i].value) }));
          if (inside(truth[list[i].name], range[i])) {
            const y = Y(truth[list[i].name]);
            group.append(svg("line", { class: "truth", x1: x0, x2: x0 + cell, y1: y, y2: y }));
          }
        }
        if (inside(list[j].value, range[j])) {
          group.append(svg("line", { class: "optimum", x1: X(list[j].value), x2: X(list[j].value), y1: y0, y2: y0 + cell }));
        }
        if (inside(truth[list[j].name], range[j])) {
          const x = X(truth[list[j].name]);
          group.append(svg("line", { class: "truth", x1: x, x2: x, y1: y0, y2: y0 + cell }));
        }
        group.append(svg("rect", { class: "frame", x: x0, y: y0, width: cell, height: cell }));
        if (i === n - 1) {
          for (const v of few(xa, xb)) {
            group.append(svg("text", { class: "tick small", x: X(v), y: y0 + cell + 13, "text-anchor": "middle" }, charts.label(v)));
          }
          group.append(svg("text", { class: "axis small", x: x0 + cell / 2, y: y0 + cell + 30 + (j % 2) * 14, "text-anchor": "middle" }, list[j].label));
        }
        if (j === 0 && i > 0) {
          for (const v of few(ya, yb)) {
            group.append(svg("text", { class: "tick small", x: x0 - 5, y: Y(v) + 3, "text-anchor": "end" }, charts.label(v)));
          }
          group.append(svg("text", { class: "axis small", "text-anchor": "middle", transform: `translate(${x0 - 56} ${y0 + cell / 2}) rotate(-90)` }, list[i].label));
        }
        root.append(group);
      }
    }
    return root;
  }

  const inside = (v, [low, high]) => v !== undefined && v !== null && v >= low && v <= high;

  /** One chart per quantity: the draws of every chain in their order. */
  function traces(list, diverging = []) {
    return el("div", { class: "charts traces" }, ...list.map((q) => charts.chart({
      width: 560, height: 118, left: 74, x: { low: 0, high: q.n - 1 }, y: {}, title: q.label,
      name: `Trace of ${q.label}`,
      series: Array.from({ length: q.chains }, (_, c) => ({
        kind: "line", class: `thin series-${c % 6}`, x: Array.from({ length: q.n }, (_, k) => k),
        y: Array.from(q.draws.subarray(c * q.n, (c + 1) * q.n)),
      })),
      lines: diverging.map(([, at]) => ({ x: at, class: "divergent" })),
    })));
  }

  /** Ranks of each chain's draws among all: flat where the chains agree. */
  function ranks(list, bins = 12) {
    return el("div", { class: "charts" }, ...list.map((q) => {
      const order = [...q.draws.keys()].sort((a, b) => q.draws[a] - q.draws[b]);
      const rank = new Float64Array(q.draws.length);
      order.forEach((i, k) => { rank[i] = k; });
      const expected = q.n / bins, sigma = Math.sqrt(expected * (1 - 1 / bins));
      const series = Array.from({ length: q.chains }, (_, c) => {
        const count = charts.histogram(rank.subarray(c * q.n, (c + 1) * q.n), 0, rank.length, bins);
        return { kind: "steps", class: `series-${c % 6}`, y: [count[0], ...count],
                 x: Array.from({ length: bins + 1 }, (_, k) => k * rank.length / bins) };
      });
      return charts.chart({ width: 270, height: 150, left: 40, x: {}, y: { low: 0 }, title: q.label,
                            name: `Ranks of ${q.label}`, series,
                            bands: [{ low: Math.max(0, expected - 2 * sigma), high: expected + 2 * sigma }] });
    }));
  }

  return { read, quantiles, corner, traces, ranks, number };
})();
