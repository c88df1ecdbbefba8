"""What a worker process of a run does: read the configuration's exposures once, then fit patches.

It is named to the engine as `Work("jaxpho.run.worker", context_of(...))`.
"""

from __future__ import annotations

import json
import logging
from importlib import metadata
from pathlib import Path

import numpy as np

from jaxpho.cli import configure_backend
from jaxpho.config import Config, load_config
from jaxpho.core.backend import check_backend
from jaxpho.data.ingest import read_images
from jaxpho.data.noise import tell_noise
from jaxpho.prepare import prepare_psfs
from jaxpho.run.field import first_mixture, read_positions
from jaxpho.run.folder import CHECKPOINTS, PATCHES
from jaxpho.run.products import Products
from jaxpho.superscene import fitting
from jaxpho.superscene.fitting import Task


def work(task: Task, message: dict) -> dict:
    """What is done about a message: see `jaxpho.superscene.fitting.work`."""
    return fitting.work(task, message)


def context_of(config_file, mixtures, folder) -> dict:
    """The plain values that `prepare` needs.

    Parameters
    ----------
    config_file : the configuration.
    mixtures : HDF5 store with the PSF mixtures that the master has prepared.
    folder : the run directory.
    """
    return {k: str(Path(v).absolute()) for k, v in
            (("config", config_file), ("mixtures", mixtures), ("folder", folder))}  # fmt: skip


def prepare(context: dict) -> Task:
    """Read what is the same for all patches; pixels of stores are read patch by patch.

    Raises
    ------
    InputError
        For input that makes the run impossible, as in `jaxpho.run.field.load_field`.
    """
    config = load_config(context["config"])
    configure_backend(config.precision, config.threads, config.engine.programs)
    check_backend()
    logging.disable(logging.WARNING)  # the master has said all this
    try:
        images = read_images(
            config.images, config.root, config.bands, unit=config.unit, require_psf=True,
            precision=config.precision,
        )  # fmt: skip
        tell_noise(images.exposures, config.noise.inflation, config.noise.correlation)
        prepare_psfs(images.exposures, read_positions(config, images), context["mixtures"])
    finally:
        logging.disable(logging.NOTSET)
    return task_of(config, images.exposures, context["folder"])


def task_of(config: Config, exposures, folder) -> Task:
    """What is the same for all patches of a run.

    Parameters
    ----------
    config : Config
    exposures : with PSF mixtures and measured noise.
    folder : the run directory.
    """
    folder = Path(folder)
    return Task(
        exposures, list(config.bands), config.fit, config.sample,
        mixture=first_mixture(config),
        finer=config.sources.sersic_mixture == "auto",
        whole=config.patches.pixels == "all",
        folder=folder / PATCHES,
        checkpoints=folder / CHECKPOINTS,
        precision=str(np.dtype(config.precision)),
        warmup=config.products.warmup,
        products=Products(config.products, exposures, folder / PATCHES),
        noise=config.noise,
        machine=machine(config.threads),
    )  # fmt: skip


def machine(threads: int) -> str:
    """What this process computes with: another one may round otherwise."""
    import jax

    device = jax.devices()[0]
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "numpyro", "numpy")}
    found = {"device": f"{device.platform} {device.device_kind}", "devices": jax.device_count()}
    return json.dumps(found | {"threads": threads} | versions)
