"""Several API processes: workers that speak HTTP, and the owner, which has the app, all sessions and all sandboxes."""
