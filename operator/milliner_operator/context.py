"""What both tiers of a topology are built from: the spec resolved, and the models as pods find them. Values only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from milliner.contract import plan, plan_whole, topology
from milliner.contract.devices import DevicePool
from milliner_operator.children import common
from milliner_operator.children.files import Files, reached
from milliner_operator.plan import Tls


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """A model's files, the Secret (name and key) that opens them, and what their inspection found."""

    files: Files
    credentials: tuple[str, str] | None
    digest: str | None
    fingerprint: str


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """All that both tiers are built from; `pool_models` names the pools that have a model of their own."""

    wanted: topology.InferenceTopology
    resolved: plan.Resolved | plan_whole.Resolved
    scope: common.Scope
    model: Model
    pool_models: Mapping[str, Model]
    drafter: Files | None
    certified: Tls

    def model_of(self, pool: DevicePool) -> Model:
        """The model of a pool's devices."""
        return self.pool_models.get(pool.name, self.model)

    def sources(self, model: Model) -> tuple[str, ...]:
        """Whom pods speak to to fetch a model, and the drafter where there is one."""
        return reached((model.files, self.drafter), outside=self.scope.settings.outside)

    @property
    def otlp_endpoint(self) -> str:
        return self.wanted.spec.tracing.otlp_endpoint or self.scope.settings.otlp_endpoint
