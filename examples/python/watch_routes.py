#!/usr/bin/env python3
"""Tells who owns keys, now and whenever it changes, on grpcio: for programs that keep connections or caches by owner.

usage: watch_routes.py <relay host:port> <dimension=key>...
needs: pip install grpcio protobuf
"""
import argparse, pathlib, sys, time
import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# With generated stubs (python -m grpc_tools.protoc) these lines are an import.
PROTO = pathlib.Path(__file__).parent.parent.parent / "proto" / "routes.descriptors"
POOL = descriptor_pool.DescriptorPool()
for file in descriptor_pb2.FileDescriptorSet.FromString(PROTO.read_bytes()).file:
    POOL.Add(file)
RouteKey, WatchRoutesRequest, RouteUpdate = (
    message_factory.GetMessageClass(POOL.FindMessageTypeByName("strait.v1." + name))
    for name in ("RouteKey", "WatchRoutesRequest", "RouteUpdate"))


def watch(channel, keys):
    """Updates without end; when the relay goes away, from another one or from it again: all keys anew."""
    start = channel.unary_stream("/strait.v1.Routes/WatchRoutes", WatchRoutesRequest.SerializeToString, RouteUpdate.FromString)
    while True:
        try:
            yield from start(WatchRoutesRequest(keys=keys), wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(0.5)


def main(address, *keys):
    keys = [RouteKey(dimension=dimension, key=key.encode()) for dimension, key in keys]
    with grpc.insecure_channel(address) as channel:
        for update in watch(channel, keys):
            for route in update.routes:
                token = "with a token" if route.token else "without"
                print(route.key.key.decode(), route.unit or route.detail, token, flush=True)


def dimension_key(text):
    dimension, equals, key = text.partition("=")
    if not (dimension and equals and key):
        raise argparse.ArgumentTypeError(f"expected <dimension>=<key>, such as uid=7, not {text!r}")
    return dimension, key


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", metavar="host:port", help="gRPC address of the relay, such as 127.0.0.1:7400")
    parser.add_argument("key", metavar="dimension=key", type=dimension_key, nargs="+")
    args = parser.parse_args()
    try:
        main(args.address, *args.key)
    except grpc.RpcError as error:
        sys.exit(f"{args.address}: {error.code().name}: {error.details()}")
