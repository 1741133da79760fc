"""Which network a client talks to: each value from the argument, else the environment, else the network's document."""

from __future__ import annotations

from dataclasses import dataclass, replace

from blocks_network import settings
from blocks_network.api.cdm import BillingMode, fetch_cdm_config
from blocks_network.errors import ConfigurationError
from blocks_network.transport.pubnub import PubNubKeys

__all__ = ["Network", "checked_billing_mode", "find_network"]


@dataclass(frozen=True, slots=True)
class Network:
    """Where a client's calls and sessions go. `other_keys` are those of the other billing mode, where known,
    `features` what the network announces."""

    base_url: str
    keys: PubNubKeys
    other_keys: PubNubKeys | None = None
    features: frozenset[str] = frozenset()


def checked_billing_mode(value: object) -> BillingMode:
    """ConfigurationError (ValueError) for anything but "free" and "paid"."""
    if value not in ("free", "paid"):
        raise ConfigurationError(
            f"billing_mode is 'free' or 'paid', not {value!r}", hint="get_agent(name).billing_mode says how it bills"
        )
    return value


def find_network(
    billing_mode: BillingMode,
    cdm_url: str | None,
    subscribe_key: str | None,
    publish_key: str | None,
    base_url: str | None,
) -> Network:
    """Argument > environment > the document, each value for itself. ConfigurationError names what nobody gave.

    The document is not fetched when everything else is given and nothing names one.
    """
    subscribe_key = subscribe_key or settings.SUBSCRIBE_KEY.read()
    publish_key = publish_key or settings.PUBLISH_KEY.read()
    base_url = base_url or settings.BACKEND_URL.read()
    if subscribe_key and publish_key and base_url and not (cdm_url or settings.CDM_URL.read()):
        return Network(base_url, PubNubKeys(subscribe_key, publish_key))
    document = fetch_cdm_config(cdm_url)
    listed = document.keys(billing_mode)
    keys = replace(
        listed,
        subscribe_key=subscribe_key or listed.subscribe_key,
        publish_key=publish_key or listed.publish_key,
    )
    base_url = base_url or document.api.base_url
    _require("subscribe_key", keys.subscribe_key, settings.SUBSCRIBE_KEY.name, "keyset")
    _require("base_url", base_url, settings.BACKEND_URL.name, "api.baseUrl")
    others = document.keys("paid" if billing_mode == "free" else "free")
    return Network(base_url, keys, others, document.features)


def _require(name: str, value: str, variable: str, in_document: str) -> None:
    if not value:
        raise ConfigurationError(
            f"no {name}: give it as argument, in {variable}, or as {in_document} of the network's configuration (CDM)"
        )
