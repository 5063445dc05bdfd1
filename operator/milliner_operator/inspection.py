"""Facts about a model: which are known, whether an inspect Job is wanted, and the condition ModelReady. Pure.

Each model of a topology is a `Subject`: its own, and those that pools have of their own.
Nothing known: a Job is wanted. The Job's pod has answered: the answer is kept in a ConfigMap and the Job goes. The
answer is an error, or the Job failed: tried again after `RETRY`, the old answer standing meanwhile. A Job's template
cannot be changed, so one whose template is another than is wanted goes, and the next pass wants it anew.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

from milliner.contract import errors, facts, names, role_config, topology
from milliner.contract.devices import DevicePool
from milliner.contract.model import ModelSpec
from milliner_operator import revision
from milliner_operator.children import common, inspect, network, plain, pod
from milliner_operator.children.files import Files, locate, model_files, reached
from milliner_operator.conditions import Condition, Reason, Type
from milliner_operator.observed import Answer, Manifest, Ref, World, condition

RETRY = datetime.timedelta(seconds=60)
_KEY_IN_NAME = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """A model that is inspected: the topology's with its drafter, or `own`; `pools` name it as their own."""

    files: Files
    drafter: Files | None = None
    own: ModelSpec | None = None
    pools: tuple[str, ...] = ()

    def model(self, wanted: topology.InferenceTopology) -> ModelSpec:
        return self.own or wanted.spec.model

    @property
    def prefix(self) -> str:
        """Whose model a message is about, where that is not the topology's."""
        return f"model of pool {', '.join(self.pools)}: " if self.own else ""


@dataclasses.dataclass(frozen=True, slots=True)
class Inspection:
    """What is known, in which ConfigMap, and what is wanted for it; `facts` is None until they are good."""

    stored_in: str
    facts: facts.InspectedFacts | None
    model_ready: Condition
    children: tuple[Manifest, ...]
    unwanted: tuple[Ref, ...] = ()


def key_of(wanted: topology.InferenceTopology, *, scope: common.Scope, own: ModelSpec | None = None) -> str:
    """Identity of the question: the topology's sources or a pool's own, as this operator's pods reach them."""
    settings = scope.settings
    return facts.key_of(
        wanted, own=own, runtime_image=settings.runtime_image, hub_endpoint=settings.outside.hub_endpoint
    )


def job_name(wanted: topology.InferenceTopology, *, scope: common.Scope, own: ModelSpec | None = None) -> str:
    """Name of the Job that answers for the current sources."""
    return names.child_name(wanted.name, common.ROLE_INSPECT, key_of(wanted, scope=scope, own=own)[:_KEY_IN_NAME])


def job_names(wanted: topology.InferenceTopology, *, scope: common.Scope) -> list[str]:
    """Names of all such Jobs, that of the topology's model first."""
    models = (None, *(pool.model for pool in wanted.spec.device_pools if pool.model is not None))
    return list(dict.fromkeys(job_name(wanted, scope=scope, own=each) for each in models))


def facts_name(topology_name: str, *, own_key: str = "") -> str:
    """Name of the ConfigMap with the facts of the topology's model, or of the one whose key is `own_key`."""
    return names.child_name(topology_name, "facts", *([own_key[:_KEY_IN_NAME]] if own_key else []))


def subjects(wanted: topology.InferenceTopology, *, model: Files, drafter: Files | None) -> tuple[Subject, ...]:
    """All that is inspected, the topology's model first; models of one source are one. Raises `SpecInvalid`."""
    sharing: dict[str, list[tuple[int, DevicePool]]] = {facts.key_of(wanted): []}
    for index, pool in enumerate(wanted.spec.device_pools):
        if pool.model is not None:
            sharing.setdefault(facts.key_of(wanted, own=pool.model), []).append((index, pool))
    (_, first), *others = sharing.items()
    return (
        Subject(model, drafter, pools=tuple(pool.name for _, pool in first)),
        *(_of_pools(pools) for _, pools in others),
    )


def _of_pools(pools: Sequence[tuple[int, DevicePool]]) -> Subject:
    """The model that some pools have of their own; read with the credentials of the first that has any."""
    models = [(index, pool.model) for index, pool in pools if pool.model is not None]
    index, own = next((each for each in models if each[1].credentials_secret_ref is not None), models[0])
    files = locate(own.source, field=f"devicePools[{index}].model.source", folder="model")
    return Subject(files, own=own, pools=tuple(pool.name for _, pool in pools))


def state(
    wanted: topology.InferenceTopology,
    *,
    scope: common.Scope,
    world: World,
    subject: Subject,
    now: datetime.datetime,
) -> Inspection:
    """Where a model's inspection stands."""
    key, name = key_of(wanted, scope=scope, own=subject.own), job_name(wanted, scope=scope, own=subject.own)
    stored_in = facts_name(wanted.name, own_key=key if subject.own else "")
    job, job_ref = world.get("Job", name), ("Job", name)
    known = _newest(_stored(world, stored_in), world.inspect_answers.get(name), key=key)
    kept: tuple[Manifest, ...] = ()
    if known is not None:
        kept = (plain.facts_map(scope, stored_in, line=known[1].line, at=known[1].at),)
    unwanted: tuple[Ref, ...] = ()
    if known is not None and known[0].error is None:
        agreed = Condition(Type.MODEL_READY, True, Reason.MODEL_AGREED, known[0].digest or "")
        return Inspection(stored_in, known[0], agreed, kept, (job_ref,) if job else ())
    wanted_job = _job_children(wanted, scope=scope, name=name, key=key, subject=subject)
    if job is not None and _revision(job) != _revision(wanted_job[-1]):
        job, unwanted = None, (job_ref,)
    elif job is not None and _ended(job) and (known is not None or _due(_ended_at(job), now)):
        job, unwanted = None, (job_ref,)  # read, or given up: the next pass wants it anew when it is time
    elif job is not None or known is None or _due(known[1].at, now):
        kept += wanted_job
    why = _not_ready(known and known[0], job, world, name)
    return Inspection(
        stored_in, None, dataclasses.replace(why, message=f"{subject.prefix}{why.message}"), kept, unwanted
    )


def _not_ready(known: facts.InspectedFacts | None, job: Manifest | None, world: World, name: str) -> Condition:
    if known is not None and known.error is not None:
        reason = known.error.reason if known.error.reason in set(Reason) else Reason.MODEL_NOT_FOUND
        return Condition(Type.MODEL_READY, False, Reason(reason), known.error.message)
    if job is not None and _ended(job):
        message = condition(job, "Failed").get("message") or "ended without an answer that this operator can read"
        return Condition(Type.MODEL_READY, False, Reason.INSPECTION_FAILED, f"job {name}: {message}")
    trouble = world.inspect_troubles.get(name)
    if trouble is not None and trouble.reason is not Reason.PODS_NOT_READY:
        return Condition(Type.MODEL_READY, False, trouble.reason, trouble.message)
    return Condition(Type.MODEL_READY, None, Reason.INSPECTING, f"job {name} reads model and drafter")


def _stored(world: World, name: str) -> Answer | None:
    data = (world.get("ConfigMap", name) or {}).get("data") or {}
    line, at = data.get(plain.FACTS_KEY), data.get(plain.FACTS_AT)
    return Answer(line=line, at=at) if line and at else None


def _newest(stored: Answer | None, answer: Answer | None, *, key: str) -> tuple[facts.InspectedFacts, Answer] | None:
    """The later of two answers to the question `key`, parsed."""
    best: tuple[facts.InspectedFacts, Answer] | None = None
    for each in (stored, answer):
        if each is None:
            continue
        try:
            parsed = facts.parse_line(each.line)
        except (errors.SpecInvalid, errors.DocumentError):
            continue  # another version's form: as if there were no answer; a Job that gave it is reported as failed
        if parsed.key == key and (best is None or each.at > best[1].at):
            best = parsed, each
    return best


def _job_children(
    wanted: topology.InferenceTopology, *, scope: common.Scope, name: str, key: str, subject: Subject
) -> tuple[Manifest, ...]:
    spec, drafter = subject.model(wanted), subject.drafter
    credentials = spec.credentials_secret_ref
    base = role_config.ModelFiles(
        path=subject.files.path, served_name=wanted.served_name, dtype=spec.dtype, digest=spec.digest
    )
    config = facts.InspectConfig(
        topology=wanted.name,
        key=key,
        strategy=wanted.spec.strategy.type,
        model=model_files(subject.files, base=base, has_credentials=credentials is not None),
        drafter_source=drafter.source if drafter else None,
        drafter_path=drafter.path if drafter else None,
    )
    shape = pod.PodShape(
        role=common.ROLE_INSPECT,
        config_map=name,
        service_account=name,
        options=wanted.spec.cloud.pod,
        serves=False,
        fetches=any(each is not None and each.fetched_over_network for each in (subject.files, drafter)),
        claims=claims(subject.files, drafter),
        credentials=(credentials.name, credentials.key) if credentials else None,
    )
    sources = reached((subject.files, drafter), outside=scope.settings.outside)
    role = common.ROLE_INSPECT
    template: dict[str, Any] = pod.template(scope, shape)
    template["metadata"]["labels"][names.LABEL_REVISION] = revision.of(template, "")
    return (
        plain.service_account(scope, name, role=role),
        plain.role_config_map(scope, name, role=role, config=config.to_json()),
        network.inspect_policy(scope, name, sources=sources),
        inspect.job(scope, name, template=template),
    )


def claims(*files: Files | None) -> tuple[str, ...]:
    """The persistent volume claims that files lie on, each once."""
    return tuple(sorted({each.claim for each in files if each is not None and each.claim is not None}))


def _revision(job: Manifest) -> str:
    """The revision of a Job's template; the Job of an operator that stamped none has ''."""
    labels = job["spec"]["template"]["metadata"].get("labels") or {}
    return str(labels.get(names.LABEL_REVISION, ""))


def _ended(job: Manifest) -> bool:
    return any(condition(job, kind).get("status") == "True" for kind in ("Complete", "Failed"))


def _ended_at(job: Manifest) -> str:
    ended = (condition(job, kind) for kind in ("Complete", "Failed"))
    return next((str(each["lastTransitionTime"]) for each in ended if each.get("status") == "True"), "")


def _due(at: str, now: datetime.datetime) -> bool:
    try:
        return now >= datetime.datetime.fromisoformat(at) + RETRY
    except ValueError:
        return True
