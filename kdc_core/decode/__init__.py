"""From fields to people: candidates (also inside the exported graph), grouping into poses, instance masks."""
