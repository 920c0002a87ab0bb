"""The dataset card: README.md, with front matter in Hugging Face's form (hub documentation, "Dataset Cards")."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from prichexy.publish.facts import Facts
from prichexy.publish.limits import limits
from prichexy.publish.source import SHA256SUMS, SPLITS

NOT_STATED = "_Not stated by the publisher._"
"""Stands where the publisher left something out; `publish --check` looks for it."""

WITHHELD = "withheld"
"""Stands for a count that must not be shown."""

_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
_TAGS = ("medical", "radiology", "chest-x-ray", "anonymized", "prichexy")


def card(facts: Facts) -> str:
    """The card's text."""
    return f"---\n{front_matter(facts)}---\n\n{_body(facts)}"


def front_matter(facts: Facts) -> str:
    """The YAML that Hugging Face's hub and `datasets` read; without the lines of three dashes."""
    size = _SIZES[min(len(_SIZES) - 1, max(0, len(str(facts.publication.images)) - 3))]
    values: dict[str, Any] = {
        **facts.licence.front_matter(),
        "pretty_name": facts.title,
        "version": facts.version,
        "task_categories": ["image-classification"] if facts.census.labelled else ["other"],
        "size_categories": [size],
        "tags": list(dict.fromkeys([*_TAGS, *([] if facts.audited else ["unaudited"]), *facts.config.tags])),
        "configs": _configs(facts),
        "dataset_info": _info(facts),
    }
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def _configs(facts: Facts) -> list[dict[str, Any]]:
    patterns = facts.publication.data_patterns
    path = patterns[0] if len(patterns) == 1 else patterns
    configs = [{"config_name": "default", "data_files": [{"split": facts.split_name, "path": path}]}]
    if facts.splits:
        configs.append({"config_name": "splits", "data_files": [{"split": facts.split_name, "path": SPLITS}]})
    return configs


def _info(facts: Facts) -> list[dict[str, Any]]:
    info = [{"config_name": "default", "features": [_feature(column) for column in facts.schema]}]
    if facts.splits:
        features = [{"name": name, "dtype": "string"} for name in facts.splits.table.column_names]
        info.append({"config_name": "splits", "features": features})
    return info


def _feature(column: pa.Field) -> dict[str, str]:
    if pa.types.is_struct(column.type):
        return {"name": column.name, "dtype": "image"}
    if pa.types.is_list(column.type):
        return {"name": column.name, "sequence": "string"}
    return {"name": column.name, "dtype": "date32" if column.type == pa.date32() else str(column.type)}


def _body(facts: Facts) -> str:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"count": _count, "line": _line, "figure": _figure}
    return templates.get_template("card.md.j2").render(
        facts=facts,
        config=facts.config,
        publication=facts.publication,
        census=facts.census,
        meanings=facts.meanings,
        jpeg_xl=facts.publication.encoding == "jpeg-xl",
        all_live=len(facts.publication.data_patterns) == 1 and "*" in facts.publication.data_patterns[0],
        checksums=SHA256SUMS,
        limits=limits,
        labelled=facts.census.labelled,
        not_stated=NOT_STATED,
        withheld=WITHHELD,
    )


def _count(value: int | None) -> str:
    return WITHHELD if value is None else f"{value:,}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _line(text: object) -> str:
    """A text as a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")
