"""A server listens where it was told, and knows by which names it may be called."""

from __future__ import annotations

import socket

import pytest

from mmembed.apps.listening import LOOPBACK, AddressError, bind, is_called, is_loopback, own_names, shown_address


def test_what_is_this_machine_alone() -> None:
    for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost"):
        assert is_loopback(host) and own_names(host) == LOOPBACK, host
    for host in ("0.0.0.0", "::", "192.168.1.2", "", "localhost.evil.example", "127.0.0.1.evil.example", "127.1"):
        assert not is_loopback(host) and own_names(host) is None, host


@pytest.mark.security
def test_a_name_that_leads_here_is_not_a_name_of_its_own() -> None:
    for header in ("127.0.0.1", "127.0.0.1:80", "localhost:7860", "LOCALHOST", "[::1]", "[::1]:9"):
        assert is_called(header, LOOPBACK), header
    for header in (
        "",
        ":7860",
        "evil.example",
        "127.0.0.1.evil.example:80",
        "localhost:80:80",
        "127.0.0.1@evil.example",
    ):
        assert not is_called(header, LOOPBACK), header
        assert is_called(header, None)


def test_a_port_that_is_taken_or_none_is_said() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        first.listen()
        assert shown_address("127.0.0.1", first) == f"http://127.0.0.1:{port}"
        assert shown_address("::1", first) == f"http://[::1]:{port}"
        with pytest.raises(AddressError, match=f"cannot listen at 127.0.0.1, port {port}: .*in use"):
            bind("127.0.0.1", port)
    with bind("127.0.0.1", port) as again:  # it is free at once
        assert isinstance(again, socket.socket)
    for wrong in (-1, 65_536):
        with pytest.raises(AddressError, match="a number from 0 to 65535"):
            bind("127.0.0.1", wrong)
    with pytest.raises(AddressError, match="cannot listen at 198.51.100.7"):
        bind("198.51.100.7", 0)  # of no machine: a block for documentation
