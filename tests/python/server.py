"""The service im.Echo on grpcio, the same as tests/it/services/echo.rs. Prints its address, then serves."""

import sys
import threading
import time
from concurrent import futures

import grpc

CODES = {code.value[0]: code for code in grpc.StatusCode}


def metadata_of(context):
    return list(context.invocation_metadata())


def finish(context, metadata):
    """Sets the status and trailing metadata the caller asked for."""
    wanted = dict(metadata)
    trailing = [(k, v) for k, v in metadata if k.startswith("x-trail-")]
    if "x-details-bin" in wanted:
        trailing.append(("grpc-status-details-bin", wanted["x-details-bin"]))
    context.set_trailing_metadata(trailing)
    context.set_code(CODES[int(wanted.get("x-code", "0"))])
    context.set_details(wanted.get("x-message", ""))


def call(method, requests, context):
    metadata = metadata_of(context)
    wanted = dict(metadata)
    if "x-delay-ms" in wanted:
        time.sleep(int(wanted["x-delay-ms"]) / 1000)
    if "x-compress" in wanted:
        context.set_compression(grpc.Compression.Gzip)
    if "x-early" in wanted:
        finish(context, metadata)
        return
    context.send_initial_metadata([(k, v) for k, v in metadata if k.startswith("x-echo-")])
    if method in ("Unary", "Chat"):
        yield from requests
    elif method == "Collect":
        yield b"".join(requests)
    elif method == "AfterHalfClose":
        yield from list(requests)
    elif method == "Produce":
        count, size = (int(n) for n in next(requests).split(b" "))
        for number in range(count):
            yield bytes([number % 256]) * size
    elif method == "Metadata":
        yield "".join(f"{k}: {v}\n" for k, v in metadata).encode()
    elif method == "Hang":
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait()
    else:
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        return
    finish(context, metadata)


class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        service, method = details.method.lstrip("/").split("/")
        if service != "im.Echo":
            return None
        return grpc.stream_stream_rpc_method_handler(lambda requests, context: call(method, requests, context))


def main():
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(futures.ThreadPoolExecutor(64), handlers=[Handler()], options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    sys.exit(main())
