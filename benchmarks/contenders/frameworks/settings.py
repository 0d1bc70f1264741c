"""What every application here is told from outside: where Redis is, and how many requests a day a caller has."""

import os

REDIS_URL = os.environ["REDIS_URL"]
LIMIT = os.environ["LIMIT"]
