// What all pages share: the data that scripts hand over, elements, numbers, arrays.
"use strict";

const jaxpho = (() => {
  const store = new Map();

  /** Called by the data scripts. */
  const put = (key, value) => store.set(key, value);
  const get = (key) => store.get(key);

  /** Load data/KEY.js unless it is here; pages on a disk cannot fetch, but they can load scripts. */
  const loading = new Map();
  function load(key) {
    if (store.has(key)) return Promise.resolve(store.get(key));
    if (!loading.has(key)) {
      loading.set(key, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `data/${key}.js`;
        script.onload = () => resolve(store.get(key));
        script.onerror = () => reject(new Error(`data/${key}.js cannot be loaded`));
        document.head.append(script);
      }));
    }
    return loading.get(key);
  }

  /** An element; children are nodes or text, never HTML. */
  function el(tag, attributes = {}, ...children) {
    return fill(document.createElement(tag), attributes, children);
  }
  function svg(tag, attributes = {}, ...children) {
    return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  }
  function fill(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes)) {
      if (value === undefined || value === null || value === false) continue;
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.flat().filter((c) => c !== null && c !== undefined));
    return node;
  }

  /** A section with a heading. */
  function section(title, ...children) {
    return el("section", {}, el("h2", {}, title), ...children);
  }

  /** The bytes of `jsdata.packed` as a typed array with `shape`. */
  async function unpack(packed) {
    const coded = Uint8Array.from(atob(packed.bytes), (c) => c.charCodeAt(0));
    const stream = new Blob([coded]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    const kinds = { f4: Float32Array, i2: Int16Array, u2: Uint16Array, u1: Uint8Array };
    const size = kinds[packed.kind].BYTES_PER_ELEMENT;
    const n = planes.length / size;
    const bytes = new Uint8Array(planes.length);
    for (let k = 0; k < size; k++) {
      for (let i = 0; i < n; i++) bytes[i * size + k] = planes[k * n + i];
    }
    const out = new kinds[packed.kind](bytes.buffer);
    out.shape = packed.shape;
    return out;
  }

  /** A number for people. */
  function number(value, digits = 4) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value).replace("-", "−");
    const size = Math.abs(value);
    let text;
    if (size >= 10 ** Math.max(digits, 6) || size < 1e-4) text = value.toExponential(digits - 1);
    else {
      const places = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
      text = value.toFixed(Math.min(places, 12));
    }
    return text.replaceAll("-", "−");
  }

  /** A value with the digits that its error deserves. */
  function withError(value, error) {
    if (value === null || value === undefined) return ["–", ""];
    if (!(error > 0) || !Number.isFinite(error)) return [number(value, 6), ""];
    const places = Math.max(0, 1 - Math.floor(Math.log10(error)));
    if (places > 10 || Math.abs(value) >= 1e9) return [number(value, 6), number(error, 2)];
    return [value.toFixed(places).replace("-", "−"), error.toFixed(places)];
  }

  /** Say what went wrong, where screen readers hear it. */
  function complain(error) {
    const place = document.getElementById("problem");
    place.textContent = error && error.message ? error.message : String(error);
    place.className = "notice";
  }

  /** Run the page's own part, now and whenever the part of the address after # changes. */
  function start(page) {
    const run = () => {
      document.getElementById("problem").className = "";
      document.getElementById("problem").textContent = "";
      Promise.resolve().then(page).catch(complain);
    };
    if (typeof DecompressionStream === "undefined") {
      complain("This browser is too old for these pages: DecompressionStream is missing.");
      return;
    }
    window.addEventListener("hashchange", run);
    // the part after # names what a page shows: skipping to the content must not change it
    document.querySelector(".skip").addEventListener("click", (e) => {
      e.preventDefault();
      document.getElementById("main").focus();
    });
    run();
  }

  /** The column of the catalogue, or undefined. */
  const columns = new Map();
  function column(name) {
    const catalog = get("catalog");
    if (!columns.size) for (const c of catalog.columns) columns.set(c.name, c);
    return columns.get(name);
  }
  function valueOf(name, row) {
    const found = column(name);
    return found ? found.values[row] : undefined;
  }

  /** The small picture of a source, out of its sheet. */
  function thumb(row, size = 32) {
    const side = 32, across = 16, down = 8, per = across * down;
    const catalog = get("catalog");
    const box = el("span", { class: "thumb", "aria-hidden": "true" });
    box.style.width = box.style.height = `${size}px`;
    if (catalog.thumbs[row] !== "1") return box;
    const k = row % per, scale = size / side;
    box.style.backgroundImage = `url("thumbs/${row - k}.png")`;
    box.style.backgroundSize = `${across * side * scale}px ${down * side * scale}px`;
    box.style.backgroundPosition =
      `${-(k % across) * size}px ${-Math.floor(k / across) * size}px`;
    return box;
  }

  const sourceLink = (row, ...children) => el(
    "a", { href: `source.html#${row}` }, ...(children.length ? children : [valueOf("id", row)]));
  const patchLink = (id, text) => el("a", { href: `patch.html#${id}` }, text ?? `patch ${id}`);

  /** The number after # in the address, or null. */
  function hashNumber() {
    const text = decodeURIComponent(location.hash.slice(1));
    return /^\d+$/.test(text) ? Number(text) : null;
  }

  const bandColor = (k) => `series-${k % 6}`;

  return { put, get, load, el, svg, section, unpack, number, withError, complain, start, column,
           valueOf, thumb, sourceLink, patchLink, hashNumber, bandColor };
})();
