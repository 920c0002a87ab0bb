"""The DX image object of a phantom study: PS3.3 A.26 (Digital X-Ray Image IOD, For Presentation), filled completely."""

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from prichexy.cohort.phantom.cohort import PhantomStudy, pixel_spacing
from prichexy.cohort.phantom.identity import Person, uid

DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
_MAKERS = ("Isar Imaging", "Halden Roentgen", "Corvus Medical", "Medlux", "Aperta Systems")


def dx_header(study: PhantomStudy, person: Person, burned_in: bool, lossy: bool) -> tuple[Dataset, dict[str, str]]:
    """Everything of the DX object but the pixels.

    Args:
        study: the radiograph.
        person: who it is said to be; see `invent`.
        burned_in: whether a name is written into the pixels.
        lossy: whether the pixels were compressed with loss.

    Returns:
        The dataset, and the planted identifiers: attribute -> the value as it stands in the file.
    """
    ds = Dataset()
    planted: dict[str, str] = {}
    ds.SpecificCharacterSet = "ISO_IR 192"
    _patient_and_study(ds, study, person, planted)
    _series_and_equipment(ds, study, person, planted)
    _image(ds, study, person, burned_in, lossy, planted)
    _detector_and_position(ds, study)
    _private(ds, person, planted)
    return ds, planted


def _plant(ds: Dataset, planted: dict[str, str], **values: str) -> None:
    for keyword, value in values.items():
        setattr(ds, keyword, value)
        planted[keyword] = value


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    """A coded entry (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _patient_and_study(ds: Dataset, study: PhantomStudy, person: Person, planted: dict[str, str]) -> None:
    """Patient (C.7.1.1), General Study (C.7.2.1) and Patient Study (C.7.2.2) modules."""
    when = person.when
    _plant(
        ds,
        planted,
        PatientName=person.name,
        PatientID=person.mrn,
        IssuerOfPatientID=person.issuer,
        PatientBirthDate=f"{person.birth:%Y%m%d}",
        PatientAddress=person.address,
        PatientTelephoneNumbers=person.phone,
        PatientMotherBirthName=f"{person.name.split('^')[0]}-Born^Maria",
        PatientComments=f"Pt {person.name.replace('^', ', ')} lives at {person.address}",
        AccessionNumber=person.accession,
        ReferringPhysicianName=person.referring,
        StudyID=person.accession[-6:],
        StudyDate=f"{when:%Y%m%d}",
        StudyTime=f"{when:%H%M%S}",
        StudyInstanceUID=uid(study, "study"),
    )
    ds.PatientSex = study.sex
    ds.PatientAge = f"{study.age:03d}Y"
    other = Dataset()
    other.PatientID, other.IssuerOfPatientID, other.TypeOfPatientID = person.other_id, "NATIONAL", "TEXT"
    planted["OtherPatientIDsSequence.PatientID"] = person.other_id
    ds.OtherPatientIDsSequence = Sequence([other])
    ds.StudyDescription = "Chest radiograph"
    ds.PatientSize, ds.PatientWeight = None, None


def _series_and_equipment(ds: Dataset, study: PhantomStudy, person: Person, planted: dict[str, str]) -> None:
    """General Series (C.7.3.1), DX Series (C.8.11.1) and General Equipment (C.7.5.1) modules."""
    when = person.when
    ds.Modality = "DX"
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.SeriesNumber = 1
    ds.SeriesDescription = f"Chest {study.view}"
    ds.BodyPartExamined = "CHEST"
    _plant(
        ds,
        planted,
        SeriesInstanceUID=uid(study, "series"),
        SeriesDate=f"{when:%Y%m%d}",
        SeriesTime=f"{when:%H%M%S}",
        PerformingPhysicianName=person.performing,
        OperatorsName=person.operator,
        InstitutionName=person.institution,
        InstitutionalDepartmentName=person.department,
        StationName=person.station,
        DeviceSerialNumber=person.serial,
    )
    _plant(
        ds,
        planted,
        InstitutionAddress=f"1 Hospital Way, {person.address.split(', ')[1]}",
        DeviceUID=uid(study, "device " + person.serial),
    )
    maker = sum(person.serial.encode()) % len(_MAKERS)
    ds.Manufacturer = _MAKERS[maker]
    ds.ManufacturerModelName = f"Digital Stand {100 * (maker + 1)}"
    ds.SoftwareVersions = f"{maker + 1}.2"
    request = Dataset()
    request.RequestedProcedureID = person.accession[-8:]
    request.RequestedProcedureDescription = "Chest radiograph"
    request.RequestingPhysician = person.referring
    request.ReasonForTheRequestedProcedure = (
        f"Cough; {person.name.split('^')[1]} {person.name.split('^')[0]} asked for a copy"
    )
    request.ScheduledProcedureStepID = "SPS" + person.accession[-5:]
    step = _code("399208008", "SCT", "Plain chest X-ray")
    request.ScheduledProtocolCodeSequence = Sequence([step])
    request.RequestedProcedureCodeSequence = Sequence([_code("399208008", "SCT", "Plain chest X-ray")])
    for keyword in (
        "RequestedProcedureID",
        "RequestingPhysician",
        "ReasonForTheRequestedProcedure",
        "ScheduledProcedureStepID",
    ):
        planted[f"RequestAttributesSequence.{keyword}"] = str(getattr(request, keyword))
    ds.RequestAttributesSequence = Sequence([request])
    operator = Dataset()
    operator.PersonIdentificationCodeSequence = Sequence(
        [_code("OP" + person.serial[-4:], "99LOCAL", person.operator.replace("^", " "))]
    )
    operator.InstitutionName = person.institution
    planted["OperatorIdentificationSequence.PersonIdentificationCodeSequence.CodeMeaning"] = person.operator.replace(
        "^", " "
    )
    ds.OperatorIdentificationSequence = Sequence([operator])
    _plant(
        ds,
        planted,
        PerformedProcedureStepStartDate=f"{when:%Y%m%d}",
        PerformedProcedureStepID="PPS" + person.accession[-5:],
    )
    ds.PerformedProcedureStepStartTime = f"{when:%H%M%S}"


def _image(
    ds: Dataset, study: PhantomStudy, person: Person, burned_in: bool, lossy: bool, planted: dict[str, str]
) -> None:
    """General Image (C.7.6.1), DX Image (C.8.11.3), SOP Common (C.12.1) and Acquisition Context (C.7.6.14) modules."""
    when = person.when
    ds.SOPClassUID = DX_FOR_PRESENTATION
    _plant(
        ds,
        planted,
        SOPInstanceUID=uid(study, "instance"),
        ContentDate=f"{when:%Y%m%d}",
        ContentTime=f"{when:%H%M%S}",
        AcquisitionDate=f"{when:%Y%m%d}",
        AcquisitionTime=f"{when:%H%M%S.%f}",
        InstanceCreationDate=f"{when:%Y%m%d}",
        ImageComments=f"For {person.name.replace('^', ' ')}, {person.mrn}, read by {person.performing.split('^')[0]}",
    )
    ds.InstanceCreationTime = f"{when:%H%M%S}"
    ds.InstanceNumber, ds.AcquisitionNumber = 1, 1
    ds.ImageType = ["ORIGINAL", "PRIMARY"] if not lossy else ["DERIVED", "PRIMARY"]
    if lossy:
        ds.DerivationDescription = "JPEG baseline"
    ds.PatientOrientation = ["L", "F"]
    ds.BurnedInAnnotation = "YES" if burned_in else "NO"
    ds.LossyImageCompression = "01" if lossy else "00"
    ds.PixelIntensityRelationship = "LOG"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.AcquisitionContextSequence = Sequence([])
    ds.ImageLaterality = "U"
    region = _code("51185008", "SCT", "Chest")
    ds.AnatomicRegionSequence = Sequence([region])


def _detector_and_position(ds: Dataset, study: PhantomStudy) -> None:
    """DX Detector (C.8.11.4) and DX Positioning (C.8.11.5) modules."""
    spacing = f"{pixel_spacing(study):.6f}"
    ds.DetectorType = "SCINTILLATOR"
    ds.DetectorConfiguration = "AREA"
    ds.DetectorActiveShape = "RECTANGLE"
    ds.ImagerPixelSpacing = [spacing, spacing]
    ds.ViewPosition = study.view
    code = ("272479007", "Postero-anterior") if study.view == "PA" else ("399348003", "Antero-posterior")
    view = _code(code[0], "SCT", code[1])
    view.ViewModifierCodeSequence = Sequence([])
    ds.ViewCodeSequence = Sequence([view])
    ds.PositionerType = "NONE"
    ds.KVP = "120" if study.view == "PA" else "90"
    ds.DistanceSourceToDetector = "1800" if study.view == "PA" else "1100"


def _private(ds: Dataset, person: Person, planted: dict[str, str]) -> None:
    """Private blocks (PS3.5 7.8) that repeat the record number and a name, one inside a private sequence."""
    block = ds.private_block(0x0009, "ISAR LOCAL", create=True)
    block.add_new(0x01, "LO", person.mrn)
    block.add_new(0x02, "PN", person.name)
    block.add_new(0x03, "LT", f"worklist entry {person.accession} for {person.mrn}")
    inner = Dataset()
    inner.PatientName = person.name
    inner.private_block(0x0011, "ISAR NESTED", create=True).add_new(0x10, "SH", person.mrn)
    block.add_new(0x04, "SQ", Sequence([inner]))
    planted["(0009,xx01)"] = person.mrn
    planted["(0009,xx02)"] = person.name
    planted["(0009,xx03)"] = f"worklist entry {person.accession} for {person.mrn}"
