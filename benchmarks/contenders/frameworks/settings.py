"""What every application here reads from its environment: where Redis is, and how many requests a day a caller has."""

import os

REDIS_URL = os.environ["REDIS_URL"]
LIMIT = os.environ["LIMIT"]
