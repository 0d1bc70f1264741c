"""Exact rate limits for API gateways, decided inside Redis: usage plans, API keys, token buckets, calendar quotas."""

from ratelimit.admin.aws import AwsExport, AwsNote, AwsReport
from ratelimit.admin.capacity.report import (
    AddedCapacity,
    BindingLimit,
    Capacity,
    CapacityFigure,
    CapacityFigures,
)
from ratelimit.admin.csv.format import RowWarning
from ratelimit.admin.csv.transfer import ImportReport, ProgressCallback
from ratelimit.admin.doctor.repair import RepairSummary, SharedValue
from ratelimit.admin.doctor.report import DoctorReport, Finding, Severity
from ratelimit.admin.identities import IdentityUsage
from ratelimit.admin.key_access import MethodAccess, StageAccess
from ratelimit.admin.keys import KeyDetails
from ratelimit.admin.listing import KeyPage
from ratelimit.admin.migration.migrate import MigrationProgress, MigrationReport, NamespaceCounts
from ratelimit.admin.plans import ApplyReport, PlanChange
from ratelimit.admin.preconditions import NoPrecondition
from ratelimit.admin.shadows import ShadowCounts
from ratelimit.admin.upgrade import UpgradeReport
from ratelimit.admin.usage import Usage
from ratelimit.catalog import AsyncCatalog, Catalog
from ratelimit.catalog.files import FileSource
from ratelimit.decision import Decision, Detail, LimitStatus, RateLimited, Reason, Source
from ratelimit.errors import (
    Cause,
    ConfigError,
    Conflict,
    NotFound,
    OnUnavailable,
    RateLimitError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
)
from ratelimit.headers import Dialect
from ratelimit.limiter import AsyncLimiter, Limiter
from ratelimit.model import (
    ApiKey,
    CreatedKey,
    Identity,
    Method,
    Period,
    PlanStage,
    Quota,
    Rate,
    Replication,
    Stage,
    Throttle,
    ThrottleScope,
    Unlisted,
    UsagePlan,
)
from ratelimit.registry.ceilings import Ceilings
from ratelimit.registry.key_values import Peppers
from ratelimit.registry.namespace import Clock

__version__ = "0.1.0"

__all__ = [
    "AddedCapacity",
    "ApiKey",
    "ApplyReport",
    "AsyncCatalog",
    "AsyncLimiter",
    "AwsExport",
    "AwsNote",
    "AwsReport",
    "BindingLimit",
    "Capacity",
    "CapacityFigure",
    "CapacityFigures",
    "Catalog",
    "Cause",
    "Ceilings",
    "Clock",
    "ConfigError",
    "Conflict",
    "CreatedKey",
    "Decision",
    "Detail",
    "Dialect",
    "DoctorReport",
    "FileSource",
    "Finding",
    "Identity",
    "IdentityUsage",
    "ImportReport",
    "KeyDetails",
    "KeyPage",
    "LimitStatus",
    "Limiter",
    "Method",
    "MethodAccess",
    "MigrationProgress",
    "MigrationReport",
    "NamespaceCounts",
    "NoPrecondition",
    "NotFound",
    "OnUnavailable",
    "Peppers",
    "Period",
    "PlanChange",
    "PlanStage",
    "ProgressCallback",
    "Quota",
    "Rate",
    "RateLimitError",
    "RateLimited",
    "Reason",
    "RepairSummary",
    "Replication",
    "RowWarning",
    "Severity",
    "ShadowCounts",
    "SharedValue",
    "Source",
    "Stage",
    "StageAccess",
    "StoreError",
    "StoreTimeout",
    "StoreUnavailable",
    "Throttle",
    "ThrottleScope",
    "Unlisted",
    "UpgradeReport",
    "Usage",
    "UsagePlan",
]
