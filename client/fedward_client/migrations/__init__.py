"""The steps by which a site's ledger came to its present shape. `Ledger.open` takes those that a ledger lacks."""
