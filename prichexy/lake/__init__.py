"""Everything that touches published bytes: storage, shards, commit, verification.

How a destination stays right, whatever happens (`commit` holds the code):

- A job is a frozen catalog of N rows, cut into shards of R rows: shard k is the rows [kR, (k+1)R). The cut, the
  shard's name and its content depend on nothing but the job (`_job.json`), so whoever makes shard k, and however
  often, makes the same.
- A shard's files are put in place whole: first its quarantine file, then its data file, last its commit record, which
  holds their sizes and hashes. A shard counts only when its record exists; a crash before that leaves files that the
  next run replaces by equal ones, so a reader never sees a row twice.
- What remains to be done is "all shards minus committed shards". Nothing else is remembered, so nothing else can be
  wrong.
- `_MANIFEST.json` is written when every shard is committed and their ranges tile [0, N); `_SUCCESS`, holding the
  manifest's hash, comes last. Killed between the two, the next run writes both again.
"""
