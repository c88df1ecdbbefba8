"""The configuration of a run: one schema, read from YAML and `--set key=value`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from jaxpho.compat.config import is_forcepho, parse_config
from jaxpho.compat.translate import our_values
from jaxpho.core.sources import AUTO, SOURCE_TYPES
from jaxpho.data.options import CatalogOptions, ImageOptions
from jaxpho.errors import InputError
from jaxpho.example import example_yaml
from jaxpho.fit.options import FitOptions, NoiseOptions, SampleOptions
from jaxpho.schema import Context, build, describe, option, to_plain
from jaxpho.superscene.options import EngineOptions

HEADER = """\
## Configuration of jaxpho-fit. Lines beginning with "##" explain; lines beginning with "#" show
## keys with their defaults: remove the "#" to change one. Relative paths are relative to this
## file; ${NAME} is replaced by the environment variable NAME.
"""


@dataclass
class SourceOptions:
    """How sources are modelled."""

    type: str = option(
        "sersic",
        "profile of sources whose catalogue entry names none; auto: point, exp, dev or sersic, "
        "what fits each best (docs/models.md)",
        choices=(*SOURCE_TYPES, AUTO),
    )
    sersic_mixture: str = option(
        "auto",
        "Gaussian mixture of the Sersic profile: more components are more exact and slower; "
        "auto: k12, and k16 where a galaxy turns out so large and cuspy that the PSF does not "
        "hide the difference",
        choices=("k8", "k10", "k12", "k16", "auto"),
    )


@dataclass
class PatchOptions:
    """How the field is cut into patches of sources that are fitted together."""

    max_active: int = option(12, "largest number of sources fitted jointly", ge=1)
    radius_factor: float = option(
        4.0, "radius of influence of a source in half-light radii (major axis)", gt=0
    )
    min_radius: float = option(
        2.0, "smallest radius of influence, of point sources too", unit="arcsec", gt=0
    )
    max_radius: float = option(30.0, "largest radius of influence", unit="arcsec", gt=0)
    pixels: Literal["influence", "all"] = option(
        "influence",
        "pixels of a patch: those within the radius of influence of a source, or every pixel of "
        "every exposure (small cutouts)",
    )
    neighbours: Literal["fixed", "ignore"] = option(
        "fixed",
        "overlapping sources of another patch are modelled at their latest values, or ignored",
    )
    sweeps: int | None = option(
        None,
        "times that a source with neighbours in another patch is fitted: 2 by default; where it is "
        "drawn from 4, each time sample.num_samples draws a chain, the neighbours at their latest "
        "draws (docs/superscene.md)",
        ge=1,
        le=1000,
    )
    optimize_first: bool = option(
        True, "such sources are optimised once before any of them is drawn from"
    )
    span: float | None = option(
        None, "largest distance of the sources of a patch from its first (default: twice "
        "max_radius)", unit="arcsec", gt=0,
    )  # fmt: skip
    big_links: int | None = option(
        None, "a source that overlaps more others than this is fitted in patches of its own, and "
        "held in those of the others (default: twice max_active)", ge=1,
    )  # fmt: skip


@dataclass
class ProductOptions:
    """Which files are written beside the catalogue and the log."""

    samples: bool = option(True, "parameters, covariance and chains of each patch (HDF5)")
    residuals: bool = option(True, "data and residual of each pixel of each patch (HDF5)")
    images: bool = option(True, "model and residual image of each exposure (FITS)")
    plots: bool = option(True, "picture of each patch (PNG)")
    warmup: bool = option(
        True, "keep the draws of the warm-up in the files of samples (group `warmup`, at which "
        "forcepho's own reader stops: false where it is to read them)",
    )  # fmt: skip
    arviz: bool = option(
        False, "posterior of each patch as ArviZ InferenceData (NetCDF); needs the extra arviz"
    )
    forcepho: bool = option(
        False, "samples, residuals, catalogue and log in forcepho's layout and units, in the "
        "folder `forcepho` (forcepho's own configurations ask for it)",
    )  # fmt: skip
    forcepho_scene: str = option("outscene.fits", "file name of the catalogue in that folder")
    plot_exposures: int = option(2, "exposures shown per band in a picture", ge=1)

    def __post_init__(self):
        if Path(self.forcepho_scene).name != self.forcepho_scene or not (
            self.forcepho_scene.endswith(".fits")
        ):
            raise InputError(
                f"products.forcepho_scene: expected a file name that ends in .fits, found "
                f"'{self.forcepho_scene}'"
            )


@dataclass
class Config:
    """Everything a run needs, in the order in which a user thinks of it."""

    output: str = option(
        help="run directory: catalogue, log, chains, residuals, pictures", path=True, example="run"
    )
    bands: list[str] = option(help="bands, in the order of the tables", example=["g"])
    images: list[ImageOptions] = option(
        help="exposures; one entry may match many files",
        show={"science": "SCI", "error": "ERR", "psf": None, "psf.file": "psf_{band}.fits"},
    )
    peaks: CatalogOptions = option(help="list of the sources to measure")
    unit: Literal["auto", "nJy", "image"] = option(
        "auto",
        "unit of fluxes: nJy (an error if an exposure cannot be calibrated), the images' own "
        "(exposures of a band are brought to the scale of the first, where zero points tell it), "
        "or auto: nJy when every exposure can be calibrated",
    )
    sources: SourceOptions = option(SourceOptions, "how sources are modelled")
    fit: FitOptions = option(FitOptions, "priors and optimiser")
    noise: NoiseOptions = option(NoiseOptions, "what the errors of pixels are taken for")
    sample: SampleOptions = option(SampleOptions, "posterior sampling")
    patches: PatchOptions = option(PatchOptions, "how the field is cut into joint fits")
    products: ProductOptions = option(ProductOptions, "which files are written")
    engine: EngineOptions = option(EngineOptions, "where patches are fitted")
    root: str | None = option(
        None, "folder that relative paths of images and peaks start from (default: the folder "
        "of this file)", path=True,
    )  # fmt: skip
    psf_cache: str | None = option(
        None, "file with PSF mixtures to reuse between runs (default: in the run directory)",
        path=True,
    )  # fmt: skip
    seed: int = option(0, "seed of all random numbers", ge=0, lt=2**31)
    precision: Literal["float32", "float64"] = option("float32", "floating point of the fit")
    threads: int = option(
        1,
        "threads of the CPU backend; 0 uses all cores. One is the fastest: the kernels work within "
        "a core's cache, and sharing a block costs more than it gains",
        ge=0,
        le=1024,
    )

    def __post_init__(self):
        if not self.bands:
            raise InputError("'bands': expected at least one band, found an empty list")
        repeated = {band for band in self.bands if self.bands.count(band) > 1}
        if repeated:
            raise InputError(f"'bands': band {sorted(repeated)[0]!r} is listed twice")
        if not self.images:
            raise InputError("'images': expected at least one entry, found an empty list")
        given = {image.band for image in self.images if image.band}
        for band in sorted(given - set(self.bands)):
            raise InputError(f"'images': band {band!r} is not in 'bands' ({', '.join(self.bands)})")
        for band in self.bands:
            if given and band not in given and all(image.band for image in self.images):
                raise InputError(f"'bands': no entry of 'images' has band {band!r}")


class _UniqueLoader(yaml.SafeLoader):
    """A safe loader for which a key given twice is an error instead of the last one winning."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if isinstance(key, str) and key in seen and key_node.tag.endswith(":str"):
                line = key_node.start_mark.line + 1
                raise InputError(f"key '{key}' is given twice (line {line})")
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path) -> dict:
    """The mapping in a YAML file; InputError when it is missing or not YAML."""
    path = Path(path)
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path}: the configuration file {kind}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueLoader)  # noqa: S506
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path.name}: not a text file in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        if mark and re.search(r"[-:,\[]\s*[*{]", _line(path, mark.line)):
            problem += '; a value that begins with * or { needs quotes, as in "*.fits"'
        raise InputError(f"{path.name}{line}: not valid YAML: {problem}") from None
    except RecursionError:
        raise InputError(f"{path.name}: nested too deeply to be a configuration") from None
    if not isinstance(values, dict):
        raise InputError(f"{path.name}: expected a mapping of keys, found {describe(values)}")
    return _unshared(values, path.name)


def _line(path: Path, number: int) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return lines[number] if number < len(lines) else ""


MAX_VALUES, MAX_DEPTH = 1_000_000, 50
"""Limits of a configuration with its aliases written out."""


def _unshared(value, where: str):
    """A copy in which YAML aliases are separate, so that --set changes one entry only.

    Raises
    ------
    InputError
        For an alias that contains itself, or aliases of aliases that multiply beyond measure.
    """
    count = 0

    def copied(item, depth):
        nonlocal count
        count += 1
        if count > MAX_VALUES or depth > MAX_DEPTH:
            raise InputError(
                f"{where}: an alias (*name) contains itself, or the values are nested more than "
                f"{MAX_DEPTH} deep or more than {MAX_VALUES} in number"
            )
        if isinstance(item, dict):
            return {key: copied(inner, depth + 1) for key, inner in item.items()}
        return [copied(inner, depth + 1) for inner in item] if isinstance(item, list) else item

    return copied(value, 0)


def apply_override(values: dict, assignment: str) -> list[str]:
    """Set one `key.sub=value` in nested plain values, in place; the value is read as YAML.

    A list entry is addressed by its number ("images.0.psf.ngauss=6"), all of them by "*".
    Returns the dotted keys that were set.
    """
    key, equals, text = assignment.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"[^.\s]+(\.[^.\s]+)*", key):
        raise InputError(f"--set {assignment}: expected key=value, with dots between nested keys")
    # file patterns and templates are text: "*.fits" is no alias, "{stem}.fits" no mapping
    pattern = re.match(r"\s*(\*|\{\w+[^}:]*\}\S)", text)
    try:
        value = text.strip() if pattern else yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        raise InputError(f"--set {assignment}: '{text}' is not a valid YAML value") from None
    value = _unshared(value, f"--set {assignment}")
    done: list[str] = []
    _assign(values, key.split("."), value, [], done, assignment)
    return done


def _assign(node, keys: list[str], value, path: list[str], done: list[str], assignment: str):
    first, rest = keys[0], keys[1:]
    if isinstance(node, list):
        if first != "*" and not (first.isdigit() and int(first) < len(node)):
            raise InputError(
                f"--set {assignment}: '{'.'.join(path)}' has entries 0 to {len(node) - 1}, "
                f"found '{first}'"
            )
        chosen = range(len(node)) if first == "*" else [int(first)]
    elif isinstance(node, dict):
        chosen = [first]
    else:
        raise InputError(
            f"--set {assignment}: '{'.'.join(path)}' holds {describe(node)}, which has no keys"
        )
    for key in chosen:
        here = [*path, str(key)]
        if not rest:
            node[key] = value
            done.append(".".join(here))
            continue
        if isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        elif isinstance(node, list) and node[key] is None:
            node[key] = {}
        _assign(node[key], rest, value, here, done, assignment)


def load_config(path, overrides=(), output: str | None = None) -> Config:
    """Read a configuration file, ours or forcepho's.

    Parameters
    ----------
    path : YAML file; relative paths in it are relative to its folder.
    overrides : texts "key.sub=value", later ones win; relative paths as in the file.
    output : replaces the run directory, relative to the working directory.

    Raises
    ------
    InputError
        One sentence: the file, the key, what was found and what was expected.
    """
    values = read_yaml(path)
    if is_forcepho(values):
        folder = Path(path).absolute().parent
        values = our_values(parse_config(values, Path(path).name, folder))
    touched: list[str] = []
    for assignment in overrides:
        touched += apply_override(values, assignment)
    if output is not None:
        values["output"] = str(Path(output).absolute())
    base = Path(path).absolute().parent
    return _with_root(build(Config, values, Context(Path(path).name, base, tuple(touched))), base)


def config_from_dict(values: dict, base=None) -> Config:
    """A configuration from plain values (notebooks, tests); paths relative to `base`."""
    base = Path(base or ".").absolute()
    return _with_root(build(Config, values, Context("config", base)), base)


def _with_root(config: Config, base: Path) -> Config:
    """Paths inside `images` and `peaks` may be templates, so they are resolved when read."""
    config.root = config.root or str(base)
    return config


def dump_config(config: Config) -> str:
    """YAML text of a configuration, which `load_config` reads back to the same values."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)


def example_config() -> str:
    """A commented example with every key, its meaning, unit and default."""
    return HEADER + example_yaml(Config)
