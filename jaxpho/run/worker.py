"""What a worker process of a run does: read the configuration's exposures once, then fit patches.

It is named to the engine as `Work("jaxpho.run.worker", context_of(...))`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxpho.cli import configure_backend
from jaxpho.config import load_config
from jaxpho.core.backend import check_backend
from jaxpho.data.ingest import read_images
from jaxpho.prepare import prepare_psfs
from jaxpho.run.field import first_mixture, n_radii, read_positions
from jaxpho.superscene import fitting
from jaxpho.superscene.fitting import Task

work = fitting.work
"""What is done about a message: see `jaxpho.superscene.fitting.work`."""


def context_of(config_file, mixtures, folder) -> dict:
    """The plain values that `prepare` needs.

    Parameters
    ----------
    config_file : the configuration.
    mixtures : HDF5 store with the PSF mixtures that the master has prepared.
    folder : where the files of samples go.
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
    configure_backend(config.precision, config.threads)
    check_backend()
    images = read_images(
        config.images, config.root, config.bands, unit=config.unit, require_psf=True,
        precision=config.precision,
    )  # fmt: skip
    prepare_psfs(images.exposures, read_positions(config, images), context["mixtures"])
    mixture = first_mixture(config)
    return Task(
        images.exposures, list(config.bands), config.fit, config.sample, mixture, n_radii(mixture),
        Path(context["folder"]), str(np.dtype(config.precision)), config.products.warmup,
        noise=config.noise,
    )  # fmt: skip
