"""The Flower ClientApp: wiring only.

It runs under the embedded engine, under Flower's Ray simulation and under the stock `flower-supernode`. Which hospital
it answers for stands in the node's config: `site = "/path/of/the/site"`, or, in a simulation, `partition-id`, which
picks from the run's `sites` folder. A hospital's own folder has its own policy; simulations let everything leave.
"""

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fedward_client.desk import Desk, Reply, guarded
from fedward_client.handlers import Hospital
from fedward_client.member import Member
from fedward_client.outbox import Outbox
from fedward_client.policy import unsafe_everything
from fedward_client.site import Site, site_folders
from fedward_client.source import SiteSource
from fedward_common.errors import FedwardError, SettingsError
from fedward_common.packing import block_of, packed, unpacked
from fedward_common.records import answer_record, arrays_in, from_array_record, texts_in, to_array_record

REFUSED = 1000  # Flower's error code is free above its own

app = ClientApp()


def simulated(hospital: Hospital) -> Desk:
    """The desk of a hospital in a simulation: what its outbox lets through goes to this machine only."""
    return Desk(hospital, Outbox(hospital.source.name, unsafe_everything(), state=hospital.source.state))


@lru_cache(maxsize=1)  # warm between rounds; a process answers for one hospital at a time
def _desk(folder: Path, *, simulation: bool) -> Desk:
    if simulation:
        return simulated(Hospital(SiteSource.open(folder)))
    member = Member.open(Site.open(folder))
    outbox = member.outbox(spool=False)
    return Desk(Hospital(SiteSource(member.site), outbox.tell), outbox, member.ledger)


def answer(message: Message, at: Desk) -> Message:
    """A hospital's answer to a message; a refusal or a failure travels as a Flower error with its reason."""
    return _message(message, reply(message, at))


def reply(message: Message, at: Desk) -> Reply:
    """A hospital's reply to a message, not made a message yet."""
    return guarded(lambda: _reply(message, at))


def _reply(message: Message, at: Desk) -> Reply:
    content = unpacked(message.content)

    def arrays() -> dict[str, np.ndarray]:
        return from_array_record(arrays_in(content))

    return at.answer(dict(texts_in(content).get("config", {})), arrays)


def _message(asked: Message, reply: Reply) -> Message:
    if reply.answer is None:
        return Message(Error(code=REFUSED, reason=reply.refusal), reply_to=asked)
    content = answer_record(reply.answer, to_array_record(reply.arrays) if reply.arrays else None)
    as_asked = packed(content) if block_of(asked.content) is not None else content
    return Message(as_asked, reply_to=asked)


def _opened(context: Context) -> Desk:
    """The desk that this node is, its threads set; any refusal is a `SettingsError`, for it may name a folder."""
    use_threads(context)
    try:
        return _desk(site_of(context), simulation="site" not in context.node_config)
    except FedwardError as error:
        raise SettingsError(str(error)) from error


def site_of(context: Context) -> Path:
    """The folder of the hospital that this node is."""
    if "site" in context.node_config:
        return Path(str(context.node_config["site"]))
    if "partition-id" in context.node_config and "sites" in context.run_config:
        folders = site_folders(Path(str(context.run_config["sites"])))
        return folders[int(context.node_config["partition-id"])]
    raise SettingsError("this node has no site: give it one, e.g. --node-config 'site=\"/srv/fedward/site\"'")


def use_threads(context: Context) -> None:
    """One thread a worker gives the same bits on every engine; the run says how many."""
    import torch

    threads = int(context.run_config.get("threads", os.cpu_count() or 1))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@app.query()
@app.train()
@app.evaluate()
def _answer(message: Message, context: Context) -> Message:
    return _message(message, guarded(lambda: _reply(message, _opened(context))))
