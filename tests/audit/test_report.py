"""What the report says, read from its HTML."""

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from prichexy.audit.report import GalleryImage, OperatingPoint, write_comparison, write_report
from prichexy.audit.report.gallery import LARGEST_SIDE, pictures
from prichexy.errors import UsageError
from prichexy.verdict import Utility
from tests.audit.report_records import AUCS, attacker, picture, record


class _Tables(HTMLParser):
    """Cells of each table, and every id and outside address of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self._rows: list[list[str]] | None = None
        self._cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if identity := given.get("id"):
            self.ids.append(identity)
        self.addresses += [given[name] or "" for name in ("src", "href", "xlink:href", "action") if name in given]
        if tag == "table":
            self._rows = self.tables.setdefault(given.get("id") or f"table {len(self.tables)}", [])
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag in ("td", "th") and self._rows:
            self._rows[-1].append("")
            self._cell = True
        elif tag == "span" and self._cell and self._rows:
            self._rows[-1][-1] += " | " if given.get("class") == "tag" else ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell and self._rows:
            self._rows[-1][-1] += data


def _words(page: str) -> str:
    return " ".join(unescape(re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


def _page(tmp_path: Path, *arguments: object, **more: object) -> str:
    return write_report(*arguments, out=tmp_path / "report.html", **more).read_text()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A passing report with two images."""
    gallery = [picture(), picture("phantom 2")]
    return write_report(record(), gallery, tmp_path_factory.mktemp("folder") / "report.html").read_text()


def test_a_passing_verdict_is_said_in_words_before_anything_else(page: str) -> None:
    words = _words(page)
    assert "Audit of models:/prichexy-net/3: passed" in words
    assert words.index("Passed Every figure is within its limit.") < words.index("What attackers can do")
    assert record().verdict.reasons[0] in words
    assert "Failed" not in words


def test_a_failing_verdict_says_why(tmp_path: Path) -> None:
    failed = record(more_auc=0.08, loss=0.045)
    page = _page(tmp_path, failed, [])
    words = _words(page)
    assert "Failed Do not publish with this model, for these reasons:" in words
    assert [reason for reason in failed.verdict.reasons if reason not in words] == []
    assert "Passed" not in words
    assert [row[1:] for row in _Tables(page).tables["limits"][1:]] == [
        ["0.672", "at most 0.600", "\u2717 no"],
        ["0.696", "at most 0.650", "\u2717 no"],
        ["0.045", "at most 0.030", "\u2717 no"],
        ["0.000%", "at most 0.000%", "\u2713 yes"],
    ]


def test_the_table_has_every_attacker_with_its_figures(page: str) -> None:
    rows = {row[0].split(" ")[0]: row for row in _Tables(page).tables["attackers"][1:]}
    assert list(rows) == list(AUCS)
    assert rows["verifier-adaptive"] == [
        "verifier-adaptive | Compares two images the way verifier-adaptive does; made up for a test of the report.",
        *("0.574", "0.006", "0.585", "0.550 to 0.598", "0.031", "0.094", "0.027", "10", "8,000"),
    ]
    assert rows["fusion"][0].startswith("fusion \u25c4 strongest")
    assert rows["fusion"][5:8] == ["\u2013", "\u2013", "\u2013"]
    assert rows["correlation-16"][2] == "\u2013"  # one run has no standard deviation
    assert rows["inversion"][0].endswith(" | inversion PSNR [dB]: 38.25 | with key AUC: 0.9")


def test_findings_and_what_was_not_measured(page: str, tmp_path: Path) -> None:
    table = _Tables(page).tables["findings"]
    assert table[1] == ["Atelectasis", "9", "0.690", "0.678", "\u22120.012 | \u22120.032 to +0.008"]
    assert table[13][0] == "Pleural Thickening"
    assert table[15][0] == "mean"
    assert "a mean AUC of 0.731 on originals" in _words(page)
    assert "reaches a mean AUC of 0.710 on originals and 0.704 on anonymized images, a change of" in _words(page)
    none = record(utility=Utility(findings=(), ssim=0.9), strength=())
    words = _words(_page(tmp_path, none, []))
    assert "Utility was not measured, or could not be on these images" in words
    assert "AUC of the findings" not in words
    assert "from more pairs to learn from was not measured" in words
    assert "this model does not move anatomy" in words


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    addresses = _Tables(page).addresses
    assert len([address for address in addresses if address.startswith("data:image/png;base64,")]) == 8
    assert [address for address in addresses if not address.startswith(("data:", "#"))] == []
    assert "default-src 'none'; img-src data:" in page
    assert re.findall(r"@import|url\((?!#)", page) == []
    assert set(re.findall(r'https?://[^"\'\s<>]+', page)) == {
        "http://www.w3.org/2000/svg",  # names of XML's vocabularies, which nobody fetches
        "http://www.w3.org/1999/xlink",
    }


def test_nothing_tells_of_the_machine(tmp_path: Path) -> None:
    page = _page(tmp_path, record(), [picture()])
    assert str(tmp_path) not in page
    assert re.findall(r"/(?:home|root|tmp|usr|work)/", re.sub(r"base64,[^\"]+", "", page)) == []
    assert "Matplotlib" not in page


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    page = _page(
        tmp_path, record(name=evil, attackers=(attacker(evil, 0.7),)), [picture(evil)],
        others=[OperatingPoint(evil, 0.6, 0.7)],
    )  # fmt: skip
    assert evil not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6  # heading, verdict, table, plots, captions
    assert page.count("<script") == 1


def test_any_name_of_a_model_is_in_the_legend(tmp_path: Path) -> None:
    long = "a model with a name that goes on and on until it is longer than a legend is wide"
    others = [OperatingPoint(label, 0.6, 0.7) for label in ("_private", "5$ or 6$", long)]
    shown = _words(_page(tmp_path, record(), [], others=others)).replace("\u200b", "")
    legend = shown[shown.index("(further up: more useful)") : shown.index("Up and to the left is better")]
    assert [name for name in ("this model _private", "5$ or 6$", long) if name not in legend] == []


def test_the_same_record_gives_the_same_bytes(page: str, tmp_path: Path) -> None:
    assert _page(tmp_path, record(), [picture(), picture("phantom 2")]) == page


def test_ids_are_unique_and_every_reference_is_met(page: str) -> None:
    ids = _Tables(page).ids
    assert len(ids) == len(set(ids)) > 50
    assert set(re.findall(r'(?:url\(#|href="#|for=")([^")]+)', page)) - set(ids) == set()


def test_plots_differ_by_marker_and_dash_not_by_colour_alone(page: str) -> None:
    plot = page[page.index("<svg", page.index("<caption")) :]
    plot = plot[: plot.index("</svg>")]
    markers = set(re.findall(r'xlink:href="#roc-(m\w+)"', plot))
    assert len(markers) >= len(AUCS)
    for name in AUCS:
        assert f">{name}</text>" in plot  # text that can be found and read aloud, not outlines of letters
    assert len(set(re.findall(r"stroke-dasharray: ([\d., ]+)", plot))) >= 4


def test_pictures_of_the_gallery() -> None:
    image = picture(side=64)
    made = pictures(image)
    assert (made.width, made.height, made.shrunk) == (64, 64, False)
    assert made.displaced_px == pytest.approx((1.0 * 33 / 64 + 2.0 * 31 / 64, 2.0))
    assert made.changed == float(np.mean(image.original_HW != image.anonymized_HW))
    same = pictures(GalleryImage(image.original_HW, image.original_HW, None, "same"))
    assert (same.changed, same.field, same.displaced_px) == (0.0, None, None)
    assert same.original == same.anonymized == made.original


def test_large_images_are_shrunk_and_keep_their_shape() -> None:
    tall_HW = np.zeros((1200, 800), np.uint8)
    made = pictures(GalleryImage(tall_HW, tall_HW, np.zeros((2, 1200, 800), np.float32), "tall"))
    assert (made.width, made.height, made.shrunk) == (341, LARGEST_SIDE, True)
    assert made.displaced_px == (0.0, 0.0)


def test_pictures_that_do_not_belong_together_are_refused() -> None:
    image_HW = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="same shape"):
        GalleryImage(image_HW, image_HW[:2], None, "")
    with pytest.raises(ValueError, match="uint8"):
        GalleryImage(image_HW.astype(np.float32), image_HW, None, "")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(2, H, W\)"):
        GalleryImage(image_HW, image_HW, np.zeros((4, 4, 2), np.float32), "")


def test_a_place_that_cannot_be_written_is_named_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="the report can't be written") as refusal:
        write_report(record(), [], tmp_path / "file" / "report.html")
    assert str(tmp_path) not in str(refusal.value)


def test_a_comparison_has_a_row_for_each_model(tmp_path: Path) -> None:
    rows = [("originals", record(0.2, 0.0)), ("DP-Pix b=8", record(loss=0.16)), ("mu=0.01", record(loss=0.02))]
    page = write_comparison(rows, tmp_path / "compare.html").read_text()
    tables = _Tables(page).tables
    assert [row[:4] for row in tables["models"][1:]] == [
        ["originals", "\u2717 no", "fusion", "0.792 | 0.768 to 0.816"],
        ["DP-Pix b=8", "\u2717 no", "fusion", "0.592 | 0.568 to 0.616"],
        ["mu=0.01", "\u2713 yes", "fusion", "0.592 | 0.568 to 0.616"],
    ]
    assert tables["attackers"][0] == ["AUC, mean over runs", "originals", "DP-Pix b=8", "mu=0.01"]
    assert [row[0].split(" | ")[0] for row in tables["attackers"][1:]] == list(AUCS)
    assert tables["attackers"][2][1:] == ["0.761", "0.561", "0.561"]
    assert "originals: attacker 0.792, utility 0.736." in page
    assert "Compare with care" not in page


def test_a_comparison_says_in_what_its_audits_differ(tmp_path: Path) -> None:
    whole = record()
    few = record(attackers=(attacker("correlation-16", 0.55),), strength=(), resolution="256")
    blind = record(utility=Utility(findings=(), ssim=0.9))
    words = _words(write_comparison([("a", whole), ("b", few), ("c", blind)], tmp_path / "compare.html").read_text())
    warning = words[words.index("Compare with care.") : words.index("Models")]
    assert warning.split("differ in: ")[1] == "the resolution the attackers that were run "
    assert "Utility was not measured, or could not be, for: c." in words


@pytest.mark.parametrize("labels", [(), ("a", "a")])
def test_a_comparison_of_nothing_or_of_two_of_a_name_is_refused(tmp_path: Path, labels: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="a label of its own"):
        write_comparison([(label, record()) for label in labels], tmp_path / "compare.html")
