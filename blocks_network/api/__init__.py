"""What a network offers over HTTP: one typed function a call, no state. `server/api` has the same file names."""
