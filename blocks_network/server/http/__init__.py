"""HTTP/1.1 as the network serves it: a listener's connections, their exchanges, and answers that leave by a call."""
