"""Converts usage plans and stages of AWS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from ratelimit import validation
from ratelimit.admin.aws.notes import Notes
from ratelimit.admin.aws.shapes import AwsExport, Record, opened_stages
from ratelimit.errors import ConfigError
from ratelimit.model import Method, PlanStage, Quota, Stage, Throttle, ThrottleScope, UsagePlan

_USUAL_MAX_ENTRIES = 20


class PlanConverter:
    """Converts the plans and stages of an export."""

    def __init__(self, export: AwsExport, notes: Notes, *, api_names: bool, scope: ThrottleScope) -> None:
        self._export, self._notes, self._scope = export, notes, scope
        self._names = self._api_names() if api_names else {}

    def _api_names(self) -> dict[str, str]:
        """Return, by API id, the names that can be part of a stage's id and that no other API has."""
        given = {str(api["id"]): str(api.get("name", "")) for api in self._export.apis}
        taken = Counter([*given.values(), *(api for api, name in given.items() if name != api)])
        names = {}
        for api, name in given.items():
            try:
                validation.stage_id(f"{name}/x", "name")
            except ConfigError:
                self._notes.add(f"API {api}", "is called by its id: its name cannot be part of the id of a stage")
                continue
            if taken[name] > 1:
                self._notes.add(f"API {api}", "is called by its id: its name is that of another API, too")
            else:
                names[api] = name
        return names

    def _stage_id(self, api: str, stage: str) -> str:
        return f"{self._names.get(api, api)}/{stage}"

    def plans(self) -> Iterator[UsagePlan]:
        """Yield the plans that can be carried over."""
        notes = self._notes
        for record in self._export.plans:
            where = f"plan {record['id']}"
            notes.unknown_members(record, "plans", where)
            for member, are in (("description", "is"), ("tags", "are")):
                if record.get(member):
                    notes.add(where, f"its {member} {are} not carried over: of a plan, only the name is for people")
            if record.get("productCode"):
                notes.add(where, "its productCode is not carried over: nothing here is tied to AWS Marketplace")
            throttle = notes.throttle(record.get("throttle", {}), where)
            stages = self._plan_stages(record.get("apiStages", ()), where, is_throttled=throttle is not None)
            name = notes.text(record.get("name", ""), where, "name")
            try:
                yield UsagePlan(
                    record["id"], throttle, self._quota(record.get("quota"), where), stages, name, self._scope
                )
            except ConfigError as error:
                notes.add(where, f"is not carried over: {error}")

    def _quota(self, record: Record | None, where: str) -> Quota | None:
        if not record:
            return None
        offset = record.get("offset", 0)
        try:
            quota = Quota(record.get("limit", ""), record.get("period", ""), offset)
        except ConfigError as error:
            self._notes.add(where, f"its quota is not carried over: {error}")
            return None
        if offset:
            reading = (
                "is read as the day on which the quota starts anew, not as requests that the first period has less"
            )
            self._notes.add(where, f"the offset {offset} of its quota {reading}")
        return quota

    def _plan_stages(self, opened: Iterable[Record], where: str, *, is_throttled: bool) -> Iterable[PlanStage]:
        converted: dict[str, PlanStage] = {}
        for record in opened:
            api, name, entries = record.get("apiId", ""), record.get("stage", ""), record.get("throttle", {})
            subject = f"{where}, stage {api}/{name}"
            if len(entries) > _USUAL_MAX_ENTRIES:
                usual = f"AWS allows {_USUAL_MAX_ENTRIES} unless it is asked for more"
                self._notes.add(subject, f"all of its {len(entries)} method throttles are carried over: {usual}")
            throttles = dict(self._entries(entries, subject, is_throttled=is_throttled))
            self._note_heads(api, throttles, subject)
            try:
                stage = PlanStage(self._stage_id(api, name), throttles)
            except ConfigError as error:
                self._notes.add(subject, f"is not carried over: {error}")
                continue
            if converted.setdefault(stage.stage, stage) != stage:
                self._notes.add(subject, "is not carried over: the plan lists this stage before, with other throttles")
        return converted.values()

    def _note_heads(self, api: str, throttles: Mapping[str, Throttle], where: str) -> None:
        """Add a note on each HEAD that AWS counts in the plan's bucket, and that is counted as GET here."""
        for resource in self._export.resources.get(api, ()):
            get, head = (f"{verb} {resource['path']}" for verb in ("GET", "HEAD"))
            if get in throttles and head not in throttles and "HEAD" in resource.get("resourceMethods", {}):
                self._notes.add(where, f"{head} counts as {get} here, on AWS in the plan's bucket")

    def _entries(
        self, entries: Mapping[str, Record], where: str, *, is_throttled: bool
    ) -> Iterator[tuple[str, Throttle]]:
        for key, entry in entries.items():
            subject = f"{where}, method {key}"
            method, throttle = self._notes.method(key, subject), self._notes.throttle(entry, subject)
            if method is None:
                continue
            if throttle is None:
                self._notes.add(subject, "has no throttle of its own: here the plan's holds for it")
            elif not is_throttled:
                self._notes.add(subject, "its throttle is not carried over: the plan has none that it could replace")
            else:
                yield method, throttle

    def stages(self) -> Iterator[Stage]:
        """Yield the stages that the export describes: by their throttles, their methods or both."""
        export, notes = self._export, self._notes
        opened: dict[str, set[str]] = {api: set() for api in export.stages}
        for record in opened_stages(export.plans):
            opened.setdefault(record["apiId"], set()).add(record["stage"])
        for api in export.apis:
            if api.get("apiKeySource") == "AUTHORIZER" and api["id"] in opened:
                remedy = "the gateway must pass usageIdentifierKey of its authorizer as the key, and not a header"
                notes.add(f"API {api['id']}", remedy)
        for api_id, names in opened.items():
            listed = {str(record["stageName"]): record for record in export.stages.get(api_id, ())}
            methods = self._methods(api_id)
            if api_id not in export.stages:
                notes.add(f"API {api_id}", "throttles of its stages are not carried over: there is no get-stages of it")
            for name in sorted(names | set(listed)):
                if name not in listed and api_id in export.stages:
                    notes.add(f"stage {api_id}/{name}", "get-stages does not list it, and yet a plan opens it")
                if name in listed or methods:
                    yield from self._stage(api_id, name, listed.get(name, {}), methods)

    def _stage(self, api: str, name: str, record: Record, methods: Mapping[str, Method]) -> Iterator[Stage]:
        where, notes = f"stage {api}/{name}", self._notes
        if record.get("webAclArn"):
            notes.add(where, "rate-based rules of its web ACL are not carried over")
        settings = dict(record.get("methodSettings", {}))
        general = self._setting(settings.pop("*/*", {}), f"{where}, */*")
        configured = dict(methods)
        for key, setting in settings.items():
            subject = f"{where}, method {key}"
            method, throttle = notes.method(key, subject), self._setting(setting, subject)
            if method is None:
                continue
            configured[method] = Method(throttle, configured.get(method, Method()).key_required)
            if throttle is None and general is not None:
                notes.add(subject, "has no throttle of its own: here the stage's holds for it")
        if general is not None and not methods:
            difference = "share one bucket, on AWS each has its own: there is no get-resources of its API"
            notes.add(where, f"methods that are not listed {difference}")
        try:
            yield Stage(self._stage_id(api, name), general, configured)
        except ConfigError as error:
            notes.add(where, f"is not carried over: {error}")

    def _setting(self, setting: Record, where: str) -> Throttle | None:
        return self._notes.throttle(setting, where, rate="throttlingRateLimit", burst="throttlingBurstLimit")

    def _methods(self, api: str) -> Mapping[str, Method]:
        """Return the methods of an API, which all of its stages have."""
        where = f"API {api}"
        if api not in self._export.resources:
            self._notes.add(where, "all its methods are taken to need a key: there is no get-resources of it")
            return {}
        methods, unknown = dict[str, Method](), 0
        for resource in self._export.resources[api]:
            for verb, record in resource.get("resourceMethods", {}).items():
                key = f"{resource['path']}/{verb}"
                name = self._notes.method(key, f"{where}, method {key}")
                if name is not None:
                    methods[name] = Method(None, record.get("apiKeyRequired", True))
                    unknown += "apiKeyRequired" not in record
        if unknown:
            cause = "get-resources was called without --embed methods"
            self._notes.add(where, f"{unknown} of its methods are taken to need a key: {cause}")
        return methods
