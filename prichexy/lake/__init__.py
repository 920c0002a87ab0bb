"""Everything that touches published bytes: storage, shards, commit, verification.

How a destination stays right, whatever happens (`commit` holds the code):

- A destination is a series of snapshots (`layout` shows its files). Each is made by one job, and holds what the one
  before held and what the job adds.
- A job is a frozen catalog of N rows, cut into shards of R rows: shard k is the rows [kR, (k+1)R). The cut, the
  shard's name and its content depend on nothing but the job (`_job.json`), so whoever makes shard k, and however
  often, makes the same.
- A shard's files are put in place whole: first its DICOM files and its part of the link table, if there are such, then
  its quarantine file, its data file, and last its commit record, which holds their sizes and hashes. A shard counts
  only when its record exists; a crash before that leaves files that the next run replaces by equal ones (link rows by
  equal ones sealed anew), so a reader who follows the records never sees a row twice, nor one that is not committed.
- What remains to be done is "all shards minus committed shards". Nothing else is remembered, so nothing else can be
  wrong.
- One run at a time writes (`lease`). That is for people and for the bill: two runs of one job would write the same.
- A snapshot's `_MANIFEST.json` is written when every shard is committed and their ranges tile [0, N). It names all
  shards that are live, of this job and of those before; where this job has an image anew (its source file changed), the
  earlier shard is written again without it, under another name, and the old file stays for the earlier snapshots.
- A withdrawal (`withdrawal`) takes a patient out of all snapshots, as a snapshot without a job; it alone changes what
  earlier ones hold.
- `_SUCCESS`, which names the snapshot and its manifest's hash, comes last and is replaced whole: readers see the
  snapshot before, or the new one. Killed between manifest and `_SUCCESS`, the next run writes both again.
"""
