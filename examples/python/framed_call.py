#!/usr/bin/env python3
"""One call over the framed protocol, with nothing but the standard library (see proto/README.md).

usage: framed_call.py <unix:/path | tcp://host:port> <package.Service/Method> <body> [dimension=key]
"""
import argparse, socket, struct, sys

HELLO, REQUEST, REPLY, FAILED, PING, PONG, END, CONNECTION = 1, 3, 6, 7, 9, 10, 0x01, 2**64 - 1

def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])

def read_varint(data, at):
    value = shift = 0
    while True:
        value, shift, at = value | (data[at] & 127) << shift, shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at

def attribute(tag, value):
    return bytes([tag]) + varint(len(value)) + value

def frame(kind, flags, ident, attributes=b"", body=b""):
    lengths = len(attributes).to_bytes(3, "big") + len(body).to_bytes(3, "big")
    return bytes([kind, flags]) + lengths + struct.pack(">Q", ident) + attributes + body

def read_frame(stream):
    header = stream.read(16)
    if len(header) < 16:
        sys.exit("the relay closed the connection")
    block, body = stream.read(int.from_bytes(header[2:5], "big")), stream.read(int.from_bytes(header[5:8], "big"))
    attributes, at = {}, 0
    while at < len(block):
        tag = block[at]
        length, at = read_varint(block, at + 1)
        attributes[tag], at = block[at:at + length], at + length
    return header[0], header[1], struct.unpack(">Q", header[8:])[0], attributes, body

def main(address, method, body, key=None):
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address[5:])
    else:
        host, port = address.removeprefix("tcp://").rsplit(":", 1)  # `relay_address` has seen to it
        connection = socket.create_connection((host, int(port)))
    stream = connection.makefile("rwb")
    # Hello { version_min: 1, version_max: 1, purpose: SERVICE }, then the call, without waiting.
    stream.write(frame(HELLO, 0, 0, body=bytes([0x08, 1, 0x10, 1, 0x40, 3])))
    attributes = attribute(2, b"/" + method.encode()) + attribute(3, varint(5_000_000))
    if key:
        dimension, key = (part.encode() for part in key)
        attributes += attribute(5, bytes([len(dimension)]) + dimension + key)
    stream.write(frame(REQUEST, END, 0, attributes, body.encode()))
    stream.flush()
    reply = b""
    while True:
        kind, flags, ident, attributes, body = read_frame(stream)
        if kind == PING:
            stream.write(frame(PONG, 0, ident)), stream.flush()
        elif kind == FAILED:
            sys.exit(f"{attributes[23].decode()}: {body.decode()}")
        elif kind == REPLY:
            reply += body
            if flags & END:
                status = read_varint(attributes.get(19, b"\0"), 0)[0]
                if status:
                    sys.exit(f"status {status}: {attributes.get(20, b'').decode()}")
                return print(reply.decode())

def relay_address(text):
    host, colon, port = text.removeprefix("tcp://").rpartition(":")
    if not (text.startswith("unix:/") or host and colon and port.isdigit()):
        raise argparse.ArgumentTypeError(f"expected unix:/path or tcp://host:port, such as tcp://127.0.0.1:7401, not {text!r}")
    return text

def dimension_key(text):
    dimension, equals, key = text.partition("=")
    if not (dimension and equals and key):
        raise argparse.ArgumentTypeError(f"expected <dimension>=<key>, such as uid=7, not {text!r}")
    return dimension, key

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", type=relay_address, help="framed address of the relay: unix:/path or tcp://host:port")
    parser.add_argument("method", metavar="package.Service/Method")
    parser.add_argument("body")
    parser.add_argument("key", metavar="dimension=key", type=dimension_key, nargs="?")
    args = parser.parse_args()
    try:
        main(args.address, args.method, args.body, args.key)
    except OSError as error:
        sys.exit(f"{args.address}: {error.strerror or error}")
