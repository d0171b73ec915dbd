"""The HTTP face of the server: thin routers, one per noun. Nothing below knows of HTTP."""
