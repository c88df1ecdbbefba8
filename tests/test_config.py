"""The configuration: what it accepts, and the one sentence it answers to each kind of mistake."""

import re

import pytest
import yaml

from jaxpho.cli import VERBS
from jaxpho.config import (
    Config,
    apply_override,
    config_from_dict,
    dump_config,
    example_config,
    load_config,
)
from jaxpho.errors import InputError
from jaxpho.schema import Context, build

GOOD = """\
output: run
bands: [g, r]
images:
  - {band: g, files: g.fits, psf: &psf {file: psf.fits}}
  - {band: r, files: [r1.fits, r2.fits], psf: *psf}
peaks: {file: peaks.fits}
"""


def write(tmp_path, text):
    path = tmp_path / "CONFIG.yml"
    path.write_text(text)
    return path


def message(tmp_path, text, *overrides):
    with pytest.raises(InputError) as caught:
        load_config(write(tmp_path, text), overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_minimal_configuration(tmp_path):
    config = load_config(write(tmp_path, GOOD))
    assert config.bands == ["g", "r"]
    assert config.output == str(tmp_path / "run")
    assert config.peaks.file == str(tmp_path / "peaks.fits")
    assert config.root == str(tmp_path)
    assert config.images[1].files == [str(tmp_path / "r1.fits"), str(tmp_path / "r2.fits")]
    assert config.sample.method == "nuts"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "images:",
            "imges:",
            "CONFIG.yml: unknown key 'imges' at top level; did you mean 'images'?",
        ),
        (
            "band: g, files",
            "bnd: g, files",
            "CONFIG.yml: unknown key 'bnd' at 'images.0'; did you mean 'band'?",
        ),
        (
            "output: run",
            "output: run\nfit: {max_iterations: many}",
            "CONFIG.yml: 'fit.max_iterations': expected a whole number, found 'many' (text)",
        ),
        (
            "output: run",
            "output: run\nseed: -1",
            "CONFIG.yml: 'seed': expected a value at least 0, found -1",
        ),
        (
            "output: run",
            "output: run\nprecision: float16",
            "CONFIG.yml: 'precision': expected one of float32, float64, found 'float16'; "
            "did you mean 'float64'?",
        ),
        (
            "output: run",
            "output: run\nfit: 3",
            "CONFIG.yml: 'fit': expected a mapping of keys to values, found 3 (a whole number)",
        ),
        (
            "output: run",
            "output: run\nproducts: {plots: 1}",
            "CONFIG.yml: 'products.plots': expected true or false, found 1 (a whole number)",
        ),
        (
            "bands: [g, r]",
            "bands: [g, off]",
            "CONFIG.yml: 'bands.1': expected text, found false (an unquoted yes, no, on, off, "
            "true or false)",
        ),
        ("bands: [g, r]", "bands: [g, g]", "CONFIG.yml: 'bands': band 'g' is listed twice"),
        (
            "bands: [g, r]",
            "bands: [g, r, i]",
            "CONFIG.yml: 'bands': no entry of 'images' has band 'i'",
        ),
        (
            "bands: [g, r]",
            "bands: [g]",
            "CONFIG.yml: 'images': band 'r' is not in 'bands' (g)",
        ),
        (
            "peaks: {file: peaks.fits}",
            "",
            "CONFIG.yml: missing key 'peaks' at top level (list of the sources to measure)",
        ),
        (
            "output: run",
            "output: run\noutput: run2",
            "CONFIG.yml: key 'output' is given twice (line 2)",
        ),
        (
            "output: run",
            "output: ${JAXPHO_NO_SUCH_VARIABLE}/run",
            "CONFIG.yml: 'output': environment variable JAXPHO_NO_SUCH_VARIABLE is not set",
        ),
        (
            "output: run",
            "output: run\nfit: {priors: {rhalf: {low: 2, high: 1}}}",
            "CONFIG.yml: 'fit.priors.rhalf': prior: low = 2 is not below high = 1",
        ),
    ],
)
def test_each_mistake_has_its_sentence(tmp_path, old, new, expected):
    assert message(tmp_path, GOOD.replace(old, new)) == expected


def test_a_key_like_no_other_lists_the_known_ones(tmp_path):
    text = message(tmp_path, GOOD + "sources: {zzz: 1}\n")
    assert text == ("CONFIG.yml: unknown key 'zzz' at 'sources'; known keys: type, sersic_mixture")


def test_files_that_are_not_a_configuration(tmp_path):
    with pytest.raises(InputError, match="configuration file does not exist"):
        load_config(tmp_path / "none.yml")
    with pytest.raises(InputError, match="configuration file is a folder"):
        load_config(tmp_path)
    assert "CONFIG.yml, line 2: not valid YAML" in message(tmp_path, "a: [1,\nb: }")
    assert "contains itself" in message(tmp_path, "a: &a [*a]")
    laughs = "\n".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 10)}]" for i in range(1, 10))
    assert "1000000 in number" in message(tmp_path, f"k0: &k0 [x]\n{laughs}")
    assert "nested too deeply" in message(tmp_path, "a: " + "[" * 5000 + "]" * 5000)
    assert "expected a mapping of keys" in message(tmp_path, "- 1\n")
    assert "expected a mapping of keys, found nothing" in message(tmp_path, "")
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="UTF-8"):
        load_config(tmp_path / "binary.yml")


def test_environment_variables_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPHO_DATA", "/somewhere")
    config = load_config(write(tmp_path, GOOD.replace("peaks.fits", "'${JAXPHO_DATA}/p.fits'")))
    assert config.peaks.file == "/somewhere/p.fits"


def test_overrides(tmp_path):
    path = write(tmp_path, GOOD)
    config = load_config(
        path,
        ["images.0.psf.ngauss=6", "sample.method=none", "fit.tolerance=1e-4", "bands=[r, g]"],
    )
    assert [image.psf.ngauss for image in config.images] == [6, None]  # though a YAML alias
    assert config.sample.method == "none"
    assert config.fit.tolerance == 1e-4
    assert config.bands == ["r", "g"]
    config = load_config(path, ["images.*.psf.ngauss=3", "seed=1", "seed=2"], output="elsewhere")
    assert [image.psf.ngauss for image in config.images] == [3, 3]
    assert config.seed == 2
    assert config.output.endswith("elsewhere")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "--set seed: expected key=value, with dots between nested keys"),
        ("=3", "--set =3: expected key=value, with dots between nested keys"),
        ("images.2.band=z", "--set images.2.band=z: 'images' has entries 0 to 1, found '2'"),
        ("seed.x=1", None),
        ("output.x=1", "--set output.x=1: 'output' holds 'run' (text), which has no keys"),
        ("seed=[1", "--set seed=[1: '[1' is not a valid YAML value"),
        ("seed=x", "--set seed: 'seed': expected a whole number, found 'x' (text)"),
        ("imges.0=1", "--set imges.0: unknown key 'imges' at top level; did you mean 'images'?"),
    ],
)
def test_mistakes_in_overrides(tmp_path, override, expected):
    found = message(tmp_path, GOOD, override)
    assert found.startswith("--set seed.x") if expected is None else found == expected


def test_patterns_need_no_quotes_on_the_command_line_and_a_hint_in_the_file(tmp_path):
    path = write(tmp_path, GOOD)
    config = load_config(path, ["images.0.files=*.fits", "images.1.psf.file={stem}_psf.fits"])
    assert config.images[0].files == str(tmp_path / "*.fits")
    assert config.images[1].psf.file == "{stem}_psf.fits"
    for value in ("*.fits", "{band}.fits"):
        text = message(tmp_path, GOOD + f"unit: {value}\n")
        assert "not valid YAML" in text and 'needs quotes, as in "*.fits"' in text


def test_override_creates_sections():
    values = {}
    assert apply_override(values, "fit.priors.rhalf.low=0.1") == ["fit.priors.rhalf.low"]
    assert values == {"fit": {"priors": {"rhalf": {"low": 0.1}}}}


def test_the_example_loads_and_names_every_key(tmp_path):
    text = example_config()
    config = load_config(write(tmp_path, text))
    assert config.bands == ["g"]
    assert max(map(len, text.splitlines())) <= 100
    # with every optional key uncommented it is still YAML, and every key is a known one
    everything = yaml.safe_load(re.sub(r"(?m)^#(?!#)", "", text))
    assert set(everything) == set(Config.__dataclass_fields__)
    assert build(Config, everything, Context("example")).seed == config.seed


def test_defaults_in_the_example_are_the_defaults(tmp_path):
    text = example_config()
    sections = ("sources", "fit", "sample", "patches", "products")
    everything = yaml.safe_load(re.sub(r"(?m)^#(?!#)", "", text))
    plain = load_config(write(tmp_path, text))
    for name in sections:
        built = build(type(getattr(plain, name)), everything[name])
        assert built == getattr(plain, name), name


def test_round_trip(tmp_path):
    config = load_config(
        write(tmp_path, GOOD), ["fit.priors={rhalf: {name: log_uniform, low: 0.05, high: 3}}"]
    )
    other = tmp_path / "deep" / "config.yml"
    other.parent.mkdir()
    other.write_text(dump_config(config))
    assert load_config(other) == config


def test_from_plain_values(tmp_path):
    config = config_from_dict(yaml.safe_load(GOOD), tmp_path)
    assert config == load_config(write(tmp_path, GOOD))


@pytest.mark.parametrize("value", ["0", "0.0", "-1"])
def test_a_number_outside_its_limits_is_not_read_as_text(value):
    """An option that takes a number or a header card."""
    from jaxpho.data.options import PSFOptions

    with pytest.raises(InputError, match="oversample.*greater than 0"):
        build(PSFOptions, {"oversample": yaml.safe_load(value)})


@pytest.mark.parametrize(
    "override",
    ["images.0.error_scale=.inf", "images.0.astrometry.offset_sigma=.inf", "fit.tolerance=.inf",
     "patches.min_radius=.inf", "fit.poor_chi2=1e999", "peaks.defaults={rhalf: -.inf}"],
)  # fmt: skip
def test_infinite_numbers_are_refused(tmp_path, override):
    assert "expected a finite number, found" in message(tmp_path, GOOD, override)


def test_the_example_names_commands_that_exist():
    assert set(re.findall(r"jaxpho (\w+)", example_config())) <= set(VERBS)
