"""Calls im.Echo in every way gRPC has and compares. Usage: client.py <address>. One line per case."""

import sys
import threading
import time
import traceback

import grpc

KEY = ("strait-key", "uid=b:1")
DETAILS = bytes(range(256))
CASES = []


def case(function):
    CASES.append(function)
    return function


def call(channel, kind, method):
    return getattr(channel, kind)(f"/im.Echo/{method}")


def same(got, wanted, what="value"):
    if got != wanted:
        raise AssertionError(f"{what}: got {repr(got)[:300]}, wanted {repr(wanted)[:300]}")


def fails(function):
    """Runs a call that has to fail; gives its error."""
    try:
        result = function()
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"no error but {repr(result)[:100]}")


def message(size):
    return bytes(i * 7 % 251 for i in range(256)) * (size // 256) + b"x" * (size % 256)


@case
def unary_of_all_sizes(channel):
    for size in (0, 1, 127, 1024, 16_383, 16_384, 16_385, 65_536, 1 << 20, (4 << 20) + 3):
        body = message(size)
        same(call(channel, "unary_unary", "Unary")(body, metadata=[KEY], timeout=60), body, f"{size} bytes")


@case
def client_streaming(channel):
    parts = [message(n * 1000) for n in range(50)]
    same(call(channel, "stream_unary", "Collect")(iter(parts), metadata=[KEY], timeout=60), b"".join(parts))


@case
def server_streaming(channel):
    got = list(call(channel, "unary_stream", "Produce")(b"300 5000", metadata=[KEY], timeout=60))
    same(got, [bytes([n % 256]) * 5000 for n in range(300)])


@case
def both_streaming_in_lock_step(channel):
    answered = threading.Semaphore(1)

    def requests():
        for n in range(200):
            answered.acquire()
            yield b"%d" % n

    got = []
    for reply in call(channel, "stream_stream", "Chat")(requests(), metadata=[KEY], timeout=60):
        got.append(reply)
        answered.release()
    same(got, [b"%d" % n for n in range(200)])


@case
def half_close_is_seen_by_the_service(channel):
    parts = [b"a", b"", b"ccc"]
    got = list(call(channel, "stream_stream", "AfterHalfClose")(iter(parts), metadata=[KEY], timeout=60))
    same(got, parts)


@case
def four_mebibyte_messages_both_ways(channel):
    parts = [message((4 << 20) + n) for n in range(6)]
    got = list(call(channel, "stream_stream", "Chat")(iter(parts), metadata=[KEY], timeout=120))
    same([len(g) for g in got], [len(p) for p in parts])
    same(got == parts, True, "content")


@case
def every_status_code_with_text_and_details(channel):
    for code in list(grpc.StatusCode)[1:]:
        for early in ([], [("x-early", "1")]):
            text = f"reason {code.value[0]}: \u00e9\u4e16\u754c 100%"
            asked = [KEY, ("x-code", str(code.value[0])), ("x-message", "plain 100%"), ("x-details-bin", DETAILS)]
            error = fails(lambda: call(channel, "unary_unary", "Unary")(b"m", metadata=asked + early, timeout=60))
            same(error.code(), code, f"code of {text}")
            same(error.details(), "plain 100%", f"details of {code}")
            same(dict(error.trailing_metadata()).get("grpc-status-details-bin"), DETAILS, f"rich error of {code}")


@case
def error_after_messages(channel):
    replies = call(channel, "unary_stream", "Produce")(
        b"3 10", metadata=[KEY, ("x-code", "9"), ("x-message", "enough")], timeout=60
    )
    got = []

    def read():
        for reply in replies:
            got.append(reply)

    error = fails(read)
    same(len(got), 3, "messages before the error")
    same((error.code(), error.details()), (grpc.StatusCode.FAILED_PRECONDITION, "enough"))


@case
def metadata_both_ways_with_binary_and_repeated_names(channel):
    asked = [
        KEY,
        ("x-echo-plain", "a, b;c=\"d\""),
        ("x-echo-twice", "one"),
        ("x-echo-twice", "two"),
        ("x-echo-blob-bin", DETAILS),
        ("x-trail-plain", "end"),
        ("x-trail-blob-bin", b"\x00\xff\x00"),
    ]
    reply, done = call(channel, "unary_unary", "Unary").with_call(b"m", metadata=asked, timeout=60)
    same(reply, b"m")
    head, tail = list(done.initial_metadata()), list(done.trailing_metadata())
    for name, value in asked[1:5]:
        same((name, value) in head, True, f"initial {name}")
    same([v for n, v in head if n == "x-echo-twice"], ["one", "two"], "order of repeated names")
    for name, value in asked[5:]:
        same((name, value) in tail, True, f"trailing {name}")


@case
def large_metadata(channel):
    asked = [KEY, ("x-echo-large", "v" * 6000)]
    _, done = call(channel, "unary_unary", "Unary").with_call(b"m", metadata=asked, timeout=60)
    same(dict(done.initial_metadata()).get("x-echo-large"), "v" * 6000)


@case
def compression_both_ways(channel):
    body = b"compressible " * 20_000
    for asked in ([], [("x-compress", "gzip")]):
        got = call(channel, "unary_unary", "Unary")(
            body, metadata=[KEY] + asked, compression=grpc.Compression.Gzip, timeout=60
        )
        same(got, body)


@case
def unknown_method_and_unknown_service(channel):
    error = fails(lambda: call(channel, "unary_unary", "Nothing")(b"m", metadata=[KEY], timeout=60))
    same(error.code(), grpc.StatusCode.UNIMPLEMENTED)


@case
def deadline_reaches_the_service(channel):
    begun = time.monotonic()
    error = fails(lambda: list(call(channel, "unary_stream", "Hang")(b"", metadata=[KEY], timeout=0.5)))
    same(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    same(0.4 < time.monotonic() - begun < 10, True, "time until the deadline")


@case
def cancel_by_the_caller(channel):
    replies = call(channel, "stream_stream", "Hang")(iter([b"m"]), metadata=[KEY], timeout=60)
    list(replies.initial_metadata())
    replies.cancel()
    same(fails(lambda: next(replies)).code(), grpc.StatusCode.CANCELLED)


@case
def many_calls_at_once(channel):
    unary = call(channel, "unary_unary", "Unary")
    bodies = [message(n % 3000) for n in range(500)]
    waiting = [unary.future(body, metadata=[KEY], timeout=60) for body in bodies]
    same([future.result() for future in waiting] == bodies, True, "all replies belong to their calls")


@case
def ten_streams_at_once(channel):
    def requests():
        return (b"%d" % n for n in range(100))

    streams = [call(channel, "stream_stream", "Chat")(requests(), metadata=[KEY], timeout=60) for _ in range(10)]
    for replies in streams:
        same(list(replies), list(requests()))


def main():
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 64 * 1024),
    ]
    failed = 0
    with grpc.insecure_channel(sys.argv[1], options=options) as channel:
        for function in CASES:
            try:
                function(channel)
                print(f"ok {function.__name__}", flush=True)
            except Exception as error:  # any failure is a result here
                failed += 1
                where = traceback.extract_tb(error.__traceback__)
                print(f"FAILED {function.__name__}: {error!r} at line {where[-1].lineno}".replace("\n", " "), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
