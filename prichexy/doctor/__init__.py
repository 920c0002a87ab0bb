"""`prichexy doctor`: whether everything is there that the main job needs, before it starts.

Each check is one `Finding`: ok, a warning, or failed with the mend. Nothing is left behind: the probe that is written
to each destination is deleted, and no model, run or database is made.
"""

from collections.abc import Iterator

from prichexy.config import AnonymizeConfig
from prichexy.doctor.finding import Finding

__all__ = ["Finding", "examine"]


def examine(config: AnonymizeConfig) -> Iterator[Finding]:
    """Every check, in the order in which a job would fail; on a cluster, on every node.

    Args:
        config: the job that shall run.

    Yields:
        One finding a check.
    """
    from prichexy.doctor.cluster import look_around
    from prichexy.doctor.places import check_clock
    from prichexy.doctor.registry import check_registry
    from prichexy.registry import Registry

    yield from look_around(config)
    yield from check_registry(config)
    yield check_clock(config, Registry(config.tracking_uri).uri)
