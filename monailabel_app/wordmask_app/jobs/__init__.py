"""How a request travels through the server: checked, queued, computed by the one worker, fetched."""
