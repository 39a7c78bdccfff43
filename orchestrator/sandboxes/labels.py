"""Labels that sessions give their sandboxes, by which they are found again, in another process too."""

INSTANCE_LABEL = "io.kodou.instance"
SESSION_LABEL = "io.kodou.session"
POOLED = "0" * 32  # in place of a session's id: of warm sandboxes, also once a session has claimed them
