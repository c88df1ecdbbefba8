"""What the configuration may say about where patches are fitted."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpho.errors import InputError
from jaxpho.schema import option


@dataclass
class CertificateOptions:
    """Files (PEM) for tls://."""

    ca: str | None = option(None, "certificate of the authority", path=True)
    cert: str | None = option(None, "certificate of this user or host", path=True)
    key: str | None = option(None, "its private key", path=True)


@dataclass
class EngineOptions:
    """Where patches are fitted; the catalogue does not depend on it."""

    workers: int = option(
        1,
        "processes on this machine, each supervised: a patch that hangs or takes its process down "
        "is survived; 0: in this process, which saves their start (seconds) and survives less",
        ge=0,
        le=1024,
    )
    scheduler: str | None = option(
        None, "address of a scheduler of dask.distributed, tcp://host:port or tls://host:port, "
        "whose workers see the same files; needs the extra dask",
    )  # fmt: skip
    certificates: CertificateOptions = option(CertificateOptions, "files for tls://")
    dask: bool = option(
        False, "the workers of this machine as a cluster of dask.distributed on the loopback "
        "address, instead of plain processes",
    )  # fmt: skip
    dashboard: str | None = option(
        None, "address of that cluster's dashboard, such as 127.0.0.1:8787 (default: none)"
    )
    limit: float | None = option(
        None, "wall time of a patch, a guard against hangs: one that takes longer is stopped and "
        "flagged timeout, and another run may then differ", unit="s", gt=0,
    )  # fmt: skip
    memory: float | None = option(
        None, "memory that a worker may take: beyond it, its patch is cut in two", unit="GB", gt=0
    )
    programs: str = option(
        "auto",
        "folder of compiled programs that later runs use again; auto: ~/.cache/jaxpho, for each "
        "kind of machine and version another one; none: none are kept",
    )

    def __post_init__(self):
        if self.dask and self.workers < 1:
            raise InputError("engine.dask: expected at least one of engine.workers")
