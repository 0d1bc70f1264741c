"""Exact rate limits for API gateways, decided inside Redis: usage plans, API keys, token buckets, calendar quotas."""

from ratelimit.catalog import AsyncCatalog, Catalog
from ratelimit.decision import Decision, LimitStatus, Reason
from ratelimit.errors import (
    ConfigError,
    Conflict,
    NotFound,
    RateLimited,
    RateLimitError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
)
from ratelimit.limiter import AsyncLimiter, Limiter
from ratelimit.model import ApiKey, Method, PlanStage, Quota, Stage, Throttle, UsagePlan

__all__ = [
    "ApiKey",
    "AsyncCatalog",
    "AsyncLimiter",
    "Catalog",
    "ConfigError",
    "Conflict",
    "Decision",
    "LimitStatus",
    "Limiter",
    "Method",
    "NotFound",
    "PlanStage",
    "Quota",
    "RateLimitError",
    "RateLimited",
    "Reason",
    "Stage",
    "StoreError",
    "StoreTimeout",
    "StoreUnavailable",
    "Throttle",
    "UsagePlan",
]
