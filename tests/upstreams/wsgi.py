"""An ordinary WSGI application, for gunicorn. It does not look at the method and reads no body."""

import os


def application(environ, start_response):
    method, target = environ["REQUEST_METHOD"], environ["RAW_URI"]
    with open(os.environ["LOG"], "a", encoding="latin-1") as log:
        log.write(f"{method}\t{target}\t{environ.get('HTTP_X_PAYMENT_ROUTE', '-')}\n")
    body = f"{method} {target}".encode("latin-1")
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
