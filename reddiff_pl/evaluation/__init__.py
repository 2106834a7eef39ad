"""What a run is worth: metrics over its shards, and runs beside each other."""
