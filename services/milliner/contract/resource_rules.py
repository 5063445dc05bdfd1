"""The rule that no pod requests more of a resource than its limit allows, with its amounts as Kubernetes writes them.

One of the groups of `rules.TABLE`; here because comparing amounts takes more in CEL than all other rules. Pure.
"""

from __future__ import annotations

from milliner.contract import checks, fields, pod, quantities


def _over_limits(resources: pod.PodResources) -> list[str]:
    """Names of the resources of which more is requested than the limit allows."""
    requests, limits = resources.requests, resources.limits
    shared = sorted(requests.keys() & limits.keys())
    return [name for name in shared if quantities.value(requests[name]) > quantities.value(limits[name])]


def _first_excess(resources: pod.PodResources) -> str:
    name = _over_limits(resources)[0]
    return f"{name} ({resources.requests[name]}) is above limits.{name} ({resources.limits[name]})"


def _cel_amount(text: str) -> str:
    """An amount, which the API server keeps as the number or the text that was written, as a CEL quantity."""
    return f"(type({text}) == int ? quantity('0').add(int({text})) : quantity({text}))"


def _cel_over_limit(name: str) -> str:
    request, limit = f"self.requests[{name}]", f"self.limits[{name}]"
    amounts = checks.cel_literal(f"^({fields.QUANTITY})$")
    are_amounts = " && ".join(f"(type({each}) == int || {each}.matches({amounts}))" for each in (request, limit))
    return f"({name} in self.limits && {are_amounts} && {_cel_amount(request)}.isGreaterThan({_cel_amount(limit)}))"


# A map has no order in CEL: the first is the one before which, by name, there is none.
_CEL_FIRST_EXCESS = (
    f"self.requests.filter(k, {_cel_over_limit('k')} && !self.requests.exists(j, j < k && {_cel_over_limit('j')}))"
    ".map(k, '%s (%s) is above limits.%s (%s)'.format([k, self.requests[k], k, self.limits[k]]))[0]"
)

RESOURCES = (
    checks.Rule(
        holds=lambda resources: not _over_limits(resources),
        cel=f"!has(self.requests) || !has(self.limits) || !self.requests.exists(k, {_cel_over_limit('k')})",
        message="resources.requests.{excess}: lower the request or raise the limit",
        field=".requests",
        values=(checks.Value("excess", _first_excess, _CEL_FIRST_EXCESS),),
    ),
)
