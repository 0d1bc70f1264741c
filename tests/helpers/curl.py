"""The curl of the documents' sessions: of its options those that they use, so that no machine needs another one."""

import argparse
import sys
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

PATIENCE_S = 30


def main():
    """Send one request, and show its response as curl does."""
    parser = argparse.ArgumentParser(prog="curl", allow_abbrev=False)
    parser.add_argument("url")
    parser.add_argument("-i", "--include", action="store_true")
    parser.add_argument("-s", "--silent", action="store_true")
    parser.add_argument("-X", "--request")
    parser.add_argument("-H", "--header", action="append", default=[])
    parser.add_argument("-d", "--data")
    parser.add_argument("-o", "--output")
    parser.add_argument("-w", "--write-out", default="")
    options = parser.parse_args()
    url = urlsplit(options.url if "://" in options.url else f"http://{options.url}")
    connection = HTTPConnection(url.hostname, url.port, timeout=PATIENCE_S)
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in options.header)}
    verb = options.request or ("GET" if options.data is None else "POST")
    target = f"{url.path or '/'}{'?' if url.query else ''}{url.query}"
    connection.request(verb, target, options.data, fields)
    response = connection.getresponse()
    head = [
        f"HTTP/1.1 {response.status} {response.reason}",
        *(f"{name}: {value}" for name, value in response.getheaders()),
    ]
    text = response.read().decode()
    shown = "\n".join([*head, "", text]) if options.include else text
    if options.output:
        Path(options.output).write_text(shown, encoding="utf-8")
    else:
        sys.stdout.write(shown)
    sys.stdout.write(options.write_out.replace("%{http_code}", str(response.status)).replace("\\n", "\n"))


if __name__ == "__main__":
    main()
