"""API Gateway of AWS as boto3 meets it over HTTP: answers the sample account, page by page, on a port of its own."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from helpers import aws_samples as aws

ANSWERS = {
    "/usageplans": aws.PLANS,
    "/apikeys": aws.KEYS,
    "/restapis": aws.APIS,
    "/account": aws.ACCOUNT,
    "/usageplans/gold01/keys": aws.GOLD_KEYS,
    "/usageplans/trial7/keys": aws.TRIAL_KEYS,
    "/usageplans/empty9/keys": aws.NO_KEYS,
    f"/restapis/{aws.PETS}/stages": aws.PETS_STAGES,
    f"/restapis/{aws.TOYS}/stages": aws.TOYS_STAGES,
    f"/restapis/{aws.PETS}/resources": aws.PETS_RESOURCES,
    f"/restapis/{aws.TOYS}/resources": aws.TOYS_RESOURCES,
}


class Aws:
    """What a server was asked, as (path, query), and what it is to answer before anything else."""

    def __init__(self, largest_page):
        self.largest_page = largest_page
        self.asked = []
        self.errors = []  # (status, code, message), one a request
        self.url = ""

    def paths(self):
        return [path for path, _ in self.asked]

    def answer(self, path, query):
        """Return status, headers and document."""
        self.asked.append((path, query))
        if self.errors:
            status, code, message = self.errors.pop(0)
            return status, {"x-amzn-ErrorType": code}, {"message": message}
        return 200, {}, self._page(ANSWERS[path], query)

    def _page(self, document, query):
        if "items" not in document:
            return document
        first, limit = int(query.get("position", 0)), min(int(query.get("limit", 25)), self.largest_page)
        page = {"item": document["items"][first : first + limit]}  # the name of "items" on the wire
        return page if first + limit >= len(document["items"]) else {**page, "position": str(first + limit)}


@contextmanager
def aws_server(largest_page=500):
    """Serve the sample account until the block ends."""
    aws_ = Aws(largest_page)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            status, headers, document = aws_.answer(parts.path, query)
            body = json.dumps(document).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Type": "application/json", "Content-Length": len(body)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        aws_.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield aws_
        finally:
            server.shutdown()
            thread.join()
