"""Shards: planning, reading, writing, accounting. A sample goes reader -> restoration -> writer -> ledger."""
