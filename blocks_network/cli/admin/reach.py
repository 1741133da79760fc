"""Which network a command talks to, and as whom: --cdm-url and --api-key, else the environment, else `.env`."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blocks_network import settings
from blocks_network.cli.output import LOG_LEVELS
from blocks_network.errors import ConfigurationError

if TYPE_CHECKING:
    from blocks_network.api.caller import Caller
    from blocks_network.consumer.client import TaskClient

__all__ = ["Reach", "add_options", "count"]

PATIENCE_S = 10.0
"""With a network that says that it has no time."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every command here takes."""
    group = parser.add_argument_group("network")
    group.add_argument("--cdm-url", metavar="URL", help="the network's configuration (default: BLOCKS_CDM_URL)")
    group.add_argument("--api-key", metavar="KEY", help="who asks (default: BLOCKS_API_KEY, which others cannot see)")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    parser.add_argument("--log-level", choices=list(LOG_LEVELS), help="what to log (default: warn)")
    parser.set_defaults(quiet=True)


def count(text: str) -> int:
    """A number of things to show, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


count.__name__ = "number"  # argparse says "invalid {name} value"


@dataclass(frozen=True, slots=True)
class Reach:
    """`cdm_url` None is the hosted network."""

    cdm_url: str | None
    api_key: str = field(repr=False)

    @classmethod
    def of(cls, options: argparse.Namespace) -> Reach:
        """ConfigurationError when nobody says who asks."""
        from dotenv import load_dotenv

        load_dotenv(Path(os.getcwd()) / ".env")
        api_key = options.api_key or settings.API_KEY.read()
        if not api_key:
            raise ConfigurationError(
                "there is no API key to ask the network with",
                hint="set BLOCKS_API_KEY (in the environment or in .env), or give --api-key",
            )
        return cls(options.cdm_url or settings.CDM_URL.read(), api_key)

    def caller(self) -> Caller:
        """For calls that name their key themselves."""
        from blocks_network.api.caller import Caller
        from blocks_network.api.cdm import fetch_cdm_config

        base_url = settings.BACKEND_URL.read() or fetch_cdm_config(self.cdm_url).api.base_url
        if not base_url:
            raise ConfigurationError("the network's configuration names no api.baseUrl", hint="check BLOCKS_CDM_URL")
        return Caller(base_url, patience_s=PATIENCE_S)

    def client(self, billing_mode: str = "free") -> TaskClient:
        """For tasks. A context manager."""
        from blocks_network.consumer.client import TaskClient

        return TaskClient.create(billing_mode, cdm_url=self.cdm_url, api_key=self.api_key)
