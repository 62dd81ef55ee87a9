"""`python -m kdc_cli`: the command `kdc` where it is not installed."""

import sys

from kdc_cli.main import main

sys.exit(main())
