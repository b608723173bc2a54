"""The shape of a `Node` manifest: one machine as its operator declares it. Facts it reports win where absent."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from skulk.core.manifests.fields import (
    AccountName,
    Address,
    Backends,
    Labels,
    Manifest,
    PublicKey,
    Quantity,
    SshHost,
    SshHostKey,
    Text,
)
from skulk.core.manifests.metadata import Envelope

# Ordinals only ever grow; this is far beyond a lifetime of replaced machines.
ORDINAL_MAX = 1_000_000


class Platform(Manifest):
    """What the machine is."""

    os: Literal["linux", "macos"] | None = Field(default=None, description="Operating system.")
    arch: Literal["x86_64", "aarch64", "arm64"] | None = Field(default=None, description="Processor architecture.")


class Reserve(Manifest):
    """What Skulk leaves alone."""

    memory: Quantity = Field(default="0B", description="Memory kept free for others, such as 2GiB.")
    disk: Quantity = Field(default="0B", description="Disk space kept free for others, such as 20GB.")


class Ssh(Manifest):
    """How the operator's machine logs in, for the bootstrap. No node reads it."""

    host: SshHost | None = Field(default=None, description="Host name or IP address; absent: that of spec.address.")
    port: int = Field(default=22, ge=1, le=65535, description="TCP port of the SSH server.")
    user: AccountName | None = Field(
        default=None, description="Account that may become root by sudo, or root; absent: what your ssh is set to."
    )


class Accelerator(Manifest):
    """A device with memory of its own."""

    name: Text = Field(min_length=1, description="Device name, as the machine reports it.")
    memory: Quantity | None = Field(default=None, description="Memory of the device, such as 24GiB.")


class Hardware(Manifest):
    """Totals for planning while the machine is not there; `skulk node probe` writes them."""

    memory: Quantity = Field(description="Total memory of the machine, such as 64GiB.")
    accelerator: Accelerator | None = Field(default=None, description="A device with memory of its own.")


class NodeSpec(Manifest):
    """One machine."""

    ordinal: int = Field(
        ge=1,
        le=ORDINAL_MAX,
        description="Unique, ever growing number; decides which of two nodes opens the connection.",
    )
    address: Address | None = Field(
        default=None,
        description="Where others reach the node's planes: HOST or HOST:PORT, port 52416 if none is named. "
        "Absent: nobody dials the node, it dials all others.",
    )
    platform: Platform = Field(
        default_factory=Platform, description="What the machine is; absent: what the node reports holds."
    )
    labels: Labels = Field(default_factory=dict, description="Key-value pairs that deployments select nodes by.")
    backends: Backends | None = Field(
        default=None,
        description="Backends that may be used, such as mlx-metal; absent: all that the node finds.",
    )
    participation: Literal["full", "management"] = Field(
        default="full", description="full: may run models. management: serves clients and the fleet API only."
    )
    reserve: Reserve = Field(default_factory=Reserve, description="What Skulk leaves alone.")
    cordon: bool = Field(default=False, description="Keep what runs, take nothing new.")
    drain: bool = Field(default=False, description="Move everything elsewhere, then run nothing.")
    public_key: PublicKey | None = Field(
        default=None,
        description="Key that signs what the node publishes (ed25519:BASE64); `skulk node sign` writes it.",
    )
    ssh: Ssh = Field(default_factory=Ssh, description="How the operator's machine logs in, for the bootstrap.")
    ssh_host_key: SshHostKey | None = Field(
        default=None,
        description="Public host key of the machine's sshd (ssh-ed25519 AAAA…); secrets are encrypted to it.",
    )
    hardware: Hardware | None = Field(default=None, description="Totals for planning while the machine is not there.")


class NodeManifest(Envelope):
    """One machine of the fleet: one document in fleet/nodes/."""

    kind: Literal["Node"] = Field(description="Always Node.")
    spec: NodeSpec = Field(description="One machine.")
