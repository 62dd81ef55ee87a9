"""Other people's networks, measured beside ours. Their packages are imported to export graphs, and only here."""
