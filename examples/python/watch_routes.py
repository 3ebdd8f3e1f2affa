#!/usr/bin/env python3
"""Tells who owns keys, now and whenever it changes, on grpcio: for programs that keep connections or caches by owner.

usage: watch_routes.py <relay host:port> <dimension=key>...
needs: pip install grpcio protobuf
"""
import pathlib, sys, time
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
    named = [key.split("=", 1) for key in keys]
    keys = [RouteKey(dimension=dimension, key=key.encode()) for dimension, key in named]
    with grpc.insecure_channel(address) as channel:
        for update in watch(channel, keys):
            for route in update.routes:
                token = "with a token" if route.token else "without"
                print(route.key.key.decode(), route.unit or route.detail, token, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
