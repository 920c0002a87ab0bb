"""The report as a person sees it: in Chromium, at the width of a desk and of a telephone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from prichexy.audit.report import OperatingPoint, write_comparison, write_report
from tests.audit import chromium
from tests.audit.chromium import Page
from tests.audit.report_records import AUCS, picture, record

WIDTHS = (1280, 420)
PLOTS = {
    "ROC curves of the attackers",
    "Attackers' AUC against what they learned from",
    "Privacy against utility",
    "What a classifier still finds, for each finding",
}

# Elements that reach beyond the right edge, but for those in a container that scrolls by itself.
OVERFLOWING = """[...document.querySelectorAll("main *")]
  .filter(e => !e.closest(".scroll table") && !e.closest("svg.plot *"))
  .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
  .map(e => e.tagName + "." + e.className)"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    program = chromium.installed()
    if program is None:
        pytest.skip("no Chromium: install it (Debian: apt-get install chromium) or set PRICHEXY_CHROMIUM")
    with chromium.browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gallery = [picture("phantom 1"), picture("phantom 2", 640, field=False)]
    others = [OperatingPoint("originals", 0.81, 0.75), OperatingPoint("DP-Pix b=8", 0.55, 0.58)]
    return write_report(record(), gallery, tmp_path_factory.mktemp("report") / "report.html", others)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_verdict_is_read_without_scrolling(page: Page, report: Path, width: int) -> None:
    page.open(report, width, height=800)
    assert page.value("document.title") == "Audit of models:/prichexy-net/3: passed"
    assert page.value("document.querySelector('#verdict .decision').innerText") == "Passed"
    assert page.value("document.querySelector('#verdict .decision').getBoundingClientRect().bottom") < 400
    assert page.value("document.querySelector('#verdict li').innerText") == record().verdict.reasons[0]
    sign = "(r => [r.width, r.height])(document.querySelector('#verdict .sign').getBoundingClientRect())"
    assert page.value(sign) == pytest.approx([41.6, 41.6], abs=1)


def test_a_failed_verdict_looks_otherwise_in_black_and_white_too(page: Page, report: Path, tmp_path: Path) -> None:
    border = "getComputedStyle(document.querySelector('#verdict')).borderTopStyle"
    sign = "document.querySelector('#verdict .sign').innerHTML"
    page.open(report, 1280)
    passed = page.value(border), page.value(sign)
    page.open(write_report(record(more_auc=0.08), [], tmp_path / "failed.html"), 1280)
    assert page.value("document.querySelector('#verdict .decision').innerText") == "Failed"
    assert page.value("document.querySelectorAll('#verdict li').length") == 3  # two beyond their limits, the rest
    assert (passed[0], page.value(border)) == ("solid", "double")
    assert page.value(sign) != passed[1]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_plot_is_drawn_and_says_what_it_shows(page: Page, report: Path, width: int) -> None:
    page.open(report, width)
    names = "[...document.querySelectorAll('svg.plot > title')].map(e => e.textContent)"
    assert set(page.value(names)) == PLOTS
    sizes = (
        "[...document.querySelectorAll('svg.plot')].map(e => e.getBoundingClientRect()).map(r => [r.width, r.height])"
    )
    assert min(min(size) for size in page.value(sizes)) > 200
    smallest = """Math.min(...[...document.querySelectorAll("svg.plot text")]
      .map(e => parseFloat(getComputedStyle(e).fontSize) * Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b)))"""
    assert page.value(smallest) > 9  # CSS pixels on the screen, as drawn
    legend = page.value("[...document.querySelectorAll('svg.plot')][0].textContent")
    assert [name for name in AUCS if name not in legend] == []
    outside = """[...document.querySelectorAll("svg.plot")].flatMap(p => { const box = p.getBoundingClientRect();
      return [...p.querySelectorAll("text")].filter(t => { const r = t.getBoundingClientRect();
        return r.left < box.left - 1 || r.right > box.right + 1 || r.bottom > box.bottom + 1; })
      .map(t => t.textContent); })"""
    assert page.value(outside) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_and_wide_tables_scroll_by_themselves(page: Page, report: Path, width: int) -> None:
    page.open(report, width)
    assert page.value("document.documentElement.scrollWidth") == width
    assert page.value(OVERFLOWING) == []
    scrolls = "(e => e.scrollWidth > e.clientWidth)(document.querySelector('#attackers').parentElement)"
    assert page.value(scrolls) is (width == 420)
    page.value("document.querySelector('#attackers').parentElement.scrollLeft = 10000")
    last = "document.querySelector('#attackers tbody tr td:last-child').getBoundingClientRect().right"
    assert page.value(last) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_no_request_leaves_and_nothing_is_complained_of(page: Page, report: Path, width: int) -> None:
    page.open(report, width)
    assert page.value("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    assert [address for address in page.requests if not address.startswith("data:")] == [report.resolve().as_uri()]
    assert page.complaints == []


def test_the_page_refuses_to_load_what_someone_adds(page: Page, report: Path, tmp_path: Path) -> None:
    tampered = tmp_path / "tampered.html"
    added = '<img src="http://127.0.0.1:9/pixel.png"><script>document.title = "mine"</script></body>'
    tampered.write_text(report.read_text().replace("</body>", added))
    page.open(tampered, 1280)
    assert page.value("document.title") == "Audit of models:/prichexy-net/3: passed"
    assert [address for address in page.requests if address.startswith("http")] == []
    assert len([complaint for complaint in page.complaints if "Content Security Policy" in complaint]) == 2


def test_a_request_would_be_seen(page: Page, tmp_path: Path) -> None:
    asking = tmp_path / "asking.html"
    asking.write_text('<img src="http://127.0.0.1:9/pixel.png">')
    page.open(asking, 420)
    assert "http://127.0.0.1:9/pixel.png" in page.requests


def test_the_slider_works_by_keyboard(page: Page, report: Path) -> None:
    page.open(report, 1280)
    assert page.value("[...document.querySelectorAll('.slide')].map(e => e.hidden)") == [False, False]
    page.value("document.querySelector('#slider-1').focus()")
    cut = "getComputedStyle(document.querySelectorAll('.slide .over img')[1]).clipPath"
    before = page.value(cut)
    for _ in range(10):
        page.press("ArrowRight", 39)
    assert page.value("document.querySelector('#slider-1').value") == "60"
    assert page.value("document.querySelector('.slide output').value") == "60 % anonymized"
    assert page.value(cut) != before
    page.press("Home", 36)
    assert page.value("document.querySelector('.slide').style.getPropertyValue('--cut')") == "0%"


def test_the_slider_shows_the_pictures_of_its_image(page: Page, report: Path) -> None:
    page.open(report, 420)
    pairs = """[...document.querySelectorAll(".image")].map(image => ["original", "anonymized"].map(name =>
      image.querySelector(`[data-from=${name}]`).src === image.querySelector(`[data-picture=${name}]`).src))"""
    assert page.value(pairs) == [[True, True], [True, True]]
    assert page.value("[...document.images].every(e => e.complete && e.naturalWidth > 0)") is True
    assert page.value("[...document.images].map(e => e.naturalWidth)")[:2] == [96, 96]


def test_a_screen_reader_meets_headings_plots_and_sliders_by_name(page: Page, report: Path) -> None:
    page.open(report, 1280)
    met = page.accessible()
    drawings = [name for role, name in met if role in ("image", "img")]
    assert [plot for plot in PLOTS if not any(name.startswith(plot) for name in drawings)] == []
    assert [name for role, name in met if role == "slider"] == ["Slide from the original to the anonymized image"] * 2
    assert ("heading", "What this audit does not show") in met
    assert {name for name in drawings if name.startswith("difference")} == {
        "difference: phantom 1",
        "difference: phantom 2",
    }


def test_print_shows_the_pictures_and_no_slider(page: Page, report: Path) -> None:
    page.open(report, 720)
    page.emulate("print")
    try:
        assert page.value("[...document.querySelectorAll('.slide')].every(e => e.offsetHeight === 0)") is True
        assert page.value("document.querySelectorAll('.pictures img').length") == 7
        assert page.value("document.documentElement.scrollWidth") == 720
    finally:
        page.emulate("")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_comparison_fits_too(page: Page, tmp_path: Path, width: int) -> None:
    rows = [("originals", record(0.2, 0.0)), ("DP-Pix b=8", record(loss=0.16)), ("PriCheXy-Net mu=0.01", record())]
    page.open(write_comparison(rows, tmp_path / "compare.html"), width)
    assert page.value("document.documentElement.scrollWidth") == width
    assert page.value(OVERFLOWING) == []
    assert page.value("document.querySelectorAll('#models tbody tr').length") == 3
    plot = page.value("document.querySelector('svg.plot').textContent")
    assert [label for label, _ in rows if label not in plot] == []
    assert len(page.requests) == 1
    assert page.complaints == []
