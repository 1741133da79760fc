"""How it travels: keep-alive HTTP, the pubnub client over it, subscriptions and the ordered publisher."""
