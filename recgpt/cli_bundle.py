"""The ``recgpt bundle`` commands: what is served, and how it is changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from recgpt.backends.triton_network import TritonNetwork

bundle_app = typer.Typer(no_args_is_help=True, help="Publish, roll back and change what is served.")
_console = Console()

Store = Annotated[Path, typer.Option(help="Folder of the published versions.")]
Repository = Annotated[Path | None, typer.Option(help="Triton's model repository; without it, for engines only.")]
Urls = Annotated[
    list[str] | None,
    typer.Option("--url", help="gRPC address of a running Triton (explicit model control); may be given again."),
]
Keep = Annotated[int, typer.Option(min=1, help="How many versions to keep.")]
Grace = Annotated[float, typer.Option(min=0, help="Keep what was replaced less than this many seconds ago.")]

Ca = Annotated[Path | None, typer.Option("--tls-ca", help="PEM file: connect with TLS, trust this authority.")]
Certificate = Annotated[Path | None, typer.Option("--tls-certificate", help="PEM file of our own, for mutual TLS.")]
Key = Annotated[Path | None, typer.Option("--tls-key", help="PEM file of its private key.")]
# A secret, so that it has no place on a command line.
CONTROL_KEY = "RECGPT_CONTROL_KEY"

STORE = Path("artifacts/bundles")


def _network(ca: Path | None, certificate: Path | None, key: Path | None) -> TritonNetwork:
    from recgpt.backends.triton_network import TritonNetwork
    from recgpt.remote.policy import TlsOptions

    encrypted = any(path is not None for path in (ca, certificate, key))
    tls = TlsOptions(ca=ca, certificate=certificate, key=key) if encrypted else None
    return TritonNetwork(tls=tls, control_key=os.environ.get(CONTROL_KEY))


def _say(text: str) -> None:
    _console.print(text, markup=False, highlight=False, soft_wrap=True)


@bundle_app.command("list")
def list_versions(store: Store = STORE) -> None:
    """Lists the published versions; the current one is marked."""
    from recgpt.bundle_store import BundleStore

    opened = BundleStore(store)
    state = opened.state()
    table = Table("", "version", "graphs", "items", "added", "stage", "data", box=None)
    for manifest in opened.manifests():
        mark = "current" if manifest.version == state.current else ""
        if state.previous and manifest.version == state.previous[-1]:
            mark = "previous"
        training, added = manifest.training, manifest.num_added_items
        numbers = (manifest.version, manifest.model_version, manifest.model.num_items, added)
        table.add_row(mark, *map(str, numbers), training.stage, Text(training.data))
    _console.print(table)
    if state.deleted:
        _say(f"{len(state.deleted)} item(s) deleted for good")


@bundle_app.command()
def publish(
    bundle: Annotated[Path, typer.Argument(help="What export/to_onnx.py wrote.")] = Path("artifacts/bundle"),
    store: Store = STORE,
    model_repository: Repository = None,
    url: Urls = None,
    keep: Keep = 3,
    grace_s: Grace = 600.0,
    tls_ca: Ca = None,
    tls_certificate: Certificate = None,
    tls_key: Key = None,
) -> None:
    """Checks BUNDLE, loads it beside what is served, makes it the current version, removes old ones.

    Servers that restrict who loads models get the key that RECGPT_CONTROL_KEY holds.
    """
    from recgpt.publishing import Publisher

    network = _network(tls_ca, tls_certificate, tls_key) if url else None
    publisher = Publisher(
        store,
        model_repository=model_repository,
        urls=url or (),
        network=network,
        keep=keep,
        grace_s=grace_s,
        say=_say,
    )
    publisher.publish(bundle)


@bundle_app.command()
def rollback(
    store: Store = STORE,
    model_repository: Repository = None,
    url: Urls = None,
    tls_ca: Ca = None,
    tls_certificate: Certificate = None,
    tls_key: Key = None,
) -> None:
    """Goes back to the version before the current one."""
    from recgpt.publishing import Publisher

    network = _network(tls_ca, tls_certificate, tls_key) if url else None
    Publisher(store, model_repository=model_repository, urls=url or (), network=network, say=_say).roll_back()


@bundle_app.command("add-items")
def add_items(
    ids: Annotated[Path, typer.Option(help="Text file, one item id a line.")],
    vectors: Annotated[Path, typer.Option(help=".npy file, one row an id, as wide as the model.")],
    store: Store = STORE,
    keep: Keep = 3,
    grace_s: Grace = 600.0,
) -> None:
    """Publishes the current version with new items behind its own; no server has to load anything."""
    from recgpt.bundle import Bundle
    from recgpt.bundle_items import read_new_items
    from recgpt.publishing import Publisher

    items, rows = read_new_items(ids, vectors, Bundle.open(store).catalogue().item_ids.parse)
    Publisher(store, keep=keep, grace_s=grace_s, say=_say).add_items(items, rows)


@bundle_app.command("delete-items")
def delete_items(
    items: Annotated[list[str], typer.Argument(metavar="ITEM...", help="Item ids.")],
    store: Store = STORE,
    model_repository: Repository = None,
) -> None:
    """Takes items out of every answer, of the current version and of all later ones."""
    from recgpt.bundle import Bundle
    from recgpt.publishing import Publisher

    parse = Bundle.open(store).catalogue().item_ids.parse
    Publisher(store, model_repository=model_repository, say=_say).delete_items([parse(text) for text in items])
