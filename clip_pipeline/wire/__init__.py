"""What travels between a client and the service, as the client sees it. Opens no connection."""
