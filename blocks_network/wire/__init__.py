"""What travels: messages, events, parts, artifacts, cards, channels. Pure data: no I/O, no threads, no clock."""
