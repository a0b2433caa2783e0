"""`fedward model add | card | remove`: the models of a hub with which studies may begin."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

HubFolder = Annotated[Path, typer.Option("--hub", help="The hub's folder.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="1 to 63 lower-case letters, digits and hyphens.")]


def add(
    name: Name,
    hub: HubFolder,
    file: Annotated[Path | None, typer.Option(help="A safetensors file with the weights.")] = None,
    run: Annotated[str | None, typer.Option(help="A finished run of this hub; its last model is taken.")] = None,
    note: Annotated[str, typer.Option(help="What people should know of it.")] = "",
) -> None:
    r"""Register a trained model at a hub, so that a study can begin with it: \[model] start = { model = "NAME" }.

    Example: fedward model add breast-2027 --hub /srv/hub --run breast-ultrasound-20270101T101500-a1b2c3
    """
    from fedward_common.errors import UsageError
    from fedward_server.hub import Hub
    from fedward_server.models import Registry

    registry = Registry(Hub.open(hub))
    if file is not None and run is None:
        entry = registry.add_file(name, file, note=note)
    elif run is not None and file is None:
        entry = registry.add_run(name, run, note=note)
    else:
        raise UsageError("say where the model is: either --file or --run")
    print(f"{entry.name} is registered, SHA-256 {entry.sha256}.")


def card(
    name: Name, hub: HubFolder, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Print the card of a registered model as Markdown: what it is, what it may be used for, where it comes from.

    Example: fedward model card breast-2027 --hub /srv/hub
    """
    from fedward_server.figures.scope import Scope
    from fedward_server.hub import Hub
    from fedward_server.lineage import Lineages
    from fedward_server.model_card import card_of, render
    from fedward_server.models import Registry

    opened = Hub.open(hub)
    registry = Registry(opened)
    entry, path = registry.find(name)
    with opened.store() as store:
        found = card_of(opened, store, entry, path, Scope())
        lineage = Lineages(store, registry.entries(), lambda _row: True).of(entry)
    if as_json:
        print(json.dumps({"card": found.model_dump(), "lineage": asdict(lineage)}, indent=2))
    else:
        print(render(found, lineage, opened.name), end="")


def remove(name: Name, hub: HubFolder) -> None:
    """Forget a registered model; runs that began with it keep its weights.

    Example: fedward model remove breast-2027 --hub /srv/hub
    """
    from fedward_server.hub import Hub
    from fedward_server.models import Registry

    entry = Registry(Hub.open(hub)).remove(name)
    print(f"{entry.name} is registered no more (it was SHA-256 {entry.sha256}).")
