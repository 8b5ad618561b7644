"""python3 -m spawnhelper.ctl: spawnctl where it is not installed."""

import sys

from spawnhelper.ctl import main

sys.exit(main())
