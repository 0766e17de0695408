"""Places: a query goes with the folder wherever it goes, and no credential is taken."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysparse.files import Folder
from raysparse.location import Location
from raysparse.run_folder import RunFolder

QUERY = "region=eu-west-1&scheme=http&endpoint_override=127.0.0.1:9"
NAMES = st.lists(st.from_regex(r"[A-Za-z0-9._ =&%-]{1,8}", fullmatch=True), min_size=1, max_size=4)


@settings(max_examples=50, deadline=None)
@given(NAMES, st.sampled_from(["", QUERY]))
def test_a_child_is_a_longer_path_before_the_same_query(names, query):
    place = Location.parse("s3://bucket/runs" + (f"?{query}" if query else ""))
    child = place.child(*names)
    assert child.path == "/".join(["s3://bucket/runs", *names])
    assert child.query == query
    assert Location.parse(str(child)) == child, "what is printed can be given back"
    assert child.name == names[-1]
    for _ in names:
        child = child.parent
    assert child == place


def test_a_bucket_is_its_own_parent_and_paths_end_at_the_root():
    assert str(Location.parse(f"s3://bucket?{QUERY}").parent) == f"s3://bucket?{QUERY}"
    assert [Location.parse(path).parent.path for path in ("runs/grid", "grid", "/a/", "/")] == ["runs", ".", "/", "/"]


def test_a_run_folder_finds_its_parts_beside_a_query():
    run = RunFolder.named(Folder(f"s3://bucket/runs?{QUERY}"), "grid")
    assert run.uri == f"s3://bucket/runs/grid?{QUERY}"
    assert (run.name, run.storage.uri) == ("grid", f"s3://bucket/runs?{QUERY}")
    assert run.trial("abc").root == "bucket/runs/grid/trials/abc"
    assert run.curves_command == (
        "AWS_DEFAULT_REGION=eu-west-1 S3_ENDPOINT=http://127.0.0.1:9 tensorboard --logdir s3://bucket/runs/grid/trials"
    )
    with pytest.raises(ValueError, match="a question mark begins the query"):
        run.trial("a?b")


def test_a_command_to_copy_holds_a_path_with_blanks_together():
    run = RunFolder.named(Folder("/my runs"), "grid")
    assert run.curves_command == "tensorboard --logdir '/my runs/grid/curves'"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://AKIA:hunter2@bucket/run", "s3://...@bucket/run holds credentials"),
        ("s3://AKIA@bucket/run", "s3://...@bucket/run holds credentials"),
        ("abfs://account:hunter2@host/run", "abfs://...@host/run holds credentials"),
        ("s3://bucket/run?secret_key=hunter2", "a credential in its query (secret_key)"),
        ("gs://bucket/run?X-Goog-Signature=hunter2", "a credential in its query (X-Goog-Signature)"),
        ("s3://bucket/run?endpoint_override=http://me:hunter2@host", "a credential in endpoint_override"),
    ],
)
def test_credentials_in_a_uri_are_refused_with_the_remedy_and_not_repeated(uri, shown):
    with pytest.raises(ValueError, match="credential") as refused:
        Folder(uri)
    assert shown in str(refused.value)
    assert "AWS_ACCESS_KEY_ID" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_what_nobody_knows_in_a_query_is_named():
    with pytest.raises(ValueError, match=r"has 'endpoint' in its query, expected region, endpoint_override, scheme"):
        Folder("s3://bucket/run?endpoint=127.0.0.1:9")
    with pytest.raises(ValueError, match="names no bucket"):
        Folder("s3:///run")


def test_a_path_with_a_question_mark_is_a_path(tmp_path):
    folder = Folder(tmp_path / "what?").child("a?b")
    folder.write("c", b"1")
    assert (tmp_path / "what?" / "a?b" / "c").read_bytes() == b"1"
