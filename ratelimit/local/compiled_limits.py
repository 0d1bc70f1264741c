"""The compiled limits of the requests that this process meets, for the catalogue in force."""

from __future__ import annotations

from ratelimit.engine.compile import compile_limits
from ratelimit.engine.limits import CompiledLimits
from ratelimit.local.bounded_cache import BoundedCache
from ratelimit.model import UsagePlan
from ratelimit.registry.namespace import Namespace
from ratelimit.registry.snapshot import CatalogSnapshot

_MAX_ENTRIES = 50_000


class CompiledLimitsCache:
    """Compiles the limits of each kind of request once. No entry is made of a caller's text: unlisted names are "*"."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._current = (CatalogSnapshot(), self._empty())

    def _empty(self) -> BoundedCache[tuple[str | None, str, str, bool], CompiledLimits]:
        return BoundedCache(_MAX_ENTRIES)

    def all(self) -> list[CompiledLimits]:
        """Return all that were compiled for the catalogue in force."""
        return self._current[1].values()

    def get(
        self,
        snapshot: CatalogSnapshot,
        plan: UsagePlan | None,
        stage_id: str,
        method: str,
        *,
        is_identity: bool = False,
    ) -> CompiledLimits:
        """Return the compiled limits of a request; see `compile_limits`."""
        current, cache = self._current  # at once: another thread may replace both
        if current is not snapshot:
            cache = self._empty()
            self._current = snapshot, cache
        stage, bucket_method = snapshot.bucket_stage(stage_id), snapshot.bucket_method(stage_id, method)
        kind = (plan.id if plan else None, stage, bucket_method, is_identity)
        compiled = cache.get(kind)
        if compiled is None:
            compiled = compile_limits(
                snapshot,
                plan,
                stage_id,
                method,
                self._namespace.names,
                is_identity=is_identity,
                has_slots=self._namespace.has_slots,
            )
            cache.put(kind, compiled)
        return compiled
