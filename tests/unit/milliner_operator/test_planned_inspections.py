"""What is planned until a model's facts are known: an inspect Job, its answer, and what comes of a wrong one."""

from __future__ import annotations

import datetime
import json

from tests.unit.milliner_operator import worlds

from milliner.contract import facts
from milliner_operator import inspection, planner
from milliner_operator.conditions import Reason, Type
from milliner_operator.observed import Answer, World


def test_without_facts_only_an_inspect_job_is_wanted_and_nothing_is_deleted() -> None:
    wanted = worlds.parsed()
    plan = planner.plan_topology(wanted, scope=worlds.scope(), world=World(objects={}), now=worlds.NOW)
    name = inspection.job_name(wanted, scope=worlds.scope())
    kinds = ("ServiceAccount", "ConfigMap", "NetworkPolicy", "Job")
    assert worlds.kinds_and_names(plan.local) == {(kind, name) for kind in kinds}
    assert not plan.complete
    condition = plan.condition(Type.MODEL_READY)
    assert condition is not None and condition.status is None and condition.reason is Reason.INSPECTING
    config = json.loads(worlds.child(plan, "ConfigMap", name)["data"]["config.json"])
    asked = facts.InspectConfig.model_validate_json(json.dumps(config))
    assert (asked.key, asked.model.source, asked.drafter_source) == (
        inspection.key_of(wanted, scope=worlds.scope()),
        *["builtin://demo"] * 2,
    )


def test_the_jobs_answer_is_kept_and_the_job_goes() -> None:
    wanted = worlds.parsed()
    job = {"kind": "Job", "metadata": {"name": inspection.job_name(wanted, scope=worlds.scope())}}
    seen = World(
        objects={("Job", inspection.job_name(wanted, scope=worlds.scope())): job},
        inspect_answers={inspection.job_name(wanted, scope=worlds.scope()): worlds.answered(wanted)},
    )
    plan = planner.plan_topology(wanted, scope=worlds.scope(), world=seen, now=worlds.NOW)
    assert plan.complete
    assert ("Job", inspection.job_name(wanted, scope=worlds.scope())) not in worlds.kinds_and_names(plan.local)
    stored = worlds.child(plan, "ConfigMap", "chat-facts")["data"]
    assert facts.parse_line(stored["facts.json"]).layers == 8


def test_an_error_is_told_and_tried_again_after_a_while() -> None:
    wanted = worlds.parsed()
    error = {"reason": "ModelNotFound", "field": "model.source", "message": "model.source names nothing: correct it"}
    line = worlds.facts_line(wanted, error=error)
    for seconds, kinds in ((30, {"ConfigMap"}), (61, {"ConfigMap", "Job", "ServiceAccount", "NetworkPolicy"})):
        now = worlds.NOW + datetime.timedelta(seconds=seconds)
        seen = worlds.world(wanted, line=line)
        plan = planner.plan_topology(wanted, scope=worlds.scope(), world=seen, now=now)
        condition = plan.condition(Type.MODEL_READY)
        assert condition is not None
        assert (condition.status, condition.reason) == (False, Reason.MODEL_NOT_FOUND)
        assert {each["kind"] for each in plan.local} == kinds
        assert not plan.complete


def test_a_job_whose_template_was_corrected_goes_and_is_made_anew() -> None:
    """A nodeSelector that matched nothing was corrected, and the API server refused the Job for half an hour."""
    wanted, corrected = worlds.parsed({"spec.cloud.pod": {"nodeSelector": {"a": "b"}}}), worlds.parsed()
    ref = ("Job", inspection.job_name(wanted, scope=worlds.scope()))
    assert ref[1] == inspection.job_name(corrected, scope=worlds.scope())
    asked = planner.plan_topology(wanted, scope=worlds.scope(), world=World(objects={}), now=worlds.NOW)
    seen = World(objects={ref: worlds.child(asked, *ref)})
    same = planner.plan_topology(wanted, scope=worlds.scope(), world=seen, now=worlds.NOW)
    assert same.unwanted == () and ref in worlds.kinds_and_names(same.local)
    plan = planner.plan_topology(corrected, scope=worlds.scope(), world=seen, now=worlds.NOW)
    assert plan.unwanted == (ref,) and ref not in worlds.kinds_and_names(plan.local)


def test_facts_of_other_sources_do_not_count() -> None:
    wanted = worlds.parsed()
    seen = worlds.world(wanted, line=worlds.facts_line(wanted, key="another"))
    plan = planner.plan_topology(wanted, scope=worlds.scope(), world=seen, now=worlds.NOW)
    assert ("Job", inspection.job_name(wanted, scope=worlds.scope())) in worlds.kinds_and_names(plan.local)


def test_an_answer_in_another_form_fails_the_inspection_and_the_job_is_made_anew() -> None:
    wanted = worlds.parsed()
    ref = ("Job", inspection.job_name(wanted, scope=worlds.scope()))
    ended = {"type": "Complete", "status": "True", "lastTransitionTime": worlds.STAMP}
    asked = planner.plan_topology(wanted, scope=worlds.scope(), world=World(objects={}), now=worlds.NOW)
    job = worlds.child(asked, *ref) | {"status": {"conditions": [ended]}}
    seen = World(objects={ref: job}, inspect_answers={ref[1]: Answer(line='{"schema": 99}', at=worlds.STAMP)})
    plan = planner.plan_topology(wanted, scope=worlds.scope(), world=seen, now=worlds.NOW)
    condition = plan.condition(Type.MODEL_READY)
    assert condition is not None and condition.reason is Reason.INSPECTION_FAILED
    assert plan.unwanted == ()
    later = worlds.NOW + datetime.timedelta(seconds=61)
    plan = planner.plan_topology(wanted, scope=worlds.scope(), world=seen, now=later)
    assert plan.unwanted == (ref,)
