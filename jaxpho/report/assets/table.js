// A sortable, filterable table that draws only the rows on the screen.
"use strict";

const sourceTable = (() => {
  const { el, get, column, number, withError, sourceLink, patchLink, thumb } = jaxpho;
  const HEIGHT = 40, SPARE = 8;

  /** "flux_g > 100 and rhalf < 1": a test of a row, or the word that is not understood. */
  function parse(text) {
    const parts = text.split(/\s*(?:\band\b|,|&&?)\s*/i).filter((p) => p.trim());
    const tests = [];
    for (const part of parts) {
      const match = part.trim().match(/^([\w.+-]+)\s*(<=|>=|==|!=|=|<|>)\s*(.+)$/);
      if (!match) return { problem: part.trim() };
      const found = column(match[1]), operator = match[2] === "=" ? "==" : match[2];
      if (!found) return { problem: match[1] };
      const words = found.kind === "text", goal = words ? match[3].trim() : Number(match[3]);
      if (!words && Number.isNaN(goal)) return { problem: match[3] };
      const compare = { "<": (v) => v < goal, ">": (v) => v > goal, "<=": (v) => v <= goal,
                        ">=": (v) => v >= goal, "==": (v) => v === goal, "!=": (v) => v !== goal }[operator];
      tests.push((row) => found.values[row] !== null && compare(found.values[row]));
    }
    return { test: (row) => tests.every((t) => t(row)) };
  }

  function make(place, given) {
    const catalog = get("catalog"), all = [...Array(catalog.rows).keys()];
    const state = { shown: [...catalog.shown], sort: null, descending: false, text: "", flag: given.flag ?? "",
                    type: "", expression: "", rows: all };
    const flagNames = column("flag_names")?.values ?? [];
    const flags = [...new Set(flagNames.flatMap((t) => t.split(",").filter(Boolean)))].sort();
    const types = [...new Set(column("type")?.values ?? [])].sort();
    const head = el("tr"), body = el("tbody");
    const table = el("table", { class: "sources" }, el("caption", { class: "hidden" },
      "Sources of the run. Buttons in the heading sort."), el("thead", {}, head), body);
    const scroll = el("div", { class: "virtual", tabindex: 0, role: "region", "aria-label": "Catalogue, scrolls" }, table);
    const count = el("p", { role: "status", class: "count" });
    const problem = el("span", { class: "bad", role: "status" });

    const input = (label, attributes) => el("label", {}, label, " ", el("input", attributes));
    const select = (label, values, key) => el("label", {}, label, " ", el("select", {
      id: `filter-${key}`, onchange: (e) => { state[key] = e.target.value; filter(); } },
      ...values.map(([v, t]) => el("option", { value: v, selected: v === state[key] }, t))));
    place.append(
      el("div", { class: "controls", role: "search", "aria-label": "Filter sources" },
        input("Find", { type: "search", id: "filter-text", placeholder: "id, type, flag", oninput: (e) => { state.text = e.target.value.toLowerCase(); filter(); } }),
        select("Flag", [["", "any"], ["-", "none set"], ...flags.map((f) => [f, f])], "flag"),
        types.length > 1 ? select("Type", [["", "any"], ...types.map((t) => [t, t])], "type") : null,
        input("Where", { type: "text", id: "filter-expression", size: 26, placeholder: "rhalf > 0.5 and q < 0.4", spellcheck: "false",
                         oninput: (e) => { state.expression = e.target.value; filter(); } }),
        problem,
        el("button", { type: "button", onclick: download }, "Save as CSV")),
      chooser(), count, scroll);

    function chooser() {
      return el("details", { class: "chooser" }, el("summary", {}, "Columns"),
        el("fieldset", {}, el("legend", {}, "Shown"), ...catalog.columns.map((c) => el("label", { title: c.meaning },
          el("input", { type: "checkbox", checked: state.shown.includes(c.name), onchange: (e) => {
            const chosen = new Set(state.shown);
            if (e.target.checked) chosen.add(c.name); else chosen.delete(c.name);
            state.shown = catalog.columns.map((k) => k.name).filter((n) => chosen.has(n));
            heading(); draw(true);
          } }), " ", c.name))));
    }

    function heading() {
      head.replaceChildren(el("th", { scope: "col" }, el("span", { class: "hidden" }, "picture")));
      for (const name of state.shown) {
        const c = column(name), sorted = state.sort === name;
        head.append(el("th", { scope: "col", title: c.meaning, class: c.kind === "text" ? null : "number",
                               "aria-sort": sorted ? (state.descending ? "descending" : "ascending") : "none" },
          el("button", { type: "button", "data-column": name, onclick: () => sortBy(name) }, c.name,
            el("span", { class: "arrow", "aria-hidden": "true" }, sorted ? (state.descending ? "▼" : "▲") : "")),
          c.unit ? el("small", {}, c.unit) : null));
      }
    }

    function sortBy(name) {
      if (state.sort === name && !state.descending) state.descending = true;
      else { state.sort = name; state.descending = false; }
      heading(); filter();
      head.querySelector(`[data-column="${CSS.escape(name)}"]`).focus();
    }

    function filter() {
      const parsed = parse(state.expression), ids = column("id").values, kinds = column("type")?.values;
      problem.textContent = parsed.problem ? `not understood: ${parsed.problem}` : "";
      const test = parsed.test ?? (() => true);
      state.rows = all.filter((i) => {
        if (state.flag === "-" ? flagNames[i] : state.flag && !(flagNames[i] ?? "").split(",").includes(state.flag)) return false;
        if (state.type && kinds[i] !== state.type) return false;
        if (state.text && ![ids[i], kinds?.[i], flagNames[i]].some((t) => (t ?? "").toLowerCase().includes(state.text))) return false;
        return test(i);
      });
      if (state.sort) order(column(state.sort), state.descending ? -1 : 1);
      count.textContent = state.rows.length === all.length ? `${all.length} sources` : `${state.rows.length} of ${all.length} sources`;
      table.setAttribute("aria-rowcount", state.rows.length + 1);
      draw(true);
    }

    function order(c, sign) {
      const collator = new Intl.Collator("en", { numeric: true });
      state.rows.sort((i, j) => {
        const a = c.values[i], b = c.values[j];
        if (a === b) return i - j;
        if (a === null) return 1;  // what is missing comes last, whatever the order
        if (b === null) return -1;
        return sign * (c.kind === "text" ? collator.compare(a, b) : a - b);
      });
    }

    let first = -1;
    function draw(force) {
      const visible = Math.ceil(scroll.clientHeight / HEIGHT) + 2 * SPARE;
      const most = Math.max(0, state.rows.length - visible);
      const from = Math.min(most, Math.max(0, Math.floor(scroll.scrollTop / HEIGHT) - SPARE));
      if (!force && from === first) return;
      first = from;
      const rows = state.rows.slice(from, from + visible);
      const gap = (n) => { const tr = el("tr", { "aria-hidden": "true", class: "gap" }); tr.style.height = `${n * HEIGHT}px`; return tr; };
      body.replaceChildren(gap(from), ...rows.map((row, k) => line(row, from + k)),
                           gap(Math.max(0, state.rows.length - from - rows.length)));
    }

    function line(row, position) {
      const tr = el("tr", { "aria-rowindex": position + 2 }, el("td", { class: "picture" }, thumb(row)));
      for (const name of state.shown) tr.append(cell(name, row));
      return tr;
    }

    function cell(name, row) {
      const c = column(name), value = c.values[row];
      if (name === "id") return el("td", {}, sourceLink(row));
      if (name === "patch") return el("td", { class: "number" }, value >= 0 ? patchLink(value, String(value)) : "–");
      if (c.kind === "text") return el("td", { title: value }, value);
      const error = column(`${name}_err`)?.values[row];
      if (name === "ra" || name === "dec") return el("td", { class: "number" }, value === null ? "–" : value.toFixed(6).replace("-", "−"));
      if (error !== undefined && !name.endsWith("_err")) {
        const [text, spread] = withError(value, error);
        return el("td", { class: "number" }, text, spread ? el("small", {}, ` ± ${spread}`) : null);
      }
      return el("td", { class: "number" }, c.kind === "whole" ? String(value) : number(value, 5));
    }

    function download() {
      const quote = (t) => (/[",\n]/.test(t) ? `"${t.replaceAll('"', '""')}"` : t);
      // a cell that begins so would be a formula in a spreadsheet
      const safe = (t) => (typeof t === "string" && /^[=+\-@\t\r]/.test(t) ? `'${t}` : String(t ?? ""));
      const names = catalog.columns.map((c) => c.name);
      const lines = [names.map(quote).join(","), ...state.rows.map((i) => catalog.columns.map((c) => quote(safe(c.values[i]))).join(","))];
      const url = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
      el("a", { href: url, download: "sources.csv" }).click();
      setTimeout(() => URL.revokeObjectURL(url), 1000);
    }

    scroll.addEventListener("scroll", () => draw(false), { passive: true });
    new ResizeObserver(() => draw(true)).observe(scroll);
    heading(); filter();
  }

  return { make, parse };
})();
