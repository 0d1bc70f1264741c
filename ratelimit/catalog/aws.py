"""Reads usage plans, stages and API keys of AWS API Gateway: from files, or from AWS through boto3.

`read_export` reads what the AWS CLI printed. The output of three commands does not say what it belongs to, so the name
of the file has to: `get-usage-plan-keys` needs the id of the plan in it, `get-stages` and `get-resources` the id of the
API ("stages-a1b2c3d4e5.json"). What a file is, its content says::

    aws apigateway get-usage-plans > plans.json
    aws apigateway get-api-keys --include-values > keys.json
    aws apigateway get-usage-plan-keys --usage-plan-id $PLAN > keys-of-$PLAN.json
    aws apigateway get-rest-apis > apis.json
    aws apigateway get-stages --rest-api-id $API > stages-$API.json
    aws apigateway get-resources --rest-api-id $API --embed methods > resources-$API.json
    aws apigateway get-account > account.json

`fetch_live` reads the same through a client of boto3. `convert` shows what an export becomes here, with notes on
everything that cannot be the same; `Catalog.import_aws` stores it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ratelimit.admin.aws import AwsExport, convert
from ratelimit.admin.aws.export import assemble
from ratelimit.admin.aws.shapes import KINDS, Output, output_from, parse
from ratelimit.catalog.files import read_whole
from ratelimit.errors import ConfigError

__all__ = ["convert", "fetch_live", "read_export"]

MAX_FILE_BYTES = 2**26
"""Some 100,000 keys. Longer lists come in pages, which may be files of their own."""
MAX_FILES = 10_000

_PAGE_SIZE = 500
"""The most that AWS returns at once, as it answers few calls a second."""


def read_export(source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> AwsExport:
    """Read what the AWS CLI printed to files.

    Args:
        source: A folder, of which all `*.json` are read, those in its sub-folders included; or the files.

    Raises:
        ConfigError: With the file, and the place in it. All files are validated before anything is returned.
    """
    return assemble(list(_outputs(source)))


def _outputs(source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Iterator[Output]:
    if isinstance(source, str | os.PathLike):
        folder = Path(source)
        paths = sorted(islice(folder.rglob("*.json"), MAX_FILES + 1)) if folder.is_dir() else [folder]
        if not paths:
            raise ConfigError(
                "holds no *.json: name the folder with what `aws apigateway get-...` printed", field=str(source)
            )
        if len(paths) > MAX_FILES:
            raise ConfigError(f"holds more than {MAX_FILES:,} *.json: is it the right folder?", field=str(source))
    else:
        folder, paths = Path(), [Path(item) for item in source]
    for path in paths:
        where = str(path.relative_to(folder)) if folder.is_dir() and path.is_relative_to(folder) else str(path)
        yield parse(read_whole(path, MAX_FILE_BYTES, name=where), where)


def fetch_live(client: Any) -> AwsExport:
    """Fetch all usage plans and API keys from AWS, and the APIs that the plans name.

    Args:
        client: An API Gateway client of boto3: `boto3.client("apigateway")`.

    Raises:
        ConfigError: AWS answers in an unknown shape.
        Exception: Whatever the client raises.
    """

    def pages(kind: str, owner: str | None = None, **arguments: Any) -> Iterator[Output]:
        method = KINDS[kind].command.replace("-", "_")
        name = f"{method} {owner}" if owner else method
        for page in client.get_paginator(method).paginate(**arguments, PaginationConfig={"PageSize": _PAGE_SIZE}):
            yield output_from({"items": page.get("items", [])}, name, kind, owner)

    outputs = [*pages("plans"), *pages("keys", includeValues=True), *pages("apis")]
    outputs.append(output_from(client.get_account(), "get_account", "account"))
    plans = assemble(outputs).plans
    for plan in plans:
        outputs += pages("members", plan["id"], usagePlanId=plan["id"])
    for api in dict.fromkeys(
        stage["apiId"] for plan in plans for stage in plan.get("apiStages", ()) if "apiId" in stage
    ):
        stages = client.get_stages(restApiId=api)
        outputs.append(output_from({"items": stages.get("item", [])}, f"get_stages {api}", "stages", api))
        outputs += pages("resources", api, restApiId=api, embed=["methods"])
    return assemble(outputs)
