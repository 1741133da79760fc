"""Who may do what: keysets, capability tokens, signed requests, API keys, JWTs."""
