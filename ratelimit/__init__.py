"""Exact rate limits for API gateways, decided inside Redis: usage plans, API keys, token buckets, calendar quotas."""

from ratelimit.admin.applied import ApplyReport, PlanChange
from ratelimit.admin.capacity.report import Capacity
from ratelimit.admin.csv.transfer import ImportReport
from ratelimit.admin.key_access import OpenMethod, OpenStage
from ratelimit.admin.listing import Page
from ratelimit.admin.shadows import ShadowCounts
from ratelimit.admin.upgrade import UpgradeReport
from ratelimit.admin.usage import Usage
from ratelimit.catalog import AsyncCatalog, Catalog
from ratelimit.decision import Decision, Detail, LimitStatus, RateLimited, Reason, Source
from ratelimit.errors import (
    ConfigError,
    Conflict,
    NotFound,
    RateLimitError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
)
from ratelimit.limiter import AsyncLimiter, Limiter
from ratelimit.model import ApiKey, Method, PlanStage, Quota, Stage, Throttle, UsagePlan
from ratelimit.registry.ceilings import Ceilings
from ratelimit.registry.key_values import Peppers
from ratelimit.registry.namespace import Clock

__version__ = "0.1.0"

__all__ = [
    "ApiKey",
    "ApplyReport",
    "AsyncCatalog",
    "AsyncLimiter",
    "Capacity",
    "Catalog",
    "Ceilings",
    "Clock",
    "ConfigError",
    "Conflict",
    "Decision",
    "Detail",
    "ImportReport",
    "LimitStatus",
    "Limiter",
    "Method",
    "NotFound",
    "OpenMethod",
    "OpenStage",
    "Page",
    "Peppers",
    "PlanChange",
    "PlanStage",
    "Quota",
    "RateLimitError",
    "RateLimited",
    "Reason",
    "ShadowCounts",
    "Source",
    "Stage",
    "StoreError",
    "StoreTimeout",
    "StoreUnavailable",
    "Throttle",
    "UpgradeReport",
    "Usage",
    "UsagePlan",
]
