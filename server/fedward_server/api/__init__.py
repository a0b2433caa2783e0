"""The hub's API, behind the gateway: what sites ask for besides rounds."""
