"""What the twins share: the administration of one namespace, without a connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ratelimit.admin.aws.importer import AwsImporter
from ratelimit.admin.capacity.report import CapacityAdmin
from ratelimit.admin.ceilings import validated
from ratelimit.admin.doctor.read import Doctor
from ratelimit.admin.doctor.readings import ClientSettings
from ratelimit.admin.key_access import KeyAccess
from ratelimit.admin.keys import KeyAdmin
from ratelimit.admin.listing import KeyListing
from ratelimit.admin.plans import PlanAdmin
from ratelimit.admin.shadows import ShadowAdmin
from ratelimit.admin.upgrade import UpgradeAdmin
from ratelimit.admin.usage import UsageAdmin
from ratelimit.local.leased_bucket import SharedFigures
from ratelimit.registry.ceilings import Ceilings
from ratelimit.registry.namespace import Namespace
from ratelimit.store.clients import validate_deadline

DEADLINE_S = 0.05
"""How long checks of gateways wait for Redis, if nobody says so."""


class Base:
    """A catalogue without its store."""

    _shared_figures: Callable[[], Mapping[str, SharedFigures]] | None = None
    """What the limiter of this catalogue did about limits that all callers share, where keys lie in slots."""

    def _bind(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._plans = PlanAdmin(namespace)
        self._keys = KeyAdmin(namespace)
        self._listing = KeyListing(namespace)
        self._access = KeyAccess(namespace)
        self._metering = UsageAdmin(namespace)
        self._shadows = ShadowAdmin(namespace)
        self._capacity = CapacityAdmin(namespace)
        self._aws = AwsImporter(namespace)
        self._upgrade = UpgradeAdmin(namespace)

    def _doctor(self, client: ClientSettings, gateway_user: str | None, deadline: float, repair: bool) -> Doctor:
        return Doctor(
            self._namespace,
            client,
            gateway_user=gateway_user,
            deadline=validate_deadline(deadline),
            repair=repair,
            shared=self._shared_figures() if self._shared_figures else {},
        )

    @property
    def ceilings(self) -> Ceilings:
        """How many keys, plans and the like the catalogue may hold.

        Can be set where none were given, as in `limiter.catalog.ceilings = Ceilings.aws()`.
        """
        return self._namespace.ceilings

    @ceilings.setter
    def ceilings(self, ceilings: Ceilings) -> None:
        self._namespace.ceilings = validated(ceilings)
