"""Licences as each document names them."""

from dataclasses import dataclass

from prichexy.publish.source import LICENSE

# Hugging Face's own identifiers (hub documentation, "Licenses", read 2026-11) of licences that data are given under.
_ON_THE_HUB = {
    "Apache-2.0": "apache-2.0",
    "C-UDA-1.0": "c-uda",
    "CC-BY-2.0": "cc-by-2.0",
    "CC-BY-2.5": "cc-by-2.5",
    "CC-BY-3.0": "cc-by-3.0",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-NC-2.0": "cc-by-nc-2.0",
    "CC-BY-NC-3.0": "cc-by-nc-3.0",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
    "CC-BY-NC-ND-3.0": "cc-by-nc-nd-3.0",
    "CC-BY-NC-ND-4.0": "cc-by-nc-nd-4.0",
    "CC-BY-NC-SA-2.0": "cc-by-nc-sa-2.0",
    "CC-BY-NC-SA-3.0": "cc-by-nc-sa-3.0",
    "CC-BY-NC-SA-4.0": "cc-by-nc-sa-4.0",
    "CC-BY-ND-4.0": "cc-by-nd-4.0",
    "CC-BY-SA-3.0": "cc-by-sa-3.0",
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "CC0-1.0": "cc0-1.0",
    "CDLA-Permissive-1.0": "cdla-permissive-1.0",
    "CDLA-Permissive-2.0": "cdla-permissive-2.0",
    "CDLA-Sharing-1.0": "cdla-sharing-1.0",
    "MIT": "mit",
    "ODC-By-1.0": "odc-by",
    "ODbL-1.0": "odbl",
    "PDDL-1.0": "pddl",
}


@dataclass(frozen=True)
class Licence:
    """What the data may be used for.

    Attributes:
        spdx: SPDX identifier or expression; None where only a text was given.
        has_text: whether its text lies beside the shards, as LICENSE.
    """

    spdx: str | None
    has_text: bool

    @property
    def given(self) -> bool:
        """Whether there is one at all."""
        return self.spdx is not None or self.has_text

    @property
    def name(self) -> str:
        """For people."""
        return self.spdx or "a licence of its own"

    @property
    def url(self) -> str | None:
        """Where its text is: SPDX's page of a single identifier, else the file."""
        if self.spdx is not None and self.spdx.replace("-", "").replace(".", "").isalnum():
            return f"https://spdx.org/licenses/{self.spdx}.html"
        return LICENSE if self.has_text else None

    def front_matter(self) -> dict[str, str]:
        """The lines of Hugging Face's front matter; `other` carries a name and a link there."""
        if not self.given:
            return {}
        if self.spdx in _ON_THE_HUB:
            return {"license": _ON_THE_HUB[self.spdx]}
        link = {"license_link": self.url} if self.url else {}
        return {"license": "other", "license_name": self.name.lower().replace(" ", "-"), **link}
