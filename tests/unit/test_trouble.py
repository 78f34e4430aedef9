"""The kind of a database's error: by PostgreSQL's code if there is one, else by its sentence."""

import sqlite3
import ssl

import psycopg
import pytest
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from config.settings import SettingsError
from config.trouble import trouble_of
from handlers.queue.failures import NotNowError


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (psycopg.errors.InvalidTextRepresentation('malformed array literal: "x"'), "failed"),
        (psycopg.errors.UndefinedFunction("operator does not exist: text = integer"), "failed"),
        (psycopg.errors.InsufficientPrivilege("permission denied for table x"), "not granted"),
        (psycopg.errors.AdminShutdown("terminating connection"), "not ready"),
        (psycopg.errors.QueryCanceled("canceling statement due to statement timeout"), "too slow"),
        (psycopg.errors.DeadlockDetected("deadlock detected"), "locked"),
        (psycopg.OperationalError("fe_sendauth: no password supplied"), "refused"),
        (
            psycopg.OperationalError("failed: FATAL:  53300: schon zu viele\nLOCATION:  InitProcess"),
            "no connection free",
        ),
        (psycopg.OperationalError("a: failed: refused\n- a: refused\n- b: FATAL :  28000: rôle inconnu"), "refused"),
        (psycopg.errors.ProtocolViolation("no such database: x"), "no database"),
        (psycopg.OperationalError("FATAL:  08P01: query_wait_timeout"), "no connection in time"),
        (psycopg.errors.ConnectionTimeout("connection timeout expired"), "no answer"),
        (psycopg.OperationalError("the server has said nothing for too long"), "no answer"),
        (TimeoutError(), "no answer"),
        (NotNowError("no answer in time"), "no answer"),
        (psycopg.OperationalError("connection failed: permission denied, is locked"), "unreachable"),
        (psycopg.OperationalError("connection failed: SSL error: certificate verify failed"), "not trusted"),
        (psycopg.OperationalError('certificate for "a" does not match host name "b"'), "not trusted"),
        (psycopg.OperationalError("server does not support SSL, but SSL was required"), "not trusted"),
        (psycopg.errors.ProgramLimitExceeded("index row size 2800 exceeds btree maximum"), "failed"),
        (psycopg.errors.ProgramLimitExceeded("database is not accepting commands to avoid wraparound"), "no numbers"),
        (psycopg.OperationalError('failed: private key file "x" has group or world access'), "TLS files"),
        (
            psycopg.OperationalError('failed: could not load private key file "x": key values mismatch'),
            "TLS files",
        ),
        (ssl.SSLError("[X509: KEY_VALUES_MISMATCH] key values mismatch"), "TLS files"),
        (psycopg.OperationalError("failed: session is read-only"), "read-only"),
        (SettingsError("DATABASE_URL has values"), "settings"),
        (sqlite3.DatabaseError("database disk image is malformed"), "damaged"),
        (sqlite3.OperationalError("database is locked"), "locked"),
        (sqlite3.OperationalError('near "SELEC": syntax error'), "failed"),
        (sqlite3.OperationalError("too many connections for role"), "failed"),
        (PoolTimeoutError("of a pool"), "unreachable"),
    ],
)
def test_the_words_of_one_database_say_nothing_of_the_other(error: Exception, word: str) -> None:
    assert trouble_of(error).word == word
    assert trouble_of(error).sentence


def test_a_pooler_that_takes_no_transactions_is_said_to() -> None:
    error = psycopg.errors.ProtocolViolation("transaction blocks not allowed in statement pooling mode")
    assert trouble_of(error).sentence.endswith("set pool_mode to transaction")
    assert "pool_mode" not in trouble_of(psycopg.errors.ProtocolViolation("server login failed")).sentence
