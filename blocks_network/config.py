"""Two settings as constants, for programs that read them here: what the environment said when this was imported."""

from blocks_network import settings
from blocks_network.api.cdm import DEFAULT_CDM_URL, CdmApiConfig, CdmConfig, CdmKeyset, fetch_cdm_config

__all__ = [
    "ARTIFACT_INLINE_LIMIT_BYTES",
    "CdmApiConfig",
    "CdmConfig",
    "CdmKeyset",
    "DEFAULT_CDM_URL",
    "LOG_LEVEL",
    "fetch_cdm_config",
]

ARTIFACT_INLINE_LIMIT_BYTES = settings.ARTIFACT_INLINE_LIMIT_BYTES.read()
LOG_LEVEL = settings.LOG_LEVEL.read()
