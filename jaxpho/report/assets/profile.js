// Radial profiles from the pixels of a stamp; the same rings as jaxpho.output.profiles.
"use strict";

const profile = (() => {
  const RINGS = 16;

  function edges(pixel, outer) {
    outer = Math.max(outer, 3 * pixel);
    const linear = Math.min(pixel * RINGS, outer);
    return Array.from({ length: RINGS + 1 }, (_, k) => {
      const s = k / RINGS;
      return linear * s + (outer - linear) * s * s;
    });
  }

  /** Flux per pixel of a mixture at an offset in pixels of the exposure. */
  function point(mixture, dx, dy, variance) {
    let sum = 0;
    for (const [amp, x, y, cxx, cyy, cxy] of mixture) {
      const xx = cxx + variance, yy = cyy + variance, det = xx * yy - cxy * cxy;
      const u = dx - x, v = dy - y;
      sum += amp / (2 * Math.PI * Math.sqrt(det))
        * Math.exp(-0.5 * (yy * u * u - 2 * cxy * u * v + xx * v * v) / det);
    }
    return sum;
  }

  /** The mixture at the location nearest to a pixel. */
  function nearest(psf, x, y) {
    if (!psf.locations) return psf.mixtures[0];
    let best = 0, least = Infinity;
    psf.locations.forEach(([a, b], k) => {
      const r = Math.hypot(a - x, b - y);
      if (r < least) { least = r; best = k; }
    });
    return psf.mixtures[best];
  }

  /**
   * Means over rings: {radius, data, error, model, psf}.
   * stamp: of stamps.js; place: {x, y, d}; shapes: [[rhalf, q, pa]]; others: places of the rest.
   */
  function compute(stamp, place, shapes, others, psf) {
    const [a, b, c, d] = place.d, det = a * d - b * c, scale = Math.sqrt(Math.abs(det));
    const [rhalf, q, pa] = shapes.reduce((m, s) => (s[0] > m[0] ? s : m), [0, 1, 0]);
    const angle = pa * Math.PI / 180, sin = Math.sin(angle), cos = Math.cos(angle);
    const pixel = stamp.bin / scale, found = [];
    let reach = 0;
    for (let j = 0; j < stamp.ny; j++) {
      for (let i = 0; i < stamp.nx; i++) {
        const k = j * stamp.nx + i;
        if (Number.isNaN(stamp.data[k])) continue;
        const half = (stamp.bin - 1) / 2;
        const x = stamp.x0 + i * stamp.bin + half, y = stamp.y0 + j * stamp.bin + half;
        const dx = x - place.x, dy = y - place.y, own = Math.hypot(dx, dy);
        if (others.some((o) => Math.hypot(x - o.x, y - o.y) < own)) continue;
        const east = (d * dx - b * dy) / det, north = (a * dy - c * dx) / det;
        const major = east * sin + north * cos, minor = east * cos - north * sin;
        const radius = Math.sqrt(q * major * major + minor * minor / q);
        reach = Math.max(reach, radius);
        found.push([radius, k, dx, dy]);
      }
    }
    const limit = edges(pixel, Math.min(reach || 1, Math.max(6 * rhalf, 12 * pixel)));
    const sums = Array.from({ length: RINGS }, () => [0, 0, 0, 0, 0, 0]);
    const variance = psf && psf.includes_pixel ? 0 : 1 / 12;
    const mixture = psf ? nearest(psf, place.x, place.y) : null;
    for (const [radius, k, dx, dy] of found) {
      const ring = limit.findIndex((e, n) => radius >= e && radius < (limit[n + 1] ?? -1));
      if (ring < 0) continue;
      const s = sums[ring];
      s[0] += 1; s[1] += radius; s[2] += stamp.data[k]; s[3] += stamp.error[k] ** 2;
      s[4] += stamp.model[k];
      if (mixture) s[5] += point(mixture, dx, dy, variance);
    }
    const used = sums.filter((s) => s[0] > 0);
    const out = {
      radius: used.map((s) => s[1] / s[0]), data: used.map((s) => s[2] / s[0]),
      error: used.map((s) => Math.sqrt(s[3]) / s[0]), model: used.map((s) => s[4] / s[0]),
      psf: mixture ? used.map((s) => s[5] / s[0]) : null, rhalf,
    };
    if (out.psf && out.psf[0] > 0) {
      const factor = out.model[0] / out.psf[0];
      out.psf = out.psf.map((v) => v * factor);
    }
    return out;
  }

  /** Chart of a profile, and of residuals over errors below. */
  function chart(found, title, unit) {
    const high = Math.max(...found.data, ...found.model, 1e-12) * 1.6;
    const errors = [...found.error].sort((p, q) => p - q);
    const soft = Math.max(2 * errors[Math.floor(errors.length / 2)], high * 1e-5);
    const low = Math.min(-soft, 1.3 * Math.min(...found.data));
    const end = found.radius[found.radius.length - 1] * 1.04;
    const series = [
      { kind: "line", class: "series-0", x: found.radius, y: found.model },
      { kind: "points", class: "ink", x: found.radius, y: found.data, e: found.error },
    ];
    if (found.psf) series.unshift({ kind: "line", class: "dashed series-4", x: found.radius, y: found.psf });
    const lines = found.rhalf ? [{ x: found.rhalf, class: "truth dotted" }] : [];
    const ratio = found.data.map((v, k) => (v - found.model[k]) / found.error[k]);
    const reach = Math.max(3.5, 1.15 * Math.max(...ratio.map(Math.abs)));
    return jaxpho.el("div", { class: "stack" },
      charts.chart({ width: 400, height: 250, title, series, lines, name: `Radial profile, ${title}`,
                     x: { low: 0, high: end, bare: true }, y: { kind: "asinh", soft, low, high, label: `brightness [${unit} / pixel]` } }),
      charts.chart({ width: 400, height: 120, series: [{ kind: "points", class: "ink", x: found.radius, y: ratio }],
                     lines, bands: [{ low: -1, high: 1 }], name: `Residuals of the profile, ${title}`,
                     x: { low: 0, high: end, label: "radius [arcsec]" }, y: { low: -reach, high: reach, label: "resid. / err." } }));
  }

  return { compute, chart, edges };
})();
