"""What a URL shows, what it names, and which ones are refused."""

from pathlib import Path

import pytest
from messages import refusal

from scone_cli.corpus.urls import Url, corpus_of, without_secrets
from scone_cli.errors import BadSetting

SIGNED = "https://host/a/b.jsonl?X-Amz-Signature=abc123&X-Amz-Credential=AKIA%2Fx&id=7#part"


def test_a_url_keeps_its_slashes_and_a_path_stays_a_path():
    assert corpus_of("s3://bucket/a") == Url("s3://bucket/a")
    assert corpus_of("S3://bucket/a").scheme == "s3"
    for path in ("s3:/bucket", "a/b", "./s3://b", "-", "C:x"):
        assert corpus_of(path) == Path(path)


def test_no_value_of_a_query_is_shown():
    url = Url(SIGNED)
    assert str(url) == "https://host/a/b.jsonl?X-Amz-Signature=…&X-Amz-Credential=…&id=…"
    assert str(Url("https://host/a?hunter2")) == "https://host/a?…"
    assert not any(secret in f"{url!r} {url}" for secret in ("abc123", "AKIA", "7"))
    assert url.full == SIGNED


def test_a_url_that_was_signed_again_names_the_same_file():
    again = Url(SIGNED.replace("abc123", "xyz"))
    assert again.identity == Url(SIGNED).identity
    assert Url(SIGNED.replace("id=7", "id=8")).identity != Url(SIGNED).identity
    assert Url("s3://b/x").identity != Url("gs://b/x").identity


@pytest.mark.parametrize(
    ("text", "fixed", "name"),
    [
        ("s3://b/data/**/*.jsonl", "s3://b/data", "data"),
        ("s3://b/data/", "s3://b/data/", "data"),
        ("gs://b/*", "gs://b", "b"),
        ("hf://datasets/me/data/x.parquet", "hf://datasets/me/data/x.parquet", "x.parquet"),
        ("https://h/a[1].txt?x=*", "https://h/a[1].txt?x=*", "a[1].txt"),
        ("https://h:80", "https://h:80", "h:80"),
    ],
)
def test_the_part_before_a_wildcard_and_its_name(text, fixed, name):
    Url(text).check()
    assert (Url(text).fixed, Url(text).name) == (Url(fixed), name)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("ftp://host/a", ("ftp://", "s3://", "https://")),
        ("s3://AKIAX:hunter2@bucket/a", ("user", "password", "bucket")),
        ("https://me:hunter2@host/a", ("user", "password", "host")),
        ("https://hunter2@host/a", ("user", "host")),
        ("s3://bucket/a?X-Amz-Signature=hunter2", ("query", "s3://bucket/a")),
        ("s3://", ("bucket",)),
        ("s3://*/a", ("bucket",)),
        ("https://host/*.txt", ("pattern", "https://host/*.txt")),
    ],
)
def test_what_cannot_be_a_corpus_is_refused_without_its_secret(text, facts):
    with refusal(BadSetting, *facts) as caught:
        Url(text).check()
    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"


def test_messages_of_libraries_lose_their_secrets():
    said = "403, message='Forbidden', url='https://me:pw1@host/a?X-Amz-Signature=abc&token=hunter2'"
    assert without_secrets(said) == "403, message='Forbidden', url='https://…@host/a?…'"
