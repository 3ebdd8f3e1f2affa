#!/usr/bin/env python3
"""A ledger whose keys move between units with their data: an application with strait.v1.OwnerControl, on grpcio.

usage: owner_control.py <listen host:port> <relay host:port> [folder]
needs: pip install grpcio protobuf

One of it runs in each unit, behind the relays of that unit. The relay knows it under three names:
  app.Ledger        Add (the entry; answers how many there are), Entries: calls of users, which go to the owner of their key
  app.LedgerCopy    Since (JSON [key, number]): the entries from that number on; asked by the unit that gets the key
  app.OwnerControl  what a relay asks while a key moves (proto/strait/v1/owner_control.proto)
For trials: while the file `full` is in the folder, Prepare refuses; while `pause` is there, nothing is copied.
"""
import argparse, collections, json, pathlib, sys, threading, time
from concurrent import futures
import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# With generated stubs (python -m grpc_tools.protoc) these lines are an import.
PROTO = pathlib.Path(__file__).parent.parent.parent / "proto" / "owner_control.descriptors"
POOL = descriptor_pool.DescriptorPool()
for file in descriptor_pb2.FileDescriptorSet.FromString(PROTO.read_bytes()).file:
    POOL.Add(file)
HookRequest, HookReply, LagReply = (
    message_factory.GetMessageClass(POOL.FindMessageTypeByName("strait.v1." + name))
    for name in ("HookRequest", "HookReply", "LagReply"))


class Ledger:
    """Entries by key, and which calls write them now."""

    def __init__(self):
        self.lock = threading.Lock()
        self.entries = collections.defaultdict(list)
        self.running = collections.Counter()

    def add(self, key, entry, delay):
        with self.lock:
            self.running[key] += 1
        try:
            time.sleep(delay)  # a service that takes its time goes on when its caller has given up
            with self.lock:
                self.entries[key].append(entry)
                return len(self.entries[key])
        finally:
            with self.lock:
                self.running[key] -= 1

    def since(self, key, number):
        with self.lock:
            return self.entries[key][number:]


class Copies:
    """Keys that are copied from other units, one thread for each. Repeated questions find the thread that is there."""

    def __init__(self, ledger, relay, folder):
        self.ledger, self.folder = ledger, folder
        self.channel = grpc.insecure_channel(relay)
        self.ask = self.channel.unary_unary("/app.LedgerCopy/Since")
        self.lock = threading.Lock()
        self.stops, self.behind = {}, {}

    def step(self, key, unit):
        """Copies what is new; how much that was."""
        with self.lock:  # one at a time, so that nothing is taken twice
            asked = json.dumps([key, len(self.ledger.entries[key])]).encode()
            new = json.loads(self.ask(asked, metadata=[("strait-unit", unit)], timeout=5))
            self.ledger.entries[key].extend(new)
            return len(new)

    def begin(self, key, unit):
        with self.lock:
            if key in self.stops:
                return
            stop = self.stops[key] = threading.Event()

        def run():
            while not stop.wait(0.02):
                if not (self.folder / "pause").exists():
                    try:
                        self.behind[key] = self.step(key, unit)
                    except grpc.RpcError:
                        pass  # tried again
        threading.Thread(target=run, daemon=True).start()

    def end(self, key):
        with self.lock:
            self.behind.pop(key, None)
            stop = self.stops.pop(key, None)
        if stop:
            stop.set()


class OwnerControl:
    """The answers to a relay. Each may come again, also after a later one and from another relay."""

    def __init__(self, ledger, copies, folder):
        self.ledger, self.copies, self.folder = ledger, copies, folder
        self.served = set()  # moves whose key this unit serves already

    def Prepare(self, asked, key):
        if (self.folder / "full").exists():
            raise Refuse("no room for more keys")

    def Copy(self, asked, key):
        if (asked.move, key) not in self.served:
            self.copies.begin(key, getattr(asked, "from"))

    def Lag(self, asked, key):
        behind = self.copies.behind.get(key)
        if behind is None:
            return LagReply(pending=True, detail="the copy has not come round once")
        return LagReply(changes=behind)

    def Quiesce(self, asked, key):
        # No new call comes; those of before are waited for, also if nobody waits for their answer any more (level L1).
        with self.ledger.lock:
            left = self.ledger.running[key]
        return HookReply(pending=left > 0, detail=f"{left} calls still run" if left else "")

    def FinalSync(self, asked, key):
        if (asked.move, key) in self.served:
            return
        while self.copies.step(key, getattr(asked, "from")):
            pass

    def Activate(self, asked, key):
        self.copies.end(key)
        self.served.add((asked.move, key))

    def Cleanup(self, asked, key):
        self.copies.end(key)
        with self.ledger.lock:
            self.ledger.entries.pop(key, None)


class Refuse(Exception):
    """The node stays where it is."""


class Handler(grpc.GenericRpcHandler):
    def __init__(self, relay, folder):
        self.ledger = Ledger()
        self.copies = Copies(self.ledger, relay, folder)
        self.hooks = OwnerControl(self.ledger, self.copies, folder)

    def service(self, details):
        service, method = details.method.lstrip("/").split("/")
        unary = grpc.unary_unary_rpc_method_handler
        if service == "app.Ledger":
            return unary(lambda request, context: self.user(method, request, context))
        if service == "app.LedgerCopy":
            return unary(lambda request, context: json.dumps(self.ledger.since(*json.loads(request))).encode())
        if service == "app.OwnerControl" and hasattr(self.hooks, method):
            write = lambda reply: reply.SerializeToString()
            return unary(lambda request, context: self.hook(method, request, context), HookRequest.FromString, write)
        return None

    def user(self, method, request, context):
        fields = dict(context.invocation_metadata())
        key = fields["x-key"]
        if "strait-shadow" in fields:
            return b""  # of a move with --mirror: the copy has it, or will have it
        if method == "Entries":
            return json.dumps(self.ledger.since(key, 0)).encode()
        delay = int(fields.get("x-delay-ms", 0)) / 1000
        return str(self.ledger.add(key, request.decode(), delay)).encode()

    def hook(self, method, asked, context):
        if dict(context.invocation_metadata()).get("strait-source-service") != "strait.relay":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "only relays ask")
        if asked.node.WhichOneof("what") != "key":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this application copies single keys only")
        print(method, asked.move, getattr(asked, "from"), asked.to, flush=True)
        try:
            reply = getattr(self.hooks, method)(asked, asked.node.key.decode())
        except Refuse as refused:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(refused))
        except grpc.RpcError as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, f"the other unit does not answer: {error.code().name}")
        return reply or HookReply()


def main(listen, relay, folder="."):
    server = grpc.server(futures.ThreadPoolExecutor(64), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Handler(relay, pathlib.Path(folder)),))
    server.add_insecure_port(listen)
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("listen", metavar="listen-host:port", help="where the application listens")
    parser.add_argument("relay", metavar="relay-host:port", help="gRPC address of the relay, such as 127.0.0.1:7400")
    parser.add_argument("folder", nargs="?", default=".", help="where the files for trials are")
    args = parser.parse_args()
    try:
        main(args.listen, args.relay, args.folder)
    except RuntimeError as error:
        sys.exit(f"cannot listen at {args.listen}: {error}")
