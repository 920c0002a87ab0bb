"""`prichexy publish --check`: what is missing before a data set goes public.

It looks at what lies at the destination, not at the settings with which it was made; only the audit needs the project's
secret and the registry, since a card can say anything.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from prichexy.cohort.splits import SPLITS as SPLIT_NAMES
from prichexy.cohort.splits import check_disjoint
from prichexy.config.publication import PublishConfig
from prichexy.config.shared import secret_file
from prichexy.errors import PrichexyError, UsageError
from prichexy.lake import layout
from prichexy.lake.shards import digest
from prichexy.lake.storage import Store
from prichexy.publish import croissant
from prichexy.publish.card import NOT_STATED
from prichexy.publish.checksums import manifest_hashes, parse
from prichexy.publish.evidence import gather
from prichexy.publish.facts import WITHHOLDS
from prichexy.publish.source import (
    CARD_FILES,
    CROISSANT,
    LICENSE,
    PAGE,
    README,
    SHA256SUMS,
    SPLITS,
    Publication,
    read_publication,
)
from prichexy.publish.splits import read_splits
from prichexy.publish.suppression import SMALL_CELL


@dataclass(frozen=True)
class Gap:
    """Something that is missing or wrong.

    Attributes:
        what: in a word: ``audit``, ``verify``, ``card``, ``licence``, ``croissant``, ``splits``, ``checksums``,
            ``snapshots``, ``page``.
        sentence: what it is, and the mend.
        blocking: whether the data set should not go public with it; otherwise it is advice.
    """

    what: str
    sentence: str
    blocking: bool = True


@dataclass
class _Tree:
    """What lies at the destination: its files of ours, read once."""

    publication: Publication
    files: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, publication: Publication) -> "_Tree":
        tree = cls(publication)
        for path in CARD_FILES:
            try:
                tree.files[path] = publication.store.read(path)
            except FileNotFoundError:
                continue
        return tree


def check(config: PublishConfig) -> list[Gap]:
    """What is missing before going public; nothing is written.

    Args:
        config: destination and storage; the secret and the registry for the audit; whether every byte is verified.

    Raises:
        PrichexyError: there is no finished publication.
        StorageFault: the destination can't be read.
    """
    publication = read_publication(Store(config.destination, config.storage))
    gaps, damaged = [*_audits(publication, config)], [*_verified(publication, config)]
    gaps += damaged
    if damaged and config.verify:
        return gaps  # of damaged shards nothing else can be told
    tree = _Tree.of(publication)
    gaps += [*_snapshots(publication), *_card(tree), *_croissant(tree), *_splits(tree, config), *_checksums(tree)]
    if PAGE not in tree.files:
        gaps.append(Gap("page", f"{PAGE} is missing: run `prichexy publish`", blocking=False))
    return gaps


def _audits(publication: Publication, config: PublishConfig) -> Iterator[Gap]:
    for found in gather(publication, secret_file(config.secret_file), config.tracking_uri):
        about = f"model version {found.making.model}"
        if found.state != "passed":
            mend = {
                "failed": "choose another model and anonymize again",
                "unproven": "name secret_file and tracking_uri of the audit",
                "none": "audit the model, and anonymize with one that passed",
            }[found.state]
            yield Gap("audit", f"{about}: {found.sentence[:-1]}; {mend}")
        if not found.stamped:
            yield Gap("audit", f"{about}: its images were made without a passing audit (allow_unaudited)")
        if found.other_resolution:
            yield Gap(
                "audit",
                f"{about}: audited at {found.other_resolution}, published at {found.making.resolution}; "
                "audit at the resolution that is published",
                blocking=False,
            )


def _verified(publication: Publication, config: PublishConfig) -> Iterator[Gap]:
    if not config.verify:
        yield Gap(
            "verify", "the published bytes were not verified: check without verify=false, or run `prichexy verify`"
        )
        return
    from prichexy.lake.verify import verify

    problems = verify(publication.store).problems
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        yield Gap("verify", f"{problems[0]}{more}: run `prichexy verify`")


def _snapshots(publication: Publication) -> Iterator[Gap]:
    dead = len(publication.dead_files)
    if dead:
        noun = "file" if dead == 1 else "files"
        yield Gap(
            "snapshots",
            f"{dead} {noun} of older snapshots are still there, with rows that were withdrawn or replaced since: "
            "remove them, or copy only what SHA256SUMS names",
        )


def _card(tree: _Tree) -> Iterator[Gap]:
    text = tree.files.get(README, b"").decode("utf-8", "replace")
    matter = front_matter(text)
    if matter is None:
        yield Gap("card", f"{README} is missing or has no front matter: run `prichexy publish`")
        return
    if not matter.get("license"):
        yield Gap("licence", "no licence is stated: set license (SPDX) or license_file, and publish again")
    elif matter.get("license_link") == LICENSE and LICENSE not in tree.files:
        yield Gap("licence", f"the card names the file {LICENSE}, which is not there: publish again")
    for name in ("pretty_name", "version", "task_categories", "size_categories", "dataset_info"):
        if not matter.get(name):
            yield Gap("card", f"{README}: {name} is missing from the front matter")
    withholds = re.search(WITHHOLDS.format(r"(\d+)"), text)
    if withholds is None or int(withholds[1]) < SMALL_CELL:
        found = "does not say which counts it withholds"
        if withholds is not None:
            found = f"was made with small_cell={withholds[1]}, and tells of groups of that many patients"
        yield Gap("card", f"{README} {found}: publish again with small_cell={SMALL_CELL} or more")
    for heading in _unstated(text):
        yield Gap("card", f"{README}: {heading} is not stated; set it and publish again")
    if _named(matter, tree.publication) != {file.path for file in tree.publication.data}:
        yield Gap("card", f"{README} names other data files than the newest snapshot's: publish again")


def front_matter(text: str) -> dict[str, Any] | None:
    """The card's YAML; None where there is none."""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        return None
    try:
        values = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    return values if isinstance(values, dict) else None


def _unstated(text: str) -> Iterator[str]:
    """What the card says is not stated: the line of its table, or the heading above."""
    heading = "something"
    for line in text.splitlines():
        if line.startswith("#"):
            heading = f"'{line.lstrip('#').strip()}'"
        elif NOT_STATED in line and line.startswith("|"):
            name = line.split("|")[1].strip()
            if name != "licence":  # looked for in the front matter
                yield f"'{name}'"
        elif NOT_STATED in line:
            yield heading


def _named(matter: dict[str, Any], publication: Publication) -> set[str]:
    """Files in data/ that the front matter's default configuration names."""
    patterns: list[str] = []
    for config in matter.get("configs") or []:
        if isinstance(config, dict) and config.get("config_name") == "default":
            for entry in config.get("data_files") or []:
                path = entry.get("path") or [] if isinstance(entry, dict) else []
                patterns += [path] if isinstance(path, str) else list(path)
    there = [item.path for item in publication.store.list(layout.DATA)]
    exact = set(patterns)
    wild = [pattern for pattern in patterns if "*" in pattern]
    return {path for path in there if path in exact or any(fnmatchcase(path, pattern) for pattern in wild)}


def _croissant(tree: _Tree) -> Iterator[Gap]:
    data = tree.files.get(CROISSANT)
    if data is None:
        yield Gap("croissant", f"{CROISSANT} is missing: run `prichexy publish`")
        return
    try:
        croissant.validate(data)
        described = json.loads(data)
    except UsageError as error:
        yield Gap("croissant", f"{CROISSANT} was not validated: {error}")
        return
    except PrichexyError as error:
        yield Gap("croissant", f"{error}: publish again")
        return
    hashes = [part.get("sha256") for part in _listed(described.get("distribution")) if isinstance(part, dict)]
    if tree.publication.manifest.sha256 not in hashes:
        yield Gap("croissant", f"{CROISSANT} describes another snapshot: publish again")
    for name in ("creator", "license", "citeAs", "publisher"):
        if not described.get(name):
            yield Gap("croissant", f"{CROISSANT}: {name} is missing", blocking=False)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _splits(tree: _Tree, config: PublishConfig) -> Iterator[Gap]:
    data = tree.files.get(SPLITS)
    if data is None:
        yield Gap(
            "splits", f"there is no {SPLITS}: publish with --splits, so that results compare", blocking=config.splits
        )
        return
    table = read_splits(data)
    if table is None:
        yield Gap("splits", f"{SPLITS} is no table of image_id and split: publish again")
        return
    ids = pa.concat_tables(tree.publication.tables(["image_id", "patient_id"])).sort_by("image_id")
    # Names of the splits are compared by their places; both tables are sorted by image_id.
    if not ids["image_id"].combine_chunks().equals(table["image_id"].combine_chunks()):
        yield Gap("splits", f"{SPLITS} names other images than the newest snapshot's: publish again")
        return
    codes = pc.index_in(table["split"], value_set=pa.array(SPLIT_NAMES)).combine_chunks()
    assigned = pc.and_(pc.is_valid(codes), pc.is_valid(ids["patient_id"].combine_chunks()))
    try:
        check_disjoint(
            ids["patient_id"].combine_chunks().filter(assigned).to_pylist(), codes.filter(assigned).to_numpy()
        )
    except UsageError:
        yield Gap("splits", f"{SPLITS} has patients in two splits: publish again")


def _checksums(tree: _Tree) -> Iterator[Gap]:
    text = tree.files.get(SHA256SUMS)
    if text is None:
        yield Gap("checksums", f"{SHA256SUMS} is missing: run `prichexy publish`")
        return
    listed = parse(text.decode("utf-8", "replace"))
    expected = manifest_hashes(tree.publication)
    expected |= {path: digest(data) for path, data in tree.files.items() if path != SHA256SUMS}
    dicom = tree.publication.dicom
    wrong = sum(listed.get(path) != value for path, value in expected.items())
    wrong += sum(path not in listed for path in dicom)
    wrong += len(listed.keys() - expected.keys() - set(dicom))
    if wrong:
        noun = "line is" if wrong == 1 else "lines are"
        yield Gap("checksums", f"{SHA256SUMS} is stale: {wrong} {noun} missing, wrong or of files no longer there")
