"""The command `kdc`: one module for each subcommand."""
