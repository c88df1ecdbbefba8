// The rows of images of a patch for the viewer.
"use strict";

const patchImages = (() => {
  /** data: of the patch; pixels: stamps by exposure; anchor: the source in the middle; span: arcsec. */
  function make(data, pixels, anchor, span, middle) {
    const rows = [];
    for (const e of data.exposures.filter((x) => x.key && anchor.places[x.key])) {
      const s = pixels[e.key], at = anchor.places[e.key];
      const peak = viewer.peakOf(s.data, s.sigma);
      const common = { nx: s.nx, ny: s.ny, x0: s.x0, y0: s.y0, bin: s.bin, inside: s.model, noise: s.sigma, peak };
      const flux = { ...common, kind: "flux", unit: `${data.unit} / pixel` };
      rows.push({
        title: e.name === e.band ? e.band : `${e.band}, ${e.name}`,
        anchor: middle ? { d: at.d, x: s.x0 + s.bin * (s.nx - 1) / 2, y: s.y0 + s.bin * (s.ny - 1) / 2 } : at,
        images: [
          { ...flux, title: "data", values: s.data },
          { ...flux, title: "model", values: s.model, named: false },
          { ...common, kind: "difference", title: "residual / σ", values: s.chi, named: false },
        ],
        marks: data.sources.filter((q) => q.places[e.key]).map((q) => ({
          ...q.places[e.key], name: q.id, faint: !q.own })),
      });
    }
    return viewer.make(rows, { span });
  }
  return { make };
})();
