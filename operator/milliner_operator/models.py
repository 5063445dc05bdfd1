"""The models of a topology, its own and those of pools: how far their inspection is, what is wrong with them, and how
spec and facts resolve. Pure; called by the planner."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping

from milliner.contract import facts, kinds, model_checks, plan, plan_whole, topology
from milliner.contract.model import ModelSpec
from milliner_operator import inspection
from milliner_operator.children import common, files
from milliner_operator.conditions import Condition, Reason, Type
from milliner_operator.context import Model
from milliner_operator.inspection import Inspection, Subject
from milliner_operator.observed import Manifest, Ref, World


@dataclasses.dataclass(frozen=True, slots=True)
class Models:
    """Each model with its inspection, the topology's first."""

    wanted: topology.InferenceTopology
    found: tuple[tuple[Subject, Inspection], ...]

    @property
    def children(self) -> tuple[Manifest, ...]:
        return tuple(child for _, each in self.found for child in each.children)

    @property
    def unwanted(self) -> tuple[Ref, ...]:
        return tuple(ref for _, each in self.found for ref in each.unwanted)

    @property
    def ready(self) -> Condition:
        """ModelReady: of the first model that is not."""
        conditions = [each.model_ready for _, each in self.found]
        return next((each for each in conditions if each.status is not True), conditions[0])

    @property
    def inspected(self) -> facts.InspectedFacts | None:
        """What is known of the topology's model, once all are known."""
        return self.found[0][1].facts if all(each.facts is not None for _, each in self.found) else None

    @property
    def drafter(self) -> files.Files | None:
        subject, known = self.found[0]
        commit = known.facts.drafter_commit if known.facts else ""
        return files.pinned(subject.drafter, commit) if subject.drafter else None

    def kept(self) -> dict[str, facts.InspectedFacts]:
        """The facts of all models by the ConfigMap that holds them."""
        return {each.stored_in: each.facts for _, each in self.found if each.facts is not None}

    @property
    def model(self) -> Model:
        """The topology's as pods find it, once it is known."""
        subject, inspection_of = self.found[0]
        return _model(subject, inspection_of, self.wanted.spec.model)

    @property
    def of_pools(self) -> dict[str, Model]:
        """Those that pools have of their own, by pool, each with the pool's own credentials."""
        specs = {pool.name: pool.model for pool in self.wanted.spec.device_pools if pool.model is not None}
        return {pool: _model(subject, each, specs[pool]) for subject, each in self.found for pool in subject.pools}

    def mismatch(self) -> Condition | None:
        """ModelReady=False where a digest is not the pinned one or the drafter is another model's."""
        messages = [*_other_digests(self.wanted, self.found), *_other_drafter(self.wanted, self.inspected)]
        if not messages:
            return None
        return Condition(Type.MODEL_READY, False, Reason.MODEL_DIGEST_MISMATCH, "; ".join(messages))

    def resolved(self) -> plan.Resolved | plan_whole.Resolved:
        """Spec and facts together; raises `SpecInvalid` (*expected*)."""
        known = {subject: _facts(subject, each.facts) for subject, each in self.found if each.facts is not None}
        main = known[self.found[0][0]]
        if self.wanted.spec.strategy.type not in plan_whole.TYPES:
            return plan.resolve(self.wanted, facts=main, may_rest=True)
        of_pools: Mapping[str, plan.ModelFacts] = {
            pool: each for subject, each in known.items() for pool in subject.pools
        }
        return plan_whole.resolve(self.wanted, facts=main, pool_facts=of_pools, may_rest=True)


def look(wanted: topology.InferenceTopology, *, scope: common.Scope, world: World, now: datetime.datetime) -> Models:
    """The models and where their inspections stand; raises `SpecInvalid` (*expected*) for sources that no pod has."""
    model = files.locate(wanted.spec.model.source, field="model.source", folder="model")
    source = facts.drafter_source(wanted)
    drafter = None if source is None else files.locate(source, field=_drafter_field(wanted), folder="drafter")
    subjects = inspection.subjects(wanted, model=model, drafter=drafter)
    found = ((each, inspection.state(wanted, scope=scope, world=world, subject=each, now=now)) for each in subjects)
    return Models(wanted, tuple(found))


def _model(subject: Subject, found: Inspection, spec: ModelSpec) -> Model:
    inspected, secret = found.facts, spec.credentials_secret_ref
    assert inspected is not None, "its inspection is awaited"
    return Model(
        files.pinned(subject.files, inspected.model_commit),
        (secret.name, secret.key) if secret else None,
        digest=inspected.digest,
        fingerprint=inspected.fingerprint,
    )


def _other_digests(wanted: topology.InferenceTopology, found: tuple[tuple[Subject, Inspection], ...]) -> list[str]:
    """What is wrong with the models that are pinned to a digest."""
    digests = {pool: each.facts.digest for subject, each in found for pool in subject.pools if each.facts is not None}
    main = found[0][1].facts
    pinned = [("", wanted.spec.model, main.digest if main is not None else None)]
    pinned += [
        (f"pool {pool.name}: ", pool.model, digests.get(pool.name)) for pool in wanted.spec.device_pools if pool.model
    ]
    return [
        f"{prefix}{problem.message}"
        for prefix, model, digest in pinned
        if digest is not None
        for problem in model_checks.check_digest(pinned=model.digest, found=digest)
    ]


def _other_drafter(wanted: topology.InferenceTopology, inspected: facts.InspectedFacts | None) -> list[str]:
    if inspected is None or inspected.digest is None:
        return []
    drafted = inspected.drafter_model_digest
    if drafted is None or drafted == inspected.digest:
        return []
    return [
        f"{_drafter_field(wanted)} was trained for a model with digest {drafted}, the files at model.source have "
        f"{inspected.digest}: train one for this model"
    ]


def _facts(subject: Subject, inspected: facts.InspectedFacts) -> plan.ModelFacts:
    return plan.ModelFacts(
        model_path=subject.files.path,
        num_layers=inspected.layers,
        dtype=inspected.dtype,
        drafter_path=subject.drafter.path if subject.drafter else None,
        drafter_split=inspected.drafter_split,
        tokenizer_digest=inspected.tokenizer_digest,
    )


def _drafter_field(wanted: topology.InferenceTopology) -> str:
    hat = wanted.spec.strategy.type is kinds.StrategyType.HAT
    return "strategy.hat.adapter.source" if hat else "strategy.uShape.heads.source"
