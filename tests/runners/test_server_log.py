"""Logs of servers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runners.server_log import Redactor, log_lines

NOTHING = Redactor(())


@given(st.binary())
def test_any_bytes_become_short_printable_lines(content: bytes) -> None:
    for line in log_lines(content, NOTHING):
        assert line.strip()
        assert len(line) <= 501
        assert "\x1b" not in line
        assert "\x00" not in line


@given(st.text(), st.text(alphabet="abcdef0123456789", min_size=6), st.text())
def test_secret_value_never_passes(before: str, secret: str, after: str) -> None:
    redact = Redactor.of({"HF_TOKEN": secret})
    assert secret not in redact(before + secret + after)


def test_secrets_are_known_by_their_names() -> None:
    environment = {
        "AWS_SECRET_ACCESS_KEY": "aws-secret",
        "api_key": "api-secret",
        "DB_PASSWORD": "db-secret",
        "TOKENIZERS_PARALLELISM": "disabled",
        "MAX_TOKENS": "1048576",
        "HF_TOKEN": "none",
    }
    assert set(Redactor.of(environment).secrets) == {"aws-secret", "api-secret", "db-secret"}


def test_progress_bar_is_kept_as_it_was_drawn_last() -> None:
    content = b"\x1b[32mloading\x1b[0m\n 10%|#   |\r 60%|##  |\r100%|####|\r\n\nready\r\n"
    assert log_lines(content, NOTHING) == ("loading", "100%|####|", "ready")
