"""What every manifest kind shares: the envelope of apiVersion, kind and metadata. Specs are elsewhere."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from skulk.core.manifests.fields import Manifest, Name


class Metadata(Manifest):
    """Who the document is about."""

    name: Name = Field(description="Name of the resource, unique among those of its kind.")


class Envelope(Manifest):
    """The fields around a spec; each kind adds `kind` and `spec`."""

    api_version: Literal["skulk.dev/v1alpha1"] = Field(
        description="Version of the manifest format; this version of Skulk reads skulk.dev/v1alpha1."
    )
    metadata: Metadata = Field(description="Who the document is about.")
