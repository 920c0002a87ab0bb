"""Takes patients, or single images, out of a destination again: out of all its snapshots.

A withdrawal makes a snapshot of its own, without a job: what the one before held, less the rows that go. It also
writes the earlier snapshots anew without them. Shards that hold such rows are written again under other names, all
other files stay as they are; every earlier manifest is written again beside the new one, whose hashes they are then
proven by.

Killed at any moment, it leaves readers what they had, or what they are to have:

1. `_withdrawal.json` of the new snapshot says what has to go, before anything else is written.
2. The shards and manifests are written, under names that nobody reads yet.
3. `_SUCCESS` names the new snapshot. From here on nobody is led to a row that goes.
4. The old shards, DICOM files and manifests are deleted, and the card's files, which tell hashes and figures of what
   was (`prichexy publish` writes them again); commit records are brought up to date; `_withdrawal.json` comes last.

The next run begins anew before 3 and goes on with 4 behind it, and until then no job publishes there.

What stays in public of who was withdrawn is a keyed mark in the manifest, which tells nothing without the secret. With
it, a later job finds out whom it must not publish again (`is_withdrawn`). Rows in quarantine stay: they hold a row
number of the private catalog and a reason, and nothing of the patient.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from prichexy.deid import Pseudonyms
from prichexy.errors import PrichexyError, StorageFault, UsageError
from prichexy.lake import layout
from prichexy.lake.commit import Commit, record_of
from prichexy.lake.job import Job, current_snapshot, read_job
from prichexy.lake.lease import held
from prichexy.lake.shards import digest
from prichexy.lake.snapshots import (
    columns_of,
    jobs_of,
    manifest_bytes,
    path_of,
    read_manifest,
    rewritten,
    shards_of,
    switched,
    with_shards,
    withdrawn_in,
)
from prichexy.lake.storage import Store

Manifest = dict[str, Any]
Outcome = Literal["withdrawn", "would be withdrawn", "nothing to do"]


@dataclass(frozen=True)
class Named:
    """Whom and what a withdrawal names, by published pseudonyms.

    Attributes:
        patients: whose images all go.
        images: single ones, such as those of which nobody knows the patient.
    """

    patients: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()

    def marks(self, keys: Pseudonyms) -> set[str]:
        """What the manifest keeps of them."""
        return {_patient_mark(keys, each) for each in self.patients} | {_image_mark(keys, each) for each in self.images}


@dataclass(frozen=True)
class Withdrawal:
    """What came of a withdrawal.

    Attributes:
        destination: where the shards are.
        outcome: ``nothing to do`` where all that was named had been withdrawn before.
        snapshot: which one readers see now.
        images: that went, of all snapshots together.
        image_ids: which; whoever has copies needs them.
        shards: files that were written again, or had no row left.
        dicom_files: that went.
        card_files: of `prichexy publish` that went: it has to be run again.
        files_removed: these, the shards' and the manifests' former files, and what a run before had left.
        linked: whether jobs of this destination also wrote link tables, which a withdrawal does not touch.
    """

    destination: str
    outcome: Outcome
    snapshot: int
    images: int
    shards: int
    dicom_files: int
    card_files: tuple[str, ...]
    files_removed: int
    linked: bool
    image_ids: tuple[str, ...]


def withdraw(
    store: Store, keys: Pseudonyms, named: Named, *, dry_run: bool = False, discard_unfinished: bool = False
) -> Withdrawal:
    """Take what is named out of all snapshots of a destination.

    Args:
        store: the destination.
        keys: of the project; the destination must be written under them.
        named: patients and images; at least one.
        dry_run: count only, and write nothing.
        discard_unfinished: give up a snapshot that a job has begun and not finished.

    Raises:
        UsageError: another project's secret, or a snapshot that is not finished; nothing was removed.
        PrichexyError: somebody or something that is named is not there, nothing was removed; or another run writes.
        StorageFault: the destination failed; the same call goes on.
    """
    store.check_readable()
    there = read_job(store)
    if there is None or not current_snapshot(store):
        raise PrichexyError(f"{store.uri} has no finished snapshot from which anything could be withdrawn")
    if there.key_id != keys.key_id:
        raise UsageError(
            f"{store.uri} was written with another project secret (its key_id differs): name that one as secret_file"
        )
    if dry_run:
        return _summary(store, _plan(store, keys, named), "would be withdrawn", 0)
    store.check_writable()
    with held(store, lambda machine: keys.fingerprint("machine", machine)) as lease:
        removed = _removed_what_is_left(store)
        plan = _plan(store, keys, named)
        if not plan.found:
            return _summary(store, plan, "nothing to do", removed)
        _discard_unfinished(store, current_snapshot(store) + 1, allowed=discard_unfinished)
        _switch(store, plan, lease.check)
        removed += _removed_what_is_left(store)
    return _summary(store, plan, "withdrawn", removed)


def withdrawn_marks(store: Store) -> frozenset[str]:
    """Keyed marks of all that was withdrawn from a destination, for `is_withdrawn`.

    Raises:
        StorageFault: the destination failed, or its manifest is not the one that was written.
    """
    if not current_snapshot(store):
        return frozenset()
    return frozenset(withdrawn_in(_manifest(store)))


def is_withdrawn(keys: Pseudonyms, marks: frozenset[str], image_id: str, patient_id: str | None) -> bool:
    """Whether an image, or its patient, was withdrawn; both by their pseudonyms, the patient None where unknown."""
    if not marks:
        return False
    return _image_mark(keys, image_id) in marks or (patient_id is not None and _patient_mark(keys, patient_id) in marks)


def _patient_mark(keys: Pseudonyms, patient_id: str) -> str:
    return keys.fingerprint("withdrawn patient", patient_id)


def _image_mark(keys: Pseudonyms, image_id: str) -> str:
    return keys.fingerprint("withdrawn image", image_id)


@dataclass(frozen=True)
class _Found:
    """Rows that go, in one file of a shard.

    A shard of which rows were replaced has several: `since` is the first snapshot that has this one, and `is_live`
    says whether the newest has it.
    """

    commit: Commit
    job: Job
    since: int
    is_live: bool
    images: frozenset[str]
    dicom: tuple[str, ...]


@dataclass(frozen=True)
class _Plan:
    """What a withdrawal does: the manifests of all snapshots so far, oldest first, and the rows that go."""

    manifests: list[Manifest]
    found: list[_Found]
    marks: list[str]
    card_files: tuple[str, ...]

    @property
    def images(self) -> set[str]:
        return {image for found in self.found for image in found.images}

    @property
    def dicom(self) -> set[str]:
        return {path for found in self.found for path in found.dicom}


def _plan(store: Store, keys: Pseudonyms, named: Named) -> _Plan:
    newest = _manifest(store)
    manifests = [_manifest(store, entry["snapshot"]) for entry in newest["earlier"]] + [newest]
    live = {commit.data.path for commit in shards_of(newest) if commit.data}
    files: dict[str, tuple[Commit, Job, int]] = {}
    for manifest in manifests:
        jobs = {job.snapshot: job for job in jobs_of(manifest)}
        for commit in shards_of(manifest):
            if commit.data is not None:
                files.setdefault(commit.data.path, (commit, jobs[commit.snapshot], manifest["snapshot"]))

    def look(path: str) -> tuple[pa.Table, set[str]]:
        return _matching(store, path, named)

    with ThreadPoolExecutor(store.options.connections) as pool:
        looks = list(pool.map(look, files))
    found, patients = [], set[str]()
    for (path, (commit, job, since)), (rows, whom) in zip(files.items(), looks, strict=True):
        patients |= whom
        if len(rows):
            dicom = rows["dicom"].drop_null().to_pylist() if "dicom" in rows.column_names else []
            images = frozenset(rows["image_id"].to_pylist())
            found.append(_Found(commit, job, since, path in live, images, tuple(dicom)))
    before = set(withdrawn_in(newest))
    there = {image for each in found for image in each.images}
    missing = Named(named.patients - patients, named.images - there).marks(keys) - before
    if missing:
        noun = "one" if len(missing) == 1 else f"{len(missing)}"
        raise PrichexyError(f"{noun} of those that are named is not in {store.uri}, nor was withdrawn from it")
    card = tuple(item.path for item in store.list() if item.path in layout.CARD_FILES) if found else ()
    return _Plan(manifests, found, sorted(before | named.marks(keys)), tuple(sorted(card)))


def _matching(store: Store, path: str, named: Named) -> tuple[pa.Table, set[str]]:
    """The rows of a shard that are named (without their images), and which of the named patients they are of."""
    table = columns_of(store, path, ["image_id", "patient_id", "dicom"])
    of_patients = pc.is_in(table["patient_id"], value_set=pa.array(sorted(named.patients), pa.string()))
    of_images = pc.is_in(table["image_id"], value_set=pa.array(sorted(named.images), pa.string()))
    whom = set(table.filter(of_patients)["patient_id"].to_pylist())
    return table.filter(pc.or_(of_patients, of_images)), whom


def _switch(store: Store, plan: _Plan, check: Callable[[], None]) -> None:
    """Write all anew that holds rows that go, and lead readers there."""
    newest = plan.manifests[-1]
    number = newest["snapshot"] + 1
    former = [each.commit.data.path for each in plan.found if each.commit.data]
    former += sorted(plan.dicom)
    former += [path_of(entry) for entry in newest["earlier"]] + [layout.manifest_path(number - 1)]
    removes = json.dumps({"removes": [*former, *plan.card_files]}, indent=2) + "\n"
    store.write(layout.withdrawal_path(number), removes.encode())
    again: dict[str, Commit] = {}
    for found in plan.found:
        check()
        commit, only = found.commit, None if found.is_live else found.since
        assert commit.data is not None
        path = layout.rewritten_path(number, commit.snapshot, commit.shard, only)
        again[commit.data.path] = rewritten(store, found.job, commit, found.images, path, withdrawn=True)

    def shards(manifest: Manifest) -> list[Commit]:
        return [again.get(each.data.path, each) if each.data else each for each in shards_of(manifest)]

    earlier: list[dict[str, Any]] = []
    for manifest in plan.manifests:
        text = manifest_bytes(with_shards({**manifest, "earlier": list(earlier)}, shards(manifest)))
        store.write(layout.earlier_manifest_path(number, manifest["snapshot"]), text)
        earlier.append({"snapshot": manifest["snapshot"], "sha256": digest(text), "rewritten_in": number})
    check()
    facts = {"snapshot": number, "earlier": earlier, "jobs": newest["jobs"], "withdrawn": plan.marks}
    switched(store, with_shards(facts, shards(newest)))


def _removed_what_is_left(store: Store) -> int:
    """End a withdrawal behind its switch, undo one that was cut off before it; how many files were removed."""
    number = current_snapshot(store)
    undone = _discard(store, number + 1) if _read(store, layout.withdrawal_path(number + 1)) is not None else 0
    left = _read(store, layout.withdrawal_path(number))
    store.remove_temporaries()
    if left is None:
        return undone
    try:
        removes = [path for path in json.loads(left)["removes"] if _may_be_removed(path)]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise StorageFault(f"{layout.withdrawal_path(number)} in {store.uri} is damaged: restore it") from None
    with ThreadPoolExecutor(store.options.connections) as pool:
        list(pool.map(store.delete, removes))
    newest = _manifest(store)
    for entry in newest["earlier"]:
        for commit in shards_of(_manifest(store, entry["snapshot"])):
            if commit.snapshot == entry["snapshot"] and commit.withdrawn:
                store.write(layout.commit_path(commit.snapshot, commit.shard), record_of(commit))
    store.delete(layout.withdrawal_path(number))
    return undone + len(removes)


def _may_be_removed(path: str) -> bool:
    """Whether a path is one that a withdrawal removes: what names it lies where others might write, too."""
    return path in layout.CARD_FILES or (layout.snapshot_of(path) is not None and ".." not in path.split("/"))


def _discard_unfinished(store: Store, number: int, *, allowed: bool) -> None:
    if _read(store, layout.job_path(number)) is None:
        return
    if not allowed:
        raise UsageError(
            f"snapshot {number} in {store.uri} is not finished: repeat the `prichexy anonymize` that makes it, or give "
            "it up with --discard-unfinished"
        )
    _discard(store, number)


def _discard(store: Store, number: int) -> int:
    """Remove all files of a snapshot that readers don't see yet; those first that lead to others."""
    paths = [item.path for item in store.list() if layout.snapshot_of(item.path) == number]
    last = (layout.job_path(number), layout.withdrawal_path(number))  # so that a run after a crash finds them
    folder = f"{layout.commits_folder(number)}/"
    for path in sorted(paths, key=lambda path: (path in last, not path.startswith(folder), path)):
        store.delete(path)
    return len(paths)


def _manifest(store: Store, snapshot: int | None = None) -> Manifest:
    manifest = read_manifest(store, snapshot)
    if manifest is None:
        raise StorageFault(f"a manifest in {store.uri} is missing or altered: run `prichexy verify`")
    return manifest


def _read(store: Store, path: str) -> bytes | None:
    try:
        return store.read(path)
    except FileNotFoundError:
        return None


def _summary(store: Store, plan: _Plan, outcome: Outcome, removed: int) -> Withdrawal:
    return Withdrawal(
        destination=store.uri,
        outcome=outcome if plan.found else "nothing to do",
        snapshot=current_snapshot(store),
        images=len(plan.images),
        shards=len(plan.found),
        dicom_files=len(plan.dicom),
        card_files=plan.card_files,
        files_removed=removed,
        linked=any(job.link for job in jobs_of(plan.manifests[-1])),
        image_ids=tuple(sorted(plan.images)),
    )
