"""The fit of one data set, by the code of `jaxpho-fit`, and what is kept of it."""

import time

import jax
import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

from jaxpho.fit.driver import fit_patch
from jaxpho.fit.options import SampleOptions


def sampling_of(method, min_ess, max_rhat):
    """`SampleOptions` of the suite; draws in small rounds, as few suffice."""
    return SampleOptions(
        method=method, min_ess=min_ess, max_rhat=max_rhat, num_samples=50, max_rounds=32
    )


def names_of(labels):
    """Names of parameters: "flux r", "rhalf", with the number of the source where there are
    several."""
    several = len({owner for owner, _, _ in labels}) > 1
    out = []
    for owner, name, band in labels:
        parts = [name, *([band] if band else []), *([str(owner + 1)] if several else [])]
        out.append(" ".join(parts))
    return out


def fit_one(data, seed, number, options, sampling):
    """Record of a fit, as plain numbers.

    Parameters
    ----------
    data : simulate.DataSet
    seed, number : int
    options : FitOptions
    sampling : SampleOptions

    Returns
    -------
    dict
        See `results`. A fit that raises has ``error`` instead of results.
    """
    design = data.design
    record = {
        "number": number, "sn_nominal": design.sn, "separation": design.separation,
        "sn_true": data.sn.tolist(), "truth": data.truth.tolist(),
    }  # fmt: skip
    clock = time.process_time()
    try:
        key = jax.random.fold_in(jax.random.PRNGKey(seed), number)
        result = fit_patch(data.packed, data.peaks, options, sampling, key=key)
    except Exception as error:  # what fails is counted, and shown
        return record | {"error": f"{type(error).__name__}: {error}"}
    draws = np.asarray(result.samples, np.float64)
    flat = draws.reshape(-1, draws.shape[-1])
    chi2 = sum(
        ((p["data"].astype(float) - p["model"]) ** 2 * p["ierr"].astype(float) ** 2).sum()
        for p in result.pixels.values()
    )
    power = sum(((p["model"].astype(float) * p["ierr"]) ** 2).sum() for p in result.pixels.values())
    diagnostics = result.diagnostics
    return record | {
        "rank": (flat < data.truth).mean(0).tolist(),
        "mean": flat.mean(0).tolist(),
        "sd": flat.std(0, ddof=1).tolist(),
        "laplace": np.sqrt(np.diag(result.covariance)).tolist(),
        "mode": np.asarray(result.theta, float).tolist(),
        "ess": float(np.nanmin(effective_sample_size(draws))),
        "rhat": float(np.nanmax(split_gelman_rubin(draws))),
        "draws": len(flat),
        "divergences": int(diagnostics["divergences"]),
        "gradients": int(diagnostics["gradients"] + diagnostics["warmup_gradients"]),
        "converged": bool(diagnostics["converged"]),
        "flags": np.asarray(result.flags).tolist(),
        "sn": float(np.sqrt(power)),
        "chi2": float(chi2),
        "npix": int(np.sum(result.npix)),
        "seconds": time.process_time() - clock,
    }
