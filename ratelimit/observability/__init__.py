"""What a limiter does, made visible: metrics for Prometheus and OpenTelemetry, attributes of spans, a log of denials.

Nothing here is imported by the rest of the package: a limiter that is not observed does nothing for it.
"""

from ratelimit.observability.denial_log import DenialLog
from ratelimit.observability.observe import observe
from ratelimit.observability.observer import LimiterState, Observer

__all__ = ["DenialLog", "LimiterState", "Observer", "observe"]
