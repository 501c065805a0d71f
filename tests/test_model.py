"""Specs, stop plans and records: their checks, and their JSON, old, new and damaged."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobsup import (
    JobRecord,
    JobSpec,
    JobState,
    Outcome,
    ProcessIdentity,
    RecordError,
    StopCause,
    StopPlan,
    StopStep,
)
from jobsup._model import FORMAT, Survivor, Usage, from_json, to_json
from jobsup._spec import MIN_OUTPUT_LIMIT, Leftovers, Lifetime, OnOutputLimit, Stdin
from jobsup._stopplan import parse_signal, signal_name
from jobsup._value import fields_of

DATA = Path(__file__).parent / "data"
BOOT = "384371aa-ac86-476f-b72d-e9622bd913c9:4026531836"
PATH = Path("/store/jobs/x/meta.json")

RECORD_V1 = JobRecord(
    "01m8263e42xq9v480e3fqrptp5",
    JobState.ENDED,
    created_at=datetime(2026, 11, 22, 17, 50, 43, 27594, timezone.utc),
    outcome=Outcome.CANCELLED,
    reason="owner-died",
    signal=SIGKILL,
    stop_cause=StopCause.OWNER_DIED,
    started_at=datetime(2026, 11, 22, 17, 50, 43, 27639, timezone.utc),
    ended_at=datetime(2026, 11, 22, 17, 50, 43, 79208, timezone.utc),
    command=ProcessIdentity(7055, f"{BOOT}:323864:7056"),
    monitor=ProcessIdentity(7054, f"{BOOT}:323845:7055"),
    usage=Usage(0.038389, 15089664),
    survivors=(Survivor(7056, "passwd", 0, "S", 1, "x"), Survivor(7057, "dd", 1000, "D")),
    proved=True,
    adoptions=1,
    output_bytes=1000000,
    output_lost_bytes=4096,
    note="the output cannot be trimmed",
    sequence=3,
)
SPEC_V1 = JobSpec(
    ["python", "train.py", "naïve \udcff"],
    name="train",
    cwd="/srv/data",
    env_names=("TOKEN",),
    clean_env=True,
    stdin=Stdin.FIFO,
    separate_stderr=True,
    timeout=3600.0,
    stop=StopPlan((StopStep(SIGINT, 5.0), StopStep(SIGTERM, 10.0), StopStep(SIGKILL))),
    lifetime=Lifetime.OWNER,
    leftovers=Leftovers.WAIT,
    output_limit=1 << 20,
    on_output_limit=OnOutputLimit.KILL,
    labels={"team": "blue"},
    owner=ProcessIdentity(7000, f"{BOOT}:323000:7001"),
)


EXAMPLES: dict[Any, Any] = {JobRecord: RECORD_V1, JobSpec: SPEC_V1}


# -- JSON --------------------------------------------------------------------


def test_record_of_format_1_still_reads() -> None:
    path = DATA / "meta-v1.json"
    assert from_json(JobRecord, path.read_bytes(), path) == RECORD_V1


def test_spec_of_format_1_still_reads() -> None:
    path = DATA / "spec-v1.json"
    assert from_json(JobSpec, path.read_bytes(), path) == SPEC_V1


@pytest.mark.parametrize(("value", "name"), [(RECORD_V1, "meta"), (SPEC_V1, "spec")])
def test_fixtures_of_this_format_are_what_it_writes(value: Any, name: str) -> None:
    """A field added without a new fixture would go unread for ever."""
    assert FORMAT == 1, "keep the old fixtures, and add those of the new format"
    assert to_json(value) == (DATA / f"{name}-v1.json").read_bytes()


@pytest.mark.parametrize("cls", [JobRecord, JobSpec])
def test_newer_format_is_refused_with_path_and_number(cls: Any) -> None:
    data = _with(to_json(EXAMPLES[cls]), format=FORMAT + 41)

    with pytest.raises(RecordError, match=f"format {FORMAT + 41}") as caught:
        from_json(cls, data, PATH)

    assert caught.value.path == PATH
    assert str(PATH) in str(caught.value)


def test_newer_format_is_refused_whatever_else_changed() -> None:
    data = json.dumps({"format": FORMAT + 1, "state": "dreaming"}).encode()
    with pytest.raises(RecordError, match=f"format {FORMAT + 1}"):
        from_json(JobRecord, data, PATH)


def test_keys_of_a_later_minor_addition_are_ignored() -> None:
    data = _with(to_json(RECORD_V1), colour="blue")
    assert from_json(JobRecord, data, PATH) == RECORD_V1


def test_record_without_the_optional_fields_reads() -> None:
    least = {"format": 1, "job_id": "x", "state": "running", "created_at": "2026-01-01T00:00+00:00"}
    record = from_json(JobRecord, json.dumps(least).encode(), PATH)
    assert (record.state, record.survivors, record.exit_code) == (JobState.RUNNING, (), None)


@pytest.mark.parametrize("cls", [JobRecord, JobSpec])
def test_every_torn_document_is_damaged(cls: Any) -> None:
    whole = to_json(EXAMPLES[cls]).rstrip()
    for length in range(len(whole)):
        with pytest.raises(RecordError, match="damaged"):
            from_json(cls, whole[:length], PATH)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 512, b"null", b"[]", b"1", b'"x"', b"{}", b"{" * 100_000, b"\xff\xfe", b"NaN"],
)
def test_other_documents_are_damaged(data: bytes) -> None:
    with pytest.raises(RecordError, match=str(PATH)):
        from_json(JobRecord, data, PATH)


DAMAGE: list[dict[str, Any]] = [
    {"format": None},
    {"format": "1"},
    {"format": "2"},
    {"format": 0},
    {"format": True},
    {"job_id": None},
    {"job_id": 7},
    {"state": "dreaming"},
    {"state": None},
    {"state": ["ended"]},
    {"outcome": "fine"},
    {"reason": 7},
    {"exit_code": "0"},
    {"exit_code": 0.0},
    {"signal": "TERM"},
    {"signal": 9.5},
    {"signal": -9},
    {"stop_cause": "whim"},
    {"created_at": None},
    {"created_at": "yesterday"},
    {"created_at": "2026-11-22T17:50:43"},
    {"ended_at": 1763833843},
    {"command": 7055},
    {"command": {"pid": 7055}},
    {"command": {"pid": "7055", "token": "x"}},
    {"command": {"pid": 7055, "token": None}},
    {"command": {"pid": -1, "token": "x"}},
    {"command": {"pid": 0, "token": "x"}},
    {"monitor": {"pid": 7054, "token": "x", "colour": "blue"}},
    {"usage": {"cpu_seconds": "much", "peak_rss_bytes": 1}},
    {"survivors": 7},
    {"survivors": ["passwd"]},
    {"survivors": {"pid": 7}},
    {"proved": "yes"},
    {"adoptions": None},
    {"sequence": "3"},
    {"note": []},
]


@pytest.mark.parametrize("change", DAMAGE, ids=json.dumps)
def test_field_of_the_wrong_kind_is_damage(change: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match=str(PATH)):
        from_json(JobRecord, _with(to_json(RECORD_V1), **change), PATH)


@pytest.mark.parametrize("field", ["format", "job_id", "state", "created_at"])
def test_missing_field_is_damage(field: str) -> None:
    fields = json.loads(to_json(RECORD_V1))
    del fields[field]
    with pytest.raises(RecordError, match="damaged"):
        from_json(JobRecord, json.dumps(fields).encode(), PATH)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from([*fields_of(JobRecord), "format"])


@given(field=FIELDS, value=JSON)
def test_whatever_a_field_becomes_reading_is_a_record_or_a_record_error(
    field: str, value: object
) -> None:
    try:
        record = from_json(JobRecord, _with(to_json(RECORD_V1), **{field: value}), PATH)
    except RecordError:
        return
    assert from_json(JobRecord, to_json(record), PATH) == record


@given(data=st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_a_file_holds_reading_is_a_record_or_a_record_error(data: bytes) -> None:
    for cls in EXAMPLES:
        with pytest.raises(RecordError):
            from_json(cls, data, PATH)


TIMES = st.datetimes(timezones=st.just(timezone.utc))
IDENTITIES = st.builds(ProcessIdentity, st.integers(1, 1 << 22), st.text(max_size=40))
NUMBERS = st.integers(0, 1 << 62)
RECORDS = st.builds(
    JobRecord,
    job_id=st.text(min_size=1, max_size=26),
    state=st.sampled_from(JobState),
    created_at=TIMES,
    outcome=st.none() | st.sampled_from(Outcome),
    reason=st.none() | st.text(max_size=20),
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.sampled_from(range(1, 65)),
    stop_cause=st.none() | st.sampled_from(StopCause),
    started_at=st.none() | TIMES,
    ended_at=st.none() | TIMES,
    command=st.none() | IDENTITIES,
    monitor=st.none() | IDENTITIES,
    usage=st.none() | st.builds(Usage, st.floats(0, 1e9), NUMBERS),
    survivors=st.lists(
        st.builds(Survivor, NUMBERS, st.text(max_size=15), NUMBERS, st.just("S"), st.none()),
        max_size=3,
    ),
    proved=st.none() | st.booleans(),
    adoptions=NUMBERS,
    output_bytes=NUMBERS,
    output_lost_bytes=NUMBERS,
    note=st.none() | st.text(max_size=20),
    sequence=NUMBERS,
)


@given(record=RECORDS)
def test_record_survives_the_way_through_json(record: JobRecord) -> None:
    assert from_json(JobRecord, to_json(record), PATH) == record


WORDS = st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=20
)
STEPS = st.builds(
    StopStep, st.sampled_from([1, 2, 3, 10, 15, 34]), st.floats(0, 1e6, allow_nan=False)
)
PLANS = st.lists(STEPS, max_size=4).map(lambda steps: StopPlan((*steps, StopStep(SIGKILL))))
SPECS = st.builds(
    JobSpec,
    argv=st.lists(WORDS, min_size=1, max_size=4),
    name=st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
    cwd=st.none() | WORDS,
    stdin=st.sampled_from(Stdin),
    timeout=st.none() | st.floats(0, 1e9),
    stop=PLANS,
    output_limit=st.none() | st.integers(MIN_OUTPUT_LIMIT, 1 << 60),
    labels=st.dictionaries(st.from_regex(r"[^=\0]+", fullmatch=True), st.text(), max_size=3),
    owner=st.none() | IDENTITIES,
)


@given(spec=SPECS)
def test_spec_survives_the_way_through_json(spec: JobSpec) -> None:
    assert from_json(JobSpec, to_json(spec), PATH) == spec


def test_json_is_one_line() -> None:
    assert to_json(RECORD_V1).count(b"\n") == 1
    assert to_json(RECORD_V1).endswith(b"}\n")


# -- records -----------------------------------------------------------------


def test_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="no zone"):
        JobRecord("x", JobState.RUNNING, created_at=datetime(2026, 1, 1))


def test_time_of_another_zone_keeps_its_moment() -> None:
    there = timezone(timedelta(hours=5))
    record = JobRecord("x", JobState.RUNNING, created_at=datetime(2026, 1, 1, tzinfo=there))
    again = from_json(JobRecord, to_json(record), PATH)
    assert again.created_at == datetime(2025, 12, 31, 19, tzinfo=timezone.utc)


@pytest.mark.parametrize("cls", [JobRecord, JobSpec, StopPlan, StopStep, ProcessIdentity])
def test_they_are_frozen(cls: Any) -> None:
    values = {
        JobRecord: RECORD_V1,
        JobSpec: SPEC_V1,
        StopPlan: SPEC_V1.stop,
        StopStep: SPEC_V1.stop.steps[0],
        ProcessIdentity: RECORD_V1.command,
    }
    name = fields_of(cls)[0]
    with pytest.raises(AttributeError, match="frozen"):
        setattr(values[cls], name, None)


# -- specs -------------------------------------------------------------------

WRONG: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (ValueError, "empty", {"argv": []}),
    (ValueError, "empty", {"argv": [""]}),
    (TypeError, "list of strings", {"argv": "ls -l"}),
    (TypeError, "bash", {"argv": "ls -l"}),
    (TypeError, "list of strings", {"argv": b"ls"}),
    (TypeError, "argv", {"argv": None}),
    (TypeError, "argv", {"argv": [1]}),
    (TypeError, "argv", {"argv": 7}),
    (ValueError, "NUL", {"argv": ["ls\0"]}),
    (ValueError, "NUL", {"argv": ["ls", "a\0b"]}),
    (ValueError, "NUL", {"cwd": "/tmp\0"}),
    (ValueError, "name", {"name": ""}),
    (ValueError, "name", {"name": "a/b"}),
    (ValueError, "name", {"name": ".hidden"}),
    (ValueError, "name", {"name": ".."}),
    (ValueError, "name", {"name": "x" * 65}),
    (ValueError, "name", {"name": "new\n"}),
    (ValueError, "name", {"name": 7}),
    (ValueError, "timeout", {"timeout": -1}),
    (ValueError, "timeout", {"timeout": math.inf}),
    (ValueError, "timeout", {"timeout": math.nan}),
    (TypeError, "timeout", {"timeout": "5"}),
    (TypeError, "timeout", {"timeout": True}),
    (ValueError, "variable", {"env_names": ("A=B",)}),
    (ValueError, "variable", {"env_names": ("",)}),
    (ValueError, "NUL", {"env_names": ("A\0",)}),
    (ValueError, "stop plan", {"stop": "TERM 5"}),
    (TypeError, "StopPlan", {"stop": 5}),
    (ValueError, "lifetime must be one of 'persist', 'owner'", {"lifetime": "for ever"}),
    (ValueError, "leftovers must be one of", {"leftovers": None}),
    (ValueError, "output_limit", {"output_limit": MIN_OUTPUT_LIMIT - 1}),
    (ValueError, "output_limit", {"output_limit": -1}),
    (ValueError, "output_limit", {"output_limit": 1e9}),
    (ValueError, "output_limit", {"output_limit": True}),
    (ValueError, "on_output_limit must be one of 'trim', 'kill'", {"on_output_limit": "drop"}),
    (ValueError, "label", {"labels": {"": "x"}}),
    (ValueError, "label", {"labels": {"a=b": "x"}}),
    (ValueError, "label", {"labels": {"a": 7}}),
    (ValueError, "4096", {"labels": {"a": "x" * 4096}}),
]


@pytest.mark.parametrize(("error", "match", "fields"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_argument_is_named(
    error: type[Exception], match: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(error, match=match):
        JobSpec(**{"argv": ["true"], **fields})


def test_argv_takes_paths_and_bytes() -> None:
    assert JobSpec([Path("/bin/ls"), b"caf\xe9"]).argv == ("/bin/ls", "caf\udce9")


# -- stop plans --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("KILL", [(SIGKILL, 0)]),
        ("TERM 10, KILL", [(SIGTERM, 10), (SIGKILL, 0)]),
        ("INT 5, TERM 10, KILL", [(SIGINT, 5), (SIGTERM, 10), (SIGKILL, 0)]),
        (" sigint 5s,SIGTERM 0.5s , 9 ", [(SIGINT, 5), (SIGTERM, 0.5), (SIGKILL, 0)]),
        ("TERM, KILL", [(SIGTERM, 0), (SIGKILL, 0)]),
        ("40 1, KILL", [(40, 1), (SIGKILL, 0)]),
    ],
)
def test_plan_is_parsed(text: str, steps: list[tuple[int, float]]) -> None:
    assert StopPlan.parse(text) == StopPlan(tuple(StopStep(*step) for step in steps))


@given(plan=PLANS)
def test_plan_as_text_is_parsed_to_itself(plan: StopPlan) -> None:
    short = StopPlan(tuple(StopStep(step.signal, float(f"{step.grace:g}")) for step in plan.steps))
    assert StopPlan.parse(str(short)) == short


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "bad step"),
        ("TERM 10", "ends with KILL"),
        ("KILL, TERM 10", "ends with KILL"),
        ("KILL, KILL", "ends with KILL"),
        ("STOP 1, KILL", "SIGSTOP"),
        ("CONT 1, KILL", "SIGSTOP"),
        ("NOPE 1, KILL", "no signal"),
        ("TERM soon, KILL", "bad step 'TERM soon'"),
        ("TERM -1, KILL", "finite"),
        ("TERM inf, KILL", "finite"),
        ("TERM nan, KILL", "finite"),
        ("TERM 1,, KILL", "bad step"),
        ("0 1, KILL", "no signal"),
        ("65 1, KILL", "no signal"),
    ],
)
def test_bad_plan_is_refused(text: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        StopPlan.parse(text)


def test_plan_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="ends with KILL"):
        StopPlan(())


def test_grace_is_a_plan() -> None:
    assert str(StopPlan.with_grace(3)) == "TERM 3, KILL"
    assert str(StopPlan.with_grace(0)) == "KILL"
    assert StopPlan.parse("INT 5, TERM 10, KILL").grace == 15


@pytest.mark.parametrize("word", ["TERM", "term", "SIGTERM", "SigTerm", "15", 15, SIGTERM])
def test_signal_goes_by_name_and_number(word: str | int) -> None:
    assert parse_signal(word) is SIGTERM


@pytest.mark.parametrize("word", ["", "SIG", "NOPE", "0", "65", "-1", -1, 0, 65, "²", "SIG_DFL"])
def test_no_such_signal(word: str | int) -> None:
    with pytest.raises(ValueError, match=r"signal|digit|int"):
        parse_signal(word)


def test_signals_of_the_c_library_are_refused() -> None:
    """No process can be asked with 32 and 33: glibc keeps them for its threads."""
    with pytest.raises(ValueError, match="no signal"):
        parse_signal(32)


def test_signal_has_a_short_name() -> None:
    assert [signal_name(number) for number in (15, 9, 40)] == ["TERM", "KILL", "40"]
    assert parse_signal(40) == 40
    assert isinstance(parse_signal(15), Signals)


def _with(document: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(document), **changes}).encode()
