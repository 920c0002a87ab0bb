"""The main job on Ray Data, in the order in which a radiograph meets it.

`job` plans and commits; `stages` holds one function a stage: ingest (fetch, decode, pseudonyms) -> obfuscate
(generator actors) -> encode -> publish (one shard at a time).
"""

from prichexy.anonymize.job import Summary, anonymize

__all__ = ["Summary", "anonymize"]
