import pytest
from pydantic import ValidationError

from prichexy.errors import UsageError
from prichexy.obfuscation.settings import ObfuscationSettings, parse_settings


def test_defaults_are_the_kind_s_own() -> None:
    assert ObfuscationSettings(kind="flow-field").recorded() == {
        "kind": "flow-field",
        "image_size": 256,
        "mu": 0.01,
        "operator": "corrected",
        "features": 32,
        "precision": "float32",
    }
    assert ObfuscationSettings(kind="privacy-net").features == 16
    assert ObfuscationSettings(kind="dp-pix").recorded() == {
        "kind": "dp-pix",
        "image_size": 256,
        "cell": 8,
        "epsilon": 0.1,
        "m": 1,
    }
    assert ObfuscationSettings(kind="identity").recorded() == {"kind": "identity", "image_size": 256}


@pytest.mark.parametrize("kind", ["flow-field", "privacy-net", "multi-scale-field", "dp-pix", "identity"])
def test_what_is_recorded_can_be_parsed_again(kind: str) -> None:
    settings = parse_settings({"kind": kind, "image_size": 128})
    assert parse_settings(settings.recorded()) == settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "dp-pix", "mu": 0.01}, "mu: not a setting of kind 'dp-pix'; leave it out"),
        ({"kind": "identity", "cell": 2, "epsilon": 1.0}, "cell, epsilon: not a setting of kind 'identity'"),
        ({"kind": "privacy-net", "operator": "corrected"}, "operator: not a setting of kind 'privacy-net'"),
        ({"kind": "flow-field", "mu": 0}, "mu: Input should be greater than 0"),
        ({"kind": "flow-field", "mu": 0.11}, "mu: Input should be less than or equal to 0.1"),
        ({"kind": "flow-field", "mu": float("nan")}, "mu: "),
        ({"kind": "flow-field", "operator": "wrong"}, "operator: Input should be 'corrected' or 'reference'"),
        ({"kind": "flow-field", "image_size": 72}, "image_size: must be a multiple of 16 for kind 'flow-field'"),
        ({"kind": "privacy-net", "image_size": 100}, "image_size: must be a multiple of 8 for kind 'privacy-net'"),
        ({"kind": "flow-field", "image_size": 48}, "image_size: Input should be greater than or equal to 64"),
        ({"kind": "dp-pix", "epsilon": 0}, "epsilon: Input should be greater than 0"),
        ({"kind": "dp-pix", "cell": 0}, "cell: Input should be greater than or equal to 1"),
        ({"kind": "flow-field", "precision": "int8"}, "precision: Input should be 'float32' or 'bfloat16'"),
        ({"kind": "multi-scale-field", "fields_px": (17, 0, 0)}, "fields_px: from 0 to 16, 6, 2, in order"),
        ({"kind": "multi-scale-field", "fields_px": (1, 1)}, "fields_px.2: Field required"),
        ({"kind": "multi-scale-field", "coarse_px": 0}, "coarse_px: 0 standardizes nothing"),
        ({"kind": "multi-scale-field", "kept": 15}, "kept: Input should be less than or equal to 14"),
        ({"kind": "multi-scale-field", "mu": 0.01}, "mu: not a setting of kind 'multi-scale-field'"),
        ({"kind": "flow-field", "colour": 1}, "colour: Extra inputs are not permitted"),
        ({"kind": "other"}, "kind: Input should be 'flow-field'"),
        ({}, "kind: Field required"),
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_settings(given)
    assert str(error.value).startswith(f"obfuscation setting {message}")
    assert "\n" not in str(error.value)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ObfuscationSettings(kind="flow-field").mu = 0.02  # type: ignore[misc]


def test_sizes_that_need_no_network_are_free() -> None:
    assert parse_settings({"kind": "dp-pix", "image_size": 101}).image_size == 101
    assert parse_settings({"kind": "privacy-net", "image_size": 72}).image_size == 72
