"""Webhooks: what happens to a task is posted to an address of its sender, signed, until it has arrived."""
