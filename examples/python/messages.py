#!/usr/bin/env python3
"""Publishes and receives messages with grpcio, without generated code (see proto/strait/v1/messages.proto).

usage: messages.py <host:port> publish <topic> <dimension=key> <body>...
       messages.py <host:port> subscribe <topic> <group> <count>
needs: pip install grpcio protobuf
"""
import argparse, pathlib, queue, sys
import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# With generated stubs (python -m grpc_tools.protoc) these lines are an import.
PROTO = pathlib.Path(__file__).parent.parent.parent / "proto" / "messages.descriptors"
POOL = descriptor_pool.DescriptorPool()
for file in descriptor_pb2.FileDescriptorSet.FromString(PROTO.read_bytes()).file:
    POOL.Add(file)
def api(name):
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName("strait.v1." + name))
PublishRequest, PublishReply, SubscribeRequest, Received = map(
    api, ("PublishRequest", "PublishReply", "SubscribeRequest", "Received"))

def publish(channel, topic, key, *bodies):
    call = channel.unary_unary("/strait.v1.Messages/Publish", PublishRequest.SerializeToString, PublishReply.FromString)
    dimension, key = key
    for number, body in enumerate(bodies):
        request = PublishRequest(topic=topic, body=body.encode(), attributes={"source": "/example", "id": f"{body}-{number}"})
        request.key.dimension, request.key.key = dimension, key.encode()
        reply = call(request, timeout=5)  # on the relay's disk: it can be repeated without making a second one
        print(reply.id, "duplicate" if reply.duplicate else "accepted", flush=True)

def subscribe(channel, topic, group, count):
    call = channel.stream_stream("/strait.v1.Messages/Subscribe", SubscribeRequest.SerializeToString, Received.FromString)
    said = queue.Queue()
    said.put(SubscribeRequest(start={"topic": topic, "group": group}))
    messages = call(iter(said.get, None))
    for number, message in enumerate(messages, 1):
        print(message.id, message.attempt, message.body.decode(), flush=True)
        said.put(SubscribeRequest(ack={"deliveries": [message.delivery]}))  # or nack, terminate, extend
        if number == count:
            said.put(None)  # ends this side; the relay reads the acks, then ends its own

def dimension_key(text):
    dimension, equals, key = text.partition("=")
    if not (dimension and equals and key):
        raise argparse.ArgumentTypeError(f"expected <dimension>=<key>, such as uid=7, not {text!r}")
    return dimension, key

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("address", metavar="host:port", help="gRPC address of the relay, such as 127.0.0.1:7400")
commands = parser.add_subparsers(dest="command", required=True)
command = commands.add_parser("publish")
command.add_argument("topic")
command.add_argument("key", metavar="dimension=key", type=dimension_key)
command.add_argument("body", nargs="+")
command = commands.add_parser("subscribe")
command.add_argument("topic")
command.add_argument("group")
command.add_argument("count", type=int, help="messages to receive")
args = parser.parse_args()
try:
    with grpc.insecure_channel(args.address) as channel:
        if args.command == "publish":
            publish(channel, args.topic, args.key, *args.body)
        else:
            subscribe(channel, args.topic, args.group, args.count)
except grpc.RpcError as error:
    sys.exit(f"{args.address}: {error.code().name}: {error.details()}")
