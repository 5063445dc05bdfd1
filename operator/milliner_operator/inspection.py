"""Facts about the model: which are known, whether an inspect Job is wanted, and the condition ModelReady. Pure.

Nothing known: a Job is wanted. The Job's pod has answered: the answer is kept in a ConfigMap and the Job goes. The
answer is an error, or the Job failed: tried again after `RETRY`, the old answer standing meanwhile. A Job's template
cannot be changed, so one whose template is another than is wanted goes, and the next pass wants it anew.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

from milliner.contract import errors, facts, names, role_config, topology
from milliner_operator import revision
from milliner_operator.children import common, inspect, network, plain, pod
from milliner_operator.children.files import Files, model_files, reached
from milliner_operator.conditions import Condition, Reason, Type
from milliner_operator.observed import Answer, Manifest, Ref, World, condition

RETRY = datetime.timedelta(seconds=60)
_KEY_IN_NAME = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Inspection:
    """What is known and what is wanted for it; `facts` is None until they are good."""

    facts: facts.InspectedFacts | None
    model_ready: Condition
    children: tuple[Manifest, ...]
    unwanted: tuple[Ref, ...] = ()


def key_of(wanted: topology.InferenceTopology, *, scope: common.Scope) -> str:
    """Identity of the question: the topology's sources, as this operator's pods reach them."""
    settings = scope.settings
    return facts.key_of(wanted, runtime_image=settings.runtime_image, hub_endpoint=settings.outside.hub_endpoint)


def job_name(wanted: topology.InferenceTopology, *, scope: common.Scope) -> str:
    """Name of the Job that answers for the current sources."""
    return names.child_name(wanted.name, common.ROLE_INSPECT, key_of(wanted, scope=scope)[:_KEY_IN_NAME])


def facts_name(topology_name: str) -> str:
    return names.child_name(topology_name, "facts")


def state(
    wanted: topology.InferenceTopology,
    *,
    scope: common.Scope,
    world: World,
    model: Files,
    drafter: Files | None,
    now: datetime.datetime,
) -> Inspection:
    """Where the inspection stands."""
    name = job_name(wanted, scope=scope)
    job, job_ref = world.get("Job", name), ("Job", name)
    known = _newest(_stored(world, wanted), world.inspect_answer, key=key_of(wanted, scope=scope))
    kept: tuple[Manifest, ...] = ()
    if known is not None:
        kept = (plain.facts_map(scope, facts_name(wanted.name), line=known[1].line, at=known[1].at),)
    unwanted: tuple[Ref, ...] = ()
    if known is not None and known[0].error is None:
        agreed = Condition(Type.MODEL_READY, True, Reason.MODEL_AGREED, known[0].digest or "")
        return Inspection(known[0], agreed, kept, (job_ref,) if job else ())
    wanted_job = _job_children(wanted, scope=scope, name=name, model=model, drafter=drafter)
    if job is not None and _revision(job) != _revision(wanted_job[-1]):
        job, unwanted = None, (job_ref,)
    elif job is not None and _ended(job) and (known is not None or _due(_ended_at(job), now)):
        job, unwanted = None, (job_ref,)  # read, or given up: the next pass wants it anew when it is time
    elif job is not None or known is None or _due(known[1].at, now):
        kept += wanted_job
    return Inspection(None, _not_ready(known and known[0], job, world, name), kept, unwanted)


def _not_ready(known: facts.InspectedFacts | None, job: Manifest | None, world: World, name: str) -> Condition:
    if known is not None and known.error is not None:
        reason = known.error.reason if known.error.reason in set(Reason) else Reason.MODEL_NOT_FOUND
        return Condition(Type.MODEL_READY, False, Reason(reason), known.error.message)
    if job is not None and _ended(job):
        message = condition(job, "Failed").get("message") or "ended without an answer that this operator can read"
        return Condition(Type.MODEL_READY, False, Reason.INSPECTION_FAILED, f"job {name}: {message}")
    trouble = world.inspect_trouble
    if trouble is not None and trouble.reason is not Reason.PODS_NOT_READY:
        return Condition(Type.MODEL_READY, False, trouble.reason, trouble.message)
    return Condition(Type.MODEL_READY, None, Reason.INSPECTING, f"job {name} reads model and drafter")


def _stored(world: World, wanted: topology.InferenceTopology) -> Answer | None:
    data = (world.get("ConfigMap", facts_name(wanted.name)) or {}).get("data") or {}
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
    wanted: topology.InferenceTopology, *, scope: common.Scope, name: str, model: Files, drafter: Files | None
) -> tuple[Manifest, ...]:
    spec = wanted.spec
    credentials = spec.model.credentials_secret_ref
    base = role_config.ModelFiles(
        path=model.path, served_name=wanted.served_name, dtype=spec.model.dtype, digest=spec.model.digest
    )
    config = facts.InspectConfig(
        topology=wanted.name,
        key=key_of(wanted, scope=scope),
        strategy=spec.strategy.type,
        model=model_files(model, base=base, has_credentials=credentials is not None),
        drafter_source=drafter.source if drafter else None,
        drafter_path=drafter.path if drafter else None,
    )
    shape = pod.PodShape(
        role=common.ROLE_INSPECT,
        config_map=name,
        service_account=name,
        options=spec.cloud.pod,
        serves=False,
        fetches=any(each is not None and each.fetched_over_network for each in (model, drafter)),
        claims=claims(model, drafter),
        credentials=(credentials.name, credentials.key) if credentials else None,
    )
    sources = reached((model, drafter), outside=scope.settings.outside)
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
