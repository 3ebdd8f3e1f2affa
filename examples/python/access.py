#!/usr/bin/env python3
"""What a gateway at the edge of a unit does, on grpcio: hears where its users are at home, and when their clients should go elsewhere.

usage: access.py <relay host:port> <user>...
needs: pip install grpcio protobuf
"""
import argparse, pathlib, sys, time
import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# With generated stubs (python -m grpc_tools.protoc) these lines are an import.
PROTO = pathlib.Path(__file__).parent.parent.parent / "proto" / "access.descriptors"
POOL = descriptor_pool.DescriptorPool()
for file in descriptor_pb2.FileDescriptorSet.FromString(PROTO.read_bytes()).file:
    POOL.Add(file)
AttachedUser, AttachRequest, AccessUpdate = (
    message_factory.GetMessageClass(POOL.FindMessageTypeByName("strait.v1." + name))
    for name in ("AttachedUser", "AttachRequest", "AccessUpdate"))


def attach(channel, homes):
    """Updates without end. When the relay goes away it asks again, with the homes that it has heard of: so it misses nothing."""
    start = channel.unary_stream("/strait.v1.Access/Attach", AttachRequest.SerializeToString, AccessUpdate.FromString)
    while True:
        users = [AttachedUser(user=user, home=home) for user, home in homes.items()]
        try:
            yield from start(AttachRequest(users=users), wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(0.5)


def main(address, *users):
    homes = {user.encode(): "" for user in users}
    with grpc.insecure_channel(address) as channel:
        for update in attach(channel, homes):
            moved = {advice.user for advice in update.advice}
            for listed in update.users:
                if listed.user not in moved:
                    homes[listed.user] = listed.home or homes[listed.user]
                    print(listed.user.decode(), "is at home in", listed.home or "no unit", flush=True)
            for advice in update.advice:
                homes[advice.user] = advice.unit
                points = ", ".join(point.address for point in advice.points)
                print(advice.user.decode(), "moves from", advice.previous, "to", advice.unit,
                      f"in {advice.after_ms} ms:", points, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", metavar="host:port", help="gRPC address of the relay, such as 127.0.0.1:7400")
    parser.add_argument("user", nargs="+", help="key of a user")
    args = parser.parse_args()
    try:
        main(args.address, *args.user)
    except grpc.RpcError as error:
        sys.exit(f"{args.address}: {error.code().name}: {error.details()}")
