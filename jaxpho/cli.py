"""The commands `jaxpho` and `jaxpho-fit`: parse, configure, run, exit code.

Heavy imports happen inside functions, after the environment is set, so that --help is fast.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from importlib import import_module
from pathlib import Path

from jaxpho.errors import InputError
from jaxpho.run import stop
from jaxpho.run.folder import claim
from jaxpho.run.logs import LogFile, log_to_terminal
from jaxpho.run.version import version

log = logging.getLogger("jaxpho.cli")

WRONG_INPUT, INTERNAL_ERROR, INTERRUPTED = 2, 70, 130
# The host's dense algebra is small: threads of BLAS slow the fit of PSF mixtures up to tenfold.
# numpy reads these when it is first imported, which is after this module.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
# Of every compiled program that is loaded from disk XLA says as an error, in kilobytes, that it was
# compiled with preferences which no processor lists among its features. It reads this when it is
# imported; what goes wrong comes as an exception, too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A GPU is shared by this process and its worker: none may take most of its memory beforehand.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

_EPILOG = """\
exit status: 0 all sources measured; 1 some sources failed or exposures were left out (flagged
in the catalogue, named in the log); 2 wrong input (one sentence says what); 70 internal error;
130 interrupted (finished patches are kept)

examples:
  jaxpho-fit --init config.yml        write a commented configuration
  jaxpho-fit config.yml --dry-run     what would be read and fitted, and how long it takes
  jaxpho-fit config.yml --set images.0.psf.ngauss=6 --set sample.method=none
  jaxpho-fit config.yml --workers 4   the same catalogue, sooner; Ctrl-C stops it in order
  jaxpho-fit config.yml --resume      go on where it was stopped or killed
"""


class Parser(argparse.ArgumentParser):
    """Wrong usage is one sentence on stderr and exit code 2."""

    def error(self, message):
        self.exit(WRONG_INPUT, f"{self.prog}: {message}\n")


def fit_parser(prog: str = "jaxpho-fit") -> argparse.ArgumentParser:
    """The arguments of `jaxpho-fit`."""
    parser = Parser(
        prog=prog,
        description="Measure positions, shapes, profiles and fluxes of all sources of a list, "
        "jointly in all exposures: images + PSFs + peaks in, catalogue with errors out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG.yml", help="configuration file")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, dots between nested keys (images.0.psf.ngauss=6; "
        "'images.*.psf.ngauss=6', quoted, for all entries)",
    )
    parser.add_argument(
        "--init",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write a commented example configuration to FILE (or the terminal) and stop",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done, write nothing"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="run directory, instead of the config's; relative to the working directory",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the results of an earlier run (its PSF mixtures are used again)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run that was stopped or killed: finished patches stay, chains continue "
        "where they were, and the catalogue is that of an undisturbed run",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes of this machine that fit patches (default 1; 0: in this one): the "
        "catalogue is the same for any number",
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="fit on the workers of a dask scheduler, tcp://host:port or tls://host:port (with "
        "engine.certificates), instead",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
    parser.add_argument("-v", "--verbose", action="store_true", help="debugging messages, too")
    parser.add_argument("--version", action="version", version=f"jaxpho {version()}")
    return parser


def fit_main(argv=None, prog: str = "jaxpho-fit") -> int:
    """Run `jaxpho-fit`; returns the exit code. Without `argv` it is the process's own command."""
    return _ended(guarded(prog, fit_parser(prog), _fit, argv), argv is None)


def _ended(code: int, own: bool) -> int:
    """The exit code; an interrupted process that has nothing else to do ends here."""
    if own and code == INTERRUPTED:
        stop.leave(code)
    return code


def guarded(prog: str, parser: argparse.ArgumentParser, work, argv=None) -> int:
    """Parse arguments, do the work, and turn what goes wrong into a sentence and an exit code."""
    args = parser.parse_args(argv)
    stop.on_signals()
    try:
        from jaxpho.data.warnlog import warnings_in_log

        with warnings_in_log():
            code = work(args)
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt as interrupt:
        text = str(interrupt) or "nothing was finished yet, the same command starts again"
        print(f"{prog}: interrupted; {text}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # "jaxpho-fit --init | head": the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # a defect of ours: one line for the user, the traceback is in the run's log
        log.debug("unexpected error", exc_info=True)
        kind = type(error).__name__
        print(f"{prog}: internal error ({kind}: {error}); please report it", file=sys.stderr)
        return INTERNAL_ERROR


def _fit(args) -> int:
    if args.init is not None:
        return _init(args.init)
    if args.config is None:
        raise InputError("no configuration given; --init FILE writes an example")
    from jaxpho.config import load_config

    if args.resume and args.overwrite:
        raise InputError("--resume goes on with what --overwrite would delete: give one of them")
    given = {"workers": args.workers, "scheduler": args.scheduler}
    overrides = [f"engine.{k}={v}" for k, v in given.items() if v is not None]
    config = load_config(args.config, args.overrides + overrides, args.output)
    folder = Path(config.output)
    if not args.dry_run:
        claim(folder, args.overwrite, Path(args.config), args.resume)
    configure_backend(config.precision, config.threads, config.engine.programs)
    terminal = log_to_terminal(args.quiet, args.verbose)
    try:
        from jaxpho.core.backend import check_backend

        check_backend()
        if args.dry_run:
            from jaxpho.run.estimate import dry_run

            terminal.setLevel(logging.WARNING)
            print(dry_run(config))
            try:
                claim(folder, args.overwrite, Path(args.config), args.resume)
            except InputError as error:
                print(f"the run itself would stop: {error}")
            return 0
        from jaxpho.run.fit import FRESH, GO_ON

        mode = FRESH if args.overwrite else GO_ON if args.resume else ""
        return _run(config, args, mode)
    finally:
        logging.getLogger("jaxpho").removeHandler(terminal)


def _run(config, args, mode: str) -> int:
    """The run itself, with its log."""
    from jaxpho.run.fit import run

    with LogFile(Path(config.output) / "run.log"):
        log.info("jaxpho %s, configuration %s", version(), args.config)
        return run(config, args.quiet or not sys.stderr.isatty(), mode)


def retry_main(argv=None, prog: str = "jaxpho retry") -> int:
    """Run `jaxpho retry`; returns the exit code."""
    from jaxpho.run import retry

    parser = Parser(prog=prog, description=retry.DESCRIPTION)
    retry.add_arguments(parser)
    return guarded(prog, parser, _retry, argv)


def _retry(args) -> int:
    from jaxpho.run import retry

    terminal = log_to_terminal(args.quiet, args.verbose)
    try:
        config = retry.load(args)
        configure_backend(config.precision, config.threads, config.engine.programs)
        args.config = Path(args.run) / "config.yml"
        return _run(config, args, retry.MODE)
    finally:
        logging.getLogger("jaxpho").removeHandler(terminal)


def _init(target: str, text: str | None = None, then: str = "jaxpho-fit {} --dry-run") -> int:
    if text is None:
        from jaxpho.config import example_config

        text = example_config()
    if target == "-":
        print(text, end="")
        return 0
    path = Path(target)
    if path.exists():
        raise InputError(f"{path} exists; --init does not overwrite files")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {path.absolute().parent} does not exist")
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}; edit it, then: {then.format(path)}")
    return 0


def configure_backend(precision: str, threads: int, programs: str = "none") -> None:
    """Floating point, threads and compiled programs of JAX, before its first computation.

    Parameters
    ----------
    precision : "float32" or "float64".
    threads : of the CPU backend; 0 for all cores.
    programs : folder of compiled programs, "auto" or "none" (`jaxpho.run.programs`).
    """
    if threads > 0:
        # XLA's CPU client reads these when it starts
        os.environ["NPROC"] = os.environ["PJRT_NPROC"] = str(threads)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    import jax

    if precision == "float64":
        jax.config.update("jax_enable_x64", True)
    from jaxpho.run.programs import keep_programs

    keep_programs(programs)


def _verb(
    name: str,
    first: str = "config",
    metavar: str = "CONFIG.yml",
    text: str = "configuration file",
):
    """The command of a module of `jaxpho.run` that has `add_arguments` and `run`.

    Its first argument is `first` of the arguments, shown and explained as given here.
    """

    def command(argv=None, prog: str = f"jaxpho {name}") -> int:
        module = import_module(f"jaxpho.run.{name}")
        parser = Parser(
            prog=prog,
            description=module.DESCRIPTION,
            epilog=getattr(module, "EPILOG", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument(first, metavar=metavar, help=text)
        module.add_arguments(parser)
        parser.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
        parser.add_argument("-v", "--verbose", action="store_true", help="debugging messages, too")

        def work(args) -> int:
            terminal = log_to_terminal(args.quiet, args.verbose)
            try:
                return module.run(args)
            finally:
                logging.getLogger("jaxpho").removeHandler(terminal)

        return guarded(prog, parser, work, argv)

    return command


def preprocess_main(argv=None, prog: str = "jaxpho preprocess") -> int:
    """Run `jaxpho preprocess`; returns the exit code."""
    from jaxpho.run import preprocess

    parser = Parser(
        prog=prog,
        description=preprocess.DESCRIPTION,
        epilog=preprocess.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    preprocess.add_arguments(parser)
    return guarded(prog, parser, _preprocess, argv)


def _preprocess(args) -> int:
    from jaxpho.run import preprocess

    if args.init is not None:
        return _init(args.init, preprocess.example(), "jaxpho preprocess {} --dry-run")
    if args.config is None:
        raise InputError("no configuration given; --init FILE writes an example")
    terminal = log_to_terminal(args.quiet, args.verbose)
    try:
        config = preprocess.load(args)
        if args.dry_run:
            terminal.setLevel(logging.WARNING)
            print(preprocess.dry_run(config, args))
            return 0
        with LogFile(Path(config.stores) / "preprocess.log"):
            log.info("jaxpho %s, configuration %s", version(), args.config)
            return preprocess.run(config, args)
    finally:
        logging.getLogger("jaxpho").removeHandler(terminal)


VERBS = {
    "fit": (fit_main, "measure the sources of images: the same as jaxpho-fit"),
    "preprocess": (preprocess_main, "exposures into a meta store and a pixel store"),
    "evaluate": (_verb("evaluate"), "chi2, its gradient and the packed arrays of one patch"),
    "render": (_verb("render"), "model and residual images of a catalogue"),
    "status": (
        _verb("status", "run", "RUN", "run directory"),
        "how far a run is, from any host",
    ),
    "retry": (retry_main, "fit the sources of failed patches of a run again"),
    "export": (
        _verb("export", "run", "RUN", "run directory"),
        "catalogues, chains, regions, images and cutouts of a run",
    ),
    "report": (
        _verb("report", "run", "RUN", "run directory"),
        "pages to look at a run in a browser: sources, patches, residuals, posteriors",
    ),
}


def main(argv=None) -> int:
    """Run `jaxpho VERB ...`; returns the exit code."""
    own, argv = argv is None, sys.argv[1:] if argv is None else list(argv)
    lines = [f"  {name:10s} {text}" for name, (_, text) in VERBS.items()]
    parser = Parser(
        prog="jaxpho",
        description="Forward-modelling photometry and shapes of galaxies.",
        epilog="verbs:\n" + "\n".join(lines) + "\n\njaxpho VERB --help explains each",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jaxpho {version()}")
    parser.add_argument("verb", choices=sorted(VERBS), metavar="VERB")
    args = parser.parse_args(argv[:1])
    command, _ = VERBS[args.verb]
    return _ended(command(argv[1:], prog=f"jaxpho {args.verb}"), own)
