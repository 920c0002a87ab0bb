"""The cohort as files: PNG in NIH's naming, DX DICOM with planted identifiers, or both mixed; labels beside them."""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2

from prichexy.cohort.phantom.cohort import PhantomCohort, PhantomStudy, render
from prichexy.cohort.phantom.dicom import DEFAULT_TRANSFER_SYNTAXES, burns_in, dicom_file, save, variant
from prichexy.errors import PrichexyError

Progress = Callable[[int, int], None]
"""Called after each file with the number written and the number to write."""

LABEL_COLUMNS = (
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
)


def file_name(study: PhantomStudy, suffix: str = ".png") -> str:
    """NIH's naming, ``PPPPPPPP_FFF.png``: patient number (from 1) and follow-up number."""
    return f"{study.patient + 1:08d}_{study.study:03d}{suffix}"


def write_png(cohort: PhantomCohort, folder: Path, progress: Progress | None = None) -> Path:
    """Writes every study as an 8-bit grey PNG, with ``labels.csv`` and ``boxes.csv``.

    Args:
        cohort: the phantoms.
        folder: made if absent; existing files of the same names are replaced.
        progress: see `Progress`.

    Returns:
        Path of ``labels.csv``, with NIH's columns.
    """
    names = [_write_png(study, folder) for study in _each(cohort.studies, folder, progress)]
    return _write_tables(cohort.studies, names, folder)


def write_dicom(
    cohort: PhantomCohort,
    folder: Path,
    transfer_syntaxes: Sequence[str] = DEFAULT_TRANSFER_SYNTAXES,
    burn_in: bool | float = False,
    planted: Path | None = None,
    without_voi: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes every study as a DX DICOM file, with ``labels.csv`` and ``boxes.csv``.

    The files cycle through transfer syntaxes, MONOCHROME1 and 2, 8 to 16 stored bits, window and VOI LUT, and padding.

    Args:
        cohort: the phantoms.
        folder: made if absent; existing files of the same names are replaced.
        transfer_syntaxes: UIDs from `DEFAULT_TRANSFER_SYNTAXES`.
        burn_in: share of files (True: all) with name, number and dates written into the pixels too.
        planted: where the private table of planted identifiers goes (columns file, attribute, value);
            default ``<folder>.planted.csv`` beside the folder, never inside it.
        without_voi: see `variant`.
        progress: see `Progress`.

    Returns:
        Path of ``labels.csv``, with NIH's columns.

    Raises:
        UsageError: for a transfer syntax that can't be written.
    """
    rows: list[tuple[str, str, str]] = []
    names = [
        _write_dicom(study, folder, index, tuple(transfer_syntaxes), float(burn_in), without_voi, rows)
        for index, study in enumerate(_each(cohort.studies, folder, progress))
    ]
    _write_planted(rows, folder, planted)
    return _write_tables(cohort.studies, names, folder)


def write_mixed(
    cohort: PhantomCohort,
    folder: Path,
    burn_in: bool | float = False,
    planted: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes the studies in turn as PNG and as DICOM: the demo's lake. See `write_png` and `write_dicom`."""
    rows: list[tuple[str, str, str]] = []
    names = []
    for index, study in enumerate(_each(cohort.studies, folder, progress)):
        if index % 2 == 0:
            names.append(_write_png(study, folder))
        else:
            names.append(
                _write_dicom(study, folder, index // 2, DEFAULT_TRANSFER_SYNTAXES, float(burn_in), False, rows)
            )
    _write_planted(rows, folder, planted)
    return _write_tables(cohort.studies, names, folder)


def _each(studies: Sequence[PhantomStudy], folder: Path, progress: Progress | None) -> Iterable[PhantomStudy]:
    folder.mkdir(parents=True, exist_ok=True)
    for number, study in enumerate(studies, start=1):
        yield study
        if progress is not None:
            progress(number, len(studies))


def _write_png(study: PhantomStudy, folder: Path) -> str:
    name = file_name(study)
    done, data = cv2.imencode(".png", render(study), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if not done:
        raise PrichexyError("a phantom radiograph could not be encoded as PNG.")
    (folder / name).write_bytes(data.tobytes())
    return name


def _write_dicom(
    study: PhantomStudy,
    folder: Path,
    index: int,
    syntaxes: tuple[str, ...],
    share: float,
    without_voi: bool,
    rows: list[tuple[str, str, str]],
) -> str:
    name = file_name(study, ".dcm")
    ds, identifiers = dicom_file(study, variant(index, syntaxes, without_voi), burns_in(study, share))
    save(ds, folder / name)
    rows.extend((name, attribute, value) for attribute, value in identifiers.items())
    return name


def _write_planted(rows: list[tuple[str, str, str]], folder: Path, planted: Path | None) -> None:
    target = folder.parent / f"{folder.name}.planted.csv" if planted is None else planted
    target.parent.mkdir(parents=True, exist_ok=True)
    _write_csv(target, ("file", "attribute", "value"), rows)


def _write_tables(studies: Sequence[PhantomStudy], names: list[str], folder: Path) -> Path:
    labels = [
        (name, "|".join(s.findings) or "No Finding", s.study, s.patient + 1, s.age, s.sex, s.view)
        for name, s in zip(names, studies, strict=True)
    ]
    boxes = [(name, *box) for name, study in zip(names, studies, strict=True) for box in study.boxes]
    _write_csv(folder / "boxes.csv", ("Image Index", "Finding Label", "x0", "y0", "x1", "y1"), boxes)
    _write_csv(folder / "labels.csv", LABEL_COLUMNS, labels)
    return folder / "labels.csv"


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
