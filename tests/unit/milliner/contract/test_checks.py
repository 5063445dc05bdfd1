"""One rule, two languages: the message in Python, the expression in CEL."""

from __future__ import annotations

from milliner.contract import checks, strategy

RULE = checks.Rule(
    holds=lambda chunking: chunking.min_tokens <= chunking.max_tokens,
    cel="self.minTokens <= self.maxTokens",
    message="it's {minTokens} of {share}, 100 %",
    field=".minTokens",
    values=(checks.Value("share", lambda chunking: str(chunking.max_tokens * 2), "self.maxTokens * 2"),),
)


def test_the_message_shows_fields_and_computed_values() -> None:
    assert RULE.text(strategy.Chunking(min_tokens=5, max_tokens=4)) == "it's 5 of 8, 100 %"


def test_an_enumeration_is_shown_as_in_documents() -> None:
    rule = checks.Rule(holds=lambda _: False, cel="false", message="mode is {mode}")
    assert rule.text(strategy.Chunking()) == "mode is Dynamic"


def test_the_expression_is_one_format_call_with_quotes_and_percent_signs_escaped() -> None:
    assert RULE.validation() == {
        "rule": "self.minTokens <= self.maxTokens",
        "message": "it's <minTokens> of <share>, 100 %",
        "messageExpression": r"'it\'s %s of %s, 100 %%'.format([self.minTokens, self.maxTokens * 2])",
        "fieldPath": ".minTokens",
    }


def test_a_message_without_values_needs_no_expression() -> None:
    assert checks.Rule(holds=lambda _: False, cel="false", message="no").validation() == {
        "rule": "false",
        "message": "no",
    }
