"use strict";

jaxpho.start(async () => {
  const { el, get, number } = jaxpho;
  const place = el("div"), run = get("run"), wanted = jaxpho.hashNumber();
  const ids = run.patches.map((p) => p[0]);
  if (!ids.length) throw new Error("The run has no patch that can be read.");
  const id = wanted ?? ids[0], at = ids.indexOf(id);
  if (at < 0) throw new Error(`There is no patch ${id}.`);
  document.title = `Patch ${id} - ${run.name}`;
  const data = await jaxpho.load(`patch/${id}`);
  const nav = el("nav", { class: "pager", "aria-label": "Patches" });
  if (at > 0) nav.append(el("a", { href: `patch.html#${ids[at - 1]}`, rel: "prev" }, "← previous"));
  if (at + 1 < ids.length) nav.append(el("a", { href: `patch.html#${ids[at + 1]}`, rel: "next" }, "next →"));
  document.getElementById("page").replaceChildren(place);  // a page of its own: an earlier one may still load
  place.append(
    el("div", { class: "heading" }, el("div", {}, el("h1", {}, `Patch ${id}`),
      el("p", {}, fitted(data.sources.filter((s) => s.own).length))), nav),
    facts([["centre", `${number(data.ra, 9)}, ${number(data.dec, 9)} deg`], ["pixels", data.npix],
      ["chi2 / pixels", data.npix ? number(data.chi2 / data.npix, 4) : "–"],
      ...(data.chains ? [["chains", `${data.chains[0]} of ${data.chains[1]} draws`]] : []),
      ...Object.entries(data.seconds).map(([k, v]) => [`time: ${k}`, `${number(v, 3)} s`])]));
  const sources = data.sources.map((s) => [
    s.row === null ? s.id : el("span", { class: "named" }, jaxpho.thumb(s.row), jaxpho.sourceLink(s.row, s.id)),
    s.type, s.own ? "fitted" : "held", s.row === null ? "" : jaxpho.valueOf("flag_names", s.row) ?? ""]);
  place.append(jaxpho.section("Sources", table("Sources", ["source", "type", "here", "flags"], sources)));
  const known = run.patches[at], anchor = data.sources.find((s) => Object.keys(s.places).length);
  if (known[4] && anchor) {
    const pixels = await stamps.ofPatch(id);
    place.append(jaxpho.section("Data, model, residual", patchImages.make(data, pixels, anchor, 2.1 * known[3], true)));
  } else place.append(el("p", { class: "notice" }, "The run kept no pixels of this patch."));
  place.append(jaxpho.section("Exposures", table("Exposures", ["exposure", "band", "pixels", "chi2 / pixels", "shown"],
    data.exposures.map((e) => [e.name, e.band, e.npix, e.npix ? number(e.chi2 / e.npix, 4) : "–", e.key ? "yes" : "no"]), [2, 3])));
  if (known[5]) {
    const draws = await jaxpho.load(`draws/${id}`);
    if (draws.lp) {
      const lp = await jaxpho.unpack(draws.lp), [chains, n] = lp.shape;
      place.append(jaxpho.section("Log posterior along the chains", charts.chart({ width: 760, height: 200, name: "Log posterior of each chain along its draws",
        x: { low: 0, high: n - 1, label: draws.step > 1 ? `draw / ${draws.step}` : "draw" }, y: { label: "log posterior + const" },
        series: Array.from({ length: chains }, (_, c) => ({ kind: "line", class: `thin series-${c % 6}`, x: Array.from({ length: n }, (_, k) => k), y: Array.from(lp.subarray(c * n, (c + 1) * n)) })),
        lines: (draws.diverging ?? []).map(([, k]) => ({ x: k, class: "divergent" })) })));
    }
  }
  const sampled = data.parameters.some((p) => p[6] !== null);
  place.append(jaxpho.section("Parameters", table("Parameters", ["of", "name", "band", "value", "error", "at bound", ...(sampled ? ["R-hat", "ESS bulk", "ESS tail"] : [])],
    data.parameters.map(([of, name, band, v, e, bound, ...worth]) => [of, name, band, number(v, 6), number(e, 3), bound ? "yes" : "",
      ...(sampled ? [number(worth[0], 4), number(worth[1], 3), number(worth[2], 3)] : [])]), [3, 4, 6, 7, 8]),
    el("p", { class: "quiet" }, `ra, dec: offsets in arcsec from the centre; fluxes in ${data.unit}; rhalf in arcsec.`)));
  const diagnostics = Object.entries(data.diagnostics).filter(([, v]) => v !== null);
  if (diagnostics.length) place.append(jaxpho.section("Diagnostics", facts(diagnostics.map(([k, v]) => [k, typeof v === "number" ? number(v, 4) : String(v)]))));
  if (data.messages.length) place.append(jaxpho.section("What was decided", el("ul", {}, ...data.messages.map((m) => el("li", {}, m)))));

  function fitted(n) { return n === 1 ? "One source" : `${n} sources fitted together`; }
  function facts(rows) {
    return el("dl", { class: "facts" }, ...rows.map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", {}, String(v)))));
  }
  function table(name, head, rows, right = []) {
    const css = (k) => ({ class: right.includes(k) ? "number" : null });
    return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": name }, el("table", {}, el("caption", { class: "hidden" }, name),
      el("thead", {}, el("tr", {}, ...head.map((h, k) => el("th", { scope: "col", ...css(k) }, h)))),
      el("tbody", {}, ...rows.map((r) => el("tr", {}, ...r.map((c, k) => el("td", css(k), c instanceof Node ? c : String(c))))))));
  }
});
