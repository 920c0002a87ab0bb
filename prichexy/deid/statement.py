"""What the output says of its own de-identification (PS3.15 E.1.1, PS3.3 C.12.1): no more than is true."""

from pydicom import DataElement, Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation

from prichexy.deid.profile import ProfileOptions

METHOD = "PS3.15 2026c Basic Application Level Confidentiality Profile"


def coded_entry(value: str, scheme: str, meaning: str) -> Dataset:
    """A coded entry of the standard (PS3.3 8.8)."""
    item = Dataset()
    item.add(DataElement(0x00080100, "SH", value))
    item.add(DataElement(0x00080102, "SH", scheme))
    item.add(DataElement(0x00080104, "LO", meaning))
    return item


def method_codes(options: ProfileOptions, dates_kept: bool) -> list[tuple[str, str]]:
    """Code value and meaning of the profile and of each option that is on (PS3.16 CID 7050)."""
    offered = [
        (True, "113100", "Basic Application Confidentiality Profile"),
        (options.pixels_cleaned, "113101", "Clean Pixel Data Option"),
        (dates_kept, "113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
        (options.patient_characteristics, "113108", "Retain Patient Characteristics Option"),
        (options.device_identity, "113109", "Retain Device Identity Option"),
        (bool(options.safe_private), "113111", "Retain Safe Private Option"),
    ]
    return [(value, meaning) for on, value, meaning in offered if on]


def state_deidentification(header: Dataset, options: ProfileOptions, dates_kept: bool) -> None:
    """Write method and codes, and the three flags that others rely on.

    Patient Identity Removed is YES only where the pixels were cleaned as well. Burned In Annotation is NO where they
    were, else what the source says; a DX image must say something, and says YES where its source says nothing.

    Args:
        header: the de-identified header; changed in place.
        options: what was on.
        dates_kept: whether shifted dates are in it; not so where no patient or study was known to shift them by.
    """
    header.PatientIdentityRemoved = "YES" if options.pixels_cleaned else "NO"
    header.DeidentificationMethod = METHOD
    header.DeidentificationMethodCodeSequence = [
        coded_entry(value, "DCM", meaning) for value, meaning in method_codes(options, dates_kept)
    ]
    header.LongitudinalTemporalInformationModified = "MODIFIED" if dates_kept else "REMOVED"
    if options.pixels_cleaned:
        header.BurnedInAnnotation = "NO"
    elif "BurnedInAnnotation" not in header and header.get("SOPClassUID") == DigitalXRayImageStorageForPresentation:
        header.BurnedInAnnotation = "YES"
