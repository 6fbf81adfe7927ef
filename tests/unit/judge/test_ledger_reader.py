"""The judge's words behind a grade, found by key while the judge still writes."""

import pickle

import pytest

from exprl.errors import DataError, JudgeError
from exprl.judge import Judge, JudgeItem, JudgeSettings, LedgerReader, RuleJudge, split

REFERENCE = r"5*021394+3=106973###\boxed{021394r3}"
TRACES = ("01/5=0r1###10/5=2r0", "01/5=0r1###10/5=9r9", "hm")


def items():
    return [JudgeItem(t, "5)106973=", REFERENCE, split(t), "division") for t in TRACES]


def settings(server, folder):
    return JudgeSettings((server.url,), server.model, ledger=str(folder))


def test_each_verdict_finds_its_reply_while_the_judge_holds_the_lock(tmp_path):
    with RuleJudge("division") as server, Judge(settings(server, tmp_path)) as judge:
        first = judge.submit(items()[:1]).result()[0].verdicts
        with LedgerReader(tmp_path) as reader:
            assert [reader.get(v.key).text for v in first] == [v.reply for v in first]
            later = [v for one in judge.submit(items()).result() for v in one.verdicts]
            assert len(later) == 5
            for verdict in later:
                reply = reader.get(verdict.key)
                assert (reply.key, reply.status, reply.grade) == (verdict.key, "ok", verdict.grade)
                assert (reply.text, reply.answer, reply.error) == (verdict.reply, None, None)
                counted = (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens)
                assert counted[0] > 0 < counted[1]
            assert reader.is_ready()
            assert reader.get("0" * 64) is None


def test_a_reply_without_a_grade_has_its_reason_and_the_answer_to_the_second_request(tmp_path):
    faults = {"no_grade_rate": 1.0}
    with RuleJudge("division", **faults) as server, Judge(settings(server, tmp_path)) as judge:
        [one] = judge.submit(items()[2:]).result()
    [verdict] = one.verdicts
    with LedgerReader(tmp_path) as reader:
        reply = reader.get(verdict.key)
    assert (reply.status, reply.grade) == ("unparseable", None)
    assert reply.error == verdict.error
    assert reply.text == verdict.reply
    assert reply.answer is not None


def test_what_cannot_be_looked_up_is_said(tmp_path):
    with pytest.raises(JudgeError, match=r"replies\.ledger: No such file"):
        LedgerReader(tmp_path)
    with RuleJudge("division") as server, Judge(settings(server, tmp_path)):
        reader = LedgerReader(tmp_path)
    with pytest.raises(DataError, match='"p7" is no key of a ledger; give the 64 hex digits'):
        reader.get("p7")
    with pytest.raises(TypeError):
        pickle.dumps(reader)
    reader.close()
    reader.close()
    with pytest.raises(JudgeError, match="the ledger reader is closed"):
        reader.get("0" * 64)
