"""The invented persons behind the phantoms: every header value that an anonymizer has to find."""

import hashlib
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np

from prichexy.cohort.phantom.anatomy import Stream, generator
from prichexy.cohort.phantom.cohort import PhantomStudy

# fmt: off
_FAMILY = (
    "Ahlgren", "Berkholt", "Castellane", "Dvorská", "Eklundh", "Fairweather", "Grünewaldt", "Halloran", "Iversby",
    "Jankowiak", "Kowalczuk", "Lindqvist", "Montclair", "Nakashiro", "Okonjeli", "Pellegrino", "Quintrell",
    "Rosenthaler", "Sørbakken", "Thibodeau", "Uchenwa", "Vandermeer", "Whitcombe", "Yamanouchi", "Zielinskaja",
)
_MALE = (
    "Anselm", "Bertrand", "Cornelius", "Dimitri", "Everett", "Florian", "Gregor", "Henrik", "Ignacio", "Jasper",
    "Konrad", "Leander",
)
_FEMALE = (
    "Adelheid", "Beatrix", "Clementine", "Dorothea", "Eleonora", "Frederike", "Genoveva", "Hildegard", "Isadora",
    "Josephine", "Katharina", "Leocadia",
)
# fmt: on
_STREETS = ("Lindenallee", "Harbour Crescent", "Mühlgasse", "Orchard Mews", "Rue des Tilleuls", "Kirkegata")
_TOWNS = ("Altenbrück", "Westmarsh", "Nordhaven", "Saint-Aubry", "Castelmora")
_HOSPITALS = (
    "Sankt Egid Klinikum",
    "Westmarsh General Infirmary",
    "Hôpital des Trois Ponts",
    "Nordhaven University Hospital",
)


@dataclass(frozen=True)
class Person:
    """A patient's identity and the circumstances of one study; all invented."""

    name: str  # Family^Given
    mrn: str
    issuer: str
    other_id: str
    birth: date
    address: str
    phone: str
    when: datetime
    accession: str
    referring: str
    performing: str
    operator: str
    institution: str
    department: str
    station: str
    serial: str


def invent(study: PhantomStudy) -> Person:
    """The person behind a study: the patient's part is the same in all studies of that patient."""
    fixed = generator(study.seed, study.patient, None, Stream.IDENTITY)
    now = generator(study.seed, study.patient, study.study, Stream.IDENTITY)

    def pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
        return words[int(rng.integers(len(words)))]

    def doctor(rng: np.random.Generator) -> str:
        return f"{pick(rng, _FAMILY)}^{pick(rng, _MALE + _FEMALE)}^^Dr."

    given = pick(fixed, _MALE if study.sex == "M" else _FEMALE)
    name = f"{pick(fixed, _FAMILY)}^{given}"
    start = datetime(2012, 1, 1) + timedelta(days=int(fixed.integers(0, 1500)))
    when = start + timedelta(
        days=200 * study.study + int(now.integers(0, 150)), seconds=int(now.integers(24000, 79000))
    )
    hospital = int(fixed.integers(len(_HOSPITALS)))
    return Person(
        name=name,
        mrn=f"MRN{int(fixed.integers(10**7, 10**8))}",
        issuer=f"HOSP{hospital}PAS",
        other_id=f"SSN-{int(fixed.integers(10**8, 10**9))}",
        birth=when.date() - timedelta(days=int(365.25 * study.age) + int(now.integers(20, 340))),
        address=f"{int(fixed.integers(1, 240))} {pick(fixed, _STREETS)}, {pick(fixed, _TOWNS)}",
        phone=f"+00 {int(fixed.integers(100, 999))} {int(fixed.integers(100000, 999999))}",
        when=when,
        accession=f"ACC{int(now.integers(10**8, 10**9))}",
        referring=doctor(now),
        performing=doctor(now),
        operator=f"{pick(now, _FAMILY)}^{pick(now, _FEMALE)}",
        institution=_HOSPITALS[hospital],
        department=f"Radiology {int(now.integers(1, 6))} East",
        station=f"CR-ROOM-{hospital}{int(now.integers(0, 5))}",
        serial=f"SN{hospital}{int(now.integers(100000, 999999))}",
    )


def uid(study: PhantomStudy, what: str) -> str:
    """A UID under 2.25 (PS3.5 B.2: a 128-bit integer) that follows from seed, study and purpose."""
    text = f"prichexy phantom/{study.seed}/{study.patient}/{study.study}/{what}"
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], 'big')}"
