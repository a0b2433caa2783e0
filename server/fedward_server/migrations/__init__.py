"""The steps by which the hub's database came to its present shape. `Store.open` takes those that a database lacks."""
