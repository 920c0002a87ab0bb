"""What stands beside the shards of a finished publication: card, metadata, checksums, splits, page; and the check.

Nothing here touches a shard: `source` reads the manifest, `counting` reads a few columns of each data file, the others
say the same facts in their own form. The same snapshot and the same settings give the same files, byte for byte.

Small cells: the documents withhold small counts (`suppression`). The rows themselves are public, and whoever has them
can count; the documents travel further than the rows do, and are quoted.
"""

from prichexy.publish.check import Gap, check
from prichexy.publish.writing import Published, publish

__all__ = ["Gap", "Published", "check", "publish"]
