"""Everything that touches published bytes: storage, shards, commit, verification.

How a destination stays right, whatever happens (`commit` holds the code):

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
- `_MANIFEST.json` is written when every shard is committed and their ranges tile [0, N); `_SUCCESS`, holding the
  manifest's hash, comes last. Killed between the two, the next run writes both again.
"""
