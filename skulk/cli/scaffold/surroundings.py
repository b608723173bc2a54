"""What stands around the manifests of a new fleet: README, editor settings, the CI check, .gitignore. Pure."""

from __future__ import annotations

import json

import skulk

_README = """\
# {name}

This repository is the desired state of an AI-inference fleet. Every node follows it: a push changes what runs, a
`git revert` takes it back, and a commit with a mistake changes nothing.

| where | what |
|---|---|
| `fleet/fleet.yaml` | what holds for all nodes |
| `fleet/nodes/` | one file per machine |
| `fleet/deployments/` | which model runs, how often, where |
| `cards/` | what each model is: its files, sizes and limits |
| `schemas/` | generated; editors check and complete the manifests with them |

## Next steps

1. Check: `skulk validate`. The workflow in `.github/workflows` does the same for every push.
2. Put the repository where the node can fetch it, and push.
3. On the machine called `{node}`, write its local facts into `node.toml` (outside this repository: it holds what must
   not come from git) and start the node.

```toml
name = "{node}"
namespace = "{name}"
stateDir = "state"
# a card with `source: {{local: NAME}}` is the directory NAME below one of these
modelRoots = ["models"]

[source]
# a path on the same machine works as well, which is good for a first try
url = "git@git.example.com:me/{name}.git"
branch = "main"
```

```console
skulk node run --config node.toml
skulk wait --for=applied=$(git rev-parse HEAD)
skulk get deployments
```

4. Add a model: {model_step}
5. Ask it: `skulk run NAME "Hello"`, or any OpenAI client at `http://127.0.0.1:52415/v1`.

`skulk explain deployment.spec` documents every field, `skulk why NAME` explains a state, `skulk doctor` checks a
machine.
"""

_ADD_MODEL = """\
a card in `cards/NAME/card.yaml` (`skulk explain modelcard.spec`) and a deployment in
   `fleet/deployments/NAME.yaml` (`skulk explain deployment.spec`); commit and push."""
_HAS_MODEL = "`cards/{model}/card.yaml` describes one already, and `fleet/deployments/{model}.yaml` runs it."

_WORKFLOW = """\
name: validate
on:
  push:
  pull_request:
permissions:
  contents: read
jobs:
  validate:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install "skulk=={version}"
      - run: skulk validate -o github
      - run: skulk schema --check
"""

_GITIGNORE = """\
# the local facts of a node and its state do not belong into git
node.toml
/state/
# model files: a card names them by digest, the node finds them below modelRoots
cards/**/files/
"""

# Schema file → the manifests it is for, as globs of the editor.
_SCHEMAS = {
    "./schemas/fleet.schema.json": ["fleet/fleet.yaml"],
    "./schemas/node.schema.json": ["fleet/nodes/*.yaml"],
    "./schemas/deployment.schema.json": ["fleet/deployments/*.yaml"],
    "./schemas/modelcard.schema.json": ["cards/**/*.yaml"],
}


def readme(name: str, node: str, model: str | None) -> str:
    """The README of the fleet `name`, written for the person who will run it."""
    step = _ADD_MODEL if model is None else _HAS_MODEL.format(model=model)
    return _README.format(name=name, node=node, model_step=step)


def workflow() -> str:
    """The CI check, pinned to this version: another one may judge manifests differently."""
    return _WORKFLOW.format(version=skulk.__version__)


def gitignore() -> str:
    return _GITIGNORE


def editor_settings() -> str:
    """.vscode/settings.json; the schema line at the top of each manifest serves the other editors."""
    return json.dumps({"yaml.schemas": _SCHEMAS}, indent=2) + "\n"
