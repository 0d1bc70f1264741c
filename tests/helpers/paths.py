"""Where things lie in the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
EXAMPLE_PLANS = EXAMPLES / "plans.toml"
