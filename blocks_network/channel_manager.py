"""Channel names."""

from blocks_network.wire.channels import (
    ChannelManager,
    create_channel_manager,
    normalize_tag_slug,
    registry_all_channel,
    registry_log_channel,
    registry_tag_channel,
    registry_visibility_channel,
    task_channel,
    validate_owner_id,
)

__all__ = [
    "ChannelManager",
    "create_channel_manager",
    "normalize_tag_slug",
    "registry_all_channel",
    "registry_log_channel",
    "registry_tag_channel",
    "registry_visibility_channel",
    "task_channel",
    "validate_owner_id",
]
