"""The `skulk` command: the list of verbs, put together. What each does is in `verbs`, how it ends in `group`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import typer

from skulk.cli.group import Skulk
from skulk.cli.options import examples
from skulk.cli.verbs import (
    bootstrap,
    card,
    describe,
    doctor,
    enrol,
    events,
    explain,
    get,
    init,
    inventory,
    logs,
    machines,
    node,
    plan,
    reconcile,
    run,
    schema,
    secrets,
    states,
    top,
    update,
    validate,
    version,
    wait,
    why,
)
from skulk.core.legacy import new_names

Verb = tuple[str, Callable[..., None], tuple[str, ...]]

# Not from the node's configuration, which takes longer to load than most verbs run; a test compares them.
_OPTIONS = frozenset({"SKULK_CONFIG", "SKULK_URL", "SKULK_API_KEY"})
_HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}

# In the order in which a newcomer meets them.
VERBS: tuple[Verb, ...] = (
    ("init", init.init, init.EXAMPLES),
    ("validate", validate.validate, validate.EXAMPLES),
    ("plan", plan.plan, plan.EXAMPLES),
    ("get", get.get, get.EXAMPLES),
    ("describe", describe.describe, describe.EXAMPLES),
    ("why", why.why, why.EXAMPLES),
    ("explain", explain.explain, explain.EXAMPLES),
    ("wait", wait.wait, wait.EXAMPLES),
    ("run", run.run, run.EXAMPLES),
    ("logs", logs.logs, logs.EXAMPLES),
    ("events", events.events, events.EXAMPLES),
    ("top", top.top, top.EXAMPLES),
    ("reconcile", reconcile.reconcile, reconcile.EXAMPLES),
    ("cordon", states.cordon, states.CORDON_EXAMPLES),
    ("drain", states.drain, states.DRAIN_EXAMPLES),
    ("suspend", states.suspend, states.SUSPEND_EXAMPLES),
    ("resume", states.resume, states.RESUME_EXAMPLES),
    ("schema", schema.schema, schema.EXAMPLES),
    ("inventory", inventory.inventory, inventory.EXAMPLES),
    ("bootstrap", bootstrap.bootstrap, bootstrap.EXAMPLES),
    ("doctor", doctor.doctor, doctor.EXAMPLES),
    ("version", version.version, version.EXAMPLES),
)
GROUPS: tuple[tuple[str, str, tuple[Verb, ...]], ...] = (
    (
        "node",
        "This machine's daemon, and how a machine becomes a node: manifest, key, certificate.",
        (
            ("run", node.run, node.RUN_EXAMPLES),
            ("stop", node.stop, node.STOP_EXAMPLES),
            ("probe", node.probe, node.PROBE_EXAMPLES),
            ("service", node.service, node.SERVICE_EXAMPLES),
            ("shipper", node.shipper, node.SHIPPER_EXAMPLES),
            ("add", enrol.add, enrol.ADD_EXAMPLES),
            ("key", enrol.key, enrol.KEY_EXAMPLES),
            ("sign", enrol.sign, enrol.SIGN_EXAMPLES),
            ("authority", enrol.authority, enrol.AUTHORITY_EXAMPLES),
            ("release", machines.release, machines.RELEASE_EXAMPLES),
            ("preflight", machines.preflight, machines.PREFLIGHT_EXAMPLES),
            ("engines", machines.engines, machines.ENGINES_EXAMPLES),
            ("wheelhouse", update.wheelhouse, update.WHEELHOUSE_EXAMPLES),
            ("update", update.update, update.UPDATE_EXAMPLES),
        ),
    ),
    (
        "secrets",
        "Secrets in the repository: encrypted with age, for operators and nodes only.",
        (
            ("key", secrets.key, secrets.KEY_EXAMPLES),
            ("edit", secrets.edit, secrets.EDIT_EXAMPLES),
            ("get", secrets.get, secrets.GET_EXAMPLES),
            ("check", secrets.check, secrets.CHECK_EXAMPLES),
            ("rekey", secrets.rekey, secrets.REKEY_EXAMPLES),
            ("install", secrets.install, secrets.INSTALL_EXAMPLES),
        ),
    ),
    ("card", "Model cards: what a model is.", (("import", card.import_card, card.EXAMPLES),)),
)


def _application() -> typer.Typer:
    # No rich markup: help reads the same in a terminal, in a pipe and in docs/reference/cli.md.
    application = typer.Typer(
        cls=Skulk,
        name="skulk",
        help="A git repository of YAML becomes a running AI-inference fleet.",
        rich_markup_mode=None,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings=dict(_HELP_OPTIONS),
    )
    _add(application, VERBS)
    for name, help_, verbs in GROUPS:
        group = typer.Typer(
            help=help_, rich_markup_mode=None, no_args_is_help=True, context_settings=dict(_HELP_OPTIONS)
        )
        _add(group, verbs)
        application.add_typer(group, name=name)
    return application


def _add(group: typer.Typer, verbs: tuple[Verb, ...]) -> None:
    for name, function, lines in verbs:
        assert function.__doc__
        group.command(
            name,
            # given, because the one that typer derives is cut to 45 characters
            short_help=function.__doc__.splitlines()[0].partition(". ")[0].rstrip("."),
            epilog=examples(*lines),
            context_settings=dict(_HELP_OPTIONS),
        )(function)


app = _application()


def main() -> None:
    """Entry point. Ends the process with an exit code of `skulk.cli.exits`."""
    # Models answer in any script, and a terminal or pipe of another encoding must not end in a traceback.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    _take_old_names()
    app(prog_name="skulk")


def _take_old_names() -> None:
    """What options read from the environment may still have its old name. The daemon sees to the names of its own."""
    new, found = new_names(os.environ, _OPTIONS)
    for old in found:
        if old.instead is not None:
            print(f"warning: {old}", file=sys.stderr)
    os.environ.update({name: new[name] for name in _OPTIONS & new.keys()})


if __name__ == "__main__":
    main()
