"""Images as directories of this host, for the backends without an engine: bubblewrap and process."""
