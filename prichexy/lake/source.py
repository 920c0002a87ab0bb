"""Reading a lake: one listed file at a time, telling the file's faults from the store's."""

from prichexy.errors import Quarantined, StorageFault
from prichexy.lake.listing import StoredObject
from prichexy.lake.storage import ObjectChanged, Store


def read_source(
    lake: Store, listed: StoredObject, max_bytes: int, where: str, may_be_gone: bool
) -> bytes | Quarantined:
    """A listed file's bytes, or why it can't be had; a fault of the store itself is raised.

    Args:
        lake: the store.
        listed: the file as the catalog has it; bytes come back only if it is still the same (`Store.read_listed`).
        max_bytes: that are allowed.
        where: names the file in errors without its path.
        may_be_gone: whether a file that is gone is the file's fault. If not, it is taken for a lake that is not there:
            an empty mount point looks just so.

    Raises:
        StorageFault: the lake failed, or is gone as a whole.
    """
    if listed.size > max_bytes:
        return Quarantined("fetch", "TooLarge", f"the file has more than the {max_bytes:,} bytes that are allowed")
    try:
        return lake.read_listed(listed)
    except ObjectChanged:
        return Quarantined("fetch", "SourceChanged", "the file is another one than when the lake was listed")
    except FileNotFoundError:
        if not may_be_gone:
            raise StorageFault(
                f"a listed file is gone from the lake ({where}): is it mounted? "
                "If files may vanish, set allow_missing=true"
            ) from None
        lake.check_readable()
        return Quarantined("fetch", "SourceGone", "the file was there when the lake was listed and is gone now")
    except StorageFault as fault:
        raise StorageFault(f"{fault} ({where})") from None
