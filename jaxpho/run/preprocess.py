"""`jaxpho preprocess`: exposures into a meta store and a pixel store."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from dataclasses import fields
from pathlib import Path

from jaxpho.errors import InputError

log = logging.getLogger("jaxpho.preprocess")

DONE, SOME_FAILED = 0, 1

DESCRIPTION = """\
Read exposures as jaxpho-fit does (the same entries of `images`, the same presets), calibrate them,
subtract their sky, mask their bad pixels, and keep them in two files: a meta store (headers with
the WCS that was used, JSON) and a pixel store (fluxes and inverse errors in super-pixels of 8 x 8
pixels, HDF5). A fit from stores reads only the pixels that it needs.
"""

EPILOG = """\
Exposures that the stores hold already, made from the same files with the same options, are kept;
what has changed is made anew. Run the same command again after an interruption.

exit status: 0 all exposures are stored; 1 some failed (listed, the rest is stored); 2 wrong input
(one sentence says what); 70 internal error; 130 interrupted (finished exposures are kept)

examples:
  jaxpho preprocess --init stores.yml             write a commented configuration
  jaxpho preprocess stores.yml --dry-run          what would be stored, and how large it is
  jaxpho preprocess stores.yml --workers 8
  jaxpho preprocess fit.yml --output stores       the images of a fit's configuration
"""

HEADER = """\
## Configuration of jaxpho preprocess. Lines beginning with "##" explain; lines beginning with "#"
## show keys with their defaults: remove the "#" to change one. Relative paths are relative to this
## file; ${NAME} is replaced by the environment variable NAME.
"""

MAX_WORKERS = 4
"""Processes that are started unasked; images of 4096 x 4096 take 1.5 GB in each."""


def add_arguments(parser) -> None:
    """The arguments of the command."""
    parser.add_argument("config", nargs="?", metavar="CONFIG.yml", help="configuration file")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="override a key, dots between nested keys (images.0.error=ERR; "
        "'images.*.mask=DQ', quoted, for all entries)",
    )  # fmt: skip
    parser.add_argument(
        "--init", nargs="?", const="-", metavar="FILE",
        help="write a commented example configuration to FILE (or the terminal) and stop",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be stored, write nothing"
    )
    parser.add_argument(
        "--output", metavar="DIR",
        help="folder of the stores, instead of the config's; relative to the working directory",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, metavar="N",
        help="processes, instead of the config's; 0: one for each core, at most 4",
    )  # fmt: skip
    parser.add_argument(
        "--resume", action="store_true",
        help="go on with the stores that are there; this is what happens anyway",
    )  # fmt: skip
    parser.add_argument(
        "--overwrite", action="store_true", help="make everything anew, whoever made the stores"
    )
    parser.add_argument(
        "--others", choices=["keep", "drop"],
        help="what to do with exposures of the stores that the configuration does not name",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
    parser.add_argument("-v", "--verbose", action="store_true", help="debugging messages, too")


def example() -> str:
    """A commented configuration with every key."""
    from jaxpho.data.storeoptions import PreprocessConfig
    from jaxpho.example import example_yaml

    return HEADER + example_yaml(PreprocessConfig)


def load(args):
    """The configuration: ours, that of a fit (its other keys are passed over), or forcepho's.

    Raises
    ------
    InputError
        One sentence: the file, the key, what was found and what was expected.
    """
    from jaxpho.compat.config import is_forcepho
    from jaxpho.compat.preprocess import preprocess_values
    from jaxpho.config import Config, apply_override, read_yaml
    from jaxpho.data.storeoptions import PreprocessConfig
    from jaxpho.schema import Context, build

    path = Path(args.config)
    base = path.absolute().parent
    values = read_yaml(path)
    if is_forcepho(values):
        values = preprocess_values(values, path.name, base)
    touched: list[str] = []
    for assignment in args.overrides:
        touched += apply_override(values, assignment)
    ours = {f.name for f in fields(PreprocessConfig)}
    others = {f.name for f in fields(Config)} - ours
    unused = [key for key in values if key in others]
    if unused:
        log.info("%s: %s: for jaxpho-fit, not used here", path.name, ", ".join(unused))
    values = {key: value for key, value in values.items() if key not in others}
    if args.output is not None:
        values = {k: v for k, v in values.items() if k not in ("meta", "pixels")}
        values["stores"] = str(Path(args.output).absolute())
    if "stores" not in values:
        values["stores"] = "stores"
    if args.workers is not None:
        if args.workers < 0:
            raise InputError(f"--workers {args.workers}: expected a number >= 0")
        values["workers"] = args.workers
    config = build(PreprocessConfig, values, Context(path.name, base, tuple(touched)))
    config.root = config.root or str(base)
    return config


def _plan(config, args):
    """Jobs, failures, what is there, what of it nobody names, and which jobs need work."""
    from jaxpho.data.storecommit import foreign, read_existing
    from jaxpho.data.storejob import plan_jobs
    from jaxpho.data.storepart import part_of

    existing = read_existing(config, args.overwrite)
    jobs, failures = plan_jobs(config)
    strange = foreign(jobs, existing, failures)
    if strange and args.others is None:
        band, name = strange[0]
        raise InputError(
            f"{config.pixel_path} holds {len(strange)} exposures that the configuration does not "
            f"name, such as {band}/{name}; give --others keep or --others drop, or another folder "
            "with --output"
        )
    todo = [
        job
        for job in jobs
        if not existing.holds(job)
        and (args.overwrite or not part_of(job, config.parts).path.exists())
    ]
    return jobs, failures, existing, strange, todo


def dry_run(config, args) -> str:
    """What a run would do, in words: reads headers, writes nothing."""
    from jaxpho.data.storecommit import size_on_disk
    from jaxpho.data.storejob import planned_unit

    jobs, failures, existing, _, todo = _plan(config, args)
    new = {job.key for job in todo}
    lines = [f"meta store: {config.meta_path}", f"pixel store: {config.pixel_path}"]
    for band in dict.fromkeys(job.band for job in jobs):
        members = [job for job in jobs if job.band == band]
        lines.append(f"band {band}: {len(members)} exposures")
        for job in members:
            ny, nx = job.plan.shape
            unit = planned_unit(job) or "not known before it is read"
            state = "to be stored" if job.key in new else "finished"
            if existing.holds(job):
                state = "stored already"
            lines.append(f"  {job.id}: {job.plan.path}, {nx} x {ny} pixels, unit {unit}: {state}")
    lines += [f"left out: {f.path} ({f.reason})" for f in failures]
    lines.append(
        f"total: {len(jobs)} exposures, {len(todo)} of them to be stored; pixel store "
        f"{_bytes(size_on_disk(jobs))}, and the new exposures once more until it is complete"
    )
    return "\n".join(lines)


def _bytes(n: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"


def run(config, args) -> int:
    """Carry out the command; returns the exit code."""
    from jaxpho.data.exposuretable import print_table, write_table
    from jaxpho.data.storecommit import clean, commit, discard_parts, entries_of

    for path in (config.pixel_path, config.meta_path):
        if path.is_dir():
            raise InputError(f"{path} is a folder, expected a file to write")
    quiet = args.quiet or not sys.stderr.isatty()
    try:
        config.parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{config.parts} cannot be written ({error.strerror})") from None
    with _alone_in(config.pixel_path.parent):
        clean(config, parts=args.overwrite)
        try:
            jobs, failures, existing, strange, todo = _plan(config, args)
            for failure in failures:
                label = f"{failure.band}/{failure.id}" if failure.band else failure.id
                log.error("exposure %s failed: %s", label, failure.reason)
            failures += _work(config, jobs, todo, quiet)
            others = strange if args.others == "keep" else []
            entries = entries_of(jobs, existing, config.parts, others)
            if not entries:
                raise InputError(
                    f"none of the {len(failures)} exposures could be stored: {failures[0].reason}"
                )
            _tell_of_losses(entries, existing, strange)
            with _bar("pixel store", len(entries), quiet) as bar:
                changed = commit(config, entries, existing, lambda k, n: bar.update(k - bar.n))
        except InputError:
            with contextlib.suppress(OSError):
                config.parts.rmdir()  # only when nothing is in it
            raise
        rows = _rows(entries, failures)
        write_table(config.table_path, rows)
        discard_parts(config)
    if not args.quiet:
        print(print_table(rows))
    kept = sum(entry.kept for entry in entries)
    log.info(
        "%d exposures in %s (%s): %d stored now, %d kept, %d failed%s",
        len(entries), config.pixel_path, _bytes(config.pixel_path.stat().st_size),
        len(entries) - kept, kept, len(failures), "" if changed else "; nothing had changed",
    )  # fmt: skip
    log.info("for a fit: images: [{meta: %s, pixels: %s, psf: ...}]",
             config.meta_path, config.pixel_path)  # fmt: skip
    return SOME_FAILED if failures else DONE


def _work(config, jobs, todo, quiet: bool) -> list:
    """Make the parts of jobs; returns the failures."""
    from jaxpho.data.storecommit import size_on_disk
    from jaxpho.data.storejob import Failure
    from jaxpho.data.storepart import make_part
    from jaxpho.run.workers import run_jobs

    free = shutil.disk_usage(config.parts).free
    needed = size_on_disk(todo) + size_on_disk(jobs)
    if todo and needed > free:
        log.warning("the stores need %s until they are complete, the disk has %s free",
                    _bytes(needed), _bytes(free))  # fmt: skip
    workers = config.workers or min(MAX_WORKERS, _cores())
    workers = max(1, min(workers, len(todo)))
    if todo:
        log.info("%d of %d exposures to be stored, %d at a time", len(todo), len(jobs), workers)
    failures = []
    done = 0
    try:
        with _bar("exposures", len(todo), quiet) as bar:
            for outcome in run_jobs(make_part, [(job, config.parts) for job in todo], workers):
                job = todo[outcome.number]
                bar.update(1)
                done += 1
                if not outcome.error:
                    continue
                if job.plan.options.on_bad_exposure == "stop":
                    raise InputError(outcome.error)
                log.error("exposure %s failed: %s", job.label, outcome.error)
                failures.append(Failure(job.band, job.id, job.plan.path, outcome.error))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{done - len(failures)} of {len(todo)} exposures are finished and kept; the same "
            "command goes on"
        ) from None
    return failures


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _bar(text: str, total: int, quiet: bool):
    from tqdm import tqdm

    return tqdm(desc=text, total=total, unit="exposure", disable=quiet, leave=False)


def _tell_of_losses(entries, existing, strange) -> None:
    staying, strange = {entry.key for entry in entries}, set(strange)
    for key in existing.infos:
        if key not in staying:
            why = "the configuration does not name it" if key in strange else "it failed now"
            log.warning("%s/%s is taken out of the stores: %s", *key, why)


def _rows(entries, failures) -> list[dict]:
    rows = [e.info["summary"] | {"state": "kept" if e.kept else "stored"} for e in entries]
    return rows + [
        {"band": f.band, "exposure": f.id, "file": f.path.name, "state": "failed",
         "reason": f.reason}
        for f in failures
    ]  # fmt: skip


@contextlib.contextmanager
def _alone_in(folder: Path):
    """Hold the folder: a second run at the same time would take parts away from the first.

    The hold ends with the process, however it ends.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another jaxpho preprocess is writing here") from None
        except OSError as error:
            log.info("%s cannot be locked (%s): make sure that no other run writes there",
                     folder, error.strerror)  # fmt: skip
        yield
    finally:
        os.close(handle)
