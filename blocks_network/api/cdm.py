"""The configuration document of a network: where it is, which keysets it has, what it can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from blocks_network import settings
from blocks_network.errors import ConfigurationError, TransportError
from blocks_network.transport.answers import FEATURE
from blocks_network.transport.http import POOL
from blocks_network.transport.pubnub import DEFAULT_ORIGIN, PubNubKeys

__all__ = ["DEFAULT_CDM_URL", "BillingMode", "CdmApiConfig", "CdmConfig", "CdmKeyset", "fetch_cdm_config"]

DEFAULT_CDM_URL = "https://config.blocks.ai/config.json"
TIMEOUT_S = 10.0
BillingMode = Literal["free", "paid"]


@dataclass(frozen=True, slots=True)
class CdmKeyset:
    publish_key: str
    subscribe_key: str


@dataclass(frozen=True, slots=True)
class CdmApiConfig:
    base_url: str
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class CdmConfig:
    """A network's document. `origin` (host:port) and `ssl` say where the PubNub protocol is served."""

    playground: CdmKeyset
    network: CdmKeyset
    api: CdmApiConfig
    origin: str = DEFAULT_ORIGIN
    ssl: bool = True
    features: frozenset[str] = frozenset()

    def keys(self, billing_mode: BillingMode) -> PubNubKeys:
        """The keyset that work of this billing mode travels on."""
        keyset = self.playground if billing_mode == "free" else self.network
        return PubNubKeys(keyset.subscribe_key, keyset.publish_key, self.origin, self.ssl, FEATURE in self.features)


def fetch_cdm_config(url: str | None = None) -> CdmConfig:
    """Reads the document. `url` > BLOCKS_CDM_URL > the hosted network's.

    ConfigurationError (ValueError) for an address that is not http(s) or a document without keys; TransportError
    when it cannot be fetched.
    """
    address = url or settings.CDM_URL.read() or DEFAULT_CDM_URL
    if urlsplit(address).scheme not in ("http", "https"):
        raise ConfigurationError(f"the configuration URL {address!r} is not http or https", hint=_HINT)
    try:
        response = POOL.request(
            "GET", address, connect_timeout_s=TIMEOUT_S, read_timeout_s=TIMEOUT_S, follow_redirects=True
        )
    except TransportError as fault:
        raise TransportError(f"no configuration from {address}: {fault}", hint=_HINT) from fault
    if response.status_code != 200:
        raise TransportError(
            f"the network's configuration at {address} answered HTTP {response.status_code}", hint=_HINT
        )
    try:
        document = response.json()
    except ValueError as fault:
        kind = response.headers.get("Content-Type", "something").partition(";")[0]
        raise ConfigurationError(
            f"the configuration URL {address} answered with {kind}, not with a JSON document", hint=_HINT
        ) from fault
    return parse_cdm_config(document, address)


_HINT = "check BLOCKS_CDM_URL (or --cdm-url), or start a network of your own with 'blocks-network dev'"


def parse_cdm_config(document: Any, address: str) -> CdmConfig:
    """ConfigurationError that names what is missing."""
    if not isinstance(document, Mapping):
        raise ConfigurationError(f"the configuration at {address} is not an object", hint=_HINT)
    missing = [name for name in ("playground", "network") if not _keyset(document, name)]
    if missing:
        raise ConfigurationError(f"the configuration at {address} has no keys for {' and '.join(missing)}", hint=_HINT)
    api = document.get("api")
    base_url = api.get("baseUrl") if isinstance(api, Mapping) else None
    transport = document.get("transport")
    transport = transport if isinstance(transport, Mapping) else {}
    features = document.get("features")
    return CdmConfig(
        playground=_read_keyset(document["playground"]),
        network=_read_keyset(document["network"]),
        api=CdmApiConfig(base_url or "", api.get("clientId") if isinstance(api, Mapping) else None),
        origin=str(transport.get("origin") or DEFAULT_ORIGIN),
        ssl=bool(transport.get("ssl", True)),
        features=frozenset(f for f in features if isinstance(f, str)) if isinstance(features, list) else frozenset(),
    )


def _keyset(document: Mapping[str, Any], name: str) -> bool:
    keyset = document.get(name)
    return isinstance(keyset, Mapping) and all(
        isinstance(keyset.get(key), str) and keyset[key] for key in ("publishKey", "subscribeKey")
    )


def _read_keyset(keyset: Mapping[str, Any]) -> CdmKeyset:
    return CdmKeyset(keyset["publishKey"], keyset["subscribeKey"])
