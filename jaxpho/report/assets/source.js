"use strict";

jaxpho.start(async () => {
  const { el, get, column, valueOf, number, withError } = jaxpho;
  const place = document.getElementById("page"), catalog = get("catalog"), run = get("run");
  const row = jaxpho.hashNumber() ?? 0;
  if (row >= catalog.rows) throw new Error(`There is no source number ${row}: the run has ${catalog.rows}.`);
  const id = valueOf("id", row), patch = valueOf("patch", row);
  document.title = `Source ${id} - ${run.name}`;
  const known = run.patches.find((p) => p[0] === patch);
  place.replaceChildren(heading());
  const facts = el("div", { class: "columns wide" }), images = el("div"), draws = el("div");
  place.append(facts, images, draws);
  const entry = known && known[5] ? await jaxpho.load(`draws/${patch}`) : null;
  const own = entry ? entry.sources[String(row)] : null;
  const list = own ? await posterior.read(own) : [];
  const truth = truths();
  facts.append(values(), where());
  if (!known) {
    images.append(el("p", { class: "notice" }, "This source was not fitted, or the file of its patch cannot be read: the values are those of the catalogue."));
    return;
  }
  const data = await jaxpho.load(`patch/${patch}`);
  const me = data.sources.find((s) => s.row === row && s.own) ?? data.sources.find((s) => s.row === row);
  if (known[4] && me) {
    const pixels = await stamps.ofPatch(patch);
    images.append(jaxpho.section("Data, model, residual", pictures(data, me, pixels)));
    images.append(jaxpho.section("Radial profile", profiles(data, me, pixels)));
  } else images.append(el("p", { class: "notice" }, "The run kept no pixels of this patch."));
  if (list.length) {
    const inUnits = offsets(truth);
    draws.append(jaxpho.section("Posterior",
      el("p", { class: "quiet" }, `${entry.total} draws, every ${entry.step === 1 ? "one" : `${entry.step}th`} shown; contours hold 68 % and 95 %. `),
      charts.legend([["optimum", "optimum"], ...(Object.keys(inUnits).length ? [["truth", "truth"]] : [])]),
      el("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": "Corner plot" }, posterior.corner(list, inUnits))));
    draws.append(jaxpho.section("Chains", posterior.traces(list, entry.diverging)));
    draws.append(jaxpho.section("Ranks", el("p", { class: "quiet" }, "Ranks of each chain's draws among all: flat where the chains agree. Shaded: two sigma of independent draws."), posterior.ranks(list)));
  }

  function heading() {
    const nav = el("nav", { class: "pager", "aria-label": "Sources" });
    if (row > 0) nav.append(el("a", { href: `source.html#${row - 1}`, rel: "prev" }, "← previous"));
    if (row + 1 < catalog.rows) nav.append(el("a", { href: `source.html#${row + 1}`, rel: "next" }, "next →"));
    const flags = (valueOf("flag_names", row) ?? "").split(",").filter(Boolean);
    return el("div", { class: "heading" }, jaxpho.thumb(row, 64), el("div", {},
      el("h1", {}, "Source ", el("span", { class: "name" }, id)),
      el("p", {}, valueOf("type", row) ?? "", patch >= 0 ? [", in ", jaxpho.patchLink(patch)] : "",
        flags.length ? flags.map((f) => el("a", { class: "flag", href: `catalog.html#flag=${f}` }, f)) : el("span", { class: "good" }, "no flags"))), nav);
  }

  function truths() {
    const found = run.truth ? run.truth.rows[String(row)] : null;
    return found ? Object.fromEntries(run.truth.names.map((n, k) => [n, found[k]])) : {};
  }

  /** True values in the units of the draws: positions as offsets in mas. */
  function offsets(truth) {
    const out = { ...truth }, ra = valueOf("ra", row), dec = valueOf("dec", row);
    if (out.ra !== undefined) out.ra = (((out.ra - ra + 540) % 360) - 180) * 3.6e6 * Math.cos(dec * Math.PI / 180);
    if (out.dec !== undefined) out.dec = (out.dec - dec) * 3.6e6;
    return out;
  }

  function values() {
    const drawn = Object.fromEntries(list.map((q) => [q.name, q]));
    const truthful = Object.keys(truth).length > 0;
    const head = el("tr", {}, ...["quantity", "unit", "value", "error", ...(list.length ? ["16 %", "50 %", "84 %"] : []), ...(truthful ? ["truth", "pull"] : [])]
      .map((t, k) => el("th", { scope: "col", class: k > 1 ? "number" : null }, t)));
    const body = el("tbody");
    for (const c of catalog.columns) {
      const error = column(`${c.name}_err`);
      if (!error || c.values[row] === null) continue;
      const position = c.name === "ra" || c.name === "dec";
      const [value, spread] = position
        ? [c.values[row].toFixed(8).replace("-", "−"), `${number(error.values[row], 2)} ${error.unit}`]
        : withError(c.values[row], error.values[row]);
      const line = el("tr", {}, el("th", { scope: "row", title: c.meaning }, c.name), el("td", {}, c.unit),
        el("td", { class: "number" }, value), el("td", { class: "number" }, spread));
      const q = position ? null : drawn[c.name];
      if (list.length) for (const v of q ? posterior.quantiles(q.draws) : [null, null, null]) {
        line.append(el("td", { class: "number" }, q ? withError(v, error.values[row])[0] : ""));
      }
      if (truthful) {
        const t = truth[c.name];
        const factor = position ? 3.6e6 * (c.name === "ra" ? Math.cos(valueOf("dec", row) * Math.PI / 180) : 1) : 1;
        const pull = t === undefined || t === null ? null : (c.values[row] - t) * factor / error.values[row];
        line.append(el("td", { class: "number" }, t === undefined ? "" : position ? t.toFixed(8).replace("-", "−") : withError(t, error.values[row])[0]),
          el("td", { class: "number" }, pull === null ? "" : pull.toFixed(2).replace("-", "−")));
      }
      body.append(line);
    }
    return jaxpho.section("Values", el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Values" },
      el("table", {}, el("caption", { class: "hidden" }, "Fitted values with errors"), el("thead", {}, head), body)));
  }

  function where() {
    const rows = catalog.columns.filter((c) => !column(`${c.name}_err`) && !c.name.endsWith("_err") && !["id", "type", "flag_names", "flags"].includes(c.name));
    const list = el("dl", { class: "facts small" });
    for (const c of rows) {
      const v = c.values[row];
      if (v === null || v === "" || (c.kind === "whole" && v === -1)) continue;
      const text = c.kind === "text" ? v : c.kind === "whole" ? String(v) : number(v, 4);
      list.append(el("div", { title: c.meaning }, el("dt", {}, c.name), el("dd", {}, text, c.unit ? ` ${c.unit}` : "")));
    }
    return jaxpho.section("Quality", list);
  }

  function pictures(data, me, pixels) {
    const size = me.shapes.reduce((m, [r, q]) => Math.max(m, r / Math.sqrt(q)), 0);
    const first = data.exposures.find((e) => e.key && me.places[e.key]);
    const d = first ? me.places[first.key].d : [1, 0, 0, 1], pixel = Math.abs(d[0] * d[3] - d[1] * d[2]) ** -0.5;
    return patchImages.make(data, pixels, me, Math.max(26 * pixel, Math.min(40, 13 * size)));
  }

  function profiles(data, me, pixels) {
    const psfs = get("psf"), box = el("div", { class: "charts" });
    for (const e of data.exposures.filter((x) => x.key && me.places[x.key])) {
      const others = data.sources.filter((s) => s !== me && s.places[e.key]).map((s) => s.places[e.key]);
      const psf = psfs.of[e.name] === undefined ? null : psfs.psfs[psfs.of[e.name]];
      const found = profile.compute(pixels[e.key], me.places[e.key], me.shapes, others, psf);
      if (!found.radius.length) continue;
      box.append(profile.chart(found, e.name === e.band ? e.band : `${e.band}   ${e.name}`, data.unit));
    }
    return el("div", {}, charts.legend([["data", "ink", "dot"], ["model", "series-0"],
      ...(psfs.psfs.length ? [["PSF, of the model's centre", "series-4 dashed"]] : []), ...(me.shapes.length ? [["half-light radius", "truth dotted"]] : [])]), box,
      el("p", { class: "quiet" }, "Means over elliptical rings of the source's shape; pixels nearer to a neighbour are left out."));
  }
});
