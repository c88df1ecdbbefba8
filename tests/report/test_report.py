"""Reports: structure, escaping, links, arrays against what went in, refusals."""

import base64
import io
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_case import EVIL, EVIL_LOG, write_report

from jaxpho.cli import main
from jaxpho.data.psfmodel import PSF_DTYPE, PSFModel
from jaxpho.output.profiles import Place
from jaxpho.report.jsdata import packed, script, to_json
from jaxpho.report.pixels import bin_factor, make_stamp, stamp_data
from jaxpho.report.psfdata import ReportPSF, psf_facts, psf_picture
from jaxpho.report.summary import duration, read_log
from jaxpho.report.thumbnails import SIDE, png, thumbnail


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data

    def links(self):
        """Everything that the page refers to."""
        return [a[k] for _, a in self.tags for k in ("href", "src") if k in a]


def unpacked(entry):
    """The array of `jsdata.packed`, by another way."""
    kind = np.dtype(entry["kind"]).newbyteorder("<")
    planes = np.frombuffer(zlib.decompress(base64.b64decode(entry["bytes"])), np.uint8)
    rows = planes.reshape(kind.itemsize, -1).T
    return np.ascontiguousarray(rows).view(kind).reshape(entry["shape"])


def content(path):
    """(key, value) of a data script."""
    text = path.read_text()
    found = re.fullmatch(r'jaxpho\.put\(("[^"]*"),(.*)\);\n', text, re.DOTALL)
    return json.loads(found[1]), json.loads(found[2])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of the report, the fit)."""
    run, result = write_report(tmp_path_factory.mktemp("report"))
    return run / "report", result


def test_every_page_is_there_and_every_link_leads_somewhere(made):
    folder, _ = made
    catalog = content(folder / "data" / "catalog.js")[1]
    for page in folder.glob("*.html"):
        links = Page(page.read_text()).links()
        assert len(links) > 10
        for link in links:
            assert not re.match(r"[a-z]+:(?!,)", link), f"{link} leaves the report"
            path, _, place = link.partition("#")
            assert path in ("", "data:,") or (folder / path).is_file(), link
            if path == "patch.html" and place:
                assert (folder / "data" / "patch" / f"{place}.js").is_file()
    assert {p.stem for p in folder.glob("*.html")} == {
        "index", "catalog", "source", "patch", "psf"
    }  # fmt: skip
    assert catalog["rows"] == 3 and catalog["bands"] == ["g", "r"]


def test_names_of_files_and_sources_stay_text(made):
    folder, _ = made
    for path in folder.rglob("*"):
        if path.suffix in (".js", ".html") and path.parent.name != "assets":
            text = path.read_text()
            assert EVIL not in text and "<img" not in text and "<b>" not in text
            assert path.suffix == ".html" or "<" not in text
    page = Page((folder / "index.html").read_text())
    assert EVIL_LOG in page.words  # shown as it is
    assert all(a.get("src") for tag, a in page.tags if tag == "script")  # none inline
    ids = content(folder / "data" / "catalog.js")[1]["columns"][0]
    assert ids["name"] == "id" and ids["values"][1] == EVIL
    facts = content(folder / "data" / "patch" / "3.js")[1]
    assert facts["sources"][1]["id"] == EVIL and "onerror" in facts["messages"][-1]


def test_json_can_stand_in_a_script_and_has_no_bare_nan():
    value = {"a": [np.nan, 1.5, np.float32(2), np.arange(2)], "b</script>": "\u2028<!--", "c": True}
    text = to_json(value)
    assert "<" not in text and "\u2028" not in text
    assert json.loads(text) == {
        "a": [None, 1.5, 2.0, [0, 1]],
        "b</script>": "\u2028<!--",
        "c": True,
    }
    assert script("x", np.inf) == 'jaxpho.put("x",null);\n'
    for kind in ("f4", "i2", "u2", "u1"):
        array = (np.arange(12).reshape(3, 4) * 17).astype(kind)
        np.testing.assert_array_equal(unpacked(packed(array, kind)), array)


def test_pixels_come_back_within_their_steps(made):
    folder, result = made
    entries = content(folder / "data" / "pixels" / "3.js")[1]
    assert set(entries) == {"0", "1", "2"}
    for e, entry in entries.items():
        pixels = result.pixels[result.exposures[int(e)]]
        model, chi, error = (unpacked(entry[k]).astype(float) for k in ("model", "chi", "error"))
        shape = pixels["y"].max() + 1, pixels["x"].max() + 1
        good = (pixels["ierr"] > 0).reshape(shape)
        np.testing.assert_array_equal(error != -32767, good)
        sigma = entry["sigma"] * 2 ** (error / 64)
        found = entry["sigma"] * np.sinh(model / 200)
        truth = pixels["model"].reshape(shape)
        np.testing.assert_allclose(found, truth, rtol=3e-3, atol=3e-3 * entry["sigma"])
        residual = (pixels["data"] - pixels["model"]).reshape(shape)
        np.testing.assert_allclose(
            (chi / 20 * sigma)[good], residual[good], atol=0.026 * entry["sigma"]
        )


def test_binning_keeps_flux_and_noise():
    rng = np.random.default_rng(3)
    y, x = (a.ravel() for a in np.indices((30, 40)))
    ierr = np.where(x == 7, 0, 2.0)
    model = np.exp(-np.hypot(x - 20, y - 15) / 4)
    pixels = {"x": x + 5, "y": y, "model": model, "ierr": ierr,
              "data": model + rng.normal(0, 0.5, len(x))}  # fmt: skip
    fine, coarse = make_stamp(pixels), make_stamp(pixels, 2)
    assert (coarse.x0, coarse.bin, coarse.model.shape) == (5, 2, (15, 20))
    assert coarse.model.sum() == pytest.approx(fine.model.sum(), rel=1e-5)
    chi = coarse.residual * coarse.ierr
    assert np.std(chi[np.isfinite(chi)]) == pytest.approx(1.0, abs=0.1)
    assert coarse.sigma == pytest.approx(1.0)  # of four pixels of .5 each
    assert stamp_data(coarse)["bin"] == 2
    assert bin_factor(1e6, 1e9) == 1 and bin_factor(1e9, 1e8) == 5


def test_draws_are_those_of_the_fit(made):
    folder, result = made
    entry = content(folder / "data" / "draws" / "3.js")[1]
    own = entry["sources"]["0"]
    draws = unpacked(own["draws"]).astype(float) / 65535
    k = own["names"].index("rhalf")
    found = own["low"][k] + draws[k] * (own["high"][k] - own["low"][k])
    truth = result.samples[..., result.index(0, "rhalf")]
    np.testing.assert_allclose(found, truth, atol=np.ptp(truth) / 1e4)
    assert own["units"][k] == "arcsec" and own["units"][own["names"].index("ra")] == "mas"
    run = content(folder / "data" / "run.js")[1]
    assert run["truth"]["rows"] == {"0": [900.0, 1.3]}


def test_thumbnails_show_the_source_north_up():
    y, x = (a.ravel() for a in np.indices((41, 41)))
    place = Place(20.0, 20.0, np.diag([-10.0, 10.0]))  # .1 arcsec pixels, East left
    model = 500.0 * np.exp(-np.hypot(x - 14, y - 20))  # East of the middle
    pixels = {"x": x, "y": y, "model": model, "data": model, "ierr": np.ones(len(x))}
    image = thumbnail([make_stamp(pixels)], [place], 3.0)
    at = np.unravel_index(image[..., 0].argmax(), image.shape[:2])
    assert abs(at[0] - (SIDE - 1) / 2) < 1 and at[1] == pytest.approx(SIDE * (0.5 - 0.2), abs=1.5)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(image)))), image)


def test_psfs_are_described():
    rows = [(0.9, 0, 0, 4, 4, 0, -1), (0.1, 0, 0, 9, 9, 0, -1)]
    model = PSFModel(np.array([rows], PSF_DTYPE), amplitude_sum="unit")
    facts = psf_facts([ReportPSF("<p>", model, ["a", "b"])])
    assert facts["of"] == {"a": 0, "b": 0}
    # where .9 exp(-r^2/8) / 4 + .1 exp(-r^2/18) / 9 is half of its centre
    assert facts["psfs"][0]["fwhm"] == pytest.approx(4.80, abs=0.02)
    picture = psf_picture(ReportPSF("p", model, image=np.ones((301, 301)), center=(140.0, 150.0)))
    assert unpacked(picture["image"]).shape == (201, 201)
    assert picture["center"] == [100.0, 100.0]
    assert psf_picture(ReportPSF("p", model))["image"] is None


def test_refusals_and_overwriting(made, tmp_path, capsys):
    run = made[0].parent
    assert main(["report", str(run), "-q"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    other = tmp_path / "full"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    assert main(["report", str(run), "-q", "--outdir", str(other), "--overwrite"]) == 2
    assert "no report" in capsys.readouterr().err and (other / "thesis.tex").is_file()
    assert main(["report", str(run), "-q", "--outdir", str(run)]) == 2
    assert main(["report", str(run), "-q", "--size", "0"]) == 2
    assert main(["report", str(tmp_path / "none")]) == 2
    assert main(["report", str(run), "-q", "--truth", str(tmp_path / "t.csv"), "--overwrite"]) == 2
    capsys.readouterr()
    assert main(["report", str(run), "-q", "--dry-run"]) == 0
    assert "3 sources, 1 patches" in capsys.readouterr().out


def test_a_damaged_patch_is_named_and_the_rest_is_written(tmp_path):
    run, _ = write_report(tmp_path)
    (run / "patches" / "patch4_samples.h5").write_bytes(b"broken")
    (run / "patches" / "patch3_residuals.h5").write_bytes(b"broken, too")
    assert main(["report", str(run), "-q", "--overwrite"]) == 1
    page = Page((run / "report" / "index.html").read_text())
    assert "patch4_samples.h5" in page.words and "patch3_residuals.h5" in page.words
    assert not list(run.glob(".report*"))
    assert not (run / "report" / "data" / "pixels" / "3.js").exists()
    assert content(run / "report" / "data" / "patch" / "3.js")[1]["npix"] > 0


def test_the_log_is_read(tmp_path):
    found = read_log(tmp_path / "none")
    assert found.creator == "" and np.isnan(found.seconds) and duration(np.nan) == "unknown"
    path = tmp_path / "run.log"
    path.write_text("2026-01-01 00:00:00,1 INFO a: jaxpho 3, configuration x\nnoise\n"
                    "2026-01-01 00:03:00,1 ERROR b: bad\n")  # fmt: skip
    found = read_log(path)
    assert (found.creator, found.seconds) == ("jaxpho 3", 180.0)
    assert found.troubles == [("2026-01-01 00:03:00", "error", "bad")]
    assert duration(180) == "3 min" and duration(3.21) == "3.21 s"


def test_the_scripts_never_take_text_for_html():
    assets = Path(__file__).parents[2] / "jaxpho" / "report" / "assets"
    scripts = list(assets.glob("*.js"))
    assert len(scripts) > 8
    for path in scripts:
        text = path.read_text()
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(",
                     "new Function", "http://", "https://", "fetch("):  # fmt: skip
            found = text.replace("http://www.w3.org/2000/svg", "")
            assert word not in found, f"{path.name}: {word}"


def test_parts_of_a_patch_have_pages_of_their_own(tmp_path):
    run, _ = write_report(tmp_path)
    for kind in ("samples", "residuals"):
        path = run / "patches" / f"patch3_{kind}.h5"
        path.rename(path.with_name(f"patch3b_{kind}.h5"))
    assert main(["report", str(run), "-q", "--overwrite"]) == 0
    assert (run / "report" / "data" / "patch" / "4.js").exists()
    assert (run / "report" / "data" / "pixels" / "4.js").exists()
    _, catalog = content(run / "report" / "data" / "catalog.js")
    words = Page((run / "report" / "index.html").read_text()).words
    assert "Patch 3b, a part of one that was cut in two, has number 4." in words
    assert [c["values"] for c in catalog["columns"] if c["name"] == "patch"] == [[4, 4, 4]]
