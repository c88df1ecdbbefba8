"""Where the patches of a run are worked on."""

from __future__ import annotations

import logging
from pathlib import Path

from jaxpho.config import Config
from jaxpho.run import worker
from jaxpho.run.field import Field
from jaxpho.superscene.child import ChildEngine
from jaxpho.superscene.cluster import DaskEngine
from jaxpho.superscene.here import HereEngine
from jaxpho.superscene.master import Engine
from jaxpho.superscene.options import EngineOptions
from jaxpho.superscene.worker import Work

log = logging.getLogger("jaxpho.run")

GB = 10**9


def make_engine(config: Config, found: Field, mixtures: Path) -> Engine:
    """The engine that the configuration asks for.

    Parameters
    ----------
    config : Config
    found : Field
        Served to an engine in this process.
    mixtures : file with the PSF mixtures.

    Raises
    ------
    InputError
        When a scheduler does not answer, or a package is missing.
    """
    options, folder = config.engine, Path(config.output)
    if options.workers == 0 and options.scheduler is None:
        return HereEngine(worker.work, worker.task_of(config, found.exposures, folder))
    context = worker.context_of(folder / "config.yml", mixtures, folder)
    work = Work("jaxpho.run.worker", context)
    limits = {"limit": options.limit, "memory": _bytes(options)}
    if options.scheduler is not None:
        log.info("workers of the scheduler %s", options.scheduler)
        return DaskEngine(
            work, scheduler=options.scheduler, certificates=_certificates(options), **limits
        )
    if options.dask:
        return DaskEngine(
            work, workers=options.workers, dashboard=options.dashboard,
            certificates=_certificates(options), **limits,
        )  # fmt: skip
    return ChildEngine(work, options.workers, **limits)


def _bytes(options: EngineOptions) -> int | None:
    return None if options.memory is None else int(options.memory * GB)


def _certificates(options: EngineOptions) -> dict[str, str] | None:
    found = {k: getattr(options.certificates, k) for k in ("ca", "cert", "key")}
    return {k: v or "" for k, v in found.items()} if any(found.values()) else None
