"""Usage plans and keys of AWS API Gateway: parsed, converted, imported. No I/O. Imports what admin may import.

`ratelimit.catalog.aws` reads an export from files or from AWS. `convert` converts it to plans, stages and keys, with
notes on everything that cannot be the same. `Catalog.import_aws` converts and stores it.

How AWS is read where its documents leave it open or contradict each other:

- A quota's offset is a day: WEEK 0 (Sunday) to 6, MONTH 0 (the 1st) to 27.
- A plan's throttle is one bucket for everything a key sends under the plan (`throttle_scope` "key"), unless the caller
  says "key_method". An entry for a method replaces it for that method.
- The throttle `*/*` of a stage gives each of its methods a bucket of its own. That takes a list of the methods.
- -1 switches a throttle off.
- A stage has what was deployed last, but get-resources prints what was edited last.

Caches, logs, certificates and the like have nothing to do with keys and limits; they are ignored without a note.
"""

from __future__ import annotations

from ratelimit.admin.aws.convert import AwsConversion, convert
from ratelimit.admin.aws.importer import AwsImporter, AwsReport
from ratelimit.admin.aws.keys import AwsKey
from ratelimit.admin.aws.shapes import AwsExport, AwsNote

__all__ = ["AwsConversion", "AwsExport", "AwsImporter", "AwsKey", "AwsNote", "AwsReport", "convert"]
