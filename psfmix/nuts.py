"""The posterior of a Gaussian mixture given one PSF image, by numpyro's NUTS."""

import logging
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.hmc import hmc
from numpyro.infer.util import log_density
from tqdm import tqdm

from jaxpho.errors import InputError
from psfmix.choice import best_draw
from psfmix.density import Density, likelihood_target, log_likelihood, whitened_mixture
from psfmix.fit import MixtureFit, build_targets, floor_of, from_array, measure, to_array
from psfmix.kernels import Rows
from psfmix.model import AMP
from psfmix.modes import start_mode, whitening
from psfmix.optioncheck import check_sampling
from psfmix.posterior import (
    BACKGROUND,
    COMPONENT_NAMES,
    MixturePosterior,
    diagnose,
    in_order_of_width,
)
from psfmix.priors import Layout, Prior
from psfmix.target import check_image

log = logging.getLogger("psfmix.nuts")

CHUNK = 25
"""Iterations of one call of the compiled program: warm-up and draws share it."""
# Acceptance that steps are adapted to, and that of a second run where trajectories diverged.
_TARGET_ACCEPT = (0.9, 0.98)
_MAX_TREE_DEPTH = 7
# Spread of the chains' starts about the mode, in units of the whitened coordinates.
_SPREAD = 0.5
_MAX_RHAT = 1.1


class _Settings(NamedTuple):
    """What a sampling program is compiled for."""

    layout: Layout
    num_warmup: int
    target_accept: float


class _Arguments(NamedTuple):
    """What the density depends on, see `psfmix.density.whitened_mixture`."""

    rows: Rows
    prior: Prior
    centre: jax.Array
    factor: jax.Array


class _Sampler:
    """Compiled starts and steps of vectorised chains."""

    def __init__(self, settings):
        self.settings = settings
        self._init, self._sample = hmc(potential_fn_gen=self._potential, algo="NUTS")
        self.begin = jax.jit(jax.vmap(self._begin, (0, 0, None)))
        self.advance = jax.jit(self._advance)

    def _potential(self, *arguments):
        model = partial(whitened_mixture, layout=self.settings.layout)

        def energy(xi):
            return -log_density(model, arguments, {}, {"xi": xi})[0]

        return energy

    def _begin(self, key, xi, arguments):
        return self._init(
            xi,
            num_warmup=self.settings.num_warmup,
            step_size=0.5,
            adapt_mass_matrix=True,
            dense_mass=True,
            target_accept_prob=self.settings.target_accept,
            max_tree_depth=_MAX_TREE_DEPTH,
            find_heuristic_step_size=False,
            model_args=tuple(arguments),
            rng_key=key,
        )

    def _advance(self, state, arguments):
        """`CHUNK` iterations of all chains: state, then z, log likelihood and statistics."""
        sample = jax.vmap(lambda s: self._sample(s, model_args=tuple(arguments)))

        def density(xi):
            z = arguments.centre + jnp.sum(arguments.factor * xi, -1)
            return z, log_likelihood(z, arguments.rows, self.settings.layout)

        def step(state, _):
            state = sample(state)
            found = (state.diverging, state.num_steps, state.accept_prob)
            return state, (*jax.vmap(density)(state.z), *found)

        return jax.lax.scan(step, state, length=CHUNK)


@lru_cache(maxsize=16)
def _sampler(settings):
    """One object per configuration: compiled programs live on it."""
    return _Sampler(settings)


def sample_mixture(
    image,
    start,
    *,
    snr=20.0,
    oversample=1.0,
    includes_pixel=False,
    normalize="stamp",
    trim=0,
    signed=False,
    fix_amplitude=False,
    fit_bg=False,
    start_background=None,
    num_warmup=300,
    num_samples=500,
    num_chains=2,
    seed=0,
    progress=True,
    center=None,
    weight=None,
    floor=None,
):
    """Draw mixtures from their posterior given a PSF image.

    The pixels of the trimmed image are taken as independent and normal, with the same
    sigma = max(image) / snr. They are compared one by one for images of up to 10000 pixels, and
    far from the core in blocks for larger ones (see `psfmix.density.likelihood_target`); the
    encircled-energy rows of the optimiser are sums of the same pixels and do not count again.
    Priors are weak and proper (see `psfmix.priors.Prior`). Amplitudes are logarithmic (linear when
    `signed`) and their sum is free: how much the noise leaves open is part of the posterior.

    The chains start around the mode that is nearest to the optimum, in coordinates whitened with
    the Fisher matrix there; step size and a dense mass matrix are adapted from then on, as these
    posteriors are far from normal. At a low snr that mode may be sharp and hold a tiny part of the
    posterior, which a chain leaves late or not at all: the chains then start at the mode near the
    best round mixtures, if that holds e^5 times more by Laplace's approximation. If trajectories
    diverge, all is drawn again with smaller steps.

    Parameters
    ----------
    image : array (ny, nx)
        The PSF; pixels that are not finite are ignored.
    start : MixtureFit or structured array of `PSF_DTYPE`, shape (ngauss,)
        The optimum, from `psfmix.fit.fit_mixture` with the same options. Amplitudes of an array
        are taken to follow `normalize`.
    snr : float
        max(image) / sigma, with the largest usable pixel of the trimmed image.
    oversample, includes_pixel, normalize, trim, signed, center, weight, floor
        See `psfmix.fit.fit_mixture`. With a `weight`, sigma is that of the pixels of largest
        weight.
    fix_amplitude : bool
        Hold the amplitudes at the optimum's.
    fit_bg : bool
        Add a constant background. Amplitudes of the stored mixture then sum to the stamp's sum
        less that of its background (or to 1), those of draws to what they were drawn as.
    start_background : float, optional
        Background that belongs to the start, in units of the peak; default: what fits best.
    num_warmup, num_samples : int
        Iterations of each chain; warm-up is rounded up to a multiple of 25.
    num_chains : int
        Chains, run as one vectorised program.
    seed : int
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    MixturePosterior

    Raises
    ------
    InputError
        The image, the start or an option cannot be used.
    """
    counts = {"num_warmup": num_warmup, "num_samples": num_samples, "num_chains": num_chains}
    check_sampling(counts, seed, snr)
    if floor is not None and not (np.isfinite(floor) and floor > 0):
        raise InputError(f"floor is {floor}; expected a positive number of pixels")
    *_, total = check_image(
        image, oversample=oversample, normalize=normalize, trim=trim, center=center, weight=weight
    )
    layout = {
        "oversample": float(oversample),
        "includes_pixel": includes_pixel,
        "normalize": "unit",
        "trim": trim,
        "center": center,
        "weight": weight,
    }
    target = likelihood_target(image, **layout)
    unit = total if normalize == "stamp" else 1.0
    floor = floor_of(target) if floor is None else floor
    optimum = _optimum(start, target, unit, total, normalize, includes_pixel, signed)
    kind = Layout(len(optimum), bool(signed), bool(fix_amplitude), bool(fit_bg))
    if kind.size > len(target.x):
        raise InputError(
            f"{kind.size} free parameters for a PSF image with {len(target.x)} usable samples"
        )
    density = Density(
        target, target.peak / snr, kind, float(floor), optimum[:, AMP], start_background
    )
    judge, _ = build_targets(image, **layout)
    found = _sampled(density, *start_mode(optimum, density, judge), counts, seed, progress)
    return _posterior(found, density, judge, optimum, unit, normalize, includes_pixel, counts, seed)


def _optimum(start, target, unit, total, normalize, includes_pixel, signed):
    """The start as float64 (ngauss, 6), amplitudes relative to the stamp's sum."""
    if isinstance(start, MixtureFit):
        for name, here in (
            ("oversample", target.oversample),
            ("includes_pixel", bool(includes_pixel)),
        ):
            if getattr(start, name) != here:
                raise InputError(f"the start has {name}={getattr(start, name)}; {here} was given")
        unit = {"unit": 1.0, "stamp": total}[start.amplitude_sum]
        start = start.parameters
    raw = np.atleast_2d(to_array(start))
    if raw.ndim != 2 or not np.all(np.isfinite(raw)):
        raise InputError(
            f"the start of the sampler has shape {np.shape(start)} and "
            f"{np.count_nonzero(~np.isfinite(raw))} values that are not finite; expected the "
            "finite parameters of one mixture"
        )
    if not signed and np.any(raw[:, AMP] <= 0):
        worst = raw[:, AMP].min()
        raise InputError(
            f"the start of the sampler has an amplitude of {worst:.3g}; amplitudes must be "
            "positive unless signed is set"
        )
    raw[:, AMP] /= unit
    return raw


def _sampled(density, centre, curvature, counts, seed, progress):
    """What `_run` finds, with smaller steps where trajectories diverged."""
    gradients = 0
    for accept in _TARGET_ACCEPT:
        found = _run(density, centre, curvature, counts, seed, progress, accept)
        gradients += found["num_gradients"]
        if not found["divergences"]:
            break
        if accept != _TARGET_ACCEPT[-1]:
            log.info("%d divergences: drawing again with smaller steps", found["divergences"])
    return found | {"num_gradients": gradients}


def _run(density, centre, curvature, counts, seed, progress, accept):
    """Warm up and draw; arrays [iteration, chain, ...] of the draws, and of all the work."""
    warmup = -(-counts["num_warmup"] // CHUNK)
    rounds = -(-counts["num_samples"] // CHUNK)
    sampler = _sampler(_Settings(density.layout, warmup * CHUNK, accept))
    dtype = jnp.asarray(0.0).dtype
    arguments = _Arguments(
        density.rows(centre, dtype),
        Prior(*(jnp.asarray(value, dtype) for value in density.prior)),
        jnp.asarray(centre, dtype),
        jnp.asarray(whitening(curvature), dtype),
    )
    start_key, key = jax.random.split(jax.random.key(seed))
    shape = (counts["num_chains"], len(centre))
    xi = _SPREAD * jax.random.normal(start_key, shape, dtype)
    state = sampler.begin(jax.random.split(key, shape[0]), xi, arguments)
    gradients, parts = 0, []
    with tqdm(total=(warmup + rounds) * CHUNK, desc="nuts", disable=not progress) as bar:
        for k in range(warmup + rounds):
            state, found = sampler.advance(state, arguments)
            found = [np.asarray(a) for a in found]
            gradients += int(found[3].sum())
            if k >= warmup:
                parts.append(found)
            bar.update(CHUNK)
    arrays = [np.concatenate(a)[: counts["num_samples"]] for a in zip(*parts, strict=True)]
    z, likelihood, diverging, steps, accept = (np.swapaxes(a, 0, 1) for a in arrays)
    raw, background = density.components(centre)
    return {
        "z": z,
        "log_likelihood": likelihood.astype(float) + density.log_likelihood(raw, background),
        "divergences": int(diverging.sum()),
        "num_gradients": gradients,
        "accept": float(accept.mean()),
        "step_size": float(np.mean(state.adapt_state.step_size)),
        "statistics": {"diverging": diverging, "n_steps": steps, "acceptance_rate": accept},
    }


def _posterior(found, density, judge, optimum, unit, normalize, includes_pixel, counts, seed):
    """Draws in the caller's units, diagnostics and the best draw."""
    layout, target = density.layout, density.target
    raw, background = density.components(found["z"])
    (at, chosen, level, value), first = best_draw(
        found["log_likelihood"], raw, background, density, judge, optimum, unit
    )
    scale = np.array([unit, 1, 1, 1, 1, 1])
    draws = {name: (raw * scale)[..., k] for k, name in enumerate(COMPONENT_NAMES)}
    # from surface brightness relative to the peak to flux per image pixel
    sky = target.peak * unit / target.oversample**2
    if layout.fit_bg:
        draws[BACKGROUND] = background * sky
    sampled_rhat, sampled_ess = diagnose(draws)
    # Components of equal width trade places: as sampled, each would look like two.
    rhat, ess = diagnose(in_order_of_width(draws))
    worst = max((np.nanmax(r) for r in rhat.values() if np.any(np.isfinite(r))), default=np.nan)
    if worst > _MAX_RHAT:
        log.warning(
            "R-hat up to %.2f: chains visit different mixtures that describe the image alike; "
            "draws of single components mean little, the stored mixture does not depend on them",
            worst,
        )
    light = density.light(level) if normalize == "unit" else 1.0
    parameters = from_array(chosen * scale / [light, 1, 1, 1, 1, 1])
    fit = measure(
        parameters,
        replace(target, image=(target.image * unit - level * sky) / light, total=unit / light),
        includes_pixel,
        normalize,
        layout.signed,
    )
    log.info(
        "NUTS: %d chains of %d draws, %d gradients, %d divergences, R-hat up to %.3f, at least "
        "%.0f effective samples; the best draw is %s",
        counts["num_chains"],
        counts["num_samples"],
        found["num_gradients"],
        found["divergences"],
        worst,
        min((np.nanmin(e) for e in ess.values() if np.any(np.isfinite(e))), default=np.nan),
        "the optimum" if at is None else f"draw {at[1]} of chain {at[0]}",
    )
    return MixturePosterior(
        parameters=parameters,
        draws=draws,
        log_likelihood=found["log_likelihood"],
        divergences=found["divergences"],
        rhat=sampled_rhat,
        ess=sampled_ess,
        num_gradients=found["num_gradients"],
        best=at,
        best_log_likelihood=value,
        optimum_log_likelihood=first,
        background=level * sky,
        sigma=density.sigma * unit / target.oversample**2,
        fit=fit,
        step_size=found["step_size"],
        accept=found["accept"],
        num_warmup=counts["num_warmup"],
        seed=seed,
        statistics=found["statistics"],
    )
