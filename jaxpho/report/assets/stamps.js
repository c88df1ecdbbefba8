// The pixels of a patch as images again; the reverse of pixels.py.
"use strict";

const stamps = (() => {
  const MODEL_STEPS = 200, CHI_STEPS = 20, ERROR_STEPS = 64, OUTSIDE = -32768, MASKED = -32767;

  /** One exposure: {x0, y0, bin, nx, ny, sigma, data, model, chi, error}; NaN where there is none. */
  async function decode(packed) {
    const [model, chi, error] = await Promise.all(
      ["model", "chi", "error"].map((k) => jaxpho.unpack(packed[k])));
    const [ny, nx] = model.shape, n = nx * ny;
    const out = { ...packed, nx, ny };
    for (const k of ["data", "model", "chi", "error"]) out[k] = new Float32Array(n).fill(NaN);
    for (let i = 0; i < n; i++) {
      if (error[i] === OUTSIDE) continue;
      out.model[i] = Math.sinh(model[i] / MODEL_STEPS) * packed.sigma;
      if (error[i] === MASKED) continue;
      out.error[i] = packed.sigma * 2 ** (error[i] / ERROR_STEPS);
      out.chi[i] = chi[i] / CHI_STEPS;
      out.data[i] = out.model[i] + out.chi[i] * out.error[i];
    }
    return out;
  }

  /** Of all shown exposures of a patch, by the key of the exposure. */
  async function ofPatch(id) {
    const packed = await jaxpho.load(`pixels/${id}`);
    const keys = Object.keys(packed);
    const found = await Promise.all(keys.map((k) => decode(packed[k])));
    return Object.fromEntries(keys.map((k, i) => [k, found[i]]));
  }

  return { decode, ofPatch };
})();
