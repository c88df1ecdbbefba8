"use strict";

jaxpho.start(async () => {
  const { el, get, number } = jaxpho;
  const place = el("div"), facts = get("psf"), run = get("run");
  const which = jaxpho.hashNumber() ?? 0;
  document.getElementById("page").replaceChildren(place);
  place.append(el("h1", {}, "PSF mixtures"));
  if (!facts.psfs.length) {
    place.append(el("p", { class: "notice" }, "The PSFs of this run are not known: its input files are gone, or it has none."));
    return;
  }
  if (which >= facts.psfs.length) throw new Error(`There is no PSF number ${which}.`);
  const psf = facts.psfs[which];
  document.title = `PSF ${psf.label} - ${run.name}`;
  const percent = (v) => (v === undefined || v === null ? "–" : `${number(100 * v, 3)} %`);
  const head = ["PSF", "Gaussians", "locations", "FWHM [pixel]", "ellipticity", "residual / peak", "encircled energy", "exposures"];
  place.append(el("div", { class: "scroll list", tabindex: 0, role: "region", "aria-label": "PSFs" }, el("table", {}, el("caption", { class: "hidden" }, "PSF mixtures of the run"),
    el("thead", {}, el("tr", {}, ...head.map((h, k) => el("th", { scope: "col", class: k && k < 7 ? "number" : null }, h)))),
    el("tbody", {}, ...facts.psfs.map((p, k) => el("tr", { class: k === which ? "chosen" : null },
      el("td", {}, el("a", { href: `psf.html#${k}`, "aria-current": k === which ? "true" : null }, p.label || `PSF ${k}`)),
      ...[p.mixtures[0].length, p.mixtures.length, number(p.fwhm, 4), number(Math.hypot(p.e1, p.e2), 2), percent(p.residual), percent(p.ee_error)]
        .map((v) => el("td", { class: "number" }, String(v))), el("td", { class: "names", title: p.exposures.join(", ") }, p.exposures.join(", "))))))));
  place.append(el("h2", { class: "big" }, psf.label || `PSF ${which}`));
  if (psf.picture) {
    const data = await jaxpho.load(`psf/${which}`);
    const mixture = await jaxpho.unpack(data.mixture), image = data.image ? await jaxpho.unpack(data.image) : null;
    place.append(jaxpho.section(image ? "Image, mixture, residual" : "Mixture", images(data, mixture, image)));
    place.append(jaxpho.section("Encircled energy", energy(data)));
  }
  place.append(jaxpho.section("Gaussians", gaussians()));

  function images(data, mixture, image) {
    const [ny, nx] = mixture.shape, n = data.oversample;
    const peak = mixture.reduce((a, b) => Math.max(a, b));
    const common = { nx, ny, x0: 0, y0: 0, bin: 1, noise: peak * 1e-4, peak, inside: mixture };
    const flux = { ...common, kind: "flux", unit: "flux / sample" };
    const list = [{ ...flux, title: "mixture", values: mixture, named: false }];
    if (image) {
      const residual = mixture.map((v, k) => 100 * (v - image[k]) / peak);
      list.unshift({ ...flux, title: "PSF image", values: image, named: false });
      list.push({ ...common, kind: "difference", title: "mixture − image", unit: "% of peak", values: residual, named: false });
    }
    const [cx, cy] = data.center;
    const marks = psf.mixtures[0].map(([amp, x, y, cxx, cyy, cxy]) => {
      const l = Math.sqrt(cxx), m = cxy / l, q = Math.sqrt(Math.max(cyy - m * m, 0));
      return { x: cx + n * x, y: cy + n * y, ellipses: [[n * l, 0, n * m, n * q]], name: "", faint: amp < 0 };
    });
    // one native pixel of the detector in place of one arcsec
    return viewer.make([{ title: image ? `${psf.label}, ${number(n, 3)} samples per pixel` : psf.label, images: list, marks, anchor: { x: cx, y: cy, d: [n, 0, 0, n] } }],
      { span: nx / n, compass: false, marks: "Gaussians (1 σ)", limit: 0.1, differences: { 0.02: "±0.02 %", 0.1: "±0.1 %", 0.5: "±0.5 %", 2: "±2 %", 10: "±10 %" } });
  }

  function energy(data) {
    const box = el("div", { class: "charts" }), x = { kind: "log", label: "radius [native pixel]" };
    const series = [{ kind: "line", class: "series-0", x: data.radii, y: data.energy }];
    if (data.energy_image) series.push({ kind: "line", class: "dashed ink", x: data.radii, y: data.energy_image });
    box.append(el("div", {}, charts.chart({ title: "Flux inside a circle", x, y: { low: 0, label: "flux inside" }, series, name: "Encircled energy" }),
      charts.legend([["mixture", "series-0"], ...(data.energy_image ? [["PSF image", "ink dashed"]] : [])])));
    if (data.energy_image) {
      const error = data.energy.map((v, k) => 100 * (v - data.energy_image[k]));
      box.append(charts.chart({ title: "Its error", x, y: { label: "mixture − image [%]" }, series: [{ kind: "line", class: "series-1", x: data.radii, y: error }],
                                lines: [{ y: 0 }], name: "Error of the encircled energy of the mixture" }));
    }
    return box;
  }

  function gaussians() {
    const rows = psf.mixtures[0].map(([amp, x, y, cxx, cyy, cxy]) => {
      const half = 0.5 * (cxx + cyy), root = Math.sqrt(Math.max(0.25 * (cxx - cyy) ** 2 + cxy * cxy, 0));
      const major = Math.sqrt(half + root), minor = Math.sqrt(Math.max(half - root, 0));
      return [number(amp, 4), number(x, 3), number(y, 3), number(major, 4), number(minor, 4), number(0.5 * Math.atan2(2 * cxy, cxx - cyy) * 180 / Math.PI, 3)];
    });
    return el("div", {}, el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Gaussians" }, el("table", {}, el("caption", { class: "hidden" }, "Gaussians of the mixture"),
      el("thead", {}, el("tr", {}, ...["amplitude", "x [pixel]", "y [pixel]", "sigma, major [pixel]", "sigma, minor [pixel]", "angle from x [deg]"].map((h) => el("th", { scope: "col", class: "number" }, h)))),
      el("tbody", {}, ...rows.map((r) => el("tr", {}, ...r.map((c) => el("td", { class: "number" }, c))))))),
      el("p", { class: "quiet" }, `Amplitudes sum to ${number(psf.sum, 6)}; the pixel is ${psf.includes_pixel ? "included" : "not included"}`
        + `${psf.mixtures.length > 1 ? `; the first of ${psf.mixtures.length} locations` : ""}${psf.reduced ? `; ${psf.reduced} reduced mixtures for wide Gaussians` : ""}.`));
  }
});
