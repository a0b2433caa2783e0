"""The Flower ClientApp: wiring only.

It runs under the embedded engine, under Flower's Ray simulation and under the stock `flower-supernode`. Which hospital
it answers for stands in the node's config: `site = "/path/of/the/site"`, or, in a simulation, `partition-id`, which
picks from the run's `sites` folder.
"""

import logging
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from flwr.app import ArrayRecord, Context, Error, Message
from flwr.clientapp import ClientApp

from fedward_client.handlers import Hospital, SiteSource
from fedward_client.site import site_folders
from fedward_common.errors import FedwardError, SettingsError
from fedward_common.records import answer_record, from_array_record, read_question, to_array_record

REFUSED = 1000  # Flower's error code is free above its own
SETTINGS_UNUSABLE = "the site's settings cannot be used; its log says why"

log = logging.getLogger(__name__)
app = ClientApp()


def site_of(context: Context) -> Path:
    """The folder of the hospital that this node is."""
    if "site" in context.node_config:
        return Path(str(context.node_config["site"]))
    if "partition-id" in context.node_config and "sites" in context.run_config:
        folders = site_folders(Path(str(context.run_config["sites"])))
        return folders[int(context.node_config["partition-id"])]
    raise SettingsError("this node has no site: give it one, e.g. --node-config 'site=\"/srv/fedward/site\"'")


@lru_cache(maxsize=1)  # warm between rounds; a process answers for one hospital at a time
def hospital(folder: Path) -> Hospital:
    """The hospital of a folder."""
    return Hospital(SiteSource.open(folder))


def answer(message: Message, at: Hospital) -> Message:
    """A hospital's answer to a message; a refusal or a failure travels as a Flower error with its reason."""
    return _guarded(message, lambda: at)


def _guarded(message: Message, opened: Callable[[], Hospital]) -> Message:
    """The site's edge: nothing is raised past it, for Flower sends an exception's own text, paths and all, to the hub.

    The text of a `FedwardError` travels, except a `SettingsError`'s: settings are folders of this machine.
    """
    try:
        return _answered(message, opened())
    except SettingsError:
        log.exception("the site's settings cannot be used")
        reason = SETTINGS_UNUSABLE
    except FedwardError as error:
        log.warning("refused: %s", error)
        reason = str(error)
    except Exception as error:
        log.exception("the site failed to answer")
        reason = f"{type(error).__name__} at the site; its log says where"
    return Message(Error(code=REFUSED, reason=reason), reply_to=message)


def _answered(message: Message, at: Hospital) -> Message:
    question, config = read_question(message.content)
    if question.kind == "prepare":
        return Message(answer_record(at.prepare(question)), reply_to=message)
    arrays = from_array_record(message.content.array_records.get("arrays", ArrayRecord()))
    if question.kind == "evaluate":
        return Message(answer_record(at.evaluate(question, arrays)), reply_to=message)
    trained, update = at.train(
        question, arrays, round_number=int(config["server-round"]), proximal_mu=config.get("proximal-mu", 0.0)
    )
    return Message(answer_record(trained, to_array_record(update)), reply_to=message)


def _opened(context: Context) -> Hospital:
    """The hospital that this node is, its threads set; any refusal is a `SettingsError`, for it may name a folder."""
    use_threads(context)
    try:
        return hospital(site_of(context))
    except FedwardError as error:
        raise SettingsError(str(error)) from error


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
    return _guarded(message, lambda: _opened(context))
