"""Playing in a web page: a small server, one player for each connection, and the page."""
