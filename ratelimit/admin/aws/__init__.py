"""Coming from AWS API Gateway: its usage plans, stages and API keys read, converted and stored. Pure: see flow.py.

`read_export` takes what the AWS CLI printed, `fetch_live` asks AWS through boto3, `convert` says what it comes to here
and notes everything that cannot be the same, `Catalog.import_aws` stores it.

How AWS is read where its documents leave it open or contradict each other:

- A quota's offset is a day: WEEK 0 (Sunday) to 6, MONTH 0 (the 1st) to 27.
- A plan's throttle is one bucket for all that a key sends under the plan (`throttle_scope` "key"), unless the caller
  says "key_method". An entry for a method replaces it for that method.
- The throttle `*/*` of a stage gives each of its methods a bucket of its own. That takes a list of the methods.
- -1 switches a throttle off.
- A stage has what was deployed last, but get-resources prints what was edited last.

Caches, logs, certificates and the like have nothing to do with keys and limits; they are passed over without a note.
"""

from __future__ import annotations

from ratelimit.admin.aws.convert import AwsCatalogue, convert
from ratelimit.admin.aws.export import fetch_live, read_export
from ratelimit.admin.aws.keys import AwsKey
from ratelimit.admin.aws.shapes import AwsExport, Note
from ratelimit.admin.aws.storing import AwsAdmin, AwsReport

__all__ = [
    "AwsAdmin",
    "AwsCatalogue",
    "AwsExport",
    "AwsKey",
    "AwsReport",
    "Note",
    "convert",
    "fetch_live",
    "read_export",
]
