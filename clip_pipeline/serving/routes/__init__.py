"""The routes, one module for each service of the wire contract; each only parses, calls and answers."""
