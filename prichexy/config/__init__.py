"""Every setting, typed and validated: from a YAML file, overridden as ``key=value``; an unknown key is an error.

Configuration is read once, at the edge; functions below take values.
"""

from prichexy.config.audit import (
    AuditConfig,
    AuditSettings,
    CompareConfig,
    ComparedModel,
    PromoteConfig,
    Thresholds,
)
from prichexy.config.deidentification import BurnedInText, DeidConfig, TransferSyntax
from prichexy.config.loading import (
    load,
    parse_overrides,
)
from prichexy.config.preparing import (
    LabelColumns,
    PrepareConfig,
    SplitConfig,
)
from prichexy.config.publication import PublishConfig, SplitShares
from prichexy.config.publishing import (
    DEFAULT_MODEL,
    AnonymizeConfig,
    CatalogConfig,
)
from prichexy.config.shared import (
    SECRET_VARIABLE,
    LimitsConfig,
    RayConfig,
    Settings,
    StorageConfig,
    StoragePlace,
    secret_file,
)
from prichexy.config.training import (
    AdversarialConfig,
    ClassifierConfig,
    ComputeConfig,
    GeneratorConfig,
    MultiScaleConfig,
    PairCounts,
    PairsConfig,
    PretrainingConfig,
    StageConfig,
    TrainConfig,
    VerifierConfig,
)

__all__ = [
    "DEFAULT_MODEL",
    "SECRET_VARIABLE",
    "AdversarialConfig",
    "AnonymizeConfig",
    "AuditConfig",
    "AuditSettings",
    "BurnedInText",
    "CatalogConfig",
    "ClassifierConfig",
    "CompareConfig",
    "ComparedModel",
    "ComputeConfig",
    "DeidConfig",
    "GeneratorConfig",
    "LabelColumns",
    "LimitsConfig",
    "MultiScaleConfig",
    "PairCounts",
    "PairsConfig",
    "PrepareConfig",
    "PretrainingConfig",
    "PromoteConfig",
    "PublishConfig",
    "RayConfig",
    "Settings",
    "SplitConfig",
    "SplitShares",
    "StageConfig",
    "StorageConfig",
    "StoragePlace",
    "Thresholds",
    "TrainConfig",
    "TransferSyntax",
    "VerifierConfig",
    "load",
    "parse_overrides",
    "secret_file",
]
