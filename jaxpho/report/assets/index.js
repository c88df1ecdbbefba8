"use strict";

jaxpho.start(() => {
  const { get, column, el } = jaxpho;
  const run = get("run"), catalog = get("catalog"), sky = document.getElementById("sky");
  sky.replaceChildren();
  skymap.make(sky);
  const place = document.getElementById("population");
  place.replaceChildren();
  const ids = column("id").values, flags = column("flags")?.values ?? [];
  const few = catalog.rows <= 2000;
  const band = run.bands[0];
  if (!band) return;
  const linked = (rows) => (few ? { links: rows.map((i) => `source.html#${i}`), titles: rows.map((i) => `source ${ids[i]}`) } : {});
  const split = (x, y) => [0, 1].map((bad) => {
    const rows = [...ids.keys()].filter((i) => Boolean(flags[i]) === Boolean(bad) && x[i] !== null && y[i] !== null);
    return { kind: "points", class: bad ? "series-1" : "series-0", size: few ? 5 : 2.4, x: rows.map((i) => x[i]), y: rows.map((i) => y[i]), ...linked(rows) };
  });
  const mag = column(`mag_${band}`), flux = column(`flux_${band}`);
  const size = column("rhalf") ?? column("rhalf_disk");
  const across = mag
    ? { values: mag.values, label: `AB magnitude in ${band}`, reverse: true }
    : { values: flux.values.map((v) => (v > 0 ? v : null)), label: `flux in ${band} [${run.unit}]`, kind: "log" };
  const key = charts.legend([["no flags", "series-0", "dot"], ["flagged", "series-1", "dot"]]);
  if (size) {
    const y = size.values.map((v) => (v > 0 ? v : null));
    place.append(el("div", {}, charts.chart({ title: "Size and magnitude", name: "Half-light radius against magnitude",
      x: across, y: { kind: "log", label: "half-light radius [arcsec]" }, series: split(across.values, y) }), key));
  }
  const next = run.bands[1];
  if (next && mag && column(`mag_${next}`)) {
    const second = column(`mag_${next}`).values;
    const color = mag.values.map((v, i) => (v === null || second[i] === null ? null : v - second[i]));
    place.append(charts.chart({ title: "Colour and magnitude", name: "Colour against magnitude", x: across,
      y: { label: `${band} − ${next} [mag]` }, series: split(across.values, color) }));
  }
  if (run.truth) place.append(...pulls(run, flags, linked));

  function pulls(run, flags, linked) {
    const out = [], names = run.truth.names;
    const series = [], bars = [], reach = 4, bins = 20;
    run.bands.forEach((b, k) => {
      const at = names.indexOf(`flux_${b}`), value = column(`flux_${b}`), error = column(`flux_${b}_err`);
      if (at < 0 || !value || !error) return;
      const rows = Object.keys(run.truth.rows).map(Number).filter((i) => !flags[i] && value.values[i] !== null && error.values[i] > 0 && run.truth.rows[i][at] !== null);
      const pull = rows.map((i) => (value.values[i] - run.truth.rows[i][at]) / error.values[i]);
      if (!pull.length) return;
      const mean = pull.reduce((a, v) => a + v, 0) / pull.length;
      const sd = Math.sqrt(pull.reduce((a, v) => a + (v - mean) ** 2, 0) / pull.length);
      const clipped = pull.map((v) => Math.max(-reach, Math.min(reach, v)));
      series.push({ kind: "points", class: `series-${k % 6}`, x: rows.map((i) => value.values[i] / error.values[i]), y: clipped, ...linked(rows) });
      const count = charts.histogram(clipped, -reach, reach, bins).map((c) => c * bins / (2 * reach * pull.length));
      bars.push({ kind: "steps", class: `series-${k % 6}`, x: Array.from({ length: bins + 1 }, (_, i) => -reach + 2 * reach * i / bins), y: [count[0], ...count],
                  name: `${b}: ${pull.length} sources, mean ${jaxpho.number(mean, 2)}, sd ${jaxpho.number(sd, 3)}` });
    });
    if (!series.length) return out;
    const x = Array.from({ length: 101 }, (_, i) => -reach + 2 * reach * i / 100);
    const normal = { kind: "line", class: "ink thin", x, y: x.map((v) => Math.exp(-0.5 * v * v) / Math.sqrt(2 * Math.PI)) };
    out.push(el("div", {}, charts.chart({ title: "Fluxes against the truth, unflagged sources", name: "Histogram of (flux - truth) / error",
      x: { label: "(flux − truth) / error", low: -reach, high: reach }, y: { low: 0, label: "density" }, series: [...bars, normal] }),
      charts.legend([...bars.map((s) => [s.name, s.class]), ["normal distribution", "ink"]])));
    out.push(charts.chart({ title: "Pulls and signal to noise", name: "(flux - truth) / error against flux / error",
      x: { kind: "log", label: "flux / error" }, y: { low: -reach, high: reach, label: "(flux − truth) / error" }, series, bands: [{ low: -1, high: 1 }] }));
    return out;
  }
});
