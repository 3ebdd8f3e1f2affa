"""Computes the tokens of tests/golden/tokens/vectors.json from their fields, with a BLAKE3 of its own.

Prints `ok <name>` for each token that is as in the file, and exits with 1 if one is not. Needs nothing but Python.
"""

import base64
import json
import struct
import sys

IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
PERMUTATION = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
CHUNK_START, CHUNK_END, ROOT = 1, 2, 8
KEYED, DERIVE_CONTEXT, DERIVE_MATERIAL = 16, 32, 64
LIFETIMES = {"usual": 0, "short": 1, "long": 2}
FLAGS = {"follow": 1, "claim": 2, "provisional": 4, "canary": 8}


def rotated(word, bits):
    return (word >> bits | word << (32 - bits)) & 0xFFFFFFFF


def mix(state, a, b, c, d, x, y):
    for word, first, second in ((x, 16, 12), (y, 8, 7)):
        state[a] = (state[a] + state[b] + word) & 0xFFFFFFFF
        state[d] = rotated(state[d] ^ state[a], first)
        state[c] = (state[c] + state[d]) & 0xFFFFFFFF
        state[b] = rotated(state[b] ^ state[c], second)


def compress(chain, words, length, flags):
    state = chain + IV[:4] + [0, 0, length, flags]
    for _ in range(7):
        for column in range(4):
            mix(state, *(column + 4 * row for row in range(4)), words[2 * column], words[2 * column + 1])
        for column in range(4):
            rows = (4 * row + (column + row) % 4 for row in range(4))
            mix(state, *rows, words[8 + 2 * column], words[9 + 2 * column])
        words = [words[at] for at in PERMUTATION]
    return [state[at] ^ state[at + 8] for at in range(8)]


def blake3(data, key=IV, mode=0):
    """32 bytes, of one chunk at most, which is all that tokens need."""
    assert len(data) <= 1024
    chain, blocks = key, [data[at : at + 64] for at in range(0, len(data), 64)] or [b""]
    for at, block in enumerate(blocks):
        flags = mode | (CHUNK_START if at == 0 else 0) | (CHUNK_END | ROOT if at + 1 == len(blocks) else 0)
        words = list(struct.unpack("<16I", block.ljust(64, b"\0")))
        chain = compress(chain, words, len(block), flags)
    return struct.pack("<8I", *chain)


def as_key(data):
    return list(struct.unpack("<8I", data))


def token(vector):
    context = as_key(blake3(b"strait 2026 route token day key", mode=DERIVE_CONTEXT))
    material = bytes.fromhex(vector["master"]) + struct.pack(">HI", vector["geo"], vector["day"])
    day_key = as_key(blake3(material, context, DERIVE_MATERIAL))
    epoch = vector["incarnation"] << 48 | vector["rev"]
    signed = struct.pack(">BBHHQ", 0x11, vector["day"] % 256, vector["geo"], vector["unit"], epoch)
    signed += vector["as_of"].to_bytes(6, "big") + struct.pack(">I", vector["issued_at"])
    signed += bytes([LIFETIMES[vector["lifetime"]], sum(FLAGS[flag] for flag in vector["flags"])])
    key = bytes.fromhex(vector["key"])
    data = b"rt1" + signed + vector["dimension"].encode() + struct.pack(">I", len(key)) + key
    return base64.urlsafe_b64encode(signed + blake3(data, day_key, KEYED)[:16]).decode()


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        vectors = json.load(file)
    failed = False
    for vector in vectors:
        is_same = token(vector) == vector["token"] and vector["issued_at"] // 86400 == vector["day"]
        failed |= not is_same
        print("ok" if is_same else "wrong", vector["name"])
    sys.exit(failed)


if __name__ == "__main__":
    main()
