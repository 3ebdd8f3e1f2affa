#!/usr/bin/env python3
"""Calls one key again and again with the route token that the relay gave: two headers, which any gRPC client can do.

usage: route_tokens.py <host:port> <package.Service/Method> <dimension=key> <count>
needs: pip install grpcio
"""
import argparse, base64, sys
import grpc

kept = {}  # token by (dimension, key); keep some hundred of the keys you use most

def age(token):
    """Epoch and revision: all that a client may read. A newer token replaces an older one, never the other way."""
    data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    return data[6:14], data[14:20]

def learn(dimension, key, fields):
    for name, value in fields or ():
        if name == "strait-token":
            of, token = value.split(";", 1)
            if of == dimension and ((dimension, key) not in kept or age(token) > age(kept[dimension, key])):
                kept[dimension, key] = token

def call(channel, method, dimension, key, body):
    headers = [("strait-key", f"{dimension}={key}")]
    if token := kept.get((dimension, key)):
        headers.append(("strait-token", f"{dimension};{token}"))
    send = channel.unary_unary("/" + method)
    reply, done = send.with_call(body, metadata=headers, timeout=10)
    learn(dimension, key, done.initial_metadata())  # of replies without trailers
    learn(dimension, key, done.trailing_metadata())
    return reply, dict(done.initial_metadata()).get("strait-unit"), token

def main(address, method, key, count):
    dimension, key = key
    with grpc.insecure_channel(address) as channel:
        for number in range(count):
            _, unit, sent = call(channel, method, dimension, key, b"m%d" % number)
            print(unit, "with a token" if sent else "without", flush=True)

def dimension_key(text):
    dimension, equals, key = text.partition("=")
    if not (dimension and equals and key):
        raise argparse.ArgumentTypeError(f"expected <dimension>=<key>, such as uid=7, not {text!r}")
    return dimension, key

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", metavar="host:port", help="gRPC address of the relay, such as 127.0.0.1:7400")
    parser.add_argument("method", metavar="package.Service/Method")
    parser.add_argument("key", metavar="dimension=key", type=dimension_key)
    parser.add_argument("count", type=int, help="how often")
    args = parser.parse_args()
    try:
        main(args.address, args.method, args.key, args.count)
    except grpc.RpcError as error:
        sys.exit(f"{args.address}: {error.code().name}: {error.details()}")
