"""`pipeline`: the commands, their flags, and what a mistake looks like."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pipeline.console import printable
from store.problem import Problem

app = typer.Typer(
    help="Temporal sparse autoencoders: harvest activations once, train variants from disk, evaluate, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
store_app = typer.Typer(help="Look into, check and share activation stores.", no_args_is_help=True)
app.add_typer(store_app, name="store")

ProfileFlag = Annotated[
    str | None, typer.Option("--profile", help="Profile for this command, instead of the current one.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")]
StoreFlag = Annotated[str | None, typer.Option("--store", help="Folder or URL of the activation store.")]
StoreArgument = Annotated[str | None, typer.Argument(help="A store; the profile's if none.")]
AnyStoreArgument = Annotated[str | None, typer.Argument(help="A store, or its URL; the profile's if none.")]
ModelFlag = Annotated[
    str | None, typer.Option("--model", help="Hub id, local folder or GGUF file, instead of the profile's.")
]
INTERRUPTED = 130
"""Exit status that typer gives Ctrl-C, as shells expect."""


@app.command()
def harvest(
    profile: ProfileFlag = None,
    model: ModelFlag = None,
    layer: Annotated[list[int] | None, typer.Option("--layer", min=0, help="Layer, from 0; repeatable.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Stop after this many positions.")] = None,
    store: StoreFlag = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes on this machine that share the work.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler whose workers do it.")] = None,
    dry_run: DryRunFlag = False,
) -> None:
    """Stage 1: run the language model once, keep its activations in token order."""
    from pipeline.harvest import run

    run(profile, model, layer or [], tokens, store, workers, scheduler, dry_run)


@app.command()
def train(
    profile: ProfileFlag = None,
    variant: Annotated[list[str] | None, typer.Option("--variant", help="Row of variants.yaml; repeatable.")] = None,
    store: StoreFlag = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps, instead of the profile's.")] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", min=0, help="Seed; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run (one variant, one seed).")] = None,
    dry_run: DryRunFlag = False,
) -> None:
    """Stage 2: train sparse autoencoders from a store; no language model is loaded."""
    from pipeline.train import run

    run(profile, variant or [], store, steps, seed or [], out, dry_run)


@app.command()
def evaluate(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Runs, folders that SAELens saved, or Gemma Scope's params.npz; params.yaml's runs if none."
        ),
    ] = None,
    profile: ProfileFlag = None,
    store: StoreFlag = None,
    model: ModelFlag = None,
    text: Annotated[
        Path | None,
        typer.Option(help="Measure SAEBench's metrics on this text, packed as SAEBench packs it, without a store."),
    ] = None,
) -> None:
    """Stage 3: SAEBench core metrics, temporal metrics and probes on heldout documents."""
    from pipeline.evaluate import run, run_on_text

    if text is None:
        run(profile, runs or [], store, model)
    else:
        run_on_text(profile, runs or [], store, model, text)


@app.command()
def sweep(
    name: Annotated[str | None, typer.Argument(help="Name of a sweep; lists them if none.")] = None,
    profile: ProfileFlag = None,
    store: StoreFlag = None,
    model: ModelFlag = None,
    dry_run: DryRunFlag = False,
    json: JsonFlag = False,
) -> None:
    """Train and evaluate the cells of a sweep of sweeps.yaml, each a DVC experiment."""
    from pipeline.sweep import listing, run

    if name is None:
        listing(profile, json)
    else:
        run(name, profile, store, model, dry_run, json)


@app.command()
def unlearn(
    runs: Annotated[list[Path], typer.Argument(help="Runs, or SAEs that others saved.")],
    profile: ProfileFlag = None,
    store: StoreFlag = None,
    model: ModelFlag = None,
    forget: Annotated[Path | None, typer.Option(help='JSONL with {"text"}: what to forget.')] = None,
    retain: Annotated[Path | None, typer.Option(help="The same: what to retain.")] = None,
    questions: Annotated[
        list[Path] | None,
        typer.Option(help='JSONL with {"question", "choices", "answer"}; that on what to forget first. Repeatable.'),
    ] = None,
    rmu: Annotated[bool, typer.Option("--rmu", help="Measure RMU too, the baseline without an SAE.")] = False,
) -> None:
    """Clamp latents so that the model forgets a subject, and measure what else it loses."""
    from pipeline.unlearn import run

    run(profile, runs, store, model, forget, retain, questions or [], rmu)


@app.command()
def report(
    profile: ProfileFlag = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the page.")] = None,
) -> None:
    """Stage 4: tables and figures as one HTML page that opens offline."""
    from pipeline.report import run

    run(profile, out)


@app.command()
def variants(
    name: Annotated[str | None, typer.Argument(help="One row, explained.")] = None,
    profile: ProfileFlag = None,
    json: JsonFlag = False,
) -> None:
    """List the table of variants, or explain one."""
    from pipeline.variants import run

    run(name, profile, json)


@app.command()
def profiles(profile: ProfileFlag = None, json: JsonFlag = False) -> None:
    """List the profiles: model, hook point, corpus, sizes."""
    from pipeline.profiles import run

    run(profile, json)


@app.command()
def use(profile: Annotated[str, typer.Argument(help="Name of a profile.")]) -> None:
    """Make a profile the current one in params.yaml."""
    from pipeline.profiles import use

    use(profile)


@store_app.command("ls")
def store_ls(
    folder: Annotated[Path | None, typer.Argument(help="Where to look; data/stores if none.")] = None,
    profile: ProfileFlag = None,
    json: JsonFlag = False,
) -> None:
    """List the stores in a folder."""
    from pipeline.store import ls

    ls(folder, profile, json)


@store_app.command("info")
def store_info(
    folder: AnyStoreArgument = None,
    profile: ProfileFlag = None,
    json: JsonFlag = False,
) -> None:
    """What a store holds and where it came from."""
    from pipeline.store import info

    info(folder, profile, json)


@store_app.command("verify")
def store_verify(
    folder: StoreArgument = None,
    profile: ProfileFlag = None,
    sample: Annotated[str | None, typer.Option(help="Read a random share of the files, such as 5%.")] = None,
    expect: Annotated[str | None, typer.Option(help="Root digest (8 digits or more), or a run's folder.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Make bad files again, to the recorded bytes.")] = False,
    source: Annotated[str | None, typer.Option("--from", help="Another copy, to mend files from.")] = None,
    json: JsonFlag = False,
) -> None:
    """Check every byte of a store and list all that is wrong."""
    from pipeline.verify import run

    run(folder, profile, sample, expect, repair, source, json)


@store_app.command("inspect")
def store_inspect(
    folder: AnyStoreArgument = None,
    row: Annotated[int | None, typer.Option(min=0, help="Number of a sequence; 0 if nothing is named.")] = None,
    document: Annotated[str | None, typer.Option(help="Id of a document, to see where it begins.")] = None,
    profile: ProfileFlag = None,
    json: JsonFlag = False,
) -> None:
    """Show a sequence: its text, token ids, documents and the norms of its activations."""
    from pipeline.inspect import inspect

    inspect(folder, row, document, profile, json)


@store_app.command("stats")
def store_stats(
    folder: AnyStoreArgument = None,
    layer: Annotated[int | None, typer.Option(min=0, help="One layer; all if none.")] = None,
    profile: ProfileFlag = None,
    json: JsonFlag = False,
) -> None:
    """Norms, outlier dimensions and attention sinks of a store's activations."""
    from pipeline.inspect import stats

    stats(folder, layer, profile, json)


@store_app.command("subset")
def store_subset(
    folder: Annotated[str, typer.Argument(help="A store, or its URL.")],
    out: Annotated[str, typer.Argument(help="Folder of the new store.")],
    layer: Annotated[list[int] | None, typer.Option("--layer", min=0, help="Layer to keep; repeatable.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Keep as many of the first sequences as it takes.")] = None,
    documents: Annotated[Path | None, typer.Option(help="File with the ids of documents to keep, one a line.")] = None,
    profile: ProfileFlag = None,
) -> None:
    """Make a store of some layers, the first tokens, or some documents of another."""
    from pipeline.subset import run

    run(folder, out, layer or [], tokens, documents, profile)


@store_app.command("push")
def store_push(
    places: Annotated[list[str], typer.Argument(metavar="[DIR] URL", help="The profile's store if no DIR.")],
    compress: Annotated[bool, typer.Option("--compress", help="Send it compressed.")] = False,
    profile: ProfileFlag = None,
    json: JsonFlag = False,
) -> None:
    """Copy a store to a folder or bucket (s3://, gs://), verified at both ends."""
    from pipeline.sharing import push

    push(places, compress, profile, json)


@store_app.command("pull")
def store_pull(
    url: Annotated[str, typer.Argument(help="A store: s3://, gs://, https:// or a folder.")],
    folder: Annotated[str | None, typer.Argument(help="data/stores/ and the URL's last part if none.")] = None,
    profile: ProfileFlag = None,
    json: JsonFlag = False,
) -> None:
    """Copy a store from a URL, verified at both ends."""
    from pipeline.sharing import pull

    pull(url, folder, profile, json)


def main() -> None:
    """Run the command line; a `Problem` becomes one message and an exit status, never a traceback."""
    try:
        app()
    except Problem as problem:
        _refuse(problem)
    except OSError as error:
        if error.filename is None:
            raise
        _refuse(Problem("A file or folder cannot be used.", where=error.filename, found=error.strerror))
    except (MemoryError, RuntimeError) as error:  # what torch raises where memory ends
        if not isinstance(error, MemoryError) and not re.search(r"allocate memory|out of memory", str(error)):
            raise
        do = "take less at a time (batch_rows), smaller sizes, or a machine with more memory"
        _refuse(Problem("There is not enough memory for this.", found=str(error).partition("\n")[0], do=do))
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print("stopped; the same command goes on from what was last saved", file=sys.stderr)
        raise


def _refuse(problem: Problem) -> NoReturn:
    print(printable(str(problem)), file=sys.stderr)
    sys.exit(problem.exit_status)
