"""Makes an agent known to a network before its first instance: by itself on this machine, by command elsewhere."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from blocks_network import settings
from blocks_network.agent.loading import LoadedHandler, from_card, from_reference
from blocks_network.api.caller import Caller
from blocks_network.api.cdm import fetch_cdm_config
from blocks_network.api.registry import AgentEntry, read_agent, register_agent
from blocks_network.cli.output import note
from blocks_network.errors import ApiError, ConfigurationError

__all__ = ["register_from", "register_here"]


def register_here(api_key: str, handler: LoadedHandler) -> None:
    """Registers the handler's agent when the network is one of this machine; elsewhere that is for its owner to say.

    ApiError as of `register_agent` (but for an unknown key), TransportError when the network does not answer.
    """
    if not _is_loopback(settings.CDM_URL.read()):
        return
    base_url = fetch_cdm_config().api.base_url
    if not _is_loopback(base_url):
        return
    known = read_agent(Caller(base_url), handler.agent_name, api_key=api_key)
    if known is None:
        try:
            register_agent(base_url, api_key, handler.card)
        except ApiError as fault:
            if fault.status == 401:  # an unknown key: the start of the instance says so, with the next step
                return
            raise
        note(f"[agent] registered {handler.agent_name}")
    elif not handler.derived and known.billing_mode == "free":  # a derived card says less than the one that is there
        register_agent(base_url, api_key, handler.card, listing=known.listing)


def register_from(place: str, caller: Caller, api_key: str, listing: str | None) -> AgentEntry:
    """Registers the free agent of a card file, or of a function (`path.py:function`), or brings it up to date.

    Who may see it stays as it is where `listing` is None. HandlerLoadError for what cannot be read; ConfigurationError
    for a paid agent, whose price nobody has given here.
    """
    if place.endswith(".json") and not Path(place).exists():
        raise ConfigurationError(
            f"there is no agent card {place}", hint="name a card, or a function of yours: path.py:function"
        )
    handler = from_card(Path(place)) if place.endswith(".json") else from_reference(place)
    known = read_agent(caller, handler.agent_name, api_key=api_key)
    if known is not None and known.billing_mode != "free":
        raise ConfigurationError(
            f"agent {handler.agent_name} is paid, and a card holds no price",
            hint="use register_agent in a program, which takes one",
        )
    kept = known.listing if known is not None else "private"
    return register_agent(caller.base_url, api_key, handler.card, listing=listing or kept)


def _is_loopback(url: str | None) -> bool:
    host = urlsplit(url or "").hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False
