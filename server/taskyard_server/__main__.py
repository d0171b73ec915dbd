"""`python -m taskyard_server`."""

import sys

from taskyard_server.main import main

sys.exit(main())
