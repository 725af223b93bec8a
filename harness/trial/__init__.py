"""One trial, from its identity to its record: load, choose, teach, train, price."""
