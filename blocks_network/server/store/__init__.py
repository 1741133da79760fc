"""What the network remembers: agents, keys, tasks, tokens. SQLAlchemy Core; one file a noun, `database` runs them.

A noun's functions take a connection and run inside a transaction that `Database.write` or `Database.read` opened.
They know SQL and nothing else: rules belong to `server.tasks` and `server.api`.
"""
