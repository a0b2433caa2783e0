"""Flower's Fleet API, as a node of our own speaks it to an unmodified SuperLink: the only module on Flower's internals.

Flower's own node sleeps three seconds between messages, starts a process for each and runs the code that it receives.
This one pulls, gives and takes bytes, signs with the hub's time, and runs nothing. Everything that goes wrong is a
`LinkError` in words. Written against flwr 1.41; a contract test runs it against the real SuperLink.
"""

import secrets
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient

from fedward_client.probe import clock_offset, context
from fedward_client.reach import explain
from fedward_client.traffic import Traffic
from fedward_common.cards import HubCard
from fedward_common.errors import LinkError
from fedward_common.packing import is_small

HEARTBEAT_S = 10.0  # the least that Flower takes, which takes a node for gone after two of them
GONE_S = 2.0  # so that a hub that waits for this node, and looks twice a second at least, sees that it is gone
SKEW_S = 2.0  # below this the local clock is right: a Date header has whole seconds
GATEWAY_HEADER, OTHER_NODE = "x-fedward-gateway", "node-key"  # in what the gateway itself refuses, and for what
OBJECT_WAIT_S, OBJECT_LIMIT_S = 0.02, 600.0  # for an object that its sender is still sending


class RunOverError(LinkError):
    """The run that a message belongs to is over: nothing more can be said in it."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message that was pulled, as Flower sent it, to be kept over a restart; `content` where that came with it."""

    message: bytes
    tree: bytes
    content: RecordDict | None = None

    @property
    def metadata(self) -> Any:
        """Flower's metadata of the message."""
        return self._read().metadata

    def _read(self) -> Message:
        return message_from_proto(ProtoMessage.FromString(self.message))


class Fleet:
    """One hub. Not thread-safe, but for `heartbeat`, which has a connection of its own."""

    def __init__(self, card: HubCard, key: ec.EllipticCurvePrivateKey, trust: ssl.SSLContext | None = None) -> None:
        """`trust` is the TLS of its connections, which may show a certificate; else what the card says."""
        self._card = card
        self.traffic = Traffic()
        self._trust = trust or context(card.ca, card.distrusted)
        self._public_key = public_key_to_bytes(key.public_key())
        self._signer = _Signer(key, self._public_key, self.traffic)
        self._client = self._connect()
        self._beats = self._connect()
        self.node_id = 0

    def _connect(self) -> FleetHttpClient:
        return FleetHttpClient(f"https://{self._card.address}", verify=self._trust, interceptors=[self._signer])

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()
        self._beats.close()

    @property
    def skew_s(self) -> float:
        """How many seconds the hub's clock is ahead of this machine's; 0 where they agree to within two."""
        return self._signer.offset.total_seconds()

    def activate(self, known: int | None, *, at_work: bool) -> int:
        """Say that this node is here; gives its id. `known` is its id from before a restart or a lost connection.

        A node that was killed counts as online for up to two heartbeats. One that has a message at hand goes on under
        its id. One that has none may have lost one on its way, which the hub gives only once: it says that it is gone
        before it says that it is back, and the hub asks again.
        """
        with self._explained():
            self._synchronise()
            try:
                return self._activate()
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.PRECONDITION_FAILED or known is None:
                    raise
                self.node_id = known
                if not self._beat():
                    raise
            if not at_work:
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=known))
                time.sleep(GONE_S)
                self._activate()
        return self.node_id

    def _activate(self) -> int:
        request = ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_S)
        self.node_id = self._client.ActivateNode(request).node_id
        return self.node_id

    def deactivate(self) -> None:
        """Say goodbye, so that the hub does not wait for this node."""
        with self._explained():
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id))

    def heartbeat(self) -> None:
        """Say that this node is still here. Raises LinkError where the hub has forgotten it."""
        with self._explained():
            if not self._beat():
                raise LinkError("the hub does not know this site any more: ask its operator to let it in again")

    def _beat(self) -> bool:
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_S)
        return bool(self._beats.SendNodeHeartbeat(request).success)

    def _synchronise(self) -> None:
        """Learn the hub's time from an answer that needs no signature, before anything is signed."""
        http: httpx.Client = self._client._client
        self._signer.learn(http.get(f"https://{self._card.address}/health"))

    @property
    def _node(self) -> Node:
        return Node(node_id=self.node_id)

    # Messages --------------------------------------------------------------------------------------------------------

    def pull(self) -> Envelope | None:
        """The next message for this node; None where there is none. It is given only once."""
        with self._explained():
            response = self._client.PullMessages(PullMessagesRequest(node=self._node))
            if not response.messages_list:
                return None
            message = response.messages_list[0]
            content = recorddict_from_proto(message.content) if message.content.ByteSize() else None
        message.content.Clear()
        return Envelope(message.SerializeToString(), response.message_object_trees[0].SerializeToString(), content)

    def open(self, envelope: Envelope) -> RecordDict:
        """The content of a pulled message; pulls the objects that it is made of."""
        proto, tree = ProtoMessage.FromString(envelope.message), ObjectTree.FromString(envelope.tree)
        message_id, run_id = proto.metadata.message_id, proto.metadata.run_id
        ids = list(dict.fromkeys(each.object_id for each in iterate_object_tree(tree)))
        with self._explained(run_id):
            contents = {object_id: self._pull_object(run_id, object_id) for object_id in ids}
        message = inflate_object_from_contents(message_id, contents)
        if not isinstance(message, Message) or not isinstance(message.content, RecordDict):
            raise LinkError("the hub sent something that is no message")
        return message.content

    def confirm(self, envelope: Envelope) -> None:
        """Say that a message is here, so that the hub need not keep it."""
        metadata = ProtoMessage.FromString(envelope.message).metadata
        with self._explained(metadata.run_id):
            self._client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=self._node, run_id=metadata.run_id, message_object_id=metadata.message_id
                )
            )

    def push(self, envelope: Envelope, make: Callable[[Message], Message], *, whole: bool) -> None:
        """Send the reply that `make` makes to a pulled message, and everything that it is made of.

        A small one goes in one request where `whole` says that it is understood: see ADR 0013.
        """
        asked = envelope._read()
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = asked.metadata.run_id, self.node_id, 0
        asked.content = RecordDict()
        reply = make(asked)
        reply.metadata.__dict__["_created_at"] = self._signer.now().timestamp()
        run_id = asked.metadata.run_id
        if whole and (reply.has_error() or is_small(reply.content)):
            self._push_whole(run_id, reply)
            return
        with no_object_id_recompute(), self._explained(run_id):
            reply.metadata.__dict__["_message_id"] = reply.object_id
            response = self._client.PushMessages(
                PushMessagesRequest(
                    node=self._node,
                    messages_list=[
                        message_to_proto(remove_content_from_message(reply) if reply.has_content() else reply)
                    ],
                    message_object_trees=[get_object_tree(reply)],
                )
            )
            objects = get_all_nested_objects(reply)
            for object_id in response.objects_to_push:
                self._push_object(run_id, response.session_id, object_id, objects[object_id].deflate())

    def _push_whole(self, run_id: int, reply: Message) -> None:
        """Send a reply in one request."""
        reply.metadata.__dict__["_message_id"] = secrets.token_hex(32)
        tree = ObjectTree(object_id=reply.metadata.message_id)
        with self._explained(run_id):
            self._client.PushMessages(
                PushMessagesRequest(
                    node=self._node, messages_list=[message_to_proto(reply)], message_object_trees=[tree]
                )
            )

    def _push_object(self, run_id: int, session: str, object_id: str, content: bytes) -> None:
        request = PushObjectRequest(
            node=self._node, run_id=run_id, object_id=object_id, object_content=content, session_id=session
        )
        if not self._client.PushObject(request).stored:
            raise LinkError("the hub did not store a part of the reply; it is sent again")

    def _pull_object(self, run_id: int, object_id: str) -> bytes:
        started = time.monotonic()
        while True:
            request = PullObjectRequest(node=self._node, run_id=run_id, object_id=object_id)
            response = self._client.PullObject(request)
            if not response.object_found:
                raise RunOverError("the hub has no content for a message that it announced")
            if response.object_available:
                return bytes(response.object_content)
            if time.monotonic() - started > OBJECT_LIMIT_S:
                raise LinkError(f"the hub has not sent the content of a message within {OBJECT_LIMIT_S:g} s")
            time.sleep(OBJECT_WAIT_S)

    def _require_run(self, run_id: int) -> None:
        """Raise RunOverError for a run that is over, or that the hub does not know (any more)."""
        with self._explained():
            self._client.GetRun(GetRunRequest(node=self._node, run_id=run_id))

    @contextmanager
    def _explained(self, run_id: int | None = None) -> Iterator[None]:
        """Turn what the connection raises into words; `run_id` is the run that the calls are about."""
        try:
            yield
        except httpx.HTTPStatusError as error:
            if run_id is not None and error.response.is_server_error:
                self._require_run(run_id)  # a SuperLink fails over a run that it does not know
            raise _refusal(error) from error
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise LinkError(explain(error, self._card.address, self._card.ca)) from error


def _refusal(error: httpx.HTTPStatusError) -> LinkError:
    status = error.response.status_code
    if error.response.headers.get(GATEWAY_HEADER) == OTHER_NODE:
        return LinkError(
            "the hub's gateway knows this site by another node key, as after a restored backup: ask the hub's operator "
            "for a code, then `fedward site join` with --new-node-key"
        )
    if GATEWAY_HEADER in error.response.headers:
        return LinkError(
            "the hub's gateway does not accept this site's certificate, which has expired or was taken back: ask the "
            "hub's operator for a code, then `fedward site join`"
        )
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.PRECONDITION_FAILED}:
        return LinkError(
            "the hub does not accept this site's key: ask its operator whether this site was let in with it; or "
            "another daemon runs with the same key"
        )
    if status == httpx.codes.FORBIDDEN:
        return RunOverError("the run is over at the hub")
    return LinkError(f"the hub answered with status {status}; its log says why")


class _Signer:
    """Signs each request as Flower's SuperNode authentication wants it, with the hub's time, and sends our version.

    It counts what passes.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey, public_key: bytes, traffic: Traffic) -> None:
        self._key = key
        self._traffic = traffic
        self._public = b64encode(public_key).decode("ascii")
        self._version = dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata())
        self.offset = timedelta()

    def now(self) -> datetime:
        """The hub's time, UTC."""
        return datetime.now(UTC) + self.offset

    def learn(self, response: httpx.Response) -> None:
        """Take the hub's time from an answer's Date header."""
        now = time.time()
        offset = clock_offset(response.headers.get("date", ""), now, now)
        if offset is not None:
            self.offset = timedelta(seconds=offset if abs(offset) > SKEW_S else 0)

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Add the headers; learn from the answer."""
        signed = self.now().isoformat()
        headers = {
            **self._version,
            FLEET_HTTP_PUBLIC_KEY_HEADER: self._public,
            TIMESTAMP_HEADER: signed,
            FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(self._key, signed.encode("ascii"))).decode("ascii"),
        }
        add_headers(context.request, headers)
        response = call_next(context)
        self.learn(response)
        if response.is_success:
            self._traffic.passed(sent=len(context.request.content), received=len(response.content))
        return response
